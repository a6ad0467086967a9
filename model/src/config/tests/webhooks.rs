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

const OF_A_SOURCE: &[(&str, &str, &str)] = &[
    ("{ id: s, tenant: acme", "{ id: s, tenant: globex", "/sources/0/tenant: there is no tenant"),
    ("{ id: p,", "{ id: s,", "/sources/1/id: there is another source `s`"),
    (", secret: { env: TOLLGATE_SECRET_S }", "", "/sources/0: needs `secret`"),
    (
        "verify: acme_hmac, secret: { env: TOLLGATE_SECRET_S }",
        "tolerance: 5m",
        "/sources/0: needs `verify` or `poll`",
    ),
    (
        "verify: acme_hmac,",
        "verify: plain,",
        "/sources/0/verify: `plain` is not one of `acme_hmac`, `standard_webhooks`",
    ),
    ("env: TOLLGATE_SECRET_S }", "env: S }", "/sources/0/secret/env: must be a variable's name"),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { value: x }",
        "/sources/0/secret/value: unknown field `value`: secrets stand by reference",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { env: TOLLGATE_SECRET_S }, previous_secret: { hunter2: x }",
        "/sources/0/previous_secret: has an unknown field: secrets stand by reference",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { env: TOLLGATE_SECRET_S }, previous_secret: { file: f, env: TOLLGATE_SECRET_T }",
        "/sources/0/previous_secret: needs exactly one of `env`, `file` and `sealed`",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { env: TOLLGATE_SECRET_S }, tolerance: 2h",
        "/sources/0/tolerance: must be at least 1s and at most 1h",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { env: TOLLGATE_SECRET_S }, event: { id: id }",
        "/sources/0/event/id: `id` is not a pointer into JSON",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_S }",
        "secret: { env: TOLLGATE_SECRET_S }, event: { default_type: a b }",
        "/sources/0/event/default_type: must be 1 to 128 bytes without spaces",
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
        "/sources/1/poll/interval: must be at least 1s and at most 24h",
    ),
    ("timeout: 31s", "timeout: 6m", "/sources/1/poll/timeout: must be at least 1s and at most 5m"),
    ("timeout: 31s", "timeout: 30s", "/sources/1/poll/wait/time: must be less than `timeout`, 30s"),
    ("time: 30s", "time: 1500ms", "/sources/1/poll/wait/time: must be whole seconds"),
    (
        "newest: /updated_at",
        "newest: /updated_at, from: /next",
        "/sources/1/poll/cursor: needs exactly one of `from` and `newest`",
    ),
    (
        "newest: /updated_at",
        "from: /next",
        "/sources/1/poll/cursor/overlap: is only used with `newest`",
    ),
    ("parameter: since", "parameter: \"\"", "/sources/1/poll/cursor/parameter: must be 1 to 128"),
    (
        "https://erp.example/changes?a=b",
        "ftp://erp.example",
        "/sources/1/poll/url: must start with `https://`",
    ),
    (
        "client_secret: { env: TOLLGATE_SECRET_P }",
        "client_secret: { env: P }",
        "/sources/1/poll/authorization/oauth2/client_secret/env: must be a variable's name",
    ),
    (
        "https://idp.example/token",
        "token",
        "/sources/1/poll/authorization/oauth2/token_url: must start with",
    ),
    (
        "scopes: [read]",
        "scopes: [\"a b\"]",
        "/sources/1/poll/authorization/oauth2/scopes/0: is not a scope",
    ),
    (
        "oauth2: {",
        "header: { name: X-K, secret: { file: f } }, oauth2: {",
        "/sources/1/poll/authorization: needs exactly one of `header` and `oauth2`",
    ),
];

#[test]
fn each_fault_of_a_source_is_told_where_it_stands() {
    holds(OF_A_SOURCE);
}

const OF_AN_ENDPOINT: &[(&str, &str, &str)] = &[
    ("{ id: e, tenant: acme", "{ id: e, tenant: globex", "/endpoints/0/tenant: there is no tenant"),
    ("{ id: f,", "{ id: e,", "/endpoints/1/id: there is another endpoint `e`"),
    ("https://hooks.example/crm", "hooks.example/crm", "/endpoints/0/url: must start with"),
    (
        "https://hooks.example/crm",
        "ftp://hooks.example/crm",
        "/endpoints/0/url: must start with `https://`",
    ),
    (
        "https://hooks.example/crm",
        "https://a:hunter2@hooks.example/crm",
        "/endpoints/0/url: must hold no user",
    ),
    (
        "https://hooks.example/crm",
        "https://hooks.example/crm#x",
        "/endpoints/0/url: must hold no fragment",
    ),
    ("[\"contact.*\", order.paid]", "[]", "/endpoints/0/events: must not be empty"),
    ("order.paid", "order paid", "/endpoints/0/events/1: must be 1 to 128 bytes without spaces"),
    ("order.paid", "contact.*", "/endpoints/0/events/1: `contact.*` is in the list already"),
    (
        "subject: [\"a*\", b]",
        "Subject: [a]",
        "/endpoints/0/attributes/Subject: is no context attribute",
    ),
    (
        "subject: [\"a*\", b]",
        "subject: []",
        "/endpoints/0/attributes/subject: needs 1 to 64 values",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_E }",
        "secret: whsec_abc",
        "/endpoints/0/secret: is a string, not an object",
    ),
    (
        "secret: { file: /run/old }",
        "secret: {}",
        "/endpoints/0/previous_secrets/0/secret: needs exactly one of",
    ),
    (
        "signing_key: { file: /run/key }",
        "signing_key: { key: whsk_abc }",
        "/endpoints/0/signing_key/key: unknown field `key`: secrets stand by reference",
    ),
    (
        "signing_key: { file: /run/key }",
        "signing_key: {}",
        "/endpoints/0/signing_key: needs exactly one of",
    ),
    (
        "[100ms, 5m]",
        "[100ms, 0s]",
        "/endpoints/0/schedule/1: must be at least 100ms and at most 168h",
    ),
    ("[100ms, 5m]", "soon", "/endpoints/0/schedule: `soon` is not one of `standard`"),
    ("[100ms, 5m]", "[]", "/endpoints/0/schedule: "),
    ("[100ms, 5m]", "[100ms, 5d]", "/endpoints/0/schedule/1: `5d` is not"),
    (", on_failure: stop", "", "/endpoints/0: is ordered, so it needs `on_failure`"),
    ("ordering: key", "ordering: none", "/endpoints/0/on_failure: is only used with an `ordering`"),
    (
        "ordering: key",
        "ordering: endpoint",
        "/endpoints/0/order_key: is only used with `ordering: key`",
    ),
    (
        "order_key: subject",
        "order_key: the-subject",
        "/endpoints/0/order_key: is no context attribute",
    ),
    ("timeout: 60s", "timeout: 61s", "/endpoints/0/timeout: must be at least 100ms and at most 1m"),
    ("concurrency: 8", "concurrency: 0", "/endpoints/0/concurrency: 0 is less than 1"),
    (
        "name: X-Key",
        "name: Webhook-Id",
        "/endpoints/0/authorization/header/name: is a header that the request has anyway",
    ),
    (
        "name: X-Key",
        "name: Host",
        "/endpoints/0/authorization/header/name: is a header that the request has anyway",
    ),
    (
        "name: X-Key",
        "name: \"X Key\"",
        "/endpoints/0/authorization/header/name: `X Key` is not the name of a header",
    ),
    (
        "secret: { env: TOLLGATE_SECRET_H }",
        "secret: {}",
        "/endpoints/0/authorization/header/secret: needs exactly one of",
    ),
    ("failure_rate: 0.5", "failure_rate: 0", "/endpoints/0/breaker/failure_rate: 0 is less than"),
    (
        "failure_rate: 0.5",
        "window: 2h",
        "/endpoints/0/breaker/window: must be at least 1s and at most 1h",
    ),
    ("failure_rate: 0.5", "open_for: 0s", "/endpoints/0/breaker/open_for: must be at least 1s"),
    ("retry_budget: 0", "retry_budget: 11", "/endpoints/0/retry_budget: 11 is more than 10"),
    (
        "disable_after: 1h",
        "disable_after: 1m",
        "/endpoints/0/disable_after: must be at least 1h and at most 2160h",
    ),
    (
        "state: disabled",
        "state: off",
        "/endpoints/0/state: `off` is not one of `enabled`, `disabled`",
    ),
];

#[test]
fn each_fault_of_an_endpoint_is_told_where_it_stands() {
    holds(OF_AN_ENDPOINT);
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

#[test]
fn a_tenant_has_at_most_256_endpoints() {
    let endpoint = |n: usize| {
        format!(
            "  - {{ id: hook-{n}, tenant: acme, url: \"https://hooks.example/\", events: [\"*\"], secret: {{ env: TOLLGATE_SECRET_A }} }}\n"
        )
    };
    let with = |count: usize| {
        let endpoints: String = (0..count).map(endpoint).collect();
        read(&format!("{SOUND}\nendpoints:\n{endpoints}")).err().unwrap_or_default()
    };
    assert_eq!(with(256), []);
    let pointers: Vec<String> = with(258).into_iter().map(|error| error.pointer).collect();
    assert_eq!(pointers, ["/endpoints/256", "/endpoints/257"]);
}

#[test]
fn schedules_that_outlast_the_events_are_told_where_they_stand() {
    let endpoint = |id: &str, schedule: &str| {
        format!(
            "  - {{ id: {id}, tenant: acme, url: \"https://hooks.example/\", events: [\"*\"], secret: {{ env: TOLLGATE_SECRET_A }}, schedule: {schedule} }}\n"
        )
    };
    let schedules = [("a", "standard"), ("b", "[100h, 100h]"), ("c", "[1s]")];
    let endpoints: String = schedules.map(|(id, schedule)| endpoint(id, schedule)).concat();
    let config = read(&format!("{SOUND}\nendpoints:\n{endpoints}")).unwrap();
    for (kept, expected) in [
        ("720h", &[][..]),
        // With its spread, 240h.
        ("240h", &[]),
        ("239h", &["/endpoints/1/schedule"]),
        ("80h", &["/endpoints/0/schedule", "/endpoints/1/schedule"]),
    ] {
        let errors = config.schedules_beyond(kept.parse().unwrap());
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{kept}");
    }
    let errors = config.schedules_beyond("239h".parse().unwrap());
    let message = "/endpoints/1/schedule: may last for 240h, with its spread and what an endpoint may ask for, and events are \
        kept for 239h: shorten it, or raise `webhooks.retention` in the settings";
    assert_eq!(errors[0].to_string(), message);
}
