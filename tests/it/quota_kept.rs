//! Quotas that a process counts for itself outlive it; rates and slots do not have to.

use crate::harness::document::{self, ACME, ACME_BATCH, Edit as _};
use crate::harness::{Node, Upstream, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than what was used takes to be kept: a second.
const KEPT: Duration = Duration::from_secs(2);

fn limits() -> Value {
    let local = "local";
    json!([
        { "id": "monthly", "quota": "100/month", "per": "tenant", "on_store_error": local },
        { "id": "each", "quota": "50/billing_month", "per": "consumer", "on_store_error": local },
        { "id": "burst", "rate": "100/h", "burst": 100, "per": "tenant", "on_store_error": local },
    ])
}

/// So many requests of this key that are admitted.
async fn ask(node: &Node, key: &str, count: usize) {
    for _ in 0..count {
        node.get("/v1/contacts").key(key).send().await.is(200);
    }
}

/// What is used of the tenant's month, the consumer's, and the burst.
async fn used(node: &Node, key: &str) -> Vec<u64> {
    let usage = node.usage(key).await;
    usage.as_array().unwrap().iter().map(|limit| limit["used"].as_u64().unwrap()).collect()
}

/// Ends it as operators do, and starts it again.
async fn restart(node: &mut Node) {
    node.process().terminate();
    eventually("it ends", async || node.process().ended().ok_or(())).await;
    node.start_again().await;
}

#[tokio::test]
async fn what_was_used_of_a_quota_is_used_after_a_restart_or_a_kill() {
    let upstream = Upstream::start().await;
    let mut node = Node::start(&document::standard(upstream.address).limited(limits())).await;
    ask(&node, ACME, 5).await;
    ask(&node, ACME_BATCH, 2).await;
    // In the same second.
    restart(&mut node).await;
    assert_eq!(used(&node, ACME).await, [7, 5, 0]);
    assert_eq!(used(&node, ACME_BATCH).await, [7, 2, 0]);
    ask(&node, ACME, 3).await;
    tokio::time::sleep(KEPT).await;
    node.kill();
    node.start_again().await;
    assert_eq!(used(&node, ACME).await, [10, 8, 0]);
    assert_eq!(used(&node, ACME_BATCH).await, [10, 2, 0]);
    // Nothing is counted twice, however often it starts.
    restart(&mut node).await;
    assert_eq!(used(&node, ACME).await, [10, 8, 0]);
    ask(&node, ACME, 42).await;
    let refused = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(refused.refuses(429, "QUOTA_EXCEEDED")["limit"], "each");
}

#[tokio::test]
async fn what_an_operator_set_back_stays_so() {
    let upstream = Upstream::start().await;
    let mut node = Node::start(&document::standard(upstream.address).limited(limits())).await;
    ask(&node, ACME, 5).await;
    let reset = node.admin.post("/v1/usage/acme:reset").bearer(&node.admin_token());
    reset.idempotency_key("reset-1").json(&json!({ "limit": "monthly" })).send().await.is(200);
    restart(&mut node).await;
    assert_eq!(used(&node, ACME).await, [0, 5, 0]);
}
