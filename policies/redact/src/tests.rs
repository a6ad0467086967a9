use super::*;
use tollgate_pack::configure;

const BODY: &str = r#"{"items":[{"id":1,"email":"ada@example.org","notes":"n","card":"4111111111111111"}],"email":"x","total":1.0,"big":12345678901234567890123}"#;

fn fields(row: &str) -> String {
    format!(r#"{{"fields":[{row}],"roles_claim":"roles"}}"#)
}

fn answer(body: &str) -> Response {
    Response::builder().header("content-type", "application/json; charset=utf-8").body(body).build()
}

fn decide(settings: &str, request: &Request, response: &Response) -> Decision {
    let policy: Redact = configure(settings).expect("good settings");
    policy.on_response(request, response)
}

/// What a caller sees of the body.
fn seen(settings: &str, request: &Request, body: &str) -> String {
    match decide(settings, request, &answer(body)) {
        Decision::Continue => body.to_owned(),
        Decision::Edit(Edits { headers, body: Some(body) }) if headers.is_empty() => {
            String::from_utf8(body).expect("JSON")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_name_fields_and_the_rest_stays_as_it_was() {
    let nobody = Request::builder().build();
    let body = r#"{"a":{"b":[{"c":1,"d":2},{"c":3}],"c":4},"c":5,"e f":6}"#;
    for (path, expected) in [
        ("$.c", r#"{"a":{"b":[{"c":1,"d":2},{"c":3}],"c":4},"e f":6}"#),
        ("$.a.b[*].c", r#"{"a":{"b":[{"d":2},{}],"c":4},"c":5,"e f":6}"#),
        ("$.a.b[0].c", r#"{"a":{"b":[{"d":2},{"c":3}],"c":4},"c":5,"e f":6}"#),
        ("$.a.b[1]", r#"{"a":{"b":[{"c":1,"d":2}],"c":4},"c":5,"e f":6}"#),
        ("$..c", r#"{"a":{"b":[{"d":2},{}]},"e f":6}"#),
        ("$.a..c", r#"{"a":{"b":[{"d":2},{}]},"c":5,"e f":6}"#),
        ("$['e f']", r#"{"a":{"b":[{"c":1,"d":2},{"c":3}],"c":4},"c":5}"#),
        ("$.a.*", r#"{"a":{},"c":5,"e f":6}"#),
        ("$..[0]", r#"{"a":{"b":[{"c":3}],"c":4},"c":5,"e f":6}"#),
        ("$.x.y", body),
        ("$.c.d", body),
        ("$.a.b.c", body),
    ] {
        let settings = fields(&format!(r#"{{"paths":["{path}"]}}"#));
        assert_eq!(seen(&settings, &nobody, body), expected, "{path}");
    }
}

#[test]
fn a_field_is_seen_by_its_scopes_and_roles_alone() {
    let row =
        r#"{"paths":["$..email","$..notes"],"scopes":["contacts:pii"],"roles":["support","dpo"]}"#;
    let settings = fields(row);
    let with =
        |claim: tollgate_pack::serde_json::Value| Request::builder().claim("roles", claim).build();
    for (request, sees) in [
        (Request::builder().build(), false),
        (Request::builder().scope("contacts:read").build(), false),
        (Request::builder().scope("contacts:pii").build(), true),
        (with("support".into()), true),
        (with("sales".into()), false),
        (with(vec!["sales", "dpo"].into()), true),
        (with(7.into()), false),
    ] {
        let seen = seen(&settings, &request, BODY);
        assert_eq!(seen.contains("ada@example.org"), sees, "{:?}", request.claim("roles"));
        assert_eq!(seen.contains("notes"), sees);
        assert!(seen.contains(r#""total":1.0,"big":12345678901234567890123"#), "{seen}");
    }
}

#[test]
fn what_others_see_is_nothing_null_or_a_mask() {
    let nobody = Request::builder().build();
    let of = |more: &str| fields(&format!(r#"{{"paths":["$.v"]{more}}}"#));
    for (more, value, expected) in [
        ("", r#""secret""#, "{}"),
        (r#","otherwise":"null""#, r#""secret""#, r#"{"v":null}"#),
        (r#","otherwise":"mask""#, r#""secret""#, r#"{"v":"***"}"#),
        (r#","otherwise":"mask""#, "7", r#"{"v":"***"}"#),
        (r#","otherwise":"mask","keep_last":4"#, r#""4111111111111234""#, r#"{"v":"***1234"}"#),
        (r#","otherwise":"mask","keep_last":4"#, r#""1234""#, r#"{"v":"***"}"#),
        (r#","otherwise":"mask","keep_last":2"#, r#""äöü""#, r#"{"v":"***öü"}"#),
    ] {
        assert_eq!(seen(&of(more), &nobody, &format!(r#"{{"v":{value}}}"#)), expected, "{more}");
    }
}

#[test]
fn a_body_that_cannot_be_read_is_not_handed_on() {
    let nobody = Request::builder().build();
    let deny = fields(r#"{"paths":["$.v"]}"#);
    let pass = deny.replace("\"roles_claim\"", "\"unreadable\":\"pass\",\"roles_claim\"");
    let json = || Response::builder().header("content-type", "application/problem+json");
    for (response, readable) in [
        (json().body("{}"), true),
        (json().body(""), true),
        (json(), true),
        (json().body("{"), false),
        (json().body(format!("[{}7]", "7,".repeat(30_000))), false),
        (json().header("content-encoding", "gzip").body("{}"), false),
        (json().header("content-encoding", "identity").body("{}"), true),
        (Response::builder().header("content-type", "text/html").body("<p>"), false),
        (Response::builder().body("{}"), false),
    ] {
        let shown = format!("{response:?}");
        let response = response.build();
        let denied = matches!(decide(&deny, &nobody, &response), Decision::Deny(_));
        assert_eq!(denied, !readable, "{shown}");
        assert_eq!(decide(&pass, &nobody, &response), Decision::Continue, "{shown}");
    }
}

#[test]
fn digests_of_the_old_body_are_removed() {
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("content-digest", "sha-256=:x:")
        .header("etag", "\"1\"")
        .body(r#"{"v":1}"#)
        .build();
    let edits = Edits::new().remove("content-digest").body("{}");
    let settings = fields(r#"{"paths":["$.v"]}"#);
    assert_eq!(decide(&settings, &Request::builder().build(), &response), edits.into());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let path = |path: &str| fields(&format!(r#"{{"paths":["{path}"]}}"#));
    for (settings, expected) in [
        (r#"{"fields":[]}"#.to_owned(), "names none"),
        (path("email"), "`email` is no path"),
        (path("$"), "`$` is no path"),
        (path("$.a["), "is no path"),
        (path("$.a[-1]"), "is no path"),
        (path("$.a[?@.b]"), "is no path"),
        (path("$.a..."), "is no path"),
        (path("$.a b"), "is no path"),
        (fields(r#"{"paths":["$.a"],"keep_last":4}"#), "`keep_last` goes with"),
        (r#"{"fields":[{"paths":["$.a"],"roles":["x"]}]}"#.to_owned(), "say in `roles_claim`"),
        (fields(r#"{"paths":["$.a"],"scope":["x"]}"#), "unknown field `scope`"),
    ] {
        let error = configure::<Redact>(&settings).err().expect("bad settings");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}
