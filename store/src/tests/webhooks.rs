//! Webhooks: what the plans of statements say, and what only one kind of database can get wrong.

use super::behaviour::{
    SPAN, accept, arriving, by_key, event, execute, fan_out, hold, ids, later, now, number, settle,
    sound, take, to,
};
use super::both::start;
use super::databases::{Database, postgres, run, sqlite};
use super::samples::{done, id, write};
use crate::Store;
use crate::control::{Effect, Recover};
use crate::webhooks::{self, Plan};
use jiff::Timestamp;
use model::Clock;
use model::webhook::{Dedupe, DeliveryState, Next, Reason, Replay, ReplayRequest, ReplayState};
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
    while store.fan_out(Arc::clone(&plan), None, 2_000).await.unwrap().events > 0 {}
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
    // What is held and what is dead is read whole, by indexes that hold nothing else; of what is due, the first.
    let fit = ["_held", "_dead", "_due"].map(|index| format!("INDEX webhook_deliveries{index}"));
    let large =
        ["webhook_deliveries", "webhook_events", "webhook_attempts", "webhook_ids", "d", "e"];
    let mut slow = Vec::new();
    for (name, sql) in webhooks::texts(false) {
        for step in sqlite_plan(&store, sql).await {
            let table = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            let is_scan = table.is_some_and(|table| large.contains(&table));
            let is_fit = fit.iter().any(|index| step.contains(index));
            let sorts = step.contains("TEMP B-TREE FOR ORDER BY") || step.contains("AUTOMATIC");
            if (is_scan && !is_fit) || sorts {
                slow.push(format!("{name}: {step}"));
            }
        }
    }
    assert_eq!(slow, [""; 0]);
    let due = "webhook_deliveries_due (endpoint=? AND due_at>? AND due_at<?)";
    // Without what is blocked.
    let taken_up = "webhook_deliveries_taken_up (state=? AND endpoint=?";
    for (name, index) in
        [("hold_lane", due), ("take", taken_up), ("take_one", taken_up), ("stopping", taken_up)]
    {
        let plan = sqlite_plan(&store, webhooks::texts(false)[name]).await;
        assert!(plan.iter().any(|step| step.contains(index)), "{name}: {plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{name}: {plan:#?}");
    }
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
    looked_at(&plan)
}

/// How many blocks PostgreSQL looks at for a statement with nothing to bind. Undone.
async fn blocks_of(store: &Store, sql: &str) -> u64 {
    let sql = format!("EXPLAIN (ANALYZE, BUFFERS) {sql}");
    let done = store.db.write(0, |connection| {
        Box::pin(async move {
            sqlx::query("SAVEPOINT before").execute(&mut *connection).await?;
            let explain = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
            let plan: Vec<String> = explain.fetch_all(&mut *connection).await?;
            sqlx::query("ROLLBACK TO SAVEPOINT before").execute(connection).await?;
            Ok(plan)
        })
    });
    let plan = done.await.unwrap();
    println!("{plan:#?}");
    looked_at(&plan)
}

/// Of the whole statement: `Buffers: shared hit=1 read=2 dirtied=3`.
fn looked_at(plan: &[String]) -> u64 {
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

/// A dispatcher that is told too late what it holds would keep it from everyone until the hold is over.
async fn what_nobody_waits_for_is_due_again(store: Store) {
    fill(&store, "e1", "some", 3).await;
    store.beat("d1").await.unwrap();
    // Left before its turn, and after the commit with the answer on its way.
    for is_late in [false, true] {
        let mut left = Box::pin(store.hold(vec![take("e1", 9)], "d1", SPAN));
        start(&mut left).await;
        let (committed, begun) = (store.commits(), Instant::now());
        while is_late && store.commits() == committed {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
        drop(left);
    }
    let (mut held, begun) = (Vec::new(), Instant::now());
    while held.len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is held by nobody");
        held.extend(hold(&store, "e1", 9).await);
        // It is being given back.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(held.iter().all(|held| held.attempt == 1), "it counts as none");
    sound(&store).await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_due_again_in_sqlite() {
    let (store, _keep) = sqlite().await;
    what_nobody_waits_for_is_due_again(store).await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_due_again_in_postgres() {
    let (store, _database) = postgres().await;
    what_nobody_waits_for_is_due_again(store).await;
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
    store.purge_webhooks(Duration::ZERO).await.unwrap();
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
    let next_but_one = (today + 2) * DAY;
    assert_eq!(
        store.purge_until(next_but_one).await.unwrap().events,
        0,
        "they are not fanned out yet"
    );
    while store.fan_out(to(&["e1"]), None, 2).await.unwrap().events > 0 {}
    let held = hold(&store, "e1", 9).await;
    settle(&store, &held, Next::Delivered).await;
    assert_eq!(store.purge_until(next_but_one).await.unwrap().events, 3);
    for table in ["webhook_events", "webhook_attempts"] {
        let left = days(&store, table).await;
        assert!(!left.contains(&format!("{table}_day_{}", today + 1)), "{left:?}");
        assert!(left.contains(&format!("{table}_day_{}", today + 2)), "{left:?}");
    }
    for table in ["webhook_events", "webhook_ids", "webhook_deliveries"] {
        assert_eq!(number(&store, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

/// Else it would be held again and again, by nobody who knows what to send.
#[tokio::test]
async fn a_delivery_that_somebody_is_about_goes_with_its_event() {
    const DAY: i64 = 24 * 3_600 * 1_000_000;
    let (store, database) = postgres().await;
    accept(&store, "acme", &["a", "b", "c"]).await;
    fan_out(&store, &to(&["e1"])).await;
    let has =
        had(&store, &database, "SELECT 1 FROM webhook_deliveries WHERE number = 2 FOR UPDATE")
            .await;
    let tomorrow = now().as_microsecond() + DAY;
    let purged = store.purge_until(tomorrow).await.unwrap();
    assert_eq!((purged.events, purged.expired.len()), (3, 1));
    assert_eq!(number(&store, "SELECT count(*) FROM webhook_deliveries").await, 0);
    has.await.unwrap();
    sound(&store).await;
}

/// Whatever a process takes the time to be.
#[tokio::test]
async fn what_is_old_is_said_by_the_databases_clock() {
    const RETENTION: Duration = Duration::from_secs(30 * 24 * 3_600);
    let (store, database) = postgres().await;
    accept(&store, "acme", &["a"]).await;
    fan_out(&store, &to(&["e1"])).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 0, "it is young");
    let ahead = "CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql \
            AS $$ SELECT clock_timestamp() + interval '40 days' $$; \
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";
    run(&database.url, ahead.to_owned()).await;
    let later = Store::open(&database.url).await.unwrap();
    assert_eq!(later.purge_webhooks(RETENTION).await.unwrap().events, 1);
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

/// Whatever the planner takes to be there.
#[tokio::test]
async fn postgres_claims_quickly_from_a_long_lane_of_what_is_due() {
    let (store, _database) = postgres().await;
    fill(&store, "e1", "due", LANE).await;
    let fresh = blocks_of_hold(&store, Timestamp::MIN).await;
    execute(&store, "ANALYZE webhook_deliveries").await;
    let known = blocks_of_hold(&store, Timestamp::MIN).await;
    // What is due later lies behind it in the index, and is not read.
    let soon = later(Duration::from_secs(3_600)).as_microsecond();
    execute(&store, &format!("UPDATE webhook_deliveries SET due_at = {soon} WHERE number > 50"))
        .await;
    let delayed = blocks_of_hold(&store, Timestamp::MIN).await;
    for blocks in [fresh, known, delayed] {
        assert!(blocks < 5_000, "{fresh}, {known}, {delayed} blocks for 50 deliveries");
    }
    assert_eq!(store.due_lanes(None, 10).await.unwrap().len(), 1);
}

/// Somebody has what this query takes, for a second.
async fn had(store: &Store, database: &Database, sql: &str) -> tokio::task::JoinHandle<()> {
    let (url, sql) = (database.url.clone(), format!("BEGIN; {sql}; SELECT pg_sleep(1); COMMIT"));
    let has = tokio::spawn(async move { run(&url, sql).await });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while number(store, sleeps).await != 1 {
        tokio::task::yield_now().await;
    }
    has
}

#[tokio::test]
async fn what_fan_out_has_while_an_endpoint_is_enabled_is_taken_up() {
    for (recover, next) in [(Recover::Parked, "a-1"), (Recover::Nothing, "a-3")] {
        let (store, database) = postgres().await;
        accept(&store, "acme", &["a-1", "a-2"]).await;
        fan_out(&store, &by_key("e1")).await;
        settle(&store, &hold(&store, "e1", 1).await, Next::Parked(Reason::Gone)).await;
        let head = "SELECT 1 FROM webhook_deliveries WHERE number = 1 FOR SHARE";
        let has = had(&store, &database, head).await;
        let (endpoint, tenant) = ("e1".into(), "acme".into());
        done(store.write(write(Effect::EnableEndpoint { endpoint, tenant, recover })).await);
        accept(&store, "acme", &["a-3"]).await;
        fan_out(&store, &by_key("e1")).await;
        assert_eq!(ids(&hold(&store, "e1", 9).await), [next]);
        has.await.unwrap();
        sound(&store).await;
    }
}

#[tokio::test]
async fn what_somebody_has_while_it_is_being_left_is_not_sent() {
    let (store, database) = postgres().await;
    accept(&store, "acme", &["a-1", "a-2", "a-3"]).await;
    fan_out(&store, &by_key("e1")).await;
    settle(&store, &hold(&store, "e1", 1).await, Next::Parked(Reason::Gone)).await;
    assert_eq!(store.mend_order().await.unwrap(), 2);
    let second = "SELECT 1 FROM webhook_deliveries WHERE number = 2 FOR UPDATE";
    let has = had(&store, &database, second).await;
    let (endpoint, tenant) = ("e1".into(), "acme".into());
    let recover = Recover::Nothing;
    done(store.write(write(Effect::EnableEndpoint { endpoint, tenant, recover })).await);
    has.await.unwrap();
    store.mend_order().await.unwrap();
    assert_eq!(hold(&store, "e1", 9).await, []);
    let left = "SELECT count(*) FROM webhook_deliveries WHERE state = 'parked' AND blocks = 0";
    assert_eq!(number(&store, left).await, 3);
    sound(&store).await;
}

/// Whoever makes deliveries sees those of the one before.
#[tokio::test]
async fn a_replay_and_fan_out_keep_the_order_of_a_key() {
    let (store, database) = postgres().await;
    accept(&store, "acme", &["a-1"]).await;
    fan_out(&store, &to(&[])).await;
    let request = ReplayRequest {
        tenant: "acme".into(),
        endpoint: None,
        since: Timestamp::UNIX_EPOCH,
        until: now(),
        types: vec![],
        dedupe: Dedupe::SkipDelivered,
        rate: 100,
    };
    let replay = Replay {
        id: id(1),
        request,
        state: ReplayState::Running,
        created_at: now(),
        by: "ann".to_owned(),
        counted: 1,
        queued: 0,
        skipped: 0,
        cursor: 0,
        ended_at: None,
    };
    done(store.write(write(Effect::CreateReplay(Box::new(replay)))).await);
    let (held, fence) = store.hold_replay("d1", SPAN).await.unwrap().unwrap();
    accept(&store, "acme", &["a-2"]).await;
    let numbers = "SELECT 1 FROM webhook_numbers WHERE name = 'deliveries' FOR UPDATE";
    let has = had(&store, &database, numbers).await;
    let (queued, fanned_out) = tokio::join!(
        store.replay_step(&held.id, fence, by_key("e1"), None, 9, SPAN),
        store.fan_out(by_key("e1"), None, 9),
    );
    assert_eq!((queued.unwrap().queued, fanned_out.unwrap().events), (1, 1));
    has.await.unwrap();
    assert_eq!(hold(&store, "e1", 9).await.len(), 1);
    sound(&store).await;
}

/// However much waits behind one that nobody works at, it is read by none of those that go from key to key.
#[tokio::test]
async fn postgres_reads_nothing_of_what_is_blocked() {
    let (store, _database) = postgres().await;
    let events = (0..20_000).map(|count| event("acme", &format!("a-{count}"))).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    // One comes first, and is parked before the others come.
    store.fan_out(by_key("e1"), None, 1).await.unwrap();
    settle(&store, &hold(&store, "e1", 1).await, Next::Parked(Reason::Gone)).await;
    while store.fan_out(by_key("e1"), None, 2_000).await.unwrap().events > 0 {}
    let blocked = "SELECT count(*) FROM webhook_deliveries WHERE reason = 'blocked'";
    assert_eq!(number(&store, blocked).await, 19_999);
    for analyze in ["SELECT 1", "ANALYZE webhook_deliveries"] {
        execute(&store, analyze).await;
        for (name, given) in [
            ("take", ["'e1'", "'acme'", "1000000", "1000"].as_slice()),
            ("stopping", &["'e1'", "'acme'", "1000000", "1000"]),
            (
                "behind",
                &[r#"'[{"number":1,"endpoint":"e1","order_key":"acme b"}]'"#, "1000000", "1000"],
            ),
            ("sweep", &["''", "''", "1000"]),
            ("block", &[r#"'[{"number":1}]'"#, "1000"]),
            ("release", &[r#"'[{"endpoint":"e1","order_key":"acme a"}]'"#]),
        ] {
            let mut sql = webhooks::texts(true)[name].to_owned();
            for (at, value) in given.iter().enumerate() {
                sql = sql.replace(&format!("${}", at + 1), value);
            }
            let blocks = blocks_of(&store, &sql).await;
            assert!(blocks < 500, "{name} looks at {blocks} blocks after {analyze}");
        }
    }
}

/// What else was asked for of what is parked.
const ALSO: [&str; 4] =
    ["", " AND d.endpoint = 'e2'", " AND d.tenant = 'acme'", " AND d.number < 19990"];

#[tokio::test]
async fn sqlite_finds_what_is_parked_by_an_index_of_it() {
    let (store, _keep) = sqlite().await;
    // It prefers to go by the tenant where one is given.
    for also in ALSO.into_iter().filter(|also| !also.contains("tenant")) {
        let sql = webhooks::search_in(DeliveryState::Parked, also);
        let plan = sqlite_plan(&store, Box::leak(sql.into_boxed_str())).await;
        assert!(plan.iter().any(|step| step.contains("webhook_deliveries_parked")), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
    }
}

/// However much was delivered since, or is parked of other endpoints.
#[tokio::test]
async fn postgres_finds_what_is_parked_among_what_is_not() {
    let (store, _database) = postgres().await;
    fill(&store, "e2", "few", 3).await;
    fill(&store, "e1", "much", 20_000).await;
    let parked = "UPDATE webhook_deliveries SET state = 'parked', reason = 'blocked', due_at = NULL WHERE number <= 3";
    execute(&store, parked).await;
    let others =
        "UPDATE webhook_deliveries SET state = 'delivered', due_at = NULL WHERE number > 3";
    execute(&store, others).await;
    for are_many in [false, true] {
        if are_many {
            let many = "UPDATE webhook_deliveries SET state = 'parked', reason = 'gone' WHERE number BETWEEN 4 AND 10000";
            execute(&store, many).await;
        }
        execute(&store, "ANALYZE webhook_deliveries, webhook_events").await;
        for also in ALSO {
            let blocks = blocks_of(&store, &webhooks::search_in(DeliveryState::Parked, also)).await;
            assert!(blocks < 200, "{blocks} blocks to find those that are parked{also}");
        }
    }
}
