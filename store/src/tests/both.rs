//! What both kinds of database can get wrong, in their own ways: many who open at once, a schema of a later release,
//! history that is touched, waiters that leave.

use super::databases::{Database, both, execute, sqlite_url};
use super::hold;
use super::samples::{done, publish, published, record, write};
use crate::Store;
use crate::control::{AuditQuery, Effect};
use crate::records::RecordQuery;
use model::idempotency::suite::{START, request};
use model::idempotency::{ClaimRequest, Claimed, Fence, Key, Ledger as _};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};
use tempfile::TempDir;

both! {
    an_older_release_serves_on_a_newer_schema,
    audit_entries_are_never_changed_nor_deleted,
    a_claim_whose_waiter_left_holds_nothing,
    what_is_closed_refuses,
}

async fn an_older_release_serves_on_a_newer_schema(store: Store) {
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    let any = RecordQuery { limit: 10, ..RecordQuery::default() };
    let serve = async |store: &Store, base| {
        published(store, "text", base).await;
        assert_eq!(store.newest().await.unwrap().unwrap().info.number, base + 1);
        assert_eq!(store.audit(&all).await.unwrap().len() as u64, base + 1);
        store.write_records(vec![record(base, None, "r", 0)]).await.unwrap();
        assert_eq!(store.records(&any).await.unwrap().len() as u64, base + 1);
        let asked = request(&format!("k{base}"), 1);
        hold(&store.timed_ledger(), &asked, START).await;
        let told = store.timed_ledger().claim(&asked, START).await.unwrap();
        assert!(matches!(told, Claimed::InProgress { .. }));
        let key = Key::parse(b"k0").unwrap();
        let found = store.timed_ledger().find(&"acme".into(), &key, START).await.unwrap();
        assert_eq!(found.records.len(), 1);
    };
    serve(&store, 0).await;
    // The later release comes while this one serves.
    for table in ["revisions", "audit", "records", "idempotency", "tokens", "documents"] {
        let add = format!("ALTER TABLE {table} ADD COLUMN later TEXT");
        let done = store.db.write(0, |connection| {
            Box::pin(async move {
                sqlx::query(sqlx::AssertSqlSafe(add)).execute(connection).await.map(drop)
            })
        });
        done.await.unwrap();
    }
    let note = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'later', TRUE, 'x', 0)";
    execute(&store, note, note).await.unwrap();
    serve(&store, 1).await;
    // And this one starts again.
    let again = Store::open(&reopened(&store)).await.unwrap();
    assert!(again.is_up_to_date());
    serve(&again, 2).await;
}

/// Where the store is, as a URL that opens it.
fn reopened(store: &Store) -> String {
    match &store.db {
        crate::db::Db::Sqlite(_) => store.label(),
        crate::db::Db::Postgres(_) => store.label().replace("postgres://", "postgres://tollgate@"),
    }
}

async fn audit_entries_are_never_changed_nor_deleted(store: Store) {
    done(store.write(write(Effect::Note)).await);
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    let before = store.audit(&all).await.unwrap();
    for (sqlite, postgres) in [
        ("UPDATE audit SET actor = 'x'", "UPDATE audit SET actor = 'x'"),
        ("DELETE FROM audit", "DELETE FROM audit"),
        ("REPLACE INTO audit SELECT * FROM audit", "TRUNCATE audit"),
    ] {
        let error = execute(&store, sqlite, postgres).await.unwrap_err();
        assert!(error.contains("audit"), "{postgres}: {error}");
        assert_eq!(store.audit(&all).await.unwrap(), before, "{postgres}");
    }
}

async fn what_is_closed_refuses(store: Store) {
    published(&store, "text", 0).await;
    store.close().await;
    store.write(publish("late", 1)).await.unwrap_err();
    store.newest().await.unwrap_err();
    store.timed_ledger().claim(&request("late", 1), START).await.unwrap_err();
    store.close().await;
}

/// Polls once, so that the work is handed in.
pub(super) async fn start<F: Future + Unpin>(future: &mut F) {
    poll_fn(|context| {
        assert!(std::pin::Pin::new(&mut *future).poll(context).is_pending(), "it had to wait");
        Poll::Ready(())
    })
    .await;
}

/// Claims a key that is free, or is about to be.
async fn hold_soon(store: &Store, asked: &ClaimRequest) -> Fence {
    let begun = Instant::now();
    loop {
        match store.timed_ledger().claim(asked, START).await.unwrap() {
            Claimed::Held { fence, .. } => return fence,
            told => assert!(begun.elapsed() < Duration::from_secs(10), "{told:?}"),
        }
        // Somebody is freeing it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_claim_whose_waiter_left_holds_nothing(store: Store) {
    let ledger = store.timed_ledger();
    // Left before its turn.
    let asked = request("early", 1);
    let mut left = Box::pin(ledger.claim(&asked, START));
    start(&mut left).await;
    drop(left);
    hold(&ledger, &asked, START).await;
    // Left after the commit, with the answer on its way.
    let asked = request("late", 1);
    let mut left = Box::pin(ledger.claim(&asked, START));
    start(&mut left).await;
    let committed = store.commits();
    let begun = Instant::now();
    while store.commits() == committed {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    drop(left);
    hold_soon(&store, &asked).await;
}

/// Eight nodes of a new deployment start at the same moment.
async fn eight_open(url: &str) {
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..8 {
        let url = url.to_owned();
        tasks.spawn(async move {
            let store = Store::open(&url).await.unwrap();
            assert!(store.is_up_to_date());
            let value = vec![node];
            let shared = store.kept("salt", value).await.unwrap();
            (store, shared)
        });
    }
    let opened = tasks.join_all().await;
    assert!(opened.iter().all(|(_, shared)| *shared == opened[0].1));
    published(&opened[0].0, "text", 0).await;
    assert_eq!(opened[7].0.newest().await.unwrap().unwrap().info.number, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_may_open_a_new_file_at_once() {
    let directory = TempDir::new().unwrap();
    eight_open(&sqlite_url(directory.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_may_open_a_new_database_at_once() {
    eight_open(&Database::create().await.url).await;
}
