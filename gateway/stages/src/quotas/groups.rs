//! Counters that are decided together, and what this node remembers of them: their last states, a batch, a refusal.
//!
//! Invariants: a group's demands have the same counters and equal limits, so that an edited limit is another group; the
//! states of a counter outlive its groups' edits; how much is remembered is bounded, and forgetting is always right.

use super::batch::{Bought, Open, Pace, Share};
use super::known::{Ahead, Known, most_ahead};
use super::refusals::Remembered;
use model::id::TenantId;
use model::quota::{Counted, CounterKey, Demand, Limit, Reading, Refused};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Groups that are remembered; one takes about 1 KiB. A demand beyond them is decided without a memory.
const GROUPS_MAX: usize = 16_384;
/// Groups of different shards never wait for each other. A power of two.
const SHARDS: usize = 64;
/// A group that nobody asked for is forgotten after this time, in microseconds.
const IDLE_MAX: i64 = 600_000_000;
/// The same while there is no room for others.
const IDLE_MAX_WHEN_FULL: i64 = 1_000_000;

/// Counters that are decided together.
#[derive(Debug)]
pub(super) struct Group {
    tenant: TenantId,
    limits: Vec<Counted>,
    counters: Arc<[Arc<Known>]>,
    asked_at: AtomicI64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    batch: Option<Open>,
    is_refilling: bool,
    refused: Option<Remembered>,
}

impl State {
    /// Lets go of what is over: of the batch in the caller's hands, as it may have something to settle.
    fn tidy(&mut self, now: i64) -> Option<Open> {
        self.refused.take_if(|refused| refused.is_over(now));
        self.batch.take_if(|batch| batch.is_over(now))
    }
}

/// What a group can say without the store.
#[derive(Debug)]
pub(super) enum Here {
    /// These units were taken in advance.
    Granted(Share),
    /// The store just said no.
    Refused(Refused),
    /// Nothing.
    Unknown,
}

impl Group {
    fn is_of(&self, demand: &Demand) -> bool {
        let same = |(mine, asked): (&Counted, &Counted)| {
            mine.key == asked.key
                && (Arc::ptr_eq(&mine.limit, &asked.limit) || mine.limit == asked.limit)
        };
        self.tenant == demand.tenant
            && self.limits.len() == demand.limits.len()
            && self.limits.iter().zip(&demand.limits).all(same)
    }

    /// Decides without the store, where that is possible.
    pub(super) fn here(&self, demand: &Demand, now: i64) -> Here {
        self.asked_at.store(now, Ordering::Relaxed);
        let mut state = self.lock();
        if may_prepay(demand) {
            state.pace.add(demand.cost, now);
            state.tidy(now);
            let taken = state.batch.as_mut().and_then(|batch| batch.take(demand.cost, now));
            state.tidy(now);
            if let Some(share) = taken {
                return Here::Granted(share);
            }
        }
        match state.refused.as_ref().and_then(|refused| refused.again(demand.cost, now)) {
            Some(refused) => Here::Refused(refused),
            None => Here::Unknown,
        }
    }

    /// How many units to take in advance, this demand's own among them; `None` where the store decides about it alone.
    pub(super) fn refill(&self, demand: &Demand, nodes: u32, now: i64) -> Option<Refill<'_>> {
        if !may_prepay(demand) {
            return None;
        }
        let limits = || self.limits.iter().map(|counted| &*counted.limit);
        let room = |(known, limit): (&Arc<Known>, &Limit)| known.room_ahead(limit, nodes, now);
        let most = self.counters.iter().zip(limits()).map(room).min()?;
        let mut state = self.lock();
        if state.is_refilling || state.batch.is_some() {
            return None;
        }
        let units = state.pace.worth(demand.cost, most)?;
        let most = limits().map(|limit| most_ahead(limit, nodes));
        let ahead = Ahead::take(&self.counters, units.into(), most)?;
        state.is_refilling = true;
        Some(Refill { group: self, units, ahead: Some(ahead) })
    }

    /// Remembers what the store said of each limit.
    pub(super) fn see(&self, readings: &[Reading], at: i64) {
        for (known, reading) in self.counters.iter().zip(readings) {
            known.see(reading, at);
        }
    }

    /// Remembers that the store refused this cost.
    pub(super) fn refused(&self, refused: &Refused, cost: u32, at: i64) {
        self.lock().refused = Remembered::of(refused, cost, at);
    }

    /// The store admitted something: whoever was refused before has to wait for longer than was said.
    pub(super) fn admitted(&self) {
        self.lock().refused = None;
    }

    /// What is known of the counter, if it is one of the group.
    pub(super) fn known(&self, key: &CounterKey) -> Option<&Known> {
        let place = self.limits.iter().position(|counted| counted.key == *key)?;
        self.counters.get(place).map(|known| &**known)
    }

    /// Forgets what was taken and said: an operator set its counters back.
    fn reset(&self) {
        let mut state = self.lock();
        state.refused = None;
        if let Some(batch) = state.batch.take() {
            batch.void();
        }
        drop(state);
        self.counters.iter().for_each(|known| known.forget());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether requests of such a demand may be paid for in advance; its limits say how far.
fn may_prepay(demand: &Demand) -> bool {
    demand.cost > 0 && !demand.costs_later
}

/// Units that the store is being asked for in advance. A group has one at a time.
#[derive(Debug)]
pub(super) struct Refill<'a> {
    group: &'a Group,
    units: u32,
    ahead: Option<Ahead>,
}

impl Refill<'_> {
    /// How many.
    pub(super) const fn units(&self) -> u32 {
        self.units
    }

    /// Remembers what the store said of each limit.
    pub(super) fn see(&self, readings: &[Reading], at: i64) {
        self.group.see(readings, at);
    }

    /// The store charged them; takes the first of them out. `bought` makes a batch of what is held in advance.
    pub(super) fn bought(
        mut self,
        cost: u32,
        now: i64,
        bought: impl FnOnce(Ahead) -> Bought,
    ) -> Option<Share> {
        let mut batch = Open::of(bought(self.ahead.take()?));
        let share = batch.take(cost, now);
        self.group.lock().batch = (!batch.is_over(now)).then_some(batch);
        share
    }
}

impl Drop for Refill<'_> {
    fn drop(&mut self) {
        self.group.lock().is_refilling = false;
    }
}

/// Every group that is remembered.
#[derive(Debug)]
pub(super) struct Groups {
    shards: Box<[Mutex<Shard>]>,
    counters: Box<[Mutex<Counters>]>,
    /// Which shard of counters is swept next: one each time.
    turn: AtomicUsize,
    hasher: RandomState,
    kept: AtomicUsize,
}

/// Groups by the hash of their counters' names.
type Shard = HashMap<u64, Arc<Group>>;
/// Counters of groups.
type Counters = HashMap<(TenantId, CounterKey), Weak<Known>>;

impl Default for Groups {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            counters: (0..SHARDS).map(|_| Mutex::default()).collect(),
            turn: AtomicUsize::new(0),
            hasher: RandomState::new(),
            kept: AtomicUsize::new(0),
        }
    }
}

impl Groups {
    /// The group of a demand; `None` when there is no room for another.
    pub(super) fn of(&self, demand: &Demand, now: i64) -> Option<Arc<Group>> {
        let mut hasher = self.hasher.build_hasher();
        demand.tenant.hash(&mut hasher);
        demand.limits.iter().for_each(|counted| counted.key.hash(&mut hasher));
        let name = hasher.finish();
        let shard = place_of(&self.shards, name);
        match lock(shard).get(&name) {
            Some(group) if group.is_of(demand) => return Some(Arc::clone(group)),
            None if self.kept.load(Ordering::Relaxed) >= GROUPS_MAX => return None,
            // Of limits that were edited since, or none.
            Some(_) | None => {}
        }
        let group = Arc::new(self.group(demand, now));
        // Dropped after the lock: it may have something to settle.
        let edited = lock(shard).insert(name, Arc::clone(&group));
        if edited.is_none() {
            self.kept.fetch_add(1, Ordering::Relaxed);
        }
        Some(group)
    }

    fn group(&self, demand: &Demand, now: i64) -> Group {
        let known = |counted: &Counted| {
            let name = (demand.tenant.clone(), counted.key.clone());
            let mut counters = lock(place_of(&self.counters, self.hasher.hash_one(&name)));
            let place = counters.entry(name).or_default();
            place.upgrade().unwrap_or_else(|| {
                let known = Arc::new(Known::default());
                *place = Arc::downgrade(&known);
                known
            })
        };
        let known = demand.limits.iter().map(known).collect();
        Group {
            tenant: demand.tenant.clone(),
            limits: demand.limits.clone(),
            counters: known,
            asked_at: AtomicI64::new(now),
            state: Mutex::default(),
        }
    }

    /// Forgets groups that nobody asks for, and lets go of what is over in the others.
    pub(super) fn sweep(&self, now: i64) {
        let full = self.kept.load(Ordering::Relaxed) >= GROUPS_MAX;
        let idle = if full { IDLE_MAX_WHEN_FULL } else { IDLE_MAX };
        for shard in &self.shards {
            // Dropped after the lock.
            let (mut forgotten, mut over) = (Vec::new(), Vec::new());
            lock(shard).retain(|_, group| {
                over.extend(group.lock().tidy(now));
                let stays = now.saturating_sub(group.asked_at.load(Ordering::Relaxed)) < idle;
                if !stays {
                    forgotten.push(Arc::clone(group));
                }
                stays
            });
            self.kept.fetch_sub(forgotten.len(), Ordering::Relaxed);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.counters.len();
        if let Some(counters) = self.counters.get(turn) {
            lock(counters).retain(|_, known| known.strong_count() > 0);
        }
    }

    /// Gives back what was taken in advance: this node is about to stop.
    pub(super) fn close(&self) {
        self.each(|_| true, |group| group.lock().batch = None);
    }

    /// Forgets what was taken in advance of a tenant's counters and what was said of them: an operator set them back.
    pub(super) fn reset(&self, tenant: &TenantId) {
        self.each(|group| group.tenant == *tenant, Group::reset);
    }

    fn each(&self, which: impl Fn(&Group) -> bool, act: impl Fn(&Group)) {
        for shard in &self.shards {
            let groups: Vec<_> =
                lock(shard).values().filter(|group| which(group)).map(Arc::clone).collect();
            groups.iter().for_each(|group| act(group));
        }
    }
}

fn place_of<T>(shards: &[Mutex<T>], hash: u64) -> &Mutex<T> {
    let place = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
    shards.get(place).expect("a hash modulo the number of shards")
}

/// What is behind these locks is whole after every step that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
