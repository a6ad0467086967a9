//! Whether a store is asked at all: a pure machine over (state, input), and the same for many threads.
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
    /// It is not, but by probes.
    Open,
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
    fn step(self, input: Input) -> Self {
        match (self, input) {
            (Self::Closed { failures }, Input::Failed) if failures + 1 >= FAILURES => Self::Open,
            (Self::Closed { failures }, Input::Failed) => Self::Closed { failures: failures + 1 },
            (Self::Closed { .. }, Input::Lost) => Self::Open,
            // An answer to what was asked before it opened proves nothing.
            (Self::Open, Input::Failed | Input::Lost | Input::Answered) => Self::Open,
            (Self::Closed { .. }, Input::Answered | Input::ProbeAnswered)
            | (Self::Open, Input::ProbeAnswered) => Self::Closed { failures: 0 },
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

    /// A request was answered.
    pub(super) fn answered(&self) {
        if !self.is_calm.load(Ordering::Acquire) {
            self.step(Input::Answered);
        }
    }

    /// A request was not answered. Whether it opened by that.
    pub(super) fn failed(&self) -> bool {
        self.opens(Input::Failed)
    }

    /// A request was not answered, and none can be. Whether it opened by that.
    pub(super) fn lost(&self) -> bool {
        self.opens(Input::Lost)
    }

    /// A probe was answered.
    pub(super) fn probe_answered(&self) {
        self.step(Input::ProbeAnswered);
    }

    fn opens(&self, input: Input) -> bool {
        let (before, after) = self.step(input);
        before != after && matches!(after, State::Open)
    }

    fn step(&self, input: Input) -> (State, State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.step(input);
        self.is_open.store(matches!(*state, State::Open), Ordering::Release);
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
        // f: a request failed, l: without a connection, a: one was answered, p: a probe was; then whether it is open.
        let steps = "f- f- f- f- a- f- f- f- f- fo fo ao lo p- f- p- f- lo lo p- lo";
        let mut was_open = false;
        for (at, step) in steps.split_whitespace().enumerate() {
            let is_open = step.ends_with('o');
            let opens = match step.chars().next() {
                Some('f') => breaker.failed(),
                Some('l') => breaker.lost(),
                Some('a') => {
                    breaker.answered();
                    false
                }
                _ => {
                    breaker.probe_answered();
                    false
                }
            };
            assert_eq!(breaker.is_open(), is_open, "{at}");
            assert_eq!(opens, is_open && !was_open, "who opens it knows, at {at}");
            was_open = is_open;
        }
    }
}
