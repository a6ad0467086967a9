//! Counters that nodes share, and what keeps requests from waiting for them: a breaker, batches, remembered refusals, a
//! queue of settlements, and shares of the limits for when they are away.
//!
//! Invariants: a demand is decided within the deadline, whatever becomes of the store; all its limits are charged in one
//! place or none is; a permit is settled where it was taken.

use super::batch::{Bought, Share};
use super::breaker::{Breaker, PROBE_EVERY, PROBE_JITTER};
use super::groups::{Group, Groups, Here, Refill};
use super::local::Alone;
use super::settling::{AGAIN_AFTER, Ended, Ending, Progress, Queue, matters};
use super::standing::{Counts, Standing};
use super::store::Store;
use super::{Held, NotGranted, Permit};
use crate::counters::{Capacity, MemoryCounters};
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Calendar, Counted, CounterKey, Demand, Kind, Limit, LimitMode, OnStoreError, Part, Per,
    PermitId, PermitRecord, Reading, Refused, Settlement, Verdict,
};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How a probe's limit is called: no limit of a document can be.
const PROBE_LIMIT: &str = "probe:";
/// Between two looks whether everything is settled.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

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

/// Tenants whose counters fail together.
struct Lane {
    breaker: Breaker,
    /// This node's shares, while the store is away.
    alone: MemoryCounters,
    ended: Arc<Queue>,
    /// The tenant whose demand failed last: the lane is probed with a counter of its own.
    failed: Mutex<Option<TenantId>>,
}

/// What the store decided.
type Decided = Result<Permit, Refused>;

/// A permit that was taken without the store.
#[derive(Debug)]
pub(super) struct TakenAlone {
    /// What there is to settle here.
    record: Option<PermitRecord>,
    /// What the store may have charged.
    unanswered: Option<Unanswered>,
}

/// A demand that the store was asked for and did not answer in time: it may have been charged.
#[derive(Debug)]
struct Unanswered {
    demand: Box<Demand>,
    /// Whether it was asked for more than the demand's cost.
    is_refill: bool,
    until: i64,
}

impl Unanswered {
    fn ending(self, settlement: Settlement) -> Ending {
        let settlement = match settlement {
            Settlement::Commit if self.is_refill => Settlement::Cost(self.demand.cost),
            settlement => settlement,
        };
        Ending { permit: Ended::Unknown(self.demand), settlement, until: self.until }
    }

    /// Whether settling it so could change anything.
    fn matters(&self, settlement: Settlement) -> bool {
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
struct Asking<'a> {
    queue: &'a Queue,
    unanswered: Option<(&'a Demand, bool)>,
    until: i64,
}

impl Asking<'_> {
    fn answered(mut self) {
        self.unanswered = None;
    }

    fn failed(mut self, error: &StoreError) -> Option<Unanswered> {
        let (demand, is_refill) = self.unanswered.take()?;
        let unknown = matches!(error, StoreError::TimedOut(_));
        unknown.then(|| self.of(demand, is_refill))
    }

    fn of(&self, demand: &Demand, is_refill: bool) -> Unanswered {
        Unanswered { demand: Box::new(demand.clone()), is_refill, until: self.until }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some((demand, is_refill)) = self.unanswered.take() {
            let unanswered = self.of(demand, is_refill);
            if unanswered.matters(Settlement::Refund) {
                self.queue.push(unanswered.ending(Settlement::Refund));
            }
        }
    }
}

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
        let lane = |_| Lane {
            breaker: Breaker::default(),
            alone: MemoryCounters::new(Capacity::default()),
            ended: Arc::new(Queue::new(Arc::clone(&counts))),
            failed: Mutex::default(),
        };
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
        for (place, lane) in shared.lanes.iter().enumerate() {
            runtime.spawn(settle(Weak::clone(&shared.me), place, Arc::clone(&lane.ended)));
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
        let unanswered = Some((demand, refill.is_some()));
        let asking = Asking { queue: &lane.ended, unanswered, until: demand.until(now) };
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

    /// Settles what is known to be over, as far as that goes in this time.
    pub(super) async fn flush(&self, within: Duration) {
        self.groups.close();
        let settled = async {
            while !self.lanes.iter().all(|lane| lane.ended.is_empty()) {
                tokio::time::sleep(FLUSH_LOOK).await;
            }
        };
        if tokio::time::timeout(within, settled).await.is_err() {
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

    /// A command failed. The last one that is needed for it opens the lane's breaker.
    fn failed(&self, place: usize, tenant: &TenantId, error: &StoreError, now: i64) {
        let Some(lane) = self.lanes.get(place) else { return };
        // The store answered; it is this tenant's counters that are not as they should be.
        if matches!(error, StoreError::Unreadable(_)) {
            tracing::error!(%tenant, %error, "a tenant's counters can't be read");
            return;
        }
        if !lane.breaker.failed(now) {
            return;
        }
        *lane.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(tenant.clone());
        if self.stand() {
            tracing::warn!(%error, "the shared counters can't answer: on_store_error holds");
        }
        self.runtime.spawn(probe(Weak::clone(&self.me), place));
    }

    /// Shows where they stand. Whether they became degraded, or are no longer.
    fn stand(&self) -> bool {
        let nodes = self.nodes();
        let since = self.lanes.iter().filter_map(|lane| lane.breaker.open_since()).min();
        let now = match since {
            Some(since) => Standing::Degraded { since, nodes },
            None => Standing::Shared { nodes },
        };
        let mut turned = false;
        self.standing.send_if_modified(|standing| {
            turned = std::mem::discriminant(standing) != std::mem::discriminant(&now);
            let changed = *standing != now;
            *standing = now;
            changed
        });
        turned
    }

    /// Asks a lane that is away whether it is back. Whether it is.
    async fn probe(&self, place: usize) -> bool {
        let Some(lane) = self.lanes.get(place) else { return true };
        let tenant = lane.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tenant) = tenant else { return true };
        let demand = probe_demand(tenant);
        let asked = self.command(self.store.reserve(&demand, self.clock.micros()));
        match self.in_time(asked).await {
            Ok(_) | Err(StoreError::Unreadable(_)) => {}
            Err(_) => return false,
        }
        let now = self.clock.micros();
        let since = lane.breaker.open_since().unwrap_or(now);
        lane.breaker.probe_answered(now);
        lane.alone.clear();
        lane.ended.wake();
        if self.stand() {
            let seconds = now.saturating_sub(since) / 1_000_000;
            tracing::info!(seconds, "the shared counters answer again");
        }
        true
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

/// Settles what ends in a lane, as long as somebody has the counters.
async fn settle<S: Store>(shared: Weak<Shared<S>>, place: usize, queue: Arc<Queue>) {
    loop {
        queue.filled().await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            let Some(lane) = shared.lanes.get(place) else { return };
            if lane.breaker.is_open() {
                // Whoever closes it wakes us.
                break;
            }
            let progress = queue.settle(&shared.store, shared.clock.micros()).await;
            drop(shared);
            match progress {
                Progress::Idle => break,
                Progress::Settled => {}
                Progress::Unconfirmed => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }
}

/// Probes a lane until it is back.
async fn probe<S: Store>(shared: Weak<Shared<S>>, place: usize) {
    let hasher = RandomState::new();
    for turn in 0_u64.. {
        let most = u64::try_from(PROBE_JITTER.as_micros()).unwrap_or(0);
        let jitter = Duration::from_micros(hasher.hash_one(turn) % most.max(1));
        tokio::time::sleep(PROBE_EVERY + jitter).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.probe(place).await {
            return;
        }
    }
}

/// A demand that writes a counter beside the tenant's own, and is not refused.
fn probe_demand(tenant: TenantId) -> Demand {
    let rate = "1000/s".parse().expect("a rate");
    let limit = Limit {
        id: PROBE_LIMIT.into(),
        kind: Kind::Rate { rate, burst: 1_000 },
        per: Per::Tenant,
        exact: true,
        mode: LimitMode::Enforce,
        on_store_error: OnStoreError::Open,
    };
    let key = CounterKey { limit: limit.id.clone(), part: Part::Tenant };
    Demand {
        permit: PermitId(0),
        tenant,
        calendar: Calendar::UTC,
        cost: 1,
        costs_later: false,
        permit_ttl: 0,
        limits: vec![Counted { key, limit: Arc::new(limit) }],
    }
}
