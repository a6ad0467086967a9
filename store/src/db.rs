//! The database, whichever kind it is: transactions that write, connections that read.
//!
//! Invariant: nobody is answered before the commit, and whoever left before its turn leaves no trace. One text of SQL
//! serves both kinds; where they differ, [`is_postgres`] is asked.

use crate::postgres::Postgres;
use crate::sqlite::Sqlite;
use model::port::StoreError;
use sqlx::AnyConnection;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool};
use std::pin::Pin;
use std::time::Duration;

/// How long anyone waits for the database.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Where PostgreSQL tells that the feed grew.
pub(crate) const FEED_CHANNEL: &str = "tollgate_feed";

/// What is done with a connection. While writing, an error undoes the whole transaction, in SQLite everyone's writes with
/// it: what can be expected to fail is a value, not an error.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

/// The kinds of database.
#[derive(Clone, Debug)]
pub(crate) enum Db {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Db {
    /// Does the work in a transaction and commits it. `size`: how many bytes the work holds.
    pub(crate) async fn write<T, F>(&self, size: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send + 'static,
    {
        match self {
            Self::Sqlite(db) => db.writer.write(size, work).await,
            Self::Postgres(db) => db.write(size, work).await,
        }
    }

    /// The same, but nobody waits for it. For what may be lost, and can't be awaited.
    pub(crate) fn write_later<F>(&self, work: F)
    where
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, ()> + Clone + Send + 'static,
    {
        match self {
            Self::Sqlite(db) => db.writer.write_later(work),
            Self::Postgres(db) => db.write_later(work),
        }
    }

    /// Reads what was committed.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T> + Send + 'static,
    {
        match self {
            Self::Sqlite(db) => db.read(work).await,
            Self::Postgres(db) => db.run(0, work).await,
        }
    }
}

/// Bounds the wait, and says what went wrong in the port's words.
pub(crate) async fn within_deadline<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done.map_err(|error| unavailable(&error)),
        Err(_) => Err(StoreError::TimedOut(DEADLINE)),
    }
}

/// What the database says when it refuses.
pub(crate) fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(match error {
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        error => error.to_string(),
    })
}

/// A connection of a pool. One whose work came to no end (it failed, nobody waits any more, the server is silent) is
/// dropped, not returned: whatever it was about, the next one begins afresh.
pub(crate) struct Lent(Option<PoolConnection<Any>>);

impl Lent {
    pub(crate) async fn of(pool: &AnyPool) -> Result<Self, sqlx::Error> {
        pool.acquire().await.map(|connection| Self(Some(connection)))
    }

    pub(crate) fn connection(&mut self) -> &mut AnyConnection {
        self.0.as_mut().expect("it is taken out only when it is given back or dropped")
    }

    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Whether it is PostgreSQL at the other end; else it is SQLite.
pub(crate) fn is_postgres(connection: &AnyConnection) -> bool {
    connection.backend_name() == <sqlx::Postgres as sqlx::Database>::NAME
}

/// Until the end of the transaction, nobody else passes here with the same number. In SQLite nobody does anyway. Says the
/// server's time once it was passed ([`server_time`]).
pub(crate) async fn serialize(
    connection: &mut AnyConnection,
    number: i64,
) -> Result<Option<i64>, sqlx::Error> {
    if !is_postgres(connection) {
        return Ok(None);
    }
    // The clock is read of a row that is there once the lock is.
    let pass = "WITH passed AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)) \
        SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) FROM passed";
    sqlx::query_scalar(pass).bind(number).fetch_one(connection).await.map(Some)
}

/// What time it is for the server, in microseconds since the epoch; none in SQLite, which has no clock of its own.
pub(crate) async fn server_time(
    connection: &mut AnyConnection,
) -> Result<Option<i64>, sqlx::Error> {
    if !is_postgres(connection) {
        return Ok(None);
    }
    let now = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
    sqlx::query_scalar(now).fetch_one(connection).await.map(Some)
}

/// Tells other processes, once this transaction is committed, that the feed grew. Those on the same SQLite file look for
/// themselves.
pub(crate) async fn notify(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if is_postgres(connection) {
        sqlx::query("SELECT pg_notify($1, '')").bind(FEED_CHANNEL).execute(connection).await?;
    }
    Ok(())
}
