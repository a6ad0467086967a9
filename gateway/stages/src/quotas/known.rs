//! What this node knows of a shared counter: how the store last said it stood, and how much of it was taken in advance.
//!
//! Invariant: no more than [`most_ahead`] units of a counter are paid for and not spent by a node, whatever number of
//! batches they lie in. So all `N` nodes together admit at most `N·L` more than the limit, and keep at most as many from
//! others, where `L` is that.

use model::quota::{Counter, Demand, Kind, Limit, Reading, Spent};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Units are taken in advance for so much time at the limit's rate, in microseconds.
const AHEAD_FOR: i64 = 50_000;
/// All nodes together hold at most this part of a limit in advance.
const AHEAD_PART: u64 = 20;
/// A limit smaller than this is always exact.
const AHEAD_FROM: u64 = 100;
/// Near its edge a limit is exact: each node takes at most this part of an equal share of what remains.
const EDGE_PART: u64 = 4;

/// How many units of a limit a node may hold in advance: `L`. 0 where it is always exact.
pub(super) fn most_ahead(limit: &Limit, nodes: u32) -> u64 {
    let size = limit.kind.size();
    if limit.exact || size < AHEAD_FROM {
        return 0;
    }
    let part = size / (AHEAD_PART * u64::from(nodes));
    match limit.kind {
        Kind::Rate { rate, .. } => {
            let while_ahead = i64::from(rate.units()) * AHEAD_FOR / rate.micros();
            part.min(while_ahead.unsigned_abs())
        }
        Kind::Quota(_) => part,
        Kind::Concurrency(_) => 0,
    }
}

/// A shared counter, as this node knows it.
#[derive(Debug, Default)]
pub(super) struct Known {
    seen: Mutex<Option<Seen>>,
    /// Units held in advance.
    ahead: AtomicU64,
}

/// How the store said that a counter stands.
#[derive(Clone, Copy, Debug)]
struct Seen {
    kind: Kind,
    used: u64,
    reset_after: Option<i64>,
    /// When, in microseconds since the epoch.
    at: i64,
}

impl Known {
    /// Remembers what the store said.
    pub(super) fn see(&self, reading: &Reading, at: i64) {
        let Reading { kind, used, reset_after, .. } = *reading;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none_or(|seen| seen.at <= at) {
            *seen = Some(Seen { kind, used, reset_after, at });
        }
    }

    /// Forgets it.
    pub(super) fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many more units of it this node may take in advance now.
    pub(super) fn room_ahead(&self, limit: &Limit, nodes: u32, now: i64) -> u64 {
        let most = most_ahead(limit, nodes).saturating_sub(self.ahead.load(Ordering::Acquire));
        if most == 0 {
            return 0;
        }
        let Some(used) = self.used(limit.kind, now) else { return 0 };
        let remaining = limit.kind.size().saturating_sub(used);
        most.min(remaining / (EDGE_PART * u64::from(nodes)))
    }

    /// The counter of a node that counts alone, with its share of what remained when the store last said something.
    /// `None` where nothing is known, and for slots: nobody knows when others free theirs.
    pub(super) fn share(
        &self,
        whole: Kind,
        nodes: u32,
        demand: &Demand,
        now: i64,
    ) -> Option<Counter> {
        let (kind, nodes) = (whole.share(nodes), u64::from(nodes));
        let remaining = whole.size().saturating_sub(self.used(whole, now)?);
        let part = if remaining == 0 { 0 } else { (remaining / nodes).max(1) };
        let used = kind.size().saturating_sub(part);
        match (Counter::at_rest(kind, demand, now), kind) {
            (Counter::Bucket(mut bucket), Kind::Rate { rate, burst }) => {
                bucket.charge(rate, burst, u32::try_from(used).unwrap_or(u32::MAX), now);
                Some(Counter::Bucket(bucket))
            }
            (Counter::Spent(spent), _) => {
                let (period, window, _) = spent.parts();
                Some(Counter::Spent(Spent::restored(period, window, used)))
            }
            (Counter::Bucket(_) | Counter::Slots(_), _) => None,
        }
    }

    /// How much of it is used now, as far as this node knows.
    fn used(&self, kind: Kind, now: i64) -> Option<u64> {
        let seen = (*self.seen.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = now.saturating_sub(seen.at).max(0);
        let is_over = seen.reset_after.is_some_and(|after| after <= since);
        match (seen.kind, kind) {
            (Kind::Rate { rate, .. }, Kind::Rate { .. }) => {
                let drained =
                    i128::from(since) * i128::from(rate.units()) / i128::from(rate.micros());
                let drained = u64::try_from(drained).unwrap_or(u64::MAX);
                Some(if is_over { 0 } else { seen.used.saturating_sub(drained) })
            }
            (Kind::Quota(_), Kind::Quota(_)) => Some(if is_over { 0 } else { seen.used }),
            (Kind::Rate { .. } | Kind::Quota(_) | Kind::Concurrency(_), _) => None,
        }
    }

    fn take_ahead(&self, units: u64, most: u64) -> bool {
        let more = |held: u64| held.checked_add(units).filter(|held| *held <= most);
        self.ahead.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }
}

/// Units held in advance of some counters, until it is dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    counters: Arc<[Arc<Known>]>,
    /// How many counters, from the first on.
    held: usize,
    units: u64,
}

impl Ahead {
    /// Holds so many units of each; `None` where one has no room for them. `most` says what each may have.
    pub(super) fn take(
        counters: &Arc<[Arc<Known>]>,
        units: u64,
        most: impl Iterator<Item = u64>,
    ) -> Option<Self> {
        let mut ahead = Self { counters: Arc::clone(counters), held: 0, units };
        for (counter, most) in counters.iter().zip(most) {
            if !counter.take_ahead(units, most) {
                return None;
            }
            ahead.held += 1;
        }
        Some(ahead)
    }

    /// How many.
    pub(super) const fn units(&self) -> u64 {
        self.units
    }

    /// Holds no more than so many from now on.
    pub(super) fn shrink(&mut self, units: u64) {
        let less = self.units.saturating_sub(units);
        self.give_back(less);
        self.units -= less;
    }

    fn give_back(&self, units: u64) {
        for counter in self.counters.iter().take(self.held) {
            counter.ahead.fetch_sub(units, Ordering::AcqRel);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.give_back(self.units);
    }
}
