//! How a version of a pack fares at one attachment: its faults of late, whose they were, and whether it was stopped for them.
//!
//! Invariant: nobody's faults take away what decides for others. At an attachment of one tenant a version is stopped there
//! alone; at one of all tenants it is stopped everywhere when it fails for whoever asks, and for the one tenant for a while
//! when it decides for others. A call that goes well takes no lock.

use super::faults::Faults;
use super::switch::Switch;
use model::FailureReason;
use model::document::QuarantineAfter;
use model::id::TenantId;
use model::units;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tenants whose faults are counted apart; where there are more, the one that failed first is forgotten.
const TENANTS_MAX: usize = 64;
/// Microseconds.
const SECOND: i64 = 1_000_000;

/// A version of a pack at one attachment.
pub struct VersionHealth {
    /// Of the version.
    everywhere: Arc<Switch>,
    /// Of the version at this attachment.
    here: Arc<Switch>,
    record: Arc<Record>,
    /// The only tenant that it decides for; all of them when none.
    tenant: Option<TenantId>,
    after: QuarantineAfter,
}

/// What became of calls of late.
pub(super) struct Record {
    faults: Faults,
    window: units::Duration,
    /// The tenant for whom it decided last, and another one before: a hash of each, and the second.
    good: [AtomicU64; 2],
    failing: Mutex<Vec<Failing>>,
    /// Whether a tenant is held back.
    holds: AtomicBool,
}

/// A tenant for which it failed.
struct Failing {
    tenant: TenantId,
    faults: Faults,
    /// Until when it is not asked for this tenant, in microseconds since the Unix epoch.
    held_until: i64,
}

impl VersionHealth {
    pub(super) fn new(
        [everywhere, here]: [Arc<Switch>; 2],
        record: Arc<Record>,
        tenant: Option<TenantId>,
        after: QuarantineAfter,
    ) -> Self {
        Self { everywhere, here, record, tenant, after }
    }

    /// Whether it must not decide for this tenant now. `now`: microseconds since the Unix epoch.
    pub fn is_stopped_for(&self, tenant: &TenantId, now: i64) -> bool {
        self.is_stopped() || self.record.holds_back(tenant, now)
    }

    /// Whether it must not decide at this attachment any more.
    pub fn is_stopped(&self) -> bool {
        self.everywhere.is_off() || self.here.is_off()
    }

    /// It decided for this tenant.
    pub fn decided(&self, tenant: &TenantId, now: i64) {
        if self.tenant.is_none() {
            self.record.went_well(tenant, now);
        }
    }

    /// It failed for this tenant, by its own fault. Too many faults of late stop it.
    pub fn failed(&self, tenant: &TenantId, reason: FailureReason, now: i64) {
        if !reason.is_fault() || self.is_stopped() {
            return;
        }
        let QuarantineAfter { faults, window } = self.after;
        let most = u64::from(faults);
        let why = || {
            let count = if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") };
            format!("{count} within {window} on one node, the last one: {}", reason.as_str())
        };
        let all = self.record.faults.add(now);
        if self.tenant.is_some() {
            if all >= most {
                self.stop_here(why());
            }
            return;
        }
        let (own, others) = self.record.failed(tenant, all, now);
        if others >= most || (all >= most && !self.record.decides_for_others(tenant, now)) {
            self.stop_everywhere(why());
        } else if own >= most {
            tracing::warn!(
                tenant = tenant.as_str(),
                reason = why(),
                "a pack fails for one tenant, for whom it is not asked for a while"
            );
            self.record.hold_back(tenant, now);
        }
    }

    /// Stops it at this attachment.
    pub(super) fn stop_here(&self, why: String) {
        self.here.stop(why);
    }

    /// Stops it wherever it is attached.
    pub(super) fn stop_everywhere(&self, why: String) {
        self.everywhere.stop(why);
    }
}

impl Record {
    pub(super) fn new(window: units::Duration) -> Self {
        Self {
            faults: Faults::new(window),
            window,
            good: Default::default(),
            failing: Mutex::default(),
            holds: AtomicBool::new(false),
        }
    }

    fn went_well(&self, tenant: &TenantId, now: i64) {
        let [last, before] = &self.good;
        let (known, fresh) = (last.load(Ordering::Relaxed), mark(tenant, now));
        if known == fresh {
            return;
        }
        if hash_of(known) != hash_of(fresh) {
            before.store(known, Ordering::Relaxed);
        }
        last.store(fresh, Ordering::Relaxed);
    }

    /// Whether it decided for another tenant within the window.
    fn decides_for_others(&self, tenant: &TenantId, now: i64) -> bool {
        let own = hash_of(mark(tenant, now));
        let since = u64::try_from((now - self.micros()) / SECOND).unwrap_or_default();
        let marks = self.good.iter().map(|good| good.load(Ordering::Relaxed));
        marks.into_iter().any(|mark| mark >> 32 >= since && mark != 0 && hash_of(mark) != own)
    }

    /// Counts a fault of a tenant. How many it has had, and how many there were without those of whoever had most.
    fn failed(&self, tenant: &TenantId, all: u64, now: i64) -> (u64, u64) {
        let mut failing = self.failing();
        if !failing.iter().any(|known| known.tenant == *tenant) {
            if failing.len() >= TENANTS_MAX {
                failing.remove(0);
            }
            let faults = Faults::new(self.window);
            failing.push(Failing { tenant: tenant.clone(), faults, held_until: 0 });
        }
        let own = failing.iter().find(|known| known.tenant == *tenant);
        let own = own.map_or(0, |known| known.faults.add(now));
        let most = failing.iter().map(|known| known.faults.count(now)).max().unwrap_or_default();
        (own, all.saturating_sub(most))
    }

    fn hold_back(&self, tenant: &TenantId, now: i64) {
        let mut failing = self.failing();
        if let Some(known) = failing.iter_mut().find(|known| known.tenant == *tenant) {
            known.held_until = now.saturating_add(self.micros());
            self.holds.store(true, Ordering::Release);
        }
    }

    fn holds_back(&self, tenant: &TenantId, now: i64) -> bool {
        if !self.holds.load(Ordering::Acquire) {
            return false;
        }
        let failing = self.failing();
        // Where it says more than a window, the clock was set back.
        let held = now + 1..=now.saturating_add(self.micros());
        let is_held = |known: &Failing| held.contains(&known.held_until);
        if !failing.iter().any(is_held) {
            self.holds.store(false, Ordering::Release);
        }
        failing.iter().any(|known| known.tenant == *tenant && is_held(known))
    }

    fn micros(&self) -> i64 {
        i64::try_from(self.window.0.as_micros()).unwrap_or(i64::MAX)
    }

    fn failing(&self) -> MutexGuard<'_, Vec<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The second and a hash of the tenant (FNV-1a), in one word.
fn mark(tenant: &TenantId, now: i64) -> u64 {
    let hash = tenant
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::try_from(now / SECOND).unwrap_or_default() << 32 | u64::from(hash)
}

const fn hash_of(mark: u64) -> u64 {
    mark & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::super::switch::Alarm;
    use super::*;
    use crate::report::Metrics;
    use std::thread;
    use std::time::Duration;

    /// 2026-11-21T09:00:00Z, in microseconds.
    const NOW: i64 = 1_795_251_600_000_000;

    /// At an attachment `a`, of this tenant or of all.
    fn health(faults: u32, window: u64, tenant: Option<&str>) -> (VersionHealth, Arc<Alarm>) {
        let alarm = Arc::new(Alarm::new(Metrics::new("test").unwrap().rollouts().clone()));
        let switch =
            |at: Option<&str>| Arc::new(Switch::new("p@1.0.0", at.map(Into::into), alarm.clone()));
        let window = units::Duration(Duration::from_secs(window));
        let record = Arc::new(Record::new(window));
        let after = QuarantineAfter { faults, window };
        let switches = [switch(None), switch(Some("a"))];
        (VersionHealth::new(switches, record, tenant.map(Into::into), after), alarm)
    }

    fn fails(health: &VersionHealth, tenant: &str, seconds: i64) {
        health.failed(&tenant.into(), FailureReason::Trap, NOW + seconds * SECOND);
    }

    fn decides(health: &VersionHealth, tenant: &str, seconds: i64) {
        health.decided(&tenant.into(), NOW + seconds * SECOND);
    }

    #[test]
    fn so_many_faults_in_a_window_stop_a_version() {
        // When each fault comes, in seconds, and whether the last of them stops it.
        for (times, stops) in [
            (&[0, 0, 0, 0, 0][..], true),
            (&[0, 0, 0, 0], false),
            (&[0, 5, 10, 20, 28], true),
            (&[0, 5, 10, 20, 31], false),
            (&[0, 0, 0, 0, 3600, 3600, 3600, 3600], false),
            (&[0, 0, 0, 0, 3600, 3600, 3600, 3600, 3601], true),
            // The clock was set back: those of before are as old as they were.
            (&[100, 100, 100, 100, 0], false),
        ] {
            for tenant in [None, Some("acme")] {
                let (health, alarm) = health(5, 30, tenant);
                for (index, time) in times.iter().enumerate() {
                    assert!(!health.is_stopped(), "{times:?} at {index}");
                    fails(&health, "acme", *time);
                }
                assert_eq!(health.is_stopped(), stops, "{times:?}");
                let stopped = alarm.stopped();
                assert_eq!(stopped.len(), usize::from(stops));
                // Of one tenant's attachment nobody else hears.
                let at = stopped.first().and_then(|stopped| stopped.attachment.clone());
                assert_eq!(at.is_some(), stops && tenant.is_some());
            }
        }
    }

    #[test]
    fn one_tenants_faults_stop_what_decides_for_others_for_that_one_and_for_a_while() {
        let (health, alarm) = health(5, 30, None);
        decides(&health, "globex", 0);
        for _ in 0..100 {
            fails(&health, "acme", 1);
            decides(&health, "globex", 1);
        }
        let stopped = |tenant: &str, seconds: i64| {
            health.is_stopped_for(&tenant.into(), NOW + seconds * SECOND)
        };
        assert!(stopped("acme", 1) && !stopped("globex", 1) && !health.is_stopped());
        assert!(stopped("acme", 30) && !stopped("acme", 31));
        assert!(alarm.stopped().is_empty());
        // Nobody else was decided for of late: then it is the version.
        for _ in 0..5 {
            fails(&health, "acme", 100);
        }
        assert!(health.is_stopped());
    }

    #[test]
    fn faults_of_several_tenants_are_the_versions() {
        let (health, alarm) = health(5, 30, None);
        for tenant in ["acme", "initech", "acme", "hooli", "initech", "acme"] {
            fails(&health, tenant, 0);
            decides(&health, "globex", 0);
        }
        assert!(!health.is_stopped(), "three without those of acme");
        fails(&health, "hooli", 1);
        assert!(!health.is_stopped());
        fails(&health, "initech", 1);
        assert!(health.is_stopped());
        assert_eq!(alarm.stopped()[0].attachment, None);
    }

    #[test]
    fn only_a_packs_own_faults_count() {
        let (health, _) = health(1, 30, None);
        for reason in FailureReason::ALL.iter().filter(|reason| !reason.is_fault()) {
            health.failed(&"acme".into(), *reason, NOW);
        }
        assert!(!health.is_stopped());
        health.failed(&"acme".into(), FailureReason::Fuel, NOW);
        assert!(health.is_stopped());
    }

    #[test]
    fn faults_at_the_same_time_are_all_counted_and_stop_it_once() {
        for _ in 0..20 {
            let (health, alarm) = health(4_000, 30, Some("acme"));
            thread::scope(|scope| {
                for thread in 0..4 {
                    let health = &health;
                    scope.spawn(move || (0..1_000).for_each(|_| fails(health, "acme", thread)));
                }
            });
            let stopped = alarm.stopped();
            assert_eq!(stopped.len(), 1);
            let reason = "4000 faults within 30s on one node, the last one: trap";
            assert_eq!((&*stopped[0].version, &*stopped[0].reason), ("p@1.0.0", reason));
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_told_and_what_may_not_decide_anyway_is_let_go() {
        let (health, alarm) = health(1, 30, None);
        fails(&health, "acme", 0);
        alarm.raised().await;
        assert!(alarm.settle(|_| true).is_empty());
        assert_eq!(alarm.stopped().len(), 1);
        assert_eq!(alarm.settle(|version| version != "p@1.0.0"), ["p@1.0.0"]);
        assert!(alarm.stopped().is_empty());
        // Who holds it still sees it stopped.
        assert!(health.is_stopped());
    }
}
