//! The embedded database: one connection that writes, a few that read.

use crate::OpenError;
use crate::db::{Lent, Work, within_deadline};
use crate::schema::{Dialect, migrator};
use crate::writer::Writer;
use model::port::StoreError;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Executor as _};
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

/// How many connections read at the same time.
const READERS: u32 = 4;
/// How long a read waits for a connection.
const READER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an opening process waits for another one that opens.
const OPENING: Duration = Duration::from_secs(60);
/// How often it looks whether the other one is done.
const OPENING_PAUSE: Duration = Duration::from_millis(10);

/// What is set on the connection that writes. A write waits 5 s for another process that writes; the write-ahead log
/// shrinks to 64 MiB once it was written back.
const WRITES: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864";
/// What is set on those that read.
const READS: &str = "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON";

/// An open SQLite database.
#[derive(Clone, Debug)]
pub(crate) struct Sqlite {
    pub(crate) writer: Writer,
    readers: AnyPool,
    pub(crate) path: PathBuf,
}

impl Sqlite {
    pub(crate) async fn open(url: &str) -> Result<Self, OpenError> {
        let given = SqliteConnectOptions::from_str(url)?;
        let given = given.get_filename();
        if given.as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
            return Err(OpenError::InMemory);
        }
        make_private(given).map_err(OpenError::File)?;
        let path = given.canonicalize().map_err(OpenError::File)?;
        let options = options(url, &path)?;
        let lock = lock(&path).await?;
        let mut connection = options.connect().await?;
        connection.execute(WRITES).await?;
        migrate(&mut connection).await?;
        drop(lock);
        let readers = AnyPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(READER_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(READS).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self { writer: Writer::start(connection), readers, path })
    }

    /// Reads what was committed.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: for<'a> FnOnce(&'a mut AnyConnection) -> Work<'a, T>,
    {
        let read = async {
            let mut lent = Lent::of(&self.readers).await?;
            let read = work(lent.connection()).await?;
            lent.give_back();
            Ok(read)
        };
        within_deadline(read).await
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn migrate(connection: &mut AnyConnection) -> Result<(), OpenError> {
    // Not `run`: its bounds are not general enough for a connection of any kind.
    Ok(migrator(Dialect::Sqlite).run_direct(None, connection, false).await?)
}

/// The same database by its absolute path, every byte of which is encoded: a relative one would be taken for a host.
fn options(url: &str, path: &Path) -> Result<AnyConnectOptions, OpenError> {
    let mut encoded = "sqlite://".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            // Writing to a String never fails.
            byte => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    if let Some((_, parameters)) = url.split_once('?') {
        encoded.push('?');
        encoded.push_str(parameters);
    }
    Ok(AnyConnectOptions::from_str(&encoded)?.disable_statement_logging())
}

/// The file holds partners' answers: it is made for its owner's eyes only, and SQLite gives its other files the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    private(path).map(drop)
}

fn private(path: &Path) -> std::io::Result<File> {
    let mut file = std::fs::OpenOptions::new();
    file.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    file.open(path)
}

/// Lets one process at a time open the database and change its schema: SQLite's own locks don't cover the change to a
/// write-ahead log, nor looking what is to be changed and changing it. Held until the file is dropped, or its process ends.
async fn lock(database: &Path) -> Result<File, OpenError> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let file = private(Path::new(&name)).map_err(OpenError::File)?;
    let until = tokio::time::Instant::now() + OPENING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(OPENING_PAUSE).await;
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy(OPENING)),
            Err(TryLockError::Error(error)) => return Err(OpenError::File(error)),
        }
    }
}
