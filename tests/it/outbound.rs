//! What an upstream is sent: no more than its own limits allow, whoever sends it, and nothing before a backoff that it asked
//! for is over. Who is held back for the upstream's sake pays nothing for it.

use crate::harness::document::{self, ACME, ACME_BATCH, Edit as _, GLOBEX};
use crate::harness::metrics::Metrics;
use crate::harness::redis::Redis;
use crate::harness::{Answer, Arrival, Latch, Node, Pair, Reply, Upstream, eventually, hoped};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Both tenants have a quota of their own; the upstream has these fields.
fn with(upstream: &Upstream, fields: &Value) -> Value {
    let quota = json!([{ "id": "monthly", "quota": "100/month", "per": "tenant", "on_store_error": "closed" }]);
    document::standard(upstream.address).limited(quota).changed(|document| {
        let crm = document.entry("upstreams", "crm").as_object_mut().unwrap();
        crm.extend(fields.as_object().unwrap().clone());
    })
}

fn rate(burst: u32) -> Value {
    json!({ "id": "calls", "rate": "1/h", "burst": burst, "on_store_error": "closed" })
}

fn slots(concurrency: u32) -> Value {
    json!({ "id": "open", "concurrency": concurrency, "on_store_error": "closed" })
}

/// An upstream that answers this to whom it is told, and 200 to everybody else.
async fn refusing(tenant: &'static str, status: u16, retry_after: &str) -> Upstream {
    let refusal = Reply::of(status).header("retry-after", retry_after).body("not now");
    Upstream::scripted(move |arrival: &Arrival| match arrival.header("x-tenant-id") == tenant {
        true => refusal.clone(),
        false => Reply::of(200),
    })
    .await
}

/// Waits until so many requests were held back for this reason.
async fn has_counted(node: &Node, reason: &str, count: f64) -> Metrics {
    let labels = [("upstream", "crm"), ("reason", reason)];
    eventually("all that was held back is counted", async || {
        let metrics = node.metrics().await;
        hoped(metrics.sum("tollgate_upstream_limited_total", &labels), &count).map(|()| metrics)
    })
    .await
}

async fn list(node: &Node, key: &str) -> Answer {
    node.get("/v1/contacts").key(key).send().await
}

/// Asserts that the upstream's limit refuses, and that nothing says so but the answer.
#[track_caller]
fn is_limited(answer: &Answer, limit: &str) {
    let details = answer.refuses(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!((&details["upstream"], &details["limit"]), (&json!("crm"), &json!(limit)));
    assert_eq!(details["retry_after"].to_string(), answer.header("retry-after"));
    // What limits the upstream is not among the tenant's limits.
    assert!(!answer.header("ratelimit").contains(limit), "{answer:?}");
    assert!(answer.header("ratelimit").contains("\"monthly\""), "{answer:?}");
    assert!(!answer.header("ratelimit-policy").contains(limit), "{answer:?}");
}

/// Asserts that a backoff refuses; gives the seconds that are left of it.
#[track_caller]
fn is_held_back(answer: &Answer) -> u64 {
    let details = answer.refuses(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!((&details["upstream"], &details["reason"]), (&json!("crm"), &json!("backoff")));
    let left = answer.header("retry-after").parse().unwrap();
    assert_eq!(details["retry_after"], left);
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_towards_an_upstream_is_shared_by_all_tenants() {
    let upstream = Upstream::start().await;
    let node = Node::start(&with(&upstream, &json!({ "limits": [rate(20)] }))).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        for key in [ACME, GLOBEX] {
            clients.spawn(node.get("/v1/contacts").key(key).send());
        }
    }
    let answers = clients.join_all().await;
    let (sent, held_back): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    assert_eq!((sent.len(), upstream.arrivals().len()), (20, 20));
    for answer in held_back {
        is_limited(answer, "calls");
        // One comes back every hour.
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((3590..=3600).contains(&wait), "{wait}");
    }
    // The tenants' own quotas were charged for what was sent, and for nothing else.
    let of = |tenant: &str| {
        let arrivals = upstream.arrivals();
        arrivals.iter().filter(|arrival| arrival.header("x-tenant-id") == tenant).count()
    };
    let used = [of("acme"), of("globex")].map(|count| u64::try_from(count).unwrap());
    assert_eq!(used.iter().sum::<u64>(), 20);
    node.has_used(ACME, "monthly", used[0]).await;
    node.has_used(GLOBEX, "monthly", used[1]).await;
    let metrics = has_counted(&node, "rate", 20.0).await;
    assert_eq!(metrics.sum("tollgate_limit_decisions_total", &[("limit", "calls")]), 0.0);
}

#[tokio::test]
async fn so_many_requests_of_all_tenants_are_at_the_upstream_at_the_same_time() {
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).held_by(&held)).await;
    let node = Node::start(&with(&upstream, &json!({ "limits": [slots(2)] }))).await;
    let mut clients = JoinSet::new();
    clients.spawn(node.get("/v1/contacts").key(ACME).send());
    clients.spawn(node.get("/v1/contacts").key(GLOBEX).send());
    upstream.has_seen(2).await;
    for key in [ACME, GLOBEX, ACME_BATCH] {
        is_limited(&list(&node, key).await, "open");
    }
    assert_eq!(upstream.arrivals().len(), 2);
    latch.open();
    for answer in clients.join_all().await {
        answer.is(200);
    }
    is_free(&node).await;
    node.has_used(ACME, "monthly", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_on_one_redis_share_the_limits_towards_an_upstream() {
    let (redis, latch) = (Redis::start(), Latch::closed());
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).held_by(&held)).await;
    let document = with(&upstream, &json!({ "limits": [rate(20), slots(3)] }));
    let pair = Pair::start(&redis.url(), &document).await;
    let (a, b) = (pair.a(), pair.b());
    let mut clients = JoinSet::new();
    for (member, key) in [(a, ACME), (b, ACME), (b, GLOBEX)] {
        clients.spawn(member.get("/v1/contacts").key(key).send());
    }
    upstream.has_seen(3).await;
    for (member, key) in [(a, ACME), (a, GLOBEX), (b, ACME)] {
        is_limited(&member.get("/v1/contacts").key(key).send().await, "open");
    }
    latch.open();
    for answer in clients.join_all().await {
        answer.is(200);
    }
    let mut sent = 3;
    let refused = eventually("the rate is used up", async || {
        for member in [a, b] {
            let answer = member.get("/v1/contacts").key(ACME).send().await;
            match answer.status {
                200 => sent += 1,
                // A slot may still be on its way back.
                _ if answer.json()["details"]["limit"] == "open" => {}
                _ => return Ok(answer),
            }
        }
        Err(sent)
    })
    .await;
    is_limited(&refused, "calls");
    assert_eq!((sent, upstream.arrivals().len()), (20, 20));
}

/// A slot of the upstream is free again; one request of acme shows it.
async fn is_free(node: &Node) {
    eventually("a slot is free", async || hoped(list(node, ACME).await.status, &200)).await;
}

#[tokio::test]
async fn a_slot_towards_an_upstream_is_free_again_however_the_exchange_ends() {
    let upstream = Upstream::scripted(|arrival| match arrival.header("x-ends") {
        "cut" => Reply::cut(),
        "half" => Reply::of(200).body("x".repeat(100_000)).cut_after(5_000),
        "error" => Reply::of(500),
        "never" => Reply::never(),
        _ => Reply::of(200),
    })
    .await;
    let node = Node::start(&with(&upstream, &json!({ "limits": [slots(1)] }))).await;
    for ends in ["ok", "cut", "half", "error"] {
        let call = node.get("/v1/contacts").key(ACME).header("x-ends", ends);
        // A broken body is an error of the client's library, too.
        let _ = call.try_send().await;
        is_free(&node).await;
    }
    // The client leaves before there is an answer.
    let seen = upstream.arrivals().len();
    let call = node.new_client().get("/v1/contacts").key(ACME).header("x-ends", "never");
    let client = tokio::spawn(call.try_send());
    upstream.has_seen(seen + 1).await;
    is_limited(&list(&node, GLOBEX).await, "open");
    client.abort();
    is_free(&node).await;
    // Refused by Claim, and answered by it with what is stored.
    node.post("/v1/contacts")
        .key(ACME)
        .body("{}")
        .send()
        .await
        .refuses(400, "IDEMPOTENCY_KEY_MISSING");
    is_free(&node).await;
    for replay in [false, true] {
        let answer = node.keyed("again").body("{}").send().await;
        assert_eq!(answer.is(200).is_replay(), replay);
        is_free(&node).await;
    }
}

#[tokio::test]
async fn who_is_held_back_keeps_its_quota_and_its_idempotency_key() {
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |arrival| match arrival.method.as_str() {
        "GET" => Reply::of(200).held_by(&held),
        _ => Reply::of(201).body("made"),
    })
    .await;
    let node = Node::start(&with(&upstream, &json!({ "limits": [slots(1)] }))).await;
    let holder = tokio::spawn(node.get("/v1/contacts").key(GLOBEX).send());
    upstream.has_seen(1).await;
    for _ in 0..3 {
        is_limited(&node.keyed("once").body("{}").send().await, "open");
    }
    node.has_used(ACME, "monthly", 0).await;
    latch.open();
    holder.await.unwrap().is(200);
    let answer = eventually("the same key is taken", async || {
        let answer = node.keyed("once").body("{}").send().await;
        if answer.status == 201 { Ok(answer) } else { Err(answer.status) }
    })
    .await;
    assert!(!answer.is_replay(), "nothing was stored of a refusal");
    assert_eq!(upstream.arrivals().len(), 2);
    node.has_used(ACME, "monthly", 1).await;
}

#[tokio::test]
async fn a_429_with_retry_after_holds_back_that_tenant_alone_and_then_traffic_goes_on() {
    let upstream = refusing("acme", 429, "3").await;
    let node = Node::start(&with(&upstream, &json!({}))).await;
    let asked = Instant::now();
    // The upstream's own answer passes as it is.
    let first = list(&node, ACME).await;
    assert_eq!((first.is(429).header("retry-after"), &*first.body), ("3", b"not now".as_slice()));
    assert_eq!(first.code(), "");
    for call in [node.get("/v1/contacts").key(ACME_BATCH), node.keyed("later").body("{}")] {
        let left = is_held_back(&call.send().await);
        assert!((1..=3).contains(&left), "{left}");
    }
    list(&node, GLOBEX).await.is(200);
    assert_eq!(upstream.arrivals().len(), 2, "acme once, globex once");
    let metrics = has_counted(&node, "backoff", 2.0).await;
    assert_eq!(metrics.sum("tollgate_upstream_backoffs", &[("upstream", "crm")]), 1.0);

    upstream.does(|_| Reply::of(200));
    // Not before it is over, however often somebody asks.
    let freed = eventually("traffic goes on", async || {
        let answer = list(&node, ACME).await;
        if answer.status == 200 { Ok(Instant::now()) } else { Err(is_held_back(&answer)) }
    })
    .await;
    assert!(freed - asked >= Duration::from_secs(3), "{:?}", freed - asked);
    node.keyed("later").body("{}").send().await.is(200);
    // A 429 of the upstream is an answer; what was held back is not charged.
    node.has_used(ACME, "monthly", 3).await;
    eventually("the backoff is forgotten", async || {
        let metrics = node.metrics().await;
        hoped(metrics.sum("tollgate_upstream_backoffs", &[("upstream", "crm")]), &0.0)
    })
    .await;
}

#[tokio::test]
async fn the_document_says_whom_a_backoff_holds_back_and_for_how_long_at_most() {
    let date = model::Clock::system().now() + Duration::from_secs(30);
    let date = jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S GMT", date).unwrap();
    for (status, retry_after, backoff, acme, globex) in [
        (503, "30", json!({}), 29..=30, false),
        (429, "30", json!({ "per": "upstream", "max": "60s" }), 29..=30, true),
        (503, &*date, json!({}), 20..=30, false),
        (429, "99999999999999999999", json!({ "per": "tenant", "max": "9s" }), 8..=9, false),
        (429, "30", json!({ "per": "off", "max": "60s" }), 0..=0, false),
        (429, "soon", json!({}), 0..=0, false),
        (500, "30", json!({}), 0..=0, false),
    ] {
        let what = format!("{status} {retry_after} {backoff}");
        let upstream = refusing("acme", status, retry_after).await;
        let node = Node::start(&with(&upstream, &json!({ "backoff": backoff }))).await;
        list(&node, ACME).await.is(status);
        let again = list(&node, ACME).await;
        let other = list(&node, GLOBEX).await;
        if *acme.end() == 0 {
            again.is(status);
        } else {
            let left = is_held_back(&again);
            assert!(acme.contains(&left), "{what}: {left}");
        }
        match globex {
            true => assert!(acme.contains(&is_held_back(&other)), "{what}"),
            false => drop(other.is(200)),
        }
        let sent = 1 + usize::from(*acme.end() == 0) + usize::from(!globex);
        assert_eq!(upstream.arrivals().len(), sent, "{what}");
    }
}

#[tokio::test]
async fn a_backoff_is_asked_for_by_a_buffered_answer_too_and_outlives_a_publish() {
    let upstream = refusing("acme", 429, "30").await;
    let document = with(&upstream, &json!({}));
    let node = Node::start(&document).await;
    let first = node.keyed("k").body("{}").send().await;
    assert_eq!(first.is(429).header("retry-after"), "30");
    is_held_back(&list(&node, ACME).await);
    let changed = document.changed(|document| document["plans"][1]["limits"] = json!([]));
    node.publish(&changed).await;
    is_held_back(&list(&node, ACME).await);
    // The key is free, as nothing was done under it; and the operator may say that nobody waits.
    node.publish(&changed.changed(|document| {
        document.entry("upstreams", "crm")["backoff"] = json!({ "per": "off", "max": "60s" });
    }))
    .await;
    upstream.does(|_| Reply::of(201));
    assert!(!node.keyed("k").body("{}").send().await.is(201).is_replay());
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test]
async fn a_record_says_that_the_upstream_was_not_asked_and_why() {
    let upstream = Upstream::start().await;
    let document = with(&upstream, &json!({ "limits": [rate(1)] })).changed(|document| {
        document.entry("routes", "contacts.list")["record"] = json!("required");
    });
    let node = Node::start(&document).await;
    for (id, status) in [("was-sent", 200), ("was-held-back", 503)] {
        let call = node.get("/v1/contacts").key(ACME).header("x-request-id", id);
        call.send().await.is(status);
    }
    for (id, expected) in [
        ("was-sent", &["throttle passed", "outbound passed", "claim passed", "forward passed"][..]),
        ("was-held-back", &["throttle passed", "outbound refused"]),
    ] {
        let record = eventually("there is a record", async || {
            let answer = node.get(&format!("/.tollgate/explain/{id}")).key(ACME).send().await;
            if answer.status == 404 { Err(answer.code()) } else { Ok(answer) }
        })
        .await
        .json();
        let record = &record["items"][0];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let told = record["stages"].as_array().unwrap().iter();
        let told: Vec<String> = told
            .map(|it| format!("{} {}", text(&it["stage"]), text(&it["verdict"])))
            .skip_while(|stage| !stage.starts_with("throttle"))
            .collect();
        assert_eq!(told, expected, "{record}");
    }
    node.has_logged(&["was-held-back", "the limit `calls` towards the upstream `crm`"]).await;
}
