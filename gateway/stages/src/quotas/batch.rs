//! Units that were taken in advance for a group of counters, so that requests need not ask the store one by one.
//!
//! Invariants: a unit is paid for before it is spent, once; a batch is settled once: when nobody can take from it any more and
//! the last request that did has ended. What was not spent then goes back to quotas. Units that are lost are never
//! spent.

use super::known::Ahead;
use super::settling::{Ended, Ending, Queue};
use model::quota::{Kind, PermitRecord, Reading, Settlement};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// How long units may be held in advance, in microseconds.
pub(super) const LIFETIME: i64 = 500_000;
/// In this time, in microseconds, so many units are expected to be asked for as were in the one before.
const PACE_SPAN: i64 = 50_000;
/// Fewer requests than this are not worth a batch.
const REQUESTS_MIN: u64 = 2;

/// How many units a group is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    span: i64,
    units: u64,
    before: u64,
}

impl Pace {
    /// So many units are asked for now.
    pub(super) fn add(&mut self, cost: u32, now: i64) {
        let span = now.div_euclid(PACE_SPAN);
        if span != self.span {
            self.before = if span == self.span + 1 { self.units } else { 0 };
            (self.span, self.units) = (span, 0);
        }
        self.units += u64::from(cost);
    }

    /// How many units are worth taking in advance for a request of this cost, where so many may be.
    pub(super) fn worth(self, cost: u32, most: u64) -> Option<u32> {
        let units = self.units.max(self.before).min(most);
        let worth = units >= REQUESTS_MIN * u64::from(cost.max(1));
        if worth { u32::try_from(units).ok() } else { None }
    }
}

/// What was paid for a batch. Whoever spends of it holds it until the request has ended.
#[derive(Debug)]
pub(super) struct Batch {
    record: PermitRecord,
    units: u32,
    /// Units that nobody spent, or that went to requests that are not charged.
    unspent: AtomicU32,
    /// Whether an operator set its counters back: what was paid is forgotten.
    is_void: AtomicBool,
    /// When its permit counts as lost.
    until: i64,
    queue: Arc<Queue>,
    /// What was left over when it closed counts as held until it is settled.
    left_over: OnceLock<Ahead>,
}

impl Batch {
    /// A request of this cost has ended.
    pub(super) fn end(&self, cost: u32, settlement: Settlement) {
        let unspent = match settlement {
            Settlement::Commit => 0,
            Settlement::Refund => cost,
            Settlement::Cost(actual) => cost.saturating_sub(actual),
        };
        self.unspent.fetch_add(unspent, Ordering::Relaxed);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let unspent = *self.unspent.get_mut();
        if unspent == 0 || self.record.charges.is_empty() || *self.is_void.get_mut() {
            return;
        }
        self.queue.push(Ending {
            permit: Ended::Given(self.record.clone()),
            settlement: Settlement::Cost(self.units.saturating_sub(unspent)),
            until: self.until,
        });
    }
}

/// A batch that can be taken from.
#[derive(Debug)]
pub(super) struct Open {
    batch: Arc<Batch>,
    left: u32,
    /// After which time it no longer can, in microseconds since the epoch.
    closes: i64,
    /// What its limits read when it was bought, at [`bought`](Self::bought).
    readings: Arc<[Reading]>,
    bought: i64,
    ahead: Option<Ahead>,
}

/// Some units of a batch.
#[derive(Debug)]
pub(super) struct Share {
    /// The batch.
    pub(super) batch: Arc<Batch>,
    /// How many units.
    pub(super) cost: u32,
    readings: Arc<[Reading]>,
    left: u32,
    since: i64,
}

impl Share {
    /// What the limits read: as the store last said, and what is left of the batch.
    pub(super) fn readings(&self) -> Arc<[Reading]> {
        let left = u64::from(self.left);
        let shown = |reading: &Reading| Reading {
            used: reading.used.saturating_sub(left),
            remaining: (reading.remaining + left).min(reading.limit),
            reset_after: reading.reset_after.map(|after| (after - self.since).max(0)),
            ..reading.clone()
        };
        self.readings.iter().map(shown).collect()
    }
}

/// What the store charged for a batch.
pub(super) struct Bought {
    /// The permit.
    pub(super) record: PermitRecord,
    /// What the limits read after the charge.
    pub(super) readings: Vec<Reading>,
    /// When it was asked.
    pub(super) asked: i64,
    /// When it had answered.
    pub(super) answered: i64,
    /// When the permit counts as lost.
    pub(super) until: i64,
    /// What is held in advance by it.
    pub(super) ahead: Ahead,
    /// Where it is settled.
    pub(super) queue: Arc<Queue>,
}

impl Open {
    /// A batch of which nothing is spent.
    pub(super) fn of(bought: Bought) -> Self {
        let Bought { record, readings, asked, answered, until, ahead, queue } = bought;
        let units = u32::try_from(ahead.units()).unwrap_or(u32::MAX);
        let is_quota = |reading: &&Reading| matches!(reading.kind, Kind::Quota(_));
        // Not beyond the window that paid. The store answered after it was asked, so no window ends later than this.
        let window =
            readings.iter().filter(is_quota).filter_map(|reading| reading.reset_after).min();
        // A limit that only observes had no room for so many: what is not for this request goes back.
        let is_whole = readings.iter().all(|reading| reading.refusal.is_none());
        let lifetime = if is_whole { window.unwrap_or(LIFETIME).min(LIFETIME) } else { 0 };
        let batch = Batch {
            record,
            units,
            unspent: AtomicU32::new(0),
            is_void: AtomicBool::new(false),
            until,
            queue,
            left_over: OnceLock::new(),
        };
        Self {
            batch: Arc::new(batch),
            left: units,
            closes: asked.saturating_add(lifetime),
            readings: readings.into(),
            bought: answered,
            ahead: Some(ahead),
        }
    }

    /// Takes so many units, if they are there, whether it is over or not: for the request that it was bought for.
    pub(super) fn take(&mut self, cost: u32, now: i64) -> Option<Share> {
        self.left = self.left.checked_sub(cost)?;
        Some(Share {
            batch: Arc::clone(&self.batch),
            cost,
            readings: Arc::clone(&self.readings),
            left: self.left,
            since: now.saturating_sub(self.bought).max(0),
        })
    }

    /// Whether nobody takes from it any more.
    pub(super) fn is_over(&self, now: i64) -> bool {
        self.left == 0 || now >= self.closes
    }

    /// What was paid is forgotten: an operator set its counters back.
    pub(super) fn void(self) {
        self.batch.is_void.store(true, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.batch.unspent.fetch_add(self.left, Ordering::Relaxed);
        if self.left == 0 || self.batch.record.charges.is_empty() {
            return;
        }
        if let Some(mut ahead) = self.ahead.take() {
            ahead.shrink(self.left.into());
            // It closes once, so there is nothing yet.
            let _ = self.batch.left_over.set(ahead);
        }
    }
}
