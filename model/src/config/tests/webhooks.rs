//! What documents may say of sources, endpoints and event types.

use super::{ConfigError, SOUND, read};

const SOURCE: &str =
    "{ id: s, tenant: acme, verify: acme_hmac, secret: { env: TOLLGATE_SECRET_S } }";
const POLLED: &str = r#"{ id: p, tenant: acme, event: { data: "" }, poll: { url: "https://erp.example/changes?a=b", interval: 1s, timeout: 31s, items: /items, cursor: { parameter: since, newest: /updated_at, overlap: 5m }, wait: { parameter: wait, time: 30s }, authorization: { oauth2: { token_url: "https://idp.example/token", client_id: tollgate, client_secret: { env: TOLLGATE_SECRET_P }, scopes: [read] } } } }"#;
const ENDPOINT: &str = r#"{ id: e, tenant: acme, url: "https://hooks.example/crm", events: ["contact.*", order.paid], attributes: { subject: ["a*", b] }, secret: { env: TOLLGATE_SECRET_E }, previous_secrets: [{ secret: { file: /run/old }, until: 2027-01-01T00:00:00Z }], signing_key: { file: /run/key }, schedule: [100ms, 5m], ordering: key, order_key: subject, on_failure: stop, timeout: 60s, rate: 50/s, concurrency: 8, format: binary, authorization: { header: { name: X-Key, secret: { env: TOLLGATE_SECRET_H } } }, breaker: { failure_rate: 0.5 }, retry_budget: 0, disable_after: 1h, state: disabled }"#;
const TYPE: &str =
    "{ name: contact.created, schema: { type: object, properties: { secret: { type: string } } } }";

/// What `read` says of a sound document with these, `from` replaced by `to`.
fn check(from: &str, to: &str) -> Vec<String> {
    let webhooks = format!(
        "sources: [{SOURCE}, {POLLED}]\nendpoints: [{ENDPOINT}, {{ id: f, tenant: acme, url: \"http://h\", events: [\"*\"], secret: {{ env: TOLLGATE_SECRET_F }}, schedule: standard }}]\nevent_types: [{TYPE}]\n"
    );
    assert!(webhooks.contains(from), "{from}");
    let errors = read(&format!("{SOUND}{}", webhooks.replacen(from, to, 1))).err();
    errors.unwrap_or_default().iter().map(ConfigError::to_string).collect()
}

#[test]
fn sound_ones_are_accepted() {
    assert_eq!(check("", ""), Vec::<String>::new());
}

#[test]
fn each_fault_of_a_source_is_told_where_it_stands() {
    let s = "/sources/0";
    let p = "/sources/1/poll";
    holds(&[
        (
            "{ id: s, tenant: acme",
            "{ id: s, tenant: globex",
            &format!("{s}/tenant: there is no tenant"),
        ),
        ("{ id: p,", "{ id: s,", "/sources/1/id: there is another source `s`"),
        (", secret: { env: TOLLGATE_SECRET_S }", "", &format!("{s}: needs `secret`")),
        (
            "verify: acme_hmac, secret: { env: TOLLGATE_SECRET_S }",
            "tolerance: 5m",
            &format!("{s}: needs `verify` or `poll`"),
        ),
        (
            "verify: acme_hmac,",
            "verify: plain,",
            &format!("{s}/verify: `plain` is not one of `acme_hmac`, `standard_webhooks`"),
        ),
        (
            "env: TOLLGATE_SECRET_S }",
            "env: S }",
            &format!("{s}/secret/env: must be a variable's name"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { value: x }",
            &format!("{s}/secret/value: unknown field `value`: secrets stand by reference"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { env: TOLLGATE_SECRET_S }, previous_secret: { hunter2: x }",
            &format!("{s}/previous_secret: has an unknown field: secrets stand by reference"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { env: TOLLGATE_SECRET_S }, previous_secret: { file: f, env: TOLLGATE_SECRET_T }",
            &format!("{s}/previous_secret: needs exactly one of `env`, `file` and `sealed`"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { env: TOLLGATE_SECRET_S }, tolerance: 2h",
            &format!("{s}/tolerance: must be at least 1s and at most 1h"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { env: TOLLGATE_SECRET_S }, event: { id: id }",
            &format!("{s}/event/id: `id` is not a pointer into JSON"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_S }",
            "secret: { env: TOLLGATE_SECRET_S }, event: { default_type: a b }",
            &format!("{s}/event/default_type: must be 1 to 128 bytes without spaces"),
        ),
        (
            "{ id: p, tenant: acme",
            "{ id: p, tenant: acme, verify: acme_hmac, secret: { file: f }",
            "/sources/1/poll: stands beside `verify`",
        ),
        (
            "{ id: p, tenant: acme",
            "{ id: p, tenant: acme, secret: { file: f }",
            "/sources/1/secret: is only used with `verify`",
        ),
        (
            "interval: 1s",
            "interval: 1ms",
            &format!("{p}/interval: must be at least 1s and at most 24h"),
        ),
        (
            "timeout: 31s",
            "timeout: 6m",
            &format!("{p}/timeout: must be at least 1s and at most 5m"),
        ),
        (
            "timeout: 31s",
            "timeout: 30s",
            &format!("{p}/wait/time: must be less than `timeout`, 30s"),
        ),
        ("time: 30s", "time: 1500ms", &format!("{p}/wait/time: must be whole seconds")),
        (
            "newest: /updated_at",
            "newest: /updated_at, from: /next",
            &format!("{p}/cursor: needs exactly one of `from` and `newest`"),
        ),
        (
            "newest: /updated_at",
            "from: /next",
            &format!("{p}/cursor/overlap: is only used with `newest`"),
        ),
        ("parameter: since", "parameter: \"\"", &format!("{p}/cursor/parameter: must be 1 to 128")),
        (
            "https://erp.example/changes?a=b",
            "ftp://erp.example",
            &format!("{p}/url: must start with `https://`"),
        ),
        (
            "client_secret: { env: TOLLGATE_SECRET_P }",
            "client_secret: { env: P }",
            &format!("{p}/authorization/oauth2/client_secret/env: must be a variable's name"),
        ),
        (
            "https://idp.example/token",
            "token",
            &format!("{p}/authorization/oauth2/token_url: must start with"),
        ),
        (
            "scopes: [read]",
            "scopes: [\"a b\"]",
            &format!("{p}/authorization/oauth2/scopes/0: is not a scope"),
        ),
        (
            "oauth2: {",
            "header: { name: X-K, secret: { file: f } }, oauth2: {",
            &format!("{p}/authorization: needs exactly one of `header` and `oauth2`"),
        ),
    ]);
}

#[test]
fn each_fault_of_an_endpoint_is_told_where_it_stands() {
    let e = "/endpoints/0";
    holds(&[
        (
            "{ id: e, tenant: acme",
            "{ id: e, tenant: globex",
            &format!("{e}/tenant: there is no tenant"),
        ),
        ("{ id: f,", "{ id: e,", "/endpoints/1/id: there is another endpoint `e`"),
        ("https://hooks.example/crm", "hooks.example/crm", &format!("{e}/url: must start with")),
        (
            "https://hooks.example/crm",
            "ftp://hooks.example/crm",
            &format!("{e}/url: must start with `https://`"),
        ),
        (
            "https://hooks.example/crm",
            "https://a:hunter2@hooks.example/crm",
            &format!("{e}/url: must hold no user"),
        ),
        (
            "https://hooks.example/crm",
            "https://hooks.example/crm#x",
            &format!("{e}/url: must hold no fragment"),
        ),
        ("[\"contact.*\", order.paid]", "[]", &format!("{e}/events: must not be empty")),
        (
            "order.paid",
            "order paid",
            &format!("{e}/events/1: must be 1 to 128 bytes without spaces"),
        ),
        ("order.paid", "contact.*", &format!("{e}/events/1: `contact.*` is in the list already")),
        (
            "subject: [\"a*\", b]",
            "Subject: [a]",
            &format!("{e}/attributes/Subject: is no context attribute"),
        ),
        (
            "subject: [\"a*\", b]",
            "subject: []",
            &format!("{e}/attributes/subject: needs 1 to 64 values"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_E }",
            "secret: whsec_abc",
            &format!("{e}/secret: is a string, not an object"),
        ),
        (
            "secret: { file: /run/old }",
            "secret: {}",
            &format!("{e}/previous_secrets/0/secret: needs exactly one of"),
        ),
        (
            "signing_key: { file: /run/key }",
            "signing_key: { key: whsk_abc }",
            &format!("{e}/signing_key/key: unknown field `key`: secrets stand by reference"),
        ),
        (
            "signing_key: { file: /run/key }",
            "signing_key: {}",
            &format!("{e}/signing_key: needs exactly one of"),
        ),
        (
            "[100ms, 5m]",
            "[100ms, 0s]",
            &format!("{e}/schedule/1: must be at least 100ms and at most 168h"),
        ),
        ("[100ms, 5m]", "soon", &format!("{e}/schedule: `soon` is not one of `standard`")),
        ("[100ms, 5m]", "[]", &format!("{e}/schedule: ")),
        (", on_failure: stop", "", &format!("{e}: is ordered, so it needs `on_failure`")),
        (
            "ordering: key",
            "ordering: none",
            &format!("{e}/on_failure: is only used with an `ordering`"),
        ),
        (
            "ordering: key",
            "ordering: endpoint",
            &format!("{e}/order_key: is only used with `ordering: key`"),
        ),
        (
            "order_key: subject",
            "order_key: the-subject",
            &format!("{e}/order_key: is no context attribute"),
        ),
        (
            "timeout: 60s",
            "timeout: 61s",
            &format!("{e}/timeout: must be at least 100ms and at most 1m"),
        ),
        ("concurrency: 8", "concurrency: 0", &format!("{e}/concurrency: 0 is less than 1")),
        (
            "name: X-Key",
            "name: Webhook-Id",
            &format!("{e}/authorization/header/name: is a header that the request has anyway"),
        ),
        (
            "name: X-Key",
            "name: Host",
            &format!("{e}/authorization/header/name: is a header that the request has anyway"),
        ),
        (
            "name: X-Key",
            "name: \"X Key\"",
            &format!("{e}/authorization/header/name: `X Key` is not the name of a header"),
        ),
        (
            "secret: { env: TOLLGATE_SECRET_H }",
            "secret: {}",
            &format!("{e}/authorization/header/secret: needs exactly one of"),
        ),
        (
            "failure_rate: 0.5",
            "failure_rate: 0",
            &format!("{e}/breaker/failure_rate: 0 is less than"),
        ),
        (
            "failure_rate: 0.5",
            "window: 2h",
            &format!("{e}/breaker/window: must be at least 1s and at most 1h"),
        ),
        (
            "failure_rate: 0.5",
            "open_for: 0s",
            &format!("{e}/breaker/open_for: must be at least 1s"),
        ),
        ("retry_budget: 0", "retry_budget: 11", &format!("{e}/retry_budget: 11 is more than 10")),
        (
            "disable_after: 1h",
            "disable_after: 1m",
            &format!("{e}/disable_after: must be at least 1h and at most 2160h"),
        ),
        (
            "state: disabled",
            "state: off",
            &format!("{e}/state: `off` is not one of `enabled`, `disabled`"),
        ),
    ]);
}

#[test]
fn each_fault_of_a_type_is_told_where_it_stands() {
    holds(&[
        (
            "{ name: contact.created",
            "{ name: contact.created, schema: true }, { name: contact.created",
            "/event_types/1/name: there is another event type",
        ),
        ("name: contact.created", "name: contact.*", "/event_types/0/name: is one type"),
        ("type: object", "type: thing", "/event_types/0/schema/type: is no JSON Schema"),
        (
            "type: object",
            "$ref: other.json",
            "/event_types/0/schema: must have all that it refers to",
        ),
    ]);
}

#[test]
fn what_a_tenant_may_send_stays_within_bounds() {
    let with = |caps: &str| {
        let plan = format!("{{ id: gold, events: {{ {caps} }},");
        super::check("{ id: gold,", &plan)
    };
    assert_eq!(with("rate: 1/s, backlog: 1, size: 1MiB"), Vec::<String>::new());
    for (caps, expected) in [
        ("size: 2MiB", "/plans/0/events/size: must be at least 1KiB and at most 1MiB"),
        ("backlog: 0", "/plans/0/events/backlog: 0 is less than 1"),
        ("rate: fast", "/plans/0/events/rate: `fast` is not a rate"),
    ] {
        let found = with(caps);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{caps}: {found:?}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    for (from, to) in [
        ("https://hooks.example/crm", "https://a:hunter2@hooks.example/crm"),
        ("https://hooks.example/crm", "hunter2"),
        ("signing_key: { file: /run/key }", "signing_key: { hunter2: x }"),
        ("client_secret: { env: TOLLGATE_SECRET_P }", "client_secret: { sealed: hunter2 }"),
        ("client_secret: { env: TOLLGATE_SECRET_P }", "client_secret: hunter2"),
    ] {
        let found = check(from, to);
        assert!(!found.is_empty() && !found.concat().contains("hunter2"), "{to}: {found:?}");
    }
}

fn holds(cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        let found = check(from, to);
        assert!(
            found.iter().any(|error| error.starts_with(expected)),
            "{from} → {to}: {expected} is not in {found:#?}"
        );
    }
}
