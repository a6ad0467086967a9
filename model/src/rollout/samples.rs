//! What was seen of a candidate in a window, and what it says.

use crate::document::{OnPass, Rollout};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Buckets to each doubling of the duration: a percentile is at most 9 % too high.
const STEPS: u32 = 8;
/// Doublings, from 1 µs to over a minute.
const DOUBLINGS: u32 = 26;

/// How long calls took, in buckets that grow by an eighth of a doubling; those of other nodes can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Durations(Vec<u64>);

impl Durations {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let bucket = bucket(took);
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
            *count += more;
        }
    }

    /// What so large a share (0 to 1) of them did not exceed; none when there are none.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let mut left = (total as f64 * share).ceil() as u64;
        for (index, count) in self.0.iter().enumerate() {
            if left <= *count {
                return Some(upper(index));
            }
            left -= count;
        }
        None
    }
}

/// The bucket whose upper end is the first that is not below.
fn bucket(took: Duration) -> usize {
    let micros = (took.as_nanos() as f64 / 1_000.0).max(1.0);
    let position = (micros.log2() * f64::from(STEPS)).ceil();
    (position as usize).min((STEPS * DOUBLINGS) as usize)
}

fn upper(bucket: usize) -> Duration {
    let micros = (bucket as f64 / f64::from(STEPS)).exp2();
    Duration::from_nanos((micros * 1_000.0) as u64)
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
    /// Adds what another node saw.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.faults += other.faults;
        self.compared += other.compared;
        self.differences += other.differences;
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

/// Judges a window. Rates count from `min_samples` on, also before the window's end; a window that ends with fewer says
/// nothing, and the next one begins.
pub fn judge(rollout: &Rollout, began: Timestamp, now: Timestamp, seen: &Samples) -> Verdict {
    if seen.calls >= rollout.min_samples {
        if let Some(why) = against(rollout, seen) {
            return Verdict::RollBack(why);
        }
        let age = Duration::try_from(now.duration_since(began)).unwrap_or_default();
        if age >= rollout.window.0 {
            return Verdict::Pass(rollout.on_pass);
        }
    }
    Verdict::Wait
}

fn against(rollout: &Rollout, seen: &Samples) -> Option<String> {
    let limits = &rollout.rollback_on;
    let rate = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let faults = rate(seen.faults, seen.calls);
    if let Some(most) = limits.fault_rate.filter(|most| faults > *most) {
        return Some(format!(
            "{} of {} calls failed ({faults:.4}), more than {most}",
            seen.faults, seen.calls
        ));
    }
    let differing = rate(seen.differences, seen.compared);
    if let Some(most) = limits.difference_rate.filter(|most| differing > *most) {
        let (count, of) = (seen.differences, seen.compared);
        return Some(format!(
            "{count} of {of} decisions differ ({differing:.4}), more than {most}"
        ));
    }
    let p99 = seen.durations.percentile(0.99)?;
    let most = limits.p99.filter(|most| p99 > most.0)?;
    Some(format!("p99 is {p99:?}, more than {most}"))
}
