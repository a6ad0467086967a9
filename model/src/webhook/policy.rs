//! What becomes of a delivery after an attempt: the table of outcomes.
//!
//! | class | outcomes | what becomes of the delivery | the breaker counts |
//! |---|---|---|---|
//! | delivered | 2xx | delivered | a success |
//! | transient | unreachable, TLS, timed out, 5xx, 3xx, forbidden, unready, lost, most 4xx | its schedule | a failure |
//! | throttled | 408, 425, 429, 503 with `Retry-After` | its schedule, not before what was asked for; the endpoint is left alone so long | a failure |
//! | permanent | 400, 413, 415, 422 | its schedule, and dead after [`REFUSALS_MAX`] attempts | a success: the endpoint is well |
//! | gone | 410 | the endpoint is disabled, which parks it; it is asked again where that came to nothing | nothing |
//!
//! Most 4xx look permanent and come of a deployment that went wrong (401, 403, 404): they are given the whole schedule.

use super::{Next, Outcome, Reason};
use crate::document::{OnDead, Schedule};
use jiff::Timestamp;
use std::time::Duration;

/// How often an event is sent that the endpoint refuses as such.
pub const REFUSALS_MAX: u32 = 3;
/// When a delivery is due again whose endpoint said that it is retired: long enough for everybody to know that the endpoint is
/// disabled. It is not parked with its attempt, since a process that ends between the two would leave it parked, and those
/// behind it waiting, at an endpoint that is enabled.
pub const GONE_PAUSE: Duration = Duration::from_secs(5);
/// The statuses that refuse an event as such.
const REFUSED: [u16; 4] = [400, 413, 415, 422];

/// What an outcome means for its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The endpoint took it.
    Delivered,
    /// It may be better later.
    Transient,
    /// The endpoint asks to come later.
    Throttled,
    /// The endpoint refuses this event.
    Permanent,
    /// The endpoint is retired.
    Gone,
}

impl Class {
    /// That of an attempt.
    pub fn of(outcome: Outcome, status: Option<u16>) -> Self {
        match outcome {
            Outcome::Delivered => Self::Delivered,
            Outcome::Throttled => Self::Throttled,
            Outcome::Gone => Self::Gone,
            Outcome::ClientError if status.is_some_and(|status| REFUSED.contains(&status)) => {
                Self::Permanent
            }
            Outcome::Unreachable
            | Outcome::Tls
            | Outcome::TimedOut
            | Outcome::ServerError
            | Outcome::Redirected
            | Outcome::ClientError
            | Outcome::Forbidden
            | Outcome::Unready
            | Outcome::Lost => Self::Transient,
        }
    }
}

/// An attempt that came to its end, as far as it matters for what comes next.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it means.
    pub class: Class,
    /// Which one it was, from 1.
    pub attempt: u32,
    /// `Retry-After`.
    pub asked: Option<Duration>,
    /// When.
    pub at: Timestamp,
}

impl Ended {
    /// What becomes of the delivery. `on_dead`: what those behind it do; none where there is no order. `spread`: where in its
    /// range the delay lies, from 0 to 1.
    pub fn next(self, schedule: &Schedule, on_dead: Option<OnDead>, spread: f64) -> Next {
        let blocks = on_dead == Some(OnDead::Stop);
        let delay = match self.class {
            Class::Delivered => return Next::Delivered,
            Class::Gone => Some(GONE_PAUSE),
            Class::Permanent if self.attempt >= REFUSALS_MAX => {
                return Next::Dead { reason: Reason::Refused, blocks };
            }
            Class::Transient | Class::Throttled | Class::Permanent => {
                schedule.delay(self.attempt, spread, self.asked)
            }
        };
        match delay {
            Some(delay) => Next::Due(self.at.saturating_add(delay).unwrap_or(Timestamp::MAX)),
            None => Next::Dead { reason: Reason::Exhausted, blocks },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    fn ended(outcome: Outcome, status: u16, attempt: u32) -> Ended {
        let class = Class::of(outcome, Some(status));
        Ended { class, attempt, asked: None, at: Timestamp::UNIX_EPOCH }
    }

    fn three_seconds() -> Schedule {
        Schedule::Delays(vec![units::Duration(Duration::from_secs(3)); 4])
    }

    #[test]
    fn every_outcome_has_its_row_in_the_table() {
        use Outcome as O;
        let due = Next::Due("1970-01-01T00:00:03Z".parse().unwrap());
        let gone = Next::Due("1970-01-01T00:00:05Z".parse().unwrap());
        let dead = |reason| Next::Dead { reason, blocks: false };
        let (exhausted, refused) = (dead(Reason::Exhausted), dead(Reason::Refused));
        for (outcome, status, first, third, last) in [
            (O::Delivered, 204, Next::Delivered, Next::Delivered, Next::Delivered),
            (O::Unreachable, 0, due, due, exhausted),
            (O::Tls, 0, due, due, exhausted),
            (O::TimedOut, 0, due, due, exhausted),
            (O::ServerError, 500, due, due, exhausted),
            (O::Throttled, 429, due, due, exhausted),
            (O::Redirected, 302, due, due, exhausted),
            (O::Forbidden, 0, due, due, exhausted),
            (O::Unready, 0, due, due, exhausted),
            (O::Lost, 0, due, due, exhausted),
            (O::ClientError, 401, due, due, exhausted),
            (O::ClientError, 403, due, due, exhausted),
            (O::ClientError, 404, due, due, exhausted),
            (O::ClientError, 400, due, refused, refused),
            (O::ClientError, 413, due, refused, refused),
            (O::ClientError, 415, due, refused, refused),
            (O::ClientError, 422, due, refused, refused),
            (O::Gone, 410, gone, gone, gone),
        ] {
            for (attempt, next) in [(1, first), (3, third), (5, last)] {
                let told = ended(outcome, status, attempt).next(&three_seconds(), None, 0.5);
                assert_eq!(told, next, "{outcome:?} {status}, attempt {attempt}");
            }
        }
    }

    #[test]
    fn a_short_schedule_exhausts_what_is_refused_before_it_is_given_up_as_such() {
        let schedule = Schedule::Delays(vec![units::Duration(Duration::from_secs(3))]);
        let next = ended(Outcome::ClientError, 400, 2).next(&schedule, None, 0.5);
        assert_eq!(next, Next::Dead { reason: Reason::Exhausted, blocks: false });
    }

    #[test]
    fn a_dead_head_blocks_those_behind_it_only_where_the_endpoint_says_stop() {
        for (on_dead, expected) in
            [(None, false), (Some(OnDead::Skip), false), (Some(OnDead::Stop), true)]
        {
            let next = ended(Outcome::TimedOut, 0, 9).next(&three_seconds(), on_dead, 0.5);
            assert_eq!(next, Next::Dead { reason: Reason::Exhausted, blocks: expected });
        }
    }

    #[test]
    fn retry_after_moves_what_is_due() {
        let asked = Some(Duration::from_secs(60));
        let ended = Ended { asked, ..ended(Outcome::Throttled, 429, 1) };
        let due = Next::Due("1970-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(ended.next(&three_seconds(), None, 0.5), due);
    }
}
