//! CPU time of one decision that reads five headers, measured on its thread.

use super::file;
use crate::{Outcome, say};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::tz::TimeZone;
use model::{Decision, Head, Identity};
use pack_host::worker::Worker;
use pack_host::{
    Caps, Counters, Counting, Grants, Host, HostSettings, Limits, LogGate, PackData, PolicyRequest,
    Prepared, thread_cpu,
};
use serde::Serialize;
use serde_json::json;
use std::num::NonZeroU32;
use std::sync::Arc;

const HEADERS: [&str; 5] = ["x-correlation-id", "x-client", "x-region", "x-trace", "accept"];
/// Decisions of one measurement.
const DECISIONS: u32 = 20_000;
/// Decisions of one instance that is used again: some are dropped and made anew meanwhile.
const REUSE: u32 = 1_000;
/// The places of the pool: as many as a gateway has.
const INSTANCES: u32 = 256;

/// One round.
#[derive(Debug, Serialize)]
pub(super) struct Decided {
    round: u32,
    /// Microseconds of CPU time, in a fresh instance.
    pub(super) fresh_us: f64,
    /// The same in an instance that is used again.
    pub(super) reused_us: f64,
    /// What a fresh one burns, the same in every round.
    fuel: u64,
    /// Its linear memory in bytes.
    memory: usize,
}

/// Measures both in each round, in turns.
pub(super) fn measure(rounds: u32) -> Outcome<Vec<Decided>> {
    let host = Host::new(HostSettings::new(INSTANCES, Worker::Here))?;
    let pack = host.load(file::package(file::FIRST)?);
    let settings = json!({ "headers": HEADERS.map(|name| json!({ "name": name })) });
    let prepare = |reuse| pack.prepare(&settings, Limits::default(), NonZeroU32::new(reuse));
    let (fresh, reused) = (prepare(1)?, prepare(REUSE)?);
    let request = request();
    let mut measured = Vec::new();
    // The first one warms up.
    for round in 0..=rounds {
        let taken = spent(&fresh, &request);
        let one = Decided {
            round,
            fresh_us: each(&fresh, &request)?,
            reused_us: each(&reused, &request)?,
            fuel: taken.0,
            memory: taken.1,
        };
        if round > 0 {
            let (fresh, reused) = (one.fresh_us, one.reused_us);
            say(&format!(
                "round {round:>2}  a decision {fresh:.2} µs fresh, {reused:.2} µs reused"
            ));
            measured.push(one);
        }
    }
    Ok(measured)
}

/// What calls are given beside the exchange.
#[derive(Default)]
struct Given {
    data: Arc<PackData>,
    counters: Arc<Counters>,
    log: Arc<LogGate>,
}

impl Given {
    fn grants(&self) -> Grants<'_> {
        let counters = Counting::Acting(&self.counters);
        Grants { caps: Caps::default(), data: &self.data, counters, log: &self.log }
    }
}

/// Microseconds of one decision.
fn each(pack: &Prepared, request: &Arc<PolicyRequest>) -> Outcome<f64> {
    let given = Given::default();
    let before = thread_cpu();
    for _ in 0..DECISIONS {
        match pack.on_request(request, &given.grants()) {
            Ok(Decision::Continue) => {}
            other => return Err(format!("the pack did not continue: {other:?}").into()),
        }
    }
    Ok((thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(DECISIONS))
}

/// Fuel and memory.
fn spent(pack: &Prepared, request: &Arc<PolicyRequest>) -> (u64, usize) {
    let given = Given::default();
    let measured = pack.on_request_measured(request, &given.grants());
    (measured.fuel, measured.memory)
}

fn request() -> Arc<PolicyRequest> {
    let mut headers = HeaderMap::new();
    for name in HEADERS {
        let value = HeaderValue::from_static("0199a3c8-1f0e-7c11-9d6a-3f2b8f9f1c22");
        headers.insert(HeaderName::from_static(name), value);
    }
    let head = Head {
        method: Method::GET,
        path: "/v1/contacts".to_owned(),
        query: None,
        authority: "bench.example".to_owned(),
        headers,
        client: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let identity = Identity {
        tenant: "acme".into(),
        consumer: "app".into(),
        subject: "app".to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Arc::new(json!({})),
    };
    Arc::new(PolicyRequest {
        head: Arc::new(head),
        body: None,
        body_size: None,
        identity: Arc::new(identity),
        plan: "gold".into(),
        timezone: TimeZone::UTC,
        route: "contacts.list".into(),
        version: "v1".into(),
        request_id: "bench-1".into(),
        now: model::Clock::system().now(),
    })
}
