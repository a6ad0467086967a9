//! What decisions say, and what packs are told of the exchange.

use model::PackAnswer;

use super::*;

#[test]
fn a_denial_carries_status_reason_message_and_details() {
    let details = json!([["limit", "{\"max\":[1,2.5,null]}"], ["note", "\"ü\""]]);
    let settings = json!({ "how": "deny", "status": 422, "reason": "r_1", "details": details });
    let pack = misbehave(settings);
    let (asked, answer) = (request(&[]), response(&[]));
    for outcome in [on_request(&pack, &asked), on_response(&pack, &asked, &answer)] {
        let denial = denied(outcome);
        assert_eq!((denial.status.as_u16(), &*denial.reason), (422, "r_1"));
        assert_eq!(denial.message, "As the settings say.");
        let expected = json!({ "limit": { "max": [1, 2.5, null] }, "note": "ü" });
        assert_eq!(Value::Object(denial.details), expected);
    }
}

#[test]
fn a_pack_with_nothing_to_add_continues() {
    let pack = misbehave(json!({ "how": "work", "rounds": 1 }));
    let (asked, answer) = (request(&[]), response(&[]));
    assert_eq!(on_request(&pack, &asked), Ok(Decision::Continue));
    assert_eq!(on_response(&pack, &asked, &answer), Ok(Decision::Continue));
}

#[test]
fn edits_arrive_in_order_and_apply() {
    let pack =
        misbehave(json!({ "how": "set", "name": "X-Edge", "value": "tollgate", "times": 2 }));
    let Ok(Decision::Edit(edits)) = on_request(&pack, &request(&[])) else { panic!("no edits") };
    let set = HeaderEdit::Set(
        http::HeaderName::from_static("x-edge"),
        http::HeaderValue::from_static("tollgate"),
    );
    assert_eq!((edits.headers, edits.body), (vec![set.clone(), set], None));
}

#[test]
fn a_body_can_be_put_in_the_place_of_another_of_any_size_it_may_have() {
    // Beyond the 64 KiB that a pack may say, but not beyond those and the size of the body.
    let pack = misbehave(json!({ "how": "rewrite", "body": "0123456789abcdef", "times": 5000 }));
    let expected = Bytes::from("0123456789abcdef".repeat(5000));
    let (asked, answer) = (request(&[]), response(&[]));
    let large = Bytes::from(vec![b'x'; 16 << 10]);
    let with_large = Arc::new(PolicyResponse {
        status: StatusCode::OK,
        headers: Arc::default(),
        body: Some(large.clone()),
    });
    let edited = |outcome| match outcome {
        Ok(Decision::Edit(edits)) => edits.body,
        other => panic!("no edits: {other:?}"),
    };
    assert_eq!(edited(on_request(&pack, &with_body(large))), Some(expected.clone()));
    assert_eq!(edited(on_response(&pack, &asked, &with_large)), Some(expected));
    for outcome in [on_request(&pack, &asked), on_response(&pack, &asked, &answer)] {
        assert_eq!(outcome.expect_err("a failure").reason, FailureReason::Output);
    }
}

#[test]
fn an_answer_carries_status_headers_and_body() {
    let headers = json!([["content-type", "text/plain"], ["x-a", "1"], ["x-a", "2"]]);
    let settings = json!({ "how": "answer", "status": 503, "headers": headers, "body": "later" });
    let pack = misbehave(settings);
    let (asked, told) = (request(&[]), response(&[]));
    let line =
        |name, value| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    let answer = PackAnswer {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: vec![line("content-type", "text/plain"), line("x-a", "1"), line("x-a", "2")],
        body: Bytes::from_static(b"later"),
    };
    for outcome in [on_request(&pack, &asked), on_response(&pack, &asked, &told)] {
        assert_eq!(outcome, Ok(Decision::Answer(answer.clone())));
    }
}

#[test]
fn a_cost_is_what_the_pack_says_of_the_head_alone() {
    let given = Given::default();
    let asked = request(&[]);
    let pack = misbehave(json!({ "how": "cost", "units": 7 }));
    assert_eq!(pack.cost(&asked, &given.grants()), Ok(7));
    // This one costs 0 where a body is shown.
    let pack = misbehave(json!({ "how": "work", "rounds": 1 }));
    assert_eq!(pack.cost(&asked, &given.grants()), Ok(1));
}

#[test]
fn the_credentials_of_a_request_are_not_lent_to_packs() {
    let names = ["x-trace", "Authorization", "Proxy-Authorization", "X-Api-Key"];
    let pack = misbehave(json!({ "how": "echo", "names": names }));
    let told = denied(on_request(
        &pack,
        &request(&[
            ("x-trace", b"1"),
            ("authorization", b"Bearer x"),
            ("proxy-authorization", b"Basic x"),
            ("x-api-key", b"test-only"),
        ]),
    ));
    let mut expected = json!({
        "x-trace": [49], "Authorization": null, "Proxy-Authorization": null, "X-Api-Key": null
    });
    assert_eq!(told.details["header"], expected);
    assert_eq!(told.details["header_names"], json!(["x-trace"]));
    expected = json!({
        "x-trace": [[49]], "Authorization": [], "Proxy-Authorization": [], "X-Api-Key": []
    });
    assert_eq!(told.details["headers_all"], expected);
}

fn bytes(text: &[u8]) -> Value {
    Value::from(text.to_vec())
}

/// What every getter of the request tells of [`request`] with the headers of [`HEADERS`].
fn told_of_the_request() -> Vec<(&'static str, Value)> {
    let x_bytes = bytes(HEADERS[2].1);
    let lines = json!({
        "x-bytes": [x_bytes], "Accept": [bytes(b"text/html"), bytes(b"*/*")], "absent": [], "q": [],
        "bad": [], "org": [], "sub": []
    });
    let some = |found: &[(&str, Value)]| -> Value {
        let of = |name: &str| found.iter().find(|(found, _)| *found == name);
        let pair = |name: &str| {
            (name.to_owned(), of(name).map_or(Value::Null, |(_, value)| value.clone()))
        };
        Value::Object(NAMES.into_iter().map(pair).collect())
    };
    vec![
        ("method", json!("POST")),
        ("path", json!("/v1/contacts/a%20b")),
        ("query", json!("limit=10&q=a+b%2Fc&q=second&bad=%FF")),
        ("query_param", some(&[("q", bytes(b"a b/c")), ("bad", bytes("\u{fffd}".as_bytes()))])),
        ("header", some(&[("x-bytes", x_bytes), ("Accept", bytes(b"text/html"))])),
        ("headers_all", lines),
        ("header_names", json!(["accept", "x-bytes"])),
        ("body", bytes(b"{\"name\":\"\xff\"}")),
        ("body_size", json!(12)),
        ("client_address", json!("192.0.2.7")),
        ("route", json!("contacts.create")),
        ("version", json!("v1")),
        ("tenant", json!("acme")),
        ("plan", json!("gold")),
        ("consumer", json!("acme-mobile")),
        ("scopes", json!(["contacts:read", "contacts:write"])),
        ("claim", some(&[("sub", bytes(b"\"user-1\"")), ("org", bytes(b"{\"id\":7}"))])),
    ]
}

const HEADERS: [(&str, &[u8]); 3] =
    [("accept", b"text/html"), ("accept", b"*/*"), ("x-bytes", b"\xff\xfe\x80caf\xe9")];
const NAMES: [&str; 7] = ["x-bytes", "Accept", "absent", "q", "bad", "org", "sub"];

#[track_caller]
fn assert_told(denial: Denial, expected: Vec<(&'static str, Value)>) {
    let mut told = denial.details;
    for (getter, expected) in expected {
        assert_eq!(told.shift_remove(getter), Some(expected), "{getter}");
    }
    assert!(told.is_empty(), "a getter that this test doesn't know: {told:?}");
}

#[test]
fn a_pack_sees_the_whole_request_byte_for_byte() {
    for pack in [
        misbehave(json!({ "how": "echo", "names": NAMES })),
        reusing(json!({ "how": "echo", "names": NAMES }), 100),
    ] {
        for _ in 0..2 {
            assert_told(denied(on_request(&pack, &request(&HEADERS))), told_of_the_request());
        }
    }
}

#[test]
fn a_pack_sees_the_whole_response_and_its_request_byte_for_byte() {
    let pack = misbehave(json!({ "how": "echo", "names": NAMES }));
    let asked = request(&HEADERS);
    let answer = response(&[("set-cookie", b"a=1"), ("x-bytes", b"\x80"), ("x-bytes", b"2")]);
    let one = json!({
        "x-bytes": [128], "Accept": null, "absent": null, "q": null, "bad": null, "org": null,
        "sub": null
    });
    let all = json!({
        "x-bytes": [[128], [50]], "Accept": [], "absent": [], "q": [], "bad": [], "org": [], "sub": []
    });
    let mut expected = told_of_the_request();
    expected.extend([
        ("response_status", json!(201)),
        ("response_header", one),
        ("response_headers_all", all),
        ("response_header_names", json!(["set-cookie", "x-bytes"])),
        ("response_body", bytes(b"made")),
    ]);
    assert_told(denied(on_response(&pack, &asked, &answer)), expected);
}

#[test]
fn what_there_is_not_is_none() {
    let mut asked = PolicyRequest::clone(&request(&[]));
    let head = Arc::make_mut(&mut asked.head);
    head.query = None;
    asked.body = None;
    asked.body_size = None;
    let told =
        denied(on_request(&misbehave(json!({ "how": "echo", "names": ["q"] })), &Arc::new(asked)));
    for getter in ["query", "body", "body_size"] {
        assert_eq!(told.details[getter], Value::Null, "{getter}");
    }
    for getter in ["query_param", "header", "claim"] {
        assert_eq!(told.details[getter], json!({ "q": null }), "{getter}");
    }
}

#[test]
fn no_decision_sees_what_another_one_wrote() {
    let pack = misbehave(json!({ "how": "count" }));
    for _ in 0..100 {
        assert_eq!(header_set(on_request(&pack, &request(&[])), "x-count"), "1");
    }
}

#[test]
fn the_same_request_takes_the_same_fuel_and_more_work_more() {
    let pack = misbehave(json!({ "how": "echo", "names": ["accept", "x-bytes", "sub"] }));
    let given = Given::default();
    let asked = request(&[("accept", b"*/*")]);
    let first = pack.on_request_measured(&asked, &given.grants());
    assert!(first.fuel > 1_000, "{first:?}");
    for _ in 0..50 {
        let again = pack.on_request_measured(&asked, &given.grants());
        assert_eq!((again.fuel, again.memory), (first.fuel, first.memory));
    }
    // What the host copies is work as well.
    let body = |size| {
        let pack = misbehave(json!({ "how": "devour", "times": 1 }));
        pack.on_request_measured(&with_body(vec![0; size]), &given.grants()).fuel
    };
    assert!(body(100_000) >= body(10) + 99_000, "{} {}", body(100_000), body(10));
}

#[test]
fn a_measured_decision_is_the_same_decision() {
    let given = Given::default();
    let (asked, answer) = (request(&[]), response(&[]));
    let pack = misbehave(json!({ "how": "count" }));
    let measured = pack.on_request_measured(&asked, &given.grants());
    assert_eq!(measured.outcome, on_request(&pack, &asked));
    assert!(measured.memory >= 64 << 10 && !measured.took.is_zero(), "{measured:?}");
    let measured = pack.on_response_measured(&asked, &answer, &given.grants());
    assert_eq!(measured.outcome, on_response(&pack, &asked, &answer));
    let measured = pack.cost_measured(&asked, &given.grants());
    assert_eq!(measured.outcome, pack.cost(&asked, &given.grants()));
}

#[test]
fn many_threads_get_their_own_answers() {
    const DECISIONS: usize = 2_000;
    let echo = misbehave(json!({ "how": "echo", "names": ["x-id"] }));
    let [first, second] = [b"1", b"2"].map(|id| request(&[("x-id", id)]));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (echo, first, second) = (&echo, &first, &second);
            scope.spawn(move || {
                for turn in 0..DECISIONS {
                    let (asked, id) =
                        if (thread + turn) % 2 == 0 { (first, 49) } else { (second, 50) };
                    let told = denied(on_request(echo, asked)).details;
                    assert_eq!(told["header"]["x-id"], json!([id]));
                }
            });
        }
    });
}
