//! How a version of a pack fares on this node: its faults of late, and whether it was stopped for them.
//!
//! Invariant: counting takes no lock. A version is stopped once; whoever stopped it says so to those who publish.

use crate::report::RolloutMetrics;
use model::FailureReason;
use model::document::QuarantineAfter;
use model::id::AttachmentId;
use model::units;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Parts in which a window is counted: what is older than a window by less than one of them may be forgotten already.
const SLOTS: usize = 32;
/// Bits of a slot that count; the rest says which part of time it counts.
const COUNT_BITS: u32 = 24;

/// A version of a pack as one attachment sees it. Attachments with the same rule count together.
pub struct VersionHealth {
    switch: Arc<Switch>,
    faults: Arc<Faults>,
    after: QuarantineAfter,
}

/// Whether a version may decide on this node: at all, or as a candidate at one attachment.
pub(super) struct Switch {
    /// `name@version`.
    version: Arc<str>,
    /// Where it is a candidate.
    attachment: Option<AttachmentId>,
    is_off: AtomicBool,
    alarm: Arc<Alarm>,
}

/// Versions that were stopped on this node, and that no document in force has marked yet: as many as there are versions, at
/// most.
pub(super) struct Alarm {
    stopped: Mutex<Vec<Stopped>>,
    raised: Notify,
    metrics: RolloutMetrics,
}

/// A version that was stopped on this node; it stays stopped while this is held.
struct Stopped {
    switch: Arc<Switch>,
    reason: Arc<str>,
}

/// A version that this node stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoppedHere {
    /// `name@version`.
    pub version: Arc<str>,
    /// Where it is stopped as a candidate; everywhere when none.
    pub attachment: Option<AttachmentId>,
    /// Why, for people.
    pub reason: Arc<str>,
}

impl VersionHealth {
    pub(super) fn new(switch: Arc<Switch>, faults: Arc<Faults>, after: QuarantineAfter) -> Self {
        Self { switch, faults, after }
    }

    /// Whether it must not decide on this node any more.
    pub fn is_quarantined(&self) -> bool {
        self.switch.is_off()
    }

    /// It failed. What is its own fault is counted, and stops it when there were too many of late. `now`: microseconds
    /// since the Unix epoch.
    pub fn failed(&self, reason: FailureReason, now: i64) {
        if !reason.is_fault() {
            return;
        }
        if self.faults.add(now) >= u64::from(self.after.faults) && !self.is_quarantined() {
            let QuarantineAfter { faults, window } = self.after;
            let count = if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") };
            let last = reason.as_str();
            self.switch.stop(format!("{count} within {window} on one node, the last one: {last}"));
        }
    }
}

impl Switch {
    pub(super) fn new(version: &str, attachment: Option<AttachmentId>, alarm: Arc<Alarm>) -> Self {
        Self { version: version.into(), attachment, is_off: AtomicBool::new(false), alarm }
    }

    /// What it is known by, here and in what a document lets decide.
    pub(super) fn key(version: &str, attachment: Option<&AttachmentId>) -> String {
        match attachment {
            Some(attachment) => format!("{attachment} {version}"),
            None => version.to_owned(),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Stops it on this node, and tells those who publish; nothing when it is stopped already.
    pub(super) fn stop(self: &Arc<Self>, reason: String) {
        if !self.is_off.swap(true, Ordering::AcqRel) {
            self.alarm.raise(self.clone(), reason);
        }
    }
}

impl Alarm {
    pub(super) fn new(metrics: RolloutMetrics) -> Self {
        Self { stopped: Mutex::default(), raised: Notify::new(), metrics }
    }

    fn raise(&self, switch: Arc<Switch>, reason: String) {
        let Switch { version, attachment, .. } = &*switch;
        self.metrics.quarantined(version.split_once('@').map_or("", |(pack, _)| pack));
        let attachment = attachment.as_ref().map_or("", |id| id.as_str());
        tracing::error!(
            version = &**version,
            attachment,
            reason,
            "a pack was stopped on this node"
        );
        let mut stopped = self.list();
        stopped.push(Stopped { switch, reason: reason.into() });
        self.metrics.stopped(stopped.len());
        self.raised.notify_one();
    }

    /// Waits until a version is stopped.
    pub(super) async fn raised(&self) {
        self.raised.notified().await;
    }

    /// Those that are stopped.
    pub(super) fn stopped(&self) -> Vec<StoppedHere> {
        let here = |stopped: &Stopped| StoppedHere {
            version: stopped.switch.version.clone(),
            attachment: stopped.switch.attachment.clone(),
            reason: stopped.reason.clone(),
        };
        self.list().iter().map(here).collect()
    }

    /// Lets go of those that may not decide anyway; says which, by their keys.
    pub(super) fn settle(&self, may_decide: impl Fn(&str) -> bool) -> Vec<String> {
        let mut stopped = self.list();
        let key =
            |Switch { version, attachment, .. }: &Switch| Switch::key(version, attachment.as_ref());
        let settled = stopped.extract_if(.., |stopped| !may_decide(&key(&stopped.switch)));
        let settled = settled.map(|stopped| key(&stopped.switch)).collect();
        self.metrics.stopped(stopped.len());
        settled
    }

    fn list(&self) -> MutexGuard<'_, Vec<Stopped>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

    /// Counts one, and says how many there were within the window.
    fn add(&self, now: i64) -> u64 {
        let part = u64::try_from(now).unwrap_or_default() / self.part;
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
        // Another thread may be a part ahead; what is a window ahead is of before the clock was set back.
        let near = part.saturating_sub(SLOTS as u64 - 1)..part + SLOTS as u64;
        let slots = self.slots.iter().map(|slot| slot.load(Ordering::Acquire));
        slots.filter(|slot| near.contains(&(slot >> COUNT_BITS))).map(counted).sum()
    }
}

const fn counted(slot: u64) -> u64 {
    slot & ((1 << COUNT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Metrics;
    use std::thread;
    use std::time::Duration;

    /// 2026-11-21T09:00:00Z, in microseconds.
    const NOW: i64 = 1_795_251_600_000_000;
    const SECOND: i64 = 1_000_000;

    fn health(faults: u32, window: u64) -> (VersionHealth, Arc<Alarm>) {
        let alarm = Arc::new(Alarm::new(Metrics::new("test").unwrap().rollouts().clone()));
        let switch = Arc::new(Switch::new("p@1.0.0", None, alarm.clone()));
        let window = units::Duration(Duration::from_secs(window));
        let after = QuarantineAfter { faults, window };
        (VersionHealth::new(switch, Arc::new(Faults::new(window)), after), alarm)
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
            let (health, alarm) = health(5, 30);
            for (index, time) in times.iter().enumerate() {
                assert!(!health.is_quarantined(), "{times:?} at {index}");
                health.failed(FailureReason::Trap, NOW + time * SECOND);
            }
            assert_eq!(health.is_quarantined(), stops, "{times:?}");
            assert_eq!(alarm.stopped().len(), usize::from(stops));
        }
    }

    #[test]
    fn only_a_packs_own_faults_count() {
        let (health, _) = health(1, 30);
        for reason in FailureReason::ALL.iter().filter(|reason| !reason.is_fault()) {
            health.failed(*reason, NOW);
        }
        assert!(!health.is_quarantined());
        health.failed(FailureReason::Fuel, NOW);
        assert!(health.is_quarantined());
    }

    #[test]
    fn faults_at_the_same_time_are_all_counted_and_stop_it_once() {
        for _ in 0..50 {
            let (health, alarm) = health(4_000, 30);
            thread::scope(|scope| {
                for thread in 0..4 {
                    let health = &health;
                    scope.spawn(move || {
                        for fault in 0..1_000 {
                            health.failed(FailureReason::Trap, NOW + thread * SECOND + fault);
                        }
                    });
                }
            });
            let stopped = alarm.stopped();
            assert_eq!(stopped.len(), 1);
            let reason = "4000 faults within 30s on one node, the last one: trap";
            assert_eq!((&*stopped[0].version, &*stopped[0].reason), ("p@1.0.0", reason));
        }
    }

    #[test]
    fn the_longest_window_and_the_most_faults_are_counted_exactly() {
        let faults = Faults::new(units::Duration(Duration::from_secs(24 * 60 * 60)));
        for fault in 1..=1_000_000 {
            assert_eq!(faults.add(NOW), fault);
        }
        assert_eq!(faults.add(NOW + 23 * 3600 * SECOND), 1_000_001);
        assert_eq!(faults.add(NOW + 24 * 3600 * SECOND), 2);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_and_what_may_not_decide_anyway_is_let_go() {
        let (health, alarm) = health(1, 30);
        health.failed(FailureReason::Trap, NOW);
        alarm.raised().await;
        assert!(alarm.settle(|_| true).is_empty());
        assert_eq!(alarm.stopped().len(), 1);
        assert_eq!(alarm.settle(|version| version != "p@1.0.0"), ["p@1.0.0"]);
        assert!(alarm.stopped().is_empty());
        // Who holds it still sees it stopped.
        assert!(health.is_quarantined());
    }
}
