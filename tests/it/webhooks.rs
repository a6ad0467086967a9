//! Webhooks from end to end: from whoever has something to tell to whoever is told.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::{event, is_settled};
use crate::harness::postgres::Database;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::Told;
use crate::harness::{Demo, eventually, hoped};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A contact as the demo's projection has it.
async fn projected(demo: &Demo, id: &str) -> Value {
    demo.crm.get(&format!("/projection/contacts/{id}")).send().await.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_demo_what_happens_to_a_contact_reaches_the_projection() {
    let demo = Demo::start().await;
    assert_eq!(demo.value("DISPATCHER_URL"), format!("http://127.0.0.1:{}", demo.first_port + 2));
    let ada = json!({ "first_name": "Ada", "last_name": "Byron", "email": "ada@example.org" });
    let created = demo.creates("webhooks-1", &ada).send().await;
    let id = created.is(201).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v2/contacts/{id}");
    let expected = json!({ "id": id, "version": 1, "given": "Ada", "family": "Byron",
        "emails": ["ada@example.org"], "deleted_at": null });
    eventually("the contact is in the projection", async || {
        hoped(projected(&demo, &id).await, &expected)
    })
    .await;
    let change = demo.gateway.call(Method::PATCH, &path).key(demo.value("ACME_KEY"));
    change.json(&json!({ "name": { "family": "Lovelace" } })).send().await.is(200);
    eventually("the change is in the projection", async || {
        hoped(projected(&demo, &id).await["family"].clone(), &json!("Lovelace"))
    })
    .await;
    let delete = demo.gateway.call(Method::DELETE, &path).key(demo.value("ACME_KEY"));
    delete.send().await.is(204);
    eventually("the projection knows that it is gone", async || {
        let contact = projected(&demo, &id).await;
        if contact["deleted_at"].is_string() { Ok(()) } else { Err(contact) }
    })
    .await;
    eventually("three deliveries are settled", async || {
        let path = "/v1/deliveries?endpoint=acme-projection";
        let told = demo.administers(Method::GET, path).send().await.is(200).json();
        let states = told["items"].as_array().unwrap().iter().map(|item| item["state"].clone());
        hoped(states.collect::<Vec<_>>(), &vec![json!("delivered"); 3])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_keeps_its_webhooks_over_a_start_on_other_ports() {
    let mut demo = Demo::start().await;
    demo.start_again_elsewhere().await;
    let order = json!({ "type": "contact.created" });
    let sent = demo.crm.post("/api/simulator/webhooks").json(&order).send().await;
    let id = sent.is(202).json()["event"]["subject"].as_str().unwrap().to_owned();
    eventually("the contact is in the projection", async || {
        hoped(projected(&demo, &id).await["version"].clone(), &json!(1))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_the_crm_that_is_flawed_is_refused_and_makes_no_event() {
    let demo = Demo::start().await;
    for flaw in ["bad_signature", "stale_timestamp"] {
        let order = json!({ "type": "contact.created", "flaw": flaw });
        let sent = demo.crm.post("/api/simulator/webhooks").json(&order).send().await;
        let path = format!("/api/simulator/webhooks/{}", sent.is(202).json()["id"]);
        let told = eventually("it is answered", async || {
            let told = demo.crm.get(&path).send().await.json();
            if told["state"] == "waiting" { Err(told) } else { Ok(told) }
        })
        .await;
        assert_eq!((&told["state"], &told["status"]), (&json!("refused"), &json!(401)), "{told}");
    }
    let deliveries = demo.administers(Method::GET, "/v1/deliveries").send().await;
    assert_eq!(deliveries.is(200).json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_split_over_processes_and_dispatchers_share_the_work() {
    let database = Database::fresh();
    let sending = Sending::start(&database.url(), &["d1", "d2"], |sink| {
        // Long enough that one alone would be at it for many seconds.
        sink.at("hook", |_| Told::takes().after(Duration::from_millis(50)));
        document::producing().with("endpoints", document::endpoint("hook", &sink.url("hook"), "*"))
    })
    .await;
    let mut ids = BTreeSet::new();
    for (number, name) in [OPS, "d1", "d2"].into_iter().enumerate() {
        let of = |at: usize| event(&format!("{name}-{at}"), "contact.created", "x");
        let batch: Vec<Value> = (0..100).map(of).collect();
        let accepted = sending.producer(name).sends(&batch).await;
        assert_eq!(accepted.len(), batch.len(), "{number}");
        ids.extend(batch.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
    }
    sending.sink.takes("hook", &ids).await;
    sending.sink.every_arrival_is_sound();
    assert_eq!(sending.sink.count("hook"), ids.len(), "each of them once");
    let api = sending.cluster.api();
    eventually("every delivery is settled", async || is_settled(&api).await).await;
    let mut nodes = BTreeSet::new();
    for delivery in api.items("/v1/deliveries?limit=200").await {
        let path = format!("/v1/deliveries/{}", delivery["id"].as_str().unwrap());
        let delivery = api.get(&path).send().await.is(200).json();
        nodes.insert(delivery["history"][0]["node"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(nodes, BTreeSet::from(["d1".to_owned(), "d2".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_asks_for_time_is_given_it() {
    let database = Database::fresh();
    let sending = Sending::start(&database.url(), &["d1"], |sink| {
        sink.at("hook", |arrived| match arrived.number {
            1 => Told::answers(503).header("retry-after", "3"),
            _ => Told::takes(),
        });
        let mut hook = document::endpoint("hook", &sink.url("hook"), "*");
        hook["schedule"] = json!(["100ms", "1h"]);
        document::producing().with("endpoints", hook)
    })
    .await;
    sending.producer(OPS).sends(&[event("later", "contact.created", "x")]).await;
    let arrived = sending.sink.has("hook", 2).await;
    let between = arrived[1].at - arrived[0].at;
    assert!(between >= Duration::from_secs(3), "{between:?}");
    assert_eq!([arrived[0].attempt, arrived[1].attempt], [1, 2]);
    assert_eq!(arrived[0].webhook_id, arrived[1].webhook_id);
    sending.sink.every_arrival_is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_is_told_to_end_lets_its_attempts_end() {
    let database = Database::fresh();
    let mut sending = Sending::start(&database.url(), &["d1"], |sink| {
        sink.at("hook", |_| Told::takes().after(Duration::from_secs(2)));
        document::producing().with("endpoints", document::endpoint("hook", &sink.url("hook"), "*"))
    })
    .await;
    sending.producer(OPS).sends(&[event("last", "contact.created", "x")]).await;
    sending.sink.has("hook", 1).await;
    sending.cluster.member_mut("d1").stop().await;
    let api = sending.cluster.api();
    let deliveries = api.items("/v1/deliveries").await;
    assert_eq!(deliveries[0]["state"], "delivered", "{deliveries:#?}");
    sending.cluster.member_mut("d1").start_again();
    sending.cluster.member_mut("d1").is_ready().await;
    assert_eq!(sending.sink.count("hook"), 1, "it was sent once");
}
