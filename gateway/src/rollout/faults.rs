//! Faults in a window that slides.
//!
//! Invariant: counting takes no lock, and what is older than the window is never counted.

use model::units;
use std::sync::atomic::{AtomicU64, Ordering};

/// Parts in which a window is counted: what is older than a window by less than one of them may be forgotten already.
const SLOTS: usize = 32;
/// Bits of a slot that count; the rest says which part of time it counts.
const COUNT_BITS: u32 = 24;

/// Faults in a window that slides, exact to a 32nd of it.
pub(super) struct Faults {
    /// Length of a part, in microseconds.
    part: u64,
    slots: [AtomicU64; SLOTS],
}

impl Faults {
    pub(super) fn new(window: units::Duration) -> Self {
        let micros = u64::try_from(window.0.as_micros()).unwrap_or(u64::MAX);
        Self { part: (micros / SLOTS as u64).max(1), slots: Default::default() }
    }

    /// Counts one, and says how many there were within the window. `now`: microseconds since the Unix epoch.
    pub(super) fn add(&self, now: i64) -> u64 {
        let part = self.part_of(now);
        let index = usize::try_from(part % SLOTS as u64).unwrap_or_default();
        if let Some(slot) = self.slots.get(index) {
            let one_more = |slot: u64| match slot >> COUNT_BITS == part {
                // As many as can be counted: more change nothing.
                true if counted(slot) == (1 << COUNT_BITS) - 1 => None,
                true => Some(slot + 1),
                false => Some(part << COUNT_BITS | 1),
            };
            // What is not counted is as many as there can be already.
            let _ = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        }
        self.count(now)
    }

    /// How many there were within the window.
    pub(super) fn count(&self, now: i64) -> u64 {
        let part = self.part_of(now);
        // Another thread may be a part ahead; what is a window ahead is of before the clock was set back.
        let near = part.saturating_sub(SLOTS as u64 - 1)..part + SLOTS as u64;
        let slots = self.slots.iter().map(|slot| slot.load(Ordering::Acquire));
        slots.filter(|slot| near.contains(&(slot >> COUNT_BITS))).map(counted).sum()
    }

    fn part_of(&self, now: i64) -> u64 {
        u64::try_from(now).unwrap_or_default() / self.part
    }
}

const fn counted(slot: u64) -> u64 {
    slot & ((1 << COUNT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// 2026-11-21T09:00:00Z, in microseconds.
    const NOW: i64 = 1_795_251_600_000_000;
    const SECOND: i64 = 1_000_000;

    #[test]
    fn the_longest_window_and_the_most_faults_are_counted_exactly() {
        let faults = Faults::new(units::Duration(Duration::from_secs(24 * 60 * 60)));
        for fault in 1..=1_000_000 {
            assert_eq!(faults.add(NOW), fault);
        }
        assert_eq!(faults.add(NOW + 23 * 3600 * SECOND), 1_000_001);
        assert_eq!(faults.add(NOW + 24 * 3600 * SECOND), 2);
        assert_eq!(faults.count(NOW + 24 * 3600 * SECOND), 2);
    }
}
