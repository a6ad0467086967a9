//! Repeats that wait for what comes of the first request.
//!
//! Invariants: how many wait on a node, and how long each, is bounded; who finds no room is told at once that the first one
//! is in progress. Waiting is looking again: the first one may be at another node.

use rand::RngExt as _;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// How many repeats may wait on one node.
pub const WAITERS_MAX: usize = 1_024;
/// Between two looks, at first.
const LOOK_FIRST: Duration = Duration::from_millis(25);
/// Between two looks, in the end.
const LOOK_LAST: Duration = Duration::from_millis(500);

/// Room for repeats that wait.
#[derive(Debug)]
pub struct Waiters(Semaphore);

impl Default for Waiters {
    fn default() -> Self {
        Self(Semaphore::new(WAITERS_MAX))
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    until: Instant,
    pause: Duration,
    _place: SemaphorePermit<'a>,
}

impl Waiters {
    /// A place to wait for so long, if there is one, and time to wait.
    pub(super) fn wait(&self, span: Duration) -> Option<Waiting<'_>> {
        if span.is_zero() {
            return None;
        }
        let place = self.0.try_acquire().ok()?;
        Some(Waiting { until: Instant::now() + span, pause: LOOK_FIRST, _place: place })
    }
}

impl Waiting<'_> {
    /// Pauses until it is time to look again; says no at once where the time is over.
    pub(super) async fn pause(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Those who began together don't look together.
        let pause = self.pause.mul_f64(rand::rng().random_range(0.75..1.25));
        sleep(pause.min(left)).await;
        self.pause = (self.pause * 3 / 2).min(LOOK_LAST);
        true
    }
}
