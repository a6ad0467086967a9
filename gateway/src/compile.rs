//! [`Config`] → [`Snapshot`]. All errors at once, all or nothing; runtime state is looked up by id and reused.
//!
//! Invariant: compiling changes nothing. What was made for a snapshot goes with the last one that uses it, so one that is
//! dropped instead of put in force leaves nothing behind.

mod issuers;
mod pack_files;
mod packs;

pub(crate) use issuers::reveal;
pub use issuers::{Fetched, KeySets};
pub use pack_files::{Loaded, PackFiles, PackFolders};

use crate::cost::CostHeader;
use crate::known::Known;
use crate::outbound::{Backoffs, Outbound};
use crate::packs::{ATTACHMENTS_MAX, Attached, Attachment};
use crate::report::Metrics;
use crate::rollout;
use crate::route::{Route, RouteTable};
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;
use http::{HeaderName, HeaderValue};
use model::Identity;
use model::config::{Config, ConfigError};
use model::document::{self, Document};
use model::id::{EndpointId, PlanId, ServiceId, TenantId, UpstreamId};
use model::quota::{Calendar, Kind, Limit, PaceRules, Settlement, Terms};
use model::units::Duration;
use stages::authenticate::api_key::{ApiKey, ApiKeys};
use stages::authenticate::{Directory, Requirement, Tenant};
use stages::throttle::{PlanLimits, Scoped};
use stages::version::{Service, Version};
use std::collections::HashMap;
use std::net::ToSocketAddrs as _;
use std::sync::Arc;
use store::seal::MasterKeys;

/// What compiling draws from: what was made for other snapshots, and what opens secrets.
pub struct Sources {
    /// Pack files.
    pub packs: PackFiles,
    /// What packs use, and how their versions fare.
    pub live: Arc<rollout::Packs>,
    /// Key sets that are fetched.
    pub key_sets: KeySets,
    /// The backoffs that upstreams asked for.
    pub(crate) backoffs: Known<Backoffs>,
    /// Open sealed secrets.
    pub master_keys: MasterKeys,
}

/// Compiles a checked document. Blocks: files are read, the store is asked, packs are compiled.
pub fn compile(
    config: &Config,
    sources: &Sources,
    metrics: &Metrics,
) -> Result<Snapshot, Vec<ConfigError>> {
    let document = config.document();
    let mut errors = Vec::new();
    let upstreams = upstreams(document, sources, metrics, &mut errors);
    let services = services(document);
    let packs = packs::packs(document, sources, metrics, &mut errors);
    let routes = routes(document, &services, &packs.attachments, &mut errors);
    let tenants = tenants(document);
    let issuers = issuers::issuers(document, sources, &mut errors);
    if !errors.is_empty() {
        errors.sort();
        return Err(errors);
    }
    let api_keys = api_keys(document, &tenants);
    let services =
        document.services.iter().filter_map(|service| services.get(&service.id).cloned());
    Ok(Snapshot {
        revision: 0,
        services: services.collect(),
        directory: Directory::new(tenants, api_keys, issuers.by_name),
        routes,
        upstreams,
        endpoints: endpoints(document),
        key_sets: issuers.fetched,
        tenants: packs.tenants,
        rollouts: packs.rollouts,
        packs: packs.loaded,
    })
}

fn upstreams(
    document: &Document,
    sources: &Sources,
    metrics: &Metrics,
    errors: &mut Vec<ConfigError>,
) -> HashMap<UpstreamId, Arc<Upstream>> {
    let mut upstreams = HashMap::new();
    for (index, upstream) in document.upstreams.iter().enumerate() {
        let mut targets = Vec::new();
        for (at, target) in upstream.targets.iter().enumerate() {
            match target.address.to_socket_addrs().map(|mut found| found.next()) {
                Ok(Some(address)) => targets.push((address, target.weight)),
                _ => errors.push(ConfigError::new(
                    format!("/upstreams/{index}/targets/{at}/address"),
                    format!("`{}` can't be resolved", target.address),
                )),
            }
        }
        let (id, timeouts) = (upstream.id.clone(), upstream.timeouts.clone());
        let asked = || Backoffs::new(metrics.backoffs(&id));
        let outbound = Outbound::new(upstream, sources.backoffs.get(id.as_str(), asked));
        let compiled = Upstream::new(id, timeouts, outbound, targets);
        upstreams.insert(upstream.id.clone(), Arc::new(compiled));
    }
    upstreams
}

fn endpoints(document: &Document) -> HashMap<EndpointId, Arc<document::Endpoint>> {
    let endpoints = document.endpoints.iter();
    endpoints.map(|endpoint| (endpoint.id.clone(), Arc::new(endpoint.clone()))).collect()
}

fn services(document: &Document) -> HashMap<ServiceId, Arc<Service>> {
    let compiled = document.services.iter().map(|service| {
        let versions: Vec<Arc<Version>> =
            service.versions.iter().map(|entry| version(service, entry)).collect();
        let default = service.versions.iter().position(|version| version.default);
        let service = Service {
            id: service.id.clone(),
            select: service.select.clone(),
            default: default.and_then(|index| versions.get(index).cloned()),
            versions,
        };
        (service.id.clone(), Arc::new(service))
    });
    compiled.collect()
}

fn version(service: &document::Service, version: &document::Version) -> Arc<Version> {
    let extensions = version.extensions.iter().map(|entry| (entry.tenant.clone(), entry.until));
    let prefix = version.upstream_prefix.clone();
    Arc::new(Version {
        name: version.name.clone(),
        header: HeaderValue::from_str(version.name.as_str())
            .unwrap_or(HeaderValue::from_static("")),
        upstream: version.upstream.clone(),
        upstream_prefix: prefix.unwrap_or_else(|| format!("/{}", version.name)),
        state: version.state,
        deprecated_at: version.deprecated_at,
        sunset_at: version.sunset_at,
        successor: version.successor.clone(),
        successor_by_path: service.select.contains(&document::Select::Path),
        docs: version.docs.clone(),
        extensions: extensions.collect(),
    })
}

fn routes(
    document: &Document,
    services: &HashMap<ServiceId, Arc<Service>>,
    attachments: &[(&document::Scope, Arc<Attachment>)],
    errors: &mut Vec<ConfigError>,
) -> RouteTable {
    let mut table = RouteTable::default();
    // Most routes have the same attachments as their neighbours.
    let mut sorted: HashMap<Vec<usize>, Arc<Attached>> = HashMap::new();
    for (index, route) in document.routes.iter().enumerate() {
        let service =
            services.get(&route.service).expect("a checked document has no dangling service");
        let applies = |scope: &document::Scope| {
            scope.route.as_ref().is_none_or(|wanted| *wanted == route.id)
                && scope.service.as_ref().is_none_or(|wanted| *wanted == route.service)
        };
        let places = (0..).zip(attachments).filter(|(_, (scope, _))| applies(scope));
        let (places, here): (Vec<usize>, Vec<_>) = places
            .map(|(place, (scope, attachment))| (place, (scope.tenant.as_ref(), attachment)))
            .unzip();
        let attached = sorted.entry(places).or_insert_with(|| Arc::new(Attached::new(&here)));
        if let Some(one) = attached.beyond_max() {
            let at = document.attachments.iter().position(|entry| entry.id == one.id);
            let route = &route.id;
            errors.push(ConfigError::new(
                format!("/attachments/{}", at.unwrap_or_default()),
                format!("more than {ATTACHMENTS_MAX} attachments decide about a request on the route `{route}`"),
            ));
        }
        let compiled = Arc::new(Route {
            id: route.id.clone(),
            service: service.clone(),
            requirement: Requirement {
                any_of: route.authenticate.any_of.clone(),
                scopes: route.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            },
            idempotency: route.idempotency.clone(),
            body_limit: route.body.limit.bytes(),
            cost: route.cost,
            cost_header: route
                .cost_from_response_header
                .as_ref()
                .and_then(|name| HeaderName::try_from(name.as_str()).ok())
                .map(CostHeader::new),
            terms: terms(route.charge),
            forward_credentials: route.forward_credentials,
            record: route.record,
            attached: attached.clone(),
        });
        let methods: Vec<http::Method> =
            route.r#match.methods.iter().map(|method| (*method).into()).collect();
        if let Err(conflict) = table.insert(&route.r#match.path, &methods, &compiled) {
            errors.push(ConfigError::new(
                format!("/routes/{index}/match/path"),
                conflict.to_string(),
            ));
        }
    }
    table
}

fn terms(charge: document::Charge) -> Terms {
    let charged = |yes| if yes { Settlement::Commit } else { Settlement::Refund };
    Terms { replayed: charged(charge.replays), upstream_failed: charged(charge.upstream_errors) }
}

fn limits(plan: &document::Plan, routes: &[document::Route]) -> PlanLimits {
    let compiled = plan.limits.iter().filter_map(|limit| {
        let kind = match (limit.rate, limit.quota, limit.concurrency) {
            (Some(rate), None, None) => {
                Kind::Rate { rate, burst: limit.burst.unwrap_or(rate.units()) }
            }
            (None, Some(quota), None) => Kind::Quota(quota),
            (None, None, Some(slots)) => Kind::Concurrency(slots),
            _ => return None,
        };
        let scoped = limit.scope.as_ref().map(|scope| {
            let counts = |route: &&document::Route| {
                scope.route.as_ref().is_none_or(|wanted| *wanted == route.id)
                    && scope.service.as_ref().is_none_or(|wanted| *wanted == route.service)
            };
            let routes = routes.iter().filter(counts).map(|route| route.id.clone());
            Scoped { scope: scope.clone(), routes: routes.collect() }
        });
        let compiled = Limit {
            id: limit.id.clone(),
            kind,
            per: limit.per,
            exact: limit.exact,
            mode: limit.mode,
            on_store_error: limit.on_store_error,
        };
        Some((Arc::new(compiled), scoped))
    });
    PlanLimits::new(compiled.collect())
}

fn pace(adaptive: &document::Adaptive) -> PaceRules {
    let micros = |span: Duration| i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX);
    PaceRules {
        factor: adaptive.factor,
        half_life: micros(adaptive.half_life),
        floor: adaptive.floor,
        patience: micros(adaptive.patience),
    }
}

fn tenants(document: &Document) -> HashMap<TenantId, Arc<Tenant>> {
    let plans: HashMap<&PlanId, _> = document
        .plans
        .iter()
        .map(|plan| {
            let adaptive = plan.adaptive.as_ref().map(|adaptive| Arc::new(pace(adaptive)));
            (&plan.id, (Arc::new(limits(plan, &document.routes)), adaptive))
        })
        .collect();
    let compiled = document.tenants.iter().map(|tenant| {
        let (limits, adaptive) =
            plans.get(&tenant.plan).cloned().expect("a checked document has no dangling plan");
        let consumers = tenant.consumers.iter().map(|consumer| {
            let mut scopes: Vec<Arc<str>> =
                consumer.scopes.iter().map(|scope| scope.as_str().into()).collect();
            scopes.sort_unstable();
            scopes.dedup();
            (consumer.id.clone(), scopes)
        });
        let compiled = Tenant {
            id: tenant.id.clone(),
            state: tenant.state,
            plan: tenant.plan.clone(),
            limits,
            calendar: Calendar {
                zone: jiff::tz::TimeZone::get(&tenant.timezone)
                    .expect("a checked document names known time zones"),
                billing_day: tenant.billing_day,
            },
            adaptive,
            pins: tenant
                .pins
                .iter()
                .map(|(service, version)| (service.clone(), version.as_str().to_owned()))
                .collect(),
            consumers: consumers.collect(),
        };
        (tenant.id.clone(), Arc::new(compiled))
    });
    compiled.collect()
}

fn api_keys(document: &Document, tenants: &HashMap<TenantId, Arc<Tenant>>) -> ApiKeys {
    let nothing = Arc::new(serde_json::json!({}));
    let mut keys = ApiKeys::default();
    for tenant in &document.tenants {
        let compiled = tenants.get(&tenant.id).expect("every tenant was compiled");
        for consumer in &tenant.consumers {
            for credential in &consumer.credentials {
                let identity = Identity {
                    tenant: tenant.id.clone(),
                    consumer: consumer.id.clone(),
                    subject: consumer.id.as_str().to_owned(),
                    credential: credential.id.as_str().to_owned(),
                    scopes: compiled.consumers.get(&consumer.id).cloned().unwrap_or_default(),
                    claims: nothing.clone(),
                };
                let (hash, expires) =
                    (sha256_of(&credential.api_key.hash), credential.api_key.expires);
                let key = ApiKey::new(hash, expires, identity, compiled.clone());
                keys.insert(&credential.api_key.prefix, key);
            }
        }
    }
    keys
}

/// The bytes of `sha256:<hex>`, whose form a checked document has.
fn sha256_of(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let hex = text.trim_start_matches("sha256:");
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = hex.get(index * 2..index * 2 + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    bytes
}
