//! What a route may say of keys: how long a repeat waits, what frees a key, what becomes of an unknown outcome; how long a
//! lease lasts; and how answers are kept.

use crate::harness::document::{self, ACME, ACME_SECOND, Edit as _, GLOBEX};
use crate::harness::node::Setup;
use crate::harness::token::unique;
use crate::harness::{Answer, Latch, Node, Reply, Upstream, hoped, sha256};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;

const ADA: &str = r#"{"first_name":"Ada"}"#;
/// Longer than a lease that nobody renews.
const BEYOND_A_LEASE: Duration = Duration::from_secs(16);

/// The standard document, whose route treats keys in these ways, too.
fn with_rules(upstream: &Upstream, rules: Value) -> Value {
    document::standard(upstream.address).changed(|document| {
        let idempotency = &mut document.entry("routes", "contacts.create")["idempotency"];
        for (name, value) in rules.as_object().unwrap() {
            idempotency[name] = value.clone();
        }
    })
}

async fn post(node: &Node, key: &str) -> Answer {
    node.keyed(key).body(ADA).send().await
}

/// How many keyed requests were treated so, as soon as so many requests were reported.
async fn treated(node: &Node, requests: u64, outcome: &str) -> f64 {
    node.has_reported(requests).await.sum("tollgate_idempotency_total", &[("outcome", outcome)])
}

#[tokio::test]
async fn who_waits_gets_the_first_ones_answer() {
    const WAITING: usize = 5;
    let (latch, upstream) = (Latch::closed(), Upstream::start().await);
    let held = latch.clone();
    upstream.does(move |arrival| {
        Reply::of(201).body(format!("made {}", arrival.number)).held_by(&held)
    });
    let node = Node::start(&with_rules(&upstream, json!({ "wait": "30s" }))).await;
    let first = tokio::spawn(node.keyed("k").body(ADA).send());
    upstream.has_seen(1).await;
    let mut repeats = JoinSet::new();
    for _ in 0..WAITING {
        repeats.spawn(node.keyed("k").body(ADA).send());
    }
    // Time for all to arrive, so that it is waiting that is seen. Nobody is answered meanwhile.
    sleep(Duration::from_millis(500)).await;
    assert!(repeats.try_join_next().is_none());
    latch.open();
    let first = first.await.unwrap();
    assert!(!first.is(201).is_replay());
    for repeat in repeats.join_all().await {
        assert!(repeat.is(201).is_replay());
        assert_eq!(repeat.body, first.body);
    }
    assert!(post(&node, "k").await.is_replay());
    upstream.only_arrival();
    let requests = WAITING as u64 + 2;
    assert!(treated(&node, requests, "waited").await >= 1.0);
    assert!(treated(&node, requests, "replayed").await >= 1.0);
}

#[tokio::test]
async fn who_waits_in_vain_is_told_that_the_first_one_is_in_progress() {
    const WAIT: Duration = Duration::from_millis(300);
    let (latch, upstream) = (Latch::closed(), Upstream::start().await);
    let held = latch.clone();
    upstream.does(move |_| Reply::of(201).held_by(&held));
    let node = Node::start(&with_rules(&upstream, json!({ "wait": "300ms" }))).await;
    let first = tokio::spawn(node.keyed("k").body(ADA).send());
    upstream.has_seen(1).await;
    let began = Instant::now();
    let details = post(&node, "k").await.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
    assert!(began.elapsed() >= WAIT);
    assert!(details["retry_after"].as_u64().unwrap() >= 1);
    // Another request need not wait to learn that it is another.
    let other = node.keyed("k").body(r#"{"first_name":"Eve"}"#).send().await;
    other.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    latch.open();
    first.await.unwrap().is(201);
    upstream.only_arrival();
}

#[tokio::test]
async fn a_route_says_which_statuses_free_a_key() {
    let upstream =
        Upstream::scripted(|arrival| Reply::of(arrival.header("x-status").parse().unwrap())).await;
    let node = Node::start(&with_rules(&upstream, json!({ "release_on": [503, 404] }))).await;
    let ask = |key: &str, status: u16| {
        node.keyed(key).header("x-status", status.to_string()).body(ADA).send()
    };
    for (status, is_freed) in [(503, true), (404, true), (429, false), (408, false), (500, false)] {
        let key = format!("k-{status}");
        ask(&key, status).await.is(status);
        let repeat = ask(&key, 201).await;
        assert_eq!(repeat.is_replay(), !is_freed, "{status}");
        repeat.is(if is_freed { 201 } else { status });
    }
    let metrics = node.has_reported(10).await;
    let settled =
        |outcome| metrics.sum("tollgate_idempotency_settled_total", &[("outcome", outcome)]);
    assert_eq!((settled("released"), settled("stored")), (2.0, 5.0));
}

#[tokio::test]
async fn an_unknown_outcome_is_redriven_with_the_same_derived_key_and_a_larger_fence() {
    let upstream = Upstream::scripted(|arrival| match arrival.number {
        1 => Reply::cut(),
        2 => Reply::of(201).body("x".repeat(1000)).cut_after(500),
        _ => Reply::of(201).body(format!("made {}", arrival.number)),
    })
    .await;
    let node = Node::start(&with_rules(&upstream, json!({ "on_unknown": "redrive" }))).await;
    for _ in 0..2 {
        let broken = post(&node, "k").await.refuses(502, "UPSTREAM_UNREACHABLE");
        assert_eq!(broken["outcome"], "unknown");
    }
    // What is another request is never sent in its place.
    let other = node.keyed("k").body(r#"{"first_name":"Eve"}"#).send().await;
    other.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    let told = post(&node, "k").await;
    assert!(!told.is(201).is_replay());
    assert!(post(&node, "k").await.is(201).is_replay());
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 3);
    for pair in arrivals.windows(2) {
        assert_eq!(pair[0].header("idempotency-key"), pair[1].header("idempotency-key"));
        assert_eq!(pair[0].body_sha256, pair[1].body_sha256);
        let fence = |at: usize| pair[at].header("x-idempotency-fence").parse::<i64>().unwrap();
        assert!(fence(0) < fence(1));
    }
    assert_eq!(treated(&node, 5, "redriven").await, 2.0);
}

#[tokio::test]
async fn an_upstream_that_is_still_at_work_on_the_first_one_tells_a_redriven_one_no_outcome() {
    let upstream = Upstream::scripted(|arrival| match arrival.number {
        1 => Reply::cut(),
        2 | 3 => Reply::of(409).body("still at work"),
        _ => Reply::of(201).body("made"),
    })
    .await;
    let node = Node::start(&with_rules(&upstream, json!({ "on_unknown": "redrive" }))).await;
    post(&node, "k").await.refuses(502, "UPSTREAM_UNREACHABLE");
    for _ in 0..2 {
        let told = post(&node, "k").await;
        assert_eq!((told.status, &*told.body), (409, &b"still at work"[..]));
        assert!(!told.is_replay());
    }
    assert!(!post(&node, "k").await.is(201).is_replay());
    assert!(post(&node, "k").await.is(201).is_replay());
    assert_eq!(upstream.arrivals().len(), 4);
    // To a first one, it is what came of it.
    upstream.does(|_| Reply::of(409).body("taken"));
    post(&node, "other").await.is(409);
    assert!(post(&node, "other").await.is(409).is_replay());
    assert_eq!(upstream.arrivals().len(), 5);
}

/// Two at a time are sent to the upstream, whoever sends them.
fn with_two_slots(upstream: &Upstream) -> Value {
    with_rules(upstream, json!({ "wait": "30s" })).changed(|document| {
        let slots = json!({ "id": "open", "concurrency": 2, "on_store_error": "closed" });
        document.entry("upstreams", "crm")["limits"] = json!([slots]);
    })
}

#[tokio::test]
async fn who_waits_takes_nothing_of_what_everybody_may_send() {
    const WAITING: usize = 5;
    let (latch, upstream) = (Latch::closed(), Upstream::start().await);
    let held = latch.clone();
    upstream.does(move |arrival| match (&*arrival.method, arrival.number) {
        ("GET", _) => Reply::of(200),
        (_, 1) => Reply::of(429).held_by(&held),
        _ => Reply::of(201).body("made"),
    });
    let node = Node::start(&with_two_slots(&upstream)).await;
    let first = tokio::spawn(node.keyed("k").body(ADA).send());
    upstream.has_seen(1).await;
    let mut repeats = JoinSet::new();
    for _ in 0..WAITING {
        // One after the other: each takes the slot that is left until it knows that it waits.
        repeats.spawn(node.keyed("k").body(ADA).send());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(repeats.try_join_next().is_none());
    for _ in 0..3 {
        node.get("/v1/contacts").key(GLOBEX).send().await.is(200);
    }
    // It did nothing: one of those who waited is sent, and the others have its answer.
    latch.open();
    first.await.unwrap().is(429);
    let answers = repeats.join_all().await;
    let sent = answers.iter().filter(|answer| !answer.is(201).is_replay()).count();
    assert_eq!(sent, 1);
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.iter().filter(|arrival| arrival.method == "POST").count(), 2);
}

#[tokio::test]
async fn who_waited_and_finds_that_the_upstream_wants_a_pause_is_refused_and_takes_no_key() {
    let (latch, upstream) = (Latch::closed(), Upstream::start().await);
    let held = latch.clone();
    upstream.does(move |arrival| match arrival.number {
        1 => Reply::of(429).header("retry-after", "3").held_by(&held),
        _ => Reply::of(201),
    });
    let node = Node::start(&with_rules(&upstream, json!({ "wait": "30s" }))).await;
    let first = tokio::spawn(node.keyed("k").body(ADA).send());
    upstream.has_seen(1).await;
    let waits = tokio::spawn(node.keyed("k").body(ADA).send());
    // Time for it to wait.
    sleep(Duration::from_millis(300)).await;
    latch.open();
    first.await.unwrap().is(429);
    let details = waits.await.unwrap().refuses(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!(details["reason"], "backoff");
    upstream.only_arrival();
    assert_eq!(treated(&node, 2, "claimed").await, 2.0);
    let metrics = node.metrics().await;
    let released = [("outcome", "released")];
    assert_eq!(metrics.sum("tollgate_idempotency_settled_total", &released), 2.0);
    sleep(Duration::from_secs(3)).await;
    assert!(!post(&node, "k").await.is(201).is_replay());
}

#[tokio::test]
async fn a_lease_is_renewed_while_a_slow_upstream_works() {
    let (latch, upstream) = (Latch::closed(), Upstream::start().await);
    let held = latch.clone();
    upstream.does(move |_| Reply::of(201).body("made").held_by(&held));
    let document = document::standard(upstream.address).timeouts("1s", "60s", "60s");
    let node = Node::start(&document).await;
    let first = tokio::spawn(node.keyed("slow").body(ADA).send());
    upstream.has_seen(1).await;
    sleep(BEYOND_A_LEASE).await;
    post(&node, "slow").await.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
    latch.open();
    first.await.unwrap().is(201);
    assert!(post(&node, "slow").await.is(201).is_replay());
    upstream.only_arrival();
}

#[tokio::test]
async fn a_lease_ends_soon_after_its_holder_was_killed() {
    let upstream = Upstream::scripted(|_| Reply::never()).await;
    let document = document::standard(upstream.address).timeouts("1s", "300s", "300s");
    let mut node = Node::start(&document).await;
    let asked = tokio::spawn(node.keyed("killed").body(ADA).try_send());
    upstream.has_seen(1).await;
    node.kill();
    assert!(asked.await.unwrap().is_err());
    node.start_again().await;
    // Long before the upstream's five minutes are over.
    crate::harness::eventually("the lease ends", async || {
        hoped(post(&node, "killed").await.code(), &"IDEMPOTENCY_OUTCOME_UNKNOWN".to_owned())
    })
    .await;
    upstream.only_arrival();
}

#[tokio::test]
async fn a_credential_that_was_replaced_between_two_tries_keeps_the_repeat_safe() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address);
    let node = Node::start(&document).await;
    let first = post(&node, "rotated").await;
    first.is(201);
    let rotated = document.changed(|document| {
        let consumer = &mut document.entry("tenants", "acme")["consumers"][0];
        consumer["credentials"] = json!([document::credential("k9", ACME_SECOND)]);
    });
    node.publish(&rotated).await;
    let with = |key| node.post("/v1/contacts").key(key).idempotency_key("rotated").body(ADA).send();
    with(ACME).await.refuses(401, "CREDENTIAL_INVALID");
    let repeat = with(ACME_SECOND).await;
    assert!(repeat.is(201).is_replay());
    assert_eq!(repeat.body, first.body);
    upstream.only_arrival();
}

/// Whether a file of this folder has these bytes in it.
fn is_in(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).any(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn a_stored_answer_is_sealed_on_the_disk_where_there_is_a_master_key() {
    for is_sealed in [false, true] {
        let (body, header) = (sha256(unique()), sha256(unique()));
        let upstream = Upstream::start().await;
        let (told, also) = (body.clone(), header.clone());
        upstream.does(move |_| Reply::of(201).header("x-told", &also).body(told.clone()));
        let folder = tempfile::tempdir().unwrap();
        let (data, key) = (folder.path().join("data"), folder.path().join("key"));
        std::fs::write(&key, sha256(unique())).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let setup = Setup::of(&document::standard(upstream.address));
        let setup = setup.environment("TOLLGATE_DATA", data.to_str().unwrap());
        let setup = match is_sealed {
            true => setup.environment("TOLLGATE_MASTER_KEYS", key.to_str().unwrap()),
            false => setup,
        };
        let mut node = setup.start().await;
        post(&node, "k").await.is(201);
        for text in [&body, &header] {
            assert_eq!(is_in(&data, text), !is_sealed);
        }
        node.kill();
        node.start_again().await;
        let repeat = post(&node, "k").await;
        assert!(repeat.is(201).is_replay());
        assert_eq!((repeat.body.as_ref(), repeat.header("x-told")), (body.as_bytes(), &*header));
        upstream.only_arrival();
    }
}

#[tokio::test]
async fn a_tenant_has_as_much_room_as_the_settings_say() {
    let large = "x".repeat(1_000 << 10);
    let upstream = Upstream::scripted(move |_| Reply::of(201).body(large.clone())).await;
    let node = Setup::of(&document::standard(upstream.address))
        .environment("TOLLGATE_IDEMPOTENCY_ROOM_ANSWERS", "1MiB")
        .environment("TOLLGATE_IDEMPOTENCY_ROOM_ALL", "1MiB")
        .start()
        .await;
    post(&node, "k-0").await.is(201);
    // Its answer has no room, it itself has.
    post(&node, "k-1").await.is(201);
    post(&node, "k-1").await.refuses(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
    let mut taken = 2;
    while post(&node, &format!("k-{taken}")).await.status == 201 {
        taken += 1;
        assert!(taken <= 24, "{taken} keys of 1 KiB each were taken beside an answer of 1,000 KiB");
    }
    let refused = post(&node, "k-last").await;
    refused.refuses(503, "DEPENDENCY_UNAVAILABLE");
    assert!(post(&node, "k-0").await.is_replay());
}
