//! Quotas that are counted in this process, kept over its restarts: read at its start, written every second and at its end.
//!
//! Invariant: what is kept is never counted twice. A process that is killed forgets what was used in its last second; rates
//! and slots are not kept at all. While the store is away, what changed waits here, once for each counter; a start without
//! the store counts from nothing, and adds what was kept when the store is back.

use crate::gateway::Gateway;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{CounterKey, KeptQuota};
use stages::counters::MemoryCounters;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// How long [`Kept::end`] takes at most.
pub const FLUSH_MAX: Duration = Duration::from_secs(5);
/// Between two writes: what a process that is killed forgets.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a start waits for what was kept.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps the quotas of a gateway that counts by itself.
pub struct Kept {
    gateway: Arc<Gateway>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether what was kept before is counted: until then nothing is written over it.
    is_restored: bool,
    /// What is to be written, as it stood last. Bounded by the counters that are kept in memory.
    changed: HashMap<(TenantId, CounterKey), KeptQuota>,
}

impl Kept {
    /// Takes up what was kept, before traffic comes; `None` where counters are shared.
    pub async fn start(gateway: &Arc<Gateway>) -> Option<Arc<Self>> {
        gateway.quotas.in_this_process()?.follow();
        let kept = Self { gateway: gateway.clone(), state: Mutex::default() };
        match timeout(PATIENCE, kept.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "quotas are counted from nothing for now"),
            Err(_) => {
                tracing::warn!(
                    "quotas are counted from nothing for now: the store does not answer"
                );
            }
        }
        Some(Arc::new(kept))
    }

    /// Keeps what changes, again and again. Ends never; drop it to stop.
    pub async fn run(self: Arc<Self>) {
        let mut is_away = false;
        loop {
            sleep(PAUSE).await;
            match self.flush().await {
                Ok(()) => is_away = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(%error, "quotas can't be kept for a restart; they wait");
                    }
                }
            }
        }
    }

    /// Keeps what is left to keep, once nothing is counted any more.
    pub async fn end(&self) {
        match timeout(FLUSH_MAX, self.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last use of quotas was not kept"),
            Err(_) => tracing::error!("the last use of quotas was not kept in time"),
        }
    }

    /// Takes up what was kept, if that is not done yet, and writes what changed since.
    async fn flush(&self) -> Result<(), StoreError> {
        let Some(counters) = self.gateway.quotas.in_this_process() else { return Ok(()) };
        let mut state = self.state.lock().await;
        if !state.is_restored {
            self.restore(counters).await?;
            state.is_restored = true;
        }
        let now = self.gateway.clock.micros();
        state.changed.retain(|_, quota| quota.window.end > now);
        let changed = counters.changed().into_iter();
        state
            .changed
            .extend(changed.map(|quota| ((quota.tenant.clone(), quota.key.clone()), quota)));
        let quotas: Vec<KeptQuota> = state.changed.values().cloned().collect();
        self.gateway.store.keep_quotas(&self.gateway.node, &quotas).await?;
        // A write that breaks off is done again.
        state.changed.clear();
        Ok(())
    }

    async fn restore(&self, counters: &MemoryCounters) -> Result<(), StoreError> {
        let now = self.gateway.clock.micros();
        let kept = self.gateway.store.kept_quotas(&self.gateway.node, now).await?;
        let count = kept.len();
        let left = counters.restore(kept, now);
        if count > 0 {
            tracing::info!(quotas = count - left, "quotas are counted on from the last run");
        }
        if left > 0 {
            tracing::warn!(quotas = left, "there was no room for some quotas of the last run");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
