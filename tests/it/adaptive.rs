//! A tenant far above its own baseline is slowed where its plan says so; others are not, and the audit tells.

use crate::harness::document::{self, ACME, Edit as _, GLOBEX};
use crate::harness::{Node, Upstream, eventually};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// For how long nobody is slowed who is new: the shortest half-life that a plan may have.
const HALF_LIFE: Duration = Duration::from_secs(10);

fn protected(limits: Value) -> impl FnOnce(&mut Value) {
    move |document| {
        for plan in document["plans"].as_array_mut().unwrap() {
            plan["limits"] = limits.clone();
            plan["adaptive"] =
                json!({ "factor": 2, "half_life": "10s", "floor": "5/s", "patience": "1s" });
        }
    }
}

async fn audited(node: &Node, action: &str) -> Vec<Value> {
    let entries = node.admin.get("/v1/audit?limit=100").bearer(&node.admin_token()).send().await;
    let entries = entries.is(200).json();
    let items = entries["items"].as_array().unwrap().iter();
    items.filter(|entry| entry["action"] == action).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_far_more_than_it_is_used_to_is_slowed_and_nobody_else() {
    let upstream = Upstream::start().await;
    let daily = json!([{ "id": "daily", "quota": "100000/day", "per": "tenant", "on_store_error": "closed" }]);
    let document = document::standard(upstream.address).changed(protected(daily));
    let node = Node::start(&document).await;
    let began = Instant::now();
    let mut sent = 0;
    // What it is used to: a few requests a second, for as long as nobody is judged.
    while began.elapsed() < HALF_LIFE + Duration::from_secs(1) {
        node.get("/v1/contacts").key(ACME).send().await.is(200);
        sent += 1;
        // A habit is a matter of time.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut refused = Vec::new();
    eventually("the tenant is slowed", async || {
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            clients.spawn(node.get("/v1/contacts").key(ACME).send());
        }
        let answers = clients.join_all().await;
        sent += answers.iter().filter(|answer| answer.status == 200).count();
        refused.extend(answers.into_iter().filter(|answer| answer.status != 200));
        if refused.is_empty() { Err(format!("{sent} were admitted")) } else { Ok(()) }
    })
    .await;
    for answer in &refused {
        let details = answer.refuses(429, "RATE_LIMITED");
        assert_eq!(details["limit"], "adaptive");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    // Whoever is used to little and sends little is served, and what was refused was not charged.
    node.get("/v1/contacts").key(GLOBEX).send().await.is(200);
    assert_eq!(node.usage(ACME).await[0]["used"], json!(sent));
    assert_eq!(upstream.arrivals().len(), sent + 1);
    let metrics = node.metrics().await;
    let counted = |name: &str| metrics.sum(name, &[]).to_string();
    assert_eq!(counted("tollgate_adaptive_slowed"), "1");
    assert_eq!(counted("tollgate_adaptive_refused_total"), refused.len().to_string());

    let entry = eventually("the audit says so", async || {
        audited(&node, "tenants.slow").await.pop().ok_or("no entry")
    })
    .await;
    assert_eq!(entry["tenant"], "acme");
    assert_eq!(entry["resource"], "/v1/tenants/acme");
    assert!(entry["actor"].to_string().contains("system"), "{entry}");
    let measured = &entry["difference"];
    assert!(
        measured["offered"].as_f64().unwrap() > measured["allowed"].as_f64().unwrap(),
        "{entry}"
    );

    // It sends no more: then it is no longer slowed.
    eventually("the audit says that it is over", async || {
        audited(&node, "tenants.unslow").await.pop().map(drop).ok_or("no entry")
    })
    .await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert!(node.metrics().await.sum("tollgate_adaptive_slowed", &[]) < 1.0);
}
