//! What shared counters do in the background: settling what has ended, and probing a lane that is away.
//!
//! Invariants: a lane has one task that settles, and one that probes while some of its parts are away; they end when nobody
//! has the counters any more.

use super::super::breaker::{PROBE_EVERY, PROBE_JITTER};
use super::super::settling::{AGAIN_AFTER, Progress, Queue};
use super::super::standing::{Counts, Standing};
use super::super::store::Store;
use super::{Place, Shared};
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Calendar, Counted, CounterKey, Demand, Kind, Limit, LimitMode, OnStoreError, Part, Per,
    PermitId,
};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How a probe's limit is called: no limit of a document can be.
const PROBE_LIMIT: &str = "probe:";
/// Between two log lines about counters that can't be read, in microseconds.
const TELL_EVERY: i64 = 1_000_000;

/// Parts of the store whose permits are settled one after the other, and that are probed so while they are away.
#[derive(Debug)]
pub(super) struct Lane {
    /// Permits that have ended.
    pub(super) ended: Arc<Queue>,
    probed: Mutex<Probed>,
}

/// Parts that are away.
#[derive(Debug, Default)]
struct Probed {
    /// Each with the tenant whose demand failed: it is probed with a counter beside that tenant's own.
    parts: HashMap<usize, TenantId>,
    is_running: bool,
}

impl Lane {
    /// A lane of which nothing is known to fail.
    pub(super) fn new(counts: &Arc<Counts>) -> Self {
        Self { ended: Arc::new(Queue::new(Arc::clone(counts))), probed: Mutex::default() }
    }
}

impl<S: Store> Shared<S> {
    /// The store answered a tenant. What this node counted alone for it is over.
    pub(super) fn answered(&self, place: &Place<'_>, tenant: &TenantId) {
        place.breaker.answered();
        if self.alone.kept() > 0 {
            self.alone.forget_tenant(tenant);
        }
    }

    /// A command failed. The last one that is needed for it opens the breaker of the tenant's part.
    pub(super) fn failed(
        &self,
        place: &Place<'_>,
        tenant: &TenantId,
        error: &StoreError,
        now: i64,
    ) {
        if matches!(error, StoreError::Unreadable(_)) && self.is_its_own(tenant, error, now) {
            return;
        }
        let Place { part, breaker, lane } = *place;
        let opened = if self.store.is_away() { breaker.lost() } else { breaker.failed() };
        if !opened {
            return;
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        self.stand(Some(error));
        let mut probed = lock(&lane.probed);
        probed.parts.insert(part, tenant.clone());
        if !std::mem::replace(&mut probed.is_running, true) {
            self.runtime.spawn(probe(Weak::clone(&self.me), self.lane_of(part)));
        }
    }

    /// Whether what can't be read is this one tenant's trouble: the store answers. When others have it too, it is not.
    fn is_its_own(&self, tenant: &TenantId, error: &StoreError, now: i64) -> bool {
        let mut last = lock(&self.unreadable);
        let before = last.take();
        let told = before.as_ref().map_or(i64::MIN, |(_, told)| *told);
        let tell = now.saturating_sub(told) >= TELL_EVERY;
        if tell {
            tracing::error!(%tenant, %error, "a tenant's counters can't be read");
        }
        *last = Some((tenant.clone(), if tell { now } else { told }));
        before.is_none_or(|(before, _)| before == *tenant)
    }

    /// Shows where they stand; says in the log when that turns.
    pub(super) fn stand(&self, why: Option<&StoreError>) {
        self.standing.send_if_modified(|standing| {
            let (before, nodes, now) = (*standing, self.nodes(), self.clock.micros());
            let is_well = self.open.load(Ordering::Acquire) == 0 && !self.store.is_away();
            *standing = match before {
                _ if is_well => Standing::Shared { nodes },
                Standing::Degraded { since, .. } => Standing::Degraded { since, nodes },
                Standing::Shared { .. } | Standing::InProcess => {
                    Standing::Degraded { since: now, nodes }
                }
            };
            match (before, *standing) {
                (Standing::Degraded { since, .. }, Standing::Shared { .. }) => {
                    let seconds = now.saturating_sub(since) / 1_000_000;
                    tracing::info!(seconds, "the shared counters answer again");
                }
                (Standing::Shared { .. }, Standing::Degraded { .. }) => {
                    let error = why.map(tracing::field::display);
                    tracing::warn!(error, "the shared counters can't answer: on_store_error holds");
                }
                _ => {}
            }
            *standing != before
        });
    }

    /// Asks a part that is away whether it is back. Whether it is.
    pub(in super::super) async fn probe(&self, part: usize) -> bool {
        let place = self.lanes.get(self.lane_of(part)).zip(self.breakers.get(part));
        let Some((lane, breaker)) = place else { return true };
        let Some(tenant) = lock(&lane.probed).parts.get(&part).cloned() else { return true };
        let demand = probe_demand(tenant);
        let asked = self.command(self.store.reserve(&demand, self.clock.micros()));
        if self.in_time(asked).await.is_err() {
            return false;
        }
        // Whoever was first closes it.
        if lock(&lane.probed).parts.remove(&part).is_some() {
            breaker.probe_answered();
            self.open.fetch_sub(1, Ordering::AcqRel);
            lane.ended.wake();
            self.stand(None);
        }
        true
    }

    fn lane_of(&self, part: usize) -> usize {
        part * self.lanes.len() / self.breakers.len()
    }
}

/// Settles what ends in a lane, as long as somebody has the counters.
pub(super) async fn settle<S: Store>(shared: Weak<Shared<S>>, queue: Arc<Queue>) {
    loop {
        queue.filled().await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            // Of parts that are away later: whoever closes their breakers wakes us.
            let is_there = |tenant: &TenantId| !shared.place(tenant).breaker.is_open();
            let progress = queue.settle(&shared.store, is_there, shared.clock.micros()).await;
            drop(shared);
            match progress {
                Progress::Idle => break,
                Progress::Settled => {}
                Progress::Unconfirmed => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }
}

/// Probes the parts of a lane that are away, one after the other, until all are back.
async fn probe<S: Store>(shared: Weak<Shared<S>>, place: usize) {
    loop {
        wait(&shared).await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(lane) = shared.lanes.get(place) else { return };
        let parts: Vec<usize> = lock(&lane.probed).parts.keys().copied().collect();
        for part in parts {
            shared.probe(part).await;
        }
        let mut probed = lock(&lane.probed);
        if probed.parts.is_empty() {
            probed.is_running = false;
            return;
        }
    }
}

/// Until the next round; a connection that was missing is worth one at once.
async fn wait<S: Store>(shared: &Weak<Shared<S>>) {
    let next = PROBE_EVERY + PROBE_JITTER.mul_f64(rand::random());
    match shared.upgrade().filter(|shared| shared.store.is_away()) {
        Some(shared) => {
            let _ = tokio::time::timeout(next, shared.store.connected()).await;
        }
        None => tokio::time::sleep(next).await,
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
