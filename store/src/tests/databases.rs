//! Fresh databases of both kinds, gone when they are dropped.

use crate::Store;
use crate::db::is_postgres;
use crate::postgres::CONNECTIONS;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use std::path::Path;
use std::str::FromStr as _;
use tempfile::TempDir;

/// Names the server: scripts/services.
const SERVER: &str = "TOLLGATE_TEST_POSTGRES";

pub(super) fn sqlite_url(directory: &Path) -> String {
    format!("sqlite://{}/tollgate.db", directory.display())
}

pub(super) async fn sqlite() -> (Store, TempDir) {
    let directory = TempDir::new().unwrap();
    (Store::open(&sqlite_url(directory.path())).await.unwrap(), directory)
}

pub(super) async fn postgres() -> (Store, Database) {
    let database = Database::create().await;
    let store = Store::open(&database.url).await.unwrap();
    assert!(store.is_up_to_date());
    (store, database)
}

/// Makes a test of each claim for each kind of database.
macro_rules! both {
    ($($claim:ident,)*) => {
        mod with_sqlite { $(
            #[tokio::test]
            async fn $claim() {
                let (store, _keep) = $crate::tests::databases::sqlite().await;
                super::$claim(store).await;
            }
        )* }
        mod with_postgres { $(
            #[tokio::test]
            async fn $claim() {
                let (store, _keep) = $crate::tests::databases::postgres().await;
                super::$claim(store).await;
            }
        )* }
    };
}

pub(super) use both;

/// Opens every connection that a process has, before many want one: on a busy machine that may take longer than anyone waits.
pub(super) async fn connect(store: &Store) {
    const TRIES: usize = 30;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..TRIES {
                if execute(&store, "SELECT 1", "SELECT pg_sleep(0.1)").await.is_ok() {
                    return;
                }
            }
            panic!("no connection in {TRIES} tries");
        });
    }
    tasks.join_all().await;
}

/// Executes a statement, on PostgreSQL perhaps another one. Says how many rows it concerned.
pub(super) async fn execute(
    store: &Store,
    sqlite: &'static str,
    postgres: &'static str,
) -> Result<u64, String> {
    let done = store.db.write(0, move |connection| {
        Box::pin(async move {
            let sql = if is_postgres(connection) { postgres } else { sqlite };
            sqlx::query(sql).execute(connection).await.map(|done| done.rows_affected())
        })
    });
    done.await.map_err(|error| error.to_string())
}

/// A database on the server of the tests.
pub(super) struct Database {
    name: String,
    pub(super) url: String,
}

impl Database {
    pub(super) async fn create() -> Self {
        let name = format!("tollgate_{:032x}", rand::random::<u128>());
        on_server(format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let server = server();
        let (server, _) = server.rsplit_once('/').unwrap();
        Self { url: format!("{server}/{name}"), name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // Not in the test's runtime, which may be about to end.
        let dropped = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(on_server(drop));
        });
        // A second panic would hide the first.
        if let Err(error) = dropped.join() {
            eprintln!("a database was left: {error:?}");
        }
    }
}

fn server() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| {
        panic!("{SERVER} is not set: run the tests under `scripts/services with`")
    })
}

async fn on_server(sql: String) {
    run(&server(), sql).await;
}

/// Runs statements on a connection of their own.
pub(super) async fn run(url: &str, sql: String) {
    let mut connection = PgConnectOptions::from_str(url).unwrap().connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}
