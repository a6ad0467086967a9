//! Nodes: what they have in force, and how far they are behind.

use super::api::Api;
use model::config::ConfigError;
use model::node::{NodeReport, Rejected};
use serde_json::{Value, json};
use std::time::Duration;

async fn report(api: &Api, name: &str, revision: u64, rejected: Option<u64>) {
    let now = api.clock.now();
    let errors = vec![ConfigError::new("/packs/0", "is not there")];
    let report = NodeReport {
        name: name.into(),
        roles: vec!["gateway".to_owned()],
        build: "0.1.0".to_owned(),
        revision,
        rejected: rejected.map(|revision| Rejected { revision, errors }),
        started_at: now,
        seen_at: now,
    };
    api.store.report_node(&report).await.unwrap();
}

async fn suspend(api: &Api, target: &str) {
    let ask = api.ask("PATCH", target).header("if-match", "*");
    ask.json(&json!({ "state": "suspended" })).send().await.is(200);
}

async fn nodes(api: &Api) -> (Value, Vec<String>) {
    let told = api.ask("GET", "/v1/nodes").send().await.is(200).json();
    let items = told["items"].as_array().unwrap().iter();
    let told_of = |node: &Value| {
        format!(
            "{} {} {} {}",
            node["name"].as_str().unwrap(),
            node["revision"],
            node["lag"],
            node["state"].as_str().unwrap()
        )
    };
    (told["newest"].clone(), items.map(told_of).collect())
}

#[tokio::test]
async fn each_node_says_what_it_has_in_force_and_why_not() {
    let api = Api::new().await;
    assert_eq!(nodes(&api).await, (json!(1), vec![]));
    suspend(&api, "/v1/tenants/acme").await;
    report(&api, "a", 2, None).await;
    report(&api, "b", 1, None).await;
    report(&api, "c", 1, Some(2)).await;
    let told = ["a 2 0 in_force", "b 1 1 behind", "c 1 1 rejected"];
    assert_eq!(nodes(&api).await, (json!(2), told.map(str::to_owned).to_vec()));
    let whole = api.ask("GET", "/v1/nodes").send().await.json();
    assert_eq!(whole["items"][2]["rejected"]["errors"][0]["pointer"], "/packs/0");
    // A staged revision is wanted of its nodes only.
    suspend(&api, "/v1/tenants/globex?nodes=b").await;
    let told = ["a 2 0 in_force", "b 1 1 behind", "c 1 1 rejected"];
    assert_eq!(nodes(&api).await, (json!(2), told.map(str::to_owned).to_vec()));
    report(&api, "b", 3, None).await;
    assert_eq!(nodes(&api).await.1[1], "b 3 0 in_force");
}

#[tokio::test]
async fn a_silent_node_is_gone_and_then_forgotten() {
    let api = Api::new().await;
    report(&api, "a", 1, None).await;
    api.clock.advance(Duration::from_secs(15));
    report(&api, "b", 1, None).await;
    assert_eq!(nodes(&api).await.1, ["a 1 0 in_force", "b 1 0 in_force"]);
    api.clock.advance(Duration::from_secs(1));
    assert_eq!(nodes(&api).await.1, ["a 1 0 gone", "b 1 0 in_force"]);
    api.clock.advance(Duration::from_secs(24 * 3600 - 15));
    assert_eq!(nodes(&api).await.1, ["b 1 0 gone"]);
}

#[tokio::test]
async fn nodes_are_listed_page_by_page() {
    let api = Api::new().await;
    for name in ["c", "a", "b"] {
        report(&api, name, 1, None).await;
    }
    let first = api.ask("GET", "/v1/nodes?limit=2").send().await.is(200).json();
    let next = format!("/v1/nodes?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let last = api.ask("GET", &next).send().await.is(200).json();
    assert_eq!((&first["items"][1]["name"], &last["items"][0]["name"]), (&json!("b"), &json!("c")));
    assert_eq!(last["next_cursor"], Value::Null);
}
