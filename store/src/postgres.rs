//! PostgreSQL: a pool of connections; every write is a transaction of its own.
//!
//! Invariant: opening needs no server. Until the schema is up to date, every operation is refused at once; the task of
//! [`follow`](crate::postgres::follow) goes on trying.

mod follow;
mod target;
mod tell;
mod upgrade;

use crate::OpenError;
use crate::db::{DEADLINE, Lent, Work, within_deadline};
use crate::feed::Hints;
use crate::webhooks::Bell;
use model::port::StoreError;
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection as _, Executor as _};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use target::Target;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use upgrade::Standing;

/// How many connections a process holds, beside the one that listens.
pub(crate) const CONNECTIONS: u32 = 10;
/// How long anyone waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many writes and reads may wait or be on their way.
const QUEUE: u32 = 1_024;
/// How many writes that nobody waits for may be under way, for how long each is tried, and the pauses in between.
const LATER_MAX: usize = 1_024;
const LATER_FOR: Duration = Duration::from_secs(300);
const LATER_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How many bytes they may hold.
const QUEUE_BYTES: usize = 64 << 20;

/// What is set on every connection. A statement takes 5 s at most, and a transaction whose client fell silent is given up,
/// since others may wait for its rows. What was answered is on the disk, even where the server's default is laxer.
const SESSION: &str = "SET statement_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '10s'; \
    SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SELECT set_config('synchronous_commit', 'on', false) \
        WHERE current_setting('synchronous_commit') = 'off'";

/// A PostgreSQL database. Clones share it.
#[derive(Clone)]
pub(crate) struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    pool: AnyPool,
    target: Target,
    standing: watch::Sender<Standing>,
    queue: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    later: Arc<Semaphore>,
    commits: AtomicU64,
    runtime: Handle,
    follower: JoinHandle<()>,
    teller: JoinHandle<()>,
}

impl fmt::Debug for Postgres {
    /// Without the password, which the options hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.label()).finish()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.follower.abort();
        self.teller.abort();
    }
}

impl Postgres {
    /// Brings the schema up to date if the server answers, and else goes on trying beside. What waiting can't mend is an
    /// error.
    pub(crate) async fn open(url: &str, hints: Hints, bell: Bell) -> Result<Self, OpenError> {
        let target = Target::parse(url)?;
        let standing = watch::Sender::new(Standing::default());
        match upgrade::run(&target, &standing).await {
            Ok(()) => {}
            Err(error) if error.is_lasting() => return Err(error),
            Err(error) => tracing::warn!(%error, database = target.label(), "the store is away"),
        }
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SESSION).await.map(drop) })
            })
            .connect_lazy_with(target.any.clone());
        let follower =
            tokio::spawn(follow::run(target.clone(), standing.clone(), hints, bell.hints.clone()));
        let teller = tokio::spawn(tell::run(pool.clone(), bell));
        Ok(Self {
            shared: Arc::new(Shared {
                pool,
                target,
                standing,
                queue: Arc::new(Semaphore::new(usize::try_from(QUEUE).unwrap_or(usize::MAX))),
                bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
                later: Arc::new(Semaphore::new(LATER_MAX)),
                commits: AtomicU64::new(0),
                runtime: Handle::current(),
                follower,
                teller,
            }),
        })
    }

    /// Where it is, without user or password.
    pub(crate) fn label(&self) -> String {
        self.shared.target.label()
    }

    /// How many transactions were committed.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Brings the schema up to date now.
    pub(crate) async fn up_to_date(&self) -> Result<(), OpenError> {
        upgrade::run(&self.shared.target, &self.shared.standing).await
    }

    pub(crate) fn is_up_to_date(&self) -> bool {
        self.shared.standing.borrow().is_up_to_date()
    }

    /// The pool, once the schema is up to date.
    fn pool(&self) -> Result<&AnyPool, StoreError> {
        match &*self.shared.standing.borrow() {
            Standing::UpToDate => Ok(&self.shared.pool),
            Standing::Behind(why) => Err(StoreError::Unavailable(why.clone())),
        }
    }

    /// Does the work in a transaction and commits it. `size`: how many bytes the work holds.
    pub(crate) async fn write<T, F>(&self, size: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let done = self.run(size, |connection| {
            Box::pin(async move {
                let mut transaction = connection.begin().await?;
                let done = work(&mut transaction).await?;
                transaction.commit().await?;
                shared.commits.fetch_add(1, Ordering::Relaxed);
                Ok(done)
            })
        });
        done.await
    }

    /// Does the work on a connection.
    pub(crate) async fn run<T, F>(&self, size: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send + 'static,
    {
        let pool = self.pool()?.clone();
        let room = self.room(size)?;
        let (reply, answer) = oneshot::channel();
        // In the runtime that the connections belong to. It goes to its end even when nobody waits any more, so that what
        // it yields is dropped only once it is known to be done or not.
        self.shared.runtime.spawn(async move {
            let _room = room;
            let done = within_deadline(async {
                let mut lent = Lent::of(&pool).await?;
                // Who left before the work began wants nothing done.
                let done = match reply.is_closed() {
                    true => None,
                    false => Some(work(lent.connection()).await?),
                };
                lent.give_back();
                Ok(done)
            });
            if let Some(told) = done.await.transpose() {
                // Whoever left meanwhile gets nothing; a value that must not be lost says so when it is dropped.
                reply.send(told).unwrap_or_else(drop);
            }
        });
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(StoreError::Unavailable("it was cut off".to_owned())),
            Err(_) => Err(StoreError::TimedOut(DEADLINE)),
        }
    }

    /// The same, but nobody waits for it, and it is tried again where it fails: it must do no harm to do it twice.
    pub(crate) fn write_later<F>(&self, work: F)
    where
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, ()> + Clone + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.shared.later).try_acquire_owned() else {
            return tracing::warn!("a write was lost: too many wait for the database");
        };
        let db = self.clone();
        self.shared.runtime.spawn(async move {
            let _place = place;
            let (until, mut pause) = (Instant::now() + LATER_FOR, LATER_PAUSES.0);
            while let Err(error) = db.write(0, work.clone()).await {
                if Instant::now() + pause > until {
                    return tracing::warn!(%error, "a write was lost");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LATER_PAUSES.1);
            }
        });
    }

    /// Lets what waits come to its end, at most for so long, and closes every connection.
    pub(crate) async fn close(&self) {
        let all = self.shared.queue.acquire_many(QUEUE);
        // Nothing else is to be done about those that take longer.
        tokio::time::timeout(DEADLINE, all).await.map(drop).unwrap_or_default();
        self.shared.queue.close();
        self.shared.follower.abort();
        self.shared.teller.abort();
        tokio::time::timeout(DEADLINE, self.shared.pool.close()).await.unwrap_or_default();
    }

    /// A place among those that wait.
    fn room(
        &self,
        size: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), StoreError> {
        let place = Arc::clone(&self.shared.queue).try_acquire_owned();
        let place = place.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::Full("work that waits for the database"),
            TryAcquireError::Closed => StoreError::Unavailable("the database is closed".to_owned()),
        })?;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.shared.bytes).try_acquire_many_owned(size);
        Ok((place, bytes.map_err(|_| StoreError::Full("bytes that wait to be written"))?))
    }
}
