//! The backoffs that one upstream asked for: whose requests it is not sent, and until when.
//!
//! Invariants: of two that it asked for, the one that ends later holds; a bounded number is kept, and those that are over
//! are forgotten within the second. Runtime state, known by the upstream's id: a publish changes none of it.

use crate::report::BackoffGauge;
use model::id::TenantId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// Tenants that are held back from one upstream at once. One more is not: its requests go on, and the upstream answers
/// them itself.
const TENANTS_MAX: usize = 4096;

/// The backoffs of one upstream.
pub struct Backoffs {
    /// How many there are. Requests look no further where it is none.
    count: AtomicUsize,
    entries: RwLock<Entries>,
    gauge: BackoffGauge,
}

/// Whose requests are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose<'a> {
    /// Those of all tenants.
    Everybody,
    /// Those of one.
    Tenant(&'a TenantId),
}

#[derive(Default)]
struct Entries {
    everybody: Option<Asked>,
    tenants: HashMap<TenantId, Asked>,
}

/// From when until when, in microseconds since the epoch.
#[derive(Clone, Copy)]
struct Asked {
    since: i64,
    until: i64,
}

impl Backoffs {
    /// None yet.
    pub fn new(gauge: BackoffGauge) -> Self {
        Self { count: AtomicUsize::new(0), entries: RwLock::default(), gauge }
    }

    /// Whether it asked for none.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// It asks for one of so many microseconds.
    pub(super) fn ask(&self, whose: Whose<'_>, wait: i64, now: i64) {
        if wait <= 0 {
            return;
        }
        let asked = Asked { since: now, until: now.saturating_add(wait) };
        let mut entries = self.writing();
        match whose {
            Whose::Everybody => {
                let known = entries.everybody.get_or_insert(asked);
                *known = known.or_later(asked);
            }
            Whose::Tenant(tenant) => entries.ask(tenant, asked, now),
        }
        self.show(&entries);
    }

    /// How many microseconds are left of the one for these, which lasts no longer than `max`; none where they may go.
    pub(super) fn left(&self, whose: Whose<'_>, max: i64, now: i64) -> Option<i64> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let asked = match whose {
            Whose::Everybody => entries.everybody?,
            Whose::Tenant(tenant) => *entries.tenants.get(tenant)?,
        };
        // A document may say less by now than when it was asked for; and a clock may have been set back.
        let until = asked.until.min(asked.since.saturating_add(max));
        Some(until.saturating_sub(now).min(max)).filter(|left| *left > 0)
    }

    /// Forgets those that are over.
    pub fn sweep(&self, now: i64) {
        if !self.is_empty() {
            let mut entries = self.writing();
            entries.forget(now);
            self.show(&entries);
        }
    }

    fn show(&self, entries: &Entries) {
        let count = entries.tenants.len() + usize::from(entries.everybody.is_some());
        self.count.store(count, Ordering::Release);
        self.gauge.show(count);
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backoffs {
    fn drop(&mut self) {
        self.gauge.show(0);
    }
}

impl Entries {
    fn ask(&mut self, tenant: &TenantId, asked: Asked, now: i64) {
        if let Some(known) = self.tenants.get_mut(tenant) {
            *known = known.or_later(asked);
            return;
        }
        if self.tenants.len() >= TENANTS_MAX {
            self.forget(now);
        }
        if self.tenants.len() < TENANTS_MAX {
            self.tenants.insert(tenant.clone(), asked);
        }
    }

    fn forget(&mut self, now: i64) {
        self.everybody = self.everybody.filter(|asked| asked.until > now);
        self.tenants.retain(|_, asked| asked.until > now);
    }
}

impl Asked {
    fn or_later(self, other: Self) -> Self {
        if other.until > self.until { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::backoffs;
    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_795_219_200 * SECOND;

    #[test]
    fn a_backoff_holds_back_whom_it_was_asked_for_until_it_is_over() {
        let (acme, globex) = ("acme".into(), "globex".into());
        let asked = backoffs();
        assert!(asked.is_empty());
        asked.ask(Whose::Tenant(&acme), 3 * SECOND, NOW);
        let left = |whose, at: i64| asked.left(whose, 60 * SECOND, NOW + at);
        for (whose, at, expected) in [
            (Whose::Tenant(&acme), 0, Some(3 * SECOND)),
            (Whose::Tenant(&acme), 3 * SECOND - 1, Some(1)),
            (Whose::Tenant(&acme), 3 * SECOND, None),
            (Whose::Tenant(&globex), 0, None),
            (Whose::Everybody, 0, None),
        ] {
            assert_eq!(left(whose, at), expected, "{whose:?} {at}");
        }
        asked.ask(Whose::Everybody, SECOND, NOW);
        assert_eq!(left(Whose::Everybody, 0), Some(SECOND));
    }

    #[test]
    fn the_later_end_holds_whatever_comes_after_it() {
        let asked = backoffs();
        for (wait, at, end) in
            [(5, 0, 5), (1, 1, 5), (0, 1, 5), (9, 2, 11), (2, 3, 11), (1, 12, 13)]
        {
            asked.ask(Whose::Everybody, wait * SECOND, NOW + at * SECOND);
            let left = asked.left(Whose::Everybody, 60 * SECOND, NOW + at * SECOND);
            assert_eq!(left, Some((end - at) * SECOND), "{wait} at {at}");
        }
    }

    #[test]
    fn a_document_that_says_less_and_a_clock_set_back_prolong_nothing() {
        let asked = backoffs();
        asked.ask(Whose::Everybody, 60 * SECOND, NOW);
        for (max, at, left) in
            [(60, 0, Some(60)), (10, 4, Some(6)), (10, 10, None), (60, -100, Some(60))]
        {
            let seen = asked.left(Whose::Everybody, max * SECOND, NOW + at * SECOND);
            assert_eq!(seen, left.map(|left| left * SECOND), "{max} at {at}");
        }
    }

    #[test]
    fn what_is_over_is_forgotten_and_what_there_is_room_for_is_bounded() {
        let asked = backoffs();
        let tenant = |id: usize| TenantId::from(format!("t{id}").as_str());
        for id in 0..TENANTS_MAX + 10 {
            asked.ask(Whose::Tenant(&tenant(id)), SECOND, NOW);
        }
        asked.ask(Whose::Everybody, 2 * SECOND, NOW);
        let count = || asked.count.load(Ordering::Acquire);
        assert_eq!(count(), TENANTS_MAX + 1);
        assert_eq!(asked.left(Whose::Tenant(&tenant(TENANTS_MAX)), SECOND, NOW), None);
        // Room is made for whoever comes when others are over.
        let late = tenant(TENANTS_MAX);
        asked.ask(Whose::Tenant(&late), SECOND, NOW + SECOND);
        assert!(asked.left(Whose::Tenant(&late), SECOND, NOW + SECOND).is_some());
        assert_eq!(count(), 2);
        asked.sweep(NOW + 2 * SECOND - 1);
        assert_eq!(count(), 2);
        asked.sweep(NOW + 2 * SECOND);
        assert!(asked.is_empty());
    }
}
