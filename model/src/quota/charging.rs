//! What an exchange's outcome does to what it was charged: the CONTRACT's "Charging", as one table.
//!
//! Always: a request refused by a limit was charged nothing; rates keep their charge, because the request did arrive;
//! slots are freed. So a settlement says what becomes of quotas, and what an answer cost in the end.

use http::StatusCode;

/// How an admitted exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream answered with 1xx to 4xx.
    Answered,
    /// The upstream answered with 5xx.
    UpstreamFailed,
    /// No answer from the upstream, or none was asked for: unreachable, timed out, breaker open, our own fault.
    GatewayFailed,
    /// Refused by a stage after Throttle: a policy, an idempotency conflict, a late body limit.
    RefusedLater,
    /// Answered with a stored answer.
    Replayed,
    /// The client went away before the answer; the upstream may have done the work.
    Abandoned,
}

impl Outcome {
    /// Every outcome, for metric labels.
    pub const ALL: &'static [Self] = &[
        Self::Answered,
        Self::UpstreamFailed,
        Self::GatewayFailed,
        Self::RefusedLater,
        Self::Replayed,
        Self::Abandoned,
    ];

    /// The outcome that an answer of the upstream means.
    pub fn of_status(status: StatusCode) -> Self {
        if status.is_server_error() { Self::UpstreamFailed } else { Self::Answered }
    }

    /// What becomes of the charge.
    pub const fn settlement(self, terms: Terms) -> Settlement {
        match self {
            Self::Answered | Self::Abandoned => Settlement::Commit,
            Self::RefusedLater | Self::GatewayFailed => Settlement::Refund,
            Self::UpstreamFailed => terms.upstream_failed,
            Self::Replayed => terms.replayed,
        }
    }
}

/// What a route says about charging, where it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For replays of stored answers.
    pub replayed: Settlement,
    /// For 5xx of the upstream.
    pub upstream_failed: Settlement,
}

impl Default for Terms {
    fn default() -> Self {
        Self { replayed: Settlement::Refund, upstream_failed: Settlement::Refund }
    }
}

/// What becomes of a permit. Whatever it is, rates keep their charge and slots are freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Quotas keep their charge.
    Commit,
    /// Quotas get it back.
    Refund,
    /// It cost so many units in all: quotas end with that, rates are charged what is more than they were. Whether it fits
    /// or not; a rate's burst is the most that can be owed.
    Cost(u32),
}

impl Settlement {
    /// The same where the answer said what it cost: what is kept is that.
    #[must_use]
    pub const fn at_cost(self, actual: Option<u32>) -> Self {
        match (self, actual) {
            (Self::Commit, Some(units)) => Self::Cost(units),
            (settlement, _) => settlement,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settlement::{Commit, Refund};

    #[test]
    fn quotas_are_charged_as_the_contract_says() {
        let charged = Terms { replayed: Commit, upstream_failed: Commit };
        for (outcome, by_default, where_the_route_charges) in [
            (Outcome::Answered, Commit, Commit),
            (Outcome::UpstreamFailed, Refund, Commit),
            (Outcome::GatewayFailed, Refund, Refund),
            (Outcome::RefusedLater, Refund, Refund),
            (Outcome::Replayed, Refund, Commit),
            (Outcome::Abandoned, Commit, Commit),
        ] {
            assert_eq!(outcome.settlement(Terms::default()), by_default, "{outcome:?}");
            assert_eq!(outcome.settlement(charged), where_the_route_charges, "{outcome:?}");
        }
    }

    #[test]
    fn only_5xx_is_an_upstream_failure() {
        for (status, outcome) in [
            (200, Outcome::Answered),
            (304, Outcome::Answered),
            (404, Outcome::Answered),
            (429, Outcome::Answered),
            (500, Outcome::UpstreamFailed),
            (599, Outcome::UpstreamFailed),
        ] {
            assert_eq!(Outcome::of_status(StatusCode::from_u16(status).unwrap()), outcome);
        }
    }
}
