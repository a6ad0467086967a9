//! The process setting `redis`: what is counted there, and that a process neither waits for it nor tells its password.

use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::node::Setup;
use crate::harness::redis::Redis;
use crate::harness::{Demo, Reply, Upstream, eventually, hoped};
use serde_json::json;

#[tokio::test]
async fn the_demo_counts_on_the_redis_that_its_environment_names() {
    let redis = Redis::start();
    let demo = Demo::start_with(&[("TOLLGATE_REDIS", &redis.url())]).await;
    // The connection is made meanwhile.
    eventually("the tenant's counters are on Redis", async || {
        demo.get("/v2/contacts").key(demo.value("ACME_KEY")).send().await.is(200);
        let keys = redis.ask(&["KEYS", "q:{acme}:*"]);
        if keys.contains("q:{acme}:daily:t") { Ok(()) } else { Err(keys) }
    })
    .await;
}

#[tokio::test]
async fn a_process_is_ready_while_its_redis_is_away_and_never_tells_the_password() {
    let upstream = Upstream::start().await;
    let limits = |mode| json!([{ "id": "rate", "rate": "5/s", "burst": 5, "per": "tenant", "on_store_error": mode }]);
    let document = document::standard(upstream.address)
        .limited(limits("local"))
        .with_tenant("strict", limits("closed"));
    let nobody = Upstream::address_of_none();
    let url = format!("redis://app:s3cret@{nobody}");
    let node = Setup::of(&document).environment("TOLLGATE_REDIS_QUOTA", &url).start().await;

    let answer = node.get("/v1/contacts").key(ACME).send().await;
    answer.is(200);
    assert!(
        answer.header("ratelimit").contains("tollgate-degraded=local"),
        "{}",
        answer.header("ratelimit")
    );
    let strict = node.get("/v1/contacts").key(&document::key_of("strict")).send().await;
    strict.refuses(503, "DEPENDENCY_UNAVAILABLE");
    eventually("everybody can see it", async || {
        let metrics = node.metrics().await;
        hoped(metrics.sum("tollgate_store_degraded", &[("store", "counters")]), &1.0)
    })
    .await;

    let token = node.admin_token();
    let nodes = node.admin.get("/v1/nodes").bearer(&token).send().await;
    for told in [
        nodes.is(200).json().to_string(),
        node.status.get("/readyz").send().await.is(200).json().to_string(),
        String::from_utf8_lossy(&node.status.get("/metrics").send().await.body).into_owned(),
        node.log(),
        format!("{:?}", strict.body),
    ] {
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[tokio::test]
async fn idempotency_records_are_on_the_redis_that_the_settings_name() {
    let mut redis = Redis::start();
    let upstream =
        Upstream::scripted(|arrival| Reply::of(201).body(format!("told {}", arrival.number))).await;
    let node = Setup::of(&document::standard(upstream.address))
        .environment("TOLLGATE_IDEMPOTENCY", "redis")
        .environment("TOLLGATE_REDIS_IDEMPOTENCY", &redis.url())
        .start()
        .await;
    let standing = async |expected| {
        let told = node.status.get("/readyz").send().await.is(200).json();
        hoped(told["idempotency"].clone(), &expected)
    };
    eventually("there is a connection", async || standing(json!({ "state": "redis" })).await).await;
    let first = node.keyed("k-1").body("{}").send().await;
    first.is(201);
    let repeat = node.keyed("k-1").body("{}").send().await;
    assert!(repeat.is_replay() && repeat.body == first.body, "{repeat:?}");
    assert_eq!(upstream.only_arrival().number, 1);
    assert!(redis.ask(&["KEYS", "ik:{acme}:*"]).contains("ik:{acme}:"));
    // What is counted is elsewhere.
    assert_eq!(redis.ask(&["KEYS", "q*"]).trim(), "");

    redis.kill();
    eventually("everybody can see it", async || standing(json!({ "state": "away" })).await).await;
    node.keyed("k-2").body("{}").send().await.refuses(503, "DEPENDENCY_UNAVAILABLE");
    redis.start_again();
    eventually("it is back", async || standing(json!({ "state": "redis" })).await).await;
    node.keyed("k-2").body("{}").send().await.is(201);
}
