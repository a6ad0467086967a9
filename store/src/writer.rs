//! The one task that writes: whatever waits is done in one transaction, and everyone is answered after its commit.
//!
//! A commit costs a write to the disk whatever it holds, so that many writers at once cost little more than one. Invariant:
//! nobody is answered before the commit, and whoever left before its turn leaves no trace.

use crate::db::{DEADLINE, Work, unavailable};
use model::port::StoreError;
use sqlx::{AnyConnection, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// How many writes may wait.
const QUEUE: usize = 1_024;
/// How many bytes the waiting writes may hold.
const QUEUE_BYTES: usize = 64 << 20;
/// How many writes one transaction takes.
const BATCH: usize = 256;

/// Where writes are handed in.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
    bytes: Arc<Semaphore>,
    commits: Arc<AtomicU64>,
}

enum Message {
    Write(Box<dyn Write>),
    Close(oneshot::Sender<()>),
}

/// A write, whatever it yields.
trait Write: Send {
    fn run<'a>(&'a mut self, connection: &'a mut AnyConnection) -> Work<'a, ()>;
    /// Tells whoever waits, once the transaction is done with.
    fn finish(self: Box<Self>, outcome: Result<(), &sqlx::Error>);
}

impl Writer {
    /// A writer with a connection of its own. It ends when it is closed or nobody can reach it any more.
    pub(crate) fn start(connection: AnyConnection) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        tokio::spawn(run(connection, waiting, Arc::clone(&commits)));
        Self { queue, bytes: Arc::new(Semaphore::new(QUEUE_BYTES)), commits }
    }

    /// Does the work and commits it, together with what else waits. `size`: how many bytes the work holds.
    pub(crate) async fn write<T, F>(&self, size: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let bytes = self.room(size)?;
        let job = Job { work: Some(work), done: None, reply, _bytes: bytes };
        self.hand_in(Message::Write(Box::new(job)))?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(StoreError::Unavailable("the writer stopped".to_owned())),
            Err(_) => Err(StoreError::TimedOut(DEADLINE)),
        }
    }

    /// The same, but nobody waits for it. For what may be lost, and can't be awaited.
    pub(crate) fn write_later<F>(&self, work: F)
    where
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, ()> + Send + 'static,
    {
        let job = Unwatched(Some(work));
        if let Err(error) = self.hand_in(Message::Write(Box::new(job))) {
            tracing::warn!(%error, "a write was lost");
        }
    }

    /// Commits what waits, closes the connection and refuses what comes later.
    pub(crate) async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.queue.send(Message::Close(closed)).await.is_ok() {
            // An error means that the writer is gone already.
            done.await.unwrap_or_default();
        }
    }

    /// How many transactions were committed.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn room(&self, size: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(size);
        bytes.map_err(|_| StoreError::Full("bytes that wait to be written"))
    }

    fn hand_in(&self, message: Message) -> Result<(), StoreError> {
        self.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Full("writes that wait"),
            mpsc::error::TrySendError::Closed(_) => {
                StoreError::Unavailable("the database is closed".to_owned())
            }
        })
    }
}

/// A write with someone who waits for it.
struct Job<T, F> {
    work: Option<F>,
    done: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
    _bytes: OwnedSemaphorePermit,
}

impl<T, F> Write for Job<T, F>
where
    T: Send,
    F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send,
{
    fn run<'a>(&'a mut self, connection: &'a mut AnyConnection) -> Work<'a, ()> {
        Box::pin(async move {
            // Who left before the work began wants nothing done.
            if let Some(work) = self.work.take().filter(|_| !self.reply.is_closed()) {
                self.done = Some(work(connection).await?);
            }
            Ok(())
        })
    }

    fn finish(self: Box<Self>, outcome: Result<(), &sqlx::Error>) {
        let told = match (outcome, self.done) {
            (Ok(()), Some(done)) => Ok(done),
            (Ok(()), None) => return,
            (Err(error), _) => Err(unavailable(error)),
        };
        // Whoever left meanwhile gets nothing; a value that must not be lost says so when it is dropped.
        self.reply.send(told).unwrap_or_else(drop);
    }
}

/// A write for which nobody waits.
struct Unwatched<F>(Option<F>);

impl<F> Write for Unwatched<F>
where
    F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, ()> + Send,
{
    fn run<'a>(&'a mut self, connection: &'a mut AnyConnection) -> Work<'a, ()> {
        match self.0.take() {
            Some(work) => work(connection),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn finish(self: Box<Self>, outcome: Result<(), &sqlx::Error>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "a write was lost");
        }
    }
}

async fn run(
    mut connection: AnyConnection,
    mut waiting: mpsc::Receiver<Message>,
    commits: Arc<AtomicU64>,
) {
    let mut messages = Vec::with_capacity(BATCH);
    let mut closed = Vec::new();
    while closed.is_empty() && waiting.recv_many(&mut messages, BATCH).await > 0 {
        let mut writes = Vec::with_capacity(messages.len());
        for message in messages.drain(..) {
            match message {
                Message::Write(write) => writes.push(write),
                Message::Close(reply) => closed.push(reply),
            }
        }
        let outcome = commit(&mut connection, &mut writes).await;
        if outcome.is_ok() {
            commits.fetch_add(1, Ordering::Relaxed);
        }
        for write in writes {
            write.finish(outcome.as_ref().copied());
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database was not closed cleanly");
    }
    for reply in closed {
        // Who closes may have stopped waiting.
        reply.send(()).unwrap_or_default();
    }
}

/// Does all of it in one transaction, or nothing.
async fn commit(
    connection: &mut AnyConnection,
    writes: &mut [Box<dyn Write>],
) -> Result<(), sqlx::Error> {
    if writes.is_empty() {
        return Ok(());
    }
    // The write lock comes first: a transaction that read before could not be upgraded.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for write in writes {
        write.run(&mut transaction).await?;
    }
    transaction.commit().await
}
