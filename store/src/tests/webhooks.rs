//! Webhooks: what the plans of statements say, and what only one kind of database can get wrong.

use super::behaviour::{accept, arriving, event, execute, hold, later, number, settle, to};
use super::databases::{postgres, run, sqlite};
use crate::Store;
use crate::webhooks::{self, Plan};
use jiff::Timestamp;
use model::Clock;
use model::webhook::Next;
use sqlx::Row as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many deliveries a lane has in these tests; 1,000,000 are as quick.
const LANE: usize = 50_000;

/// Accepts and fans out so many events, to one lane.
async fn fill(store: &Store, endpoint: &'static str, prefix: &str, count: usize) {
    let plan: Plan = to(Box::leak(Box::new([endpoint])));
    for batch in 0..count.div_ceil(1_000) {
        let ids = (batch * 1_000..count.min((batch + 1) * 1_000)).map(|id| format!("{prefix}{id}"));
        let events = ids.map(|id| event("acme", &id)).collect();
        store.accept_events(vec![arriving(events)]).await.unwrap();
    }
    while store.fan_out(Arc::clone(&plan), 2_000).await.unwrap().events > 0 {}
}

/// What SQLite is about to do for a statement.
async fn sqlite_plan(store: &Store, sql: &'static str) -> Vec<String> {
    let sql = format!("EXPLAIN QUERY PLAN {sql}");
    let read = store.db.read(|connection| {
        Box::pin(async move { sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await })
    });
    read.await.unwrap().iter().map(|row| row.try_get("detail").unwrap()).collect()
}

#[tokio::test]
async fn sqlite_reads_no_table_from_end_to_end_and_sorts_nothing_large() {
    let (store, _keep) = sqlite().await;
    // Indexes of what is held and of what is dead hold nothing else: they are read whole.
    let whole = ["INDEX webhook_deliveries_held", "INDEX webhook_deliveries_dead"];
    let mut slow = Vec::new();
    for (name, sql) in webhooks::texts(false) {
        for step in sqlite_plan(&store, sql).await {
            let is_scan = step.starts_with("SCAN webhook_")
                || step.starts_with("SCAN d")
                || step.starts_with("SCAN e");
            let is_whole = whole.iter().any(|index| step.contains(index));
            let sorts = step.contains("TEMP B-TREE FOR ORDER BY") || step.contains("AUTOMATIC");
            if (is_scan && !is_whole && step != "SCAN dead") || sorts {
                slow.push(format!("{name}: {step}"));
            }
        }
    }
    assert_eq!(slow, [""; 0]);
    let plan = sqlite_plan(&store, webhooks::texts(false)["hold_lane"]).await;
    let due = "webhook_deliveries_due (endpoint=? AND due_at>? AND due_at<?)";
    assert!(plan.iter().any(|step| step.contains(due)), "{plan:#?}");
}

/// How many blocks PostgreSQL looks at to hold 50 deliveries of a lane. Undone.
async fn blocks_of_hold(store: &Store, low: Timestamp) -> u64 {
    let sql = format!("EXPLAIN (ANALYZE, BUFFERS) {}", webhooks::texts(true)["hold_lanes"]);
    let asked = format!(r#"[{{"endpoint":"e1","low":{},"most":50}}]"#, low.as_microsecond());
    let done = store.db.write(0, |connection| {
        Box::pin(async move {
            sqlx::query("SAVEPOINT before").execute(&mut *connection).await?;
            let explain = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
            let explain = explain.bind(asked).bind("d").bind(1_000_000_i64);
            let plan: Vec<String> = explain.fetch_all(&mut *connection).await?;
            sqlx::query("ROLLBACK TO SAVEPOINT before").execute(connection).await?;
            Ok(plan)
        })
    });
    let plan = done.await.unwrap();
    let first = plan.first().unwrap();
    assert!(first.contains("rows=50 loops=1") || first.contains("rows=50.00 loops=1"), "{plan:#?}");
    // Of the whole statement: `Buffers: shared hit=1 read=2 dirtied=3`.
    let buffers =
        plan.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared ")).unwrap();
    let looked = buffers.split(' ').filter_map(|part| part.split_once('='));
    let looked = looked.filter(|(what, _)| ["hit", "read"].contains(what));
    looked.map(|(_, blocks)| blocks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn postgres_claims_quickly_from_a_long_lane_though_nothing_is_cleaned_up() {
    let (store, database) = postgres().await;
    // As if somebody read all day.
    let reads = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM webhook_deliveries; SELECT pg_sleep(600)";
    let url = database.url.clone();
    let reader = tokio::spawn(async move { run(&url, reads.to_owned()).await });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while number(&store, sleeps).await != 1 {
        tokio::task::yield_now().await;
    }
    fill(&store, "e1", "old", LANE).await;
    // All of it goes, and stays as what is dead.
    execute(&store, "UPDATE webhook_deliveries SET state = 'delivered', due_at = NULL").await;
    let low = Clock::system().now();
    fill(&store, "e1", "new", 1_000).await;
    let (spared, all) =
        (blocks_of_hold(&store, low).await, blocks_of_hold(&store, Timestamp::MIN).await);
    assert!(spared < 5_000, "{spared} blocks for 50 deliveries");
    assert!(all > 2 * spared, "it is the low-water mark that spares: {all}, {spared}");
    // A lane beside it is not slower, and what waits within a lane is not read to find the lanes.
    fill(&store, "e2", "beside", 10).await;
    assert_eq!(hold(&store, "e2", 100).await.len(), 10);
    reader.abort();
}

/// The names of a table's partitions.
async fn days(store: &Store, table: &'static str) -> Vec<String> {
    let sql = "SELECT CAST(inhrelid::regclass AS TEXT) AS name FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1";
    let read = store.db.read(move |connection| {
        Box::pin(async move { sqlx::query(sql).bind(table).fetch_all(connection).await })
    });
    read.await.unwrap().iter().map(|row| row.try_get("name").unwrap()).collect()
}

#[tokio::test]
async fn days_are_made_ahead_and_dropped_as_a_whole() {
    const DAY: i64 = 24 * 3_600 * 1_000_000;
    let (store, _database) = postgres().await;
    let now = Clock::system().now();
    let today = now.as_microsecond() / DAY;
    // Before the first days are made, what comes lies with the rest; and that day stays there.
    accept(&store, "acme", &["early"]).await;
    store.purge_webhooks(now).await.unwrap();
    for table in ["webhook_events", "webhook_attempts"] {
        let made = days(&store, table).await;
        let day = |number| format!("{table}_day_{number}");
        assert!(made.contains(&day(today + 1)) && made.contains(&day(today + 3)), "{made:?}");
        assert_eq!(made.contains(&day(today)), table == "webhook_attempts", "{made:?}");
    }
    // Tomorrow's events lie in tomorrow's day, and go with it.
    execute(
        &store,
        &format!("UPDATE webhook_numbers SET at = {} WHERE name = 'events'", (today + 1) * DAY),
    )
    .await;
    accept(&store, "acme", &["a", "b"]).await;
    let day = format!("webhook_events_day_{}", today + 1);
    assert_eq!(number(&store, &format!("SELECT count(*) FROM {day}")).await, 2);
    assert_eq!(store.events_after(0, 9).await.unwrap().len(), 3);
    let next_but_one = Timestamp::from_microsecond((today + 2) * DAY).unwrap();
    assert_eq!(store.purge_webhooks(next_but_one).await.unwrap(), 0, "they are not fanned out yet");
    while store.fan_out(to(&["e1"]), 2).await.unwrap().events > 0 {}
    let held = hold(&store, "e1", 9).await;
    settle(&store, &held, Next::Delivered).await;
    assert_eq!(store.purge_webhooks(next_but_one).await.unwrap(), 3);
    for table in ["webhook_events", "webhook_attempts"] {
        let left = days(&store, table).await;
        assert!(!left.contains(&format!("{table}_day_{}", today + 1)), "{left:?}");
        assert!(left.contains(&format!("{table}_day_{}", today + 2)), "{left:?}");
    }
    for table in ["webhook_events", "webhook_ids", "webhook_deliveries"] {
        assert_eq!(number(&store, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

#[tokio::test]
async fn another_process_is_told_of_events_now_and_then() {
    let (store, database) = postgres().await;
    let other = Store::open(&database.url).await.unwrap();
    const QUIET: Duration = Duration::from_millis(300);
    // Hints at the beginning of listening are over once a wait comes to its end.
    while {
        let begun = Instant::now();
        other.webhooks_changed(QUIET).await;
        begun.elapsed() < QUIET
    } {}
    let begun = Instant::now();
    let waits = other.webhooks_changed(Duration::from_secs(20));
    tokio::join!(waits, accept(&store, "acme", &["a"]));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // However many transactions there are to tell of, others are told at most every 50 ms.
    let counter = other.clone();
    let counts = tokio::spawn(async move {
        let mut told = 0_u32;
        loop {
            let begun = Instant::now();
            counter.webhooks_changed(Duration::from_secs(2)).await;
            if begun.elapsed() >= Duration::from_secs(2) {
                return told;
            }
            told += 1;
        }
    });
    let begun = Instant::now();
    for count in 0..100 {
        accept(&store, "acme", &[&count.to_string()]).await;
    }
    let most = u32::try_from(begun.elapsed().as_millis() / 50).unwrap() + 3;
    let told = counts.await.unwrap();
    assert!((1..=most).contains(&told), "{told} times, at most {most}");
}

/// What is due later lies in the index behind what is due now, and is not read.
#[tokio::test]
async fn postgres_reads_nothing_that_is_due_later() {
    let (store, _database) = postgres().await;
    fill(&store, "e1", "later", 5_000).await;
    let soon = later(Duration::from_secs(3_600)).as_microsecond();
    execute(&store, &format!("UPDATE webhook_deliveries SET due_at = {soon} WHERE number > 50"))
        .await;
    let blocks = blocks_of_hold(&store, Timestamp::MIN).await;
    assert!(blocks < 5_000, "{blocks} blocks for 50 deliveries");
}
