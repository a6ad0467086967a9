//! Adaptive protection: tenants that send far more than they are used to are slowed, where their plan says so.
//!
//! Invariants: judged by what this node sees alone, and never by the store; each turn is audited and shown, and no request
//! waits for that. What is known of a tenant outlives snapshots, and is forgotten when it is at rest.

use crate::report::ProtectionMetrics;
use crate::trace::fresh_id;
use model::audit::Entry;
use model::id::{NodeName, TenantId};
use model::quota::{Measured, Pace, PaceRules, Turn, Wait, fields};
use model::role::Actor;
use model::{Clock, ErrorCode, Reject};
use serde_json::json;
use stages::authenticate::Caller;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use store::control::{Effect, Write};
use tokio::sync::mpsc;

/// The limit that a slowed tenant is refused by, as partners see it.
pub const LIMIT: &str = "adaptive";
/// Tenants of different shards never wait for each other.
const SHARDS: usize = 64;
/// About how many tenants are watched. Of more, those that come later are not.
const TENANTS_MAX: usize = 100_000;
/// Turns that wait to be audited. Of more, the log alone tells.
const TURNS_MAX: usize = 1_024;
/// How often a turn is written again when the store is away, and the pause before.
const TRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// What this node knows of tenants' habits.
pub struct Protection {
    shards: Box<[Mutex<HashMap<TenantId, Watched>>]>,
    hasher: RandomState,
    turns: mpsc::Sender<(TenantId, Turn)>,
    metrics: ProtectionMetrics,
}

struct Watched {
    rules: Arc<PaceRules>,
    pace: Pace,
}

impl Protection {
    /// Knows nothing yet. Turns are audited on the runtime.
    pub fn start(
        store: Store,
        node: NodeName,
        clock: Clock,
        metrics: ProtectionMetrics,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let (turns, queue) = mpsc::channel(TURNS_MAX);
        runtime.spawn(audit(store, node, clock, queue));
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), turns, metrics }
    }

    /// Counts a request, and refuses it where its tenant is slowed and has nothing left.
    pub fn judge(&self, caller: &Caller, cost: u32, now: i64) -> Result<(), Reject> {
        let Some(rules) = &caller.tenant().adaptive else { return Ok(()) };
        let id = &caller.identity().tenant;
        let judged = {
            let mut tenants = self.shard(id);
            if !tenants.contains_key(id) {
                if tenants.len() >= TENANTS_MAX / SHARDS {
                    return Ok(());
                }
                let (rules, pace) = (rules.clone(), Pace::new(now));
                tenants.insert(id.clone(), Watched { rules, pace });
            }
            let Some(watched) = tenants.get_mut(id) else { return Ok(()) };
            if !Arc::ptr_eq(&watched.rules, rules) {
                watched.rules = rules.clone();
            }
            watched.pace.came(rules, cost, now)
        };
        if let Some(turn) = judged.turn {
            self.turned(id, turn);
        }
        let Some(wait) = judged.refusal else { return Ok(()) };
        self.metrics.refused();
        let reject =
            Reject::new(ErrorCode::RateLimited).detail("limit", LIMIT).detail("cost", cost);
        Err(match wait {
            Wait::For(micros) => reject.retry_after(fields::whole_seconds(micros).max(1)),
            Wait::Forever => reject,
        })
    }

    /// What was counted of a request that others refused teaches nothing.
    pub fn refused(&self, caller: &Caller, cost: u32) {
        if caller.tenant().adaptive.is_none() {
            return;
        }
        let id = &caller.identity().tenant;
        if let Some(watched) = self.shard(id).get_mut(id) {
            watched.pace.refused(cost);
        }
    }

    /// Looks at tenants that send nothing any more, and forgets those at rest.
    pub fn sweep(&self, now: i64) {
        let mut turned = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|id, watched| {
                let turn = watched.pace.advance(&watched.rules, now);
                turned.extend(turn.map(|turn| (id.clone(), turn)));
                !watched.pace.is_at_rest(&watched.rules, now)
            });
        }
        for (id, turn) in turned {
            self.turned(&id, turn);
        }
    }

    fn turned(&self, tenant: &TenantId, turn: Turn) {
        let (Turn::Slowed(measured) | Turn::Normal(measured)) = turn;
        let Measured { baseline, allowed, offered } = measured;
        match turn {
            Turn::Slowed(_) => {
                tracing::warn!(%tenant, baseline, allowed, offered, "a tenant is slowed: it sends far more than it is used to");
            }
            Turn::Normal(_) => tracing::info!(%tenant, allowed, "a tenant is no longer slowed"),
        }
        self.metrics.turned(turn);
        if self.turns.try_send((tenant.clone(), turn)).is_err() {
            tracing::warn!(%tenant, "the queue of the audit is full: this turn stands in the log alone");
        }
    }

    fn shard(&self, tenant: &TenantId) -> MutexGuard<'_, HashMap<TenantId, Watched>> {
        let place = usize::try_from(self.hasher.hash_one(tenant) % SHARDS as u64).unwrap_or(0);
        lock(self.shards.get(place).expect("a hash modulo the number of shards"))
    }
}

/// A pace is whole after every step that could panic.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn audit(
    store: Store,
    node: NodeName,
    clock: Clock,
    mut queue: mpsc::Receiver<(TenantId, Turn)>,
) {
    while let Some((tenant, turn)) = queue.recv().await {
        let entry = entry(&node, &clock, &tenant, turn);
        for attempt in 1..=TRIES_MAX {
            let write = Write { effect: Effect::Note, audit: entry.clone(), answer: None };
            match store.write(write).await {
                Ok(_) => break,
                Err(error) if attempt == TRIES_MAX => {
                    tracing::warn!(%tenant, %error, "a turn of adaptive protection was not audited");
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

fn entry(node: &NodeName, clock: &Clock, tenant: &TenantId, turn: Turn) -> Entry {
    let at = clock.now();
    let (action, measured) = match turn {
        Turn::Slowed(measured) => ("tenants.slow", measured),
        Turn::Normal(measured) => ("tenants.unslow", measured),
    };
    let rounded = |units: f64| (units * 1_000.0).round() / 1_000.0;
    Entry {
        id: fresh_id(at).to_string(),
        at,
        actor: Actor::system(node),
        action: action.to_owned(),
        resource: format!("/v1/tenants/{tenant}"),
        tenant: Some(tenant.clone()),
        request_id: fresh_id(at).to_string(),
        revision: None,
        difference: json!({
            "baseline": rounded(measured.baseline),
            "allowed": rounded(measured.allowed),
            "offered": rounded(measured.offered),
            "unit": "per second, on this node",
        }),
        refused: None,
    }
}
