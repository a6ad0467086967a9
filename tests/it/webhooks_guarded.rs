//! Tenants say where webhooks go, and this process could reach what they cannot: nothing is sent to where it may not be.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::event;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::Told;
use crate::harness::{eventually, hoped};
use serde_json::{Value, json};

/// The attempts of the only delivery to an endpoint, once there are so many.
async fn attempts(sending: &Sending, endpoint: &str, count: usize) -> Vec<Value> {
    let api = sending.cluster.api();
    eventually(&format!("{count} attempts at {endpoint}"), async || {
        let delivery = api.items(&format!("/v1/deliveries?endpoint={endpoint}")).await;
        let Some(id) = delivery.first().and_then(|delivery| delivery["id"].as_str()) else {
            return Err(vec![]);
        };
        let delivery = api.get(&format!("/v1/deliveries/{id}")).send().await.is(200).json();
        let history = delivery["history"].as_array().unwrap().clone();
        if history.len() >= count { Ok(history) } else { Err(history) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_at_a_private_address_is_not_taken_into_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    // The process allows 127.0.0.0/8, and nothing else that is private.
    let sending = Sending::alone(&database, |_| document::producing()).await;
    let api = sending.cluster.api();
    for url in [
        "https://169.254.169.254/latest/meta-data/",
        "https://2852039166/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://0x0a000001/",
        "http://0.0.0.0/",
        "http://8.8.8.8/",
        "https://user@hooks.example/",
        "https://hooks.example:25/",
        "ftp://hooks.example/",
    ] {
        let endpoint = document::endpoint("hook", url, "*");
        let answer = api.create("/v1/endpoints/hook", &endpoint).send().await;
        let told = answer.is(422).json();
        assert!(
            told["details"]["errors"][0]["pointer"].as_str().unwrap().ends_with("/url"),
            "{told:#}"
        );
    }
    let endpoint = document::endpoint("hook", &sending.sink.url("hook"), "*");
    api.create("/v1/endpoints/hook", &endpoint).send().await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let sending = Sending::alone(&database, |sink| {
        let elsewhere = sink.url("elsewhere");
        sink.at("hook", move |arrived| match arrived.number {
            1 => Told::answers(307).header("location", &elsewhere),
            _ => Told::takes(),
        });
        let mut hook = document::endpoint("hook", &sink.url("hook"), "*");
        hook["schedule"] = json!(["100ms", "100ms"]);
        document::producing().with("endpoints", hook)
    })
    .await;
    sending.producer(OPS).sends(&[event("moved", "contact.created", "x")]).await;
    let told = attempts(&sending, "hook", 2).await;
    let mut outcomes: Vec<_> =
        told.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["delivered", "redirected"], "{told:#?}");
    assert_eq!(sending.sink.count("elsewhere"), 0);
}

/// The list belongs to the process, so it may change while the document stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_no_longer_allowed_is_not_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let mut sending = Sending::alone(&database, |sink| {
        let mut hook = document::endpoint("hook", &sink.url("hook"), "*");
        hook["schedule"] = json!(["100ms"]);
        document::producing().with("endpoints", hook)
    })
    .await;
    let process = sending.cluster.member_mut(OPS);
    process.stop().await;
    process.change(|setup| setup.with("webhooks", json!({ "allow_private": ["10.0.0.0/8"] })));
    process.start_again();
    process.is_ready().await;
    sending.producer(OPS).sends(&[event("kept", "contact.created", "x")]).await;
    for attempt in attempts(&sending, "hook", 2).await {
        assert_eq!(attempt["outcome"], "forbidden", "{attempt:#}");
        let told = attempt["excerpt"].as_str().unwrap();
        assert!(told.contains("127.0.0.1 is a loopback address"), "{told}");
    }
    let api = sending.cluster.api();
    eventually("it is a dead letter", async || {
        let found = api.items("/v1/dead_letters").await;
        hoped(found.len(), &1)
    })
    .await;
    assert_eq!(sending.sink.count("hook"), 0);
}
