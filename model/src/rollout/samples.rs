//! What was seen of a candidate in a window, and what it says.

use crate::document::{OnPass, Rollout};
use crate::units;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The finest difference that is told, in nanoseconds.
const UNIT: u64 = 125;
/// Buckets to each doubling of the duration: a percentile is at most an eighth too high.
const STEPS: usize = 8;
/// What is longer, a little over a minute, is counted all in one bucket: no call takes as long.
const DOUBLINGS: usize = 27;

/// How long calls took, in buckets that grow by an eighth of a doubling; those of other nodes can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Durations(Vec<u64>);

impl Durations {
    /// How many buckets there are.
    pub const BUCKETS: usize = STEPS * DOUBLINGS + 1;

    /// The bucket that counts a call which took so long, for whoever counts by themselves: the first whose end is not below.
    pub fn bucket(took: Duration) -> usize {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // What falls on a bucket's end belongs to it.
        let below = nanos.div_ceil(UNIT).saturating_sub(1);
        let steps = STEPS as u64;
        let bucket = match (below / steps).checked_ilog2() {
            None => below,
            Some(doublings) => steps * u64::from(doublings) + (below >> doublings),
        };
        usize::try_from(bucket).unwrap_or(usize::MAX).min(Self::BUCKETS - 1)
    }

    /// The longest duration that this bucket counts; of the last one, which takes all that are longer, a little over a minute.
    fn end(bucket: usize) -> Duration {
        let next = bucket + 1;
        let doublings = (next / STEPS).saturating_sub(1).min(DOUBLINGS - 1);
        let units = ((next - STEPS * doublings) as u64) << doublings;
        Duration::from_nanos(units * UNIT)
    }

    /// What was counted in the first of these buckets, the second, and so on.
    pub fn counted(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut counts: Vec<u64> = counts.into_iter().take(Self::BUCKETS).collect();
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        counts.truncate(used);
        Self(counts)
    }

    /// What came since those, which are among these.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = before.0.iter().copied().chain(std::iter::repeat(0));
        Self::counted(self.0.iter().zip(earlier).map(|(now, before)| now.saturating_sub(before)))
    }

    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let bucket = Self::bucket(took);
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        if let Some(count) = self.0.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Adds those of another node.
    pub fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*more);
        }
    }

    /// What so many percent of them did not exceed; none when there are none.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let total = self.0.iter().fold(0_u64, |total, count| total.saturating_add(*count));
        let rank = total.saturating_mul(percent).div_ceil(100).max(1);
        let mut counted = 0_u64;
        let bucket = self.0.iter().position(|count| {
            counted = counted.saturating_add(*count);
            counted >= rank
        });
        bucket.map(Self::end)
    }
}

/// What was seen of a candidate in one window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// How often it was asked.
    pub calls: u64,
    /// How often it failed by its own fault.
    pub faults: u64,
    /// Decisions that could be compared with the running version's.
    pub compared: u64,
    /// Those that differ.
    pub differences: u64,
    /// How long its calls took.
    pub durations: Durations,
}

impl Samples {
    /// What came since those, which are among these.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            faults: self.faults.saturating_sub(before.faults),
            compared: self.compared.saturating_sub(before.compared),
            differences: self.differences.saturating_sub(before.differences),
            durations: self.durations.since(&before.durations),
        }
    }

    /// Adds what another node saw.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.faults = self.faults.saturating_add(other.faults);
        self.compared = self.compared.saturating_add(other.compared);
        self.differences = self.differences.saturating_add(other.differences);
        self.durations.merge(&other.durations);
    }
}

/// What the samples say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough yet, or the window still runs.
    Wait,
    /// The window ended with enough samples and nothing speaks against the candidate.
    Pass(OnPass),
    /// Something speaks against it; in words for people.
    RollBack(String),
}

/// Judges a window. A rate counts once it is of `min_samples`, also before the window's end; a window that ends with fewer
/// says nothing, and the next one begins.
pub fn judge(rollout: &Rollout, began: Timestamp, now: Timestamp, seen: &Samples) -> Verdict {
    if let Some(why) = against(rollout, seen) {
        return Verdict::RollBack(why);
    }
    let compares = rollout.rollback_on.difference_rate.is_some();
    let is_enough =
        seen.calls >= rollout.min_samples && (!compares || seen.compared >= rollout.min_samples);
    let age = Duration::try_from(now.duration_since(began)).unwrap_or_default();
    if is_enough && age >= rollout.window.0 {
        return Verdict::Pass(rollout.on_pass);
    }
    Verdict::Wait
}

fn against(rollout: &Rollout, seen: &Samples) -> Option<String> {
    let limits = &rollout.rollback_on;
    let over = |count: u64, of: u64, most: Option<f64>| {
        let rate = count as f64 / of.max(1) as f64;
        most.filter(|most| of >= rollout.min_samples && rate > *most).map(|most| (rate, most))
    };
    if let Some((rate, most)) = over(seen.faults, seen.calls, limits.fault_rate) {
        let (count, of) = (seen.faults, seen.calls);
        return Some(format!("{count} of {of} calls failed ({rate:.4}), more than {most}"));
    }
    if let Some((rate, most)) = over(seen.differences, seen.compared, limits.difference_rate) {
        let (count, of) = (seen.differences, seen.compared);
        return Some(format!("{count} of {of} decisions differ ({rate:.4}), more than {most}"));
    }
    let most = limits.p99.filter(|_| seen.calls >= rollout.min_samples)?;
    let p99 = seen.durations.percentile(99)?;
    // Counted in buckets: only what is surely longer is too long.
    let is_longer = p99 > Durations::end(Durations::bucket(most.0));
    is_longer.then(|| format!("p99 is {}, more than {most}", units::Duration(p99)))
}
