//! A replay whose dispatchers are killed: every event of its window comes once more, and none twice.

use crate::harness::api::Api;
use crate::harness::document::{self, Edit as _};
use crate::harness::events::{event, is_settled};
use crate::harness::postgres::Database;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::Sink;
use crate::harness::{Random, eventually, hoped, sized};
use model::Clock;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const DISPATCHERS: [&str; 2] = ["d1", "d2"];
const ENDPOINTS: [&str; 2] = ["first", "second"];
/// How many events a batch has.
const BATCH: usize = 50;
/// How many deliveries the replay queues a second.
const RATE: usize = 200;

fn document(sink: &Sink) -> Value {
    let mut document = document::producing();
    for name in ENDPOINTS {
        let endpoint = document::endpoint(name, &sink.url(name), "order.*");
        document = document.with("endpoints", endpoint);
    }
    document
}

/// How often each event came to an endpoint.
fn arrivals(sink: &Sink, endpoint: &str) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for arrived in sink.arrived(endpoint) {
        *counted.entry(arrived.id).or_default() += 1;
    }
    counted
}

/// How many deliveries each event has to an endpoint. All have arrived.
async fn deliveries(api: &Api, endpoint: &str) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for delivery in api.items(&format!("/v1/deliveries?endpoint={endpoint}&limit=200")).await {
        assert_eq!(delivery["state"], "delivered", "{delivery}");
        *counted.entry(delivery["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_whose_dispatchers_are_killed_queues_each_event_once_more_and_ends() {
    let database = Database::fresh();
    let mut sending = Sending::start(&database.url(), &DISPATCHERS, document).await;
    let (count, kills) = (sized("events", 1_000, 10_000), sized("kills", 3, 40));
    let events: Vec<Value> =
        (0..count).map(|at| event(&format!("e-{at:06}"), "order.placed", "k")).collect();
    let ids: BTreeSet<String> =
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    let producer = sending.producer(OPS);
    for batch in events.chunks(BATCH) {
        producer.sends(batch).await;
    }
    for name in ENDPOINTS {
        sending.sink.takes(name, &ids).await;
    }
    let api = sending.cluster.api();
    eventually("every delivery is settled", async || is_settled(&api).await).await;

    let now = Clock::system().now();
    let hour = jiff::SignedDuration::from_hours(1);
    let asked = json!({ "tenant": "acme", "since": now - hour, "until": now, "dedupe": "force", "rate": RATE });
    let answer = api.post("/v1/webhook_replays").json(&asked).send().await;
    let path = format!("/v1/webhook_replays/{}", answer.is(201).json()["id"].as_str().unwrap());
    let replay = async || api.get(&path).send().await.is(200).json();
    let queued = async || usize::try_from(replay().await["queued"].as_u64().unwrap()).unwrap();
    let (mut random, began) = (Random::of_this_run(), Instant::now());
    let wanted = count * ENDPOINTS.len();
    for kill in 0..kills {
        // Each kill finds it further on, and whoever is at it among the killed.
        let far = wanted * kill / (kills + 1);
        eventually("the replay goes on", async || {
            let queued = queued().await;
            if queued > far { Ok(()) } else { Err(queued) }
        })
        .await;
        let moment = u64::try_from(random.below(400)).unwrap();
        sleep(Duration::from_millis(moment)).await;
        assert_eq!(replay().await["state"], "running", "it ended before kill {kill}");
        for name in DISPATCHERS {
            sending.cluster.member_mut(name).kill();
        }
        for name in DISPATCHERS {
            let dispatcher = sending.cluster.member_mut(name);
            dispatcher.start_again();
            dispatcher.is_ready().await;
        }
    }
    // As long as it goes on.
    let mut before = usize::MAX;
    while before != queued().await {
        before = queued().await;
        sleep(Duration::from_secs(2)).await;
    }
    eventually("the replay is done", async || {
        hoped(replay().await["state"].clone(), &json!("done"))
    })
    .await;
    println!("done after {:?}", began.elapsed());
    eventually("every delivery is settled", async || is_settled(&api).await).await;

    let ended = replay().await;
    assert_eq!((&ended["queued"], &ended["skipped"]), (&json!(wanted), &json!(0)), "{ended}");
    sending.sink.every_arrival_is_sound();
    for name in ENDPOINTS {
        let arrivals = arrivals(&sending.sink, name);
        assert_eq!(arrivals.keys().cloned().collect::<BTreeSet<_>>(), ids);
        let (least, most) = (arrivals.values().min().unwrap(), arrivals.values().max().unwrap());
        println!("each event came {least} to {most} times to {name}");
        assert!(*least >= 2, "not all came once more to {name}");
        let deliveries = deliveries(&api, name).await;
        assert_eq!(deliveries.len(), count);
        assert!(deliveries.values().all(|count| *count == 2), "queued once: {deliveries:?}");
    }
}
