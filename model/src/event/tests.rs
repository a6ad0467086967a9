use super::*;
use crate::webhook::WebhookId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

fn event(more: Value) -> Value {
    let mut event = json!({
        "specversion": "1.0", "id": "e-1", "source": "/crm", "type": "contact.created",
        "tenant": "acme"
    });
    let members = more.as_object().expect("more members").clone();
    event.as_object_mut().expect("an object").extend(members);
    event
}

fn structured(event: &Value) -> Result<CloudEvent, Vec<Malformed>> {
    CloudEvent::structured(event.to_string().as_bytes())
}

fn binary(headers: &[(&str, &str)], body: &[u8]) -> Result<CloudEvent, Vec<Malformed>> {
    let required = [
        ("ce-specversion", "1.0"),
        ("ce-id", "e-1"),
        ("ce-source", "/crm"),
        ("ce-type", "contact.created"),
        ("ce-tenant", "acme"),
    ];
    let mut map = HeaderMap::new();
    for (name, value) in required {
        map.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).expect("a value");
        map.append(HeaderName::try_from(*name).expect("a name"), value);
    }
    CloudEvent::of_request(&map, &Bytes::copy_from_slice(body))
}

fn told(errors: Vec<Malformed>) -> Vec<String> {
    errors.into_iter().map(|error| error.to_string()).collect()
}

#[test]
fn what_is_wrong_with_an_event_is_told_where() {
    let long = "x".repeat(1_025);
    for (more, expected) in [
        (json!({ "specversion": "0.3" }), "/specversion: Only `1.0` is known."),
        (json!({ "id": "" }), "/id: It must not be empty."),
        (json!({ "id": null }), "/id: It is required."),
        (json!({ "id": 7 }), "/id: It must be a string."),
        (json!({ "id": ["x"] }), "/id: It must be a string, a boolean or an integer."),
        (json!({ "id": "a\u{7}b" }), "/id: It has a control character, or one that is none."),
        (json!({ "id": "a\u{fdd0}" }), "/id: It has a control character, or one that is none."),
        (json!({ "id": long }), "/id: It is longer than 1024 bytes."),
        (json!({ "source": "" }), "/source: It must be a URI-reference (RFC 3986 §4.1)."),
        (json!({ "source": "a b" }), "/source: It must be a URI-reference (RFC 3986 §4.1)."),
        (json!({ "source": "a%zz" }), "/source: It must be a URI-reference (RFC 3986 §4.1)."),
        (json!({ "type": "" }), "/type: It must not be empty."),
        (json!({ "subject": "" }), "/subject: It must not be empty."),
        (json!({ "tenant": true }), "/tenant: It must be a string."),
        (json!({ "dataschema": "/relative" }), "/dataschema: It must be a URI (RFC 3986 §3)."),
        (
            json!({ "time": "2026-11-21 15:00:00Z" }),
            "/time: It must be a time like `2026-11-21T15:04:05Z` (RFC 3339).",
        ),
        (
            json!({ "time": "2026-13-21T15:00:00Z" }),
            "/time: It must be a time like `2026-11-21T15:04:05Z` (RFC 3339).",
        ),
        (
            json!({ "datacontenttype": "json" }),
            "/datacontenttype: It must be a media type like `application/json` (RFC 2045).",
        ),
        (
            json!({ "my-name": "x" }),
            "/my-name: Names of attributes are 1 to 20 of `a` to `z` and `0` to `9`.",
        ),
        (
            json!({ "a/b~": "x" }),
            "/a~1b~0: Names of attributes are 1 to 20 of `a` to `z` and `0` to `9`.",
        ),
        (
            json!({ "abcdefghijklmnopqrstu": "x" }),
            "/abcdefghijklmnopqrstu: Names of attributes are 1 to 20 of `a` to `z` and `0` to `9`.",
        ),
        (json!({ "share": 0.5 }), "/share: A number must be an integer of 32 bits."),
        (json!({ "share": 2_147_483_648_u32 }), "/share: A number must be an integer of 32 bits."),
        (
            json!({ "data": 1, "data_base64": "AA==" }),
            "/data_base64: `data` is given too: give one of the two.",
        ),
        (json!({ "data_base64": "AA" }), "/data_base64: It must be a string of base64."),
        (
            json!({ "datacontenttype": "application/json", "data_base64": "AAAA" }),
            "/data_base64: It is not JSON.",
        ),
    ] {
        let errors = structured(&event(more.clone())).expect_err(&more.to_string());
        assert_eq!(told(errors), [expected], "{more}");
    }
}

#[test]
fn all_errors_are_told_at_once_and_those_of_a_batch_with_their_places() {
    let none = CloudEvent::structured(b"{}").expect_err("nothing is there");
    let none: Vec<&str> = none.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(none, ["/specversion", "/id", "/source", "/type"]);
    let batch = json!([event(json!({})), event(json!({ "id": "", "time": "now" })), 7]);
    let errors = CloudEvent::batch(batch.to_string().as_bytes()).expect_err("two are wrong");
    let places: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(places, ["/1/id", "/1/time", "/2"]);
    let many = Value::from(vec![event(json!({})); EVENTS_MAX + 1]);
    let errors = CloudEvent::batch(many.to_string().as_bytes()).expect_err("one too many");
    assert_eq!(told(errors), [": A batch holds at most 256 events."]);
    assert!(CloudEvent::batch(b"[]").expect("an empty batch is one").is_empty());
}

#[test]
fn a_member_that_is_given_twice_is_an_error() {
    for (twice, pointer) in [
        (r#""id":"other""#, "/id"),
        (r#""data":1,"data":2"#, "/data"),
        (r#""tenant":"rival""#, "/tenant"),
    ] {
        let text = event(json!({})).to_string();
        let text = format!("{},{twice}}}", text.strip_suffix('}').expect("an object"));
        let errors = CloudEvent::structured(text.as_bytes()).expect_err(twice);
        assert_eq!(told(errors), [format!("{pointer}: It is given more than once.")]);
    }
}

#[test]
fn what_is_no_json_is_told_by_its_place_and_not_repeated() {
    for (body, expected) in [
        (&b"{\"secret"[..], ": It is not JSON: line 1, column 8."),
        (b"[]", ": It must be an object; a batch must be an array."),
        (b"\xff", ": It is not JSON: line 1, column 1."),
        (b"{} {}", ": It is not JSON: line 1, column 4."),
    ] {
        let errors = CloudEvent::structured(body).expect_err("no event");
        assert_eq!(told(errors), [expected]);
    }
    let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let errors = told(CloudEvent::structured(deep.as_bytes()).expect_err("too deep"));
    assert!(
        errors.contains(&"/data: It is JSON of more than 128 levels.".to_owned()),
        "{errors:?}"
    );
}

#[test]
fn times_are_those_of_rfc_3339() {
    for (time, sound) in [
        ("2026-11-21T15:04:05Z", true),
        ("2026-11-21t15:04:05.123456789z", true),
        ("2026-11-21T15:04:05.1+01:30", true),
        ("2026-11-21T15:04:05", false),
        ("2026-11-21T15:04Z", false),
        ("2026-11-21T15:04:05.Z", false),
        ("2026-11-21T15:04:05,5Z", false),
        ("2026-11-21T15:04:05+01", false),
        ("2026-11-21T15:04:05Z[UTC]", false),
        ("2026-02-30T15:04:05Z", false),
        ("20261121T150405Z", false),
    ] {
        assert_eq!(attribute::is_time(time), sound, "{time}");
    }
}

#[test]
fn data_is_kept_to_the_last_digit() {
    let data = r#"{ "amount": 12345678901234567890.12345678901234567890, "b":[1.0,1e2] }"#;
    let text = event(json!({})).to_string();
    let text = format!("{},\"data\":{data}}}", text.strip_suffix('}').expect("an object"));
    let read = CloudEvent::structured(text.as_bytes()).expect("an event");
    let form = String::from_utf8(read.structured_form()).expect("text");
    assert!(form.ends_with(&format!("\"data\":{data}}}")), "{form}");
    assert_eq!(read.binary().1, data.as_bytes());
}

#[test]
fn the_structured_form_has_one_order_and_reads_back() {
    let sent = event(json!({
        "zone": 3, "data": { "a": 1 }, "subject": "c-1", "flag": true, "time": "2026-11-21T15:04:05Z"
    }));
    let read = structured(&sent).expect("an event");
    let form = String::from_utf8(read.structured_form()).expect("text");
    let expected = concat!(
        r#"{"specversion":"1.0","id":"e-1","source":"/crm","type":"contact.created","subject":"c-1","#,
        r#""time":"2026-11-21T15:04:05Z","datacontenttype":"application/json","flag":true,"#,
        r#""tenant":"acme","zone":3,"data":{"a":1}}"#
    );
    assert_eq!(form, expected);
    let again = CloudEvent::kept(form.as_bytes()).expect("what was written");
    assert_eq!(again.structured_form(), form.as_bytes());
    assert_eq!((again.attribute("zone"), again.attribute("flag")), (Some("3"), Some("true")));
}

#[test]
fn an_event_has_one_digest_in_all_forms() {
    type Case<'a> = (Value, &'a [(&'a str, &'a str)], &'a [u8]);
    let cases: [Case<'_>; 6] = [
        (
            json!({ "data": { "a": 1, "b": [true, null] }, "flag": true, "zone": -3 }),
            &[("content-type", "application/json"), ("ce-flag", "true"), ("ce-zone", "-3")],
            br#"{ "b": [true, null], "a": 1 }"#,
        ),
        (
            json!({ "datacontenttype": "text/plain", "data": "grüß dich" }),
            &[("content-type", "text/plain")],
            "grüß dich".as_bytes(),
        ),
        (
            json!({ "datacontenttype": "image/png", "data_base64": "iVBORw==" }),
            &[("content-type", "image/png")],
            &[0x89, b'P', b'N', b'G'],
        ),
        (
            json!({ "datacontenttype": "application/octet-stream", "data": "text" }),
            &[("content-type", "application/octet-stream")],
            b"text",
        ),
        (
            json!({ "subject": "Zoë \"the\" 100%" }),
            &[("ce-subject", "Zo%C3%AB%20%22the%22%20100%25")],
            b"",
        ),
        (
            json!({ "datacontenttype": "application/vnd.x+json", "data_base64": "eyJhIjoxfQ==" }),
            &[("content-type", "application/vnd.x+json")],
            br#"{"a":1}"#,
        ),
    ];
    for (more, headers, body) in cases {
        let one = structured(&event(more.clone())).expect("structured");
        let other = binary(headers, body).expect("binary");
        let batch = Value::from(vec![event(more.clone())]).to_string();
        let batch = CloudEvent::batch(batch.as_bytes()).expect("a batch");
        let again = CloudEvent::kept(&one.structured_form()).expect("kept");
        assert_eq!(one.digest(), other.digest(), "{more}");
        assert_eq!(one.digest(), batch.first().expect("one").digest(), "{more}");
        assert_eq!(one.digest(), again.digest(), "{more}");
        let (headers, body) = one.binary();
        let sent = CloudEvent::of_request(&headers, &body).expect("what was written");
        assert_eq!(one.digest(), sent.digest(), "{more}");
    }
}

#[test]
fn another_event_has_another_digest() {
    let base = json!({ "data": { "a": [1, 2], "b": "x" }, "zone": "1" });
    let others = [
        json!({ "data": { "a": [2, 1], "b": "x" }, "zone": "1" }),
        json!({ "data": { "a": [1, 2], "b": "y" }, "zone": "1" }),
        json!({ "data": { "a": [1, [2]], "b": "x" }, "zone": "1" }),
        json!({ "data": { "a": [1, 2], "b": "x", "c": null }, "zone": "1" }),
        json!({ "data": { "a": [1, 2], "b": "x" }, "zone": "2" }),
        json!({ "data": { "a": [1, 2], "b": "x" }, "zone": "1", "other": "" }),
        json!({ "data": { "a": [1, 2], "b": "x" } }),
        json!({ "zone": "1" }),
        json!({ "data": null, "zone": "1" }),
    ];
    let of = |more: &Value| structured(&event(more.clone())).expect("an event").digest();
    let digest = of(&base);
    for other in others {
        assert_ne!(of(&other), digest, "{other}");
    }
}

#[test]
fn headers_of_the_binary_mode_are_read_as_the_binding_says() {
    let read = |value: &str| {
        let read = binary(&[("ce-subject", value)], b"")
            .map(|event| event.attribute("subject").expect("a subject").to_owned());
        read.map_err(told)
    };
    let bad = Err(vec![
        "/subject: It is no text of percent-encoded UTF-8 (HTTP binding §3.1.3.2).".to_owned(),
    ]);
    for (value, expected) in [
        ("plain", Ok("plain".to_owned())),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", Ok("Euro € 😀".to_owned())),
        ("%e2%82%ac", Ok("€".to_owned())),
        ("\"quo\\\"ted %41\"", Ok("quo\"ted A".to_owned())),
        ("%2525", Ok("%25".to_owned())),
        ("%", bad.clone()),
        ("%4", bad.clone()),
        ("%zz", bad.clone()),
        ("%C3", bad.clone()),
    ] {
        assert_eq!(read(value), expected, "{value}");
    }
    for (headers, expected) in [
        (vec![("ce-id", "e-2")], "/id: It is given more than once."),
        (
            vec![("ce-my-name", "x")],
            "/my-name: Names of attributes are 1 to 20 of `a` to `z` and `0` to `9`.",
        ),
        (
            vec![("ce-datacontenttype", "text/plain")],
            "/datacontenttype: In binary mode it is `Content-Type`.",
        ),
        (vec![("content-type", "application/json")], "/data: It is not JSON."),
    ] {
        let errors = binary(&headers, b"x").expect_err(expected);
        assert_eq!(told(errors), [expected]);
    }
}

#[test]
fn what_goes_out_in_binary_mode_is_ascii_without_spaces_quotes_and_bare_percents() {
    let read = structured(&event(json!({ "subject": "Zoë \"a\" 1%", "data": { "a": 1 } })));
    let (headers, body) = read.expect("an event").binary();
    assert_eq!(headers.get("ce-subject").expect("a subject"), "Zo%C3%AB%20%22a%22%201%25");
    assert_eq!(headers.get("content-type").expect("a type"), "application/json");
    assert_eq!(headers.get("ce-tenant").expect("a tenant"), "acme");
    assert_eq!(&body[..], br#"{"a":1}"#);
}

#[test]
fn an_event_that_is_made_here_is_checked_like_one_that_is_sent() {
    let data = serde_json::value::to_raw_value(&json!({ "a": 1 })).expect("JSON");
    let new = New {
        id: "e-1",
        source: "/tollgate",
        r#type: "tollgate.quota.reached",
        subject: Some("/v1/tenants/acme"),
        tenant: "acme",
        data: Some(&data),
        ..New::default()
    };
    let event = CloudEvent::new(&new).expect("an event");
    let kept = event.to_keep().expect("it has a tenant");
    assert_eq!(kept.webhook_id, WebhookId::of(&"acme".into(), "/tollgate", "e-1"));
    assert_eq!(CloudEvent::kept(&kept.content).expect("an event").digest(), kept.digest);
    let errors =
        CloudEvent::new(&New { id: "", time: Some("now"), ..new }).expect_err("two errors");
    let places: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(places, ["/id", "/time"]);
}

/// JSON of whatever kind, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Any text that an attribute may be.
fn any_text() -> impl Strategy<Value = String> {
    "[^\\p{C}]{1,40}"
}

proptest! {
    #[test]
    fn whatever_an_event_says_every_form_says_the_same(
        data in any_json(), subject in any_text(), zone in any_text(), bytes in any::<Vec<u8>>()
    ) {
        for more in [
            json!({ "subject": subject, "zone": zone, "data": data }),
            json!({ "subject": subject, "datacontenttype": "application/octet-stream",
                "data_base64": STANDARD.encode(&bytes) }),
            json!({ "subject": subject, "datacontenttype": "text/plain", "data": zone }),
        ] {
            let event = structured(&event(more)).expect("an event");
            let kept = CloudEvent::kept(&event.structured_form()).expect("what was written");
            prop_assert_eq!(event.digest(), kept.digest());
            prop_assert_eq!(event.structured_form(), kept.structured_form());
            let (headers, body) = event.binary();
            let sent = CloudEvent::of_request(&headers, &body).expect("what was written");
            prop_assert_eq!(event.digest(), sent.digest());
            prop_assert_eq!(event.structured_form(), sent.structured_form());
        }
    }

    #[test]
    fn whatever_is_sent_is_read_or_refused(body in any::<Vec<u8>>(), header in "[ -~]{0,40}") {
        let _ = CloudEvent::structured(&body);
        let _ = CloudEvent::batch(&body);
        let _ = binary(&[("ce-subject", &*header), ("content-type", &*header)], &body);
    }
}
