//! What only the embedded database can get wrong: files, restarts, shared commits.

use super::databases::{sqlite as fresh, sqlite_url as url};
use super::hold;
use crate::{OpenError, Store};
use model::idempotency::suite::{LEASE, RETENTION, START, answer, request};
use model::idempotency::{Answer, Claimed, Ledger, Settled};
use model::port::StoreError;
use sqlx::Row as _;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

super::behaviour::store_suite!(fresh());

mod ledger {
    model::ledger_suite!(async {
        let (store, keep) = super::fresh().await;
        (store.ledger_of(model::idempotency::suite::ROOM, crate::ClockOf::Caller), (store, keep))
    });
}

/// What `PRAGMA name` says on the connection that writes.
async fn pragma(store: &Store, query: &'static str) -> String {
    let read = store.db.write(0, move |connection| {
        Box::pin(async move {
            let row = sqlx::query(query).fetch_one(connection).await?;
            let number = row.try_get::<i64, _>(0).map(|number| number.to_string());
            number.or_else(|_| row.try_get(0))
        })
    });
    read.await.unwrap()
}

#[tokio::test]
async fn a_write_is_on_the_disk_and_private_when_it_is_answered() {
    let (store, directory) = fresh().await;
    assert_eq!(pragma(&store, "PRAGMA journal_mode").await, "wal");
    assert_eq!(pragma(&store, "PRAGMA synchronous").await, "2", "FULL");
    assert_eq!(pragma(&store, "PRAGMA foreign_keys").await, "1");
    hold(&store.timed_ledger(), &request("k", 1), START).await;
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?}");
    }
}

#[tokio::test]
async fn a_restart_keeps_records_and_fences() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(&url(directory.path())).await.unwrap();
    let first = hold(&store.timed_ledger(), &request("held", 1), START).await;
    let second = hold(&store.timed_ledger(), &request("done", 1), START).await;
    let told =
        store.timed_ledger().complete(&request("done", 1).key, second, answer("a"), 0, START).await;
    assert_eq!(told.unwrap(), Settled::Applied);
    let third = hold(&store.timed_ledger(), &request("freed", 1), START).await;
    let told = store.timed_ledger().release(&request("freed", 1).key, third, START).await;
    assert_eq!(told.unwrap(), Settled::Applied);
    store.close().await;
    let closed = store.timed_ledger().claim(&request("late", 1), START).await;
    assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");

    let ledger = Store::open(&url(directory.path())).await.unwrap().timed_ledger();
    let told = ledger.claim(&request("held", 1), START).await.unwrap();
    assert_eq!(told, Claimed::InProgress { retry_after: 5 });
    let Claimed::Replay(response) = ledger.claim(&request("done", 1), START).await.unwrap() else {
        panic!("no replay")
    };
    assert_eq!(Answer::Retained(response), answer("a"));
    // The fences of a key that was freed and forgotten go on all the same.
    assert!(hold(&ledger, &request("freed", 1), START).await > third.max(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_a_commit() {
    let (store, _directory) = fresh().await;
    let before = store.commits();
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..500 {
        let ledger = store.timed_ledger();
        tasks.spawn(async move { hold(&ledger, &request(&format!("k{id}"), 1), START).await });
    }
    let fences: HashSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(fences.len(), 500, "no fence is given twice");
    let commits = store.commits() - before;
    assert!(commits < 100, "{commits} commits for 500 claims");
}

#[tokio::test]
async fn what_expired_is_purged_in_batches_and_nothing_else() {
    let (store, _directory) = fresh().await;
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..1_200 {
        let ledger = store.timed_ledger();
        let now = START + i64::from(id % 2);
        tasks.spawn(async move {
            // More at once than may wait.
            while let Err(error) = ledger.claim(&request(&format!("k{id}"), 1), now).await {
                assert!(matches!(error, StoreError::Full(_)), "{error}");
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
    let end = START + LEASE + RETENTION;
    assert_eq!(store.purge(end - 1).await.unwrap(), 0);
    assert_eq!(store.purge(end).await.unwrap(), 600);
    let told = store.timed_ledger().claim(&request("k1", 1), end).await.unwrap();
    assert_eq!(told, Claimed::Unknown);
    assert_eq!(store.purge(end + 1).await.unwrap(), 600);
    assert_eq!(store.purge(end + 1).await.unwrap(), 0);
}

#[tokio::test]
async fn a_record_that_can_not_be_read_harms_no_other() {
    let (store, _directory) = fresh().await;
    let ledger = store.timed_ledger();
    hold(&ledger, &request("k", 1), START).await;
    let spoil = store.db.write(0, |connection| {
        Box::pin(async move {
            let spoil = sqlx::query("UPDATE idempotency SET state = 'done'");
            spoil.execute(connection).await.map(drop)
        })
    });
    spoil.await.unwrap();
    let other = request("other", 1);
    let asked = request("k", 1);
    let (spoiled, held) = tokio::join!(ledger.claim(&asked, START), ledger.claim(&other, START));
    assert!(matches!(spoiled, Err(StoreError::Unreadable(_))), "{spoiled:?}");
    assert!(matches!(held, Ok(Claimed::Held { .. })), "{held:?}");
}

#[tokio::test]
async fn only_a_file_of_a_known_kind_is_opened() {
    for url in ["sqlite::memory:", "sqlite://", "sqlite://x?mode=memory"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(matches!(error, OpenError::InMemory), "{url}: {error}");
    }
    for url in ["mysql://x", "tollgate.db"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(matches!(error, OpenError::UnknownScheme(_)), "{url}: {error}");
    }
    let directory = TempDir::new().unwrap();
    let error = Store::open(&url(&directory.path().join("absent"))).await.unwrap_err();
    assert!(matches!(error, OpenError::File(_)), "{error}");
}
