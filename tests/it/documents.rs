//! A document goes live whole, at once, without a request noticing; or not at all, and says why.

use crate::harness::call::Client;
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::node::Setup;
use crate::harness::{Arrival, Node, Random, Reply, Upstream, eventually, hoped, sized};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const REVISIONS: u64 = 100;

/// Answers with who it is and which mark it got.
fn tells(name: &'static str) -> impl Fn(&Arrival) -> Reply + Send + Sync + 'static {
    move |arrival| {
        let status = if arrival.method == "POST" { 201 } else { 200 };
        let told = json!({ "upstream": name, "mark": arrival.header("x-mark"), "route": arrival.header("x-route") });
        Reply::of(status).json(&told)
    }
}

/// Revisions with even marks go to one upstream, those with odd ones to the other; the mark is written by a pack on
/// every route, and by another one on the route that creates.
fn marked(upstreams: [&Upstream; 2], mark: u64) -> Value {
    let upstream = upstreams[usize::try_from(mark % 2).unwrap()];
    document::standard(upstream.address)
        .attached("mark", "header-hygiene", json!({ "set": { "x-mark": mark.to_string() } }))
        .attached(
            "mark-route",
            "header-hygiene",
            json!({ "set": { "x-route": format!("create-{mark}") } }),
        )
        .changed(|document| {
            document.entry("attachments", "mark-route")["scope"] =
                json!({ "route": "contacts.create" });
        })
}

/// Sends until told to stop; checks that each answer is of one revision and none goes back. Returns how many were sent.
async fn keeps_asking(client: Client, name: usize, stop: Arc<AtomicBool>) -> usize {
    let mut revision = 0;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let creates = count % 3 == 0;
        let call = if creates {
            client.post("/v1/contacts").idempotency_key(&format!("{name}-{count}")).body("{}")
        } else {
            client.get("/v2/contacts")
        };
        let answer = call.key(ACME).send().await;
        answer.is(if creates { 201 } else { 200 });
        let told = answer.json();
        let mark: u64 = told["mark"].as_str().unwrap().parse().unwrap();
        let upstream = ["even", "odd"][usize::try_from(mark % 2).unwrap()];
        assert_eq!(told["upstream"], upstream, "route and upstream of different revisions: {told}");
        let route = if creates { format!("create-{mark}") } else { String::new() };
        assert_eq!(told["route"], route, "two packs of different revisions: {told}");
        // The first document has the mark 1 and is revision 1.
        assert_eq!(answer.revision(), mark, "{told}");
        assert!(answer.revision() >= revision, "from {revision} back to {}", answer.revision());
        revision = answer.revision();
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_revisions_under_load_fail_no_request_and_tear_no_answer() {
    let even = Upstream::scripted(tells("even")).await;
    let odd = Upstream::scripted(tells("odd")).await;
    let upstreams = [&even, &odd];
    let node = Setup::of(&marked(upstreams, 1)).packs().start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for name in 0..6 {
        clients.spawn(keeps_asking(node.new_client(), name, stop.clone()));
    }
    for mark in 2..=REVISIONS + 1 {
        assert_eq!(node.publish(&marked(upstreams, mark)).await, mark);
    }
    stop.store(true, Ordering::Relaxed);
    let sent: usize = clients.join_all().await.iter().sum();
    println!("{sent} requests over {REVISIONS} revisions");
    let metrics = node.has_reported(u64::try_from(sent).unwrap()).await;
    assert_eq!(metrics.revision("active"), REVISIONS + 1);
    assert_eq!(metrics.revision("rejected"), 0);
    assert_eq!(even.arrivals().len() + odd.arrivals().len(), sent);
}

#[tokio::test]
async fn what_is_replaced_while_the_one_before_is_put_in_force_is_noticed() {
    let upstream = Upstream::start().await;
    let document = |mark: u32| {
        document::standard(upstream.address).attached(
            "mark",
            "header-hygiene",
            json!({ "set": { "x-mark": mark.to_string() } }),
        )
    };
    let node = Setup::of(&document(0)).packs().start().await;
    let mut random = Random::of_this_run();
    for mark in (2..=sized("replacements", 40, 400)).step_by(2) {
        node.write(&document(mark - 1));
        // Somewhere between noticing the first one and having it in force.
        tokio::time::sleep(Duration::from_millis(u64::try_from(random.below(200)).unwrap())).await;
        node.write(&document(mark));
        eventually("the second one is in force", async || {
            node.get("/v1/contacts").key(ACME).send().await.is(200);
            hoped(upstream.arrivals().pop().unwrap().header("x-mark").to_owned(), &mark.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_in_progress_finishes_on_the_revision_that_it_pinned() {
    let old = Upstream::start().await;
    let new = Upstream::start().await;
    let latch = crate::harness::Latch::closed();
    let held = latch.clone();
    old.does(move |_| Reply::of(200).body("old").held_by(&held));
    let node = Node::start(&document::standard(old.address)).await;
    let asked = tokio::spawn(node.get("/v1/contacts").key(ACME).send());
    old.has_seen(1).await;
    let second = node.publish(&document::standard(new.address)).await;
    let meanwhile = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(meanwhile.is(200).revision(), second);
    latch.open();
    let answer = asked.await.unwrap();
    assert_eq!((&*answer.is(200).body, answer.revision()), (&b"old"[..], second - 1));
    assert_eq!((old.arrivals().len(), new.arrivals().len()), (1, 1));
}

#[tokio::test]
async fn an_invalid_document_changes_nothing_and_says_why() {
    let upstream = Upstream::start().await;
    let good = document::standard(upstream.address);
    let node = Node::start(&good).await;
    let asks = async || node.get("/v1/contacts").key(ACME).send().await.is(200).revision();
    assert_eq!(asks().await, 1);

    let invalid = good
        .clone()
        .changed(|document| {
            document["colour"] = json!("red");
            document.entry("tenants", "acme")["plan"] = json!("platinum");
            document.entry("routes", "contacts.create")["body"]["limit"] = json!("huge");
        })
        .with("upstreams", json!({ "id": "crm", "targets": [{ "address": "127.0.0.1:1" }] }));
    node.write(&invalid);
    eventually("the revision is shown as rejected", async || {
        let metrics = node.metrics().await;
        if metrics.revision("rejected") == 2 { Ok(()) } else { Err(metrics.revision("rejected")) }
    })
    .await;
    for pointer in ["/colour", "/tenants/0/plan", "/routes/1/body/limit", "/upstreams/1/id"] {
        node.has_logged(&[pointer]).await;
    }
    assert_eq!(node.metrics().await.revision("active"), 1);
    assert_eq!(asks().await, 1);

    for text in ["", "format: [", "format: 2\n", "\0", "{\"format\": 1}}"] {
        node.write_text(text);
        // The next good one shows that this one was looked at.
        let revision =
            node.publish(&good.clone().with("plans", json!({ "id": "other", "limits": [] }))).await;
        assert_eq!(asks().await, revision, "{text:?}");
        let before = node.publish(&good).await;
        assert_eq!(asks().await, before, "{text:?}");
    }
    assert_eq!(node.metrics().await.revision("rejected"), 0);
}

#[tokio::test]
async fn a_document_whose_parts_cannot_be_made_changes_nothing() {
    let upstream = Upstream::start().await;
    let good = document::standard(upstream.address);
    let node = Setup::of(&good).packs().start().await;
    let hygiene = || good.clone().attached("a", "header-hygiene", json!({ "remove": ["x-a"] }));
    let cases = [
        ("/packs/0", good.clone().attached("a", "absent", json!({}))),
        ("/attachments/0/settings", hygiene().changed(|document| document["attachments"][0]["settings"] = json!({ "drop": 1 }))),
        ("/packs/0", hygiene().changed(|document| document["packs"][0]["digest"] = json!(format!("sha256:{}", "0".repeat(64))))),
        ("/issuers/0/jwks/file", good.clone().with("issuers", json!({
            "id": "idp", "issuer": "https://idp.example", "audiences": ["a"], "algorithms": ["RS256"],
            "tenant": "acme", "jwks": { "file": "absent.json" } }))),
        ("/issuers/0/secret", good.clone().with("issuers", json!({
            "id": "idp", "issuer": "https://idp.example", "audiences": ["a"], "algorithms": ["HS256"],
            "tenant": "acme", "secret": { "env": "TOLLGATE_SECRET_ABSENT" } }))),
    ];
    for (pointer, document) in cases {
        node.write(&document);
        node.has_logged(&[pointer]).await;
        eventually(pointer, async || {
            let metrics = node.metrics().await;
            if metrics.revision("rejected") > 0 { Ok(()) } else { Err(()) }
        })
        .await;
        let answer = node.get("/v1/contacts").key(ACME).header("x-a", "1").send().await;
        let arrivals = upstream.arrivals();
        assert_eq!(arrivals.last().unwrap().header("x-a"), "1", "{pointer}");
        let in_force = answer.is(200).revision();
        let revision = node
            .publish(
                &good
                    .clone()
                    .with("plans", json!({ "id": pointer_id(pointer, in_force), "limits": [] })),
            )
            .await;
        assert_eq!(revision, in_force + 1, "{pointer}");
    }
}

/// A document that differs from every other one.
fn pointer_id(pointer: &str, revision: u64) -> String {
    format!("p{revision}{}", pointer.len())
}

#[tokio::test]
async fn a_node_without_a_valid_document_does_not_start() {
    let upstream = Upstream::start().await;
    let mut document = document::standard(upstream.address);
    document["colour"] = json!("red");
    let mut node = Setup::of(&document).start_unready();
    let ended = eventually("it ends", async || node.process().ended().ok_or(())).await;
    assert_eq!(ended.code(), Some(1));
    node.has_logged(&["/colour"]).await;
}

#[tokio::test]
async fn removed_routes_and_credentials_stop_at_once() {
    let upstream = Upstream::start().await;
    let good = document::standard(upstream.address);
    let node = Node::start(&good).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    let reduced = good.clone().changed(|document| {
        document["routes"].as_array_mut().unwrap().remove(0);
        document.entry("tenants", "acme")["consumers"][0]["credentials"]
            .as_array_mut()
            .unwrap()
            .remove(0);
    });
    node.publish(&reduced).await;
    node.get("/v1/contacts/7").key(ACME).send().await.refuses(401, "CREDENTIAL_INVALID");
    node.get("/v1/contacts")
        .key(document::ACME_SECOND)
        .send()
        .await
        .refuses(405, "METHOD_NOT_ALLOWED");
    node.publish(&good).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test]
async fn a_publish_resets_no_counter() {
    let upstream = Upstream::start().await;
    let limits = |quota: &str| {
        json!([
            { "id": "burst", "rate": "1/h", "burst": 4, "per": "tenant", "on_store_error": "closed" },
            { "id": "monthly", "quota": quota, "per": "tenant", "on_store_error": "closed" },
        ])
    };
    let node =
        Node::start(&document::standard(upstream.address).limited(limits("100/month"))).await;
    for _ in 0..3 {
        node.get("/v1/contacts").key(ACME).send().await.is(200);
    }
    node.publish(&document::standard(upstream.address).limited(limits("200/month"))).await;
    let usage = node.usage(ACME).await;
    assert_eq!((&usage[0]["used"], &usage[1]["used"]), (&json!(3), &json!(3)), "{usage}");
    assert_eq!(usage[1]["limit"], 200);
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    node.get("/v1/contacts").key(ACME).send().await.refuses(429, "RATE_LIMITED");
}
