//! Shared counters whose store can be told to fail: [`Frail`].

mod ahead;
mod away;
mod real;

use super::shared::Shared;
use super::store::Store;
use super::{NotGranted, Permit};
use crate::counters::{Capacity, MemoryCounters};
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::suite::START;
use model::quota::{
    Calendar, Counted, CounterKey, Counters, Demand, Kind, Limit, LimitMode, OnStoreError, Part,
    Per, PermitId, PermitRecord, Reading, Settlement, Verdict,
};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Long enough for a store that answers, short enough for a test of one that does not.
const DEADLINE: Duration = Duration::from_millis(10);

/// How a store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// It refuses at once.
    Gone,
    /// There is no connection to it.
    Lost,
    /// It does nothing and never answers.
    Deaf,
    /// It does what it is told and never answers.
    Mute,
    /// It can't write.
    Full,
    /// It does what it is told, and breaks off before it answers.
    Broken,
    /// What it holds can't be read.
    Garbled,
}

/// Counters of several nodes, as one of them sees them.
#[derive(Clone)]
struct Frail {
    counters: Arc<MemoryCounters>,
    mood: Arc<Mutex<Mood>>,
    nodes: Arc<AtomicU32>,
    /// How often it was asked to decide.
    asked: Arc<AtomicUsize>,
    /// A tenant whose counters are gone, whatever its mood is.
    ill: Arc<Mutex<Option<TenantId>>>,
}

impl Frail {
    fn new(nodes: u32) -> Self {
        Self {
            counters: Arc::new(MemoryCounters::new(Capacity::default())),
            mood: Arc::new(Mutex::new(Mood::Well)),
            nodes: Arc::new(AtomicU32::new(nodes)),
            asked: Arc::default(),
            ill: Arc::default(),
        }
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn answer<T>(&self, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => Ok(work()),
            Mood::Gone | Mood::Lost => Err(StoreError::Unavailable("gone".to_owned())),
            Mood::Full => Err(StoreError::Full("memory")),
            Mood::Garbled => Err(StoreError::Unreadable("garbled".to_owned())),
            Mood::Broken => {
                work();
                Err(StoreError::Unanswered("broken".to_owned()))
            }
            Mood::Deaf => std::future::pending().await,
            Mood::Mute => {
                work();
                std::future::pending().await
            }
        }
    }

    /// What is used of each limit, whatever its mood is.
    fn used(&self, demand: &Demand, now: i64) -> Vec<u64> {
        let readings = self.counters.peek_from(demand, now, |_| None);
        readings.iter().map(|reading| reading.used).collect()
    }
}

impl Counters for Frail {
    async fn reserve(&self, demand: &Demand, now: i64) -> Result<Verdict, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.ill.lock().unwrap().as_ref() == Some(&demand.tenant) {
            return Err(StoreError::Unavailable("gone".to_owned()));
        }
        self.answer(|| self.counters.reserve_from(demand, now, |_| None)).await?
    }

    async fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        self.answer(|| self.counters.settle_now(permit, settlement, now)).await
    }

    async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        self.answer(|| self.counters.peek_from(demand, now, |_| None)).await
    }

    async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        self.counters.reset(demand, now).await?;
        self.answer(|| ()).await
    }
}

impl Store for Frail {
    fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    fn is_away(&self) -> bool {
        *self.mood.lock().unwrap() == Mood::Lost
    }

    async fn connected(&self) {
        while self.is_away() {
            tokio::task::yield_now().await;
        }
    }

    fn parts(&self) -> usize {
        2
    }

    fn part(&self, tenant: &TenantId) -> usize {
        usize::from(tenant.as_str() == "elsewhere")
    }

    async fn settle_all(
        &self,
        endings: &[(PermitRecord, Settlement)],
        now: i64,
    ) -> Vec<Result<(), StoreError>> {
        let mut settled = Vec::new();
        for (permit, settlement) in endings {
            let work = tokio::time::timeout(DEADLINE, self.settle(permit, *settlement, now));
            settled.push(work.await.unwrap_or(Err(StoreError::TimedOut(DEADLINE))));
        }
        settled
    }

    async fn settle_unknown(
        &self,
        demand: &Demand,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        let tenant = demand.tenant.clone();
        let permit = PermitRecord { id: demand.permit, tenant, charges: [].into() };
        self.settle_all(&[(permit, settlement)], now).await.remove(0)
    }

    async fn leave(&self) {
        self.nodes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One node's shared counters.
struct Node {
    quotas: Arc<Shared<Frail>>,
    store: Frail,
    clock: Clock,
}

impl Node {
    fn new(store: &Frail, clock: &Clock) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let quotas = Shared::new(store.clone(), DEADLINE, clock.clone(), runtime);
        Self { quotas, store: store.clone(), clock: clock.clone() }
    }

    async fn reserve(&self, demand: &Demand) -> Result<Permit, NotGranted> {
        self.quotas.reserve(demand, self.clock.micros()).await
    }

    /// The same as [`Quotas::settle`](super::Quotas::settle).
    fn settle(&self, permit: Permit, settlement: Settlement) {
        use super::Held;
        match permit.held {
            Held::Shared(record, until) => self.quotas.settle(record, settlement, until),
            Held::Alone(taken) => self.quotas.settle_alone(*taken, settlement, self.clock.micros()),
            Held::Batch(batch, cost) => batch.end(cost, settlement),
            Held::Nothing | Held::InProcess(_) => {}
        }
    }

    /// Until what has ended is settled.
    async fn settled(&self) {
        self.quotas.close(Duration::from_secs(5)).await;
    }

    /// What is used of each limit by the store's own account.
    fn used(&self, demand: &Demand) -> Vec<u64> {
        self.store.used(demand, self.clock.micros())
    }
}

fn clock() -> Clock {
    Clock::manual(jiff::Timestamp::from_microsecond(START).unwrap())
}

fn rate(text: &str, burst: u32) -> Kind {
    Kind::Rate { rate: text.parse().unwrap(), burst }
}

fn quota(text: &str) -> Kind {
    Kind::Quota(text.parse().unwrap())
}

/// A demand of these limits, which enforce.
fn demand(permit: u128, cost: u32, limits: &[(&str, Kind, OnStoreError)]) -> Demand {
    let counted = |(id, kind, on_store_error): &(&str, Kind, OnStoreError)| Counted {
        key: CounterKey { limit: (*id).into(), part: Part::Tenant },
        limit: Arc::new(Limit {
            id: (*id).into(),
            kind: *kind,
            per: Per::Tenant,
            exact: false,
            mode: LimitMode::Enforce,
            on_store_error: *on_store_error,
        }),
    };
    Demand {
        permit: PermitId(permit),
        tenant: "acme".into(),
        calendar: Calendar::UTC,
        cost,
        costs_later: false,
        permit_ttl: 40_000_000,
        limits: limits.iter().map(counted).collect(),
    }
}
