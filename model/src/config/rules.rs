//! What a document must mean beyond its shape: ranges, choices of exactly one, dates in order, routes that don't overlap.

mod limits;
mod packs;
mod webhooks;

pub(super) use webhooks::beyond as schedules_beyond;

use super::references::{items, once};
use super::{ConfigError, escape};
use crate::document::{
    Algorithm, Attachment, Endpoint, EventType, Idempotency, Issuer, Method, Pack, Plan, Route,
    Secret, Select, Service, Source, Tenant, Upstream, VersionState,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest leeway of an issuer.
const LEEWAY_MAX: Duration = Duration::from_secs(60);
/// Shortest and longest retention of idempotency records.
const RETENTION: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(7 * 86_400));
/// How long a repeat may wait for what comes of the first request.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Largest body that a route may take.
const BODY_MAX: u64 = 64 << 20;
/// Longest of an upstream's timeouts.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The entries of a document that have the right shape, with their pointers.
pub(super) struct Sections {
    issuers: Vec<(String, Issuer)>,
    upstreams: Vec<(String, Upstream)>,
    services: Vec<(String, Service)>,
    routes: Vec<(String, Route)>,
    plans: Vec<(String, Plan)>,
    tenants: Vec<(String, Tenant)>,
    packs: Vec<(String, Pack)>,
    attachments: Vec<(String, Attachment)>,
    sources: Vec<(String, Source)>,
    endpoints: Vec<(String, Endpoint)>,
    event_types: Vec<(String, EventType)>,
}

impl Sections {
    /// Takes every entry in which no shape error was found.
    pub(super) fn read(document: &Value, shape_errors: &[ConfigError]) -> Self {
        fn entries<T: DeserializeOwned>(
            document: &Value,
            list: &str,
            unsound: &HashSet<&str>,
        ) -> Vec<(String, T)> {
            items(document, list)
                .filter(|(at, _)| !unsound.contains(at.as_str()))
                .filter_map(|(at, entry)| Some((at, T::deserialize(entry).ok()?)))
                .collect()
        }
        let unsound: HashSet<&str> =
            shape_errors.iter().map(|error| entry_of(&error.pointer)).collect();
        let unsound = &unsound;
        Self {
            issuers: entries(document, "issuers", unsound),
            upstreams: entries(document, "upstreams", unsound),
            services: entries(document, "services", unsound),
            routes: entries(document, "routes", unsound),
            plans: entries(document, "plans", unsound),
            tenants: entries(document, "tenants", unsound),
            packs: entries(document, "packs", unsound),
            attachments: entries(document, "attachments", unsound),
            sources: entries(document, "sources", unsound),
            endpoints: entries(document, "endpoints", unsound),
            event_types: entries(document, "event_types", unsound),
        }
    }
}

/// The pointer of the entry in a top-level list that this one points at or into.
fn entry_of(pointer: &str) -> &str {
    let end = pointer.match_indices('/').nth(2).map_or(pointer.len(), |(at, _)| at);
    pointer.get(..end).unwrap_or(pointer)
}

struct Errors<'a>(&'a mut Vec<ConfigError>);

impl Errors<'_> {
    fn add(&mut self, at: &str, field: &str, message: impl Into<String>) {
        let pointer = if field.is_empty() { at.to_owned() } else { format!("{at}/{field}") };
        self.0.push(ConfigError::new(pointer, message));
    }

    fn range<T: PartialOrd + Display>(
        &mut self,
        at: &str,
        field: &str,
        value: Option<T>,
        range: &RangeInclusive<T>,
    ) {
        if value.is_some_and(|value| !range.contains(&value)) {
            let (start, end) = (range.start(), range.end());
            self.add(at, field, format!("must be at least {start} and at most {end}"));
        }
    }
}

/// Reports everything that contradicts itself or leaves its range.
pub(super) fn check(sections: &Sections, errors: &mut Vec<ConfigError>) {
    let mut errors = Errors(errors);
    issuers(&sections.issuers, &mut errors);
    for (at, upstream) in &sections.upstreams {
        let limits = &upstream.timeouts;
        for (field, span) in
            [("connect", limits.connect), ("read", limits.read), ("total", limits.total)]
        {
            if span.0.is_zero() || span.0 > TIMEOUT_MAX {
                errors.add(at, &format!("timeouts/{field}"), "must be more than 0s and at most 1h");
            }
        }
        limits::check_upstream(at, upstream, &mut errors);
    }
    for (at, service) in &sections.services {
        check_service(at, service, &mut errors);
    }
    routes(&sections.routes, &mut errors);
    for (at, plan) in &sections.plans {
        limits::check_plan(at, plan, &mut errors);
        packs::check_caps(&format!("{at}/packs"), &plan.packs, &mut errors);
        webhooks::check_caps(&format!("{at}/events"), &plan.events, &mut errors);
    }
    for (at, tenant) in &sections.tenants {
        for (index, consumer) in tenant.consumers.iter().enumerate() {
            check_scopes(&format!("{at}/consumers/{index}/scopes"), &consumer.scopes, &mut errors);
        }
    }
    packs::check(&sections.packs, &sections.attachments, &mut errors);
    for (at, source) in &sections.sources {
        webhooks::check_source(at, source, &mut errors);
    }
    webhooks::check_endpoints(&sections.endpoints, &mut errors);
    for (at, endpoint) in &sections.endpoints {
        webhooks::check_endpoint(at, endpoint, &mut errors);
    }
    for (at, kind) in &sections.event_types {
        webhooks::check_event_type(at, kind, &mut errors);
    }
}

fn issuers(issuers: &[(String, Issuer)], errors: &mut Errors<'_>) {
    let names = issuers.iter().map(|(at, entry)| (format!("{at}/issuer"), entry.issuer.as_str()));
    let message = "is the `issuer` of another one: a token would fit both";
    once(names.collect(), message, errors.0);
    for (at, issuer) in issuers {
        check_keys(at, issuer, errors);
        match (&issuer.tenant, &issuer.tenant_claim) {
            (Some(_), Some(_)) => {
                errors.add(at, "tenant_claim", "stands beside `tenant`: give one of them");
            }
            (None, None) => errors.add(at, "", "needs `tenant` or `tenant_claim`"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        if issuer.leeway.0 > LEEWAY_MAX {
            errors.add(at, "leeway", "must be at most 60s");
        }
    }
}

/// HMAC and public keys never share a verifier (RFC 8725 §3.1).
fn check_keys(at: &str, issuer: &Issuer, errors: &mut Errors<'_>) {
    let symmetric = issuer.algorithms.iter().filter(|name| **name == Algorithm::HS256).count();
    if symmetric > 0 && symmetric < issuer.algorithms.len() {
        errors.add(at, "algorithms", "mixes HS256 with public-key algorithms: make two issuers");
        return;
    }
    if symmetric > 0 {
        if issuer.jwks.is_some() {
            errors.add(at, "jwks", "is not used with HS256: give `secret`");
        }
        match &issuer.secret {
            Some(secret) => check_secret(&format!("{at}/secret"), secret, errors),
            None => errors.add(at, "", "needs `secret`, as its algorithm is HS256"),
        }
        return;
    }
    if issuer.secret.is_some() {
        errors.add(at, "secret", "is only used with HS256: give `jwks`");
    }
    match &issuer.jwks {
        None => errors.add(at, "", "needs `jwks`, as its algorithms use public keys"),
        Some(jwks) => match (&jwks.uri, &jwks.file) {
            (Some(uri), None) => {
                if !(uri.starts_with("http://") || uri.starts_with("https://")) {
                    errors.add(at, "jwks/uri", "must start with `http://` or `https://`");
                }
            }
            (None, Some(_)) => {}
            _ => errors.add(at, "jwks", "needs exactly one of `uri` and `file`"),
        },
    }
}

fn check_secret(at: &str, secret: &Secret, errors: &mut Errors<'_>) {
    match (&secret.env, &secret.file, &secret.sealed) {
        (Some(name), None, None) if !name.starts_with("TOLLGATE_SECRET_") => {
            errors.add(at, "env", "must be a variable's name that starts with `TOLLGATE_SECRET_`");
        }
        (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) => {}
        _ => errors.add(at, "", "needs exactly one of `env`, `file` and `sealed`"),
    }
}

fn check_service(at: &str, service: &Service, errors: &mut Errors<'_>) {
    let defaults: Vec<_> = service.versions.iter().filter(|version| version.default).collect();
    if defaults.len() > 1 {
        errors.add(at, "versions", "more than one version is marked `default`");
    }
    if service.select.contains(&Select::Default) && defaults.is_empty() {
        errors.add(at, "select", "names `default`, but no version is marked `default: true`");
    }
    for (index, way) in service.select.iter().enumerate() {
        if service.select.iter().take(index).any(|earlier| earlier == way) {
            errors.add(at, &format!("select/{index}"), "stands twice");
        }
    }
    for (index, version) in service.versions.iter().enumerate() {
        let at = format!("{at}/versions/{index}");
        if version.state == VersionState::Deprecated && version.deprecated_at.is_none() {
            errors.add(&at, "", "is `deprecated`, so it needs `deprecated_at` (RFC 9745)");
        }
        if let (Some(deprecated), Some(sunset)) = (version.deprecated_at, version.sunset_at)
            && sunset < deprecated
        {
            errors.add(&at, "sunset_at", "is before `deprecated_at` (RFC 9745 §4 forbids that)");
        }
        if version.successor.as_ref() == Some(&version.name) {
            errors.add(&at, "successor", "is the version itself");
        }
        if let Some(prefix) = &version.upstream_prefix
            && !(prefix.is_empty() || prefix.starts_with('/') && !prefix.ends_with('/'))
        {
            errors.add(
                &at,
                "upstream_prefix",
                "must be empty, or start with `/` and not end with it",
            );
        }
    }
}

fn routes(routes: &[(String, Route)], errors: &mut Errors<'_>) {
    let mut taken: HashMap<(String, Method), &Route> = HashMap::new();
    for (at, route) in routes {
        for (index, method) in route.r#match.methods.iter().enumerate() {
            let pattern = pattern(&route.r#match.path);
            if let Some(other) = taken.insert((pattern, *method), route) {
                let message = format!(
                    "route `{}` takes {} on this path already",
                    other.id,
                    http::Method::from(*method)
                );
                errors.add(at, &format!("match/methods/{index}"), message);
            }
        }
        check_scopes(&format!("{at}/scopes"), &route.scopes, errors);
        if route.body.limit.0 > BODY_MAX {
            errors.add(at, "body/limit", "must be at most 64MiB");
        }
        if let Some(rules) = &route.idempotency {
            idempotency(at, rules, errors);
        }
        if let Some(name) = &route.cost_from_response_header {
            limits::check_cost_header(at, name, errors);
        }
    }
}

fn idempotency(at: &str, rules: &Idempotency, errors: &mut Errors<'_>) {
    if !(RETENTION.0..=RETENTION.1).contains(&rules.retention.0) {
        errors.add(at, "idempotency/retention", "must be at least 1m and at most 168h");
    }
    if rules.wait.0 > WAIT_MAX {
        errors.add(at, "idempotency/wait", "must be at most 30s");
    }
    let mut seen = HashSet::new();
    for (index, status) in rules.release_on.iter().enumerate() {
        if !seen.insert(status) {
            let field = format!("idempotency/release_on/{index}");
            errors.add(at, &field, format!("`{status}` is in the list already"));
        }
    }
}

/// The path with its parameters' names left out: two routes that differ only in those are the same.
fn pattern(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}",
        Some(_) => "{}",
        None => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

fn check_scopes(at: &str, scopes: &[String], errors: &mut Errors<'_>) {
    for (index, scope) in scopes.iter().enumerate() {
        // RFC 6749 §3.3: a scope token has no space, quote or backslash.
        let token = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        if scope.is_empty() || !scope.chars().all(token) {
            let field = escape(&index.to_string());
            errors.add(
                at,
                &field,
                "is not a scope: visible ASCII without spaces, quotes, backslashes",
            );
        }
    }
}
