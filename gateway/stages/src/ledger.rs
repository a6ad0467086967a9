//! Idempotency records in this process: for one node, where a restart may forget what it promised, and for tests.
//!
//! Invariants: a step of one key is taken under one short lock, never held across an await; how much is kept is bounded
//! by [`Capacity`], and nothing that has not expired is ever dropped for room. What becomes of a record, [`record`] says.

use crate::due::Due;
use model::id::TenantId;
use model::idempotency::record::{self, Change};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Found, Key, Ledger, RECORD_BYTES, Record,
    RecordKey, Settled, State, TenantRoom,
};
use model::port::StoreError;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tenants of different shards never wait for each other. A power of two.
const SHARDS: usize = 64;
/// How many records a claim looks at to forget those that expired: more than it can add.
const LOOKS: usize = 4;
/// How many records of each shard are looked at when the store is full.
const LOOKS_WHEN_FULL: usize = 256;
/// How many records an operator is shown.
const FOUND_MAX: usize = 20;

/// How much is kept. Beyond it a claim gets [`StoreError::Full`]; an answer for which there is no room is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Of one tenant.
    pub tenant: TenantRoom,
    /// Bytes of all records and answers.
    pub bytes: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { tenant: TenantRoom::IN_PROCESS, bytes: 256 << 20 }
    }
}

/// Idempotency records in this process.
#[derive(Debug)]
pub struct MemoryLedger {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// The newest fence that was given: never behind the clock, so that fences grow over a restart.
    fence: AtomicI64,
    /// Bytes of all shards.
    bytes: AtomicUsize,
    capacity: Capacity,
}

#[derive(Debug, Default)]
struct Shard {
    tenants: HashMap<TenantId, Records>,
    due: Due<RecordKey>,
}

/// A tenant's records.
#[derive(Debug, Default)]
struct Records {
    by_key: HashMap<Digest, Record>,
    /// Bytes of their answers.
    bytes: usize,
}

impl MemoryLedger {
    /// A ledger without records.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            fence: AtomicI64::new(0),
            bytes: AtomicUsize::new(0),
            capacity,
        }
    }

    /// How many bytes are kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Forgets what expired, a bounded number of records of each shard that is not in use just now.
    pub fn sweep(&self, now: i64) {
        for shard in &self.shards {
            if let Ok(mut shard) = shard.try_lock() {
                self.forget(&mut shard, LOOKS_WHEN_FULL, now);
            }
        }
    }

    fn take(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        let mut shard = self.shard(&request.key.tenant);
        self.forget(&mut shard, LOOKS, now);
        let records = shard.tenants.get(&request.key.tenant);
        let current = records.and_then(|records| records.by_key.get(&request.key.digest));
        // Taken under the shard's lock, so that a key's fences grow; a claim that does not hold wastes one.
        let (told, change) = record::claim(current, request, self.next_fence(now), now);
        if change != Change::Nothing && current.is_none() {
            self.room_for_a_record(records)?;
        }
        self.apply(&mut shard, &request.key, change);
        Ok(told)
    }

    fn next_fence(&self, now: i64) -> Fence {
        let next = |newest: i64| newest.saturating_add(1).max(now);
        let newest = self
            .fence
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |newest| Some(next(newest)));
        Fence(next(newest.unwrap_or_else(|newest| newest)))
    }

    fn room_for_a_record(&self, of_tenant: Option<&Records>) -> Result<(), StoreError> {
        let taken = of_tenant.map_or((0, 0), |records| (records.by_key.len(), records.bytes));
        if !self.capacity.tenant.has_room(taken.0, taken.1) {
            return Err(StoreError::Full("idempotency records of a tenant"));
        }
        if self.bytes() + RECORD_BYTES > self.capacity.bytes {
            return Err(StoreError::Full("bytes of idempotency records"));
        }
        Ok(())
    }

    /// Takes a step of a record, which is given how much the tenant's answers take.
    fn settle(
        &self,
        key: &RecordKey,
        step: impl FnOnce(Option<&Record>, usize) -> (Settled, Change),
    ) -> Settled {
        let mut shard = self.shard(&key.tenant);
        let records = shard.tenants.get(&key.tenant);
        let current = records.and_then(|records| records.by_key.get(&key.digest));
        let (told, change) = step(current, records.map_or(0, |records| records.bytes));
        self.apply(&mut shard, key, change);
        told
    }

    /// The answer, or what there is room for.
    fn fit(&self, answer: Answer, of_tenant: usize) -> Answer {
        let answer = self.capacity.tenant.fit(answer, of_tenant);
        answer.within(self.capacity.bytes.saturating_sub(self.bytes()))
    }

    /// Carries a change out. A record is due when it expires, and only then.
    fn apply(&self, shard: &mut Shard, key: &RecordKey, change: Change) {
        let new = match change {
            Change::Nothing => return,
            Change::Put(record) => Some(*record),
            Change::Delete => None,
        };
        let records = shard.tenants.entry(key.tenant.clone()).or_default();
        if let Some(old) = records.by_key.remove(&key.digest) {
            shard.due.remove(old.expires_at, key.clone());
            records.bytes -= answer_size(&old);
            self.bytes.fetch_sub(RECORD_BYTES + answer_size(&old), Ordering::Relaxed);
        }
        if let Some(new) = new {
            shard.due.insert(new.expires_at, key.clone());
            records.bytes += answer_size(&new);
            self.bytes.fetch_add(RECORD_BYTES + answer_size(&new), Ordering::Relaxed);
            records.by_key.insert(key.digest, new);
        } else if records.by_key.is_empty() {
            shard.tenants.remove(&key.tenant);
        }
    }

    fn forget(&self, shard: &mut Shard, looks: usize, now: i64) {
        for _ in 0..looks {
            let Some(key) = shard.due.pop(now) else { return };
            self.apply(shard, &key, Change::Delete);
        }
    }

    fn shard(&self, tenant: &TenantId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(tenant);
        let place = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(place).expect("a hash modulo the number of shards");
        // Records are whole after every step that could panic.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer_size(record: &Record) -> usize {
    match &record.state {
        State::Done { answer, .. } => answer.size(),
        State::Dispatched { .. } | State::Unknown { .. } => 0,
    }
}

impl Ledger for MemoryLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        match self.take(request, now) {
            Err(StoreError::Full(_)) => {
                self.sweep(now);
                self.take(request, now)
            }
            told => told,
        }
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        Ok(self.settle(key, |current, _| record::renew(current, fence, lease, now)))
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        _: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        Ok(self.settle(key, |current, of_tenant| {
            record::complete(current, fence, self.fit(answer, of_tenant), now)
        }))
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        Ok(self.settle(key, |current, _| record::release(current, fence, now)))
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        Ok(self.settle(key, |current, _| record::mark_unknown(current, fence, now)))
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        Ok(self.settle(key, |current, _| record::clear(current, fence, now)))
    }

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        let lookup = Digest::of_lookup(tenant, key);
        let shard = self.shard(tenant);
        let records =
            shard.tenants.get(tenant).into_iter().flat_map(|records| records.by_key.values());
        let mut found: Vec<_> = records
            .filter(|record| record.lookup == lookup && now < record.expires_at)
            .map(Record::outline)
            .collect();
        drop(shard);
        found.sort_unstable_by_key(|record| Reverse(record.fence));
        found.truncate(FOUND_MAX);
        Ok(Found { now, records: found })
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        let shard = self.shard(&key.tenant);
        let records = shard.tenants.get(&key.tenant);
        let current = records.and_then(|records| records.by_key.get(&key.digest));
        Ok(record::answer(current, fence, now).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::idempotency::suite::{LEASE, RETENTION, ROOM, START, answer, request, scoped};

    model::ledger_suite!(async {
        let capacity = Capacity { tenant: ROOM, ..Capacity::default() };
        (MemoryLedger::new(capacity), ())
    });

    async fn hold(store: &MemoryLedger, request: &ClaimRequest, now: i64) -> Fence {
        match store.claim(request, now).await.unwrap() {
            Claimed::Held { fence, .. } => fence,
            other => panic!("{other:?}"),
        }
    }

    fn due(store: &MemoryLedger) -> usize {
        store.shards.iter().map(|shard| shard.lock().unwrap().due.len()).sum()
    }

    #[tokio::test]
    async fn what_expired_or_was_released_leaves_nothing_behind() {
        let store = MemoryLedger::new(Capacity::default());
        for id in 0..1_000 {
            let asked = request(&format!("k{id}"), 1);
            let fence = hold(&store, &asked, START).await;
            if id % 2 == 0 {
                let told = store.release(&asked.key, fence, START).await.unwrap();
                assert_eq!(told, Settled::Applied);
            } else {
                let told = store.renew(&asked.key, fence, 2 * LEASE, START).await.unwrap();
                assert_eq!(told, Settled::Applied);
                let told = store.complete(&asked.key, fence, answer("a"), 0, START).await.unwrap();
                assert_eq!(told, Settled::Applied);
            }
        }
        assert_eq!(due(&store), 500);
        let end = START + RETENTION;
        for id in 0..500 {
            let asked = request(&format!("late{id}"), 1);
            hold(&store, &asked, end).await;
        }
        assert_eq!(due(&store), 500);
        for _ in 0..4 {
            store.sweep(end + LEASE + RETENTION);
        }
        assert_eq!((due(&store), store.bytes()), (0, 0));
        assert!(store.shards.iter().all(|shard| shard.lock().unwrap().tenants.is_empty()));
    }

    #[tokio::test]
    async fn fences_grow_over_a_restart_and_while_the_clock_stands_still() {
        let mut newest = Fence(0);
        for process in 0..3 {
            let store = MemoryLedger::new(Capacity::default());
            for id in 0..100 {
                let asked = request(&format!("k{id}"), 1);
                let fence = hold(&store, &asked, START + process * 1_000_000).await;
                assert!(newest < fence, "process {process}: {newest} {fence}");
                newest = fence;
            }
        }
    }

    #[tokio::test]
    async fn a_full_tenant_is_refused_and_keeps_what_it_has() {
        let capacity = Capacity {
            tenant: TenantRoom { all: 3 * RECORD_BYTES, ..ROOM },
            ..Capacity::default()
        };
        let store = MemoryLedger::new(capacity);
        for key in ["a", "b", "c"] {
            hold(&store, &request(key, 1), START).await;
        }
        // Long after the leases: nobody knows their outcome, and they are not dropped for room.
        let late = START + 10 * LEASE;
        let full = store.claim(&request("d", 1), late).await;
        assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
        for key in ["a", "b", "c"] {
            assert_eq!(store.claim(&request(key, 1), late).await.unwrap(), Claimed::Unknown);
        }
        hold(&store, &scoped("globex", "mobile", "contacts.create", "d", 1), late).await;
        hold(&store, &request("d", 1), START + LEASE + RETENTION).await;
    }

    #[tokio::test]
    async fn an_answer_without_room_is_not_retained_and_bytes_of_all_are_bounded() {
        let bytes = 3 * RECORD_BYTES;
        let store = MemoryLedger::new(Capacity { bytes, ..Capacity::default() });
        let asked = request("k", 1);
        let fence = hold(&store, &asked, START).await;
        let large = answer(&"x".repeat(bytes));
        let told = store.complete(&asked.key, fence, large, 0, START).await.unwrap();
        assert_eq!(told, Settled::Applied);
        let told = store.claim(&asked, START).await.unwrap();
        assert!(matches!(told, Claimed::NotRetained { .. }), "{told:?}");
        hold(&store, &request("l", 1), START).await;
        hold(&store, &scoped("globex", "mobile", "contacts.create", "m", 1), START).await;
        let full = store.claim(&request("n", 1), START).await;
        assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    }
}
