//! Endpoints that want order, while processes are killed: nothing overtakes, nothing is left behind, and what waits for
//! somebody shuts no door.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::event;
use crate::harness::postgres::Database;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::{Sink, Told};
use crate::harness::{Random, eventually, hoped, sized};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::sleep;

const DISPATCHERS: [&str; 2] = ["d1", "d2"];
/// How many keys events have.
const KEYS: usize = 10;
/// How many events a batch has.
const BATCH: usize = 10;
/// Endpoints by what they want of order.
const WANTS: [(&str, &str); 3] = [("any", "none"), ("by-key", "key"), ("one-by-one", "endpoint")];
/// Endpoints that want all of it, by what becomes of those behind a dead letter.
const STRICT: [&str; 2] = ["stop", "skip"];

fn hook(sink: &Sink, name: &str, ordering: &str) -> Value {
    let mut endpoint = document::endpoint(name, &sink.url(name), "order.*");
    endpoint["schedule"] = json!(["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]);
    endpoint["ordering"] = json!(ordering);
    endpoint["concurrency"] = json!(32);
    if ordering != "none" {
        endpoint["on_failure"] = json!("stop");
    }
    // Whether it is left alone for a while is not what this is about.
    endpoint["breaker"] = json!({ "min_attempts": 100_000, "failure_rate": 1.0 });
    endpoint
}

fn events(round: usize, count: usize) -> Vec<Value> {
    let id = |at: usize| format!("order-{round:02}-{at:06}");
    (0..count).map(|at| event(&id(at), "order.placed", &format!("k{}", at % KEYS))).collect()
}

fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

/// Of what an endpoint orders by, none arrives before an earlier one, nor an earlier one once more after it.
fn is_in_order(sink: &Sink, name: &str, ordering: &str) {
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for arrived in sink.arrived(name) {
        let key = if ordering == "key" { arrived.subject.clone() } else { String::new() };
        if let Some(before) = newest.insert(key, arrived.id.clone()) {
            assert!(before <= arrived.id, "at {name}: {arrived:?} came after {before}");
        }
    }
}

/// Kills one of these after a moment, and starts it again.
async fn kill(sending: &mut Sending, random: &mut Random, names: &[&'static str]) {
    sleep(Duration::from_millis(u64::try_from(random.below(300)).unwrap())).await;
    let member = sending.cluster.member_mut(names[random.below(names.len())]);
    member.kill();
    member.start_again();
}

async fn are_ready(sending: &mut Sending) {
    for name in [OPS, "d1", "d2"] {
        sending.cluster.member_mut(name).is_ready().await;
    }
}

/// Enables it, whoever is killed meanwhile.
async fn enable(sending: &mut Sending, name: &str) {
    let api = sending.cluster.api();
    let path = format!("/v1/endpoints/{name}:enable");
    eventually(&format!("{name} is enabled"), async || {
        match api.post(&path).json(&json!({})).try_send().await {
            Ok(answer) => hoped(answer.status, &200),
            Err(_) => Err(0),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_disabled_and_enabled_under_kills_gets_everything_in_order() {
    let database = Database::fresh();
    let mut random = Random::of_this_run();
    let mut sending = Sending::start(&database.url(), &DISPATCHERS, |sink| {
        let with = |document: Value, (name, ordering)| {
            document.with("endpoints", hook(sink, name, ordering))
        };
        WANTS.into_iter().fold(document::producing(), with)
    })
    .await;
    let mut sent = BTreeSet::new();
    for round in 0..sized("rounds of disabling and enabling", 2, 20) {
        for (name, _) in WANTS {
            sending.sink.at(name, |_| Told::answers(410));
        }
        let producer = sending.producer(OPS);
        let batches = events(round, sized("events of a round", 200, 2_000));
        sent.extend(ids(&batches));
        let sender = tokio::spawn(async move {
            for batch in batches.chunks(BATCH) {
                producer.sends(batch).await;
            }
        });
        // While they are being disabled.
        kill(&mut sending, &mut random, &DISPATCHERS).await;
        sender.await.unwrap();
        let api = sending.cluster.api();
        for (name, _) in WANTS {
            eventually(&format!("{name} is disabled"), async || {
                let shown = api.get(&format!("/v1/endpoints/{name}")).send().await;
                let shown = shown.is(200).json();
                hoped(shown["standing"]["disabled"]["reason"].clone(), &json!("gone"))
            })
            .await;
        }
        are_ready(&mut sending).await;
        for (name, _) in WANTS {
            sending.sink.at(name, |_| Told::takes());
        }
        // While they are being enabled.
        for (at, (name, _)) in WANTS.into_iter().enumerate() {
            let path = format!("/v1/endpoints/{name}:enable");
            let cut_off = sending.cluster.api().post(&path).json(&json!({}));
            let cut_off = tokio::spawn(cut_off.try_send());
            kill(&mut sending, &mut random, if at == 0 { &[OPS] } else { &DISPATCHERS }).await;
            // Whatever became of it.
            let _ = cut_off.await;
        }
        are_ready(&mut sending).await;
        for (name, _) in WANTS {
            enable(&mut sending, name).await;
        }
        for (name, ordering) in WANTS {
            sending.sink.takes(name, &sent).await;
            if ordering != "none" {
                is_in_order(&sending.sink, name, ordering);
            }
        }
    }
    sending.sink.every_arrival_is_sound();
}

/// Deliveries of an endpoint, oldest first: each with its state and its reason.
async fn outcomes(sending: &Sending, name: &str) -> Vec<(String, String, String)> {
    let path = format!("/v1/deliveries?endpoint={name}&limit=200");
    let mut found = sending.cluster.api().items(&path).await;
    found.reverse();
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let outcome = |it: &Value| (text(&it["id"]), text(&it["state"]), text(&it["reason"]));
    found.iter().map(outcome).collect()
}

/// How many events are sent to the strict endpoints.
const ALL: usize = 100;
/// Far fewer than wait behind the first dead letter.
const BACKLOG: usize = 60;
/// Of the events those that no endpoint takes.
const BAD: [usize; 2] = [5, 70];

/// Waits until the endpoint stands at this dead letter, and yields its id.
async fn stands_at(sending: &Sending, dead: usize) -> String {
    eventually("all behind the dead letter is parked", async || {
        let outcomes = outcomes(sending, "stop").await;
        let states: Vec<_> = outcomes.iter().map(|it| (it.1.as_str(), it.2.as_str())).collect();
        let is_blocked = |it: &(&str, &str)| *it == ("parked", "blocked");
        match states.len() == ALL
            && states[dead] == ("dead", "refused")
            && states[dead + 1..].iter().all(is_blocked)
        {
            true => Ok(()),
            false => Err(format!("{states:?}")),
        }
    })
    .await;
    outcomes(sending, "stop").await.swap_remove(dead).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_by_one_a_dead_letter_stops_or_is_skipped_and_shuts_no_door() {
    let database = Database::fresh();
    let mut random = Random::of_this_run();
    let mut sending = Sending::start(&database.url(), &DISPATCHERS, |sink| {
        let document = document::producing().changed(|document| {
            document.entry("plans", "unlimited")["events"] =
                json!({ "rate": "100000/s", "backlog": BACKLOG });
        });
        let with = |document: Value, name: &str| {
            let mut endpoint = hook(sink, name, "endpoint");
            endpoint["on_failure"] = json!(name);
            document.with("endpoints", endpoint)
        };
        STRICT.into_iter().fold(document, with)
    })
    .await;
    let all = events(0, ALL);
    let bad: BTreeSet<String> =
        BAD.iter().map(|at| all[*at]["id"].as_str().unwrap().to_owned()).collect();
    let good: BTreeSet<String> = ids(&all).difference(&bad).cloned().collect();
    for name in STRICT {
        let refused = bad.clone();
        sending.sink.at(name, move |arrived| match refused.contains(&arrived.id) {
            true => Told::answers(400),
            false => Told::takes(),
        });
    }
    let producer = sending.producer(OPS);
    for batch in all.chunks(BATCH) {
        // However much waits already: behind a dead letter it takes up nothing of what may.
        producer.sends(batch).await;
        kill(&mut sending, &mut random, &DISPATCHERS).await;
    }
    sending.sink.takes("skip", &good).await;
    for dead in BAD {
        let id = stands_at(&sending, dead).await;
        assert_eq!(
            sending.sink.taken("stop").len(),
            dead - BAD.iter().filter(|at| **at < dead).count()
        );
        let api = sending.cluster.api();
        api.post(&format!("/v1/deliveries/{id}:discard")).json(&json!({})).send().await.is(200);
        kill(&mut sending, &mut random, &DISPATCHERS).await;
    }
    sending.sink.takes("stop", &good).await;
    for name in STRICT {
        is_in_order(&sending.sink, name, "endpoint");
    }
    sending.sink.every_arrival_is_sound();
    eventually("each delivery is known", async || {
        let mut ended = BTreeMap::new();
        for name in STRICT {
            for (_, state, reason) in outcomes(&sending, name).await {
                *ended.entry(format!("{name}: {state} {reason}")).or_insert(0) += 1;
            }
        }
        let expected = [
            ("skip: dead refused", BAD.len()),
            ("skip: delivered none", ALL - BAD.len()),
            ("stop: dead discarded", BAD.len()),
            ("stop: delivered none", ALL - BAD.len()),
        ];
        hoped(ended, &expected.map(|(outcome, count)| (outcome.to_owned(), count)).into())
    })
    .await;
}
