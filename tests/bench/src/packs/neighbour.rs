//! What a tenant notices of another one whose pack never returns: the 99th percentile of its answers.
//!
//! Invariant: runs with and without misbehaviour take turns on one process, and the other tenant sends requests in each of
//! them; two runs without it tell how far apart equal runs are.

use super::{document, file, key, tenant};
use crate::chain::{self, Place, Tollgate, get};
use crate::load::{self, Load};
use crate::report::percentile;
use crate::{Outcome, PAUSE, say};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Pairs of neighbouring runs.
const PAIRS: u32 = 7;
const START_MAX: Duration = Duration::from_secs(60);
/// Connections of the tenant whose pack misbehaves, one request at a time, and their pause between two.
const OTHERS: usize = 4;
const OTHERS_PAUSE: Duration = Duration::from_millis(5);
/// The tenant that is measured, and the other one.
const OURS: usize = 0;
const THEIRS: usize = 1;

/// One pair, and a further run like its first.
#[derive(Debug, Serialize)]
pub(super) struct Pair {
    pair: u32,
    quiet_p99_ms: f64,
    misbehaving_p99_ms: f64,
    quiet_again_p99_ms: f64,
}

impl Pair {
    /// What misbehaviour makes of it.
    pub(super) fn ratio(&self) -> f64 {
        self.misbehaving_p99_ms / self.quiet_p99_ms
    }

    /// What nothing makes of it.
    pub(super) fn equal_ratio(&self) -> f64 {
        self.quiet_again_p99_ms / self.quiet_p99_ms
    }
}

/// Measures all pairs.
pub(super) async fn measure(place: &Place<'_>) -> Outcome<Vec<Pair>> {
    let (_upstream, upstream_at) = chain::upstream(place).await?;
    let tollgate =
        Tollgate::start(place, "packs-neighbour", &with_misbehaviour(upstream_at)?, START_MAX)
            .await?;
    let at = tollgate.address;
    let [quiet, spinning] = [json!({ "how": "work", "rounds": 1 }), json!({ "how": "spin" })];
    for (how, expected) in [(&quiet, 200), (&spinning, 503)] {
        let status = load::once(at, theirs(how)).await?;
        if status != expected {
            return Err(format!("{how} was answered by {status} instead of {expected}").into());
        }
    }
    let mut measured = Vec::new();
    for pair in 1..=PAIRS {
        let one = Pair {
            pair,
            quiet_p99_ms: p99(place, at, &quiet).await?,
            misbehaving_p99_ms: p99(place, at, &spinning).await?,
            quiet_again_p99_ms: p99(place, at, &quiet).await?,
        };
        say(&format!(
            "pair {pair}  p99 × {:.2}; of equal runs × {:.2}",
            one.ratio(),
            one.equal_ratio()
        ));
        measured.push(one);
    }
    Ok(measured)
}

/// Of our tenant's answers, in milliseconds, while the other one's pack does this.
async fn p99(place: &Place<'_>, at: SocketAddr, how: &Value) -> Outcome<f64> {
    let ours = get("/v1/contacts", &format!("x-api-key: {}\r\n", key(OURS)));
    let mut load = Load::open(at, &[ours], place.settings).await?;
    load.warm_up().await?;
    let mut others = JoinSet::new();
    for _ in 0..OTHERS {
        let request = theirs(how);
        others.spawn(async move {
            loop {
                // Refused or not: it is there.
                let _ = load::once(at, Arc::clone(&request)).await;
                tokio::time::sleep(OTHERS_PAUSE).await;
            }
        });
    }
    let answers = load.run().await?;
    others.shutdown().await;
    tokio::time::sleep(PAUSE).await;
    if answers.statuses.keys().any(|status| *status != 200) || !answers.errors.is_empty() {
        return Err(format!("our tenant got {:?} {:?}", answers.statuses, answers.errors).into());
    }
    Ok(percentile(&answers.latencies, 99))
}

fn theirs(how: &Value) -> Arc<[u8]> {
    get("/v1/contacts", &format!("x-api-key: {}\r\nx-how: {how}\r\n", key(THEIRS)))
}

/// Two tenants; the second one has a pack that does as its requests say, and that nothing takes out of service.
fn with_misbehaviour(upstream: SocketAddr) -> Outcome<Value> {
    let mut document = document(2, 0)?;
    let set = |document: &mut Value, pointer: &str, value: Value| {
        document.pointer_mut(pointer).map(|place| *place = value).ok_or("no such place")
    };
    set(&mut document, "/upstreams/0/targets/0/address", json!(upstream))?;
    set(&mut document, "/packs", json!([{ "id": file::MISBEHAVING, "version": file::FIRST }]))?;
    let attachment = json!({
        "id": "misbehaves",
        "pack": format!("{}@{}", file::MISBEHAVING, file::FIRST),
        "scope": { "tenant": tenant(THEIRS) },
        "phases": ["request"],
        "mode": "enforce",
        "on_failure": "closed",
        "settings": { "how": "told" },
        "quarantine": { "faults": 1_000_000, "window": "1s" },
    });
    set(&mut document, "/attachments", json!([attachment]))?;
    Ok(document)
}
