//! The one place with SQL: what must outlive a process. SQLite is embedded and the default.
//!
//! Invariant: a write that was answered is on the disk (`synchronous = FULL`), and all writes of a process to SQLite go
//! through one [`writer`](writer::Writer), which commits those that wait together in one transaction.

pub mod control;
mod db;
mod feed;
mod ledger;
pub mod records;
mod rows;
mod schema;
pub mod seal;
mod search;
mod sqlite;
#[cfg(test)]
mod tests;
mod writer;

pub use ledger::SqlLedger;

use db::Db;
use feed::Hints;
use model::Clock;
use model::port::StoreError;
use sqlite::Sqlite;
use std::time::Duration;

/// How many expired rows one transaction deletes: purging never holds up a request for long.
const PURGE_ROWS: i64 = 500;

/// An open database. Clones share it, but for what each has noticed of the feed: see [`changed`](Self::changed).
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    hints: Hints,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no kind of database that is known.
    #[error("`{0}` is not a database; write one like `sqlite://data/tollgate.db`")]
    UnknownScheme(String),
    /// The URL names no file.
    #[error("an in-memory database keeps nothing; name a file like `sqlite://data/tollgate.db`")]
    InMemory,
    /// The file can't be made.
    #[error("the database file can't be made: {0}")]
    File(#[source] std::io::Error),
    /// Another process is opening it, and does not come to an end.
    #[error("another process has been opening the database for {0:?}")]
    Busy(Duration),
    /// The database refuses.
    #[error("the database can't be opened: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema can't be brought up to date.
    #[error("the database's schema can't be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

impl Store {
    /// Opens `sqlite://path`, makes the file where there is none, and brings its schema up to date. To be called in the
    /// runtime that uses the store.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let db = match url.split_once(':') {
            Some(("sqlite", _)) => Db::Sqlite(Sqlite::open(url).await?),
            Some((scheme, _)) => return Err(OpenError::UnknownScheme(scheme.to_owned())),
            None => return Err(OpenError::UnknownScheme(url.to_owned())),
        };
        Ok(Self { db, hints: Hints::default() })
    }

    /// The idempotency records.
    pub fn ledger(&self) -> SqlLedger {
        SqlLedger::new(self.db.clone())
    }

    /// Deletes what expired, in transactions of a bounded number of rows; says how many rows.
    pub async fn purge(&self, now: i64) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let rows = self.ledger().purge(now, PURGE_ROWS).await?;
            purged += rows;
            if rows < PURGE_ROWS.unsigned_abs() {
                return Ok(purged);
            }
        }
    }

    /// Purges again and again, with a pause between. Ends never; drop it to stop.
    pub async fn purge_forever(self, clock: Clock, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            match self.purge(clock.micros()).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "expired rows purged"),
                Err(error) => tracing::warn!(%error, "expired rows could not be purged"),
            }
        }
    }

    /// How many transactions were committed since it was opened, for metrics: fewer than writes when many come at once.
    pub fn commits(&self) -> u64 {
        match &self.db {
            Db::Sqlite(db) => db.writer.commits(),
        }
    }

    /// Writes what waits and closes the database. What comes later is refused.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite(db) => db.close().await,
        }
    }
}
