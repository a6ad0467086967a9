//! What is seen of one candidate on this node: counted while it is asked, without a lock.
//!
//! Invariant: counts only grow, and outlive snapshots; a window is what came since another count was read.

use super::differences::Differences;
use super::health::VersionHealth;
use super::window::Progress;
use crate::report::RolloutMetrics;
use crate::trace::{Trace, fresh_id};
use jiff::Timestamp;
use model::document::{PhaseName, Rollout};
use model::id::{AttachmentId, PackId, RouteId, TenantId};
use model::rollout::{self, Difference, Durations, Outcome, Samples};
use model::{Clock, FailureReason, Identity};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Differences of one rollout that are kept in each second: all of them are counted, and people read few.
const KEPT_PER_SECOND: u64 = 100;
/// The longest text of a difference, in bytes; a pack says how much there is to tell.
const TEXT_MAX: usize = 512;
/// Bits that count them.
const KEPT_BITS: u32 = 8;

/// An open rollout as one snapshot has it.
pub struct Watch {
    /// Where the pack is attached.
    pub attachment: AttachmentId,
    /// The only tenant whose exchanges it decides; all of them when none.
    pub tenant: Option<TenantId>,
    /// The pack.
    pub pack: PackId,
    /// The running version, like `1.0.0`.
    pub running: String,
    /// The candidate's version.
    pub candidate: String,
    /// What was asked for.
    pub rollout: Rollout,
    /// Of the candidate.
    pub(super) health: Arc<VersionHealth>,
    pub(super) tally: Arc<Tally>,
    pub(super) differences: Differences,
    pub(super) metrics: RolloutMetrics,
    pub(super) clock: Clock,
}

/// What was counted of one candidate at one attachment, ever.
pub(super) struct Tally {
    calls: AtomicU64,
    faults: AtomicU64,
    compared: AtomicU64,
    differences: AtomicU64,
    durations: [AtomicU64; Durations::BUCKETS],
    /// The second in which differences were kept last, and how many in it.
    kept: AtomicU64,
    /// Where the rollout stands; who decides does not ask.
    progress: Mutex<Progress>,
}

/// What two versions said about one exchange in one phase.
pub struct Compared<'a> {
    /// When.
    pub at: Timestamp,
    /// Of which exchange.
    pub trace: &'a Trace,
    /// Who asked.
    pub identity: &'a Identity,
    /// On which route.
    pub route: &'a RouteId,
    /// When they spoke.
    pub phase: PhaseName,
    /// What the running version came to.
    pub running: &'a Outcome,
    /// What the candidate came to.
    pub candidate: &'a Outcome,
    /// Which of them acted.
    pub acted: Version,
}

/// One of the two versions of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that runs.
    Running,
    /// The one on its way.
    Candidate,
}

impl Version {
    /// The name as records write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Candidate => "candidate",
        }
    }
}

impl Watch {
    /// Whether the candidate is asked about this exchange. To be asked once for each: the candidate may be stopped on this
    /// node meanwhile.
    pub fn takes(&self, caller: &Identity, request_id: &str) -> bool {
        !self.health.is_stopped_for(&caller.tenant, self.clock.micros())
            && rollout::takes(&self.rollout, &self.attachment, caller, request_id)
    }

    /// The candidate was called.
    pub fn called(&self, took: Duration, failure: Option<FailureReason>) {
        let tally = &self.tally;
        // What could not be asked says nothing about the candidate.
        if failure.is_some_and(|reason| !reason.is_fault()) {
            return;
        }
        if failure.is_some() {
            tally.faults.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = tally.durations.get(Durations::bucket(took)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Last: whoever reads the calls first never sees more faults than calls.
        tally.calls.fetch_add(1, Ordering::Release);
    }

    /// Both versions came to an outcome: a difference is counted and kept. One that failed is kept too, for people; it is
    /// judged as a fault and not as a decision that differs.
    pub fn compared(&self, compared: &Compared<'_>) {
        let Compared { running, candidate, .. } = *compared;
        // What could not be asked can't be compared.
        if [running, candidate].into_iter().any(could_not_be_asked) {
            return;
        }
        let why = rollout::difference(running, candidate);
        let decided = [running, candidate].iter().all(|one| !matches!(one, Outcome::Failed(_)));
        if let Some(why) = why {
            if decided {
                self.tally.differences.fetch_add(1, Ordering::Relaxed);
            }
            self.metrics.differed(self.pack.as_str());
            if self.tally.keeps(compared.at) {
                self.differences.keep(self.progress().rollout_id(), self.difference(compared, why));
            } else {
                self.metrics.dropped();
            }
        }
        if decided {
            self.tally.compared.fetch_add(1, Ordering::Release);
        }
    }

    fn difference(&self, compared: &Compared<'_>, why: String) -> Difference {
        let Compared { at, trace, identity, route, phase, running, candidate, acted } = *compared;
        Difference {
            id: fresh_id(at).to_string(),
            at,
            attachment: self.attachment.clone(),
            pack: self.pack.clone(),
            running: self.running.clone(),
            candidate: self.candidate.clone(),
            request_id: trace.request_id.clone(),
            trace_id: trace.trace_id.clone(),
            tenant: identity.tenant.clone(),
            consumer: identity.consumer.clone(),
            route: route.clone(),
            phase: phase.as_str().to_owned(),
            running_decision: cut(rollout::summary(running)),
            candidate_decision: cut(rollout::summary(candidate)),
            why: cut(why),
            acted: acted.as_str().to_owned(),
        }
    }

    /// What was seen of the candidate on this node so far.
    pub(super) fn seen(&self) -> Samples {
        self.tally.seen()
    }

    /// Where the rollout stands on this node.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.tally.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    pub(super) fn new(now: Timestamp) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls: zero(),
            faults: zero(),
            compared: zero(),
            differences: zero(),
            durations: std::array::from_fn(|_| zero()),
            kept: zero(),
            progress: Mutex::new(Progress::new(now)),
        }
    }

    /// Whether another difference is kept in this second.
    fn keeps(&self, at: Timestamp) -> bool {
        let second = u64::try_from(at.as_second()).unwrap_or_default();
        let one_more = |kept: u64| match kept >> KEPT_BITS == second {
            true if kept & ((1 << KEPT_BITS) - 1) >= KEPT_PER_SECOND => None,
            true => Some(kept + 1),
            false => Some(second << KEPT_BITS | 1),
        };
        self.kept.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    fn seen(&self) -> Samples {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        // In the order that is the reverse of the counting, and no part above its whole.
        let (calls, compared) = (read(&self.calls), read(&self.compared));
        Samples {
            calls,
            compared,
            faults: read(&self.faults).min(calls),
            differences: read(&self.differences).min(compared),
            durations: Durations::counted(self.durations.iter().map(read)),
        }
    }
}

/// The text, or its beginning.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

fn could_not_be_asked(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(reason) if !reason.is_fault())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_many_threads_count_is_counted_whole_and_no_part_exceeds_it() {
        let tally = Tally::new(Timestamp::UNIX_EPOCH);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let counting: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for call in 0..20_000_u64 {
                            tally.faults.fetch_add(1, Ordering::Relaxed);
                            let bucket = Durations::bucket(Duration::from_micros(call % 100 + 1));
                            tally.durations[bucket].fetch_add(1, Ordering::Relaxed);
                            tally.calls.fetch_add(1, Ordering::Release);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    let seen = tally.seen();
                    assert!(seen.faults <= seen.calls && seen.differences <= seen.compared);
                }
            });
            for thread in counting {
                thread.join().unwrap();
            }
            is_over.store(true, Ordering::Release);
        });
        let seen = tally.seen();
        assert_eq!((seen.calls, seen.faults), (60_000, 60_000));
        let p99 = seen.durations.percentile(99).unwrap();
        assert!((99..110).contains(&p99.as_micros()), "{p99:?}");
    }

    #[test]
    fn a_text_of_any_length_is_kept_as_its_beginning() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("ä".repeat(60_000));
        assert!(long.len() <= TEXT_MAX + 3 && long.ends_with("ä…") && long.capacity() < 1_024);
    }

    #[test]
    fn so_many_differences_of_a_second_are_kept() {
        let tally = Tally::new(Timestamp::UNIX_EPOCH);
        let at = |second: i64| Timestamp::from_second(1_795_251_600 + second).unwrap();
        let kept = |second| (0..1_000).filter(|_| tally.keeps(at(second))).count() as u64;
        assert_eq!(
            [kept(0), kept(0), kept(1), kept(5)],
            [KEPT_PER_SECOND, 0, KEPT_PER_SECOND, KEPT_PER_SECOND]
        );
    }
}
