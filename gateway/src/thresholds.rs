//! Quotas of which 80, 95 or 100 % is used: told through the store's outbox, once for each counter, window and threshold,
//! over all nodes and restarts.
//!
//! Invariant: no request waits for it. Any reading at or above a threshold that this node has not noted yet is handed over,
//! so that what is lost on the way is made up for by the next reading; that nothing is told twice, the store sees to. Below
//! the lowest threshold nothing is locked. Readings of a node's own share, while the shared counters are away, say nothing
//! about the quota, and addresses are personal data without number: neither is told.

use crate::trace::fresh_id;
use jiff::Timestamp;
use model::event::{Event, QUOTA_REACHED};
use model::id::{PlanId, TenantId};
use model::port::StoreError;
use model::quota::{CounterKey, Demand, Kind, LimitMode, Part, Quota, Reading, Window};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use store::control::ToldOnce;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// How long [`Thresholds::flush`] should be given at shutdown.
pub const FLUSH_MAX: Duration = Duration::from_secs(5);
/// What is told of, in percent.
const THRESHOLDS: [u64; 3] = [80, 95, 100];
/// Counters of which a node remembers what it handed over; one takes about 150 bytes. Where there are more, all are
/// forgotten and handed over again.
const NOTED_MAX: usize = 65_536;
/// Tenants of different shards never wait for each other.
const SHARDS: usize = 64;
/// Readings that may wait to be told. What finds no room is handed over with a later reading.
const QUEUE: usize = 1_024;
/// How many readings are told in one transaction, and how long one waits for others.
const BATCH: (usize, Duration) = (100, Duration::from_millis(100));
/// How often a batch is tried before it is left to later readings: for ten minutes or more.
const TRIES: u32 = 300;
/// Pauses between tries: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// For how long after a window's end the store remembers what was told of it, in microseconds: a day. Longer than any batch
/// is tried.
const REMEMBERED: i64 = 24 * 3_600 * 1_000_000;

/// Notices thresholds that are reached. The task behind it ends with it.
pub struct Thresholds {
    noted: Arc<Noted>,
    queue: mpsc::Sender<Reached>,
    waiting: Arc<Waiting>,
}

/// A reading to be told of.
#[derive(Debug)]
struct Reached {
    at: Timestamp,
    counter: Counter,
    plan: PlanId,
    quota: Quota,
    mode: LimitMode,
    used: u64,
    window: Window,
    /// The highest threshold that was handed over before, and the one that is reached now, in percent.
    percent: (u64, u64),
}

/// A counter of all tenants'.
type Counter = (TenantId, CounterKey);

/// What was handed over: the highest threshold of each counter's window.
struct Noted {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Counter, (Window, u64)>;

impl Default for Noted {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

/// Readings that were handed over and not told yet.
#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    changed: Notify,
}

impl Thresholds {
    /// Starts the task that tells, in this runtime.
    pub fn start(store: Store, runtime: &tokio::runtime::Handle) -> Self {
        let (queue, handed_over) = mpsc::channel(QUEUE);
        let (noted, waiting) = (Arc::<Noted>::default(), Arc::<Waiting>::default());
        let (of_teller, told) = (noted.clone(), waiting.clone());
        let teller = Teller { store, handed_over, tries: TRIES, noted: of_teller, waiting: told };
        runtime.spawn(teller.run());
        Self { noted, queue, waiting }
    }

    /// Looks at the readings of a demand, in its order. Never waits.
    pub fn note(&self, demand: &Demand, readings: &[Reading], plan: &PlanId, at: Timestamp) {
        for (counted, reading) in demand.limits.iter().zip(readings) {
            let Some((quota, window, percent)) = reached(reading) else { continue };
            if let Part::Ip(_) = counted.key.part {
                continue;
            }
            let counter = (demand.tenant.clone(), counted.key.clone());
            let Some(before) = self.noted.below(&counter, window, percent) else { continue };
            self.hand_over(Reached {
                at,
                counter,
                plan: plan.clone(),
                quota,
                mode: reading.mode,
                used: reading.used,
                window,
                percent: (before, percent),
            });
        }
    }

    fn hand_over(&self, reached: Reached) {
        // A place first: what finds none must not count as noted.
        let Ok(place) = self.queue.try_reserve() else { return };
        if self.noted.note(&reached) {
            self.waiting.came(1);
            place.send(reached);
        }
    }

    /// Waits until everything that was handed over is told, at most so long; says how many readings still wait.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let told = async {
            loop {
                let changed = self.waiting.changed.notified();
                if self.waiting.count() == 0 {
                    return;
                }
                changed.await;
            }
        };
        // In time or not: the count says it.
        timeout(deadline, told).await.unwrap_or_default();
        self.waiting.count()
    }
}

/// The highest threshold that a reading is at or above.
fn reached(reading: &Reading) -> Option<(Quota, Window, u64)> {
    let (Kind::Quota(quota), Some(window), None) = (reading.kind, reading.window, reading.degraded)
    else {
        return None;
    };
    let is_reached = |percent: &u64| {
        u128::from(reading.used) * 100 >= u128::from(quota.amount()) * u128::from(*percent)
    };
    let percent = THRESHOLDS.into_iter().rev().find(is_reached)?;
    Some((quota, window, percent))
}

impl Noted {
    /// The threshold that was noted before of this window, 0 for none, where it is below this one.
    fn below(&self, counter: &Counter, window: Window, percent: u64) -> Option<u64> {
        let before = before(&self.shard(counter), counter, window);
        (before < percent).then_some(before)
    }

    /// Notes what is handed over; whether it is news still.
    fn note(&self, reached: &Reached) -> bool {
        let Reached { counter, window, percent: (_, percent), .. } = reached;
        let mut noted = self.shard(counter);
        if before(&noted, counter, *window) >= *percent {
            return false;
        }
        if noted.len() >= NOTED_MAX / SHARDS && !noted.contains_key(counter) {
            let now = reached.at.as_microsecond();
            noted.retain(|_, (window, _)| window.end > now);
            if noted.len() >= NOTED_MAX / SHARDS {
                noted.clear();
            }
        }
        noted.insert(counter.clone(), (*window, *percent));
        true
    }

    /// Forgets what could not be told, so that the next reading hands it over again.
    fn forget(&self, batch: &[Reached]) {
        for reached in batch {
            self.shard(&reached.counter).remove(&reached.counter);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn shard(&self, counter: &Counter) -> MutexGuard<'_, Shard> {
        let place = usize::try_from(self.hasher.hash_one(&counter.0) % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(place).expect("a hash modulo the number of shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn before(noted: &Shard, counter: &Counter, window: Window) -> u64 {
    match noted.get(counter) {
        Some((of, percent)) if of.start == window.start => *percent,
        _ => 0,
    }
}

impl Waiting {
    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn came(&self, count: usize) {
        self.count.fetch_add(count, Ordering::AcqRel);
    }

    fn went(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

impl Reached {
    /// The events that it means: one for each threshold that was not handed over before.
    fn told(&self) -> impl Iterator<Item = ToldOnce> {
        let (before, now) = self.percent;
        let new =
            THRESHOLDS.into_iter().filter(move |percent| before < *percent && *percent <= now);
        new.map(|percent| self.told_of(percent))
    }

    fn told_of(&self, percent: u64) -> ToldOnce {
        let (tenant, key) = &self.counter;
        let (start, end) = (self.window.start, self.window.end);
        ToldOnce {
            name: format!("{QUOTA_REACHED} {start} {percent} {}", key.storage_name(tenant)),
            until: time(end.saturating_add(REMEMBERED)),
            event: Event {
                id: fresh_id(self.at).to_string(),
                at: self.at,
                r#type: QUOTA_REACHED.to_owned(),
                tenant: Some(tenant.clone()),
                subject: format!("/v1/tenants/{tenant}"),
                data: self.data(percent),
            },
        }
    }

    fn data(&self, percent: u64) -> Value {
        let (_, key) = &self.counter;
        let mut data = json!({
            "limit": key.limit,
            "plan": self.plan,
            "mode": self.mode,
            "percent": percent,
            "used": self.used,
            "amount": self.quota.amount(),
            "period": self.quota.period().as_str(),
            "window": { "start": time(self.window.start), "end": time(self.window.end) },
        });
        let (consumer, credential) = match &key.part {
            Part::Tenant | Part::Ip(_) => return data,
            Part::Consumer(consumer) => (consumer, None),
            Part::Credential(consumer, credential) => (consumer, Some(credential)),
        };
        if let Value::Object(data) = &mut data {
            data.insert("consumer".to_owned(), json!(consumer));
            if let Some(credential) = credential {
                data.insert("credential".to_owned(), json!(&**credential));
            }
        }
        data
    }
}

/// Times at the ends of the calendar are those ends.
fn time(micros: i64) -> Timestamp {
    let end = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(end)
}

/// The one task that tells.
struct Teller {
    store: Store,
    handed_over: mpsc::Receiver<Reached>,
    /// How often a batch is tried.
    tries: u32,
    noted: Arc<Noted>,
    waiting: Arc<Waiting>,
}

impl Teller {
    /// Tells until nobody can hand over any more.
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH.0);
        while self.handed_over.recv_many(&mut batch, BATCH.0).await > 0 {
            let full = async {
                while batch.len() < BATCH.0 {
                    let room = BATCH.0 - batch.len();
                    if self.handed_over.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            // In time or not: what was gathered is told.
            timeout(BATCH.1, full).await.unwrap_or_default();
            if let Err(error) = self.tell(&batch).await {
                self.noted.forget(&batch);
                tracing::error!(
                    %error,
                    readings = batch.len(),
                    "quotas that reached a threshold were not told; the next reading is to make up for it"
                );
            }
            self.waiting.went(batch.len());
            batch.clear();
        }
    }

    /// Tells a batch. A try that timed out may have been done: the store knows the names.
    async fn tell(&self, batch: &[Reached]) -> Result<(), StoreError> {
        let mut pause = PAUSE.0;
        for tried in 1.. {
            let told = batch.iter().flat_map(Reached::told).collect();
            let Err(error) = self.store.tell_once(told).await else {
                if tried > 1 {
                    tracing::info!("events about quotas are written again");
                }
                break;
            };
            if tried >= self.tries || self.handed_over.is_closed() {
                return Err(error);
            }
            if tried == 1 {
                tracing::warn!(%error, "events about quotas can't be written; they are kept");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
