//! Retention: whole days (UTC) of events go, with their deliveries and attempts; on PostgreSQL as partitions, which are made
//! ahead.
//!
//! Invariant: no event goes that was not fanned out yet, and its deliveries go before it does, those that others are about
//! included. What goes undelivered is [told](super::expired).

use super::expired::{self, Expired, deletes};
use super::hold::micros;
use super::lost::now;
use super::sql::Sql;
use crate::Store;
use crate::db::{Db, is_postgres};
use crate::rows::Columns as _;
use model::port::StoreError;
use sqlx::{AnyConnection, AssertSqlSafe};
use std::time::Duration;

/// A day, in microseconds.
const DAY: i64 = 24 * 3_600 * 1_000_000;
/// How many days are made ahead, with this one.
const AHEAD: i64 = 4;
/// How many rows one transaction deletes.
const ROWS: i64 = 1_000;
// A replay is remembered for as long as what it queued.
const REPLAYS: &str = "DELETE FROM webhook_replays WHERE ended_at < $1";

// In the order of numbers, which is that of times: the first that is young enough ends it.
const OLDEST: &str =
    "SELECT number, accepted_at FROM webhook_events WHERE number > $1 ORDER BY number LIMIT $2";

// Of every tenant.
const FANNED_OUT: &str = "SELECT MIN(number) AS number FROM (SELECT number FROM webhook_numbers WHERE name = 'fan_out' \
     UNION ALL SELECT number FROM webhook_aside) planned";

pub(super) static DELIVERIES: Sql = Sql::new(deletes!(
    "DELETE FROM webhook_deliveries WHERE number IN \
         (SELECT number FROM webhook_deliveries WHERE event <= $1 ORDER BY event LIMIT $2 {skip})"
));

// One that somebody is about: waits for them.
pub(super) static DELIVERY: Sql = Sql::new(deletes!(
    "DELETE FROM webhook_deliveries WHERE number IN \
         (SELECT number FROM webhook_deliveries WHERE event <= $1 ORDER BY event LIMIT $2 {lock})"
));

pub(super) const IDS: &str = "DELETE FROM webhook_ids WHERE webhook_id IN \
     (SELECT webhook_id FROM webhook_events WHERE number > $1 AND number <= $2)";

pub(super) const EVENTS: &str = "DELETE FROM webhook_events WHERE number > $1 AND number <= $2";

// What lies in no day.
const REST_OF_EVENTS: &str = "DELETE FROM webhook_events_rest WHERE number IN (SELECT number FROM webhook_events_rest \
     WHERE number <= $1 LIMIT $2)";

const REST_OF_ATTEMPTS: &str = "DELETE FROM webhook_attempts_rest WHERE (delivery, fence) IN \
     (SELECT delivery, fence FROM webhook_attempts_rest WHERE at < $1 LIMIT $2)";

// Whoever comes after waits for those who wait to make or drop a day: not for long.
const WAIT: &str = "SET LOCAL lock_timeout = '500ms'";

const DAYS: &str = "SELECT CAST(c.relname AS TEXT) AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
     WHERE i.inhparent = to_regclass($1) ORDER BY 1";

/// What retention did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many events went.
    pub events: u64,
    /// What of deliveries went that were neither delivered nor given up, as their tenants are told.
    pub expired: Vec<Expired>,
}

impl Store {
    /// Deletes events that were accepted on days (UTC) before that of so long ago, by the store's clock, with their
    /// deliveries, whatever became of them; tells tenants what of theirs came to nothing. In PostgreSQL it makes the next
    /// days as well: to be called at the start and every hour.
    pub async fn purge_webhooks(&self, retention: Duration) -> Result<Purged, StoreError> {
        let now = self.db.read(|connection| Box::pin(now(connection)));
        self.purge_until(now.await?.saturating_sub(micros(retention))).await
    }

    /// The same, of days before this time's.
    pub(crate) async fn purge_until(&self, before: i64) -> Result<Purged, StoreError> {
        let before = before.div_euclid(DAY) * DAY;
        if let Db::Postgres(_) = self.db {
            self.make_days().await?;
        }
        let fanned_out = sqlx::query(FANNED_OUT);
        let fanned_out = self.db.read(|connection| Box::pin(fanned_out.fetch_one(connection)));
        let fanned_out: i64 = fanned_out.await?.of("number")?;
        let (mut last, mut events) = (0, 0);
        loop {
            let find = sqlx::query(OLDEST).bind(last).bind(ROWS);
            let page = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
            let mut to = last;
            for row in &page {
                let (number, at): (i64, i64) = (row.of("number")?, row.of("accepted_at")?);
                if at >= before || number > fanned_out {
                    break;
                }
                to = number;
            }
            if to == last {
                break;
            }
            self.purge_deliveries(to).await?;
            events += self.purge_events(last, to).await?;
            last = to;
        }
        if let Db::Postgres(_) = self.db {
            self.drop_days(before, last).await?;
            self.purge_rest(REST_OF_EVENTS, last).await?;
            self.purge_rest(REST_OF_ATTEMPTS, before).await?;
        }
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                sqlx::query(REPLAYS).bind(before).execute(connection).await.map(drop)
            })
        });
        done.await?;
        Ok(Purged { events, expired: self.tell_expired().await? })
    }

    /// Deletes the deliveries of events up to this one: many at a time, then one by one those that others are about.
    async fn purge_deliveries(&self, last: i64) -> Result<(), StoreError> {
        while self.purge_some(&DELIVERIES, last, ROWS).await? > 0
            || self.purge_some(&DELIVERY, last, 1).await? > 0
        {}
        Ok(())
    }

    async fn purge_some(
        &self,
        delete: &'static Sql,
        last: i64,
        rows: i64,
    ) -> Result<usize, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let delete = delete.query(connection).bind(last).bind(rows);
                let rows = delete.fetch_all(&mut *connection).await?;
                expired::deleted(connection, &rows).await?;
                Ok(rows.len())
            })
        });
        done.await
    }

    /// Forgets these events, so that none is a repeat of them; in SQLite they are deleted, too. Says how many.
    async fn purge_events(&self, after: i64, to: i64) -> Result<u64, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let ids = sqlx::query(IDS).bind(after).bind(to).execute(&mut *connection).await?;
                if !is_postgres(connection) {
                    sqlx::query(EVENTS).bind(after).bind(to).execute(connection).await?;
                }
                Ok(ids.rows_affected())
            })
        });
        done.await
    }

    /// Deletes what lies in no day, up to a number or a time.
    async fn purge_rest(&self, delete: &'static str, to: i64) -> Result<(), StoreError> {
        loop {
            let done = self.db.write(0, move |connection| {
                Box::pin(async move {
                    let delete = sqlx::query(delete).bind(to).bind(ROWS);
                    Ok(delete.execute(connection).await?.rows_affected())
                })
            });
            if done.await? < ROWS.unsigned_abs() {
                return Ok(());
            }
        }
    }

    /// Makes the next days. One that can't be made any more, as rows of it lie with the rest, stays there.
    async fn make_days(&self) -> Result<(), StoreError> {
        for table in ["webhook_events", "webhook_attempts"] {
            for day in 0..AHEAD {
                let done = self.db.write(0, move |connection| {
                    Box::pin(async move {
                        let today = now(connection).await?.div_euclid(DAY);
                        make_day(connection, table, today + day).await
                    })
                });
                if let Err(error) = done.await {
                    tracing::debug!(%error, table, day, "a day was not made");
                }
            }
        }
        Ok(())
    }

    /// Drops the days that came before.
    async fn drop_days(&self, before: i64, last: i64) -> Result<(), StoreError> {
        for table in ["webhook_events", "webhook_attempts"] {
            let find = sqlx::query(DAYS).bind(table);
            let days = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
            for day in &days {
                let name: String = day.of("name")?;
                let number = name.strip_prefix(table).and_then(|rest| rest.strip_prefix("_day_"));
                let Some(number) = number.and_then(|number| number.parse::<i64>().ok()) else {
                    continue;
                };
                if number.saturating_add(1).saturating_mul(DAY) > before {
                    continue;
                }
                let dropped = name.clone();
                let done = self.db.write(0, move |connection| {
                    Box::pin(async move { drop_day(connection, &dropped, last).await })
                });
                if let Err(error) = done.await {
                    tracing::warn!(%error, day = name, "a day was not dropped");
                }
            }
        }
        Ok(())
    }
}

async fn make_day(
    connection: &mut AnyConnection,
    table: &'static str,
    day: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(WAIT).execute(&mut *connection).await?;
    let make = format!(
        "CREATE TABLE IF NOT EXISTS {table}_day_{day} PARTITION OF {table} FOR VALUES FROM ({}) TO ({})",
        day * DAY,
        (day + 1) * DAY
    );
    sqlx::query(AssertSqlSafe(make)).persistent(false).execute(connection).await.map(drop)
}

/// Drops a day, unless there is an event in it that may not go yet.
async fn drop_day(
    connection: &mut AnyConnection,
    name: &str,
    last: i64,
) -> Result<(), sqlx::Error> {
    if name.starts_with("webhook_events") {
        let later = format!("SELECT 1 AS one FROM {name} WHERE number > $1 LIMIT 1");
        let later = sqlx::query(AssertSqlSafe(later)).bind(last).persistent(false);
        if later.fetch_optional(&mut *connection).await?.is_some() {
            return Ok(());
        }
    }
    sqlx::query(WAIT).execute(&mut *connection).await?;
    let drop_it = format!("DROP TABLE {name}");
    sqlx::query(AssertSqlSafe(drop_it)).persistent(false).execute(connection).await.map(drop)
}
