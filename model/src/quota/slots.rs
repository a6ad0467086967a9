//! The counter of concurrency: slots, each held by a permit until it is freed or expires.
//!
//! Invariant: a slot is held at most once by a permit, and by nobody after its expiry, so that a crash loses no slot for
//! longer than that. A request takes one slot, whatever it costs.

use super::{Level, PermitId, Wait};
use std::collections::BTreeMap;

/// When to ask again for a slot, in microseconds: nobody knows when one is freed.
const SLOT_RETRY: i64 = 1_000_000;

/// The slots that are held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slots(Held<()>);

impl Slots {
    /// What is used of so many slots when this many are held. When they are free again is not known in advance.
    pub fn level_of(used: u64, slots: u32) -> Level {
        let limit = u64::from(slots);
        Level {
            limit,
            used,
            remaining: limit.saturating_sub(used),
            reset_after: None,
            window: None,
        }
    }

    /// How long a request should wait for a slot when this many are held; `None` when one is free.
    pub fn refusal_of(used: u64, slots: u32) -> Option<Wait> {
        if slots == 0 {
            Some(Wait::Forever)
        } else if used < u64::from(slots) {
            None
        } else {
            Some(Wait::For(SLOT_RETRY))
        }
    }

    /// How many are held now.
    pub fn held(&self, now: i64) -> u64 {
        self.0.live(now) as u64
    }

    /// What is used of so many slots now.
    pub fn level(&self, slots: u32, now: i64) -> Level {
        Self::level_of(self.held(now), slots)
    }

    /// How long a request should wait for a slot; `None` when one is free now.
    pub fn refusal(&self, slots: u32, now: i64) -> Option<Wait> {
        Self::refusal_of(self.held(now), slots)
    }

    /// Takes a slot until `until`, whether one is free or not.
    pub fn charge(&mut self, permit: PermitId, until: i64, now: i64) {
        self.0.insert(permit, (), until, now);
    }

    /// Frees the permit's slot, if it holds one.
    pub fn free(&mut self, permit: PermitId) {
        self.0.remove(permit);
    }

    /// When to look again whether all are free, in microseconds since the epoch.
    pub fn rests_at(&self) -> i64 {
        self.0.earliest()
    }

    /// Whether all are free.
    pub fn is_at_rest(&self, now: i64) -> bool {
        self.0.live(now) == 0
    }
}

/// What permits hold until they are settled or expire.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held<V> {
    by: BTreeMap<PermitId, (i64, V)>,
    /// No later than the earliest expiry; lets most calls skip the search for what has expired.
    earliest: i64,
}

impl<V> Default for Held<V> {
    fn default() -> Self {
        Self { by: BTreeMap::new(), earliest: i64::MAX }
    }
}

impl<V> Held<V> {
    pub(super) fn insert(&mut self, permit: PermitId, value: V, until: i64, now: i64) {
        self.purge(now);
        self.by.insert(permit, (until, value));
        self.earliest = self.earliest.min(until);
    }

    pub(super) fn get(&self, permit: PermitId, now: i64) -> Option<&V> {
        self.by.get(&permit).filter(|(until, _)| *until > now).map(|(_, value)| value)
    }

    /// What the permit held, with its expiry.
    pub(super) fn remove(&mut self, permit: PermitId) -> Option<(i64, V)> {
        self.by.remove(&permit)
    }

    /// How many have not expired.
    pub(super) fn live(&self, now: i64) -> usize {
        if now < self.earliest {
            self.by.len()
        } else {
            self.by.values().filter(|(until, _)| *until > now).count()
        }
    }

    pub(super) fn earliest(&self) -> i64 {
        self.earliest
    }

    fn purge(&mut self, now: i64) {
        if now < self.earliest {
            return;
        }
        self.by.retain(|_, (until, _)| *until > now);
        self.earliest = self.by.values().map(|(until, _)| *until).min().unwrap_or(i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000_000;

    #[test]
    fn as_many_as_there_are_slots_and_a_freed_one_is_free() {
        let mut slots = Slots::default();
        for id in 0..3_u128 {
            assert_eq!(slots.refusal(3, NOW), None);
            slots.charge(PermitId(id), NOW + 10, NOW);
        }
        assert_eq!(slots.refusal(3, NOW), Some(Wait::For(SLOT_RETRY)));
        slots.free(PermitId(1));
        slots.free(PermitId(1));
        slots.free(PermitId(77));
        assert_eq!(slots.level(3, NOW).used, 2);
        assert_eq!(slots.refusal(3, NOW), None);
    }

    #[test]
    fn an_expired_slot_is_free() {
        let mut slots = Slots::default();
        slots.charge(PermitId(1), NOW + 10, NOW);
        slots.charge(PermitId(2), NOW + 20, NOW);
        assert_eq!(slots.level(2, NOW + 9).used, 2);
        assert_eq!(slots.level(2, NOW + 10).used, 1);
        slots.charge(PermitId(3), NOW + 40, NOW + 20);
        assert_eq!(slots.level(2, NOW + 20).used, 1);
        assert!(!slots.is_at_rest(NOW + 39));
        assert!(slots.is_at_rest(NOW + 40));
    }

    #[test]
    fn an_edit_keeps_what_is_held() {
        let mut slots = Slots::default();
        for id in 0..4_u128 {
            slots.charge(PermitId(id), NOW + 10, NOW);
        }
        for (size, remaining) in [(4, 0), (6, 2), (2, 0)] {
            let level = slots.level(size, NOW);
            assert_eq!((level.used, level.remaining), (4, remaining));
        }
    }
}
