//! Decision records: from the facts of exchanges that ended to rows of the store, off the request path.
//!
//! Invariant: no exchange waits for a record, and none is admitted on a `required` route without a place for its own. One
//! task turns what is in the buffer into records and writes them in batches; while the store is down, a batch is kept.

mod entry;
#[cfg(test)]
mod tests;

pub use entry::Entry;

use crate::facts::Facts;
use crate::report::RecordMetrics;
use jiff::SignedDuration;
use model::id::NodeName;
use model::port::StoreError;
use model::record::RecordMode;
use model::{Clock, ErrorCode, Reject};
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use store::records::BATCH;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// Records that are in progress or wait to be written. More than the exchanges that may be in progress at once, so that
/// slow ones alone never fill it. One that waits is about 1 KiB, and at most some 5 KiB unless packs fail by the dozen: only
/// a store that is down makes that 32 to 160 MiB.
pub const BUFFER: usize = 32_768;
/// How long records are kept, unless the process' settings say otherwise.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long [`Recorder::flush`] should be given at shutdown.
pub const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How long a record waits for others to be written with.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Pauses between tries of a batch that the store did not take: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Between two looks for records that are too old.
const PURGE_PAUSE: Duration = Duration::from_secs(60);

/// How records are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many may be in progress or wait to be written. Beyond half of it `sampled` ones are dropped; the rest is for
    /// `required` ones, whose exchanges are refused when it is full.
    pub buffer: usize,
    /// How long they are kept in the store.
    pub retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { buffer: BUFFER, retention: RETENTION }
    }
}

/// Takes the records of exchanges. The tasks behind it end with it.
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    written: Arc<Notify>,
    metrics: RecordMetrics,
}

/// Whether an exchange leaves a record.
#[derive(Debug, Default)]
pub enum Due {
    /// It leaves none.
    #[default]
    Nothing,
    /// It leaves one if there is room.
    Sampled,
    /// It leaves one, and this is its place.
    Required(mpsc::OwnedPermit<Entry>),
}

impl Recorder {
    /// Starts the tasks that write and purge, in this runtime.
    pub fn start(
        settings: &Settings,
        store: Store,
        node: NodeName,
        clock: Clock,
        metrics: RecordMetrics,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(settings.buffer.max(1));
        let written = Arc::new(Notify::new());
        let writer = Writer {
            store: store.clone(),
            node,
            waiting,
            written: Arc::clone(&written),
            metrics: metrics.clone(),
        };
        runtime.spawn(writer.run());
        runtime.spawn(purge_on(store, clock, settings.retention, queue.downgrade()));
        Self { queue, written, metrics }
    }

    /// What an exchange of this trace owes on such a route. Where a record is required, its place is taken here, or the
    /// exchange is refused. Never waits.
    pub fn due(&self, mode: RecordMode, trace_id: &str) -> Result<Due, Reject> {
        match mode {
            RecordMode::Off => Ok(Due::Nothing),
            RecordMode::Sampled(share) if share.takes(trace_id) => Ok(Due::Sampled),
            RecordMode::Sampled(_) => Ok(Due::Nothing),
            RecordMode::Required => self.place().map(Due::Required).ok_or_else(|| {
                Reject::new(ErrorCode::DependencyUnavailable)
                    .retry_after(1)
                    .because("there is no room for its decision record")
            }),
        }
    }

    /// Takes what is due of an exchange that ended, and what a record needs out of its facts. Never waits.
    pub(crate) fn take(&self, due: Due, facts: &mut Facts, took: Duration) {
        let place = match due {
            Due::Nothing => return,
            Due::Required(place) => Some(place),
            // The other half is for required ones.
            Due::Sampled if self.queue.capacity() <= self.queue.max_capacity() / 2 => None,
            Due::Sampled => self.place(),
        };
        match place {
            Some(place) => {
                if let Some(entry) = Entry::of(facts, took) {
                    self.metrics.came(1);
                    place.send(entry);
                }
            }
            None => self.metrics.dropped(),
        }
    }

    fn place(&self) -> Option<mpsc::OwnedPermit<Entry>> {
        self.queue.clone().try_reserve_owned().ok()
    }

    /// Waits until everything that was taken is written, at most so long; says how many records still wait.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let empty = async {
            loop {
                let written = self.written.notified();
                if self.metrics.waiting() == 0 {
                    return;
                }
                written.await;
            }
        };
        match timeout(deadline, empty).await {
            Ok(()) => 0,
            Err(_) => self.metrics.waiting(),
        }
    }
}

/// The one task that writes records.
struct Writer {
    store: Store,
    node: NodeName,
    waiting: mpsc::Receiver<Entry>,
    written: Arc<Notify>,
    metrics: RecordMetrics,
}

impl Writer {
    /// Writes until nobody can take a record any more.
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut batch).await {
            if let Err(error) = self.write(&batch).await {
                tracing::error!(%error, records = batch.len(), "decision records were lost");
            }
            self.metrics.went(batch.len());
            self.written.notify_waiters();
            batch.clear();
        }
    }

    /// Waits for an entry, then for others until the batch is full or its time is over.
    async fn gather(&mut self, batch: &mut Vec<Entry>) -> bool {
        if self.waiting.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        let full = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if self.waiting.recv_many(batch, room).await == 0 {
                    return;
                }
            }
        };
        // In time or not: what was gathered is written.
        timeout(BATCH_TIME, full).await.unwrap_or_default();
        true
    }

    /// Writes a batch, however long it takes; gives up only where nobody can wait for the store to come back. A try that
    /// timed out may have been done: records are known by their ids, so that a repeat adds none.
    async fn write(&self, batch: &[Entry]) -> Result<(), StoreError> {
        let mut pause = PAUSE.0;
        loop {
            let records = batch.iter().map(|entry| entry.record(&self.node)).collect();
            let Err(error) = self.store.write_records(records).await else {
                self.metrics.degraded(false);
                if pause > PAUSE.0 {
                    tracing::info!("decision records are written again");
                }
                return Ok(());
            };
            self.metrics.degraded(true);
            if self.waiting.is_closed() {
                return Err(error);
            }
            if pause == PAUSE.0 {
                tracing::warn!(%error, "decision records can't be written; they are kept");
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            sleep(jittered).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

/// Deletes what is too old, again and again, as long as records are taken.
async fn purge_on(store: Store, clock: Clock, retention: Duration, taken: mpsc::WeakSender<Entry>) {
    while taken.strong_count() > 0 {
        match purge(&store, &clock, retention).await {
            Ok(0) => {}
            Ok(records) => tracing::debug!(records, "old decision records were deleted"),
            Err(error) => tracing::warn!(%error, "old decision records could not be deleted"),
        }
        sleep(PURGE_PAUSE).await;
    }
}

/// Deletes what is older than that; says how many records.
async fn purge(store: &Store, clock: &Clock, retention: Duration) -> Result<u64, StoreError> {
    let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
    match clock.now().checked_sub(retention) {
        Ok(before) => store.purge_records(before).await,
        // Before the beginning of time there is nothing.
        Err(_) => Ok(0),
    }
}
