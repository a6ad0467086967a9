//! What an `Idempotency-Key` costs: the same POST with a key and without one, by where records are kept.
//!
//! Invariants: each store has a gateway of its own, and they take turns within each round. Keyed requests stand between two
//! runs of equal ones without a key: what those two differ by is what the machine does by itself. Every request comes from
//! a tenant of its connection, and no key is used twice unless a replay is what is measured.

mod stores;
mod summary;

use crate::chain::{self, Place};
use crate::load::{self, Load, NUMBERED};
use crate::process::Cpu;
use crate::report::percentile;
use crate::{Outcome, Settings, say};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use stores::Store;
use summary::Summary;

/// Tenants, each with an API key: none has so many records that there is no room for more.
const TENANTS: u32 = 64;
/// One connection alone sends so much less.
const ALONE_SENDS: u32 = 16;
/// Until a gateway has its connection to a store.
const CONNECTED_MAX: Duration = Duration::from_secs(10);
/// Between runs, for the connections of the last one to be closed on both sides.
const PAUSE: Duration = Duration::from_millis(200);

/// What is sent, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Unkeyed,
    Keyed,
    Replayed,
    UnkeyedAgain,
}

impl Way {
    const ALL: [Self; 4] = [Self::Unkeyed, Self::Keyed, Self::Replayed, Self::UnkeyedAgain];

    /// The line of its head that says the key.
    fn line(self, connection: u32) -> String {
        match self {
            Self::Unkeyed | Self::UnkeyedAgain => String::new(),
            Self::Keyed => format!("idempotency-key: {NUMBERED}\r\n"),
            Self::Replayed => format!("idempotency-key: replayed-{connection}\r\n"),
        }
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Keyed {
    connections: u32,
    passed: bool,
    summary: Vec<Summary>,
    runs: Vec<Run>,
}

/// One run, as measured.
#[derive(Debug, Serialize)]
struct Run {
    round: u32,
    store: &'static str,
    way: Way,
    connections: u32,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    requests_per_second: f64,
    gateway_cpu_us: f64,
    store_cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Measures each store in each round, with many connections and with one.
pub(crate) async fn measure(place: &Place<'_>) -> Outcome<Keyed> {
    let (_upstream, upstream_at) = chain::upstream(place).await?;
    let mut stores = Vec::new();
    for kind in stores::all()? {
        stores.push(Store::start(place, kind, &document(upstream_at)).await?);
    }
    for store in &stores {
        prove(store).await?;
    }
    let many = place.settings.clone();
    let requests = many.requests.div_ceil(ALONE_SENDS);
    let alone = Settings { connections: 1, requests, ..many.clone() };
    let mut runs = Vec::new();
    for round in 1..=many.rounds {
        for store in &stores {
            for settings in [&many, &alone] {
                for way in Way::ALL {
                    let run = run(round, store, way, settings).await?;
                    say(&run.line());
                    runs.push(run);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    let summary = stores.iter().map(|store| Summary::of(store, &runs, many.connections)).collect();
    let passed = runs.iter().all(Run::passed);
    Ok(Keyed { connections: many.connections, passed, summary, runs })
}

async fn run(round: u32, store: &Store, way: Way, settings: &Settings) -> Outcome<Run> {
    let requests: Vec<_> =
        (0..settings.connections).map(|at| post(at, &way.line(at), BODY)).collect();
    let mut load = Load::open(store.address(), &requests, settings).await?;
    load.warm_up().await?;
    let before = store.cpu()?;
    let answers = load.run().await?;
    let after = store.cpu()?;
    let count = f64::from(u32::try_from(answers.latencies.len()).unwrap_or(u32::MAX));
    let each = |after: Cpu, before: Cpu| after.since(before).total() * 1e6 / count.max(1.0);
    Ok(Run {
        round,
        store: store.kind.id,
        way,
        connections: settings.connections,
        requests_per_second: count / answers.elapsed.as_secs_f64(),
        gateway_cpu_us: each(after.gateway, before.gateway),
        store_cpu_us: each(after.store, before.store),
        p50_ms: percentile(&answers.latencies, 50),
        p99_ms: percentile(&answers.latencies, 99),
        statuses: answers.statuses,
        errors: answers.errors,
    })
}

/// Shows that a key is heeded: its own request is answered, another one under it is refused.
async fn prove(store: &Store) -> Outcome<()> {
    let ask = async |body: &str| {
        load::once(store.address(), post(0, "idempotency-key: proof\r\n", body)).await
    };
    let connected = async {
        // Its connection to the store is made in the background.
        while !matches!(ask(BODY).await, Ok(200)) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let id = store.kind.id;
    let connected = tokio::time::timeout(CONNECTED_MAX, connected).await;
    connected.map_err(|_| format!("`{id}` answers no keyed request with 200"))?;
    match ask("{}").await? {
        422 => Ok(()),
        status => Err(format!("`{id}` answered {status} to another request under a key").into()),
    }
}

impl Run {
    fn passed(&self) -> bool {
        let expected =
            !self.statuses.is_empty() && self.statuses.keys().all(|status| *status == 200);
        expected && self.errors.is_empty()
    }

    fn cpu_us(&self) -> f64 {
        self.gateway_cpu_us + self.store_cpu_us
    }

    /// For progress.
    fn line(&self) -> String {
        let Self { round, store, connections, requests_per_second, .. } = self;
        let wrong = match self.passed() {
            true => String::new(),
            false => format!("  {:?} {:?}", self.statuses, self.errors),
        };
        format!(
            "round {round:>2}  {store:<8} {:<14} {connections:>3} connections  {requests_per_second:>7.0} requests/s  \
             {:>6.1} + {:>6.1} µs/request  p50 {:.2} ms{wrong}",
            format!("{:?}", self.way),
            self.gateway_cpu_us,
            self.store_cpu_us,
            self.p50_ms,
        )
    }
}

impl Keyed {
    /// Whether every answer was the expected one.
    pub(crate) const fn passed(&self) -> bool {
        self.passed
    }
}

const BODY: &str = r#"{"first_name":"Ada","last_name":"Lovelace","emails":["ada@example.org"],"notes":"Keeps the accounts of the engine"}"#;

/// A POST of the tenant whose turn it is on this connection, with more lines in its head.
fn post(connection: u32, lines: &str, body: &str) -> Arc<[u8]> {
    let (key, length) = (key(connection % TENANTS), body.len());
    format!(
        "POST /v1/contacts HTTP/1.1\r\nhost: bench.example\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n\
         {lines}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
    .into()
}

fn prefix(tenant: u32) -> String {
    format!("tg_live_{tenant:08}")
}

fn key(tenant: u32) -> String {
    format!("{}_0123456789abcdef0123456789abcdef", prefix(tenant))
}

/// One route, which takes keys, and its tenants.
fn document(upstream: SocketAddr) -> serde_json::Value {
    let mut document = chain::document(upstream, "api_key", &[], json!([]));
    let tenant = |tenant: u32| {
        let api_key = json!({ "hash": chain::digest(&key(tenant)), "prefix": prefix(tenant) });
        let credential = json!({ "id": "k1", "api_key": api_key });
        let consumer = json!({ "id": "app", "scopes": [], "credentials": [credential] });
        let id = format!("tenant-{tenant}");
        json!({ "id": id, "plan": "gold", "state": "active", "consumers": [consumer] })
    };
    if let Some(document) = document.as_object_mut() {
        let tenants: Vec<_> = (0..TENANTS).map(tenant).collect();
        document.insert("tenants".to_owned(), json!(tenants));
        let route = json!({
            "id": "contacts.create",
            "service": "contacts",
            "match": { "path": "/contacts", "methods": ["POST"] },
            "authenticate": { "any_of": ["api_key"] },
            "idempotency": { "mode": "optional", "retention": "1m", "on_store_error": "closed" },
        });
        document.insert("routes".to_owned(), json!([route]));
    }
    document
}
