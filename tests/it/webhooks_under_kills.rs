//! Dispatchers are killed and the store is restarted while events are on their way to endpoints that are healthy, hang,
//! flap and drip: nothing is lost, and of every delivery it is known what became of it.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::{event, is_settled};
use crate::harness::postgres::{Database, Server};
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::{Arrived, Sink, Told};
use crate::harness::{Latch, Random, eventually, sized};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const DISPATCHERS: [&str; 3] = ["d1", "d2", "d3"];
/// Endpoints that take what they are sent; deliveries to the last one are ordered by key.
const HEALTHY: [&str; 3] = ["healthy-1", "healthy-2", "ordered"];
/// Takes everything, too, one after the other.
const ONE_BY_ONE: &str = "one-by-one";
/// Endpoints that don't, or not always.
const SICK: [&str; 3] = ["hanging", "flapping", "dripping"];
/// How many keys ordered events have.
const KEYS: usize = 500;
/// How many events a batch has.
const BATCH: usize = 50;
/// How much a dispatcher holds when it is killed: more than retries are granted of what failed.
const HELD: usize = 150;
/// How long a kill may delay a delivery.
const RECOVERY: Duration = Duration::from_secs(10);

/// Healthy endpoints want `order.*`; sick ones `sick.*`, which fewer events are, and so does the one that takes one at a time.
fn document(sink: &Sink) -> Value {
    sink.at("hanging", |_| Told::hangs());
    sink.at("dripping", |_| Told::drips());
    sink.at("flapping", |arrived| match arrived.number % 3 {
        0 => Told::takes(),
        1 => Told::answers(500),
        _ => Told::cuts(),
    });
    let mut document = document::producing();
    for name in HEALTHY {
        let mut endpoint = document::endpoint(name, &sink.url(name), "order.*");
        // None of them fails: what is tried again was lost with a dispatcher.
        endpoint["schedule"] = json!(["1s", "1s", "2s", "2s", "5s", "5s", "10s", "10s"]);
        endpoint["concurrency"] = json!(32);
        if name == "ordered" {
            endpoint["ordering"] = json!("key");
            endpoint["on_failure"] = json!("stop");
        }
        document = document.with("endpoints", endpoint);
    }
    let mut one_by_one = document::endpoint(ONE_BY_ONE, &sink.url(ONE_BY_ONE), "sick.*");
    one_by_one["ordering"] = json!("endpoint");
    one_by_one["on_failure"] = json!("skip");
    document = document.with("endpoints", one_by_one);
    for name in SICK {
        let mut endpoint = document::endpoint(name, &sink.url(name), "sick.*");
        endpoint["timeout"] = json!("200ms");
        endpoint["schedule"] = json!(["1s", "1s"]);
        endpoint["concurrency"] = json!(32);
        // Each of its deliveries is to come to its end while this runs.
        endpoint["breaker"] = json!({ "min_attempts": 100_000, "failure_rate": 1.0 });
        document = document.with("endpoints", endpoint);
    }
    document
}

/// What a run sends: event by event, with its type and its key.
fn events(orders: usize, sick: usize) -> Vec<Value> {
    let every = orders.div_ceil(sick.max(1));
    let mut events = Vec::new();
    for at in 0..orders {
        // Of one key, ids grow.
        events.push(event(&format!("order-{at:08}"), "order.placed", &format!("k{}", at % KEYS)));
        if at % every == 0 {
            events.push(event(&format!("sick-{at:08}"), "sick.note", "k"));
        }
    }
    events
}

fn ids(events: &[Value], prefix: &str) -> BTreeSet<String> {
    let ids = events.iter().map(|event| event["id"].as_str().unwrap().to_owned());
    ids.filter(|id| id.starts_with(prefix)).collect()
}

/// Kills dispatchers at random and starts them again, and restarts the store in between. Before each kill its share of
/// `batches` may be sent, so that there is something on its way at every one of them.
async fn kills(
    sending: &mut Sending,
    server: &mut Server,
    (kills, restarts): (usize, usize),
    (batches, turns): (usize, &Semaphore),
) {
    let mut random = Random::of_this_run();
    let apart = sized("milliseconds between kills, at most", 1_000, 4_000);
    let every = kills / (restarts + 1);
    for kill in 1..=kills {
        turns.add_permits(batches.div_ceil(kills));
        // The moment is what is random here.
        sleep(Duration::from_millis(u64::try_from(random.below(apart)).unwrap())).await;
        let name = DISPATCHERS[random.below(DISPATCHERS.len())];
        let dispatcher = sending.cluster.member_mut(name);
        dispatcher.kill();
        dispatcher.start_again();
        if kill % every.max(1) == 0 && kill / every.max(1) <= restarts {
            server.stop();
            server.start_again();
            println!("the store was restarted after kill {kill}");
        }
    }
    for name in DISPATCHERS {
        sending.cluster.member_mut(name).is_ready().await;
    }
}

/// Of every delivery it is known what became of it: how many there are in each state, and why.
async fn outcomes(sending: &Sending, endpoint: &str) -> BTreeMap<String, usize> {
    let path = format!("/v1/deliveries?endpoint={endpoint}&limit=200");
    let mut outcomes = BTreeMap::new();
    for delivery in sending.cluster.api().items(&path).await {
        let text = |name: &str| delivery[name].as_str().unwrap_or("none").to_owned();
        let outcome = match text("state").as_str() {
            "delivered" => "delivered".to_owned(),
            state => format!("{state}: {}", text("reason")),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

/// Of each key, no event arrives before an earlier one, nor an earlier one once more after it.
fn is_in_order(arrived: &[Arrived]) {
    let mut newest: BTreeMap<&str, &Arrived> = BTreeMap::new();
    for arrived in arrived {
        if let Some(before) = newest.insert(&arrived.subject, arrived) {
            assert!(before.id <= arrived.id, "{arrived:?} came after {before:?}");
        }
    }
}

/// So many of these ids arrived more than once.
fn duplicates(arrived: &[Arrived]) -> usize {
    let mut seen = BTreeSet::new();
    arrived.iter().filter(|arrived| !seen.insert(&arrived.webhook_id)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_of_every_delivery_it_is_known_what_became_of_it() {
    let orders = sized("events", 3_000, 100_000);
    let sick = sized("events for sick endpoints", 60, 1_000);
    let (killed, restarts) = (sized("kills", 6, 100), sized("restarts of the store", 1, 2));
    let mut server = Server::start();
    let mut sending = Sending::start(&server.url(), &DISPATCHERS, document).await;
    let events = events(orders, sick);
    let producer = sending.producer(OPS);
    let began = Instant::now();
    // One after the other, so that those of one key are accepted in order.
    let (all, turns) = (events.clone(), Arc::new(Semaphore::new(0)));
    let (batches, sent_by) = (events.len().div_ceil(BATCH), turns.clone());
    let sender = tokio::spawn(async move {
        for batch in all.chunks(BATCH) {
            sent_by.acquire().await.unwrap().forget();
            assert_eq!(producer.sends(batch).await.len(), batch.len());
        }
    });
    kills(&mut sending, &mut server, (killed, restarts), (batches, &turns)).await;
    sender.await.unwrap();
    println!("accepted after {:?}", began.elapsed());

    let wanted = ids(&events, "order-");
    for name in HEALTHY {
        let mut before = usize::MAX;
        // As long as it comes nearer.
        while before > wanted.len() - sending.sink.taken(name).len() {
            before = wanted.len() - sending.sink.taken(name).len();
            if before > 0 {
                sleep(RECOVERY).await;
            }
        }
        sending.sink.takes(name, &wanted).await;
    }
    let api = sending.cluster.api();
    let settled = async || is_settled(&api).await;
    while settled().await.is_err() && began.elapsed() < Duration::from_secs(3_600) {
        sleep(Duration::from_secs(1)).await;
    }
    eventually("every delivery is settled", settled).await;
    println!("settled after {:?}", began.elapsed());

    sending.sink.every_arrival_is_sound();
    is_in_order(&sending.sink.arrived("ordered"));
    is_in_order(&sending.sink.arrived(ONE_BY_ONE));
    let counted = |outcomes: &BTreeMap<String, usize>| outcomes.values().sum::<usize>();
    for name in HEALTHY {
        let outcomes = outcomes(&sending, name).await;
        println!("{name}: {outcomes:?}, {} came twice", duplicates(&sending.sink.arrived(name)));
        assert_eq!(outcomes, BTreeMap::from([("delivered".to_owned(), orders)]), "{name}");
    }
    let sick = ids(&events, "sick-").len();
    let outcomes_one_by_one = outcomes(&sending, ONE_BY_ONE).await;
    assert_eq!(outcomes_one_by_one, BTreeMap::from([("delivered".to_owned(), sick)]));
    for name in SICK {
        let outcomes = outcomes(&sending, name).await;
        println!("{name}: {outcomes:?}");
        assert_eq!(counted(&outcomes), sick, "{name}: {outcomes:?}");
        let known = ["delivered", "dead: exhausted"];
        assert!(outcomes.keys().all(|outcome| known.contains(&&**outcome)), "{name}: {outcomes:?}");
        assert_eq!(outcomes.contains_key("delivered"), name == "flapping", "{name}: {outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_dispatcher_held_is_delivered_by_another_within_ten_seconds() {
    let database = Database::fresh();
    let mut sending = Sending::start(&database.url(), &["d1"], |sink| {
        let mut hook = document::endpoint("hook", &sink.url("hook"), "*");
        hook["concurrency"] = json!(200);
        document::producing().with("endpoints", hook)
    })
    .await;
    for round in 0..sized("rounds", 2, 10) {
        let door = Latch::closed();
        let held = door.clone();
        sending.sink.at("hook", move |_| Told::takes().held_by(&held));
        let producer = sending.producer(OPS);
        let batch: Vec<Value> = (0..HELD)
            .map(|at| event(&format!("held-{round}-{at}"), "contact.created", "x"))
            .collect();
        let before = sending.sink.count("hook");
        producer.sends(&batch).await;
        sending.sink.has("hook", before + batch.len()).await;
        // Each was sent, and not one was answered.
        let dispatcher = sending.cluster.member_mut("d1");
        dispatcher.kill();
        let killed = Instant::now();
        sending.sink.at("hook", |_| Told::takes());
        dispatcher.start_again();
        dispatcher.is_ready().await;
        sending.sink.has("hook", before + 2 * batch.len()).await;
        let arrived = sending.sink.arrived("hook").split_off(before);
        let last = arrived.iter().map(|arrived| arrived.at).max().unwrap() - killed;
        println!("all had come again {last:?} after the kill");
        assert!(last < RECOVERY, "{last:?}");
        let again: BTreeSet<&String> = arrived.iter().map(|arrived| &arrived.webhook_id).collect();
        assert_eq!(again.len(), batch.len(), "under the same ids");
        door.open();
    }
}
