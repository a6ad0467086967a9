use super::*;
use tollgate_pack::{RequestBuilder, configure};

const SETTINGS: &str = r##"{"bodies":[
    {
        "routes": ["contacts.create"], "versions": ["v2"],
        "schema": {
            "type": "object",
            "properties": {
                "name": { "$ref": "#/$defs/name" },
                "emails": { "type": "array", "items": { "type": "string", "format": "email" }, "maxItems": 3 },
                "born": { "type": "string", "pattern": "^[0-9]{4}$" }
            },
            "required": ["name"], "additionalProperties": false,
            "$defs": { "name": { "type": "object", "properties": { "family": { "type": "string", "minLength": 1 } }, "required": ["family"] } }
        }
    },
    { "routes": ["notes.create"], "content_types": ["application/vnd.notes.v1+json"], "schema": false }
]}"##;

fn decide(request: RequestBuilder) -> Option<Denial> {
    let policy: JsonSchema = configure(SETTINGS).expect("good settings");
    match policy.on_request(&request.build()) {
        Decision::Deny(denial) => Some(denial),
        _ => None,
    }
}

fn create(body: &str) -> RequestBuilder {
    Request::builder()
        .method("POST")
        .route("contacts.create")
        .version("v2")
        .header("content-type", "application/json; charset=utf-8")
        .body(body)
}

/// The pointers of a denial's errors.
fn pointers(denial: &Denial) -> Vec<String> {
    let errors = denial.details.iter().find(|(name, _)| name == "errors").expect("errors");
    let errors: Vec<Value> = serde_json::from_str(&errors.1).expect("a list");
    errors.iter().map(|error| error["pointer"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_body_that_fits_passes() {
    for body in [
        r#"{"name":{"family":"Lovelace"}}"#,
        r#"{"name":{"family":"Lovelace"},"emails":["ada@example.org"],"born":"1815"}"#,
    ] {
        assert_eq!(decide(create(body)), None, "{body}");
    }
}

#[test]
fn a_body_that_does_not_is_denied_with_pointers() {
    for (body, expected) in [
        ("{}", &["/name"][..]),
        (r#"{"name":{}}"#, &["/name/family"]),
        (r#"{"name":{"family":""}}"#, &["/name/family"]),
        (r#"{"name":{"family":"L"},"emails":["ada","x@y.z",7]}"#, &["/emails/0", "/emails/2"]),
        (r#"{"name":{"family":"L"},"a/b":1,"c~d":2}"#, &["/a~1b", "/c~0d"]),
        (r#"{"name":{"family":"L"},"born":"17"}"#, &["/born"]),
        ("[]", &[""]),
    ] {
        let denial = decide(create(body)).expect("a denial");
        assert_eq!((denial.reason.as_str(), denial.status), ("body_invalid", Some(422)), "{body}");
        assert_eq!(pointers(&denial), expected, "{body}");
    }
}

#[test]
fn what_was_sent_is_not_repeated_and_only_so_many_places_are_told() {
    let denial = decide(create(r#"{"name":{"family":"L"},"born":"secret"}"#)).expect("a denial");
    assert!(
        denial.details.iter().all(|(_, json)| !json.contains("secret")),
        "{:?}",
        denial.details
    );
    let many: Vec<String> = (0..40).map(|n| format!(r#""x{n}":1"#)).collect();
    let denial = decide(create(&format!("{{{}}}", many.join(",")))).expect("a denial");
    assert_eq!(pointers(&denial).len(), TOLD);
    assert!(denial.details.contains(&("more".to_owned(), "true".to_owned())));
}

#[test]
fn only_json_is_read() {
    let empty = create("").header("x", "y");
    for (request, reason, status) in [
        (create("{"), "body_malformed", 400),
        (empty, "body_malformed", 400),
        (create("{}").route("notes.create"), "content_type_unsupported", 415),
        (
            Request::builder().method("POST").route("contacts.create").version("v2"),
            "content_type_unsupported",
            415,
        ),
    ] {
        let denial = decide(request).expect("a denial");
        assert_eq!((denial.reason.as_str(), denial.status), (reason, Some(status)));
    }
    let problem = Request::builder()
        .method("POST")
        .route("contacts.create")
        .version("v2")
        .header("content-type", "Application/Vnd.crm.v2+JSON")
        .body(r#"{"name":{"family":"L"}}"#);
    assert_eq!(decide(problem), None);
}

#[test]
fn a_body_of_too_many_values_is_denied_before_it_is_read() {
    let denial = decide(create(&format!("[{}7]", "{\"\":1},".repeat(20_000)))).expect("a denial");
    assert_eq!((denial.reason.as_str(), denial.status), ("body_too_complex", Some(413)));
    assert_eq!(denial.details, [("max_values".to_owned(), "10000".to_owned())]);
    let emails = vec!["7"; 2_000].join(",");
    let large = format!(r#"{{"name":{{"family":"L"}},"emails":[{emails}]}}"#);
    let denial = decide(create(&large)).expect("a denial");
    assert_eq!((pointers(&denial).len(), &*denial.details[1].1), (1, "true"));
    let text = format!(r#"{{"name":{{"family":"{}"}}}}"#, ",".repeat(100_000));
    assert_eq!(decide(create(&text)), None);
}

#[test]
fn requests_that_no_entry_covers_pass() {
    for request in [
        create("nonsense").method("GET"),
        create("nonsense").version("v1"),
        create("nonsense").route("contacts.change"),
    ] {
        assert_eq!(decide(request), None);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let schema = |schema: &str| format!(r#"{{"bodies":[{{"schema":{schema}}}]}}"#);
    for (settings, expected) in [
        (r#"{"bodies":[]}"#.to_owned(), "names none"),
        (schema(r#"{"type":"text"}"#), "the schema of `bodies[0]`, at `/type`"),
        (schema(r##"{"$ref":"#/$defs/x"}"##), "the schema of `bodies[0]`"),
        (schema(r#"{"$ref":"https://example.org/s.json"}"#), "the schema of `bodies[0]`"),
        (schema("{}").replace("]}", r#"],"status":200}"#), "`status` is 200"),
        (schema("{}").replace("]}", r#"],"max_values":20001}"#), "`max_values` is 20001"),
    ] {
        let error = configure::<JsonSchema>(&settings).err().expect("bad settings");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}
