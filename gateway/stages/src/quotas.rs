//! Whoever decides about limits: counters in this process, or shared ones with what holds while they are away.
//!
//! Invariants: a request is decided within a bounded time, whatever becomes of the store; settling never waits; a permit is
//! settled where it was taken, once.

mod batch;
mod breaker;
mod groups;
mod known;
mod local;
mod refusals;
mod settling;
mod shared;
mod standing;
mod store;

#[cfg(test)]
mod tests;

pub use standing::{Count, Counts, Standing};

use crate::counters::{Capacity, MemoryCounters};
use crate::redis::{ClockOf, Link, Presence, RedisCounters, RedisUrl};
use batch::Batch;
use model::Clock;
use model::id::{LimitId, NodeName};
use model::port::StoreError;
use model::quota::{Counters as _, Demand, PermitRecord, Reading, Refused, Settlement, Verdict};
use shared::{Shared, TakenAlone};
use std::sync::Arc;
use std::time::Duration;
use store::Redis;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The counters of a deployment.
pub struct Quotas(Where);

enum Where {
    InProcess(Box<MemoryCounters>),
    Shared(Arc<Shared<Redis>>),
}

/// What shared counters are made with.
#[derive(Debug)]
pub struct SharedSettings {
    /// The Redis that has them.
    pub url: RedisUrl,
    /// How long a decision may take before each limit's `on_store_error` holds.
    pub deadline: Duration,
    /// The name of this node, when it decides about requests; none when it only looks, and is not one of those that limits
    /// are divided by.
    pub node: Option<NodeName>,
    /// The clock.
    pub clock: Clock,
    /// Where work in the background runs.
    pub runtime: Handle,
}

/// What an admitted request was charged. Settled once, at the exchange's end; one that is dropped counts as committed, and
/// its slots expire by themselves.
#[derive(Debug)]
pub struct Permit {
    held: Held,
    readings: Arc<[Reading]>,
}

/// Where there is something to settle.
#[derive(Debug)]
enum Held {
    /// Nowhere.
    Nothing,
    /// In this process.
    InProcess(PermitRecord),
    /// In the shared counters, until then.
    Shared(PermitRecord, i64),
    /// So many units of a batch.
    Batch(Arc<Batch>, u32),
    /// In this node's shares, while the shared counters are away.
    Alone(Box<TakenAlone>),
}

impl Permit {
    /// Of a request that nothing limits.
    pub fn unlimited() -> Self {
        Self { held: Held::Nothing, readings: Arc::default() }
    }

    /// What its limits read after it was charged.
    pub fn readings(&self) -> &Arc<[Reading]> {
        &self.readings
    }
}

/// Why a demand was not granted. Nothing was charged.
#[derive(Debug)]
pub enum NotGranted {
    /// A limit refuses.
    Refused(Box<Refused>),
    /// The counters can't answer, and this limit refuses then.
    Closed {
        /// The limit.
        limit: LimitId,
        /// Why they can't.
        error: StoreError,
        /// Every limit, as far as this node knows.
        readings: Vec<Reading>,
    },
}

impl Quotas {
    /// Counters in this process, of the default capacity.
    pub fn in_process() -> Self {
        Self(Where::InProcess(Box::new(MemoryCounters::new(Capacity::default()))))
    }

    /// Counters that all nodes share. Made whether Redis is there or not.
    pub fn shared(settings: SharedSettings) -> Self {
        let SharedSettings { url, deadline, node, clock, runtime } = settings;
        let link = Link::new(url, deadline, &runtime);
        let store = Redis {
            presence: Presence::new(link.clone(), node, &runtime),
            counters: RedisCounters::new(link, ClockOf::Redis),
        };
        Self(Where::Shared(Shared::new(store, deadline, clock, runtime)))
    }

    /// Charges all limits of the demand, or none.
    pub async fn reserve(&self, demand: &Demand, now: i64) -> Result<Permit, NotGranted> {
        let counters = match &self.0 {
            Where::InProcess(counters) => counters,
            Where::Shared(shared) => return shared.reserve(demand, now).await,
        };
        match counters.reserve(demand, now).await {
            Ok(Verdict::Admitted { permit, readings }) => {
                Ok(Permit { held: Held::InProcess(permit), readings: readings.into() })
            }
            Ok(Verdict::Refused(refused)) => Err(NotGranted::Refused(Box::new(refused))),
            // There is no room for more counters.
            Err(error) => {
                let (record, readings) = local::in_part(counters, demand, error, now)?;
                let held = record.map_or(Held::Nothing, Held::InProcess);
                Ok(Permit { held, readings: readings.into() })
            }
        }
    }

    /// Ends a permit: commits, refunds or corrects what may be, and frees its slots. Never waits.
    pub fn settle(&self, permit: Permit, settlement: Settlement, now: i64) {
        match (&self.0, permit.held) {
            (Where::InProcess(counters), Held::InProcess(record)) => {
                counters.settle_now(&record, settlement, now);
            }
            (Where::Shared(shared), Held::Shared(record, until)) => {
                shared.settle(record, settlement, until);
            }
            (Where::Shared(shared), Held::Alone(taken)) => {
                shared.settle_alone(*taken, settlement, now);
            }
            (_, Held::Batch(batch, cost)) => batch.end(cost, settlement),
            (_, Held::Nothing)
            | (Where::InProcess(_), Held::Shared(..) | Held::Alone(_))
            | (Where::Shared(_), Held::InProcess(_)) => {}
        }
    }

    /// What a request of this demand would find, in its order. Charges nothing. Of shared counters that can't answer: what
    /// this node knows, with [`Reading::degraded`].
    pub async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        match &self.0 {
            Where::InProcess(counters) => counters.peek(demand, now).await,
            Where::Shared(shared) => Ok(shared.peek(demand, now).await),
        }
    }

    /// Sets the demand's rates and quotas to unused; slots stay with those who hold them. Units that other nodes hold in
    /// advance last for half a second.
    pub async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        match &self.0 {
            Where::InProcess(counters) => counters.reset(demand, now).await,
            Where::Shared(shared) => shared.reset(demand, now).await,
        }
    }

    /// The counters of this process, where nobody else counts.
    pub fn in_this_process(&self) -> Option<&MemoryCounters> {
        match &self.0 {
            Where::InProcess(counters) => Some(counters),
            Where::Shared(_) => None,
        }
    }

    /// Who decides now, and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        match &self.0 {
            Where::InProcess(_) => watch::channel(Standing::InProcess).1,
            Where::Shared(shared) => shared.standing(),
        }
    }

    /// What shared counters did; `None` in process.
    pub fn counts(&self) -> Option<Arc<Counts>> {
        match &self.0 {
            Where::InProcess(_) => None,
            Where::Shared(shared) => Some(Arc::clone(shared.counts())),
        }
    }

    /// Forgets what is at rest in this process. Called about once a second.
    pub fn sweep(&self, now: i64) {
        match &self.0 {
            Where::InProcess(counters) => counters.sweep(now),
            Where::Shared(shared) => shared.sweep(now),
        }
    }

    /// Settles what has ended and gives back what was taken in advance, as far as that goes in this time: the process is
    /// about to end.
    pub async fn close(&self, within: Duration) {
        match &self.0 {
            Where::InProcess(_) => {}
            Where::Shared(shared) => shared.close(within).await,
        }
    }
}
