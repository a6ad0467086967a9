//! Idempotency records: whose clock decides, fences after a restore, what an older release leaves behind, what is counted.

use super::databases::{Database, both, execute, postgres, run, sqlite_url};
use super::hold;
use crate::schema::{Dialect, migrator};
use crate::{ClockOf, Store};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use model::Clock;
use model::document::OnUnknown;
use model::idempotency::suite::{LEASE, RETENTION, START, answer, request, scoped};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Fence, Key, Ledger as _, SealedResponse, Settled, State,
};
use model::suite::Dice;
use sqlx::migrate::Migrator;
use sqlx::{AnyConnection, Connection as _, Row as _};
use std::collections::HashSet;
use std::time::Duration;
use tempfile::TempDir;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// As routes have it that keep an outcome for a minute.
fn brief(key: &str) -> ClaimRequest {
    ClaimRequest { retention: 60 * SECOND, ..request(key, 1) }
}

#[tokio::test]
async fn nodes_whose_clocks_differ_by_an_hour_agree_about_leases() {
    let (store, _database) = postgres().await;
    let (here, there) = (store.ledger(), store.ledger());
    let now = Clock::system().micros();
    for skew in [HOUR, -HOUR] {
        let asked = brief(&format!("k{skew}"));
        let fence = hold(&here, &asked, now).await;
        let redrive = ClaimRequest { on_unknown: OnUnknown::Redrive, ..asked.clone() };
        for asked in [&asked, &redrive] {
            let told = there.claim(asked, now + skew).await.unwrap();
            assert_eq!(told, Claimed::InProgress { retry_after: 5 }, "{skew}");
        }
        assert_eq!(store.purge(now + skew).await.unwrap(), 0, "{skew}");
        let told = there.clear(&asked.key, fence, now + skew).await.unwrap();
        assert_eq!(told, Settled::Stale, "it is not lost");
        let key = Key::parse(format!("k{skew}").as_bytes()).unwrap();
        let found = there.find(&"acme".into(), &key, now + skew).await.unwrap();
        assert!((found.now - now).abs() < 60 * SECOND, "the server's time: {}", found.now - now);
        let state = found.records.first().unwrap().state_at(found.now);
        assert!(matches!(state, State::Dispatched { .. }), "{skew}: {state:?}");
        // Its holder is who is off.
        let told = there.renew(&asked.key, fence, LEASE, now + skew).await.unwrap();
        assert_eq!(told, Settled::Applied);
        let told = here.claim(&asked, now).await.unwrap();
        assert_eq!(told, Claimed::InProgress { retry_after: 5 }, "{skew}");
    }
}

#[tokio::test]
async fn nodes_whose_clocks_differ_by_an_hour_agree_about_retentions() {
    let (store, _database) = postgres().await;
    let (here, there) = (store.ledger(), store.ledger());
    let now = Clock::system().micros();
    for skew in [HOUR, -HOUR] {
        let asked = brief("k");
        let told = there.claim(&asked, now + skew).await.unwrap();
        let Claimed::Held { fence, lease_until, .. } = told else { panic!("{told:?}") };
        assert_eq!(lease_until, now + skew + asked.lease, "by the clock of whoever claims");
        let told = there.complete(&asked.key, fence, answer("a"), 0, now + skew).await.unwrap();
        assert_eq!(told, Settled::Applied);
        for (ledger, now) in [(&here, now), (&there, now + skew)] {
            let told = ledger.claim(&asked, now).await.unwrap();
            assert!(matches!(told, Claimed::Replay(_)), "{skew}: {told:?}");
            assert_eq!(store.purge(now).await.unwrap(), 0, "{skew}");
        }
        let told = there.answer(&asked.key, fence, now + skew).await.unwrap();
        assert_eq!(told, Some(answer("a")));
        // The server's time passes.
        let passes = "UPDATE idempotency SET expires_at = expires_at - 61000000";
        assert_eq!(execute(&store, passes, passes).await, Ok(1));
        assert_eq!(there.answer(&asked.key, fence, now + skew).await.unwrap(), None);
        assert_eq!(store.purge(now + skew).await.unwrap(), 1, "{skew}");
        let fence = hold(&there, &asked, now + skew).await;
        let told = here.release(&asked.key, fence, now).await.unwrap();
        assert_eq!(told, Settled::Applied);
    }
}

both! {
    a_database_that_went_back_gives_no_fence_again,
    what_an_older_release_leaves_of_an_answer_is_not_told,
    what_an_older_release_leaves_in_doubt_is_not_believed,
    what_is_in_doubt_stays_so_while_an_older_release_renews_it,
    what_is_counted_is_what_is_there,
}

async fn a_database_that_went_back_gives_no_fence_again(store: Store) {
    let ledger = store.timed_ledger();
    let (mut newest, mut now) = (Fence(0), START);
    for round in 0..3 {
        // Claims of many keys at once, of which each finds the counter behind.
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..20 {
            let ledger = ledger.clone();
            let asked = request(&format!("k{round}-{key}"), 1);
            tasks.spawn(async move { hold(&ledger, &asked, now).await });
        }
        let fences: HashSet<_> = tasks.join_all().await.into_iter().collect();
        assert_eq!(fences.len(), 20, "each has its own");
        assert!(fences.iter().all(|fence| *fence > newest), "{newest} {fences:?}");
        newest = fences.into_iter().max().unwrap();
        now += SECOND;
        let (sqlite, postgres) = match round {
            // A backup is put back.
            0 => (
                "UPDATE idempotency_fence SET newest = 3",
                "SELECT setval('idempotency_fences', 3)",
            ),
            // A replica takes over that was behind.
            _ => (
                "UPDATE idempotency_fence SET newest = newest - 100000",
                "SELECT setval('idempotency_fences', last_value - 100000) FROM idempotency_fences",
            ),
        };
        execute(&store, sqlite, postgres).await.unwrap();
    }
}

/// What a release before 0007 writes of a claim, or of an answer that it does not keep.
const OLDER: &str = "INSERT INTO idempotency (digest, tenant, lookup, route, fingerprint, fence, owner, \
        claimed_at, retention, expires_at, state, state_time, status, location, headers, body) \
    VALUES ($1, 'acme', $2, 'contacts.create', $3, $4, 'older', $5, $6, $7, $8, $9, $10, NULL, NULL, NULL) \
    ON CONFLICT (digest) DO UPDATE SET tenant = excluded.tenant, lookup = excluded.lookup, \
        route = excluded.route, fingerprint = excluded.fingerprint, fence = excluded.fence, \
        owner = excluded.owner, claimed_at = excluded.claimed_at, retention = excluded.retention, \
        expires_at = excluded.expires_at, state = excluded.state, state_time = excluded.state_time, \
        status = excluded.status, location = excluded.location, headers = excluded.headers, \
        body = excluded.body";

/// The older release claims the key then, or says later what came of it.
async fn older_writes(store: &Store, asked: &ClaimRequest, fence: Fence, claimed: i64, later: i64) {
    let asked = asked.clone();
    let (state, status) = match later {
        0 => ("dispatched", None),
        _ => ("not_retained", Some(201_i64)),
    };
    let done = store.db.write(0, move |connection| {
        Box::pin(async move {
            sqlx::query(OLDER)
                .bind(asked.key.digest.0.to_vec())
                .bind(asked.lookup.0.to_vec())
                .bind(asked.fingerprint.0.0.to_vec())
                .bind(fence.0)
                .bind(claimed)
                .bind(RETENTION)
                .bind(claimed + LEASE + RETENTION)
                .bind(state)
                .bind(claimed + later + LEASE)
                .bind(status)
                .execute(connection)
                .await
                .map(drop)
        })
    });
    done.await.unwrap();
}

async fn what_an_older_release_leaves_of_an_answer_is_not_told(store: Store) {
    let (ledger, status) = (store.timed_ledger(), StatusCode::CREATED);
    let asked = request("k", 1);
    let fence = hold(&ledger, &asked, START).await;
    let sealed = SealedResponse {
        status,
        bytes: Some(Bytes::from_static(b"another's")),
        location: Some(Bytes::from_static(b"another's place")),
    };
    let told = ledger.complete(&asked.key, fence, Answer::Sealed(sealed), 0, START).await;
    assert_eq!(told.unwrap(), Settled::Applied);
    let (other, end) = (request("k", 2), START + RETENTION);
    older_writes(&store, &other, Fence(fence.0 + 1), end, 0).await;
    let told = ledger.claim(&other, end).await.unwrap();
    assert!(matches!(told, Claimed::InProgress { .. }), "{told:?}");
    older_writes(&store, &other, Fence(fence.0 + 1), end, SECOND).await;
    let told = ledger.claim(&other, end + SECOND).await.unwrap();
    assert_eq!(told, Claimed::NotRetained { status, location: None });
}

/// A request is sent again; whose fence holds it then.
async fn redriven(store: &Store, asked: &ClaimRequest) -> Fence {
    let ledger = store.timed_ledger();
    let fence = hold(&ledger, asked, START).await;
    let told = ledger.mark_unknown(&asked.key, fence, START).await.unwrap();
    assert_eq!(told, Settled::Applied);
    let redrive = ClaimRequest { on_unknown: OnUnknown::Redrive, ..asked.clone() };
    match ledger.claim(&redrive, START).await.unwrap() {
        Claimed::Redriven { fence, .. } => fence,
        told => panic!("{told:?}"),
    }
}

async fn what_an_older_release_leaves_in_doubt_is_not_believed(store: Store) {
    let (ledger, asked) = (store.timed_ledger(), request("k", 1));
    let fence = Fence(redriven(&store, &asked).await.0 + 1);
    // Long after it expired.
    let late = START + LEASE + RETENTION;
    older_writes(&store, &asked, fence, late, 0).await;
    assert_eq!(ledger.release(&asked.key, fence, late).await.unwrap(), Settled::Applied);
    hold(&ledger, &asked, late).await;
}

async fn what_is_in_doubt_stays_so_while_an_older_release_renews_it(store: Store) {
    let (ledger, asked) = (store.timed_ledger(), request("k", 1));
    let fence = redriven(&store, &asked).await;
    older_writes(&store, &asked, fence, START, 0).await;
    assert_eq!(ledger.release(&asked.key, fence, START).await.unwrap(), Settled::Applied);
    assert_eq!(ledger.claim(&asked, START).await.unwrap(), Claimed::Unknown);
}

/// Answers of each kind, in clear and sealed, with and without a `Location`.
fn any_answer(dice: &mut Dice) -> Answer {
    let (status, bytes) = (StatusCode::CREATED, Bytes::from_static(b"sealed"));
    let place = HeaderValue::from_static("/v1/contacts/7");
    match dice.below(5) {
        0 => answer("a"),
        1 => Answer::NotRetained { status, location: Some(place) },
        2 => Answer::NotRetained { status, location: None },
        3 => Answer::Sealed(SealedResponse { status, bytes: Some(bytes), location: None }),
        _ => Answer::Sealed(SealedResponse { status, bytes: None, location: Some(bytes) }),
    }
}

async fn what_is_counted_is_what_is_there(store: Store) {
    let seed = rand::random();
    println!("seed {seed}");
    let (mut dice, ledger, mut now) = (Dice::new(seed), store.timed_ledger(), START);
    for _ in 0..400 {
        now += dice.pick(&[0, SECOND, LEASE, RETENTION / 10]);
        let (tenant, key) = (dice.pick(&["acme", "globex"]), format!("k{}", dice.below(8)));
        let asked = ClaimRequest {
            on_unknown: OnUnknown::Redrive,
            ..scoped(tenant, "mobile", "contacts.create", &key, 1)
        };
        let told = ledger.claim(&asked, now).await.unwrap();
        if let Claimed::Held { fence, .. } | Claimed::Redriven { fence, .. } = told {
            match dice.below(4) {
                0 => drop(ledger.release(&asked.key, fence, now).await.unwrap()),
                1 => {}
                _ => {
                    let answer = any_answer(&mut dice);
                    let told = ledger.complete(&asked.key, fence, answer, 0, now).await.unwrap();
                    assert_eq!(told, Settled::Applied);
                }
            }
        }
        if dice.below(20) == 0 {
            store.purge_by(ClockOf::Caller, now).await.unwrap();
        }
    }
    assert_eq!(counted(&store).await, there(&store).await);
    store.purge_by(ClockOf::Caller, now + 2 * RETENTION).await.unwrap();
    assert!(counted(&store).await.iter().all(|row| *row == (row.0.clone(), 0, 0)));
}

/// Of each tenant, how many records and how many bytes of answers.
async fn counted(store: &Store) -> Vec<(String, i64, i64)> {
    const COUNTED: &str = "SELECT tenant, CAST(SUM(records) AS BIGINT) AS records, \
            CAST(SUM(bytes) + (SELECT COALESCE(SUM(bytes), 0) FROM idempotency_bytes AS answers \
                WHERE answers.tenant = records.tenant) AS BIGINT) AS bytes \
        FROM idempotency_records AS records GROUP BY tenant ORDER BY tenant";
    rows(store, COUNTED).await
}

async fn there(store: &Store) -> Vec<(String, i64, i64)> {
    const THERE: &str = "SELECT tenant, COUNT(*) AS records, CAST(SUM(\
            COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) + COALESCE(LENGTH(sealed), 0) \
            + COALESCE(LENGTH(location), 0) + COALESCE(LENGTH(sealed_location), 0)) AS BIGINT) AS bytes \
        FROM idempotency GROUP BY tenant ORDER BY tenant";
    rows(store, THERE).await
}

async fn rows(store: &Store, query: &'static str) -> Vec<(String, i64, i64)> {
    let read = store.db.read(move |connection| {
        Box::pin(async move {
            let rows = sqlx::query(query).fetch_all(connection).await?;
            let read =
                |row: &sqlx::any::AnyRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()
        })
    });
    read.await.unwrap()
}

/// What lies there when 0009 comes: of one tenant three records, 20 bytes of an answer, 7 of a `Location`, and an answer
/// that an older release left with a claim.
fn laid(bytes: [&str; 4]) -> String {
    let row = |digest: &str, state: &str, location: &str, body: &str, sealed: &str| {
        format!(
            "INSERT INTO idempotency (digest, tenant, lookup, route, fingerprint, fence, owner, \
                claimed_at, retention, expires_at, state, state_time, status, location, headers, body, sealed) \
            VALUES ({digest}, 'acme', {digest}, 'r', {digest}, 1, 'n', 1, 1, 1, '{state}', 1, 201, {location}, NULL, {body}, {sealed});"
        )
    };
    let [first, second, third, blob] = bytes;
    [
        row(first, "done", "NULL", blob, "NULL"),
        row(second, "not_retained", "'/abc/de'", "NULL", "NULL"),
        row(third, "dispatched", "NULL", "NULL", blob),
    ]
    .concat()
}

/// The schema as it was before 0009.
async fn older_schema(connection: &mut AnyConnection, dialect: Dialect) {
    let older = migrator(dialect).iter().filter(|change| change.version < 9).cloned().collect();
    let older = Migrator::with_migrations(older);
    older.run_direct(None, connection, false).await.unwrap();
}

#[tokio::test]
async fn what_lay_there_before_it_was_counted_is_counted() {
    sqlx::any::install_default_drivers();
    let directory = TempDir::new().unwrap();
    let url = sqlite_url(directory.path());
    let mut connection = AnyConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    older_schema(&mut connection, Dialect::Sqlite).await;
    let rows = laid(["x'01'", "x'02'", "x'11'", "zeroblob(20)"])
        .replace("'/abc/de'", "CAST('/abc/de' AS BLOB)");
    for row in rows.split_inclusive(';') {
        sqlx::query(sqlx::AssertSqlSafe(row.to_owned())).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let expected = [("acme".to_owned(), 3, 27)];
    assert_eq!(counted(&Store::open(&url).await.unwrap()).await, expected);

    let database = Database::create().await;
    let mut connection = AnyConnection::connect(&database.url).await.unwrap();
    older_schema(&mut connection, Dialect::Postgres).await;
    connection.close().await.unwrap();
    let twenty = "decode(repeat('00', 20), 'hex')";
    run(&database.url, laid(["'\\x01'", "'\\x02'", "'\\x11'", twenty])).await;
    assert_eq!(counted(&Store::open(&database.url).await.unwrap()).await, expected);
}

#[tokio::test]
async fn writers_of_an_older_release_and_the_change_to_a_newer_schema_do_not_wait_for_each_other() {
    sqlx::any::install_default_drivers();
    let database = Database::create().await;
    let mut connection = AnyConnection::connect(&database.url).await.unwrap();
    older_schema(&mut connection, Dialect::Postgres).await;
    // One read what is counted, and is about to write; the change comes in between.
    let mut writer = connection.begin().await.unwrap();
    let count = "SELECT CAST(COUNT(*) AS BIGINT) FROM idempotency_bytes";
    let none: i64 = sqlx::query_scalar(count).fetch_one(&mut *writer).await.unwrap();
    assert_eq!(none, 0);
    let change = async { Store::open(&database.url).await.unwrap() };
    let write = async {
        let mut watcher = AnyConnection::connect(&database.url).await.unwrap();
        let waits = "SELECT CAST(COUNT(*) AS BIGINT) FROM idempotency_records";
        // Until the change is committed, its table is not there.
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watcher).await.is_err() {
            tokio::task::yield_now().await;
        }
        for row in laid(["'\\x01'", "'\\x02'", "'\\x11'", "'\\x00'"]).split_inclusive(';') {
            let row = sqlx::AssertSqlSafe(row.to_owned());
            sqlx::query(row).execute(&mut *writer).await.unwrap();
        }
        writer.commit().await.unwrap();
    };
    let both = async { tokio::join!(change, write) };
    let (store, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert_eq!(counted(&store).await, there(&store).await);
}
