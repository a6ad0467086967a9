//! Decision records as operators look them up, across nodes: found by every name, erased by tenant, gone by age. What
//! callers see of their own is in `records.rs`.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Setup};
use crate::harness::document::{self, ACME, ACME_BATCH, Edit as _, GLOBEX};
use crate::harness::postgres::Database;
use crate::harness::{Reply, Upstream, eventually, hoped};
use http::Method;
use serde_json::{Value, json};

const NAMES: [(&str, &[&str]); 3] = [("a", &["gateway"]), ("b", &["gateway"]), ("ops", &["admin"])];

fn recorded(upstream: &Upstream) -> Value {
    document::standard(upstream.address)
        .limited(json!([{ "id": "daily", "quota": "5/day", "per": "tenant", "on_store_error": "local" }]))
        .attached("mark", "header-hygiene", json!({ "set": { "x-mark": "1" } }))
        .attached("correlation", "require-header", json!({ "header": "x-correlation-id" }))
        .changed(|document| {
            for route in ["contacts.list", "contacts.create", "contacts.read"] {
                document.entry("routes", route)["record"] = json!("required");
            }
            document.entry("attachments", "correlation")["scope"] = json!({ "route": "contacts.create" });
        })
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// The request ids of what [`five_exchanges`] sends, by the alphabet.
const ALL: [&str; 5] = ["on-a-denied", "on-a-list", "on-a-nobody", "on-b-broken", "on-b-globex"];

/// One that is served, one that the upstream fails, one of another tenant, one that a pack denies and one of nobody; on
/// two nodes, two of them in one trace.
async fn five_exchanges(cluster: &Cluster) {
    let (a, b, api) = (cluster.member("a"), cluster.member("b"), cluster.api());
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let list = a.get("/v1/contacts?secret=hush").key(ACME).header("traceparent", &parent);
    let broken = b.get("/v2/contacts/broken").key(ACME_BATCH).header("traceparent", &parent);
    let denied = a.post("/v1/contacts").key(ACME).idempotency_key("k").body("{}");
    for (id, call, status) in [
        ("on-a-list", list, 200),
        ("on-b-broken", broken, 500),
        ("on-b-globex", b.get("/v1/contacts").key(GLOBEX), 200),
        ("on-a-denied", denied, 403),
        ("on-a-nobody", a.get("/v1/contacts").key("tg_test_nobody_0000"), 401),
    ] {
        call.header("x-request-id", id).send().await.is(status);
    }
    eventually("all are recorded", async || hoped(found(&api, "").await.len(), &5)).await;
}

/// The request ids of the records that are found so, by the alphabet.
async fn found(api: &Api, query: &str) -> Vec<String> {
    let items = api.items(&format!("/v1/exchanges{query}")).await;
    let id = |item: &Value| item["request_id"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = items.iter().map(id).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_find_every_exchange_of_every_node_by_each_of_its_names() {
    let database = Database::fresh();
    let upstream = Upstream::scripted(|arrival| match arrival.target.as_str() {
        "/v2/contacts/broken" => Reply::of(500),
        _ => Reply::of(200),
    })
    .await;
    let cluster = Cluster::start(&database.url(), &NAMES, &recorded(&upstream)).await;
    let api = cluster.api();
    let since = model::Clock::system().now();
    five_exchanges(&cluster).await;
    let until = model::Clock::system().now();
    assert_eq!(found(&api, "").await, ALL);
    assert_eq!(found(&api, "?limit=2").await, ALL, "page by page");
    assert_eq!(found(&api, &format!("?since={since}&until={until}")).await, ALL);
    for (query, expected) in [
        ("?tenant=acme", &["on-a-denied", "on-a-list", "on-b-broken"][..]),
        ("?tenant=acme&consumer=acme-batch", &["on-b-broken"]),
        ("?route=contacts.list&tenant=globex", &["on-b-globex"]),
        ("?error=POLICY_DENIED", &["on-a-denied"]),
        (&format!("?until={since}"), &[]),
        (&format!("?since={until}"), &[]),
        (&format!("/{TRACE}"), &["on-a-list", "on-b-broken"]),
        ("/on-a-list", &["on-a-list"]),
    ] {
        assert_eq!(found(&api, query).await, expected, "{query}");
    }
    tell_what_happened(&api).await;

    // Erased: those of the tenant, and nobody else's; audited.
    let erased = api.call(Method::DELETE, "/v1/exchanges?tenant=acme").send().await;
    assert_eq!(erased.is(200).json()["erased"], 3);
    assert_eq!(found(&api, "").await, ["on-a-nobody", "on-b-globex"]);
    api.get("/v1/exchanges/on-a-list").send().await.refuses(404, "NOT_FOUND");
    let own = cluster.member("a").get("/.tollgate/explain/on-a-list").key(ACME).send().await;
    own.refuses(404, "NOT_FOUND");
    let entry = &api.audit().await[0];
    let told = (&entry["action"], &entry["tenant"]);
    assert_eq!(told, (&json!("exchanges.delete"), &json!("acme")), "{entry}");
}

/// The five records say who decided what.
async fn tell_what_happened(api: &Api) {
    let one = async |id: &str| api.items(&format!("/v1/exchanges/{id}")).await.remove(0);
    let list = one("on-a-list").await;
    for (pointer, value) in [
        ("/trace_id", json!(TRACE)),
        ("/node", json!("a")),
        ("/revision", json!(1)),
        ("/path", json!("/v1/contacts")),
        ("/status", json!(200)),
        ("/tenant", json!("acme")),
        ("/consumer", json!("acme-mobile")),
        ("/version", json!("v1")),
        ("/limits", json!([{ "id": "daily", "limit": 5, "remaining": 4, "refused": false }])),
        ("/packs/0/attachment", json!("mark")),
        ("/packs/0/pack", json!("header-hygiene")),
        ("/packs/0/version", json!("1.0.0")),
        ("/packs/0/mode", json!("enforce")),
        ("/packs/0/decision", json!("edit")),
        ("/stages/4/stage", json!("throttle")),
        ("/upstream/status", json!(200)),
    ] {
        assert_eq!(list.pointer(pointer), Some(&value), "{pointer}: {list}");
    }
    assert_eq!(list["packs"].as_array().unwrap().len(), 1, "{list}");
    assert!(!list.to_string().contains("hush") && !list.to_string().contains(ACME), "{list}");
    assert!(list["took_us"].as_u64().unwrap() > 0, "{list}");

    let broken = one("on-b-broken").await;
    assert_eq!((&broken["node"], &broken["upstream"]["status"]), (&json!("b"), &json!(500)));
    let denied = one("on-a-denied").await;
    let packs = denied["packs"].as_array().unwrap();
    let denial = packs.iter().find(|pack| pack["pack"] == "require-header").unwrap();
    assert_eq!(denial["decision"], "deny", "{denied}");
    let nobody = one("on-a-nobody").await;
    assert_eq!((&nobody["tenant"], &nobody["error"]), (&Value::Null, &json!("CREDENTIAL_INVALID")));
    assert!(nobody["cause"].as_str().is_some_and(|cause| !cause.contains("tg_test")), "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_gone_after_their_retention() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let names: [(&str, &[&str]); 1] = [("alone", &["gateway", "admin"])];
    let retention = |setup: Setup| setup.with("records", json!({ "retention": "2h" }));
    let document = recorded(&upstream);
    let mut cluster = Cluster::start_with(&database.url(), &names, &document, retention).await;
    let api = cluster.api();
    let node = cluster.member_mut("alone");
    for id in ["two-hours-old", "one-hour-old", "of-this-moment"] {
        let call = node.get("/v1/contacts").key(GLOBEX).header("x-request-id", id);
        call.send().await.is(200);
    }
    eventually("all are recorded", async || hoped(api.items("/v1/exchanges").await.len(), &3))
        .await;
    // Nobody waits so long in a test.
    for (id, minutes) in [("two-hours-old", 121), ("one-hour-old", 61)] {
        database.sql(&format!(
            "update records set at = at - {minutes} * 60 * 1000000::bigint where request_id = '{id}'"
        ));
    }
    // At its start it looks for the first time.
    node.kill();
    node.start_again();
    node.is_ready().await;
    eventually("the oldest is gone", async || hoped(api.items("/v1/exchanges").await.len(), &2))
        .await;
    api.get("/v1/exchanges/two-hours-old").send().await.refuses(404, "NOT_FOUND");
}
