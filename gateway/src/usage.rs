//! What tenants use, for operators: every limit of a tenant's plan as it stands, and setting it back.

use crate::gateway::Gateway;
use async_trait::async_trait;
use model::document::LimitScope;
use model::id::{ConsumerId, LimitId, TenantId};
use model::port::StoreError;
use model::quota::{Counted, CounterKey, Demand, Limit, Part, Per, PermitId, Reading, fields};
use model::usage::{Usage, UsageError, UsageOf};
use stages::authenticate::Tenant;
use std::sync::Arc;

/// Counters that are read or set back in one step: a tenant may have many consumers, and others wait for a store that looks
/// at them all.
const LOOKED_AT_ONCE: usize = 256;

#[async_trait]
impl UsageOf for Gateway {
    async fn usage(&self, tenant: &TenantId) -> Result<Vec<Usage>, UsageError> {
        self.read(&self.listed(tenant, None)?).await
    }

    async fn reset(
        &self,
        tenant: &TenantId,
        limit: Option<&LimitId>,
    ) -> Result<Vec<Usage>, UsageError> {
        let listed = self.listed(tenant, limit)?;
        let before = self.read(&listed).await?;
        for demand in &listed.demands {
            self.quotas.reset(demand, self.clock.micros()).await?;
        }
        Ok(before)
    }
}

impl Gateway {
    /// The counters that are listed of a tenant, or those of one limit.
    fn listed(&self, id: &TenantId, only: Option<&LimitId>) -> Result<Listed, UsageError> {
        let snapshot = self.live.pin().ok_or(UsageError::UnknownTenant)?;
        let tenant = snapshot.directory.tenant(id).ok_or(UsageError::UnknownTenant)?;
        let limits = match only {
            None => tenant.limits.all().iter().collect(),
            Some(only) => vec![one(tenant, only)?],
        };
        let counted = |limit: &Arc<Limit>| {
            let limit = limit.clone();
            parts(tenant, limit.per).into_iter().map(move |part| Counted {
                key: CounterKey { limit: limit.id.clone(), part },
                limit: limit.clone(),
            })
        };
        let counters: Vec<Counted> = limits.into_iter().flat_map(counted).collect();
        let demand = |limits: &[Counted]| Demand {
            permit: PermitId(0),
            tenant: tenant.id.clone(),
            calendar: tenant.calendar.clone(),
            cost: 1,
            costs_later: false,
            permit_ttl: 0,
            limits: limits.to_vec(),
        };
        let demands = counters.chunks(LOOKED_AT_ONCE).map(demand).collect();
        Ok(Listed { tenant: tenant.clone(), demands })
    }

    async fn read(&self, listed: &Listed) -> Result<Vec<Usage>, UsageError> {
        let limits = &listed.tenant.limits;
        let mut usage = Vec::new();
        for demand in &listed.demands {
            let readings = self.quotas.peek(demand, self.clock.micros()).await?;
            // What one node counts alone is not what the tenant uses.
            if readings.iter().any(|reading| reading.degraded.is_some()) {
                let away = "the shared counters do not answer, and each node counts alone";
                return Err(StoreError::Unavailable(away.to_owned()).into());
            }
            let read = demand.limits.iter().zip(readings);
            usage.extend(read.map(|(counted, reading)| {
                shown(&counted.key.part, limits.scope(&reading.id).cloned(), reading)
            }));
        }
        Ok(usage)
    }
}

/// The counters of a tenant that are listed.
struct Listed {
    tenant: Arc<Tenant>,
    /// As demands that are only looked at, in the order of the plan.
    demands: Vec<Demand>,
}

/// A limit of the tenant's plan whose counters are listed.
fn one<'a>(tenant: &'a Tenant, id: &LimitId) -> Result<&'a Arc<Limit>, UsageError> {
    let found = tenant.limits.all().iter().find(|limit| limit.id == *id);
    let limit = found.ok_or(UsageError::UnknownLimit)?;
    match limit.per {
        Per::Tenant | Per::Consumer => Ok(limit),
        Per::Credential | Per::Ip => Err(UsageError::Unlisted),
    }
}

/// Who has a counter of such a limit, as far as the document tells: consumers by name.
fn parts(tenant: &Tenant, per: Per) -> Vec<Part> {
    match per {
        Per::Tenant => vec![Part::Tenant],
        Per::Consumer => {
            let mut consumers: Vec<&ConsumerId> = tenant.consumers.keys().collect();
            consumers.sort_unstable();
            consumers.into_iter().cloned().map(Part::Consumer).collect()
        }
        Per::Credential | Per::Ip => Vec::new(),
    }
}

fn shown(part: &Part, scope: Option<LimitScope>, reading: Reading) -> Usage {
    let consumer = match part {
        Part::Consumer(consumer) => Some(consumer.clone()),
        Part::Tenant | Part::Credential(..) | Part::Ip(_) => None,
    };
    Usage {
        id: reading.id,
        consumer,
        scope,
        mode: reading.mode,
        used: reading.used,
        limit: reading.limit,
        remaining: reading.remaining,
        reset: reading.reset_after.map(fields::whole_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{document, gateway, store};
    use model::config;
    use model::quota::{LimitMode, Settlement};
    use stages::throttle::Permit;

    /// A gateway with a document in force, whose tenant has limits of every kind.
    async fn node() -> (Arc<Gateway>, tempfile::TempDir) {
        let (store, folder) = store().await;
        let gateway = gateway(&store, "a", folder.path());
        let config = config::read(&document(1)).unwrap();
        let compiled = gateway.compile(Arc::new(config)).unwrap();
        gateway.put_in_force(compiled, 1);
        (gateway, folder)
    }

    /// Charges what a request of the consumer `a` is charged.
    async fn charge(gateway: &Gateway, permit: u128, cost: u32) -> Permit {
        let mut demand = gateway.listed(&"acme".into(), None).unwrap().demands.remove(0);
        demand.limits.retain(|counted| counted.key.part != Part::Consumer("b".into()));
        let demand = Demand { permit: PermitId(permit), cost, permit_ttl: 60_000_000, ..demand };
        gateway.quotas.reserve(&demand, gateway.clock.micros()).await.unwrap()
    }

    /// `limit/consumer used of limit`
    fn lines(usage: &[Usage]) -> Vec<String> {
        let line = |usage: &Usage| {
            let consumer = usage.consumer.as_ref().map(ConsumerId::as_str).unwrap_or_default();
            assert_eq!(usage.remaining, usage.limit - usage.used);
            format!("{}/{consumer} {} of {}", usage.id, usage.used, usage.limit)
        };
        usage.iter().map(line).collect()
    }

    #[tokio::test]
    async fn shared_limits_are_listed_once_and_others_for_each_consumer() {
        let (gateway, _keep) = node().await;
        charge(&gateway, 1, 3).await;
        let usage = gateway.usage(&"acme".into()).await.unwrap();
        let expected = ["daily/ 3 of 100", "each/a 3 of 10", "each/b 0 of 10", "open/ 1 of 5"];
        assert_eq!(lines(&usage), expected);
        assert!(usage[0].reset.is_some_and(|seconds| seconds <= 86_400));
        assert_eq!(usage[3].reset, None, "nobody knows when a request ends");
        let unknown = gateway.usage(&"globex".into()).await;
        assert!(matches!(unknown, Err(UsageError::UnknownTenant)), "{unknown:?}");
    }

    #[tokio::test]
    async fn what_a_limit_counts_and_whether_it_refuses_is_told() {
        let (gateway, _keep) = node().await;
        let scoped = r#"
upstreams: [{ id: crm, targets: [{ address: "127.0.0.1:9000" }] }]
services: [{ id: contacts, select: [path], versions: [{ name: v1, upstream: crm, state: active }] }]
routes:
  - id: list
    service: contacts
    match: { path: /contacts, methods: [GET] }
    authenticate: { any_of: [api_key] }
"#;
        let daily = "per: tenant, on_store_error: closed }\n      - { id: each";
        let tried = "per: tenant, scope: { route: list }, mode: observe, on_store_error: closed }\n      - { id: each";
        let text = format!("{}{scoped}", document(2).replacen(daily, tried, 1));
        let compiled = gateway.compile(Arc::new(config::read(&text).unwrap())).unwrap();
        gateway.put_in_force(compiled, 2);
        let usage = gateway.usage(&"acme".into()).await.unwrap();
        let told: Vec<_> = usage.iter().map(|usage| (usage.mode, usage.scope.clone())).collect();
        let list = LimitScope { route: Some("list".into()), service: None };
        assert_eq!(told[0], (LimitMode::Observe, Some(list)));
        assert!(told[1..].iter().all(|told| *told == (LimitMode::Enforce, None)), "{told:?}");
    }

    #[tokio::test]
    async fn a_tenant_of_many_consumers_is_read_and_set_back_in_parts() {
        let (gateway, _keep) = node().await;
        let more: String =
            (0..600).map(|n| format!("      - {{ id: c{n}, scopes: [read] }}\n")).collect();
        let text = document(2).replace("    consumers:\n", &format!("    consumers:\n{more}"));
        let compiled = gateway.compile(Arc::new(config::read(&text).unwrap())).unwrap();
        gateway.put_in_force(compiled, 2);
        let tenant = "acme".into();
        assert_eq!(gateway.listed(&tenant, None).unwrap().demands.len(), 3);
        let now = gateway.clock.micros();
        for (permit, demand) in (1..).zip(gateway.listed(&tenant, None).unwrap().demands) {
            let demand = Demand { permit: PermitId(permit), permit_ttl: 60_000_000, ..demand };
            gateway.quotas.reserve(&demand, now).await.unwrap();
        }
        let used = async || -> u64 {
            let usage = gateway.usage(&tenant).await.unwrap();
            usage.iter().filter(|usage| usage.id.as_str() == "each").map(|usage| usage.used).sum()
        };
        assert_eq!(used().await, 602);
        assert_eq!(gateway.reset(&tenant, Some(&"each".into())).await.unwrap().len(), 602);
        assert_eq!(used().await, 0);
    }

    #[tokio::test]
    async fn a_reset_leaves_what_is_in_progress() {
        for (limit, after) in [
            (None, ["daily/ 0 of 100", "each/a 0 of 10", "each/b 0 of 10", "open/ 1 of 5"]),
            (
                Some("daily"),
                ["daily/ 0 of 100", "each/a 3 of 10", "each/b 0 of 10", "open/ 1 of 5"],
            ),
            (Some("each"), ["daily/ 3 of 100", "each/a 0 of 10", "each/b 0 of 10", "open/ 1 of 5"]),
            (Some("open"), ["daily/ 3 of 100", "each/a 3 of 10", "each/b 0 of 10", "open/ 1 of 5"]),
        ] {
            let (gateway, _keep) = node().await;
            let tenant = "acme".into();
            let permit = charge(&gateway, 1, 3).await;
            let limit = limit.map(LimitId::from);
            let before = gateway.reset(&tenant, limit.as_ref()).await.unwrap();
            assert!(before.iter().any(|usage| usage.used > 0), "it says how it was: {before:?}");
            assert_eq!(lines(&gateway.usage(&tenant).await.unwrap()), after, "{limit:?}");
            // The request ends without a charge: nothing goes below nothing.
            let now = gateway.clock.micros();
            gateway.quotas.settle(permit, Settlement::Refund, now);
            let usage = lines(&gateway.usage(&tenant).await.unwrap());
            assert_eq!((&*usage[0], &*usage[3]), ("daily/ 0 of 100", "open/ 0 of 5"));
        }
    }

    #[tokio::test]
    async fn what_is_not_listed_is_not_reset() {
        let (gateway, _keep) = node().await;
        let reset = async |limit: &str| gateway.reset(&"acme".into(), Some(&limit.into())).await;
        assert!(matches!(reset("address").await, Err(UsageError::Unlisted)));
        assert!(matches!(reset("weekly").await, Err(UsageError::UnknownLimit)));
    }
}
