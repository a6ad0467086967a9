//! What is counted of packs. A version's counters are found when a snapshot is compiled, not when it decides.
//!
//! Invariant: versions that no snapshot runs any more keep their series for a while, and never more than
//! [`RETIRED_MAX`] of them: a deployment that ships every hour does not grow.

use super::{FINE_SECONDS, Made, Maker};
use crate::facts::PackFact;
use model::FailureReason;
use model::id::PackId;
use prometheus::{Histogram, IntCounter, IntCounterVec};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Series of versions that nobody runs any more.
const RETIRED_MAX: usize = 64;
/// What a version may be seen to say, as `tollgate_pack_decisions_total{decision}` tells.
const DECISIONS: [&str; 6] = ["continue", "edit", "deny", "answer", "cost", FAILED];
/// It could not decide.
const FAILED: &str = "failed";

/// The part that a version of a pack plays in an exchange, as `tollgate_pack_decisions_total{mode}` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The running version, and it acts.
    Enforce,
    /// The running version of an attachment that observes.
    Observe,
    /// A candidate that is only compared.
    Shadow,
    /// A candidate, and it acts.
    Canary,
    /// The running version, while the candidate acts.
    Baseline,
}

impl Part {
    /// The name used in metrics and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Baseline => "baseline",
        }
    }

    /// Whether what it says acts on the exchange.
    pub const fn acts(self) -> bool {
        match self {
            Self::Enforce | Self::Canary => true,
            Self::Observe | Self::Shadow | Self::Baseline => false,
        }
    }
}

/// One version of a pack in one part: its names, and where it is counted.
#[derive(Debug)]
pub struct Series {
    /// The pack.
    pub pack: PackId,
    /// Its version.
    pub version: Arc<str>,
    /// Its part.
    pub part: Part,
    decisions: [IntCounter; DECISIONS.len()],
    failures: [IntCounter; FailureReason::ALL.len()],
}

type Name = (PackId, Arc<str>, Part);

/// The metrics of packs.
pub(super) struct PackMetrics {
    decisions: IntCounterVec,
    failures: IntCounterVec,
    duration: Histogram,
    known: Mutex<HashMap<Name, Weak<Series>>>,
}

impl PackMetrics {
    pub(super) fn new(made: &Maker) -> Made<Self> {
        let decided = ["pack", "version", "mode", "decision"];
        let time = "Time of each decision of a pack.";
        Ok(Self {
            decisions: made.counters(
                "tollgate_pack_decisions_total",
                "Decisions of packs.",
                &decided,
            )?,
            failures: made.counters(
                "tollgate_pack_failures_total",
                "Packs that could not decide.",
                &["pack", "reason"],
            )?,
            duration: made.histogram("tollgate_pack_duration_seconds", time, FINE_SECONDS)?,
            known: Mutex::default(),
        })
    }

    /// The counters of a version in this part. The same for as long as anybody holds them.
    pub(super) fn series(&self, pack: &PackId, version: &Arc<str>, part: Part) -> Arc<Series> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (pack.clone(), version.clone(), part);
        if let Some(series) = known.get(&name).and_then(Weak::upgrade) {
            return series;
        }
        self.retire(&mut known);
        let decisions =
            DECISIONS.map(|decision| self.decisions.with_label_values(&label(&name, decision)));
        let mut reasons = FailureReason::ALL.iter().map(|reason| reason.as_str());
        let failures = std::array::from_fn(|_| {
            let reason = reasons.next().unwrap_or_default();
            self.failures.with_label_values(&[pack.as_str(), reason])
        });
        let series = Arc::new(Series {
            pack: pack.clone(),
            version: version.clone(),
            part,
            decisions,
            failures,
        });
        known.insert(name, Arc::downgrade(&series));
        series
    }

    /// Forgets versions that nobody runs, when there are too many of them.
    fn retire(&self, known: &mut HashMap<Name, Weak<Series>>) {
        if known.values().filter(|series| series.strong_count() == 0).count() <= RETIRED_MAX {
            return;
        }
        known.retain(|name, series| {
            let is_used = series.strong_count() > 0;
            if !is_used {
                for decision in DECISIONS {
                    // What is not there needs no removing.
                    let _ = self.decisions.remove_label_values(&label(name, decision));
                }
            }
            is_used
        });
    }

    /// Counts what a version said.
    pub(super) fn observe(&self, fact: &PackFact) {
        self.duration.observe(fact.took.as_secs_f64());
        let decision = match &fact.said {
            Ok(said) => said.as_str(),
            Err((reason, _)) => {
                let at = FailureReason::ALL.iter().position(|known| known == reason);
                if let Some(counter) = at.and_then(|at| fact.series.failures.get(at)) {
                    counter.inc();
                }
                FAILED
            }
        };
        let at = DECISIONS.iter().position(|known| *known == decision);
        if let Some(counter) = at.and_then(|at| fact.series.decisions.get(at)) {
            counter.inc();
        }
    }
}

fn label<'a>((pack, version, part): &'a Name, decision: &'a str) -> [&'a str; 4] {
    [pack.as_str(), version, part.as_str(), decision]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Metrics;

    #[test]
    fn versions_that_nobody_runs_keep_their_series_for_a_while_only() {
        let metrics = Metrics::new("test").unwrap();
        let series = |version: usize| {
            metrics.pack(&"p".into(), &version.to_string().as_str().into(), Part::Enforce)
        };
        let used = series(0);
        assert!(Arc::ptr_eq(&used, &series(0)));
        for version in 1..1_000 {
            series(version);
            let text = metrics.text();
            let rows =
                text.lines().filter(|line| line.starts_with("tollgate_pack_decisions_total"));
            assert!(rows.count() <= (RETIRED_MAX + 3) * DECISIONS.len(), "{version}");
            assert!(text.contains(r#"version="0""#), "the one in use stays");
        }
        // A version that comes back is counted again.
        assert_eq!(series(1).decisions.len(), DECISIONS.len());
        assert!(metrics.text().contains(r#"version="1""#));
    }
}
