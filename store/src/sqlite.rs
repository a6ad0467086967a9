//! The embedded database: one connection that writes, a few that read.

use crate::{OpenError, Writer};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// How long a write waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections read at the same time.
const READERS: u32 = 4;
/// How long a read waits for a connection.
const READER_TIMEOUT: Duration = Duration::from_secs(2);
/// To what the write-ahead log shrinks once it was written back, in bytes.
const WAL_BYTES: &str = "67108864";

/// An open SQLite database.
#[derive(Clone, Debug)]
pub(crate) struct Sqlite {
    pub(crate) writer: Writer,
    pub(crate) readers: SqlitePool,
}

impl Sqlite {
    pub(crate) async fn open(url: &str) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", WAL_BYTES)
            .disable_statement_logging();
        let path = options.get_filename();
        if path.as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
            return Err(OpenError::InMemory);
        }
        make_private(path).map_err(OpenError::File)?;
        let mut connection = options.connect().await?;
        migrations().run(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(READER_TIMEOUT)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self { writer: Writer::start(connection), readers })
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Every change of the schema, in order. Applied ones are never edited.
fn migrations() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(
        1,
        "idempotency",
        include_str!("../migrations/0001_idempotency.sql"),
    )])
}

/// The file holds partners' answers: it is made for its owner's eyes only, and SQLite gives its other files the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new();
    file.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    file.open(path).map(drop)
}
