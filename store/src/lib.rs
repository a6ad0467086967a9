//! The one place with SQL: what must outlive a process. SQLite is embedded and the default, PostgreSQL is for many nodes.
//!
//! Invariant: a write that was answered is on the disk. In SQLite all writes of a process go through one
//! [`writer`](writer::Writer), which commits those that wait together; in PostgreSQL each is a transaction of its own.

pub mod control;
mod db;
pub mod differences;
mod feed;
mod ledger;
mod postgres;
mod purge;
mod quotas;
pub mod records;
pub mod rollouts;
mod rows;
mod schema;
pub mod seal;
mod search;
mod sqlite;
#[cfg(test)]
mod tests;
pub mod webhooks;
mod writer;

pub use ledger::{ClockOf, SqlLedger};

use db::Db;
use feed::Hints;
use model::idempotency::TenantRoom;
use postgres::Postgres;
use sqlite::Sqlite;
use sqlx::migrate::MigrateError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use webhooks::Bell;

/// An open database. Clones share it, but for what each has noticed of the feed: see [`changed`](Self::changed).
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    hints: Hints,
    bell: Bell,
    /// Searches at work.
    searches: Arc<Semaphore>,
}

/// Why a database could not be opened. Says nothing of a URL that could be a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no kind of database that is known.
    #[error(
        "`{0}` is no kind of database that is known; write a URL like `sqlite://data/tollgate.db` \
         or `postgres://tollgate@localhost/tollgate`"
    )]
    UnknownScheme(String),
    /// The URL can't be read.
    #[error("the URL can't be read; write it like `postgres://user:password@host:5432/database`")]
    BadUrl,
    /// The URL has a parameter that nobody knows.
    #[error("the URL's parameter `{0}` is not known")]
    UnknownParameter(String),
    /// The URL names no file.
    #[error("an in-memory database keeps nothing; name a file like `sqlite://data/tollgate.db`")]
    InMemory,
    /// The file can't be made.
    #[error("the database file can't be made: {0}")]
    File(#[source] std::io::Error),
    /// Somebody else is opening it, and does not come to an end.
    #[error("another process has been bringing the database up to date for {0:?}")]
    Busy(Duration),
    /// The server does not answer.
    #[error("the database's server did not answer within {0:?}")]
    Silent(Duration),
    /// The server is older than what is served.
    #[error("the server is PostgreSQL {0}; 15 or later is needed")]
    TooOld(String),
    /// The database refuses.
    #[error("the database can't be opened: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema can't be brought up to date.
    #[error("the database's schema can't be brought up to date: {0}")]
    Migration(#[from] MigrateError),
}

impl OpenError {
    /// Whether it stays as it is until somebody does something about it.
    fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::TooOld(_)
                | Self::Migration(MigrateError::VersionMismatch(_) | MigrateError::Dirty(_))
        )
    }
}

impl Store {
    /// Opens `sqlite://path`, makes the file where there is none, and brings its schema up to date; or
    /// `postgres://user@host/database`, which is brought up to date as soon as its server is there. To be called in the
    /// runtime that uses the store.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let (hints, bell) = (Hints::default(), Bell::default());
        let db = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Db::Sqlite(Sqlite::open(url).await?),
            Some("postgres" | "postgresql") => {
                Db::Postgres(Postgres::open(url, hints.clone(), bell.clone()).await?)
            }
            Some(scheme) => return Err(OpenError::UnknownScheme(scheme.to_owned())),
            None => return Err(OpenError::UnknownScheme(url.to_owned())),
        };
        Ok(Self { db, hints, bell, searches: Arc::new(Semaphore::new(search::SEARCHES_MAX)) })
    }

    /// Brings the schema up to date now, or says why it can't be.
    pub async fn up_to_date(&self) -> Result<(), OpenError> {
        match &self.db {
            // It was when it was opened.
            Db::Sqlite(_) => Ok(()),
            Db::Postgres(db) => db.up_to_date().await,
        }
    }

    /// Whether the schema is known to be up to date. Until it is, every operation is refused.
    pub fn is_up_to_date(&self) -> bool {
        match &self.db {
            Db::Sqlite(_) => true,
            Db::Postgres(db) => db.is_up_to_date(),
        }
    }

    /// Which database it is, for people: without user and password.
    pub fn label(&self) -> String {
        match &self.db {
            Db::Sqlite(db) => format!("sqlite://{}", db.path.display()),
            Db::Postgres(db) => db.label(),
        }
    }

    /// The idempotency records.
    pub fn ledger(&self) -> SqlLedger {
        self.ledger_of(TenantRoom::SHARED, ClockOf::Store)
    }

    /// The same, with other room for a tenant, or by another clock.
    pub fn ledger_of(&self, room: TenantRoom, clock: ClockOf) -> SqlLedger {
        SqlLedger::new(self.db.clone(), room, clock)
    }

    /// How many transactions were committed since it was opened, for metrics: fewer than writes when many come at once.
    pub fn commits(&self) -> u64 {
        match &self.db {
            Db::Sqlite(db) => db.writer.commits(),
            Db::Postgres(db) => db.commits(),
        }
    }

    /// Writes what waits and closes the database. What comes later is refused.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite(db) => db.close().await,
            Db::Postgres(db) => db.close().await,
        }
    }
}
