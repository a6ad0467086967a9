//! What operators do about a key: look it up, read what was answered, release one of which nobody knows. In every store,
//! and by a process that serves nobody.

use crate::harness::api::Api;
use crate::harness::cluster::Cluster;
use crate::harness::document::{self, ACME, ACME_BATCH};
use crate::harness::node::Setup;
use crate::harness::postgres::Database;
use crate::harness::redis::Redis;
use crate::harness::{Answer, Latch, Node, Reply, Upstream, eventually, hoped};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const ADA: &str = r#"{"first_name":"Ada"}"#;

/// A node with this in its environment, whose store of keys answers.
async fn node(upstream: &Upstream, environment: &[(&str, &str)]) -> (Node, Api) {
    let setup = Setup::of(&document::standard(upstream.address));
    let named = |setup: Setup, (name, value): &(&str, &str)| setup.environment(name, value);
    let node = environment.iter().fold(setup, named).start().await;
    let api = Api::new(node.admin.clone(), node.admin_token());
    eventually("the store answers", async || {
        hoped(api.get("/v1/idempotency/acme/none").send().await.status, &404)
    })
    .await;
    (node, api)
}

/// An upstream that breaks off when it is first asked.
async fn breaks_off() -> Upstream {
    Upstream::scripted(|arrival| match arrival.number {
        1 => Reply::cut(),
        _ => Reply::of(201).body("made"),
    })
    .await
}

/// The only record of acme's key.
async fn only(api: &Api, key: &str) -> Value {
    let told = api.get(&format!("/v1/idempotency/acme/{key}")).send().await.is(200).json();
    assert_eq!(told["records"].as_array().unwrap().len(), 1, "{told}");
    told["records"][0].clone()
}

async fn release(api: &Api, key: &str, record: &Value) -> Answer {
    let body = json!({ "record": record["id"], "fence": record["fence"] });
    api.post(&format!("/v1/idempotency/acme/{key}:release")).json(&body).send().await
}

/// What the audit tells of keys, oldest first: what was done, and its state.
async fn told(api: &Api) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = api.items("/v1/audit?limit=100&tenant=acme").await.into_iter().rev();
    let keys = entries.filter(|entry| text(&entry["action"]).starts_with("idempotency."));
    keys.map(|entry| (text(&entry["action"]), text(&entry["difference"]["state"]))).collect()
}

/// A request whose outcome is lost, looked up and released: its repeat is sent.
async fn is_released(api: &Api, upstream: &Upstream, ask: impl AsyncFn() -> Answer) {
    let lost = ask().await;
    assert!(lost.status >= 500, "{lost:?}");
    let record = eventually("the outcome is settled", async || {
        let record = only(api, "lost:1").await;
        hoped(record["state"].clone(), &json!("unknown")).map(|()| record)
    })
    .await;
    assert_eq!(record["route"], "contacts.create");
    ask().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    let released = release(api, "lost:1", &record).await.is(200).json();
    assert_eq!(released, json!({ "tenant": "acme", "record": record }));
    api.get("/v1/idempotency/acme/lost:1").send().await.refuses(404, "NOT_FOUND");
    let retry = ask().await;
    assert!(!retry.is(201).is_replay());
    assert!(ask().await.is(201).is_replay());
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 2);
    assert_eq!(arrivals[0].header("idempotency-key"), arrivals[1].header("idempotency-key"));
    let fence = |at: usize| arrivals[at].header("x-idempotency-fence").parse::<i64>().unwrap();
    assert_eq!(record["fence"], fence(0));
    assert!(fence(1) > fence(0));
    let entry = |state: &str| ("idempotency.release".to_owned(), state.to_owned());
    assert_eq!(told(api).await, [entry("begun"), entry("done")]);
    // What was seen before releases nobody after.
    release(api, "lost:1", &record).await.refuses(409, "CONFLICT");
    assert!(ask().await.is(201).is_replay());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_looked_up_and_released_and_its_repeat_is_sent() {
    let redis = Redis::start();
    let (store, url) = ("TOLLGATE_IDEMPOTENCY", redis.url());
    let on_redis = [(store, "redis"), ("TOLLGATE_REDIS_IDEMPOTENCY", &url)];
    for environment in [&[(store, "database")][..], &[(store, "memory")], &on_redis] {
        let upstream = breaks_off().await;
        let (node, api) = node(&upstream, environment).await;
        is_released(&api, &upstream, async || node.keyed("lost:1").body(ADA).send().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_alone_releases_what_a_gateway_left_in_the_database() {
    let (upstream, database) = (breaks_off().await, Database::fresh());
    let names: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["admin"])];
    let document = document::standard(upstream.address);
    let cluster = Cluster::start(&database.url(), &names, &document).await;
    let gateway = cluster.member("a");
    is_released(&cluster.api(), &upstream, async || {
        let ask = gateway.post("/v1/contacts").key(ACME).idempotency_key("lost:1");
        ask.body(ADA).send().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_alone_can_not_know_what_gateways_keep_for_themselves() {
    let (upstream, database) = (breaks_off().await, Database::fresh());
    let names: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["admin"])];
    let document = document::standard(upstream.address);
    let cluster = Cluster::start_with(&database.url(), &names, &document, |setup| {
        setup.with("idempotency", json!("memory"))
    })
    .await;
    let asked = cluster.api().get("/v1/idempotency/acme/lost").send().await;
    asked.refuses(409, "CONFLICT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_seen_and_not_released() {
    let latch = Latch::closed();
    let upstream = Upstream::start().await;
    let held = latch.clone();
    upstream.does(move |_| Reply::of(201).body("made").held_by(&held));
    let (node, api) = node(&upstream, &[]).await;
    let first = tokio::spawn(node.keyed("slow").body(ADA).send());
    upstream.has_seen(1).await;
    let record = only(&api, "slow").await;
    assert_eq!(record["state"], "dispatched");
    assert!(record["lease_until"].as_str() > record["claimed_at"].as_str());
    release(&api, "slow", &record).await.refuses(409, "CONFLICT");
    latch.open();
    first.await.unwrap().is(201);
    let record = only(&api, "slow").await;
    assert_eq!((&record["state"], &record["status"]), (&json!("done"), &json!(201)));
    release(&api, "slow", &record).await.refuses(409, "CONFLICT");
    upstream.only_arrival();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_shown_to_administrators_alone() {
    let upstream = Upstream::scripted(|arrival| {
        let reply = Reply::of(201).header("location", "/v1/contacts/7");
        reply.header("set-cookie", "a=1").body(format!("made {}\u{e4}", arrival.number))
    })
    .await;
    let (node, api) = node(&upstream, &[]).await;
    let first = node.keyed("done").body(ADA).send().await;
    first.is(201);
    let answer = |record: &Value| record["answer"].clone();
    assert_eq!(answer(&only(&api, "done").await), Value::Null);
    let shown = answer(&only(&api, "done?body=true").await);
    assert_eq!(shown["body"], STANDARD.encode(&first.body));
    let headers = shown["headers"].as_array().unwrap();
    assert!(headers.contains(&json!({ "name": "location", "value": "/v1/contacts/7" })));
    assert!(headers.iter().all(|header| header["name"] != "set-cookie"));
    let looks = vec![("idempotency.get".to_owned(), String::new())];
    assert_eq!(told(&api).await, looks);
    let (operator, _) = api.new_token(&json!({ "name": "ops", "role": "operator" })).await;
    let operator = api.with(&operator);
    let asked = operator.get("/v1/idempotency/acme/done?body=true").send().await;
    asked.refuses(403, "FORBIDDEN");
    assert_eq!(only(&operator, "done").await["state"], "done");
    // Another subject's is another record.
    let other = node.post("/v1/contacts").key(ACME_BATCH).idempotency_key("done").body(ADA);
    other.send().await.is(201);
    let both = api.get("/v1/idempotency/acme/done").send().await.is(200).json();
    assert_eq!(both["records"].as_array().unwrap().len(), 2);
    let which = api.get("/v1/idempotency/acme/done?body=true").send().await;
    which.refuses(400, "VALIDATION_FAILED");
}
