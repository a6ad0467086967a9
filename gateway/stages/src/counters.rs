//! Counters in this process: for one node, for tests, and for a node's own share while the shared store is away.
//!
//! Invariants: a tenant's limits are decided under one short lock, which is never held across an await; what is at rest is
//! forgotten, and how much is kept is bounded by [`Capacity`]. What is decided, [`Tally`] decides.

use crate::due::Due;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Counted, Counter, CounterKey, Counters, Demand, KeptQuota, Kind, PermitRecord, Reading,
    Settlement, Spent, Taken, Tally, Verdict,
};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tenants of different shards never wait for each other. A power of two.
const SHARDS: usize = 64;
/// How many counters a request looks at, per limit of its own, to forget those at rest: more than it can add.
const LOOKS_PER_LIMIT: usize = 2;
/// How many quotas that changed are read under one lock.
const READ_AT_ONCE: usize = 256;
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
    /// Whether quotas that change are remembered.
    is_followed: AtomicBool,
    capacity: Capacity,
}

#[derive(Debug, Default)]
struct Shard {
    tallies: HashMap<TenantId, Tally>,
    due: Due<(TenantId, CounterKey)>,
    /// Quotas that were charged, corrected or set back since somebody asked.
    changed: HashMap<TenantId, HashSet<CounterKey>>,
}

impl MemoryCounters {
    /// Counters of which nothing is used.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            kept: AtomicUsize::new(0),
            is_followed: AtomicBool::new(false),
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

    /// Ends a permit, at once.
    pub fn settle_now(&self, permit: &PermitRecord, settlement: Settlement, now: i64) {
        let mut shard = self.shard(&permit.tenant);
        if let Some(tally) = shard.tallies.get_mut(&permit.tenant) {
            tally.settle(permit, settlement, now);
        }
        if settlement != Settlement::Commit {
            let is_quota = |taken| matches!(taken, Taken::Quota { .. });
            let quotas = permit.charges.iter().filter(|charge| is_quota(charge.taken));
            self.changes(&mut shard, &permit.tenant, quotas.map(|charge| &charge.key));
        }
    }

    /// From now on, remembers which quotas change, for whoever asks for [`changed`](Self::changed) ones.
    pub fn follow(&self) {
        self.is_followed.store(true, Ordering::Relaxed);
    }

    /// The quotas that changed since this was last asked, each as it stands.
    pub fn changed(&self) -> Vec<KeptQuota> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let lock = || shard.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = std::mem::take(&mut lock().changed);
            for (tenant, keys) in changed {
                let keys: Vec<CounterKey> = keys.into_iter().collect();
                for keys in keys.chunks(READ_AT_ONCE) {
                    let shard = lock();
                    let Some(tally) = shard.tallies.get(&tenant) else { break };
                    let kept = |key: &CounterKey| Some(kept(&tenant, key, tally.spent(key)?));
                    all.extend(keys.iter().filter_map(kept));
                }
            }
        }
        all
    }

    /// Takes up quotas that were kept, as far as their windows are not over and there is room: what was used is added to
    /// what was counted since. Says how many there was no room for.
    pub fn restore(&self, kept: Vec<KeptQuota>, now: i64) -> usize {
        let mut left = 0;
        for quota in kept.into_iter().filter(|quota| quota.window.end > now) {
            let KeptQuota { tenant, key, period, window, used } = quota;
            let mut shard = self.shard(&tenant);
            let Shard { tallies, due, .. } = &mut *shard;
            let tally = tallies.entry(tenant.clone()).or_default();
            if !tally.has(&key) {
                if tally.counters() >= self.capacity.counters_per_tenant
                    || self.kept() >= self.capacity.counters
                {
                    left += 1;
                    if tally.counters() == 0 {
                        tallies.remove(&tenant);
                    }
                    continue;
                }
                self.kept.fetch_add(1, Ordering::Relaxed);
                due.insert(window.end, (tenant, key.clone()));
            }
            tally.restore(key, Counter::Spent(Spent::restored(period, window, used)));
        }
        left
    }

    /// Remembers that these quotas changed, if anybody will ask.
    fn changes<'a>(
        &self,
        shard: &mut Shard,
        tenant: &TenantId,
        keys: impl Iterator<Item = &'a CounterKey>,
    ) {
        if !self.is_followed.load(Ordering::Relaxed) {
            return;
        }
        for key in keys {
            let changed = match shard.changed.get_mut(tenant) {
                Some(changed) => changed,
                None => shard.changed.entry(tenant.clone()).or_default(),
            };
            if !changed.contains(key) {
                changed.insert(key.clone());
            }
        }
    }

    /// Charges all limits of the demand, or none, at once. A counter that is not there yet begins as `first` says, or at
    /// rest.
    pub(crate) fn reserve_from(
        &self,
        demand: &Demand,
        now: i64,
        first: impl Fn(&Counted) -> Option<Counter>,
    ) -> Result<Verdict, StoreError> {
        match self.decide(demand, now, &first) {
            Err(StoreError::Full(_)) => {
                self.sweep(now);
                self.decide(demand, now, &first)
            }
            decided => decided,
        }
    }

    /// What a request of this demand would find, where a counter that is not there yet begins as `first` says.
    pub(crate) fn peek_from(
        &self,
        demand: &Demand,
        now: i64,
        first: impl Fn(&Counted) -> Option<Counter>,
    ) -> Vec<Reading> {
        let shard = self.shard(&demand.tenant);
        let tally = shard.tallies.get(&demand.tenant);
        let mut unknown = Tally::default();
        for counted in &demand.limits {
            if tally.is_none_or(|tally| !tally.has(&counted.key))
                && let Some(counter) = first(counted)
            {
                unknown.restore(counted.key.clone(), counter);
            }
        }
        let begun = unknown.peek(demand, now);
        let Some(tally) = tally else { return begun };
        let known = tally.peek(demand, now).into_iter().zip(begun).zip(&demand.limits);
        known
            .map(|((known, begun), counted)| if tally.has(&counted.key) { known } else { begun })
            .collect()
    }

    /// Forgets every counter and every permit of a tenant.
    pub(crate) fn forget_tenant(&self, tenant: &TenantId) {
        let tally = self.shard(tenant).tallies.remove(tenant);
        if let Some(tally) = tally {
            self.kept.fetch_sub(tally.counters(), Ordering::Relaxed);
        }
    }

    /// What of a demand can be counted where there is no room for all of it: by counters that are there.
    pub(crate) fn countable(&self, demand: &Demand, now: i64) -> Demand {
        let shard = self.shard(&demand.tenant);
        let counts = |counted: &&Counted| {
            let Some(tally) = shard.tallies.get(&demand.tenant) else { return false };
            let holds = !takes_slot(counted) || self.has_room_for_permit(tally, now);
            tally.has(&counted.key) && holds
        };
        let limits = demand.limits.iter().filter(counts).cloned().collect();
        let (tenant, calendar) = (demand.tenant.clone(), demand.calendar.clone());
        Demand { limits, tenant, calendar, ..*demand }
    }

    fn has_room_for_permit(&self, tally: &Tally, now: i64) -> bool {
        tally.open(now) < self.capacity.permits_per_tenant
    }

    fn decide(
        &self,
        demand: &Demand,
        now: i64,
        first: &dyn Fn(&Counted) -> Option<Counter>,
    ) -> Result<Verdict, StoreError> {
        let mut shard = self.shard(&demand.tenant);
        self.forget(&mut shard, LOOKS_PER_LIMIT * demand.limits.len(), now);
        let Shard { tallies, due, .. } = &mut *shard;
        let tally = match tallies.get_mut(&demand.tenant) {
            Some(tally) => tally,
            None => tallies.entry(demand.tenant.clone()).or_default(),
        };
        let new: Vec<&Counted> =
            demand.limits.iter().filter(|counted| !tally.has(&counted.key)).collect();
        if tally.counters() + new.len() > self.capacity.counters_per_tenant {
            return Err(StoreError::Full("counters of a tenant"));
        }
        let has_room = self.has_room_for_permit(tally, now);
        if !has_room && demand.limits.iter().any(takes_slot) {
            return Err(StoreError::Full("open permits of a tenant"));
        }
        if self.kept.fetch_add(new.len(), Ordering::Relaxed) + new.len() > self.capacity.counters {
            self.kept.fetch_sub(new.len(), Ordering::Relaxed);
            return Err(StoreError::Full("counters"));
        }
        for counted in &new {
            if let Some(counter) = first(counted) {
                tally.restore(counted.key.clone(), counter);
            }
        }
        let verdict = tally.reserve(demand, now);
        if !has_room && let Verdict::Admitted { permit, .. } = &verdict {
            // Beyond so many open ones a charge is final.
            tally.settle(permit, Settlement::Commit, now);
        }
        let mut unused = new.len();
        for Counted { key, .. } in new {
            if let Some(at) = tally.rests_at(key) {
                due.insert(at, (demand.tenant.clone(), key.clone()));
                unused -= 1;
            }
        }
        self.kept.fetch_sub(unused, Ordering::Relaxed);
        if let Verdict::Admitted { .. } = verdict {
            self.changes(&mut shard, &demand.tenant, quotas(demand));
        }
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
        self.reserve_from(demand, now, |_| None)
    }

    async fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        self.settle_now(permit, settlement, now);
        Ok(())
    }

    async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        Ok(match self.shard(&demand.tenant).tallies.get(&demand.tenant) {
            Some(tally) => tally.peek(demand, now),
            None => Tally::default().peek(demand, now),
        })
    }

    async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        let mut shard = self.shard(&demand.tenant);
        if let Some(tally) = shard.tallies.get_mut(&demand.tenant) {
            tally.reset(demand, now);
        }
        self.changes(&mut shard, &demand.tenant, quotas(demand));
        Ok(())
    }
}

fn takes_slot(counted: &Counted) -> bool {
    matches!(counted.limit.kind, Kind::Concurrency(_))
}

/// The counters of a demand's quotas.
fn quotas(demand: &Demand) -> impl Iterator<Item = &CounterKey> {
    let is_quota = |kind| matches!(kind, Kind::Quota(_));
    demand
        .limits
        .iter()
        .filter(move |counted| is_quota(counted.limit.kind))
        .map(|counted| &counted.key)
}

fn kept(tenant: &TenantId, key: &CounterKey, spent: Spent) -> KeptQuota {
    let (period, window, used) = spent.parts();
    KeptQuota { tenant: tenant.clone(), key: key.clone(), period, window, used }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::quota::suite::START;
    use model::quota::{
        Calendar, Counted, Kind, Limit, LimitMode, OnStoreError, Part, Per, PermitId,
    };
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
        let limit = Limit {
            id: "x".into(),
            kind,
            per: Per::Ip,
            exact: false,
            mode: LimitMode::Enforce,
            on_store_error: OnStoreError::Closed,
        };
        let key = CounterKey { limit: limit.id.clone(), part };
        Demand {
            permit: PermitId(id),
            tenant: tenant.into(),
            calendar: Calendar::UTC,
            costs_later: false,
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
    fn quotas_that_changed_are_told_once_and_as_they_stand() {
        let quota = Kind::Quota("10/day".parse().unwrap());
        let store = MemoryCounters::new(Capacity::default());
        now_or_never(store.reserve(&demand(0, "acme", 9, quota), START)).unwrap();
        assert_eq!(store.changed(), [], "nobody had asked for them");
        store.follow();
        let changed = || {
            let line = |quota: KeptQuota| {
                format!("{} {}", quota.key.storage_name(&quota.tenant), quota.used)
            };
            let mut changed: Vec<_> = store.changed().into_iter().map(line).collect();
            changed.sort();
            changed
        };
        let reserve = |id, tenant, address, kind| {
            let demand = demand(id, tenant, address, kind);
            let verdict = now_or_never(store.reserve(&demand, START)).unwrap();
            let Verdict::Admitted { permit, .. } = verdict else { panic!("{id} was refused") };
            permit
        };
        let permit = reserve(1, "acme", 1, quota);
        reserve(2, "acme", 1, quota);
        reserve(3, "globex", 1, quota);
        reserve(4, "globex", 2, rate());
        let (acme, globex) = ("q:{acme}:x:i:0.0.0.1", "q:{globex}:x:i:0.0.0.1");
        assert_eq!(changed(), [format!("{acme} 2"), format!("{globex} 1")]);
        assert!(changed().is_empty());
        store.settle_now(&permit, Settlement::Commit, START);
        assert!(changed().is_empty(), "what is kept was charged before");
        let permit = reserve(5, "acme", 1, quota);
        store.settle_now(&permit, Settlement::Refund, START);
        assert_eq!(changed(), [format!("{acme} 2")]);
        now_or_never(store.reset(&demand(0, "acme", 1, quota), START)).unwrap();
        assert_eq!(changed(), [format!("{acme} 0")]);
        // A refusal charges nothing.
        for id in 6..16 {
            reserve(id, "acme", 1, quota);
        }
        assert_eq!(changed(), [format!("{acme} 10")]);
        assert!(!admit(&store, &demand(16, "acme", 1, quota), START).unwrap());
        assert!(changed().is_empty());
    }

    #[test]
    fn what_was_kept_is_taken_up_as_far_as_there_is_room() {
        let quota = Kind::Quota("10/day".parse().unwrap());
        let full = MemoryCounters::new(Capacity::default());
        full.follow();
        for (id, tenant, address) in
            [(1, "acme", 1), (2, "acme", 2), (3, "acme", 3), (4, "globex", 1)]
        {
            assert!(admit(&full, &demand(id, tenant, address, quota), START).unwrap());
        }
        let mut kept = full.changed();
        kept.sort_by_key(|quota| quota.key.storage_name(&quota.tenant));
        let end = kept[0].window.end;
        let used = |store: &MemoryCounters, tenant, address| {
            now_or_never(store.peek(&demand(0, tenant, address, quota), START)).unwrap()[0].used
        };
        let capacity = Capacity { counters: 3, counters_per_tenant: 2, permits_per_tenant: 9 };
        let store = MemoryCounters::new(capacity);
        assert_eq!(store.restore(kept.clone(), START), 1);
        assert_eq!(store.kept(), 3);
        assert_eq!([1, 2, 3].map(|address| used(&store, "acme", address)), [1, 1, 0]);
        assert_eq!(used(&store, "globex", 1), 1);
        // What is taken up goes when its window is over, as anything else.
        store.sweep(end);
        assert_eq!(store.kept(), 0);
        assert_eq!(store.restore(kept, end), 0);
        assert_eq!(store.kept(), 0, "that day is over");
    }

    #[test]
    fn permits_that_nobody_settles_are_bounded_and_what_comes_after_is_counted() {
        let capacity = Capacity { counters: 8, counters_per_tenant: 5, permits_per_tenant: 3 };
        let store = MemoryCounters::new(capacity);
        let quota = Kind::Quota("6/day".parse().unwrap());
        let ask = |id, kind, now| now_or_never(store.reserve(&demand(id, "acme", 1, kind), now));
        let open = |now| store.shard(&"acme".into()).tallies[&TenantId::from("acme")].open(now);
        for id in 0..6 {
            let Verdict::Admitted { permit, .. } = ask(id, quota, START).unwrap() else {
                panic!("{id} was refused");
            };
            if id >= 3 {
                // Its charge is final.
                store.settle_now(&permit, Settlement::Refund, START);
            }
            assert!(open(START) <= 3, "{id}");
        }
        assert!(matches!(ask(6, quota, START), Ok(Verdict::Refused(_))));
        // A slot can't be held without a permit.
        let full = ask(7, Kind::Concurrency(9), START);
        assert!(matches!(full, Err(StoreError::Full("open permits of a tenant"))), "{full:?}");
        ask(7, Kind::Concurrency(9), START + 40_000_000).unwrap();
    }
}
