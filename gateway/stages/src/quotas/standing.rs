//! Where shared counters stand, and what they did: for operators.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who decides about limits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This process, for itself.
    InProcess,
    /// The shared counters.
    Shared {
        /// The nodes that use them, this one included.
        nodes: u32,
    },
    /// The shared counters can't answer, all of them or those of some tenants: each limit's `on_store_error` holds there.
    Degraded {
        /// Since when, in microseconds since the epoch.
        since: i64,
        /// The last known number of nodes.
        nodes: u32,
    },
}

/// How often something happened. Read without a lock.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Once more.
    pub(super) fn add(&self) {
        self.add_all(1);
    }

    /// So many times more.
    pub(super) fn add_all(&self, times: u64) {
        self.0.fetch_add(times, Ordering::Relaxed);
    }

    /// How often so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What shared counters did since the process started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Commands that were answered in time.
    pub answered: Count,
    /// Commands that were not.
    pub timed_out: Count,
    /// Commands that were refused, or could not be sent.
    pub failed: Count,
    /// Demands that the store decided.
    pub decided_by_store: Count,
    /// Demands that were admitted with units taken in advance.
    pub decided_by_batch: Count,
    /// Demands that were refused because the store had just said so.
    pub decided_by_refusal: Count,
    /// Demands that were decided without the store, because it could not answer.
    pub decided_alone: Count,
    /// Batches that were taken.
    pub batches: Count,
    /// Settlements for which there was no room, or that came too late.
    pub dropped: Count,
}
