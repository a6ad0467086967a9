//! A request with a key reaches the upstream at most once, and its repeats are told what came of it.

use crate::harness::call::contact_of;
use crate::harness::document::{self, ACME, ACME_BATCH, ACME_SECOND, Edit as _, GLOBEX};
use crate::harness::node::Setup;
use crate::harness::raw::in_chunks;
use crate::harness::token::{Key, but, claims, issuer, key_server, served_by};
use crate::harness::{Answer, Latch, Node, Raw, Reply, Upstream, eventually, pattern, sha256};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

const ADA: &str = r#"{"first_name":"Ada"}"#;

async fn node(upstream: &Upstream) -> Node {
    Node::start(&document::standard(upstream.address)).await
}

/// Both may write.
fn with_a_writing_globex(upstream: &Upstream) -> Value {
    document::standard(upstream.address).changed(|document| {
        document.entry("tenants", "globex")["consumers"][0]["scopes"] =
            json!(["contacts:read", "contacts:write"]);
    })
}

fn same(first: &Answer, repeat: &Answer) {
    assert_eq!(repeat.status, first.status, "{repeat:?}");
    assert_eq!(repeat.body, first.body, "{repeat:?}");
    for name in ["content-type", "location", "etag", "link", "x-from-upstream"] {
        assert_eq!(repeat.lines(name), first.lines(name), "{name}");
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_byte_for_byte() {
    let upstream = Upstream::scripted(|arrival| {
        let body = format!("{{ \"arrival\" : {} }}\n\u{e4}", arrival.number);
        Reply::of(201)
            .header("content-type", "application/json; charset=utf-8")
            .header("location", "/v1/contacts/7")
            .header("etag", "\"7\"")
            .header("link", "</a>; rel=\"a\"")
            .header("link", "</b>; rel=\"b\"")
            .header("x-from-upstream", "yes")
            .body(body)
    })
    .await;
    let node = node(&upstream).await;
    let first = node.keyed("k-1").body(ADA).send().await;
    first.is(201);
    assert!(!first.is_replay());
    for _ in 0..3 {
        let repeat = node.keyed("k-1").body(ADA).send().await;
        same(&first, &repeat);
        assert!(repeat.is_replay());
        assert_ne!(repeat.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!(upstream.only_arrival().body_sha256, sha256(ADA));
}

#[tokio::test]
async fn every_final_answer_is_kept_also_errors() {
    let upstream = Upstream::scripted(|arrival| {
        let status = arrival.header("x-status").parse().unwrap();
        Reply::of(status).body(if status == 204 {
            String::new()
        } else {
            format!("told {}", arrival.number)
        })
    })
    .await;
    let node = node(&upstream).await;
    for (count, status) in
        [200, 202, 204, 302, 400, 404, 409, 422, 500, 503].into_iter().enumerate()
    {
        let key = format!("kept-{status}");
        let ask = || node.keyed(&key).header("x-status", status.to_string()).body(ADA).send();
        let first = ask().await;
        first.is(status);
        let repeat = ask().await;
        same(&first, &repeat);
        assert!(repeat.is_replay(), "{status}");
        assert_eq!(upstream.arrivals().len(), count + 1, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_says_not_processed_frees_the_key() {
    for status in [408, 425, 429] {
        let upstream = Upstream::scripted(move |arrival| {
            Reply::of(if arrival.number == 1 { status } else { 201 })
        })
        .await;
        let node = node(&upstream).await;
        node.keyed("again").body(ADA).send().await.is(status);
        let retry = node.keyed("again").body(ADA).send().await;
        assert!(!retry.is(201).is_replay());
        assert!(node.keyed("again").body(ADA).send().await.is(201).is_replay());
        let arrivals = upstream.arrivals();
        assert_eq!(arrivals.len(), 2, "{status}");
        // What an upstream does about its own repeats must not depend on what we forgot.
        assert_eq!(arrivals[0].header("idempotency-key"), arrivals[1].header("idempotency-key"));
    }
}

#[tokio::test]
async fn a_cookie_is_not_given_to_repeats() {
    let upstream = Upstream::scripted(|_| {
        Reply::of(201)
            .header("set-cookie", "session=1")
            .header("x-from-upstream", "yes")
            .body("made")
    })
    .await;
    let node = node(&upstream).await;
    let first = node.keyed("cookie").body(ADA).send().await;
    assert_eq!(first.is(201).header("set-cookie"), "session=1");
    let repeat = node.keyed("cookie").body(ADA).send().await;
    same(&first, &repeat);
    assert_eq!(repeat.lines("set-cookie").len(), 0);
    upstream.only_arrival();
}

#[tokio::test]
async fn reused_key_with_another_request_is_422() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    node.keyed("mine").body(ADA).send().await.is(201);
    node.keyed("mine")
        .body(r#"{"first_name":"Eve"}"#)
        .send()
        .await
        .refuses(422, "IDEMPOTENCY_KEY_REUSED");
    let other_query =
        node.post("/v1/contacts?notify=yes").key(ACME).idempotency_key("mine").body(ADA);
    other_query.send().await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    let other_version = node.post("/v2/contacts").key(ACME).idempotency_key("mine").body(ADA);
    other_version.send().await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    // Another route is another scope.
    let other_route = node
        .call(http::Method::PATCH, "/v1/contacts/7")
        .key(ACME)
        .idempotency_key("mine")
        .body(ADA);
    assert!(!other_route.send().await.is(200).is_replay());
    assert!(node.keyed("mine").body(ADA).send().await.is(201).is_replay());
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_at_once_one_arrives_and_all_learn_what_came_of_it() {
    let latch = Latch::closed();
    let upstream = Upstream::start().await;
    let held = latch.clone();
    upstream.does(move |arrival| {
        Reply::of(201).body(format!("made {}", arrival.number)).held_by(&held)
    });
    let node = node(&upstream).await;
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(node.keyed("fifty").body(ADA).send());
    }
    // All but the first are answered while it is on its way.
    let mut answers = Vec::new();
    while answers.len() < 49 {
        answers.push(clients.join_next().await.unwrap().unwrap());
    }
    for answer in &answers {
        let details = answer.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
        assert!((1..=5).contains(&details["retry_after"].as_u64().unwrap()));
    }
    latch.open();
    let first = clients.join_next().await.unwrap().unwrap();
    assert!(!first.is(201).is_replay());
    let retry = node.keyed("fifty").body(ADA).send().await;
    same(&first, &retry);
    assert!(retry.is_replay());
    upstream.only_arrival();
}

#[tokio::test]
async fn a_keyed_body_arrives_as_it_was_sent_whatever_its_size() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let mut expected = Vec::new();
    for size in [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 700_000, 1 << 20] {
        let body = pattern(size);
        node.keyed(&format!("length-{size}")).body(body.clone()).send().await.is(201);
        let mut raw = Raw::to(node.gateway).await;
        let head = format!(
            "POST /v1/contacts HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\n\
             Idempotency-Key: chunked-{size}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        raw.say(head).await;
        raw.say(in_chunks(&body, 5000)).await;
        raw.hear().await.unwrap().is(201);
        expected.extend([(size, sha256(&body)), (size, sha256(&body))]);
    }
    let seen: Vec<_> = upstream
        .arrivals()
        .into_iter()
        .map(|arrival| (arrival.body_length, arrival.body_sha256))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_keyed_body_over_the_limit_is_413_and_takes_no_key() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let body = pattern((1 << 20) + 1);
    let details =
        node.keyed("large").body(body.clone()).send().await.refuses(413, "BODY_TOO_LARGE");
    assert_eq!(details["limit"], 1 << 20);
    let mut raw = Raw::to(node.gateway).await;
    let head = format!(
        "POST /v1/contacts HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\n\
         Idempotency-Key: large\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    raw.say(head).await;
    raw.say(in_chunks(&body, 50_000)).await;
    raw.hear().await.unwrap().refuses(413, "BODY_TOO_LARGE");
    assert_eq!(upstream.arrivals().len(), 0);
    assert!(!node.keyed("large").body(ADA).send().await.is(201).is_replay());
}

#[tokio::test]
async fn a_client_that_leaves_finds_its_answer_when_it_comes_back() {
    let upstream = Upstream::scripted(|arrival| {
        let body = format!("made {} for {}", arrival.number, arrival.body_sha256);
        Reply::of(201).body(body).after(Duration::from_millis(100))
    })
    .await;
    let node = node(&upstream).await;
    let body = String::from_utf8(contact_of(100_000, 4)).unwrap();
    for number in 1..=20 {
        let key = format!("left-{number}");
        let mut raw = Raw::to(node.gateway).await;
        raw.say(format!(
            "POST /v1/contacts HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\nIdempotency-Key: {key}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        // The claim: it closes 1 ms after sending.
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(raw);
        // The request may still be read from the closed connection: the retry must not overtake it.
        upstream.has_seen(number).await;
        let found = eventually("the answer is found", async || {
            let answer = node.keyed(&key).body(body.clone()).send().await;
            if answer.status == 409 { Err(answer.code()) } else { Ok(answer) }
        })
        .await;
        assert!(found.is(201).is_replay(), "{found:?}");
        assert_eq!(found.body, format!("made {number} for {}", sha256(&body)));
    }
    assert_eq!(upstream.arrivals().len(), 20);
}

#[tokio::test]
async fn equal_keys_of_different_callers_do_not_meet() {
    let key = Key::eddsa("k1");
    let keys = key_server(&[&key]).await;
    let upstream = Upstream::start().await;
    let document =
        with_a_writing_globex(&upstream).with("issuers", issuer(&["EdDSA"], served_by(&keys)));
    let node = Node::start(&document).await;
    let of = |subject: &str| key.signs(&but(claims(), "sub", json!(subject)));
    let post = || node.post("/v1/contacts").idempotency_key("same").body(ADA);
    let asks = || {
        [
            ("acme-mobile", post().key(ACME)),
            ("acme-batch", post().key(ACME_BATCH)),
            ("globex-web", post().key(GLOBEX)),
            ("user-1", post().bearer(&of("user-1"))),
            ("user-2", post().bearer(&of("user-2"))),
        ]
    };
    let mut bodies = Vec::new();
    for (caller, ask) in asks() {
        let answer = ask.send().await;
        assert!(!answer.is(201).is_replay(), "{caller}");
        bodies.push(answer.body);
    }
    for ((caller, ask), body) in asks().into_iter().zip(bodies) {
        let repeat = ask.send().await;
        assert!(repeat.is(201).is_replay(), "{caller}");
        assert_eq!(repeat.body, body, "{caller}");
    }
    let mut derived: Vec<_> = upstream
        .arrivals()
        .iter()
        .map(|arrival| arrival.header("idempotency-key").to_owned())
        .collect();
    derived.sort_unstable();
    derived.dedup();
    assert_eq!(derived.len(), 5, "each caller's key is another one to the upstream");
}

#[tokio::test]
async fn rotating_a_credential_keeps_repeats_safe() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let first = node.keyed("rotated").body(ADA).send().await;
    let repeat = node
        .post("/v1/contacts")
        .key(ACME_SECOND)
        .idempotency_key("rotated")
        .body(ADA)
        .send()
        .await;
    same(&first, &repeat);
    assert!(repeat.is_replay());
    upstream.only_arrival();
}

#[tokio::test]
async fn one_key_in_either_spelling_and_under_either_name() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let first = node.keyed("spelt-1").body(ADA).send().await;
    for (name, value) in [
        ("idempotency-key", "\"spelt-1\""),
        ("x-idempotency-key", "spelt-1"),
        ("x-idempotency-key", "\"spelt-1\""),
        ("idempotency-key", "spelt-1"),
    ] {
        let repeat = node.post("/v1/contacts").key(ACME).header(name, value).body(ADA).send().await;
        same(&first, &repeat);
        assert!(repeat.is_replay(), "{name}: {value}");
    }
    upstream.only_arrival();
}

#[tokio::test]
async fn a_missing_or_malformed_key_is_400_and_nothing_arrives() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let post = || node.post("/v1/contacts").key(ACME).body(ADA);
    post().send().await.refuses(400, "IDEMPOTENCY_KEY_MISSING");
    let long = "k".repeat(256);
    for value in ["", "\"\"", "a b", "a,b", "\"a", "\"a\"b", "\"a\";p=1", "{a}", "\u{fc}", &long] {
        let answer = post().header("idempotency-key", value).send().await;
        answer.refuses(400, "IDEMPOTENCY_KEY_INVALID");
    }
    for second in ["idempotency-key", "x-idempotency-key"] {
        let twice = post().header("idempotency-key", "a").header(second, "a").send().await;
        twice.refuses(400, "IDEMPOTENCY_KEY_INVALID");
    }
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn without_a_key_an_optional_route_dispatches_each_time() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let put = || node.call(http::Method::PUT, "/v1/contacts/7").key(ACME).body(ADA);
    for _ in 0..3 {
        assert!(!put().send().await.is(200).is_replay());
    }
    for replayed in [false, true] {
        assert_eq!(put().idempotency_key("optional").send().await.is(200).is_replay(), replayed);
    }
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 4);
    assert!(arrivals[..3].iter().all(|arrival| arrival.header("x-idempotency-fence").is_empty()));
}

#[tokio::test]
async fn a_replay_needs_the_credential_and_the_scope_that_the_request_needed() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address);
    let node = Node::start(&document).await;
    node.keyed("guarded").body(ADA).send().await.is(201);
    let anonymous = node.post("/v1/contacts").idempotency_key("guarded").body(ADA).send().await;
    anonymous.refuses(401, "CREDENTIAL_MISSING");
    let reduced = document.changed(|document| {
        document.entry("tenants", "acme")["consumers"][0]["scopes"] = json!(["contacts:read"]);
    });
    node.publish(&reduced).await;
    node.keyed("guarded").body(ADA).send().await.refuses(403, "SCOPE_DENIED");
    upstream.only_arrival();
}

#[tokio::test]
async fn the_upstream_gets_a_derived_key_and_a_fence() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    for key in ["derive-1", "derive-2"] {
        node.keyed(key).body(ADA).send().await.is(201);
    }
    let arrivals = upstream.arrivals();
    for arrival in &arrivals {
        let key = arrival.header("idempotency-key");
        assert!(key.starts_with('"') && key.ends_with('"') && !key.contains("derive"), "{key}");
        assert_eq!(arrival.lines("x-idempotency-key").len(), 0);
    }
    assert_ne!(arrivals[0].header("idempotency-key"), arrivals[1].header("idempotency-key"));
    let fence =
        |number: usize| arrivals[number].header("x-idempotency-fence").parse::<i64>().unwrap();
    assert!(fence(0) < fence(1));
}

#[tokio::test]
async fn a_refused_connection_frees_the_key() {
    let address = Upstream::address_of_none();
    let node = Node::start(&document::standard(address)).await;
    for _ in 0..2 {
        node.keyed("early").body(ADA).send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    }
    let upstream = Upstream::start_at(address).await;
    assert!(!node.keyed("early").body(ADA).send().await.is(201).is_replay());
    assert!(node.keyed("early").body(ADA).send().await.is(201).is_replay());
    assert_eq!(upstream.only_arrival().body_sha256, sha256(ADA));
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_the_outcome_unknown() {
    let answer = || Reply::of(201).body("x".repeat(1000));
    let cases = [
        ("no answer", Reply::cut()),
        ("half a head", answer().cut_after(20)),
        ("half a body", answer().cut_after(500)),
        ("half a chunked body", answer().chunked().cut_after(500)),
    ];
    for (case, reply) in cases {
        let upstream = Upstream::scripted(move |_| reply.clone()).await;
        let node = node(&upstream).await;
        let broken = node.keyed("broken").body(ADA).send().await;
        broken.refuses(502, "UPSTREAM_UNREACHABLE");
        upstream.does(|_| Reply::of(201));
        for _ in 0..2 {
            node.keyed("broken").body(ADA).send().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
        }
        assert_eq!(upstream.arrivals().len(), 1, "{case}");
    }
}

#[tokio::test]
async fn a_keyed_request_is_never_retried_on_a_connection_that_died() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    // The second request finds a kept connection, on which the upstream hangs up.
    node.keyed("alive").body(ADA).send().await.is(201);
    upstream.does(|_| Reply::cut());
    node.keyed("dead").body(ADA).send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    let count = upstream.arrivals().len();
    assert_eq!(count, 2);
    node.keyed("dead").body(ADA).send().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    assert_eq!(upstream.arrivals().len(), 2);
}

/// PUT is idempotent for HTTP, and pingora would send it again; under a key it is sent once like any other.
#[tokio::test]
async fn not_even_a_keyed_put_is_sent_again_on_another_connection() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let put =
        |key: &str| node.put("/v1/contacts/7").key(ACME).idempotency_key(key).body(ADA).send();
    put("alive").await.is(200);
    upstream.does(|_| Reply::cut());
    put("dead").await.refuses(502, "UPSTREAM_UNREACHABLE");
    assert_eq!(upstream.arrivals().len(), 2);
    put("dead").await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test]
async fn an_answer_that_never_comes_leaves_the_outcome_unknown() {
    let upstream = Upstream::scripted(|_| Reply::never()).await;
    let document = document::standard(upstream.address).timeouts("1s", "500ms", "5s");
    let node = Node::start(&document).await;
    node.keyed("silent").body(ADA).send().await.refuses(504, "UPSTREAM_TIMEOUT");
    node.keyed("silent").body(ADA).send().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    upstream.only_arrival();
}

#[tokio::test]
async fn a_large_answer_streams_whole_and_is_not_retained() {
    let upstream = Upstream::scripted(|_| {
        Reply::of(201).header("location", "/v1/contacts/7").body(pattern(3 << 20)).chunked()
    })
    .await;
    let node = node(&upstream).await;
    let first = node.keyed("large").body(ADA).send().await;
    assert_eq!(sha256(&first.is(201).body), sha256(pattern(3 << 20)));
    let details = node
        .keyed("large")
        .body(ADA)
        .send()
        .await
        .refuses(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
    assert_eq!((&details["status"], &details["location"]), (&json!(201), &json!("/v1/contacts/7")));
    upstream.only_arrival();
}

#[tokio::test]
async fn the_largest_answer_that_is_kept_is_one_mebibyte() {
    let upstream = Upstream::scripted(|_| Reply::of(201).body(pattern(1 << 20))).await;
    let node = node(&upstream).await;
    let first = node.keyed("mebibyte").body(ADA).send().await;
    assert_eq!(sha256(&first.is(201).body), sha256(pattern(1 << 20)));
    let repeat = node.keyed("mebibyte").body(ADA).send().await;
    assert!(repeat.is_replay());
    same(&first, &repeat);
}

#[tokio::test]
async fn what_was_answered_is_replayed_after_the_process_was_killed() {
    let upstream = Upstream::start().await;
    let mut node = node(&upstream).await;
    let first = node.keyed("durable").body(ADA).send().await;
    first.is(201);
    node.kill();
    node.start_again().await;
    let repeat = node.keyed("durable").body(ADA).send().await;
    same(&first, &repeat);
    assert!(repeat.is_replay());
    upstream.only_arrival();
}

#[tokio::test]
async fn what_was_on_its_way_when_the_process_was_killed_is_never_sent_again() {
    let upstream = Upstream::scripted(|_| Reply::never()).await;
    // Short, as the lease lasts for these and a margin.
    let document = document::standard(upstream.address).timeouts("100ms", "1s", "1s");
    let mut node = Node::start(&document).await;
    let asked = tokio::spawn(node.keyed("killed").body(ADA).try_send());
    upstream.has_seen(1).await;
    node.kill();
    assert!(asked.await.unwrap().is_err());
    upstream.does(|_| Reply::of(201));
    node.start_again().await;
    node.keyed("killed").body(ADA).send().await.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
    let answer = eventually("the lease ends", async || {
        let answer = node.keyed("killed").body(ADA).send().await;
        if answer.code() == "IDEMPOTENCY_IN_PROGRESS" { Err(answer.code()) } else { Ok(answer) }
    })
    .await;
    answer.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    upstream.only_arrival();
}

#[tokio::test]
async fn a_refused_request_takes_no_key() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).attached(
        "correlation",
        "require-header",
        json!({ "header": "x-correlation-id" }),
    );
    let node = Setup::of(&document).packs().start().await;
    node.keyed("refused").body(ADA).send().await.refuses(403, "POLICY_DENIED");
    let corrected =
        node.keyed("refused").header("x-correlation-id", "7").body(r#"{"first_name":"Eve"}"#);
    assert!(!corrected.send().await.is(201).is_replay());
    upstream.only_arrival();
}
