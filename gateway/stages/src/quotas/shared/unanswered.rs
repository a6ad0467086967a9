//! Demands that the store did not answer: what it may have charged is settled nevertheless, once.

use super::super::settling::{Ended, Ending, Queue};
use model::port::StoreError;
use model::quota::{Demand, Kind, PermitRecord, Settlement};

/// A permit that was taken without the store.
#[derive(Debug)]
pub(in super::super) struct TakenAlone {
    /// What there is to settle here.
    pub(super) record: Option<PermitRecord>,
    /// What the store may have charged.
    pub(super) unanswered: Option<Unanswered>,
}

/// A demand that the store was asked for and did not answer in time: it may have been charged.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// The demand.
    pub(super) demand: Box<Demand>,
    /// Whether it was asked for more than the demand's cost.
    is_refill: bool,
    /// When its permit counts as lost.
    until: i64,
}

impl Unanswered {
    /// How it ends.
    pub(super) fn ending(self, settlement: Settlement) -> Ending {
        let settlement = match settlement {
            Settlement::Commit if self.is_refill => Settlement::Cost(self.demand.cost),
            settlement => settlement,
        };
        Ending { permit: Ended::Unknown(self.demand), settlement, until: self.until }
    }

    /// Whether settling it so could change anything.
    pub(super) fn matters(&self, settlement: Settlement) -> bool {
        let Demand { limits, costs_later, .. } = &*self.demand;
        let corrects = self.is_refill || settlement != Settlement::Commit;
        limits.iter().any(|counted| match counted.limit.kind {
            Kind::Concurrency(_) => true,
            Kind::Quota(_) => corrects,
            Kind::Rate { .. } => *costs_later && matches!(settlement, Settlement::Cost(_)),
        })
    }
}

/// A demand that is on its way. Dropped before it is answered, because nobody waits any more, it gives back what the store
/// may have charged.
pub(super) struct Asking<'a> {
    /// Where it is settled then.
    pub(super) queue: &'a Queue,
    /// The demand, until it is answered.
    pub(super) demand: Option<&'a Demand>,
    /// Whether the store is asked for more than its cost.
    pub(super) is_refill: bool,
    /// When its permit counts as lost.
    pub(super) until: i64,
}

impl Asking<'_> {
    /// The store said what it did.
    pub(super) fn answered(mut self) {
        self.demand = None;
    }

    /// The store did not; what it may have done is left, where it may have done something.
    pub(super) fn failed(mut self, error: &StoreError) -> Option<Unanswered> {
        let demand = self.demand.take()?;
        may_have_run(error).then(|| self.unanswered(demand))
    }

    fn unanswered(&self, demand: &Demand) -> Unanswered {
        let Self { is_refill, until, .. } = *self;
        Unanswered { demand: Box::new(demand.clone()), is_refill, until }
    }
}

/// Whether a command that failed so may have done its work.
pub(super) const fn may_have_run(error: &StoreError) -> bool {
    matches!(error, StoreError::TimedOut(_) | StoreError::Unanswered(_))
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(demand) = self.demand.take() {
            let unanswered = self.unanswered(demand);
            if unanswered.matters(Settlement::Refund) {
                self.queue.push(unanswered.ending(Settlement::Refund));
            }
        }
    }
}
