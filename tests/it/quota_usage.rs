//! What tenants have used, told and set back by a process that serves nobody: it asks whoever counts, or says that it can't.

use crate::harness::cluster::{Cluster, Member};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::pair::counters;
use crate::harness::postgres::Database;
use crate::harness::redis::Redis;
use crate::harness::{Upstream, eventually, hoped};
use serde_json::{Value, json};

/// A gateway `a` and an admin `ops`, which share this Redis, or none.
async fn apart(redis: Option<&Redis>, upstream: &Upstream) -> (Cluster, Database) {
    let local = "local";
    let limits = json!([
        { "id": "monthly", "quota": "20/month", "per": "tenant", "on_store_error": local, "exact": true },
        { "id": "each", "quota": "50/month", "per": "consumer", "on_store_error": local, "exact": true },
    ]);
    let document = document::standard(upstream.address).limited(limits);
    let database = Database::fresh();
    let names: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["admin"])];
    let cluster = Cluster::start_with(&database.url(), &names, &document, |setup| match redis {
        Some(redis) => setup.with("redis", json!(redis.url())),
        None => setup,
    })
    .await;
    (cluster, database)
}

async fn ask(gateway: &Member, count: usize) {
    for _ in 0..count {
        gateway.get("/v1/contacts").key(ACME).send().await.is(200);
    }
}

/// `limit/consumer used`, of those that are used.
fn used(limits: &Value) -> Vec<String> {
    let limits = limits.as_array().unwrap().iter().filter(|limit| limit["used"] != 0);
    let line = |limit: &Value| {
        let consumer = limit["consumer"].as_str().unwrap_or_default();
        format!("{}/{consumer} {}", limit["id"].as_str().unwrap(), limit["used"])
    };
    limits.map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_alone_tells_and_sets_back_what_shared_counters_hold() {
    let (mut redis, upstream) = (Redis::start(), Upstream::start().await);
    let (cluster, _database) = apart(Some(&redis), &upstream).await;
    let (gateway, api) = (cluster.member("a"), cluster.api());
    let shared = |nodes: u32| json!({ "state": "shared", "nodes": nodes });
    for member in &cluster.members {
        eventually(&format!("{} shares counters", member.name), async || {
            // Who serves nobody is none of those that a limit is divided by.
            hoped(counters(member).await, &shared(1))
        })
        .await;
    }
    ask(gateway, 5).await;
    let usage = async || api.get("/v1/usage?tenant=acme").send().await;
    let reset = async || {
        let reset = api.post("/v1/usage/acme:reset").json(&json!({ "limit": "monthly" }));
        reset.send().await
    };
    let told = usage().await.is(200).json();
    assert_eq!(used(&told["limits"]), ["monthly/ 5", "each/acme-mobile 5"]);
    let told = reset().await.is(200).json();
    assert_eq!((used(&told["before"]), used(&told["after"])), (vec!["monthly/ 5".into()], vec![]));
    assert_eq!(gateway.used(ACME, "monthly").await, 0);
    assert_eq!(gateway.used(ACME, "each").await, 5);

    redis.kill();
    eventually("it is told that Redis is away", async || hoped(usage().await.status, &503)).await;
    usage().await.is_unavailable_at_admin();
    reset().await.is_unavailable_at_admin();
    // The gateway has noticed when it was asked something.
    eventually("the gateway counts alone", async || {
        ask(gateway, 1).await;
        hoped(counters(gateway).await["state"].clone(), &json!("degraded"))
    })
    .await;
    for member in &cluster.members {
        let ready = member.status.get("/readyz").send().await.is(200).json();
        assert_eq!(ready["ready"], true, "{ready}");
    }
    assert!(counters(gateway).await["since"].is_string());

    redis.start_again();
    eventually("it is told again", async || hoped(usage().await.status, &200)).await;
    eventually("the gateway shares counters", async || hoped(counters(gateway).await, &shared(1)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_alone_can_not_know_what_gateways_count_for_themselves() {
    let upstream = Upstream::start().await;
    let (cluster, _database) = apart(None, &upstream).await;
    ask(cluster.member("a"), 1).await;
    let api = cluster.api();
    let usage = api.get("/v1/usage?tenant=acme").send().await;
    usage.refuses(409, "CONFLICT");
    api.post("/v1/usage/acme:reset").json(&json!({})).send().await.refuses(409, "CONFLICT");
    for member in &cluster.members {
        assert_eq!(counters(member).await, json!({ "state": "in_process" }));
    }
}
