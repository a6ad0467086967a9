//! Differences between versions on their way to the store, off the request path.
//!
//! Invariant: no exchange waits for one. What finds no room is dropped and counted; one task writes the rest in batches, and
//! keeps a batch while the store is away.

use crate::report::RolloutMetrics;
use model::rollout::Difference;
use std::time::Duration;
use store::Store;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Differences that may wait to be written: less than 3 KiB each, as their texts are cut.
const BUFFER: usize = 4096;
/// How many are written at once.
const BATCH: usize = 500;
/// How long one waits for others to be written with.
const BATCH_TIME: Duration = Duration::from_millis(200);
/// Between two tries of a batch that the store did not take.
const PAUSE: Duration = Duration::from_secs(1);

/// A difference, and the rollout that it belongs to.
type Kept = (String, Difference);

/// Takes differences. Clones share the queue; the task behind it ends with the last of them.
#[derive(Clone)]
pub(super) struct Differences {
    queue: mpsc::Sender<Kept>,
    metrics: RolloutMetrics,
}

impl Differences {
    /// Starts the task that writes, in this runtime.
    pub(super) fn start(
        store: Store,
        metrics: RolloutMetrics,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(BUFFER);
        runtime.spawn(write_all(store, waiting));
        Self { queue, metrics }
    }

    /// Takes one if there is room. Never waits.
    pub(super) fn keep(&self, rollout: String, difference: Difference) {
        if self.queue.try_send((rollout, difference)).is_err() {
            self.metrics.dropped();
        }
    }
}

async fn write_all(store: Store, mut waiting: mpsc::Receiver<Kept>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let full = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if waiting.recv_many(&mut batch, room).await == 0 {
                    return;
                }
            }
        };
        // In time or not: what was gathered is written.
        timeout(BATCH_TIME, full).await.unwrap_or_default();
        write(&store, std::mem::take(&mut batch), &waiting).await;
    }
}

/// Writes a batch, however long it takes; gives up only where nobody can wait for the store to come back. A try that timed
/// out may have been done: differences are known by their ids.
async fn write(store: &Store, batch: Vec<Kept>, waiting: &mpsc::Receiver<Kept>) {
    let mut is_away = false;
    while let Err(error) = store.write_differences(batch.clone()).await {
        if waiting.is_closed() {
            return tracing::error!(%error, differences = batch.len(), "differences were lost");
        }
        if !std::mem::replace(&mut is_away, true) {
            tracing::warn!(%error, "differences can't be written; they are kept");
        }
        sleep(PAUSE).await;
    }
}
