mod limits;
mod packs;
mod webhooks;

use super::{ConfigError, read};
use crate::record::{RecordMode, Share};

const SOUND: &str = r#"
format: 1
issuers:
  - { id: idp, issuer: "https://idp.example", audiences: [crm], algorithms: [RS256], jwks: { uri: "http://127.0.0.1:9000/jwks" }, tenant: acme }
upstreams:
  - { id: crm, targets: [{ address: "127.0.0.1:9000" }] }
services:
  - id: contacts
    select: [path, header, tenant_pin, default]
    versions:
      - { name: v1, upstream: crm, state: deprecated, deprecated_at: 2026-06-01T00:00:00Z, sunset_at: 2027-06-01T00:00:00Z, successor: v2 }
      - { name: v2, upstream: crm, state: active, default: true }
routes:
  - { id: contacts.list, service: contacts, match: { path: /contacts, methods: [GET] }, authenticate: { any_of: [api_key] } }
plans:
  - { id: gold, limits: [{ id: burst, rate: 50/s, burst: 100, per: tenant, on_store_error: local }] }
tenants:
  - { id: acme, plan: gold, state: active, timezone: Europe/Berlin, pins: { contacts: v1 }, consumers: [{ id: app, scopes: ["contacts:read"] }] }
packs: [{ id: p, version: "1.0.0" }]
attachments:
  - { id: a, pack: p@1.0.0, scope: { tenant: acme }, phases: [request], mode: enforce, on_failure: closed, settings: {} }
"#;

#[test]
fn how_keys_are_treated_stays_within_bounds() {
    let route = "authenticate: { any_of: [api_key] } }";
    let with = |rules: &str| {
        let idempotency =
            format!("idempotency: {{ mode: required, on_store_error: closed{rules} }}");
        check(route, &format!("authenticate: {{ any_of: [api_key] }}, {idempotency} }}"))
    };
    for sound in [
        "",
        ", wait: 30s, release_on: [], on_unknown: redrive, replicas: 5",
        ", wait: 0s, release_on: [400, 599], on_unknown: reject, replicas: 0",
    ] {
        assert_eq!(with(sound), Vec::<String>::new(), "{sound}");
    }
    for (rules, expected) in [
        (", retention: 30s", "/routes/0/idempotency/retention: must be at least 1m"),
        (", wait: 31s", "/routes/0/idempotency/wait: must be at most 30s"),
        (", wait: 5", "/routes/0/idempotency/wait: "),
        (", release_on: [399]", "/routes/0/idempotency/release_on/0: 399 is less than 400"),
        (", release_on: [429, 600]", "/routes/0/idempotency/release_on/1: 600 is more than 599"),
        (
            ", release_on: [429, 429]",
            "/routes/0/idempotency/release_on/1: `429` is in the list already",
        ),
        (", on_unknown: guess", "/routes/0/idempotency/on_unknown: `guess` is not one of"),
        (", replicas: 6", "/routes/0/idempotency/replicas: 6 is more than 5"),
    ] {
        let found = with(rules);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{rules}: {found:?}");
    }
}

/// What `read` says of the sound document with `from` replaced by `to`: `pointer: message` lines.
fn check(from: &str, to: &str) -> Vec<String> {
    assert!(SOUND.contains(from), "{from}");
    let errors = read(&SOUND.replace(from, to)).err().unwrap_or_default();
    errors.iter().map(ConfigError::to_string).collect()
}

#[test]
fn the_sound_document_is_accepted() {
    let errors = read(SOUND).err().unwrap_or_default();
    assert_eq!(errors, []);
}

#[test]
fn each_fault_is_reported_where_it_stands() {
    let cases = [
        ("rate: 50/s", "rate: fast", "/plans/0/limits/0/rate: `fast` is not a rate"),
        ("format: 1", "format: 2", "/format: 2 is more than 1"),
        ("format: 1", "format: 1\nextra: 1", "/extra: unknown field `extra`"),
        (
            "state: active, timezone",
            "state: paused, timezone",
            "/tenants/0/state: `paused` is not one of",
        ),
        (
            "Europe/Berlin",
            "Europe/Bonn",
            "/tenants/0/timezone: `Europe/Bonn` is not an IANA time zone",
        ),
        ("plan: gold", "plan: silver", "/tenants/0/plan: there is no plan `silver`"),
        (
            "pins: { contacts: v1 }",
            "pins: { contacts: v9 }",
            "/tenants/0/pins/contacts: service `contacts` has no version `v9`",
        ),
        (
            "pins: { contacts: v1 }",
            "pins: { a/b: v1 }",
            "/tenants/0/pins/a~1b: there is no service `a/b`",
        ),
        ("service: contacts", "service: people", "/routes/0/service: there is no service `people`"),
        (
            "name: v1, upstream: crm",
            "name: v1, upstream: erp",
            "/services/0/versions/0/upstream: there is no upstream `erp`",
        ),
        ("2027-06-01", "2025-06-01", "/services/0/versions/0/sunset_at: is before `deprecated_at`"),
        ("default: true", "default: false", "/services/0/select: names `default`"),
        (
            "tenant: acme }\nupstreams",
            "tenant: acme, secret: { env: X } }\nupstreams",
            "/issuers/0/secret: is only used with HS256",
        ),
        ("algorithms: [RS256]", "algorithms: [RS256, HS256]", "/issuers/0/algorithms: mixes HS256"),
        (
            "algorithms: [RS256]",
            "algorithms: [none]",
            "/issuers/0/algorithms/0: `none` is not one of",
        ),
        ("path: /contacts,", "path: contacts,", "/routes/0/match/path: `contacts` is not a path"),
        (
            "methods: [GET]",
            "methods: [get]",
            "/routes/0/match/methods/0: `get` is not one of `GET`",
        ),
        ("a, pack: p@1.0.0", "a, pack: q@1.0.0", "/attachments/0/pack: there is no pack `q@1.0.0`"),
        ("on_failure: closed, ", "", "/attachments/0: lacks the field `on_failure`"),
        (
            "on_store_error: local",
            "on_store_error: guess",
            "/plans/0/limits/0/on_store_error: `guess` is not one of",
        ),
        ("per: tenant,", "per: tenant, quota: 5/day,", "/plans/0/limits/0: needs exactly one of"),
        ("jwks: { uri:", "jwks: { url: x, uri:", "/issuers/0/jwks/url: unknown field `url`"),
        (
            "tenant: acme }\nupstreams",
            "tenant: acme, secret: { value: hush } }\nupstreams",
            "/issuers/0/secret/value: unknown field `value`: secrets stand by reference",
        ),
        ("{ id: acme, plan", "{ id: \"a b\", plan", "/tenants/0/id: `a b` is not an id"),
    ];
    for (from, to, expected) in cases {
        let found = check(from, to);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{to}: {found:?}");
    }
}

#[test]
fn a_route_records_nothing_unless_it_says_so() {
    for (written, expected) in [
        ("", RecordMode::Off),
        ("record: off, ", RecordMode::Off),
        ("record: required, ", RecordMode::Required),
        ("record: sampled(1), ", RecordMode::Sampled(Share::ALL)),
    ] {
        let text = SOUND.replace("match: {", &format!("{written}match: {{"));
        let config = read(&text).unwrap();
        let [route] = config.document().routes.as_slice() else { panic!("one route") };
        assert_eq!(route.record, expected, "{written}");
    }
    for (written, said) in [
        ("sampled(2)", "/routes/0/record: `sampled(2)` is not `required`, `off`, or a share"),
        ("0.1", "/routes/0/record: is a number, not a string"),
    ] {
        let found = check("match: {", &format!("record: {written}, match: {{"));
        assert!(found.iter().any(|error| error.starts_with(said)), "{found:?}");
    }
}

#[test]
fn shape_errors_and_dangling_references_come_together() {
    let text = SOUND
        .replace("plan: gold, state: active", "plan: silver, state: paused, colour: red")
        .replace("service: contacts", "service: people, cost: 0")
        .replace("rate: 50/s", "rate: 50/s, quota: 1/day")
        .replace("settings: {}", "settings: 3");
    let found = read(&text).unwrap_err();
    let pointers: Vec<_> = found.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(
        pointers,
        [
            "/attachments/0/settings",
            "/plans/0/limits/0",
            "/routes/0/cost",
            "/routes/0/service",
            "/tenants/0/colour",
            "/tenants/0/plan",
            "/tenants/0/state",
        ],
        "{found:?}"
    );
}

#[test]
fn two_routes_that_take_the_same_requests_are_refused() {
    let route = "  - { id: other, service: contacts, match: { path: /contacts, methods: [POST, GET] }, authenticate: { any_of: [jwt] } }\nplans:";
    let found = check("plans:", route);
    assert_eq!(
        found,
        ["/routes/1/match/methods/1: route `contacts.list` takes GET on this path already"]
    );
}

#[test]
fn text_that_is_no_document_is_one_error_at_the_root() {
    for text in ["", "- 1", "{", "a: b: c", "format: 1\nformat: 1"] {
        let found = read(text).unwrap_err();
        assert_eq!(
            found.first().map(|error| error.pointer.as_str()),
            Some(""),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn json_and_yaml_say_the_same() {
    let value = super::parse(SOUND).unwrap();
    let config = read(&value.to_string()).unwrap();
    let written = serde_json::to_value(config.document()).unwrap();
    let again = serde_json::to_value(super::check(&written).unwrap().document()).unwrap();
    assert_eq!(written, again);
}

/// What stands as the issuer's secret.
fn with_secret(secret: &str) -> String {
    SOUND
        .replace("algorithms: [RS256]", "algorithms: [HS256]")
        .replace("jwks: { uri: \"http://127.0.0.1:9000/jwks\" }", &format!("secret: {secret}"))
}

#[test]
fn a_secret_stands_by_exactly_one_reference() {
    let sealed = "{ sealed: tg1.0a1b2c3d.AAECAwQF-_8 }";
    for (secret, expected) in [
        ("{ env: TOLLGATE_SECRET_IDP }", None),
        ("{ file: /run/secrets/idp }", None),
        (sealed, None),
        ("{}", Some("/issuers/0/secret: needs exactly one of `env`, `file` and `sealed`")),
        (
            "{ env: TOLLGATE_SECRET_IDP, sealed: tg1.0a1b2c3d.AAEC }",
            Some("/issuers/0/secret: needs exactly one of `env`, `file` and `sealed`"),
        ),
        ("{ env: IDP }", Some("/issuers/0/secret/env: must be a variable's name that starts with")),
        ("{ sealed: tg1.0a1b2c3d }", Some("/issuers/0/secret/sealed: is not a sealed secret")),
        ("{ sealed: tg2.0a1b2c3d.AAEC }", Some("/issuers/0/secret/sealed: is not a sealed secret")),
    ] {
        let errors = read(&with_secret(secret)).err().unwrap_or_default();
        let errors: Vec<_> = errors.iter().map(ConfigError::to_string).collect();
        match (expected, errors.as_slice()) {
            (None, []) => {}
            (Some(expected), [only]) => assert!(only.starts_with(expected), "{secret}: {only}"),
            (_, errors) => panic!("{secret}: {errors:?}"),
        }
    }
}

#[test]
fn a_secret_that_is_written_down_is_refused_and_never_repeated() {
    // In every way in which people write one, wherever secrets or what is made of them stand.
    let plain = [
        "hunter2",
        "'hunter2'",
        "[hunter2]",
        "{ value: hunter2 }",
        "{ hunter2 }",
        "{ hunter2: env }",
        "{ env: hunter2 }",
        "{ env: [hunter2] }",
        "{ env: { value: hunter2 } }",
        "{ file: { hunter2: x } }",
        "{ sealed: hunter2 }",
        "{ sealed: tg1.hunter2 }",
        "{ env: TOLLGATE_SECRET_IDP, value: hunter2 }",
        "{ env: TOLLGATE_SECRET_IDP, hunter2: 1 }",
        "*hunter2",
        "!hunter2 x",
        "!!int hunter2",
        "\"hunter2",
        "'hunter2' hunter2",
        "@hunter2",
        "{ hunter2: 1, hunter2: 2 }",
        "\"\\hunter2\"",
    ];
    let key = |api_key: &str| {
        let consumer = format!(
            "{{ id: app, credentials: [{{ id: k1, api_key: {api_key} }}], scopes: [\"contacts:read\"] }}"
        );
        SOUND.replace("{ id: app, scopes: [\"contacts:read\"] }", &consumer)
    };
    let hash = format!("sha256:{}", "0".repeat(64));
    let keys = [
        "hunter2".to_owned(),
        "{ hash: hunter2, prefix: tg_live_1 }".to_owned(),
        "{ value: hunter2 }".to_owned(),
        format!("{{ hash: \"{hash}\", prefix: tg_live_hunter2_and_much_more_than_a_prefix_has }}"),
        format!("{{ hash: \"{hash}\", prefix: tg_live_1, hunter2 }}"),
    ];
    let texts = plain.iter().map(|secret| with_secret(secret));
    for text in texts.chain(keys.iter().map(|api_key| key(api_key))) {
        let errors = read(&text).expect_err(&text);
        assert!(!format!("{errors:?}").contains("hunter2"), "{text}: {errors:?}");
    }
    let twice = "tg_live_hunter2_and_much_more_than_a_prefix_has";
    let both = format!(
        "{{ hash: \"{hash}\", prefix: {twice} }} }}, {{ id: k2, api_key: {{ hash: \"{hash}\", prefix: {twice} }}"
    );
    let errors = read(&key(&both)).unwrap_err();
    assert!(errors.iter().any(|error| error.message.contains("of another key")), "{errors:?}");
    assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
}

#[test]
fn a_choice_by_its_tag_is_judged_by_the_branch_that_the_tag_names() {
    #[derive(schemars::JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    enum Shape {
        Circle {
            radius: u32,
        },
        Square {
            #[schemars(length(min = 1, max = 3), extend("format" = "label"))]
            name: String,
        },
    }
    #[derive(schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let errors = super::shape_errors::<Nothing>(&serde_json::json!({ "x": 1, "y": 2 }));
    let told: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    assert_eq!(told, ["/x: unknown field `x`", "/y: unknown field `y`"]);
    let cases = [
        (r#"{"kind":"circle","radius":1}"#, vec![]),
        (
            r#"{"kind":"circle","radius":"1","x":1}"#,
            vec!["/radius: is a string, not an integer", "/x: unknown field `x`"],
        ),
        (r#"{"kind":"square"}"#, vec!["lacks the field `name`"]),
        (r#"{"kind":"square","name":"four"}"#, vec!["/name: has more than 3 characters"]),
        (
            "{\"kind\":\"square\",\"name\":\"\\n\"}",
            vec![
                "/name: `\\n` is not a name: 1 to 64 characters, without line breaks and other control characters",
            ],
        ),
        (r#"{"kind":"cube"}"#, vec!["/kind: `cube` is not one of `circle`, `square`"]),
        (r#"{"radius":1}"#, vec!["lacks the field `kind`"]),
    ];
    for (text, expected) in cases {
        let errors = super::shape_errors::<Shape>(&serde_json::from_str(text).unwrap());
        let told: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
        assert_eq!(told, expected, "{text}");
    }
}

#[test]
fn what_may_stand_once_is_refused_at_each_of_its_places_and_names_no_other() {
    let hash = "0".repeat(64);
    let tenant = |id: &str, prefix: &str| {
        format!(
            "{{ id: {id}, plan: gold, state: active, consumers: [{{ id: app, credentials: [\
                {{ id: k1, api_key: {{ hash: \"sha256:{hash}\", prefix: {prefix} }} }}] }}] }}"
        )
    };
    let issuer = |id: &str, name: &str| {
        format!(
            "{{ id: {id}, issuer: \"{name}\", audiences: [crm], algorithms: [RS256], \
                jwks: {{ uri: \"http://127.0.0.1:9000/jwks\" }}, tenant: {id} }}"
        )
    };
    let text = format!(
        "format: 1\nplans: [{{ id: gold, limits: [] }}]\ntenants: [{}, {}, {}]\nissuers: [{}, {}, {}]\n",
        tenant("acme", "tg_live_1"),
        tenant("initech", "tg_live_2"),
        tenant("globex", "tg_live_1"),
        issuer("initech", "other"),
        issuer("globex", "same"),
        issuer("acme", "same"),
    );
    let errors = read(&text).unwrap_err();
    let told: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    assert_eq!(
        told,
        [
            "/issuers/1/issuer: is the `issuer` of another one: a token would fit both",
            "/issuers/2/issuer: is the `issuer` of another one: a token would fit both",
            "/tenants/0/consumers/0/credentials/0/api_key/prefix: has the prefix of another key",
            "/tenants/2/consumers/0/credentials/0/api_key/prefix: has the prefix of another key",
        ]
    );
}

#[test]
fn what_fits_no_shape_is_told_by_fields_and_types_that_people_know() {
    #[derive(schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    #[derive(schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    struct Some {
        text: Option<String>,
        count: Option<u32>,
    }
    let told = |errors: Vec<ConfigError>| -> Vec<String> {
        errors.iter().map(ConfigError::to_string).collect()
    };
    let value = |text: &str| serde_json::from_str(text).unwrap();
    assert_eq!(
        told(super::shape_errors::<Nothing>(&value(r#"{"x":1,"y/z":2}"#))),
        ["/x: unknown field `x`", "/y~1z: unknown field `y/z`"]
    );
    assert_eq!(
        told(super::shape_errors::<Some>(&value(r#"{"text":1,"count":"1"}"#))),
        ["/count: is a string, not an integer", "/text: is a number, not a string"]
    );
}

#[test]
fn yaml_that_is_not_read_is_told_in_words_for_people() {
    let deep = format!("a: {}", "[".repeat(100) + &"]".repeat(100));
    let replayed = format!(
        "a: &a [{}]\nb: &b [{}]\nc: &c [{}]\nd: &d [{}]\ne: &e [{}]\nf: [{}]\n",
        "1,".repeat(60),
        "*a,".repeat(60),
        "*b,".repeat(60),
        "*c,".repeat(60),
        "*d,".repeat(60),
        "*e,".repeat(60),
    );
    let many = format!("a: &a 1\nb: [{}]\n", "*a,".repeat(60_000));
    for (text, expected) in [
        (
            "a: 1\n---\nb: 2\n",
            "there is more than one YAML document: a second one begins, at line ",
        ),
        (deep.as_str(), "the document is more than is read: it is nested too deeply"),
        (
            &replayed,
            "the document is more than is read: too much stands behind its anchors and aliases",
        ),
        (
            &many,
            "the document is more than is read: too much stands behind its anchors and aliases",
        ),
        ("a: 1\na: 2\n", "the document is not YAML: a key stands twice, at line 2, column 1"),
    ] {
        let errors = super::parse(text).unwrap_err();
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(error.message.starts_with(expected), "{expected}: {error}");
        assert!(!error.message.contains(['{', '_']), "{error}");
    }
}
