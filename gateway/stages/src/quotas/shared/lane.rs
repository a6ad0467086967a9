//! What shared counters do in the background: settling what has ended, and probing a lane that is away.
//!
//! Invariants: a lane has one task that settles, and one that probes while its breaker is open; they end when nobody has
//! the counters any more.

use super::super::breaker::{Breaker, PROBE_EVERY, PROBE_JITTER};
use super::super::settling::{AGAIN_AFTER, Progress, Queue};
use super::super::standing::{Counts, Standing};
use super::super::store::Store;
use super::Shared;
use crate::counters::{Capacity, MemoryCounters};
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Calendar, Counted, CounterKey, Demand, Kind, Limit, LimitMode, OnStoreError, Part, Per,
    PermitId,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How a probe's limit is called: no limit of a document can be.
const PROBE_LIMIT: &str = "probe:";

/// Tenants whose counters fail together.
pub(super) struct Lane {
    /// Whether the store is asked.
    pub(super) breaker: Breaker,
    /// This node's shares, while it is away.
    pub(super) alone: MemoryCounters,
    /// Permits that have ended.
    pub(super) ended: Arc<Queue>,
    /// The tenant whose demand failed last: the lane is probed with a counter of its own.
    failed: Mutex<Option<TenantId>>,
    /// The tenant whose counters could not be read last: told once.
    unreadable: Mutex<Option<TenantId>>,
}

impl Lane {
    /// A lane of which nothing is known to fail.
    pub(super) fn new(counts: &Arc<Counts>) -> Self {
        Self {
            breaker: Breaker::default(),
            alone: MemoryCounters::new(Capacity::default()),
            ended: Arc::new(Queue::new(Arc::clone(counts))),
            failed: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }
}

impl<S: Store> Shared<S> {
    /// A command failed. The last one that is needed for it opens the lane's breaker.
    pub(super) fn failed(&self, place: usize, tenant: &TenantId, error: &StoreError, now: i64) {
        let Some(lane) = self.lanes.get(place) else { return };
        // The store answered; it is this tenant's counters that are not as they should be.
        if matches!(error, StoreError::Unreadable(_)) {
            if lock(&lane.unreadable).replace(tenant.clone()).as_ref() != Some(tenant) {
                tracing::error!(%tenant, %error, "a tenant's counters can't be read");
            }
            return;
        }
        let opened =
            if self.store.is_away() { lane.breaker.lost(now) } else { lane.breaker.failed(now) };
        if !opened {
            return;
        }
        *lock(&lane.failed) = Some(tenant.clone());
        if self.stand() {
            tracing::warn!(%error, "the shared counters can't answer: on_store_error holds");
        }
        self.runtime.spawn(probe(Weak::clone(&self.me), place));
    }

    /// Shows where they stand. Whether they became degraded, or are no longer.
    pub(super) fn stand(&self) -> bool {
        let mut turned = false;
        self.standing.send_if_modified(|standing| {
            let nodes = self.nodes();
            let since = self.lanes.iter().filter_map(|lane| lane.breaker.open_since()).min();
            let now = match since {
                Some(since) => Standing::Degraded { since, nodes },
                None => Standing::Shared { nodes },
            };
            turned = std::mem::discriminant(standing) != std::mem::discriminant(&now);
            std::mem::replace(standing, now) != now
        });
        turned
    }

    /// Asks a lane that is away whether it is back. Whether it is.
    pub(in super::super) async fn probe(&self, place: usize) -> bool {
        let Some(lane) = self.lanes.get(place) else { return true };
        let Some(tenant) = lock(&lane.failed).clone() else { return true };
        let demand = probe_demand(tenant);
        let asked = self.command(self.store.reserve(&demand, self.clock.micros()));
        match self.in_time(asked).await {
            Ok(_) | Err(StoreError::Unreadable(_)) => {}
            Err(_) => return false,
        }
        let now = self.clock.micros();
        let since = lane.breaker.open_since().unwrap_or(now);
        lane.breaker.probe_answered(now);
        lane.alone.clear();
        lane.ended.wake();
        if self.stand() {
            let seconds = now.saturating_sub(since) / 1_000_000;
            tracing::info!(seconds, "the shared counters answer again");
        }
        true
    }
}

/// Settles what ends in a lane, as long as somebody has the counters.
pub(super) async fn settle<S: Store>(shared: Weak<Shared<S>>, place: usize, queue: Arc<Queue>) {
    loop {
        queue.filled().await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            let Some(lane) = shared.lanes.get(place) else { return };
            if lane.breaker.is_open() {
                // Whoever closes it wakes us.
                break;
            }
            let progress = queue.settle(&shared.store, shared.clock.micros()).await;
            drop(shared);
            match progress {
                Progress::Idle => break,
                Progress::Settled => {}
                Progress::Unconfirmed => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }
}

/// Probes a lane until it is back.
async fn probe<S: Store>(shared: Weak<Shared<S>>, place: usize) {
    loop {
        let next = PROBE_EVERY + PROBE_JITTER.mul_f64(rand::random());
        let Some(shared) = shared.upgrade() else { return };
        if shared.store.is_away() {
            // A connection is worth a probe at once.
            let _ = tokio::time::timeout(next, shared.store.connected()).await;
        } else {
            tokio::time::sleep(next).await;
        }
        if shared.probe(place).await {
            return;
        }
    }
}

/// A demand that writes a counter beside the tenant's own, and is not refused.
fn probe_demand(tenant: TenantId) -> Demand {
    let rate = "1000/s".parse().expect("a rate");
    let limit = Limit {
        id: PROBE_LIMIT.into(),
        kind: Kind::Rate { rate, burst: 1_000 },
        per: Per::Tenant,
        exact: true,
        mode: LimitMode::Enforce,
        on_store_error: OnStoreError::Open,
    };
    let key = CounterKey { limit: limit.id.clone(), part: Part::Tenant };
    Demand {
        permit: PermitId(0),
        tenant,
        calendar: Calendar::UTC,
        cost: 1,
        costs_later: false,
        permit_ttl: 0,
        limits: vec![Counted { key, limit: Arc::new(limit) }],
    }
}

/// What is behind these locks is whole after every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
