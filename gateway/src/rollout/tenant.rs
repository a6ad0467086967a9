//! What packs use at this moment, per attachment and per tenant: decisions in progress, CPU time, counters.
//!
//! Invariant: no call takes a lock, but for the first count of a tenant in a pack. A [`Place`] is given back however the call
//! ends.

use arc_swap::ArcSwap;
use model::document::PackCaps;
use model::id::PackId;
use pack_host::{Counters, LogGate};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// A second in nanoseconds: the burst of CPU time, and what `cpu_per_second` is per.
const SECOND: u64 = 1_000_000_000;
/// How far a bucket may be overdrawn, in nanoseconds of waiting. Where it says more, the clock went back.
const OVERDRAFT_MAX: u64 = 60 * SECOND;
/// Sets of counters on a node, one for each pack and tenant.
const COUNTERS_MAX: usize = 4096;

/// A tenant's use of packs, under the caps of its plan in one snapshot. The use itself outlives snapshots.
pub struct TenantUse {
    state: Arc<TenantState>,
    /// CPU time in each second, in nanoseconds.
    cpu_per_second: u64,
    instances: u32,
}

/// What a tenant's packs use, and what they count.
#[derive(Default)]
pub(super) struct TenantState {
    in_progress: AtomicU32,
    /// When everything that was used will have been paid for (GCRA), in nanoseconds since the Unix epoch.
    paid_at: AtomicU64,
    counters: ArcSwap<Vec<(PackId, Arc<Counters>)>>,
    sets: Arc<CounterSets>,
}

/// Every set of counters on this node.
#[derive(Default)]
pub(super) struct CounterSets {
    sets: Mutex<Vec<(PackId, Weak<Counters>)>>,
    /// There was no room for one; nobody asks again until somebody looked.
    is_full: AtomicBool,
}

/// An attachment's decisions in progress and its log.
pub struct AttachmentUse {
    state: Arc<AttachmentState>,
    instances: u32,
}

/// What an attachment's decisions share.
#[derive(Default)]
pub(super) struct AttachmentState {
    in_progress: AtomicU32,
    log: Arc<LogGate>,
}

/// One decision in progress, until it is dropped.
#[must_use = "a place is held for as long as the call takes"]
pub struct Place<'a>(&'a AtomicU32);

impl TenantUse {
    pub(super) fn new(state: Arc<TenantState>, caps: &PackCaps) -> Self {
        let cpu = u64::try_from(caps.cpu_per_second.0.as_nanos()).unwrap_or(u64::MAX);
        Self { state, cpu_per_second: cpu.max(1), instances: caps.instances }
    }

    /// A place for one call; none when all are taken.
    pub fn enter(&self) -> Option<Place<'_>> {
        Place::take(&self.state.in_progress, self.instances)
    }

    /// Whether the tenant's packs have used a second's worth of CPU time beyond what was given. `now`: microseconds since the
    /// Unix epoch.
    pub fn is_spent(&self, now: i64) -> bool {
        let now = nanos(now);
        let paid_at = self.state.paid_at.load(Ordering::Relaxed);
        (now.saturating_add(SECOND)..=now.saturating_add(OVERDRAFT_MAX)).contains(&paid_at)
    }

    /// Charges CPU time that was used. `now`: microseconds since the Unix epoch.
    pub fn charge(&self, cpu: Duration, now: i64) {
        let now = nanos(now);
        let waits = cpu.as_nanos().saturating_mul(SECOND.into()) / u128::from(self.cpu_per_second);
        let waits = u64::try_from(waits).unwrap_or(u64::MAX);
        let most = now.saturating_add(OVERDRAFT_MAX);
        let paid_at = |before: u64| {
            let before = if before > most { now } else { before.max(now) };
            Some(before.saturating_add(waits).min(most))
        };
        // Never refused: there is always a next state.
        let _ = self.state.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid_at);
    }

    /// This tenant's counters of a pack. They live as long as the tenant does. Beyond 4,096 sets on the node, one that has
    /// no room.
    pub fn counters(&self, pack: &PackId) -> Arc<Counters> {
        let sets = &self.state.counters;
        let of = |sets: &[(PackId, Arc<Counters>)]| {
            sets.iter().find(|(known, _)| known == pack).map(|(_, counters)| counters.clone())
        };
        if let Some(known) = of(&sets.load()) {
            return known;
        }
        let Some(fresh) = self.state.sets.place(pack) else { return Arc::new(Counters::full()) };
        sets.rcu(|sets| match of(sets) {
            // Somebody else was first.
            Some(_) => sets.clone(),
            None => Arc::new(sets.iter().cloned().chain([(pack.clone(), fresh.clone())]).collect()),
        });
        of(&sets.load()).unwrap_or(fresh)
    }
}

impl TenantState {
    pub(super) fn new(sets: Arc<CounterSets>) -> Self {
        Self { sets, ..Self::default() }
    }

    /// Forgets the counters of other packs.
    pub(super) fn keep_counters(&self, of: impl Fn(&PackId) -> bool) {
        if self.counters.load().iter().any(|(pack, _)| !of(pack)) {
            let kept = |sets: &Arc<Vec<_>>| {
                let kept = sets.iter().filter(|(pack, _)| of(pack)).cloned();
                kept.collect::<Vec<(PackId, Arc<Counters>)>>()
            };
            self.counters.rcu(kept);
        }
    }
}

impl CounterSets {
    /// A set that is new, if there is room.
    fn place(&self, pack: &PackId) -> Option<Arc<Counters>> {
        if self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= COUNTERS_MAX {
            self.is_full.store(true, Ordering::Relaxed);
            return None;
        }
        let fresh = Arc::default();
        sets.push((pack.clone(), Arc::downgrade(&fresh)));
        Some(fresh)
    }

    /// Those that are in use.
    pub(super) fn in_use(&self) -> Vec<(PackId, Arc<Counters>)> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|(_, counters)| counters.strong_count() > 0);
        self.is_full.store(sets.len() >= COUNTERS_MAX, Ordering::Relaxed);
        sets.iter().filter_map(|(pack, set)| Some((pack.clone(), set.upgrade()?))).collect()
    }
}

impl AttachmentUse {
    pub(super) fn new(state: Arc<AttachmentState>, instances: u32) -> Self {
        Self { state, instances }
    }

    /// A place for one call; none when all are taken.
    pub fn enter(&self) -> Option<Place<'_>> {
        Place::take(&self.state.in_progress, self.instances)
    }

    /// Where its packs' lines pass.
    pub fn log(&self) -> &Arc<LogGate> {
        &self.state.log
    }
}

impl<'a> Place<'a> {
    fn take(in_progress: &'a AtomicU32, most: u32) -> Option<Self> {
        // Given back where it is one too many.
        let place = Self(in_progress);
        (in_progress.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn nanos(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::units;
    use std::sync::Barrier;
    use std::thread;

    /// 2026-11-21T09:00:00Z, in microseconds.
    const NOW: i64 = 1_795_251_600_000_000;

    fn tenant(cpu: Duration, instances: u32) -> TenantUse {
        let caps =
            PackCaps { cpu_per_second: units::Duration(cpu), instances, ..PackCaps::default() };
        TenantUse::new(Arc::default(), &caps)
    }

    #[test]
    fn a_tenant_has_a_seconds_worth_at_once_and_then_what_each_moment_gives() {
        let tenant = tenant(Duration::from_millis(100), 1);
        assert!(!tenant.is_spent(NOW));
        tenant.charge(Duration::from_millis(99), NOW);
        assert!(!tenant.is_spent(NOW));
        // The last call may go beyond.
        tenant.charge(Duration::from_millis(11), NOW);
        assert!(tenant.is_spent(NOW));
        assert!(tenant.is_spent(NOW + 99_999));
        assert!(!tenant.is_spent(NOW + 100_001));
        // What was idle for long has no more than a second's worth.
        let later = NOW + 3_600_000_000;
        tenant.charge(Duration::from_millis(100), later);
        assert!(tenant.is_spent(later));
    }

    #[test]
    fn calls_too_short_for_a_microsecond_are_charged_all_the_same() {
        let tenant = tenant(Duration::from_millis(1), 1);
        for _ in 0..10_000 {
            assert!(!tenant.is_spent(NOW));
            tenant.charge(Duration::from_nanos(100), NOW);
        }
        assert!(tenant.is_spent(NOW));
    }

    #[test]
    fn a_clock_that_was_set_back_or_a_call_that_took_forever_spends_no_more_than_a_minute() {
        let tenant = tenant(Duration::from_millis(1), 1);
        tenant.charge(Duration::from_secs(3_600), NOW);
        assert!(tenant.is_spent(NOW + 58_000_000));
        assert!(!tenant.is_spent(NOW + 59_000_001));
        tenant.charge(Duration::from_secs(3_600), NOW);
        assert!(!tenant.is_spent(NOW - 3_600_000_000));
        tenant.charge(Duration::from_micros(10), NOW - 3_600_000_000);
        assert!(!tenant.is_spent(NOW - 3_600_000_000), "it was charged from then on");
    }

    #[test]
    fn what_many_threads_charge_is_charged_whole() {
        let tenant = tenant(Duration::from_secs(1), 1);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        tenant.charge(Duration::from_micros(250), NOW);
                    }
                });
            }
        });
        assert_eq!(tenant.state.paid_at.load(Ordering::Relaxed), nanos(NOW) + SECOND);
    }

    #[test]
    fn never_more_are_in_progress_than_there_are_places_and_each_is_given_back() {
        let tenant = tenant(Duration::from_secs(1), 3);
        let barrier = Barrier::new(8);
        let most = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..10_000 {
                        if let Some(place) = tenant.enter() {
                            let now = most.fetch_add(1, Ordering::AcqRel);
                            assert!(now < 3, "{now}");
                            most.fetch_sub(1, Ordering::AcqRel);
                            drop(place);
                        }
                    }
                });
            }
        });
        assert_eq!(tenant.state.in_progress.load(Ordering::Acquire), 0);
        let places: Vec<_> = std::iter::from_fn(|| tenant.enter()).collect();
        assert_eq!(places.len(), 3);
        let broke = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _places = places;
            panic!("in the middle of a call");
        }));
        assert!(broke.is_err() && tenant.enter().is_some());
    }

    #[test]
    fn two_revisions_share_one_use_under_caps_of_their_own() {
        let state = Arc::<AttachmentState>::default();
        let (old, new) = (AttachmentUse::new(state.clone(), 2), AttachmentUse::new(state, 1));
        let held = old.enter().unwrap();
        assert!(new.enter().is_none() && old.enter().is_some());
        drop(held);
        assert!(new.enter().is_some());
    }

    #[test]
    fn a_tenants_counters_are_the_same_for_all_who_ask_and_bounded_on_the_node() {
        let sets = Arc::<CounterSets>::default();
        let of = |_| TenantUse::new(Arc::new(TenantState::new(sets.clone())), &PackCaps::default());
        let tenants: Vec<_> = (0..COUNTERS_MAX / 2).map(of).collect();
        let packs = [PackId::from("a"), PackId::from("b")];
        for tenant in &tenants {
            let [a, b] = packs.each_ref().map(|pack| tenant.counters(pack));
            assert!(!Arc::ptr_eq(&a, &b));
            assert!(Arc::ptr_eq(&a, &tenant.counters(&packs[0])));
        }
        assert_eq!(sets.in_use().len(), COUNTERS_MAX);
        // What is counted beyond is nobody's.
        let late = of(0);
        let (one, other) = (late.counters(&packs[0]), late.counters(&packs[0]));
        assert!(!Arc::ptr_eq(&one, &other));
        drop(tenants);
        assert!(sets.in_use().is_empty());
        assert!(Arc::ptr_eq(&late.counters(&packs[0]), &late.counters(&packs[0])));
    }

    #[test]
    fn who_counts_first_at_the_same_time_counts_together() {
        let pack = PackId::from("a");
        for _ in 0..200 {
            let tenant = tenant(Duration::from_secs(1), 1);
            let all = thread::scope(|scope| {
                let ask = || scope.spawn(|| tenant.counters(&pack));
                let asked = [ask(), ask(), ask()];
                asked.map(|asked| asked.join().unwrap())
            });
            assert!(all.iter().all(|counters| Arc::ptr_eq(counters, &all[0])));
        }
    }
}
