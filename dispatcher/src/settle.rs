//! Settling: what became of attempts is written together, at most [`BATCH`] of them and at most [`PAUSE`] after the first.
//!
//! Invariants: an attempt keeps its place until it is settled, so that what waits here is bounded by what may be in hand; what
//! the store can't take now is tried again until it can, or until others took it over, which the fence tells.

use crate::Dispatcher;
use crate::lanes::{IN_HAND_MAX, Place};
use model::id::{EndpointId, TenantId};
use model::webhook::{Next, Settlement};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How many are written together.
const BATCH: usize = 200;
/// How long the first of them waits for others.
const PAUSE: Duration = Duration::from_millis(8);
/// How long one waits that others wait for, since it is one of an order.
const AWAITED_PAUSE: Duration = Duration::from_millis(1);
/// Between two tries where the store can't answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A delivery that is to be settled.
pub(crate) struct Settling {
    pub(crate) settlement: Settlement,
    pub(crate) lane: (TenantId, EndpointId),
    /// Whether others wait for it.
    pub(crate) is_awaited: bool,
    pub(crate) place: Place,
}

/// Where deliveries are handed in.
pub(crate) struct Settler {
    queue: Mutex<Option<mpsc::Sender<Settling>>>,
    /// Held by the task that settles.
    waiting: tokio::sync::Mutex<mpsc::Receiver<Settling>>,
    has_started: AtomicBool,
}

impl Settler {
    pub(crate) fn new() -> Self {
        // One for each place: there is always room.
        let (queue, waiting) = mpsc::channel(IN_HAND_MAX as usize);
        let (queue, waiting) = (Mutex::new(Some(queue)), tokio::sync::Mutex::new(waiting));
        Self { queue, waiting, has_started: AtomicBool::new(false) }
    }

    /// Has it settled.
    pub(crate) fn settle(&self, settling: Settling) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else { return };
        if queue.try_send(settling).is_err() {
            tracing::error!("an attempt can't be settled: others take it for lost");
        }
    }

    /// Whether this is the first start.
    pub(crate) fn starts(&self) -> bool {
        !self.has_started.swap(true, Ordering::Relaxed)
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Settles until the settler is [finished](Settler::finish).
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut waiting = dispatcher.settler.waiting.lock().await;
    while let Some(first) = waiting.recv().await {
        let batch = gather(first, &mut waiting).await;
        settle(&dispatcher, batch).await;
    }
}

/// What is settled together with this one.
async fn gather(first: Settling, waiting: &mut mpsc::Receiver<Settling>) -> Vec<Settling> {
    let began = Instant::now();
    let until = |settling: &Settling| match settling.is_awaited {
        true => Instant::now() + AWAITED_PAUSE,
        false => began + PAUSE,
    };
    let mut deadline = until(&first);
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match tokio::time::timeout_at(deadline, waiting.recv()).await {
            Ok(Some(next)) => {
                deadline = deadline.min(until(&next));
                batch.push(next);
            }
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

async fn settle(dispatcher: &Dispatcher, batch: Vec<Settling>) {
    let settlements: Vec<Settlement> =
        batch.iter().map(|settling| settling.settlement.clone()).collect();
    let settled = loop {
        match dispatcher.store.settle(settlements.clone()).await {
            Ok(settled) => break settled,
            Err(error) => {
                dispatcher.away(&error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    };
    dispatcher.back();
    let now = dispatcher.time.micros();
    let stale: HashSet<u64> = settled.stale.into_iter().collect();
    let again = batch.iter().filter_map(|Settling { settlement, lane, .. }| {
        let Next::Due(at) = settlement.next else { return None };
        let is_ours = !stale.contains(&settlement.number);
        is_ours.then(|| (lane.0.clone(), lane.1.clone(), at.as_microsecond()))
    });
    let now_due = settled.now_due.into_iter().map(|(tenant, endpoint)| (tenant, endpoint, now));
    dispatcher.lanes.due(again.chain(now_due), now);
    dispatcher.metrics.settled(batch.iter().map(|settling| &settling.settlement), &stale);
    for Settling { place, .. } in batch {
        drop(place);
    }
}
