//! Percentiles of what was counted, and what samples say.

use super::rollout;
use crate::document::{By, OnPass, RollbackOn, Rollout};
use crate::rollout::{Durations, Samples, Verdict, judge};
use crate::units;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

fn counted(micros: impl IntoIterator<Item = u64>) -> Durations {
    let mut durations = Durations::default();
    micros.into_iter().for_each(|micros| durations.add(Duration::from_micros(micros)));
    durations
}

#[test]
fn a_percentile_is_never_too_low_and_at_most_an_eighth_too_high() {
    for nanos in
        [0, 1, 125, 126, 999, 1_000, 1_001, 7_777, 65_536_000, 2_000_000_000, 59_000_000_000]
    {
        let took = Duration::from_nanos(nanos);
        let mut durations = Durations::default();
        durations.add(took);
        let told = durations.percentile(99).unwrap();
        assert!(
            told >= took && told <= took * 9 / 8 + Duration::from_nanos(125),
            "{took:?}: {told:?}"
        );
    }
    // In steps: each duration is counted where the next shorter one is, or in the next bucket.
    let buckets =
        (0..400_000).map(|units| Durations::bucket(Duration::from_nanos(units * 125 + 1)));
    let mut buckets = buckets.peekable();
    while let (Some(bucket), Some(next)) = (buckets.next(), buckets.peek()) {
        assert!((bucket..=bucket + 1).contains(next), "{bucket} {next}");
    }
    let longest = Durations::bucket(Duration::MAX);
    assert_eq!(longest, Durations::BUCKETS - 1);
    assert_eq!(Durations::bucket(Duration::from_secs(70)), longest);
    assert!(Durations::bucket(Duration::from_secs(60)) < longest);
}

#[test]
fn percentiles_are_of_all_that_was_counted_on_every_node() {
    assert_eq!(Durations::default().percentile(99), None);
    // The ends of buckets, so that no rounding is in the way.
    let hundred = counted((0..99).map(|_| 8).chain([1_024]));
    for (percent, micros) in [(0, 8), (50, 8), (99, 8), (100, 1_024)] {
        assert_eq!(hundred.percentile(percent), Some(Duration::from_micros(micros)), "{percent}");
    }
    let mut merged = counted([8]);
    merged.merge(&counted([1_024, 1_024]));
    assert_eq!(merged, counted([1_024, 8, 1_024]));
    assert_eq!(merged.percentile(50), Some(Duration::from_micros(1_024)));
    assert_eq!(merged.since(&counted([1_024])), counted([8, 1_024]));
    let written = serde_json::to_string(&merged).unwrap();
    assert_eq!(serde_json::from_str::<Durations>(&written).unwrap(), merged);
    // What another node says can't bring this one down.
    let mut most = serde_json::from_str::<Samples>(
        &serde_json::json!({
            "calls": u64::MAX, "faults": u64::MAX, "compared": 0, "differences": 0,
            "durations": [u64::MAX],
        })
        .to_string(),
    );
    let most = most.as_mut().unwrap();
    most.merge(&most.clone());
    assert_eq!((most.calls, most.durations.percentile(99).is_some()), (u64::MAX, true));
}

fn candidate(fault_rate: Option<f64>, difference_rate: Option<f64>, p99: Option<u64>) -> Rollout {
    let p99 = p99.map(|micros| units::Duration(Duration::from_micros(micros)));
    Rollout {
        rollback_on: RollbackOn { fault_rate, p99, difference_rate },
        on_pass: OnPass::Promote,
        ..rollout("p@1.1.0", 100.0, By::Request)
    }
}

#[test]
fn a_verdict_is_what_enough_samples_say() {
    let samples = |calls, faults, compared, differences| {
        let durations = counted((0..calls).map(|_| 1_000));
        Samples { calls, faults, compared, differences, durations }
    };
    let all = || candidate(Some(0.01), Some(0.05), Some(2_000));
    let pass = Verdict::Pass(OnPass::Promote);
    let back = |why: &str| Verdict::RollBack(why.to_owned());
    // The window is of 600 s, and of 100 samples.
    for (rollout, seconds, seen, expected) in [
        (all(), 0, Samples::default(), Verdict::Wait),
        (all(), 9_999, Samples::default(), Verdict::Wait),
        (all(), 599, samples(100, 0, 100, 0), Verdict::Wait),
        (all(), 600, samples(99, 0, 99, 0), Verdict::Wait),
        (all(), 600, samples(100, 0, 100, 0), pass.clone()),
        (all(), -5, samples(100, 0, 100, 0), Verdict::Wait),
        // A rate that is as asked is no more than asked.
        (all(), 600, samples(100, 1, 100, 5), pass.clone()),
        (all(), 1, samples(100, 2, 100, 0), back("2 of 100 calls failed (0.0200), more than 0.01")),
        (all(), 1, samples(99, 99, 99, 99), Verdict::Wait),
        (
            all(),
            1,
            samples(100, 0, 100, 6),
            back("6 of 100 decisions differ (0.0600), more than 0.05"),
        ),
        // Of a few that could be compared, a rate says nothing: neither against it nor for it.
        (all(), 600, samples(100, 0, 99, 99), Verdict::Wait),
        (candidate(None, None, None), 600, samples(100, 100, 0, 0), pass.clone()),
        (
            candidate(Some(0.0), None, None),
            1,
            samples(100, 1, 0, 0),
            back("1 of 100 calls failed (0.0100), more than 0"),
        ),
        (
            candidate(None, None, Some(900)),
            1,
            samples(100, 0, 0, 0),
            back("p99 is 1ms 24µs, more than 900µs"),
        ),
        (candidate(None, None, Some(900)), 1, samples(99, 0, 0, 0), Verdict::Wait),
        // Counted in the same bucket as what is asked for: not surely longer.
        (candidate(None, None, Some(990)), 600, samples(100, 0, 0, 0), pass.clone()),
    ] {
        let began = Timestamp::from_second(1_800_000_000).unwrap();
        let now = began + SignedDuration::from_secs(seconds);
        let told = judge(&rollout, began, now, &seen);
        assert_eq!(told, expected, "{:?} {seconds} {seen:?}", rollout.rollback_on);
    }
}
