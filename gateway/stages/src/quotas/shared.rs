//! Counters that nodes share, and what keeps requests from waiting for them: a breaker, batches, remembered refusals, a
//! queue of settlements, and shares of the limits for when they are away.
//!
//! Invariants: a demand is decided within the deadline, whatever becomes of the store; all its limits are charged in one
//! place or none is; a permit is settled where it was taken.

mod lane;
mod unanswered;

pub(super) use unanswered::TakenAlone;

use super::batch::{Bought, Share};
use super::breaker::Breaker;
use super::groups::{Group, Groups, Here, Refill};
use super::local::Alone;
use super::settling::{Ended, Ending, matters};
use super::standing::{Counts, Standing};
use super::store::Store;
use super::{Held, NotGranted, Permit};
use crate::counters::{Capacity, MemoryCounters};
use lane::Lane;
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{Demand, PermitRecord, Reading, Refused, Settlement, Verdict};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use unanswered::{Asking, Unanswered, may_have_run};

/// Parts of the store are worked on in so many lanes at most.
const LANES_MAX: usize = 16;
/// Between two looks whether everything is settled.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Counters that nodes share.
pub(crate) struct Shared<S> {
    store: S,
    groups: Groups,
    /// Of each part of the store.
    breakers: Box<[Breaker]>,
    /// How many of them are open.
    open: AtomicUsize,
    lanes: Box<[Lane]>,
    /// This node's shares, for tenants whose counters are away.
    alone: MemoryCounters,
    /// Whose counters could not be read last, and when that was told.
    unreadable: Mutex<Option<(TenantId, i64)>>,
    deadline: Duration,
    clock: Clock,
    runtime: Handle,
    standing: watch::Sender<Standing>,
    counts: Arc<Counts>,
    me: Weak<Self>,
}

/// Where a tenant's counters are.
struct Place<'a> {
    part: usize,
    breaker: &'a Breaker,
    lane: &'a Lane,
}

/// What the store decided.
type Decided = Result<Permit, Refused>;

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        // Whoever settles sees that nobody has them any more.
        self.lanes.iter().for_each(|lane| lane.ended.wake());
    }
}

impl<S: Store> Shared<S> {
    /// Those in this store. Work in the background runs on `runtime`, as long as somebody has them.
    pub(super) fn new(store: S, deadline: Duration, clock: Clock, runtime: Handle) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let parts = store.parts().max(1);
        let lanes = (0..parts.min(LANES_MAX)).map(|_| Lane::new(&counts)).collect();
        let standing = Standing::Shared { nodes: store.nodes().max(1) };
        let shared = Arc::new_cyclic(|me| Self {
            store,
            groups: Groups::default(),
            breakers: (0..parts).map(|_| Breaker::default()).collect(),
            open: AtomicUsize::new(0),
            lanes,
            alone: MemoryCounters::new(Capacity::default()),
            unreadable: Mutex::default(),
            deadline,
            clock,
            runtime: runtime.clone(),
            standing: watch::Sender::new(standing),
            counts,
            me: Weak::clone(me),
        });
        for lane in &shared.lanes {
            runtime.spawn(lane::settle(Weak::clone(&shared.me), Arc::clone(&lane.ended)));
        }
        shared
    }

    /// Where they stand, and whenever that changes.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What they did.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Charges all limits of the demand, or none.
    pub(super) async fn reserve(&self, demand: &Demand, now: i64) -> Result<Permit, NotGranted> {
        let group = self.groups.of(demand, now);
        let group = group.as_deref();
        match group.map_or(Here::Unknown, |group| group.here(demand, now)) {
            Here::Granted(share) => {
                self.counts.decided_by_batch.add();
                return Ok(granted(share));
            }
            Here::Refused(refused) => {
                self.counts.decided_by_refusal.add();
                return Err(NotGranted::Refused(Box::new(refused)));
            }
            Here::Unknown => {}
        }
        let place = self.place(&demand.tenant);
        if place.breaker.is_open() {
            return self.alone(group, demand, now).decide(away(), None);
        }
        let refill = group.and_then(|group| group.refill(demand, self.nodes(), now));
        let asking = Asking {
            queue: &place.lane.ended,
            demand: Some(demand),
            is_refill: refill.is_some(),
            until: demand.until(now),
        };
        // Boxed: what is not asked for need not be carried by every request.
        let asked = Box::pin(self.ask(group, refill, demand, now));
        match self.in_time(asked).await {
            Ok(decided) => {
                asking.answered();
                self.answered(&place, &demand.tenant);
                self.counts.decided_by_store.add();
                decided.map_err(|refused| NotGranted::Refused(Box::new(refused)))
            }
            Err(error) => {
                let unanswered = asking.failed(&error);
                self.failed(&place, &demand.tenant, &error, now);
                self.alone(group, demand, now).decide(error, unanswered)
            }
        }
    }

    /// Asks the store: for some units in advance where that is worth it, else for the demand alone.
    async fn ask(
        &self,
        group: Option<&Group>,
        refill: Option<Refill<'_>>,
        demand: &Demand,
        now: i64,
    ) -> Result<Decided, StoreError> {
        if let Some(refill) = refill
            && let Some(permit) = self.prepay(refill, demand, now).await?
        {
            return Ok(Ok(permit));
        }
        let verdict = self.command(self.store.reserve(demand, now)).await?;
        let answered = self.clock.micros();
        if let Some(group) = group {
            group.see(verdict.readings(), answered);
        }
        Ok(match verdict {
            Verdict::Admitted { permit, readings } => {
                if let Some(group) = group {
                    group.admitted();
                }
                let held = Held::Shared(permit, demand.until(now));
                Ok(Permit { held, readings: readings.into() })
            }
            Verdict::Refused(refused) => {
                if let Some(group) = group {
                    group.refused(&refused, demand.cost, answered);
                }
                Err(refused)
            }
        })
    }

    /// Takes units in advance; `None` when there are not so many.
    async fn prepay(
        &self,
        refill: Refill<'_>,
        demand: &Demand,
        now: i64,
    ) -> Result<Option<Permit>, StoreError> {
        let whole = Demand { cost: refill.units(), ..demand.clone() };
        let verdict = self.command(self.store.reserve(&whole, now)).await?;
        let answered = self.clock.micros();
        let Verdict::Admitted { permit, readings } = verdict else { return Ok(None) };
        refill.see(&readings, answered);
        self.counts.batches.add();
        let share = refill.bought(demand.cost, now, |ahead| Bought {
            record: permit,
            readings,
            asked: now,
            answered,
            until: demand.until(now),
            ahead,
            queue: Arc::clone(&self.place(&demand.tenant).lane.ended),
        });
        Ok(share.map(granted))
    }

    /// Ends a permit that the store gave. Never waits.
    pub(super) fn settle(&self, record: PermitRecord, settlement: Settlement, until: i64) {
        if matters(&record, settlement) {
            let Place { lane, .. } = self.place(&record.tenant);
            lane.ended.push(Ending { permit: Ended::Given(record), settlement, until });
        }
    }

    /// Ends a permit that this node gave alone. Never waits.
    pub(super) fn settle_alone(&self, taken: TakenAlone, settlement: Settlement, now: i64) {
        let TakenAlone { record, unanswered } = taken;
        if let Some(record) = record {
            self.alone.settle_now(&record, settlement, now);
        }
        if let Some(unanswered) = unanswered.filter(|unanswered| unanswered.matters(settlement)) {
            let Place { lane, .. } = self.place(&unanswered.demand.tenant);
            lane.ended.push(unanswered.ending(settlement));
        }
    }

    /// What a request of this demand would find; of limits that can't be asked for, what this node knows. Who only looks
    /// says nothing about whether the store is well: anybody may look as often as they like.
    pub(super) async fn peek(&self, demand: &Demand, now: i64) -> Vec<Reading> {
        if !self.place(&demand.tenant).breaker.is_open()
            && let Ok(readings) = self.in_time(self.command(self.store.peek(demand, now))).await
        {
            return readings;
        }
        let group = self.groups.of(demand, now);
        self.alone(group.as_deref(), demand, now).view.peek()
    }

    /// Sets the demand's rates and quotas to unused. What other nodes took in advance lasts for as long as a batch does.
    /// An operator has the time that the store takes.
    pub(super) async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        if self.place(&demand.tenant).breaker.is_open() {
            return Err(away());
        }
        let done = self.command(self.store.reset(demand, now)).await;
        if done.as_ref().err().is_none_or(may_have_run) {
            self.groups.reset(&demand.tenant);
        }
        done
    }

    /// Forgets what is at rest; looks how many nodes there are, and whether there is a connection: also while nobody asks.
    pub(super) fn sweep(&self, now: i64) {
        self.groups.sweep(now);
        self.alone.sweep(now);
        self.stand(None);
    }

    /// Gives back what was taken in advance, settles what has ended and is no longer one of the nodes, as far as that goes in
    /// this time.
    pub(super) async fn close(&self, within: Duration) {
        self.groups.close();
        let closed = async {
            while !self.lanes.iter().all(|lane| lane.ended.is_empty()) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            self.store.leave().await;
        };
        if tokio::time::timeout(within, closed).await.is_err() {
            tracing::warn!("some permits were not settled; what they hold expires by itself");
        }
    }

    fn alone<'a>(
        &'a self,
        group: Option<&'a Group>,
        demand: &'a Demand,
        now: i64,
    ) -> AloneIn<'a, S> {
        let view = Alone { counters: &self.alone, group, nodes: self.nodes(), demand, now };
        AloneIn { shared: self, view }
    }

    fn nodes(&self) -> u32 {
        self.store.nodes().max(1)
    }

    fn place(&self, tenant: &TenantId) -> Place<'_> {
        let (parts, lanes) = (self.breakers.len(), self.lanes.len());
        let part = self.store.part(tenant).min(parts - 1);
        Place {
            part,
            breaker: self.breakers.get(part).expect("a part below the number of parts"),
            lane: self.lanes.get(part * lanes / parts).expect("a lane below the number of lanes"),
        }
    }

    /// The whole of a decision, in time or not at all.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.deadline, work).await {
            Ok(done) => done,
            Err(_) => {
                self.counts.timed_out.add();
                Err(StoreError::TimedOut(self.deadline))
            }
        }
    }

    async fn command<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let done = work.await;
        match &done {
            Ok(_) => self.counts.answered.add(),
            Err(StoreError::TimedOut(_)) => self.counts.timed_out.add(),
            Err(_) => self.counts.failed.add(),
        }
        done
    }
}

/// A demand that is decided without the store.
struct AloneIn<'a, S> {
    shared: &'a Shared<S>,
    view: Alone<'a>,
}

impl<S: Store> AloneIn<'_, S> {
    fn decide(
        self,
        error: StoreError,
        unanswered: Option<Unanswered>,
    ) -> Result<Permit, NotGranted> {
        self.shared.counts.decided_alone.add();
        match self.view.decide(error) {
            Ok((None, readings)) if unanswered.is_none() => {
                Ok(Permit { held: Held::Nothing, readings: readings.into() })
            }
            Ok((record, readings)) => {
                let taken = Box::new(TakenAlone { record, unanswered });
                Ok(Permit { held: Held::Alone(taken), readings: readings.into() })
            }
            Err(reason) => {
                let given_back = |unanswered: &Unanswered| unanswered.matters(Settlement::Refund);
                if let Some(unanswered) = unanswered.filter(given_back) {
                    let Place { lane, .. } = self.shared.place(&unanswered.demand.tenant);
                    lane.ended.push(unanswered.ending(Settlement::Refund));
                }
                Err(reason)
            }
        }
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("the shared counters are away".to_owned())
}

fn granted(share: Share) -> Permit {
    let readings = share.readings();
    Permit { held: Held::Batch(share.batch, share.cost), readings }
}
