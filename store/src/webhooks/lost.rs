//! Dispatchers that live, and what those held that don't.
//!
//! Invariant: a dispatcher that was silent for too long holds nothing any more; what it may have sent is in the ledger as an
//! attempt that is lost.

use super::hold::micros;
use super::settle::{Made, keep};
use super::sql::Sql;
use crate::Store;
use crate::rows::{text, unreadable};
use jiff::Timestamp;
use model::port::StoreError;
use model::webhook::Outcome;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::time::Duration;

/// How long a dispatcher is taken to live after it beat.
const LIVES: Duration = Duration::from_secs(5);
/// How long one that is silent is remembered.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// How many deliveries one transaction gives back.
const GIVEN_BACK: i64 = 1_000;

/// The reason of a delivery that is due again since its last attempt was lost, until it is settled: it has no fault in it.
pub(super) const LOST: &str = "lost";

pub(super) static BEAT: Sql = Sql::new(
    "INSERT INTO webhook_dispatchers (name, beat_at) VALUES ($1, {now}) \
     ON CONFLICT (name) DO UPDATE SET beat_at = excluded.beat_at RETURNING beat_at",
);

const FORGET: &str = "DELETE FROM webhook_dispatchers WHERE name IN \
     (SELECT name FROM webhook_dispatchers WHERE beat_at < $1 {skip})";

pub(super) static FORGET_SILENT: Sql = Sql::new(FORGET);

const LIVE: &str = "SELECT name FROM webhook_dispatchers WHERE beat_at >= $1 ORDER BY name";

pub(super) static GIVE_BACK: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'pending', reason = 'lost', due_at = {now}, attempts = attempts + 1 \
     WHERE number IN (SELECT d.number FROM webhook_deliveries d WHERE d.state = 'held' \
         AND (d.hold_until < {now} OR d.holder NOT IN \
             (SELECT name FROM webhook_dispatchers WHERE beat_at >= {now} - $1)) LIMIT $2 {skip}) \
     RETURNING number, fence, attempts, holder, held_at, due_at",
);

/// Who lives, and since when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Dispatchers that beat within the last 5 s, this one included, in the order of their names.
    pub live: Vec<String>,
    /// The store's time, by which deliveries are due.
    pub now: Timestamp,
}

impl Store {
    /// Says that a dispatcher lives, and who else does.
    pub async fn beat(&self, dispatcher: &str) -> Result<Beat, StoreError> {
        let name = text(dispatcher);
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let beat = BEAT.query(connection).bind(name).fetch_one(&mut *connection).await?;
                let now: i64 = beat.try_get("beat_at")?;
                let forget = FORGET_SILENT.query(connection).bind(now - micros(REMEMBERED));
                forget.execute(&mut *connection).await?;
                let live = sqlx::query_scalar(LIVE).bind(now - micros(LIVES));
                Ok((live.fetch_all(connection).await?, now))
            })
        });
        let (live, now) = done.await?;
        Ok(Beat { live, now: Timestamp::from_microsecond(now).map_err(unreadable)? })
    }

    /// Makes due again what is held by those who were silent for so long, or for longer than it was to be held; says how
    /// many. Each has an attempt that is lost.
    pub async fn give_back_lost(&self, silent: Duration) -> Result<u64, StoreError> {
        let mut given_back = 0;
        loop {
            let silent = micros(silent);
            let done = self.db.write(0, move |connection| {
                Box::pin(async move { give_back(connection, silent).await })
            });
            let rows = done.await?;
            given_back += rows;
            if rows < GIVEN_BACK.unsigned_abs() {
                break;
            }
        }
        if given_back > 0 {
            self.tell_webhooks();
        }
        Ok(given_back)
    }
}

async fn give_back(connection: &mut AnyConnection, silent: i64) -> Result<u64, sqlx::Error> {
    let give = GIVE_BACK.query(connection).bind(silent).bind(GIVEN_BACK);
    let rows = give.fetch_all(&mut *connection).await?;
    let lost = rows.iter().map(lost).collect::<Result<Vec<_>, _>>()?;
    keep(connection, &lost).await?;
    Ok(lost.len() as u64)
}

fn lost(row: &AnyRow) -> Result<Made, sqlx::Error> {
    let (at, now): (i64, i64) = (row.try_get("held_at")?, row.try_get("due_at")?);
    Ok(Made {
        delivery: row.try_get("number")?,
        fence: row.try_get("fence")?,
        at,
        attempt: row.try_get("attempts")?,
        took: (now - at).max(0),
        outcome: Outcome::Lost.as_str(),
        status: None,
        excerpt: None,
        node: row.try_get("holder")?,
    })
}

/// The store's time.
pub(super) async fn now(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    static NOW: Sql = Sql::new("SELECT {now} AS now");
    NOW.query(connection).fetch_one(connection).await?.try_get("now")
}
