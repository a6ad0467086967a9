//! The windows of a rollout as one node counts them.
//!
//! Invariant: every sample belongs to one window, and a window that ended changes no more.

use jiff::{SignedDuration, Timestamp};
use model::rollout::Samples;
use std::time::Duration;

/// How long after its end a window is judged: the other nodes have told by then what they saw of it.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// Where a rollout stands on this node.
pub(super) struct Progress {
    rollout: String,
    started_at: Timestamp,
    /// Whether the store knows it.
    is_known: bool,
    /// The present window; none before the first look at it.
    window: Option<u64>,
    /// What had been seen when the present window began.
    before: Samples,
    ended: Option<Ended>,
}

/// A window that ended.
struct Ended {
    window: u64,
    samples: Samples,
    is_judged: bool,
}

/// What this node saw in one window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// The rollout's id.
    pub(super) rollout: String,
    /// How many windows there were before it.
    pub(super) number: u64,
    /// When it began.
    pub(super) began: Timestamp,
    /// What was seen.
    pub(super) samples: Samples,
}

impl Progress {
    /// One that this node sees for the first time.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            rollout: uuid::Uuid::now_v7().to_string(),
            started_at: now,
            is_known: false,
            window: None,
            before: Samples::default(),
            ended: None,
        }
    }

    /// The rollout's id.
    pub(super) fn rollout_id(&self) -> String {
        self.rollout.clone()
    }

    /// When it began.
    pub(super) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// What the store knows it as. Where another node was first, all that was seen here belongs to the present window; where
    /// it is another rollout than before, nothing does. `seen`: all that was ever seen.
    pub(super) fn is_known_as(&mut self, rollout: &str, started_at: Timestamp, seen: &Samples) {
        if (self.rollout.as_str(), self.started_at) != (rollout, started_at) {
            let before = if self.is_known { seen.clone() } else { Samples::default() };
            let rollout = rollout.to_owned();
            *self = Self { rollout, started_at, before, ..Self::new(started_at) };
        }
        self.is_known = true;
    }

    /// The windows that count now, of this length: the present one, and the one before until it was judged. `seen`: all that
    /// was ever seen.
    pub(super) fn windows(
        &mut self,
        length: Duration,
        now: Timestamp,
        seen: &Samples,
    ) -> Vec<Window> {
        let number = self.number(length, now);
        let present = self.window.unwrap_or(number);
        if number > present {
            let samples = seen.since(&self.before);
            self.ended = Some(Ended { window: present, samples, is_judged: false });
            self.before = seen.clone();
        }
        // A clock that was set back reopens nothing.
        let present = present.max(number);
        self.window = Some(present);
        let window = |number: u64, samples: Samples| Window {
            rollout: self.rollout.clone(),
            number,
            began: self.beginning(length, number),
            samples,
        };
        let ended = self.ended.as_ref().filter(|ended| !ended.is_judged);
        let ended = ended.map(|ended| window(ended.window, ended.samples.clone()));
        ended.into_iter().chain([window(present, seen.since(&self.before))]).collect()
    }

    /// Whether this window ended so long ago that all nodes have told of it.
    pub(super) fn is_settled(&self, number: u64, length: Duration, now: Timestamp) -> bool {
        let age = now.duration_since(self.beginning(length, number));
        self.window.is_some_and(|present| number < present)
            && age >= SignedDuration::try_from(length + SETTLE).unwrap_or_default()
    }

    /// It was judged after its end: it counts no more.
    pub(super) fn judged(&mut self, number: u64) {
        if let Some(ended) = self.ended.as_mut().filter(|ended| ended.window == number) {
            ended.is_judged = true;
        }
    }

    fn number(&self, length: Duration, now: Timestamp) -> u64 {
        let age = Duration::try_from(now.duration_since(self.started_at)).unwrap_or_default();
        let number = age.as_micros() / length.as_micros().max(1);
        u64::try_from(number).unwrap_or(u64::MAX)
    }

    fn beginning(&self, length: Duration, number: u64) -> Timestamp {
        let micros = length.as_micros().saturating_mul(number.into());
        let age = SignedDuration::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
        self.started_at.checked_add(age).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_795_251_600 + seconds).unwrap()
    }

    fn calls(calls: u64) -> Samples {
        Samples { calls, ..Samples::default() }
    }

    /// Numbers and calls of the windows at a time, when so many calls were seen.
    fn windows(progress: &mut Progress, seconds: i64, seen: u64) -> Vec<(u64, u64)> {
        let windows = progress.windows(LENGTH, at(seconds), &calls(seen));
        windows.into_iter().map(|window| (window.number, window.samples.calls)).collect()
    }

    #[test]
    fn each_sample_belongs_to_one_window_and_the_last_one_waits_for_its_judgement() {
        let mut progress = Progress::new(at(0));
        assert_eq!(windows(&mut progress, 0, 0), [(0, 0)]);
        assert_eq!(windows(&mut progress, 9, 5), [(0, 5)]);
        assert_eq!(windows(&mut progress, 10, 7), [(0, 7), (1, 0)]);
        assert!(!progress.is_settled(0, LENGTH, at(11)) && progress.is_settled(0, LENGTH, at(12)));
        assert!(!progress.is_settled(1, LENGTH, at(12)));
        assert_eq!(windows(&mut progress, 12, 9), [(0, 7), (1, 2)]);
        progress.judged(0);
        assert_eq!(windows(&mut progress, 13, 9), [(1, 2)]);
        // Nobody looked for a while.
        assert_eq!(windows(&mut progress, 45, 10), [(1, 3), (4, 0)]);
        // A clock that was set back reopens nothing.
        assert_eq!(windows(&mut progress, 5, 11), [(1, 3), (4, 1)]);
    }

    #[test]
    fn a_node_that_comes_later_counts_from_where_the_rollout_began() {
        let mut progress = Progress::new(at(34));
        assert_eq!(windows(&mut progress, 34, 1), [(0, 1)]);
        progress.is_known_as("r", at(0), &calls(1));
        let windows = progress.windows(LENGTH, at(35), &calls(2));
        let [window] = &windows[..] else { panic!("{windows:?}") };
        assert_eq!((&*window.rollout, window.number, window.began), ("r", 3, at(30)));
        assert_eq!(window.samples, calls(2), "what it saw before is of this window");
        // Known already: nothing begins again.
        progress.is_known_as("r", at(0), &calls(3));
        let seen = |windows: Vec<Window>| {
            windows.iter().map(|window| window.samples.calls).collect::<Vec<_>>()
        };
        assert_eq!(seen(progress.windows(LENGTH, at(40), &calls(3))), [3, 0]);
        // Another rollout of the same versions: what was seen before is not its own.
        progress.is_known_as("s", at(45), &calls(3));
        assert_eq!(seen(progress.windows(LENGTH, at(46), &calls(4))), [1]);
    }
}
