//! Counters in this process: for one node, for tests, and for a node's own share while the shared store is away.
//!
//! Invariants: a tenant's limits are decided under one short lock, which is never held across an await; what is at rest is
//! forgotten, and how much is kept is bounded by [`Capacity`]. What is decided, [`Tally`] decides.

use crate::due::Due;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    CounterKey, Counters, Demand, PermitRecord, Reading, Settlement, Tally, Verdict,
};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tenants of different shards never wait for each other. A power of two.
const SHARDS: usize = 64;
/// How many counters a request looks at, per limit of its own, to forget those at rest: more than it can add.
const LOOKS_PER_LIMIT: usize = 2;
/// How many counters of each shard are looked at when the store is full.
const LOOKS_WHEN_FULL: usize = 256;

/// How much is kept. Beyond it a request gets [`StoreError::Full`], and its limits' `on_store_error` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Counters of all tenants; one takes about 300 bytes.
    pub counters: usize,
    /// Counters of one tenant, so that one with very many addresses leaves room for the others.
    pub counters_per_tenant: usize,
    /// Permits of one tenant that were not settled yet.
    pub permits_per_tenant: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { counters: 500_000, counters_per_tenant: 50_000, permits_per_tenant: 20_000 }
    }
}

/// Counters in this process.
#[derive(Debug)]
pub struct MemoryCounters {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Counters kept in all shards.
    kept: AtomicUsize,
    capacity: Capacity,
}

#[derive(Debug, Default)]
struct Shard {
    tallies: HashMap<TenantId, Tally>,
    due: Due<(TenantId, CounterKey)>,
}

impl MemoryCounters {
    /// Counters of which nothing is used.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            kept: AtomicUsize::new(0),
            capacity,
        }
    }

    /// How many counters are kept.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Forgets counters at rest, a bounded number of each shard that is not in use just now.
    pub fn sweep(&self, now: i64) {
        for shard in &self.shards {
            if let Ok(mut shard) = shard.try_lock() {
                self.forget(&mut shard, LOOKS_WHEN_FULL, now);
            }
        }
    }

    fn decide(&self, demand: &Demand, now: i64) -> Result<Verdict, StoreError> {
        let mut shard = self.shard(&demand.tenant);
        self.forget(&mut shard, LOOKS_PER_LIMIT * demand.limits.len(), now);
        let Shard { tallies, due } = &mut *shard;
        let tally = match tallies.get_mut(&demand.tenant) {
            Some(tally) => tally,
            None => tallies.entry(demand.tenant.clone()).or_default(),
        };
        let is_new = |key: &&CounterKey| !tally.has(key);
        let new: Vec<_> =
            demand.limits.iter().map(|counted| &counted.key).filter(is_new).cloned().collect();
        if tally.counters() + new.len() > self.capacity.counters_per_tenant {
            return Err(StoreError::Full("counters of a tenant"));
        }
        if tally.open(now) >= self.capacity.permits_per_tenant {
            return Err(StoreError::Full("open permits of a tenant"));
        }
        if self.kept.fetch_add(new.len(), Ordering::Relaxed) + new.len() > self.capacity.counters {
            self.kept.fetch_sub(new.len(), Ordering::Relaxed);
            return Err(StoreError::Full("counters"));
        }
        let verdict = tally.reserve(demand, now);
        let mut unused = new.len();
        for key in new {
            if let Some(at) = tally.rests_at(&key) {
                due.insert(at, (demand.tenant.clone(), key));
                unused -= 1;
            }
        }
        self.kept.fetch_sub(unused, Ordering::Relaxed);
        Ok(verdict)
    }

    fn forget(&self, shard: &mut Shard, looks: usize, now: i64) {
        for _ in 0..looks {
            let Some((tenant, key)) = shard.due.pop(now) else { return };
            let Some(tally) = shard.tallies.get_mut(&tenant) else { continue };
            let before = tally.counters();
            match tally.evict(&key, now) {
                Some(at) => shard.due.insert(at, (tenant, key)),
                None => {
                    self.kept.fetch_sub(before - tally.counters(), Ordering::Relaxed);
                    if tally.counters() == 0 && tally.open(now) == 0 {
                        shard.tallies.remove(&tenant);
                    }
                }
            }
        }
    }

    fn shard(&self, tenant: &TenantId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(tenant);
        let place = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(place).expect("a hash modulo the number of shards");
        // A tally is whole after every step that could panic.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters for MemoryCounters {
    async fn reserve(&self, demand: &Demand, now: i64) -> Result<Verdict, StoreError> {
        match self.decide(demand, now) {
            Err(StoreError::Full(_)) => {
                self.sweep(now);
                self.decide(demand, now)
            }
            decided => decided,
        }
    }

    async fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        if let Some(tally) = self.shard(&permit.tenant).tallies.get_mut(&permit.tenant) {
            tally.settle(permit, settlement, now);
        }
        Ok(())
    }

    async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        Ok(match self.shard(&demand.tenant).tallies.get(&demand.tenant) {
            Some(tally) => tally.peek(demand, now),
            None => Tally::default().peek(demand, now),
        })
    }

    async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        if let Some(tally) = self.shard(&demand.tenant).tallies.get_mut(&demand.tenant) {
            tally.reset(demand, now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use model::quota::suite::START;
    use model::quota::{Counted, Kind, Limit, OnStoreError, Part, Per, PermitId};
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Barrier};
    use std::task::{Context, Poll, Waker};

    model::counters_suite!(async { (MemoryCounters::new(Capacity::default()), ()) });

    /// What a future that never waits yields.
    fn now_or_never<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn demand(id: u128, tenant: &str, address: u32, kind: Kind) -> Demand {
        let part = Part::Ip(Ipv4Addr::from(address).into());
        let limit =
            Limit { id: "x".into(), kind, per: Per::Ip, on_store_error: OnStoreError::Closed };
        let key = CounterKey { limit: limit.id.clone(), route: None, part };
        Demand {
            permit: PermitId(id),
            tenant: tenant.into(),
            zone: TimeZone::UTC,
            cost: 1,
            permit_ttl: 40_000_000,
            limits: vec![Counted { key, limit: Arc::new(limit) }],
        }
    }

    fn rate() -> Kind {
        Kind::Rate { rate: "1/s".parse().unwrap(), burst: 10 }
    }

    fn admit(store: &MemoryCounters, demand: &Demand, now: i64) -> Result<bool, StoreError> {
        let verdict = now_or_never(store.reserve(demand, now))?;
        if let Verdict::Admitted { permit, .. } = &verdict {
            now_or_never(store.settle(permit, Settlement::Commit, now))?;
        }
        Ok(matches!(verdict, Verdict::Admitted { .. }))
    }

    #[test]
    fn a_hundred_threads_get_exactly_ten() {
        for kind in [rate(), Kind::Quota("10/day".parse().unwrap()), Kind::Concurrency(10)] {
            let store = MemoryCounters::new(Capacity::default());
            let (barrier, admitted) = (Barrier::new(100), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for id in 0..100 {
                    let (store, barrier, admitted) = (&store, &barrier, &admitted);
                    scope.spawn(move || {
                        let demand = demand(id, "acme", 1, kind);
                        barrier.wait();
                        let verdict = now_or_never(store.reserve(&demand, START)).unwrap();
                        if matches!(verdict, Verdict::Admitted { .. }) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(admitted.into_inner(), 10, "{kind:?}");
        }
    }

    #[test]
    fn very_many_addresses_leave_nothing_behind() {
        let store = MemoryCounters::new(Capacity::default());
        // 2,000 new addresses a second, each counter at rest a second later.
        let mut most = 0;
        for id in 0..200_000_u32 {
            let now = START + i64::from(id) * 500;
            assert!(admit(&store, &demand(id.into(), "acme", id, rate()), now).unwrap());
            most = most.max(store.kept());
        }
        assert!(most <= 2_100, "{most} counters were kept");
        for _ in 0..SHARDS {
            store.sweep(START + 3_600_000_000);
        }
        assert_eq!(store.kept(), 0);
        assert!(store.shards.iter().all(|shard| {
            let shard = shard.lock().unwrap();
            shard.tallies.is_empty()
        }));
    }

    #[test]
    fn a_tenant_that_is_full_leaves_room_for_others() {
        let capacity = Capacity { counters: 8, counters_per_tenant: 5, permits_per_tenant: 100 };
        let store = MemoryCounters::new(capacity);
        for id in 0..5 {
            assert!(admit(&store, &demand(id.into(), "acme", id, rate()), START).unwrap());
        }
        let full = admit(&store, &demand(5, "acme", 5, rate()), START);
        assert!(matches!(full, Err(StoreError::Full("counters of a tenant"))), "{full:?}");
        // Those that are there go on counting.
        assert!(admit(&store, &demand(6, "acme", 0, rate()), START).unwrap());
        for id in 0..3 {
            assert!(admit(&store, &demand(id.into(), "globex", id, rate()), START).unwrap());
        }
        let full = admit(&store, &demand(9, "initech", 9, rate()), START);
        assert!(matches!(full, Err(StoreError::Full("counters"))), "{full:?}");
        // Once some are at rest, room is made at once, in whatever shard they are.
        assert!(admit(&store, &demand(9, "initech", 9, rate()), START + 2_000_001).unwrap());
        assert_eq!(store.kept(), 1);
    }

    #[test]
    fn permits_that_nobody_settles_are_bounded() {
        let capacity = Capacity { counters: 8, counters_per_tenant: 5, permits_per_tenant: 3 };
        let store = MemoryCounters::new(capacity);
        let quota = Kind::Quota("10/day".parse().unwrap());
        for id in 0..3 {
            now_or_never(store.reserve(&demand(id, "acme", 1, quota), START)).unwrap();
        }
        let full = now_or_never(store.reserve(&demand(4, "acme", 1, quota), START));
        assert!(matches!(full, Err(StoreError::Full("open permits of a tenant"))), "{full:?}");
        now_or_never(store.reserve(&demand(4, "acme", 1, quota), START + 40_000_000)).unwrap();
    }
}
