//! What became of an exchange can be looked up: by who sent it, and by nobody else.

use crate::harness::document::{self, ACME, ACME_BATCH, Edit as _, GLOBEX};
use crate::harness::node::Setup;
use crate::harness::{Latch, Node, Raw, Reply, Upstream, eventually};
use serde_json::{Value, json};

/// The standard document, whose routes record all but `contacts.change`.
fn recorded(upstream: &Upstream) -> Value {
    document::standard(upstream.address).changed(|document| {
        for (route, mode) in [
            ("contacts.list", "sampled(1)"),
            ("contacts.create", "required"),
            ("contacts.read", "sampled(1)"),
        ] {
            document.entry("routes", route)["record"] = json!(mode);
        }
    })
}

/// What a caller is told of its exchanges of this id. They are written shortly after their end.
async fn explained(node: &Node, key: &str, id: &str) -> Vec<Value> {
    let path = format!("/.tollgate/explain/{id}");
    let found = eventually("there is a record", async || {
        let answer = node.get(&path).key(key).send().await;
        if answer.status == 404 { Err(answer.code()) } else { Ok(answer) }
    })
    .await;
    assert_eq!(found.is(200).header("cache-control"), "no-store");
    found.json()["items"].as_array().unwrap().clone()
}

/// `stage verdict` of each stage.
fn stages(record: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let stages = record["stages"].as_array().unwrap().iter();
    stages.map(|stage| format!("{} {}", text(&stage["stage"]), text(&stage["verdict"]))).collect()
}

fn passed(stages: &[&str]) -> Vec<String> {
    stages.iter().map(|stage| format!("{stage} passed")).collect()
}

const ADMISSION: [&str; 6] = ["gate", "route", "authenticate", "version", "throttle", "claim"];

#[tokio::test]
async fn callers_are_told_which_stage_decided_what() {
    let upstream = Upstream::scripted(|_| Reply::of(201).body("made")).await;
    let limits =
        json!([{ "id": "day", "quota": "3/day", "per": "consumer", "on_store_error": "closed" }]);
    let node = Node::start(&recorded(&upstream).limited(limits)).await;
    let create = |id: &str| node.keyed("once").header("x-request-id", id).body("{}");
    create("create-first").send().await.is(201);
    assert!(create("create-again").send().await.is(201).is_replay());
    let list = || node.get("/v2/contacts?token=hush").key(ACME);
    list().header("x-request-id", "list-one").send().await.is(201);
    list().send().await.is(201);
    list().header("x-request-id", "list-over").send().await.refuses(429, "QUOTA_EXCEEDED");
    let globex = node.post("/v1/contacts").key(GLOBEX).header("x-request-id", "scope-missing");
    globex.body("{}").send().await.refuses(403, "SCOPE_DENIED");

    let one = async |key: &str, id: &str| {
        let mut found = explained(&node, key, id).await;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let first = one(ACME, "create-first").await;
    assert_eq!(stages(&first), passed(&[&ADMISSION[..], &["forward", "settle"]].concat()));
    for (field, value) in [
        ("request_id", json!("create-first")),
        ("revision", json!(1)),
        ("method", json!("POST")),
        ("path", json!("/v1/contacts")),
        ("route", json!("contacts.create")),
        ("tenant", json!("acme")),
        ("consumer", json!("acme-mobile")),
        ("version", json!("v1")),
        ("status", json!(201)),
        ("error", Value::Null),
        ("idempotency", json!("claimed")),
        ("limits", json!([{ "id": "day", "limit": 3, "remaining": 2, "refused": false }])),
        // For operators only.
        ("cause", Value::Null),
        ("node", Value::Null),
    ] {
        assert_eq!(first[field], value, "{field}: {first}");
    }
    assert_eq!(
        (&first["upstream"]["id"], &first["upstream"]["status"]),
        (&json!("crm"), &json!(201))
    );

    let again = one(ACME, "create-again").await;
    assert_eq!(stages(&again).last().unwrap(), "claim replied");
    assert_eq!((&again["idempotency"], &again["upstream"]), (&json!("replayed"), &Value::Null));

    let streamed = one(ACME, "list-one").await;
    assert_eq!(stages(&streamed), passed(&[&ADMISSION[..], &["forward"]].concat()));
    assert!(!streamed.to_string().contains("hush"), "{streamed}");

    let over = one(ACME, "list-over").await;
    assert_eq!(stages(&over).last().unwrap(), "throttle refused");
    assert_eq!((&over["status"], &over["error"]), (&json!(429), &json!("QUOTA_EXCEEDED")));
    assert_eq!(over["limits"][0]["refused"], true);

    let scope = one(GLOBEX, "scope-missing").await;
    assert_eq!(stages(&scope).last().unwrap(), "authenticate refused");
    assert_eq!(scope["error"], "SCOPE_DENIED");
}

#[tokio::test]
async fn what_is_anothers_is_not_there_and_what_is_no_id_is_not_looked_up() {
    let upstream = Upstream::start().await;
    let node = Node::start(&recorded(&upstream)).await;
    node.get("/v1/contacts")
        .key(ACME)
        .header("x-request-id", "of-acme-mobile")
        .send()
        .await
        .is(200);
    explained(&node, ACME, "of-acme-mobile").await;
    let explain = |id: &str| node.get(&format!("/.tollgate/explain/{id}"));
    for other in [ACME_BATCH, GLOBEX] {
        explain("of-acme-mobile").key(other).send().await.refuses(404, "NOT_FOUND");
    }
    explain("of-nobody-at-all").key(ACME).send().await.refuses(404, "NOT_FOUND");
    explain("of-acme-mobile").send().await.refuses(401, "CREDENTIAL_MISSING");
    for id in [
        "",
        "short",
        "of-acme-mobile'%20OR%201=1",
        "of-acme-mobile/more",
        "%00%00%00%00%00%00%00%00",
    ] {
        explain(id).key(ACME).send().await.refuses(400, "VALIDATION_FAILED");
    }
}

#[tokio::test]
async fn a_route_that_says_nothing_leaves_no_record() {
    let upstream = Upstream::start().await;
    let node = Node::start(&recorded(&upstream)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let change = node.put("/v1/contacts/7").key(ACME).header("traceparent", &parent);
    change.body("{}").send().await.is(200);
    for id in ["the-first", "the-second"] {
        let read = node.get("/v1/contacts/7").key(ACME).header("traceparent", &parent);
        read.header("x-request-id", id).send().await.is(200);
    }
    explained(&node, ACME, "the-second").await;
    let found = explained(&node, ACME, trace).await;
    let ids: Vec<&Value> = found.iter().map(|record| &record["request_id"]).collect();
    assert_eq!(ids, ["the-second", "the-first"], "newest first");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("tollgate_records_dropped_total", &[]).to_string(), "0");
}

#[tokio::test]
async fn an_exchange_that_is_cut_off_leaves_its_record() {
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).held_by(&held)).await;
    let node = Node::start(&recorded(&upstream)).await;
    let mut raw = Raw::to(node.gateway).await;
    raw.say(format!(
        "GET /v1/contacts HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\nX-Request-ID: left-early\r\n\r\n"
    ))
    .await;
    upstream.has_seen(1).await;
    drop(raw);
    let found = explained(&node, ACME, "left-early").await;
    latch.open();
    assert_eq!((found.len(), &found[0]["status"]), (1, &Value::Null), "{found:?}");
    assert_eq!(stages(&found[0]).last().unwrap(), "forward refused");
}

#[tokio::test]
async fn what_ended_before_the_process_is_recorded_after_it() {
    let upstream = Upstream::start().await;
    let mut node = Setup::of(&recorded(&upstream)).start().await;
    let create = node.keyed("last").header("x-request-id", "the-last-one").body("{}");
    create.send().await.is(201);
    node.process().terminate();
    eventually("it ends", async || node.process().ended().ok_or(())).await;
    node.start_again().await;
    let found = explained(&node, ACME, "the-last-one").await;
    assert_eq!((found.len(), &found[0]["route"]), (1, &json!("contacts.create")));
}
