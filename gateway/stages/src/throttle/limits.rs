//! A plan's limits, sorted by the requests that they count, as a snapshot holds them.

use http::HeaderValue;
use model::document::LimitScope;
use model::id::{LimitId, RouteId};
use model::quota::{Limit, fields};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The limits of one plan.
#[derive(Debug, Default)]
pub struct PlanLimits {
    all: LimitSet,
    /// Of routes that no limit names.
    elsewhere: LimitSet,
    of_routes: HashMap<RouteId, LimitSet>,
    scopes: HashMap<LimitId, LimitScope>,
}

/// What a limit counts that does not count every request.
#[derive(Clone, Debug)]
pub struct Scoped {
    /// As the document says it.
    pub scope: LimitScope,
    /// The routes that this means.
    pub routes: HashSet<RouteId>,
}

/// The limits that are decided together.
#[derive(Clone, Debug, Default)]
pub struct LimitSet {
    /// In the plan's order.
    pub limits: Arc<[Arc<Limit>]>,
    /// `RateLimit-Policy` of those that refuse; none when nothing does.
    pub policy: Option<HeaderValue>,
}

impl PlanLimits {
    /// These limits; those that count the requests of some routes only come with what they count.
    pub fn new(limits: Vec<(Arc<Limit>, Option<Scoped>)>) -> Self {
        let scoped = || limits.iter().filter_map(|(limit, scoped)| Some((limit, scoped.as_ref()?)));
        let of = |route: Option<&RouteId>| {
            let counts = |scoped: &Option<Scoped>| match (scoped, route) {
                (None, _) => true,
                (Some(scoped), Some(route)) => scoped.routes.contains(route),
                (Some(_), None) => false,
            };
            let applying = limits.iter().filter(|(_, scoped)| counts(scoped));
            LimitSet::new(applying.map(|(limit, _)| limit.clone()).collect())
        };
        let named: HashSet<&RouteId> = scoped().flat_map(|(_, scoped)| &scoped.routes).collect();
        let scopes = scoped().map(|(limit, scoped)| (limit.id.clone(), scoped.scope.clone()));
        Self {
            all: LimitSet::new(limits.iter().map(|(limit, _)| limit.clone()).collect()),
            elsewhere: of(None),
            of_routes: named.into_iter().map(|route| (route.clone(), of(Some(route)))).collect(),
            scopes: scopes.collect(),
        }
    }

    /// Those of this route.
    pub fn of_route(&self, route: &RouteId) -> &LimitSet {
        self.of_routes.get(route).unwrap_or(&self.elsewhere)
    }

    /// Every limit of the plan.
    pub fn all(&self) -> &Arc<[Arc<Limit>]> {
        &self.all.limits
    }

    /// `RateLimit-Policy` of a request for this route; for the gateway's own endpoints, of the whole plan. None when nothing
    /// refuses.
    pub fn policy(&self, route: Option<&RouteId>) -> Option<&HeaderValue> {
        route.map_or(&self.all, |route| self.of_route(route)).policy.as_ref()
    }

    /// What this limit counts, if it does not count every request.
    pub fn scope(&self, limit: &LimitId) -> Option<&LimitScope> {
        self.scopes.get(limit)
    }
}

impl LimitSet {
    fn new(limits: Arc<[Arc<Limit>]>) -> Self {
        let policy = fields::policy(limits.iter().map(|limit| &**limit));
        Self { limits, policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::quota::{Kind, LimitMode, OnStoreError, Per};

    fn limit(id: &str, mode: LimitMode) -> Arc<Limit> {
        Arc::new(Limit {
            id: id.into(),
            kind: Kind::Concurrency(1),
            per: Per::Tenant,
            exact: false,
            mode,
            on_store_error: OnStoreError::Open,
        })
    }

    fn scoped(routes: &[&str]) -> Option<Scoped> {
        let scope = LimitScope { route: None, service: Some("contacts".into()) };
        Some(Scoped { scope, routes: routes.iter().map(|route| (*route).into()).collect() })
    }

    #[test]
    fn a_route_has_the_limits_that_count_it_in_the_plans_order() {
        let enforce = LimitMode::Enforce;
        let plan = PlanLimits::new(vec![
            (limit("reads", enforce), scoped(&["list", "read"])),
            (limit("all", enforce), None),
            (limit("lists", enforce), scoped(&["list"])),
            (limit("tried", LimitMode::Observe), scoped(&["delete"])),
            (limit("nothing", enforce), scoped(&[])),
        ]);
        for (route, limits, policy) in [
            ("list", &["reads", "all", "lists"][..], &["reads", "all", "lists"][..]),
            ("read", &["reads", "all"], &["reads", "all"]),
            ("delete", &["all", "tried"], &["all"]),
            ("create", &["all"], &["all"]),
        ] {
            let route = route.into();
            let of_route: Vec<_> =
                plan.of_route(&route).limits.iter().map(|limit| limit.id.as_str()).collect();
            assert_eq!(of_route, limits, "{route}");
            let told = policy.iter().map(|id| format!("\"{id}\";q=1;qu=\"concurrent-requests\""));
            let told = told.collect::<Vec<_>>().join(", ");
            assert_eq!(plan.policy(Some(&route)).unwrap(), told.as_str(), "{route}");
        }
        assert_eq!(plan.all().len(), 5);
        assert!(plan.policy(None).unwrap().to_str().unwrap().contains("nothing"));
        assert!(plan.scope(&"lists".into()).is_some() && plan.scope(&"all".into()).is_none());
    }

    #[test]
    fn where_nothing_refuses_there_is_no_policy() {
        let plan = PlanLimits::new(vec![(limit("tried", LimitMode::Observe), None)]);
        assert_eq!((plan.policy(None), plan.policy(Some(&"list".into()))), (None, None));
        assert_eq!(PlanLimits::default().policy(None), None);
    }
}
