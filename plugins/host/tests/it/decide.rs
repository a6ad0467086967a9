//! What decisions say.

use super::*;

#[test]
fn a_denial_carries_status_reason_message_and_details() {
    let denial = denied(require_header("x-correlation-id").on_request(&request(&[])));
    assert_eq!(denial.status, 403);
    assert_eq!(denial.reason, "header_missing");
    assert_eq!(denial.message, "The header `x-correlation-id` is required.");
    assert_eq!(Value::Object(denial.details), json!({ "header": "x-correlation-id" }));

    let details = json!([["limit", "{\"max\":[1,2.5,null]}"], ["note", "\"ü\""]]);
    let settings = json!({ "how": "deny", "status": 422, "reason": "r_1", "details": details });
    let denial = denied(misbehave(settings).on_request(&request(&[])));
    assert_eq!(denial.status, 422);
    let expected = json!({ "limit": { "max": [1, 2.5, null] }, "note": "ü" });
    assert_eq!(Value::Object(denial.details), expected);
}

#[test]
fn a_request_that_has_the_header_continues() {
    let pack = require_header("X-Correlation-ID");
    let outcome = pack.on_request(&request(&[("x-correlation-id", b"1")]));
    assert_eq!(outcome, Ok(Decision::Continue));
}

#[test]
fn edits_arrive_in_order_and_apply() {
    let settings = json!({ "remove": ["x-debug", "cookie"], "set": { "X-Edge": "tollgate" } });
    let pack = compile_demo("header-hygiene").prepare(&settings, Limits::default()).expect("good");
    let request = request(&[("x-debug", b"1"), ("x-debug", b"2"), ("cookie", b"a=b")]);
    let Ok(Decision::Edit(edits)) = pack.on_request(&request) else { panic!("no edits") };
    let expected = [
        HeaderEdit::Remove(http::HeaderName::from_static("x-debug")),
        HeaderEdit::Remove(http::header::COOKIE),
        HeaderEdit::Set(
            http::HeaderName::from_static("x-edge"),
            http::HeaderValue::from_static("tollgate"),
        ),
    ];
    assert_eq!(edits.headers, expected);

    let mut headers = request.head.headers.clone();
    edits.apply(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers["x-edge"], "tollgate");
}

#[test]
fn the_credentials_of_a_request_are_not_lent_to_packs() {
    let pack = compile_demo("require-header");
    for (header, admitted) in [("x-trace", true), ("Authorization", false), ("X-Api-Key", false)] {
        let pack = pack.prepare(&json!({ "header": header }), Limits::default()).expect("good");
        let request = request(&[
            ("x-trace", b"1"),
            ("authorization", b"Bearer x"),
            ("x-api-key", b"test-only"),
        ]);
        let outcome = pack.on_request(&request);
        assert_eq!(outcome == Ok(Decision::Continue), admitted, "{header}: {outcome:?}");
    }
}

#[test]
fn an_address_outside_the_allowed_blocks_is_denied() {
    let pack = compile_demo("cidr-allow");
    for (allow, admitted) in [("192.0.2.0/24", true), ("198.51.100.0/24", false)] {
        let pack = pack.prepare(&json!({ "allow": [allow] }), Limits::default()).expect("good");
        let outcome = pack.on_request(&request(&[]));
        assert_eq!(outcome == Ok(Decision::Continue), admitted, "{allow}: {outcome:?}");
    }
}

#[test]
fn a_pack_sees_the_whole_request_byte_for_byte() {
    let names = json!(["x-bytes", "Accept", "absent", "q", "bad", "org", "sub"]);
    let pack = misbehave(json!({ "how": "echo", "names": names }));
    let headers: &[(_, &[u8])] =
        &[("accept", b"text/html"), ("accept", b"*/*"), ("x-bytes", b"\xff\xfe\x80caf\xe9")];
    let mut told = denied(pack.on_request(&request(headers))).details;

    let bytes = |text: &[u8]| Value::from(text.to_vec());
    let missing = json!({
        "x-bytes": null, "Accept": null, "absent": null, "q": null, "bad": null, "org": null, "sub": null
    });
    let some = |found: &[(&str, Value)]| {
        let mut all = missing.clone();
        found.iter().for_each(|(name, value)| all[*name] = value.clone());
        all
    };
    let x_bytes = bytes(b"\xff\xfe\x80caf\xe9");
    let mut lines = json!({
        "x-bytes": [x_bytes], "Accept": [bytes(b"text/html"), bytes(b"*/*")], "absent": []
    });
    ["q", "bad", "org", "sub"].into_iter().for_each(|name| lines[name] = json!([]));
    for (getter, expected) in [
        ("method", json!("POST")),
        ("path", json!("/v1/contacts/a%20b")),
        ("query", json!("limit=10&q=a+b%2Fc&q=second&bad=%FF")),
        ("query_param", some(&[("q", bytes(b"a b/c")), ("bad", bytes("\u{fffd}".as_bytes()))])),
        ("header", some(&[("x-bytes", x_bytes.clone()), ("Accept", bytes(b"text/html"))])),
        ("headers_all", lines),
        ("header_names", json!(["accept", "x-bytes"])),
        ("client_address", json!("192.0.2.7")),
        ("route", json!("contacts.create")),
        ("version", json!("v1")),
        ("tenant", json!("acme")),
        ("consumer", json!("acme-mobile")),
        ("scopes", json!(["contacts:read", "contacts:write"])),
        ("claim", some(&[("sub", bytes(b"\"user-1\"")), ("org", bytes(b"{\"id\":7}"))])),
    ] {
        assert_eq!(told.remove(getter), Some(expected), "{getter}");
    }
    assert!(told.is_empty(), "a getter that this test doesn't know: {told:?}");
}

#[test]
fn no_decision_sees_what_another_one_wrote() {
    let pack = misbehave(json!({ "how": "count" }));
    for _ in 0..100 {
        let Ok(Decision::Edit(edits)) = pack.on_request(&request(&[])) else { panic!("no edits") };
        let mut headers = HeaderMap::new();
        edits.apply(&mut headers);
        assert_eq!(headers["x-count"], "1");
    }
}

#[test]
fn the_same_request_takes_the_same_fuel() {
    let pack = misbehave(json!({ "how": "echo", "names": ["accept", "x-bytes", "sub"] }));
    let request = request(&[("accept", b"*/*")]);
    let first = pack.on_request_measured(&request);
    assert!(first.fuel > 1_000, "{first:?}");
    for _ in 0..50 {
        assert_eq!(pack.on_request_measured(&request).fuel, first.fuel);
    }
}

#[test]
fn many_threads_get_their_own_answers() {
    const DECISIONS: usize = 2_000;
    let require = require_header("x-id");
    let count = misbehave(json!({ "how": "count" }));
    let with = request(&[("x-id", b"1")]);
    let without = request(&[]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (require, count, with, without) = (&require, &count, &with, &without);
            scope.spawn(move || {
                for turn in 0..DECISIONS {
                    match (thread + turn) % 3 {
                        0 => assert_eq!(require.on_request(with), Ok(Decision::Continue)),
                        1 => {
                            let denial = denied(require.on_request(without));
                            assert_eq!(denial.reason, "header_missing");
                        }
                        _ => {
                            let Ok(Decision::Edit(edits)) = count.on_request(with) else {
                                panic!("no edits")
                            };
                            assert_eq!(edits.headers.len(), 1);
                        }
                    }
                }
            });
        }
    });
}
