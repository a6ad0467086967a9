//! Packs in every phase: what a request costs, what becomes of it, and what becomes of its answer.

use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::node::Setup;
use crate::harness::pack::Made;
use crate::harness::{Node, Reply, Upstream, eventually, sha256};
use http::Method;
use serde_json::{Value, json};

/// The standard document with the pack that misbehaves, which reads bodies, attached to these phases.
fn attached(upstream: &Upstream, phases: &Value, settings: &Value) -> Value {
    with_phases(document::standard(upstream.address), "a", phases, settings)
}

fn with_phases(document: Value, id: &str, phases: &Value, settings: &Value) -> Value {
    document
        .attached(id, "misbehave", settings.clone())
        .changed(|document| document.entry("attachments", id)["phases"] = phases.clone())
}

async fn start(document: &Value) -> Node {
    Setup::of(document).packs().start().await
}

fn response() -> Value {
    json!(["response"])
}

fn rewrites(body: &str) -> Value {
    json!({ "how": "rewrite", "body": body, "times": 1 })
}

fn panics() -> Value {
    json!({ "how": "panic", "message": "boom" })
}

fn denies(reason: &str) -> Value {
    json!({ "how": "deny", "status": 403, "reason": reason, "details": [] })
}

fn hygiene(document: Value) -> Value {
    let settings = json!({ "response": { "set": { "x-edge": "tollgate" }, "remove": ["server"] } });
    document
        .attached("hygiene", "header-hygiene", settings)
        .changed(|document| document.entry("attachments", "hygiene")["phases"] = response())
}

/// A body of this size.
fn large(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect()
}

#[tokio::test]
async fn a_pack_that_reads_no_body_lets_both_stream() {
    let answer = large(3 << 20);
    let sent = answer.clone();
    let upstream = Upstream::scripted(move |_| {
        let reply = Reply::of(200).header("server", "crm").header("etag", "\"1\"");
        reply.body(sent.clone())
    })
    .await;
    let node = start(&hygiene(document::standard(upstream.address))).await;
    let body = large(5 << 20);
    let call = node.put("/v1/contacts/7").key(ACME).header("accept-encoding", "gzip");
    let got = call.body(body.clone()).send().await;
    got.is(200);
    assert_eq!((got.header("x-edge"), got.header("etag")), ("tollgate", "\"1\""));
    assert!(got.lines("server").is_empty());
    assert!(got.body == answer, "the answer is whole");
    let arrival = upstream.only_arrival();
    assert_eq!(arrival.body_sha256, sha256(&body));
    assert_eq!(arrival.header("accept-encoding"), "gzip", "nothing is asked of the upstream");
}

#[tokio::test]
async fn what_a_pack_makes_of_a_body_is_what_the_client_and_every_repeat_get() {
    let upstream = Upstream::scripted(|_| {
        let reply = Reply::of(201).header("etag", "\"1\"").header("content-digest", "sha-256=:x:");
        reply.header("location", "/v1/contacts/7").body("made by the upstream")
    })
    .await;
    let document = hygiene(attached(&upstream, &response(), &rewrites("made by a pack")));
    let node = start(&document).await;
    let call = || node.keyed("once").header("range", "bytes=0-1").body("{}");
    let first = call().send().await;
    assert_eq!(first.is(201).body, "made by a pack");
    assert_eq!((first.header("content-length"), first.header("x-edge")), ("14", "tollgate"));
    assert_eq!(first.header("location"), "/v1/contacts/7");
    for gone in ["etag", "content-digest"] {
        assert!(first.lines(gone).is_empty(), "{gone}");
    }
    let again = call().send().await;
    assert!(again.is(201).is_replay());
    assert_eq!(again.body, first.body);
    for kept in ["location", "x-edge", "content-length"] {
        assert_eq!(again.header(kept), first.header(kept), "{kept}");
    }
    let arrival = upstream.only_arrival();
    assert_eq!(arrival.header("accept-encoding"), "identity", "packs read it as it is meant");
    assert!(arrival.lines("range").is_empty(), "and whole");
}

#[tokio::test]
async fn what_has_no_body_gets_none() {
    let upstream = Upstream::scripted(|arrival| match &*arrival.target {
        "/v1/contacts/gone" => Reply::of(204),
        _ => Reply::of(200).header("etag", "\"1\"").body("hello"),
    })
    .await;
    let document = hygiene(attached(&upstream, &response(), &rewrites("a pack's")));
    let node = start(&document).await;
    let head = node.call(Method::HEAD, "/v1/contacts").key(ACME).send().await;
    assert_eq!((head.is(200).header("x-edge"), head.body.len()), ("tollgate", 0));
    let gone = node.get("/v1/contacts/gone").key(ACME).send().await;
    assert_eq!((gone.is(204).header("x-edge"), gone.body.len()), ("tollgate", 0));
    // The connection is still in step.
    assert_eq!(node.get("/v1/contacts").key(ACME).send().await.is(200).body, "a pack's");
}

#[tokio::test]
async fn a_pack_that_fails_after_the_upstream_answered_hides_the_answer_and_says_that_there_was_one()
 {
    let upstream = Upstream::start().await;
    let node = start(&attached(&upstream, &response(), &panics())).await;
    let details = node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    assert_eq!(details["policy"], "a");
    node.keyed("once").body("{}").send().await.refuses(503, "POLICY_FAILED");
    let again = node.keyed("once").body("{}").send().await;
    let details = again.refuses(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
    assert_eq!(details["status"], 201, "the upstream's");
    assert_eq!(upstream.arrivals().len(), 2, "a repeat is not sent again");

    let open = attached(&upstream, &response(), &panics())
        .changed(|document| document.entry("attachments", "a")["on_failure"] = json!("open"));
    node.publish(&open).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
}

#[tokio::test]
async fn an_answer_that_a_pack_denies_is_denied_to_repeats_as_well() {
    let upstream = Upstream::start().await;
    // A status that would free the key, had the upstream said it.
    let denies = json!({ "how": "deny", "status": 429, "reason": "secret", "details": [] });
    let node = start(&attached(&upstream, &response(), &denies)).await;
    let first = node.keyed("once").body("{}").send().await;
    assert_eq!((first.status, &*first.code()), (429, "POLICY_DENIED"));
    assert_eq!(first.json()["details"]["reason"], "secret");
    let again = node.keyed("once").body("{}").send().await;
    assert!(again.is(429).is_replay());
    assert_eq!(again.body, first.body);
    upstream.only_arrival();
}

#[tokio::test]
async fn an_answer_too_large_for_packs_fails_those_that_read_it_and_streams_past_the_others() {
    let answer = large((1 << 20) + 1);
    let sent = answer.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).body(sent.clone())).await;
    let reads = attached(&upstream, &response(), &rewrites("small"));
    let node = start(&hygiene(reads.clone())).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    let open =
        reads.changed(|document| document.entry("attachments", "a")["on_failure"] = json!("open"));
    node.publish(&hygiene(open)).await;
    for call in [node.get("/v1/contacts"), node.put("/v1/contacts/7").idempotency_key("large")] {
        let got = call.key(ACME).send().await;
        assert_eq!(got.is(200).header("x-edge"), "tollgate");
        assert!(got.body == answer, "the answer is whole");
    }
    let metrics = node.has_reported(3).await;
    let labels = [("pack", "misbehave"), ("reason", "body_too_large")];
    assert_eq!(metrics.sum("tollgate_pack_failures_total", &labels).to_string(), "3");
}

#[tokio::test]
async fn a_pack_that_observes_bodies_gets_in_nobodys_way() {
    let answer = large(3 << 20);
    let sent = answer.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).body(sent.clone())).await;
    let document = attached(&upstream, &json!(["request", "response"]), &rewrites("another"))
        .changed(|document| document.entry("attachments", "a")["mode"] = json!("observe"));
    let node = start(&document).await;
    // Too large to be held for one that only looks on: it goes through as if nobody did.
    let body = large((1 << 20) + 1);
    let call = node.put("/v1/contacts/7").key(ACME).header("range", "bytes=0-");
    let got = call.header("accept-encoding", "gzip").body(body.clone()).send().await;
    assert!(got.is(200).body == answer, "the answer is whole");
    let arrival = upstream.only_arrival();
    assert_eq!(arrival.body_sha256, sha256(&body));
    assert_eq!((arrival.header("range"), arrival.header("accept-encoding")), ("bytes=0-", "gzip"));
    let metrics = node.has_reported(1).await;
    let labels = [("pack", "misbehave"), ("mode", "observe"), ("decision", "failed")];
    assert_eq!(metrics.sum("tollgate_pack_decisions_total", &labels).to_string(), "2");
    // A small one it sees, and the answer stays the upstream's.
    let got = node.put("/v1/contacts/7").key(ACME).body("small").send().await;
    assert!(got.is(200).body == answer, "the answer is whole");
    assert_eq!(upstream.has_seen(2).await[1].body_sha256, sha256("small"));
    let metrics = node.has_reported(2).await;
    let labels = [("pack", "misbehave"), ("mode", "observe"), ("decision", "edit")];
    assert_eq!(metrics.sum("tollgate_pack_decisions_total", &labels).to_string(), "1");
}

/// A pack of phase `response` that reads nothing of the answer and puts another one in its place.
fn answers() -> Made {
    // A `decision` is a variant: its fourth case is `answer`, whose record follows at an offset of 4.
    let module = r#"(module
        (import "tollgate:policy/exchange@1.0.0" "[resource-drop]request" (func $request (param i32)))
        (import "tollgate:policy/exchange@1.0.0" "[resource-drop]response" (func $response (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 2048) "by a pack")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 1024))
        (func (export "on-response") (param i32 i32) (result i32)
            (call $request (local.get 0))
            (call $response (local.get 1))
            (i32.store8 (i32.const 1040) (i32.const 3))
            (i32.store16 (i32.const 1044) (i32.const 203))
            (i32.store (i32.const 1056) (i32.const 2048))
            (i32.store (i32.const 1060) (i32.const 9))
            (i32.const 1040)))"#;
    Made::named("answers", "1.0.0", &wat::parse_str(module).unwrap())
}

#[tokio::test]
async fn an_answer_that_streams_can_be_replaced_by_its_head_alone() {
    let upstream = Upstream::scripted(|_| Reply::of(200).body(large(3 << 20))).await;
    let limits =
        json!([{ "id": "day", "quota": "9/day", "per": "tenant", "on_store_error": "closed" }]);
    let document = document::standard(upstream.address)
        .limited(limits)
        .attached("a", "answers", json!({}))
        .changed(|document| document.entry("attachments", "a")["phases"] = response());
    let node = Setup::of(&document).pack("answers", &answers().file()).start().await;
    for left in ["8", "7"] {
        let got = node.get("/v1/contacts").key(ACME).send().await;
        assert_eq!(got.is(203).body, "by a pack");
        assert_eq!(got.header("x-ratelimit-remaining"), left, "it is charged like any answer");
    }
    // Nor is one given away that a halted pack was to look at.
    let halted =
        document.changed(|document| document.entry("attachments", "a")["halted"] = json!(true));
    node.publish(&halted).await;
    let got = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(got.refuses(503, "POLICY_FAILED")["policy"], "a");
    assert_eq!(upstream.arrivals().len(), 3);
    let metrics = node.has_reported(3).await;
    let quarantined = [("pack", "answers"), ("reason", "quarantined")];
    assert_eq!(metrics.sum("tollgate_pack_failures_total", &quarantined).to_string(), "1");
}

#[tokio::test]
async fn a_pack_answers_in_place_of_the_upstream() {
    let upstream = Upstream::start().await;
    let limits =
        json!([{ "id": "day", "quota": "9/day", "per": "tenant", "on_store_error": "closed" }]);
    let answers =
        json!({ "how": "answer", "status": 203, "headers": [["x-by", "pack"]], "body": "hello" });
    let plain = document::standard(upstream.address).limited(limits);
    let node = start(&with_phases(plain.clone(), "a", &json!(["request"]), &answers)).await;
    for left in ["8", "7"] {
        let got = node.keyed("once").body("{}").send().await;
        assert_eq!((got.is(203).body.as_ref(), got.header("x-by")), (b"hello".as_slice(), "pack"));
        assert!(!got.is_replay(), "what was not sent is not stored");
        assert_eq!(got.header("x-ratelimit-remaining"), left, "it is charged like any answer");
    }
    assert_eq!(upstream.arrivals().len(), 0);
    node.publish(&plain).await;
    node.keyed("once").body("{}").send().await.is(201);
    upstream.only_arrival();
}

#[tokio::test]
async fn the_body_that_a_pack_makes_is_sent_and_the_clients_is_what_a_repeat_must_bring() {
    let upstream = Upstream::start().await;
    let node = start(&attached(&upstream, &json!(["request"]), &rewrites("another body"))).await;
    let call = |body: &'static str| {
        let call = node.keyed("once").header("content-digest", "sha-256=:x:");
        call.header("digest", "x").body(body)
    };
    call("first").send().await.is(201);
    assert!(call("first").send().await.is(201).is_replay());
    call("second").send().await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    let arrival = upstream.only_arrival();
    assert_eq!(arrival.body_sha256, sha256("another body"));
    assert_eq!(arrival.header("content-length"), "12");
    assert!(arrival.lines("content-digest").is_empty() && arrival.lines("digest").is_empty());

    // The same without a key; and where the client sends none at all.
    node.put("/v1/contacts/7").key(ACME).body("some body").send().await.is(200);
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    for arrival in &upstream.arrivals()[1..] {
        assert_eq!(arrival.body_sha256, sha256("another body"), "{arrival:?}");
        assert!(!arrival.chunked);
    }
}

#[tokio::test]
async fn a_pack_says_what_a_request_costs() {
    let upstream = Upstream::start().await;
    let limits =
        json!([{ "id": "day", "quota": "10/day", "per": "tenant", "on_store_error": "closed" }]);
    let cost = json!({ "how": "cost", "units": 4 });
    let document = attached(&upstream, &json!(["cost"]), &cost).limited(limits);
    let node = start(&document).await;
    for left in ["6", "2"] {
        let got = node.get("/v1/contacts").key(ACME).send().await;
        assert_eq!(got.is(200).header("x-ratelimit-remaining"), left);
    }
    let details = node.get("/v1/contacts").key(ACME).send().await.refuses(429, "QUOTA_EXCEEDED");
    assert_eq!(details["cost"], 4);
    // Where it can't say, nobody is charged: refused, or for the route's cost.
    let fails = |on_failure: &str| {
        document.clone().changed(|document| {
            let entry = document.entry("attachments", "a");
            (entry["settings"], entry["on_failure"]) = (panics(), json!(on_failure));
        })
    };
    node.publish(&fails("closed")).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    node.publish(&fails("open")).await;
    let got = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(got.is(200).header("x-ratelimit-remaining"), "1");
}

#[tokio::test]
async fn records_tell_what_each_pack_said_in_each_phase() {
    let upstream = Upstream::start().await;
    let document = attached(&upstream, &json!(["cost"]), &json!({ "how": "cost", "units": 4 }));
    let document = with_phases(document, "b", &json!(["request"]), &json!({ "how": "count" }));
    let document = with_phases(document, "c", &response(), &denies("hushed")).changed(|document| {
        document.entry("attachments", "c")["mode"] = json!("observe");
        document.entry("routes", "contacts.list")["record"] = json!("required");
    });
    let node = start(&document).await;
    node.get("/v1/contacts").key(ACME).header("x-request-id", "all-phases").send().await.is(200);
    let found = eventually("there is a record", async || {
        let answer = node.get("/.tollgate/explain/all-phases").key(ACME).send().await;
        if answer.status == 404 { Err(answer.code()) } else { Ok(answer) }
    })
    .await;
    let record = &found.json()["items"][0];
    let stages: Vec<_> =
        record["stages"].as_array().unwrap().iter().map(|it| &it["stage"]).collect();
    let expected = [
        "gate",
        "route",
        "authenticate",
        "version",
        "cost",
        "throttle",
        "decide",
        "claim",
        "forward",
        "respond",
        "settle",
    ];
    assert_eq!(stages, expected);
    let mut packs = record["packs"].as_array().unwrap().clone();
    for pack in &mut packs {
        assert!(pack["took_us"].is_u64());
        pack.as_object_mut().unwrap().remove("took_us");
    }
    let said = |id: &str, phase: &str, mode: &str, decision: &str| {
        json!({ "attachment": id, "pack": "misbehave", "version": "1.0.0", "phase": phase, "mode": mode,
                "decision": decision })
    };
    let mut cost = said("a", "cost", "enforce", "cost");
    cost["cost"] = json!(4);
    let expected = [
        cost,
        said("b", "request", "enforce", "edit"),
        // Why a pack that only observes would have denied is the operator's to know.
        said("c", "response", "observe", "deny"),
    ];
    assert_eq!(packs, expected);
}
