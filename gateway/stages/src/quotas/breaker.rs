//! Whether a store is asked at all: a pure machine over (state, input, time), and the same for many threads.
//!
//! Invariants: it opens after [`FAILURES`] failures in a row, or at once without a connection, and only a probe closes it, so that no request waits for a
//! store that is known to be away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// After so many failures in a row nobody asks any more.
pub(super) const FAILURES: u32 = 5;
/// Between two probes of a store that is away.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(250);
/// At most so much more, so that nodes do not probe in step.
pub(super) const PROBE_JITTER: Duration = Duration::from_millis(50);

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The store is asked; so many failures in a row.
    Closed { failures: u32 },
    /// It is not, but by probes; since then, in microseconds since the epoch.
    Open { since: i64 },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// A request was answered.
    Answered,
    /// A request was not.
    Failed,
    /// A request was not, and none can be.
    Lost,
    /// A probe was answered.
    ProbeAnswered,
}

impl State {
    fn step(self, input: Input, now: i64) -> Self {
        match (self, input) {
            (Self::Closed { failures }, Input::Failed) if failures + 1 >= FAILURES => {
                Self::Open { since: now }
            }
            (Self::Closed { failures }, Input::Failed) => Self::Closed { failures: failures + 1 },
            (Self::Closed { .. }, Input::Lost) => Self::Open { since: now },
            // An answer to what was asked before it opened proves nothing.
            (Self::Open { since }, Input::Failed | Input::Lost | Input::Answered) => {
                Self::Open { since }
            }
            (Self::Closed { .. }, Input::Answered | Input::ProbeAnswered)
            | (Self::Open { .. }, Input::ProbeAnswered) => Self::Closed { failures: 0 },
        }
    }
}

/// A breaker that requests pass. While all is well, passing it costs one load.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    is_open: AtomicBool,
    /// Closed, and nothing failed since the last answer.
    is_calm: AtomicBool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::Closed { failures: 0 }),
            is_open: AtomicBool::new(false),
            is_calm: AtomicBool::new(true),
        }
    }
}

impl Breaker {
    /// Whether the store is not to be asked.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Whether nothing failed since the last answer.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Acquire)
    }

    /// Since when it is open, in microseconds since the epoch.
    pub(super) fn open_since(&self) -> Option<i64> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Open { since } => Some(since),
            State::Closed { .. } => None,
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, now: i64) {
        if !self.is_calm() {
            self.step(Input::Answered, now);
        }
    }

    /// A request was not answered. Whether it opened by that.
    pub(super) fn failed(&self, now: i64) -> bool {
        self.opens(Input::Failed, now)
    }

    /// A request was not answered, and none can be. Whether it opened by that.
    pub(super) fn lost(&self, now: i64) -> bool {
        self.opens(Input::Lost, now)
    }

    /// A probe was answered.
    pub(super) fn probe_answered(&self, now: i64) {
        self.step(Input::ProbeAnswered, now);
    }

    fn opens(&self, input: Input, now: i64) -> bool {
        let (before, after) = self.step(input, now);
        before != after && matches!(after, State::Open { .. })
    }

    fn step(&self, input: Input, now: i64) -> (State, State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.step(input, now);
        self.is_open.store(matches!(*state, State::Open { .. }), Ordering::Release);
        self.is_calm.store(*state == State::Closed { failures: 0 }, Ordering::Release);
        (before, *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_five_failures_in_a_row_and_closes_by_a_probe_only() {
        let breaker = Breaker::default();
        // f: a request failed, l: without a connection, a: one was answered, p: a probe was; then since when it is open.
        for (at, (step, open_since)) in [
            ("f", None),
            ("f", None),
            ("f", None),
            ("f", None),
            ("a", None),
            ("f", None),
            ("f", None),
            ("f", None),
            ("f", None),
            ("f", Some(9)),
            ("f", Some(9)),
            ("a", Some(9)),
            ("p", None),
            ("f", None),
            ("p", None),
            ("f", None),
            ("l", Some(16)),
            ("l", Some(16)),
        ]
        .into_iter()
        .enumerate()
        {
            let now = i64::try_from(at).unwrap();
            match step {
                "f" => assert_eq!(breaker.failed(now), at == 9, "it opens once, at {at}"),
                "l" => assert_eq!(breaker.lost(now), at == 16, "it opens once, at {at}"),
                "a" => breaker.answered(now),
                _ => breaker.probe_answered(now),
            }
            assert_eq!(breaker.open_since(), open_since, "{at}");
            assert_eq!(breaker.is_open(), open_since.is_some(), "{at}");
            assert_eq!(
                breaker.is_calm(),
                matches!(step, "a" | "p") && open_since.is_none(),
                "{at}"
            );
        }
    }
}
