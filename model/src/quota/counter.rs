//! One counter: the state of one limit for one part of a tenant, whatever its kind.
//!
//! Invariant: checking changes nothing, and charging takes the cost whether it fits or not: who decides for all limits of
//! a request together is [`Tally`](super::Tally). A limit whose kind was edited starts anew.

use super::{Bucket, Demand, Kind, Limit, PermitId, Reading, Settlement, Slots, Spent, Taken};

/// The state of a counter.
#[derive(Clone, Debug, PartialEq)]
pub enum Counter {
    /// Of a rate.
    Bucket(Bucket),
    /// Of a quota.
    Spent(Spent),
    /// Of a concurrency limit.
    Slots(Slots),
}

impl Counter {
    /// A counter of which nothing is used.
    pub fn at_rest(kind: Kind, demand: &Demand, now: i64) -> Self {
        match kind {
            Kind::Rate { rate, burst } => Self::Bucket(Bucket::at_rest(rate, burst)),
            Kind::Quota(quota) => Self::Spent(Spent::at_rest(quota, &demand.calendar, now)),
            Kind::Concurrency(_) => Self::Slots(Slots::default()),
        }
    }

    /// What a request of this demand would find.
    pub fn check(&self, limit: &Limit, demand: &Demand, now: i64) -> Reading {
        let (cost, calendar) = (demand.cost, &demand.calendar);
        let (level, refusal) = match (self, limit.kind) {
            (Self::Bucket(bucket), Kind::Rate { rate, burst }) => {
                (bucket.level(rate, burst, now), bucket.refusal(rate, burst, cost, now))
            }
            (Self::Spent(spent), Kind::Quota(quota)) => {
                (spent.level(quota, calendar, now), spent.refusal(quota, calendar, cost, now))
            }
            (Self::Slots(slots), Kind::Concurrency(size)) => {
                (slots.level(size, now), slots.refusal(size, now))
            }
            (Self::Bucket(_) | Self::Spent(_) | Self::Slots(_), kind) => {
                return Self::at_rest(kind, demand, now).check(limit, demand, now);
            }
        };
        Reading::new(limit, level, refusal)
    }

    /// Takes the demand's cost or slot; says what there is to settle. A rate's charge is final, but where the cost is known
    /// in the end only.
    pub fn charge(&mut self, limit: &Limit, demand: &Demand, now: i64) -> Option<Taken> {
        let cost = demand.cost;
        match (&mut *self, limit.kind) {
            (Self::Bucket(bucket), Kind::Rate { rate, burst }) => {
                bucket.charge(rate, burst, cost, now);
                demand.costs_later.then_some(Taken::Rate { cost, rate, burst })
            }
            (Self::Spent(spent), Kind::Quota(quota)) => Some(Taken::Quota {
                cost,
                window: spent.charge(quota, &demand.calendar, cost, now),
            }),
            (Self::Slots(slots), Kind::Concurrency(_)) => {
                slots.charge(demand.permit, demand.until(now), now);
                Some(Taken::Slot)
            }
            (Self::Bucket(_) | Self::Spent(_) | Self::Slots(_), kind) => {
                *self = Self::at_rest(kind, demand, now);
                self.charge(limit, demand, now)
            }
        }
    }

    /// Frees a slot; gives a quota back if the settlement says so; charges what the request turned out to cost.
    pub fn settle(&mut self, permit: PermitId, taken: Taken, settlement: Settlement, now: i64) {
        match (self, taken, settlement) {
            (Self::Slots(slots), Taken::Slot, _) => slots.free(permit),
            (Self::Spent(spent), Taken::Quota { cost, window }, Settlement::Refund) => {
                spent.give_back(cost, window);
            }
            (Self::Spent(spent), Taken::Quota { cost, window }, Settlement::Cost(actual)) => {
                spent.correct(cost, actual, window);
            }
            (Self::Bucket(bucket), Taken::Rate { cost, rate, burst }, Settlement::Cost(actual)) => {
                bucket.charge(rate, burst, actual.saturating_sub(cost), now);
            }
            // A committed charge; a counter that was evicted, or whose limit became one of another kind.
            (Self::Bucket(_) | Self::Spent(_) | Self::Slots(_), _, _) => {}
        }
    }

    /// Whether nothing is used, so that forgetting the counter changes nothing.
    pub fn is_at_rest(&self, now: i64) -> bool {
        match self {
            Self::Bucket(bucket) => bucket.rests_at() <= now,
            Self::Spent(spent) => spent.rests_at() <= now,
            Self::Slots(slots) => slots.is_at_rest(now),
        }
    }

    /// When to look whether the counter is at rest, in microseconds since the epoch.
    pub fn rests_at(&self) -> i64 {
        match self {
            Self::Bucket(bucket) => bucket.rests_at(),
            Self::Spent(spent) => spent.rests_at(),
            Self::Slots(slots) => slots.rests_at(),
        }
    }
}
