//! The one task that keeps events: whatever waits is one commit, and everyone is answered after it.
//!
//! Invariant: a commit costs a write to the disk whatever it holds, so that many requests at once cost little more than one;
//! who left meanwhile has its events kept all the same.

use crate::STORE_RETRY_S;
use model::port::StoreError;
use model::webhook::Acceptance;
use model::{ErrorCode, Reject};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use store::webhooks::Arriving;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How many requests may wait.
const QUEUE_MAX: usize = 4_096;

/// How many bytes of events may wait, and be written.
const BYTES_MAX: usize = 64 << 20;

/// How many events one commit takes at least before it begins, if so many come.
const COMMIT_EVENTS: usize = 256;

/// How long the first of a commit waits for others.
const LINGER: Duration = Duration::from_millis(2);

/// How long somebody waits for room in the queue.
const ROOM_TIME_MAX: Duration = Duration::from_secs(5);

/// Where events are handed in.
pub(crate) struct Commits {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
}

/// A request that waits.
struct Waiting {
    arriving: Arriving,
    outcome: oneshot::Sender<Result<Vec<Acceptance>, StoreError>>,
    _bytes: OwnedSemaphorePermit,
}

/// A request that is in the queue.
pub(crate) struct Queued(oneshot::Receiver<Result<Vec<Acceptance>, StoreError>>);

impl Commits {
    /// Starts the task; it ends when nobody can hand in any more.
    pub(crate) fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(store, waiting));
        Self { queue, bytes: Arc::new(Semaphore::new(BYTES_MAX)) }
    }

    /// Hands events in. Commits keep the order in which they are.
    pub(crate) async fn queue(&self, arriving: Arriving) -> Result<Queued, Reject> {
        let bytes = arriving.events.iter().map(|event| event.content.len()).sum::<usize>();
        let bytes = u32::try_from(bytes.clamp(1, BYTES_MAX)).unwrap_or(u32::MAX);
        let room = async {
            let permit = self.bytes.clone().acquire_many_owned(bytes).await.ok()?;
            Some((permit, self.queue.reserve().await.ok()?))
        };
        let Ok(Some((permit, place))) = tokio::time::timeout(ROOM_TIME_MAX, room).await else {
            return Err(Reject::new(ErrorCode::Overloaded)
                .retry_after(STORE_RETRY_S)
                .because("too many events wait to be kept"));
        };
        let (outcome, queued) = oneshot::channel();
        place.send(Waiting { arriving, outcome, _bytes: permit });
        Ok(Queued(queued))
    }
}

impl Queued {
    /// What became of the events, once they are on the disk.
    pub(crate) async fn outcome(self) -> Result<Vec<Acceptance>, Reject> {
        let told = self.0.await.map_err(|_| "the task that keeps events has ended".to_owned());
        told.and_then(|told| told.map_err(|error| error.to_string())).map_err(|cause| {
            Reject::new(ErrorCode::DependencyUnavailable).retry_after(STORE_RETRY_S).because(cause)
        })
    }
}

async fn run(store: Store, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let together = gather(first, &mut waiting).await;
        keep(&store, together).await;
    }
}

/// What is kept together: all that waits, and comes within [`LINGER`], up to [`COMMIT_EVENTS`].
async fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let until = Instant::now() + LINGER;
    let mut events = first.arriving.events.len();
    let mut together = vec![first];
    while events < COMMIT_EVENTS {
        let Ok(Some(next)) = timeout_at(until, waiting.recv()).await else { break };
        events += next.arriving.events.len();
        together.push(next);
    }
    together
}

async fn keep(store: &Store, together: Vec<Waiting>) {
    let mut requests = Vec::with_capacity(together.len());
    let mut senders = Vec::with_capacity(together.len());
    for Waiting { arriving, outcome, _bytes } in together {
        requests.push(arriving);
        senders.push((outcome, _bytes));
    }
    match store.accept_events(requests).await {
        Ok(outcomes) => {
            for ((sender, _), outcome) in senders.into_iter().zip(outcomes) {
                let _ = sender.send(Ok(outcome));
            }
        }
        Err(error) => {
            for (sender, _) in senders {
                let _ = sender.send(Err(error.clone()));
            }
        }
    }
}
