//! What only PostgreSQL can get wrong: two processes, rows that change while they are waited for, laxer servers.

use super::databases::{postgres as fresh, run};
use super::hold;
use super::samples::published;
use crate::{ClockOf, Store};
use model::idempotency::suite::{LEASE, RETENTION, START, request};
use model::idempotency::{Claimed, Ledger as _};
use sqlx::Row as _;
use std::time::{Duration, Instant};

super::behaviour::store_suite!(fresh());

mod ledger {
    model::ledger_suite!(async {
        let (store, keep) = super::fresh().await;
        (store.ledger_of(model::idempotency::suite::ROOM, crate::ClockOf::Caller), (store, keep))
    });
}

async fn shown(store: &Store, query: &'static str) -> String {
    let read = store.db.read(move |connection| {
        Box::pin(async move { sqlx::query(query).fetch_one(connection).await?.try_get(0) })
    });
    read.await.unwrap()
}

#[tokio::test]
async fn what_is_answered_is_on_the_disk_though_the_server_is_lax() {
    let (store, _database) = fresh().await;
    // The servers of the tests don't wait for the disk by default.
    assert_eq!(shown(&store, "SHOW synchronous_commit").await, "on");
    assert_eq!(shown(&store, "SHOW statement_timeout").await, "5s");
    assert_eq!(shown(&store, "SHOW transaction_isolation").await, "read committed");
}

#[tokio::test]
async fn another_process_is_told_of_a_revision() {
    let (publisher, database) = fresh().await;
    let follower = Store::open(&database.url).await.unwrap();
    // Hints at the beginning of listening are over once a wait comes to its end.
    while {
        let begun = Instant::now();
        follower.feed().await.unwrap();
        follower.changed(Duration::from_millis(300)).await;
        begun.elapsed() < Duration::from_millis(300)
    } {}
    for base in 0..5 {
        assert_eq!(follower.feed().await.unwrap(), base);
        let begun = Instant::now();
        let waits = follower.changed(Duration::from_secs(20));
        tokio::join!(waits, published(&publisher, "text", base));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        follower.feed().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_claimed_anew_while_it_is_purged_stays() {
    let (store, database) = fresh().await;
    let asked = request("k", 1);
    hold(&store.timed_ledger(), &asked, START).await;
    let end = START + LEASE + RETENTION;
    // A claim on its way holds the row's lock until after the purge has found the row.
    let claims = format!(
        "BEGIN; UPDATE idempotency SET expires_at = {}; SELECT pg_sleep(0.5); COMMIT",
        end + 1
    );
    let url = database.url.clone();
    let claims = tokio::spawn(async move { run(&url, claims).await });
    let waits = "SELECT count(*)::text FROM pg_stat_activity \
        WHERE datname = current_database() AND query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'";
    while shown(&store, waits).await != "1" {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.purge_by(ClockOf::Caller, end).await.unwrap(), 0);
    claims.await.unwrap();
    assert_eq!(store.purge_by(ClockOf::Caller, end + 1).await.unwrap(), 1, "it was there");
}

/// Over connections that are all open, so that claims meet within their transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_ten_who_claim_a_key_at_the_same_moment_one_holds() {
    let (store, _database) = fresh().await;
    for round in 0..50 {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let ledger = store.timed_ledger();
            let asked = request(&format!("k{round}"), 1);
            tasks.spawn(async move { ledger.claim(&asked, START).await.unwrap() });
        }
        let told = tasks.join_all().await;
        let held = told.iter().filter(|told| matches!(told, Claimed::Held { .. })).count();
        assert_eq!(held, 1, "round {round}: {told:?}");
    }
}

#[tokio::test]
async fn neither_debug_nor_errors_show_the_password() {
    // Nobody listens there.
    let url = "postgres://ann:s3cret@127.0.0.1:1/tollgate";
    let store = Store::open(url).await.unwrap();
    let error = store.feed().await.unwrap_err();
    let late = store.up_to_date().await.unwrap_err();
    let said = format!("{store:?} {:?} {error} {error:?} {late} {late:?}", store.timed_ledger());
    assert!(said.contains("127.0.0.1:1/tollgate"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(store.label(), "postgres://127.0.0.1:1/tollgate");
}

#[tokio::test]
async fn what_nobody_waits_for_is_tried_until_it_is_written() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let (store, _database) = fresh().await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    store.db.write_later(move |_| {
        Box::pin(async move {
            match counted.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(sqlx::Error::PoolTimedOut),
                _ => Ok(()),
            }
        })
    });
    let begun = Instant::now();
    while tries.load(Ordering::Relaxed) < 4 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{tries:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
