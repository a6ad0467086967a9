//! Limits admit exactly what they say, a refusal consumes nothing, and every answer tells what is left.

use crate::harness::document::{self, ACME, ACME_BATCH, ACME_SECOND, Edit as _, GLOBEX};
use crate::harness::node::Setup;
use crate::harness::{Answer, Latch, Node, Reply, Upstream};
use serde_json::{Value, json};
use tokio::task::JoinSet;

fn rate(id: &str, rate: &str, burst: u32) -> Value {
    json!({ "id": id, "rate": rate, "burst": burst, "per": "tenant", "on_store_error": "closed" })
}

fn quota(id: &str, quota: &str) -> Value {
    json!({ "id": id, "quota": quota, "per": "tenant", "on_store_error": "closed" })
}

fn slots(id: &str, concurrency: u32) -> Value {
    json!({ "id": id, "concurrency": concurrency, "per": "tenant", "on_store_error": "closed" })
}

async fn limited(upstream: &Upstream, limits: Value) -> Node {
    Node::start(&document::standard(upstream.address).limited(limits)).await
}

/// So many requests of acme at one instant.
async fn at_once(node: &Node, count: usize) -> Vec<Answer> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(node.get("/v1/contacts").key(ACME).send());
    }
    clients.join_all().await
}

fn admitted(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_n_admits_exactly_n_at_one_instant() {
    for burst in [1, 7, 40] {
        let upstream = Upstream::start().await;
        // Slow to come back, so that the test's own duration admits nobody.
        let node = limited(&upstream, json!([rate("burst", "1/h", burst)])).await;
        let answers = at_once(&node, 60).await;
        assert_eq!(admitted(&answers), usize::try_from(burst).unwrap());
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            let details = answer.refuses(429, "RATE_LIMITED");
            assert_eq!(details["limit"], "burst");
        }
        assert_eq!(upstream.arrivals().len(), usize::try_from(burst).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_rate_refuses_consumes_no_quota() {
    let upstream = Upstream::start().await;
    let node =
        limited(&upstream, json!([rate("rate", "5/h", 5), quota("monthly", "100/month")])).await;
    let answers = at_once(&node, 50).await;
    assert_eq!(admitted(&answers), 5);
    let usage = node.usage(ACME).await;
    assert_eq!(
        (&usage[1]["id"], &usage[1]["used"], &usage[1]["remaining"]),
        (&json!("monthly"), &json!(5), &json!(95))
    );
    assert_eq!(usage[0]["used"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_quota_refuses_consumes_no_rate() {
    let upstream = Upstream::start().await;
    let node =
        limited(&upstream, json!([rate("rate", "20/h", 20), quota("monthly", "5/month")])).await;
    let answers = at_once(&node, 50).await;
    assert_eq!(admitted(&answers), 5);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.refuses(429, "QUOTA_EXCEEDED")["limit"], "monthly");
    }
    let usage = node.usage(ACME).await;
    assert_eq!((&usage[0]["used"], &usage[1]["used"]), (&json!(5), &json!(5)), "{usage}");
}

#[tokio::test]
async fn as_many_at_the_same_time_as_there_are_slots() {
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).held_by(&held)).await;
    let node = limited(&upstream, json!([slots("open", 3), quota("monthly", "100/month")])).await;
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        clients.spawn(node.get("/v1/contacts").key(ACME).send());
    }
    upstream.has_seen(3).await;
    for _ in 0..2 {
        let refused = node.get("/v1/contacts").key(ACME).send().await;
        assert_eq!(refused.refuses(429, "CONCURRENCY_LIMITED")["limit"], "open");
    }
    // Others have slots of their own.
    let other = tokio::spawn(node.get("/v1/contacts").key(GLOBEX).send());
    upstream.has_seen(4).await;
    latch.open();
    assert_eq!(admitted(&clients.join_all().await), 3);
    other.await.unwrap().is(200);
    node.has_used(ACME, "open", 0).await;
    node.has_used(ACME, "monthly", 3).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
}

#[tokio::test]
async fn slots_are_given_back_however_a_request_ends() {
    let upstream = Upstream::scripted(|arrival| match arrival.header("x-ends") {
        "cut" => Reply::cut(),
        "half" => Reply::of(200).body("x".repeat(100_000)).cut_after(5_000),
        "error" => Reply::of(500),
        _ => Reply::of(200),
    })
    .await;
    let document = document::standard(upstream.address)
        .limited(json!([slots("open", 1)]))
        .attached("correlation", "require-header", json!({ "header": "x-correlation-id" }));
    let node = Setup::of(&document).packs().start().await;
    let asks = |ends: &str| node.get("/v1/contacts").key(ACME).header("x-ends", ends);
    for ends in ["ok", "cut", "error", "half", "ok"] {
        // A broken body is an error of the client's library, too.
        let asked = asks(ends).header("x-correlation-id", "1").try_send().await;
        assert_eq!(asked.is_ok_and(|answer| answer.status == 200), ends == "ok", "{ends}");
        node.has_used(ACME, "open", 0).await;
    }
    asks("denied").send().await.refuses(403, "POLICY_DENIED");
    node.has_used(ACME, "open", 0).await;
    let posted =
        node.post("/v1/contacts").key(ACME).header("x-correlation-id", "1").body("{}").send().await;
    posted.refuses(400, "IDEMPOTENCY_KEY_MISSING");
    node.has_used(ACME, "open", 0).await;
}

#[tokio::test]
async fn every_answer_tells_what_is_left() {
    let upstream = Upstream::start().await;
    let limits = json!([rate("burst", "10/h", 4), quota("monthly", "100/month"), slots("open", 9)]);
    let node = limited(&upstream, limits).await;
    let policy = "\"burst\";q=4;w=1440, \"monthly\";q=100;w=2678400, \"open\";q=9;qu=\"concurrent-requests\"";
    for left in (0..4).rev() {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        answer.is(200);
        assert_eq!(answer.header("ratelimit-policy"), policy);
        let current = answer.header("ratelimit");
        assert!(current.starts_with(&format!("\"burst\";r={left};t=")), "{current}");
        assert!(current.contains(&format!("\"monthly\";r={};t=", 96 + left)), "{current}");
        assert_eq!(answer.header("x-ratelimit-limit"), "4");
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
        let reset: u64 = answer.header("x-ratelimit-reset").parse().unwrap();
        assert!((1..=1440).contains(&reset), "{reset}");
    }
    let refused = node.get("/v1/contacts").key(ACME).send().await;
    refused.refuses(429, "RATE_LIMITED");
    assert_eq!(refused.header("ratelimit-policy"), policy);
    assert!(refused.header("ratelimit").starts_with("\"burst\";r=0;t="));
    assert_eq!(
        (refused.header("x-ratelimit-limit"), refused.header("x-ratelimit-remaining")),
        ("4", "0")
    );
    // One comes back every six minutes.
    let retry: u64 = refused.header("retry-after").parse().unwrap();
    assert!((300..=360).contains(&retry), "{retry}");
    assert_eq!(refused.header("cache-control"), "no-store");

    // Other refusals of a known caller say it as well; nobody else is told.
    let malformed = node.post("/v1/contacts").key(ACME).send().await;
    assert!(!malformed.header("ratelimit-policy").is_empty());
    let anonymous = node.get("/v1/contacts").send().await;
    anonymous.refuses(401, "CREDENTIAL_MISSING");
    assert_eq!(anonymous.lines("ratelimit-policy").len() + anonymous.lines("ratelimit").len(), 0);
}

#[tokio::test]
async fn unlimited_callers_get_no_limit_headers() {
    let upstream =
        Upstream::scripted(|_| Reply::of(200).header("ratelimit", "\"theirs\";r=1")).await;
    let node = Node::start(&document::standard(upstream.address)).await;
    let answer = node.get("/v1/contacts").key(ACME).send().await;
    for name in ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "retry-after"] {
        assert_eq!(answer.is(200).lines(name).len(), 0, "{name}");
    }
    assert_eq!(node.usage(ACME).await, json!([]));
}

#[tokio::test]
async fn limits_are_shared_by_tenant_or_consumer_or_credential() {
    for (per, batch, second) in
        [("tenant", 429, 429), ("consumer", 200, 429), ("credential", 200, 200)]
    {
        let upstream = Upstream::start().await;
        let limit = json!({ "id": "burst", "rate": "1/h", "burst": 2, "per": per, "on_store_error": "closed" });
        let node = limited(&upstream, json!([limit])).await;
        for _ in 0..2 {
            node.get("/v1/contacts").key(ACME).send().await.is(200);
        }
        node.get("/v1/contacts").key(ACME).send().await.is(429);
        for (key, status) in [(ACME_BATCH, batch), (ACME_SECOND, second), (GLOBEX, 200)] {
            assert_eq!(
                node.get("/v1/contacts").key(key).send().await.status,
                status,
                "{per} {key}"
            );
        }
    }
}

#[tokio::test]
async fn a_route_charges_its_cost() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .limited(json!([rate("burst", "1/h", 12), quota("monthly", "100/month")]))
        .changed(|document| document.entry("routes", "contacts.create")["cost"] = json!(5));
    let node = Node::start(&document).await;
    node.keyed("cost-1").body("{}").send().await.is(201);
    node.keyed("cost-2").body("{}").send().await.is(201);
    let refused = node.keyed("cost-3").body("{}").send().await;
    let details = refused.refuses(429, "RATE_LIMITED");
    assert_eq!((&details["remaining"], &details["cost"]), (&json!(2), &json!(5)));
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    let usage = node.usage(ACME).await;
    assert_eq!((&usage[0]["used"], &usage[1]["used"]), (&json!(11), &json!(11)));
}

#[tokio::test]
async fn what_costs_more_than_a_limit_ever_admits_is_told_so() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .limited(json!([rate("burst", "1/h", 3)]))
        .changed(|document| document.entry("routes", "contacts.create")["cost"] = json!(5));
    let node = Node::start(&document).await;
    let answer = node.keyed("never").body("{}").send().await;
    assert_eq!((answer.status, &*answer.code()), (429, "RATE_LIMITED"));
    // No wait would help.
    assert_eq!(answer.lines("retry-after").len(), 0);
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn quotas_are_not_charged_for_replays_failures_and_later_refusals() {
    let upstream = Upstream::scripted(|arrival| match arrival.header("x-ends") {
        "cut" => Reply::cut(),
        "" => Reply::of(200),
        status => Reply::of(status.parse().unwrap()),
    })
    .await;
    let document = document::standard(upstream.address)
        .limited(json!([rate("burst", "1/h", 100), quota("monthly", "100/month")]))
        .attached("correlation", "require-header", json!({ "header": "x-correlation-id" }))
        .changed(|document| {
            document.entry("attachments", "correlation")["scope"] =
                json!({ "route": "contacts.list" });
        });
    let node = Setup::of(&document).packs().start().await;
    let get = |ends: &str| node.get("/v1/contacts/7").key(ACME).header("x-ends", ends);
    // What it ends like, its status, what the quota has counted after it.
    let mut spent = 0;
    for (ends, status, charged) in [
        ("200", 200, 1),
        ("404", 404, 1),
        ("500", 500, 0),
        ("503", 503, 0),
        ("cut", 502, 0),
        ("201", 201, 1),
    ] {
        get(ends).send().await.is(status);
        spent += charged;
        node.has_used(ACME, "monthly", spent).await;
    }
    node.get("/v1/contacts").key(ACME).send().await.refuses(403, "POLICY_DENIED");
    node.has_used(ACME, "monthly", spent).await;
    node.post("/v1/contacts").key(ACME).send().await.refuses(400, "IDEMPOTENCY_KEY_MISSING");
    node.has_used(ACME, "monthly", spent).await;
    for _ in 0..3 {
        node.keyed("charged-once").body("{}").send().await.is(200);
        node.has_used(ACME, "monthly", spent + 1).await;
    }
    // Rates keep every charge: the requests did arrive.
    node.has_used(ACME, "burst", 6 + 2 + 3).await;
}

#[tokio::test]
async fn own_endpoints_are_not_charged() {
    let upstream = Upstream::start().await;
    let node = limited(&upstream, json!([rate("burst", "1/h", 1)])).await;
    for _ in 0..5 {
        node.usage(ACME).await;
    }
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!(node.usage(ACME).await[0]["remaining"], 0);
    node.get("/.tollgate/usage").send().await.refuses(401, "CREDENTIAL_MISSING");
}
