use super::*;
use tollgate_pack::{RequestBuilder, configure};

fn rule(when: &str) -> String {
    let when = when.replace('\\', "\\\\").replace('"', "\\\"");
    format!(r#"{{"rules":[{{"when":"{when}","deny":{{"reason":"held"}}}}]}}"#)
}

fn holds(when: &str, request: Request) -> bool {
    let policy: Cel = configure(&rule(when)).unwrap_or_else(|error| panic!("{when}: {error}"));
    matches!(policy.on_request(&request), Decision::Deny(_))
}

fn request() -> RequestBuilder {
    Request::builder()
        .method("POST")
        .path("/v2/contacts")
        .query("limit=10&q=a%20b")
        .header("X-Id", "7")
        .header("long", "a".repeat(4097))
        .body_size(512)
        .client_address("::ffff:10.1.2.3")
        .route("contacts.create")
        .version("v2")
        .caller("acme", "acme-mobile")
        .plan("gold")
        .scope("contacts:read")
        .scope("contacts:write")
        .claim("team", "sales")
        .claim("amr", vec!["pwd", "otp"])
        .claim("org", tollgate_pack::serde_json::json!({ "level": 3 }))
        .now("2026-11-21T22:30:00Z")
        .timezone("Europe/Berlin")
        .data("blocked", "initech")
}

#[test]
fn conditions_read_the_exchange() {
    for (when, expected) in [
        (r#"request.method == "POST" && request.path.startsWith("/v2/")"#, true),
        (r#"request.query.contains("limit")"#, true),
        (r#"int(request.params["limit"]) > 5 && request.params.q == "a b""#, true),
        (r#""page" in request.params"#, false),
        (r#"request.headers["x-id"] == "7" && request.headers["X-ID"] == "7""#, true),
        (r#""x-other" in request.headers || has(request.headers.other)"#, false),
        (r#"request.headers[?"x-other"].orValue("none") == "none""#, true),
        ("request.body_size > 256", true),
        (
            r#"request.address.inCidr("10.0.0.0/8") && !inCidr(request.address, "10.2.0.0/16")"#,
            true,
        ),
        (r#"request.route == "contacts.create" && request.version == "v2""#, true),
        (
            r#"caller.tenant + "/" + caller.consumer == "acme/acme-mobile" && caller.plan == "gold""#,
            true,
        ),
        (r#""contacts:write" in caller.scopes && size(caller.scopes) == 2"#, true),
        (r#"caller.scopes.exists(s, s.endsWith(":delete"))"#, false),
        (r#"caller.scopes.all(s, s.startsWith("contacts:"))"#, true),
        (r#"claims.team == "sales" && "otp" in claims.amr && claims.org.level >= 3"#, true),
        ("has(claims.sub)", false),
        // Half past eleven at night in Berlin, on a Saturday.
        ("time.weekday == 6 && time.hour == 23 && time.minute == 30 && time.day == 21", true),
        ("time.unix == 1795300200 && time.year == 2026 && time.month == 11", true),
        (r#"data["blocked"] == caller.tenant || "other" in data"#, false),
        (r#"request.path.matches("^/v[0-9]+/") && "a1".matches("[a-z]" + "[0-9]")"#, true),
        (r#""ACME".lowerAscii() == caller.tenant"#, true),
    ] {
        assert_eq!(holds(when, request().build()), expected, "{when}");
    }
}

#[test]
fn the_first_rule_that_denies_ends_it_and_changes_come_together() {
    let settings = r#"{"rules":[
        { "when": "true", "set_header": { "name": "x-team", "value_of": "claims.team" } },
        { "when": "caller.plan == 'gold'", "set_header": { "name": "x-fast", "value": "1" } },
        { "when": "caller.plan == 'free'", "set_header": { "name": "x-slow", "value": "1" } },
        { "when": "true", "remove_header": "x-id" },
        { "when": "request.body_size > 1000", "deny": { "reason": "large", "status": 413, "message": "No." } },
        { "when": "request.body_size > 900", "deny": { "reason": "not_reached" } }
    ]}"#;
    let policy: Cel = configure(settings).expect("good settings");
    let edits = Edits::new().set("x-team", "sales").set("x-fast", "1").remove("x-id");
    assert_eq!(policy.on_request(&request().build()), edits.into());
    let denial = Denial::new("large", "No.").status(413);
    assert_eq!(policy.on_request(&request().body_size(1001).build()), denial.into());
}

#[test]
fn rules_of_the_response_see_it() {
    let settings = r#"{"rules":[
        { "when": "response.status >= 500", "phase": "response", "deny": { "reason": "upstream" } },
        { "when": "'server' in response.headers", "phase": "response", "remove_header": "server" },
        { "when": "true", "set_header": { "name": "x", "value": "1" } }
    ]}"#;
    let policy: Cel = configure(settings).expect("good settings");
    let answer = |status| Response::builder().status(status).header("Server", "x").build();
    let request = request().build();
    assert_eq!(policy.on_response(&request, &answer(200)), Edits::new().remove("server").into());
    assert!(matches!(policy.on_response(&request, &answer(503)), Decision::Deny(_)));
}

#[test]
fn the_first_cost_whose_condition_holds_counts() {
    let settings = r#"{"default_cost":2,"rules":[
        { "when": "request.path.startsWith('/v2/')", "cost": 7 },
        { "when": "true && request.method == 'POST'", "cost": 9 }
    ]}"#;
    let policy: Cel = configure(settings).expect("good settings");
    for (request, expected) in [
        (request(), 7),
        (request().path("/v1/contacts"), 9),
        (request().path("/v1/contacts").method("GET"), 2),
    ] {
        assert_eq!(policy.cost(&request.build()), expected);
    }
}

#[test]
fn a_condition_that_cannot_be_evaluated_denies_or_is_skipped_as_its_rule_says() {
    for when in [
        r#"request.headers["x-other"] == "1""#,
        "claims.sub == 'x'",
        "request.method",
        "request.method > 3",
        r#"request.address.inCidr("nonsense")"#,
        "unknown(1)",
        "request.headers.long.matches('a')",
    ] {
        assert!(holds(when, request().build()), "{when}");
        let skipping = rule(when).replace(r#""deny""#, r#""on_error":"skip","deny""#);
        let policy: Cel = configure(&skipping).expect("good settings");
        assert_eq!(policy.on_request(&request().build()), Decision::Continue, "{when}");
        let other = rule(when).replace(r#""deny":{"reason":"held"}"#, r#""remove_header":"x-id""#);
        let policy: Cel = configure(&other).expect("good settings");
        assert_eq!(policy.on_request(&request().build()), Decision::Continue, "{when}");
        let cost = rule(when).replace(r#""deny":{"reason":"held"}"#, r#""cost":9"#);
        let policy: Cel = configure(&cost).expect("good settings");
        assert_eq!(policy.cost(&request().build()), 1, "{when}");
    }
}

#[test]
fn a_header_whose_value_cannot_be_told_is_removed() {
    for value in ["claims.sub", "caller.scopes", "'a' + string(b'\\x0a')"] {
        let settings = format!(
            r#"{{"rules":[{{"when":"true","set_header":{{"name":"x-sub","value_of":"{}"}}}}]}}"#,
            value.replace('\\', "\\\\")
        );
        let policy: Cel = configure(&settings).expect("good settings");
        let request = request().header("x-sub", "mallory").build();
        assert_eq!(policy.on_request(&request), Edits::new().remove("x-sub").into(), "{value}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let then = |then: &str| format!(r#"{{"rules":[{{"when":"true"{then}}}]}}"#);
    for (settings, expected) in [
        (r#"{"rules":[]}"#.to_owned(), "names none"),
        (rule("request.method =="), "`rules[0]`: `request.method ==`"),
        (rule("user.name == 'x'"), "`user` is not known, but request, caller"),
        (rule("request.methd == 'x'"), "`request` has no `methd`, but method, path"),
        (rule("caller.scopes.exists(s, t == s)"), "`t` is not known"),
        (rule("response.status == 200"), "there is no `response` yet"),
        (rule("request.path.matches('(')"), "`(`: "),
        (then(""), "give exactly one of"),
        (then(r#","cost":1,"remove_header":"x""#), "give exactly one of"),
        (then(r#","cost":1,"phase":"response""#), "a cost has no `phase`"),
        (then(r#","cost":1,"on_error":"skip""#), "`on_error` goes with `deny`"),
        (then(r#","deny":{"reason":"Not Good"}"#), "`Not Good` is no reason"),
        (then(r#","deny":{"reason":"x","status":500}"#), "`status` is 500"),
        (then(r#","set_header":{"name":"a b","value":"x"}"#), "`a b` is not a header's name"),
        (then(r#","set_header":{"name":"x"}"#), "give one of `value`"),
        (then(r#","set_header":{"name":"x","value_of":"nobody"}"#), "`nobody` is not known"),
        (then(r#","allow":true"#), "unknown field `allow`"),
    ] {
        let error = configure::<Cel>(&settings).err().expect("bad settings");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}
