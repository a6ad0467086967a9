//! One tenant's backlog delays nobody else's events.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::{event, event_of};
use crate::harness::postgres::Database;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::Told;
use crate::harness::sized;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// What acme's endpoint takes its time for.
const SLOW: Duration = Duration::from_millis(100);
/// Between two events of the small tenant.
const PAUSE: Duration = Duration::from_millis(25);
/// How many events a batch has.
const BATCH: usize = 250;
/// What the issue promises.
const P99: Duration = Duration::from_secs(1);

/// Acme's backlog is made, each event for so many endpoints, then globex sends: the delays of its events, in order of size.
async fn delays_beside(
    sending: &Sending,
    backlog: usize,
    endpoints: usize,
    events: usize,
) -> Vec<Duration> {
    let producer = sending.producer(OPS);
    for first in (0..backlog).step_by(BATCH) {
        let of = |at: usize| event(&format!("backlog-{at}"), "contact.created", "x");
        let batch: Vec<Value> = (first..backlog.min(first + BATCH)).map(of).collect();
        producer.sends(&batch).await;
    }
    let mut accepted = BTreeMap::new();
    let mut ticks = interval(PAUSE);
    for at in 0..events {
        ticks.tick().await;
        let id = format!("small-{at}");
        producer.sends(&[event_of("globex", &id, "contact.created", "y")]).await;
        accepted.insert(id, Instant::now());
    }
    let arrived = sending.sink.has("globex", events).await;
    let acme = sending.sink.count("acme");
    let deliveries = backlog * endpoints;
    println!("{acme} of acme's {deliveries} had arrived when globex' last one did");
    assert!(acme < deliveries, "there was no backlog any more");
    let mut delays: Vec<Duration> = arrived
        .iter()
        .map(|arrived| arrived.at.saturating_duration_since(accepted[&arrived.id]))
        .collect();
    delays.sort_unstable();
    delays
}

fn document(sink: &crate::harness::sink::Sink) -> Value {
    let globex = document::endpoint("globex", &sink.url("globex"), "*")
        .changed(|endpoint| endpoint["tenant"] = json!("globex"));
    sink.at("acme", |_| Told::takes().after(SLOW));
    document::producing()
        .with("endpoints", document::endpoint("acme", &sink.url("acme"), "*"))
        .with("endpoints", globex)
}

/// Of acme's events each goes to so many endpoints.
const WIDE: usize = 100;

fn wide(sink: &crate::harness::sink::Sink) -> Value {
    let url = sink.url("acme");
    (1..WIDE).fold(document(sink), |document, at| {
        document.with("endpoints", document::endpoint(&format!("acme-{at}"), &url, "*"))
    })
}

/// A test on a busy machine tells nothing about a delay; a delay that grows with a neighbour's backlog is another thing.
fn are_short(delays: &[Duration]) {
    let at = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    println!("p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), delays[delays.len() - 1]);
    assert!(at(99) < P99, "{:?}", at(99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_one_tenant_does_not_delay_anothers_events_on_postgresql() {
    let database = Database::fresh();
    let sending = Sending::start(&database.url(), &["d1"], document).await;
    let backlog = sized("backlog", 20_000, 1_000_000);
    are_short(&delays_beside(&sending, backlog, 1, 200).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_one_tenant_does_not_delay_anothers_events_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let sending = Sending::alone(&database, document).await;
    let backlog = sized("backlog", 20_000, 1_000_000);
    are_short(&delays_beside(&sending, backlog, 1, 200).await);
}

/// While they are fanned out, most of what the database does is for acme.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_many_endpoints_does_not_delay_anothers_events() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let sending = Sending::alone(&database, wide).await;
    let backlog = sized("backlog of a hundred endpoints", 1_000, 10_000);
    are_short(&delays_beside(&sending, backlog, WIDE, 200).await);
}
