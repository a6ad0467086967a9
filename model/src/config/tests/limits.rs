//! What a document may say of limits and of what is charged.

use super::{ConfigError, SOUND, read};
use crate::document::{BackoffPer, LimitScope};
use crate::quota::{LimitMode, Period};

/// Every field that has to do with limits, once.
const LIMITS: &str = r#"
format: 1
upstreams:
  - id: crm
    targets: [{ address: "127.0.0.1:9000" }]
    limits:
      - { id: calls, rate: 200/s, burst: 400, on_store_error: local }
      - { id: open, concurrency: 64, on_store_error: open }
    backoff: { per: upstream, max: 5m }
services:
  - { id: contacts, select: [path], versions: [{ name: v1, upstream: crm, state: active }] }
routes:
  - id: contacts.list
    service: contacts
    match: { path: /contacts, methods: [GET] }
    authenticate: { any_of: [api_key] }
    cost: 2
    cost_from_response_header: X-Cost
    charge: { replays: true, upstream_errors: true }
plans:
  - id: gold
    limits:
      - { id: burst, rate: 50/s, burst: 100, per: consumer, scope: { route: contacts.list }, exact: true, on_store_error: closed }
      - { id: billed, quota: 9/billing_month, per: tenant, scope: { service: contacts }, mode: observe, on_store_error: open }
    adaptive: { factor: 5, half_life: 24h, floor: 20/s, patience: 30s }
tenants:
  - { id: acme, plan: gold, state: active, billing_day: 31 }
"#;

/// What is said of the sound document with `from` replaced by `to`.
fn told(from: &str, to: &str) -> Vec<String> {
    assert!(LIMITS.contains(from), "{from}");
    let errors = read(&LIMITS.replace(from, to)).err().unwrap_or_default();
    errors.iter().map(ConfigError::to_string).collect()
}

#[test]
fn every_field_is_read_and_written_as_it_stands() {
    let config = read(LIMITS).unwrap();
    let document = config.document();
    let route = &document.routes[0];
    assert_eq!(route.cost_from_response_header.as_deref(), Some("X-Cost"));
    assert!(route.charge.replays && route.charge.upstream_errors);
    let [burst, billed] = document.plans[0].limits.as_slice() else { panic!("two limits") };
    let scope = |route: Option<&str>, service: Option<&str>| {
        Some(LimitScope { route: route.map(Into::into), service: service.map(Into::into) })
    };
    assert!(burst.exact && !billed.exact);
    assert_eq!((burst.mode, billed.mode), (LimitMode::Enforce, LimitMode::Observe));
    assert_eq!(burst.scope, scope(Some("contacts.list"), None));
    assert_eq!(billed.scope, scope(None, Some("contacts")));
    assert_eq!(billed.quota.map(|quota| quota.period()), Some(Period::BillingMonth));
    assert_eq!(document.tenants[0].billing_day, 31);
    assert_eq!(document.upstreams[0].backoff.per, BackoffPer::Upstream);
    let written = serde_json::to_value(document).unwrap();
    let again = crate::config::check(&written).unwrap();
    assert_eq!(serde_json::to_value(again.document()).unwrap(), written);
}

#[test]
fn what_says_nothing_is_not_written() {
    let config = read(SOUND).unwrap();
    let written = serde_json::to_value(config.document()).unwrap();
    for (pointer, absent) in [
        ("/plans/0/limits/0", &["scope", "exact", "mode"][..]),
        ("/plans/0", &["adaptive"]),
        ("/routes/0", &["cost_from_response_header", "charge"]),
        ("/upstreams/0", &["limits", "backoff"]),
        ("/tenants/0", &["billing_day"]),
    ] {
        for field in absent {
            assert_eq!(written.pointer(pointer).unwrap().get(field), None, "{pointer}/{field}");
        }
    }
    let (upstream, tenant) = (&config.document().upstreams[0], &config.document().tenants[0]);
    assert_eq!((upstream.backoff.per, tenant.billing_day), (BackoffPer::Tenant, 1));
}

/// Each change of the sound document makes one error, which begins so.
fn each_is_told(cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        let found = told(from, to);
        let is_it = |error: &String| error.starts_with(expected);
        assert!(found.len() == 1 && found.iter().all(is_it), "{to}: {found:?}");
    }
}

#[test]
fn each_fault_of_a_limit_is_reported_where_it_stands() {
    let route = "{ route: contacts.list }";
    let rate = "rate: 50/s, burst: 100,";
    each_is_told(&[
        (route, "{}", "/plans/0/limits/0/scope: needs exactly one of `route` and `service`"),
        (
            route,
            "{ route: contacts.list, service: contacts }",
            "/plans/0/limits/0/scope: needs exactly one of `route` and `service`",
        ),
        (
            route,
            "{ route: contacts.lost }",
            "/plans/0/limits/0/scope/route: there is no route `contacts.lost`",
        ),
        (
            "{ service: contacts }",
            "{ service: people }",
            "/plans/0/limits/1/scope/service: there is no service `people`",
        ),
        (route, "{ tenant: acme }", "/plans/0/limits/0/scope/tenant: unknown field `tenant`"),
        ("exact: true", "exact: very", "/plans/0/limits/0/exact: is a string, not a boolean"),
        (
            "mode: observe",
            "mode: dry",
            "/plans/0/limits/1/mode: `dry` is not one of `enforce`, `observe`",
        ),
        (
            "9/billing_month",
            "9/fortnight",
            "/plans/0/limits/1/quota: `9/fortnight` is not a quota, like `100000/day`: so many per `minute`",
        ),
        ("burst: 100,", "burst: 0,", "/plans/0/limits/0/burst: 0 is less than 1"),
        (
            rate,
            "rate: 1/h, burst: 8785,",
            "/plans/0/limits/0/burst: takes more than 366 days to come back at 1/h",
        ),
        (rate, "quota: 9/day, burst: 100,", "/plans/0/limits/0/burst: stands without `rate`"),
        (
            "quota: 9/billing_month",
            "rate: 9/s, concurrency: 2",
            "/plans/0/limits/1: needs exactly one of `rate`, `quota` and `concurrency`",
        ),
        (
            "id: billed",
            "id: burst",
            "/plans/0/limits/1/id: there is another limit of this plan `burst`",
        ),
    ]);
}

#[test]
fn each_fault_of_what_surrounds_limits_is_reported_where_it_stands() {
    let half_life = "/plans/0/adaptive/half_life: must be at least 10s and at most 168h";
    let patience = "/plans/0/adaptive/patience: must be at least 1s and at most 1h";
    each_is_told(&[
        (
            "id: burst",
            "id: adaptive",
            "/plans/0/limits/0/id: is the name of what `adaptive` refuses",
        ),
        ("factor: 5", "factor: 1", "/plans/0/adaptive/factor: 1 is less than 2"),
        ("half_life: 24h", "half_life: 9s", half_life),
        ("half_life: 24h", "half_life: 169h", half_life),
        ("patience: 30s", "patience: 61m", patience),
        ("patience: 30s", "patience: 999ms", patience),
        ("floor: 20/s, ", "", "/plans/0/adaptive: lacks the field `floor`"),
        ("billing_day: 31", "billing_day: 32", "/tenants/0/billing_day: 32 is more than 31"),
        ("billing_day: 31", "billing_day: 0", "/tenants/0/billing_day: 0 is less than 1"),
        ("replays: true", "replay: true", "/routes/0/charge/replay: unknown field `replay`"),
    ]);
}

#[test]
fn each_fault_of_an_upstreams_limits_is_reported_where_it_stands() {
    each_is_told(&[
        (
            "id: open, concurrency",
            "id: calls, concurrency",
            "/upstreams/0/limits/1/id: there is another limit of this upstream `calls`",
        ),
        (
            "concurrency: 64",
            "rate: 9/s, concurrency: 64",
            "/upstreams/0/limits/1: needs exactly one of `rate` and `concurrency`",
        ),
        ("concurrency: 64", "quota: 9/day", "/upstreams/0/limits/1/quota: unknown field `quota`"),
        (
            "rate: 200/s, burst: 400",
            "rate: 1/h, burst: 8785",
            "/upstreams/0/limits/0/burst: takes more than 366 days to come back at 1/h",
        ),
        (
            "concurrency: 64, on_store_error: open",
            "concurrency: 64",
            "/upstreams/0/limits/1: lacks the field `on_store_error`",
        ),
        (
            "{ per: upstream",
            "{ per: route",
            "/upstreams/0/backoff/per: `route` is not one of `tenant`, `upstream`, `off`",
        ),
        ("max: 5m", "max: 61m", "/upstreams/0/backoff/max: must be at least 1s and at most 1h"),
    ]);
}

#[test]
fn without_adaptive_its_name_is_free() {
    let without = LIMITS.replace("    adaptive: {", "    # {").replace("id: burst", "id: adaptive");
    assert!(read(&without).is_ok());
}

#[test]
fn a_cost_stands_in_a_header_of_the_upstreams_own() {
    let at = "/routes/0/cost_from_response_header";
    for name in ["x-cost", "X-Units-Used", "units"] {
        assert_eq!(told("X-Cost", name), [""; 0], "{name}");
    }
    for (name, why) in [
        ("\"x cost\"", "`x cost` is not the name of a header, like `X-Cost`"),
        ("\"\"", "`` is not the name of a header"),
        ("X-RateLimit-Remaining", "is a header that the gateway itself writes"),
        ("API-Version", "is a header that the gateway itself writes"),
        ("Set-Cookie", "is a header of credentials"),
        ("authorization", "is a header of credentials"),
        ("Content-Length", "says how the answer is sent or read, and no cost"),
        ("connection", "says how the answer is sent or read, and no cost"),
    ] {
        let found = told("X-Cost", name);
        assert!(
            matches!(found.as_slice(), [only] if only.starts_with(&format!("{at}: {why}"))),
            "{name}: {found:?}"
        );
    }
}
