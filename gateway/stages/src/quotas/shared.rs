//! Counters that nodes share, and what keeps requests from waiting for them: a breaker, batches, remembered refusals, a
//! queue of settlements, and shares of the limits for when they are away.
//!
//! Invariants: a demand is decided within the deadline, whatever becomes of the store; all its limits are charged in one
//! place or none is; a permit is settled where it was taken.

mod lane;
mod unanswered;

pub(super) use unanswered::TakenAlone;

use super::batch::{Bought, Share};
use super::groups::{Group, Groups, Here, Refill};
use super::local::Alone;
use super::settling::{Ended, Ending, Queue, matters};
use super::standing::{Counts, Standing};
use super::store::Store;
use super::{Held, NotGranted, Permit};
use lane::Lane;
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{Demand, PermitRecord, Reading, Refused, Settlement, Verdict};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use unanswered::{Asking, Unanswered};

/// Between two looks whether everything is settled.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Counters that nodes share.
pub(crate) struct Shared<S> {
    store: S,
    groups: Groups,
    lanes: Box<[Lane]>,
    deadline: Duration,
    clock: Clock,
    runtime: Handle,
    standing: watch::Sender<Standing>,
    counts: Arc<Counts>,
    me: Weak<Self>,
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
        let lane = |_| Lane::new(&counts);
        let lanes: Box<[Lane]> = (0..store.lanes().max(1)).map(lane).collect();
        let standing = Standing::Shared { nodes: store.nodes().max(1) };
        let shared = Arc::new_cyclic(|me| Self {
            store,
            groups: Groups::default(),
            lanes,
            deadline,
            clock,
            runtime: runtime.clone(),
            standing: watch::Sender::new(standing),
            counts,
            me: Weak::clone(me),
        });
        for (place, of) in shared.lanes.iter().enumerate() {
            runtime.spawn(lane::settle(Weak::clone(&shared.me), place, Arc::clone(&of.ended)));
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
        let (place, lane) = self.lane(&demand.tenant);
        if lane.breaker.is_open() {
            let away = StoreError::Unavailable("the shared counters are away".to_owned());
            return self.alone(lane, group, demand, now).decide(away, None);
        }
        let refill = group.and_then(|group| group.refill(demand, self.nodes(), now));
        let asking = Asking {
            queue: &lane.ended,
            demand: Some(demand),
            is_refill: refill.is_some(),
            until: demand.until(now),
        };
        match self.in_time(self.ask(lane, group, refill, demand, now)).await {
            Ok(decided) => {
                asking.answered();
                lane.breaker.answered(now);
                self.counts.decided_by_store.add();
                decided.map_err(|refused| NotGranted::Refused(Box::new(refused)))
            }
            Err(error) => {
                let unanswered = asking.failed(&error);
                self.failed(place, &demand.tenant, &error, now);
                self.alone(lane, group, demand, now).decide(error, unanswered)
            }
        }
    }

    /// Asks the store: for some units in advance where that is worth it, else for the demand alone.
    async fn ask(
        &self,
        lane: &Lane,
        group: Option<&Group>,
        refill: Option<Refill<'_>>,
        demand: &Demand,
        now: i64,
    ) -> Result<Decided, StoreError> {
        if let Some(refill) = refill
            && let Some(permit) = self.prepay(lane, refill, demand, now).await?
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
        lane: &Lane,
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
            queue: Arc::clone(&lane.ended),
        });
        Ok(share.map(granted))
    }

    /// Ends a permit that the store gave. Never waits.
    pub(super) fn settle(&self, record: PermitRecord, settlement: Settlement, until: i64) {
        if matters(&record, settlement) {
            let (_, lane) = self.lane(&record.tenant);
            lane.ended.push(Ending { permit: Ended::Given(record), settlement, until });
        }
    }

    /// Ends a permit that this node gave alone. Never waits.
    pub(super) fn settle_alone(&self, taken: TakenAlone, settlement: Settlement, now: i64) {
        let TakenAlone { record, unanswered } = taken;
        if let Some(record) = record {
            self.lane(&record.tenant).1.alone.settle_now(&record, settlement, now);
        }
        if let Some(unanswered) = unanswered.filter(|unanswered| unanswered.matters(settlement)) {
            let (_, lane) = self.lane(&unanswered.demand.tenant);
            lane.ended.push(unanswered.ending(settlement));
        }
    }

    /// What a request of this demand would find; of limits that can't be asked for, what this node knows.
    pub(super) async fn peek(&self, demand: &Demand, now: i64) -> Vec<Reading> {
        let (place, lane) = self.lane(&demand.tenant);
        if !lane.breaker.is_open() {
            match self.in_time(self.command(self.store.peek(demand, now))).await {
                Ok(readings) => {
                    lane.breaker.answered(now);
                    return readings;
                }
                Err(error) => self.failed(place, &demand.tenant, &error, now),
            }
        }
        let group = self.groups.of(demand, now);
        self.alone(lane, group.as_deref(), demand, now).view.peek()
    }

    /// Sets the demand's rates and quotas to unused. What other nodes took in advance lasts for as long as a batch does.
    pub(super) async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        let (place, lane) = self.lane(&demand.tenant);
        if lane.breaker.is_open() {
            return Err(StoreError::Unavailable("the shared counters are away".to_owned()));
        }
        match self.in_time(self.command(self.store.reset(demand, now))).await {
            Ok(()) => {
                lane.breaker.answered(now);
                self.groups.reset(&demand.tenant);
                Ok(())
            }
            Err(error) => {
                self.failed(place, &demand.tenant, &error, now);
                Err(error)
            }
        }
    }

    /// Forgets what is at rest, and shares that are not needed any more; looks how many nodes there are.
    pub(super) fn sweep(&self, now: i64) {
        self.groups.sweep(now);
        for lane in &self.lanes {
            // A demand that failed alone was decided by a share, which is out of date by now.
            if lane.breaker.is_calm() && lane.alone.kept() > 0 {
                lane.alone.clear();
            }
            lane.alone.sweep(now);
        }
        self.stand();
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
        lane: &'a Lane,
        group: Option<&'a Group>,
        demand: &'a Demand,
        now: i64,
    ) -> AloneIn<'a, S> {
        let view = Alone { counters: &lane.alone, group, nodes: self.nodes(), demand, now };
        AloneIn { shared: self, queue: &lane.ended, view }
    }

    fn nodes(&self) -> u32 {
        self.store.nodes().max(1)
    }

    fn lane(&self, tenant: &TenantId) -> (usize, &Lane) {
        let place = self.store.lane(tenant).min(self.lanes.len() - 1);
        (place, self.lanes.get(place).expect("a place below the number of lanes"))
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
    queue: &'a Queue,
    view: Alone<'a>,
}

impl<S> AloneIn<'_, S> {
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
                    self.queue.push(unanswered.ending(Settlement::Refund));
                }
                Err(reason)
            }
        }
    }
}

fn granted(share: Share) -> Permit {
    let readings = share.readings();
    Permit { held: Held::Batch(share.batch, share.cost), readings }
}
