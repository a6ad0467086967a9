//! Repeats that wait for what comes of the first request.
//!
//! Invariants: how many wait on a node, how many of them are one tenant's, and how long each, is bounded; who finds no room
//! is told at once that the first one is in progress. Waiting is looking again: the first one may be at another node.

use model::id::TenantId;
use rand::RngExt as _;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// How many repeats may wait on one node.
pub const WAITERS_MAX: usize = 1_024;
/// How many of them may be one tenant's.
pub const WAITERS_PER_TENANT_MAX: usize = 128;
/// Between two looks, at first.
const LOOK_FIRST: Duration = Duration::from_millis(25);
/// Between two looks, in the end.
const LOOK_LAST: Duration = Duration::from_millis(500);

/// Room for repeats that wait.
#[derive(Debug)]
pub struct Waiters {
    places: Semaphore,
    by_tenant: Mutex<HashMap<TenantId, usize>>,
}

impl Default for Waiters {
    fn default() -> Self {
        Self { places: Semaphore::new(WAITERS_MAX), by_tenant: Mutex::default() }
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    until: Instant,
    pause: Duration,
    _place: SemaphorePermit<'a>,
    _share: Share<'a>,
}

/// One of a tenant's places.
#[derive(Debug)]
struct Share<'a> {
    of: &'a Waiters,
    tenant: TenantId,
}

impl Waiters {
    /// A place to wait for so long, if this tenant has one left, and time to wait.
    pub(super) fn wait(&self, tenant: &TenantId, span: Duration) -> Option<Waiting<'_>> {
        if span.is_zero() {
            return None;
        }
        let place = self.places.try_acquire().ok()?;
        let share = self.share(tenant)?;
        let until = Instant::now() + span;
        Some(Waiting { until, pause: LOOK_FIRST, _place: place, _share: share })
    }

    fn share(&self, tenant: &TenantId) -> Option<Share<'_>> {
        let mut by_tenant = self.by_tenant();
        let waiting = by_tenant.entry(tenant.clone()).or_default();
        if *waiting >= WAITERS_PER_TENANT_MAX {
            return None;
        }
        *waiting += 1;
        Some(Share { of: self, tenant: tenant.clone() })
    }

    fn by_tenant(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut by_tenant = self.of.by_tenant();
        match by_tenant.get_mut(&self.tenant) {
            Some(waiting) if *waiting > 1 => *waiting -= 1,
            _ => drop(by_tenant.remove(&self.tenant)),
        }
    }
}

impl Waiting<'_> {
    /// Pauses until it is time to look again; says no at once where the time is over.
    pub(super) async fn pause(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Those who began together don't look together.
        let pause = self.pause.mul_f64(rand::rng().random_range(0.75..1.25));
        sleep(pause.min(left)).await;
        self.pause = (self.pause * 3 / 2).min(LOOK_LAST);
        true
    }
}
