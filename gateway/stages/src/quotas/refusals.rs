//! Refusals of the store, remembered for a moment: whoever hammers a spent limit costs it nothing.
//!
//! Invariants: what is remembered says no more than the store said: it is forgotten when the wait is over, and
//! `Retry-After` is never earlier than true. Slots are not remembered: they are freed at any moment.

use model::quota::{Kind, LimitMode, Reading, Refused, Wait};

/// For how long at most, in microseconds: a refund, a reset or another node may make room earlier than was said.
pub(super) const REMEMBERED_FOR: i64 = 100_000;

/// A refusal.
#[derive(Debug)]
pub(super) struct Remembered {
    refused: Refused,
    cost: u32,
    /// When the store had answered, in microseconds since the epoch.
    at: i64,
    /// Until when it holds.
    until: i64,
}

impl Remembered {
    /// The store refused this cost. `None` where that says nothing of the next request.
    pub(super) fn of(refused: &Refused, cost: u32, at: i64) -> Option<Self> {
        let slots = |reading: &Reading| {
            reading.refusal.is_some()
                && reading.mode == LimitMode::Enforce
                && matches!(reading.kind, Kind::Concurrency(_))
        };
        if refused.readings().iter().any(slots) {
            return None;
        }
        let held = match refused.cause().refusal? {
            Wait::For(micros) => micros.min(REMEMBERED_FOR),
            Wait::Forever => REMEMBERED_FOR,
        };
        Some(Self { refused: refused.clone(), cost, at, until: at.saturating_add(held) })
    }

    /// Whether it says nothing any more.
    pub(super) fn is_over(&self, now: i64) -> bool {
        now >= self.until
    }

    /// The same refusal for a request that costs as much or more.
    pub(super) fn again(&self, cost: u32, now: i64) -> Option<Refused> {
        if cost < self.cost || self.is_over(now) {
            return None;
        }
        let since = now.saturating_sub(self.at).max(0);
        let later = |reading: &Reading| Reading {
            reset_after: reading.reset_after.map(|after| (after - since).max(0)),
            refusal: self.wait(reading, cost).and_then(|wait| shorter(wait, since)),
            ..reading.clone()
        };
        let readings: Vec<Reading> = self.refused.readings().iter().map(later).collect();
        Refused::of(&readings)
    }

    /// How long such a request had to wait when the store answered; rather too long than too short.
    fn wait(&self, reading: &Reading, cost: u32) -> Option<Wait> {
        if cost == self.cost {
            return reading.refusal;
        }
        if u64::from(cost) <= reading.remaining {
            return None;
        }
        match reading.kind {
            Kind::Concurrency(_) => reading.refusal,
            _ if u64::from(cost) > reading.limit => Some(Wait::Forever),
            Kind::Rate { rate, .. } => {
                let missing = u64::from(cost) - reading.remaining;
                let (micros, part) = rate.time_of(u32::try_from(missing).unwrap_or(u32::MAX));
                Some(Wait::For(micros + i64::from(part > 0)))
            }
            Kind::Quota(_) => reading.reset_after.map(Wait::For),
        }
    }
}

/// The wait, when some of it is over; `None` when all is.
fn shorter(wait: Wait, since: i64) -> Option<Wait> {
    match wait {
        Wait::Forever => Some(Wait::Forever),
        Wait::For(micros) if micros > since => Some(Wait::For(micros - since)),
        Wait::For(_) => None,
    }
}
