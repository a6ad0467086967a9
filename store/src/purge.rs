//! Deleting what expired, in transactions of a bounded number of rows: it never holds up a request for long.

use crate::Store;
use crate::ledger::{ClockOf, Time};
use crate::rows::stored;
use model::Clock;
use model::port::StoreError;
use std::time::Duration;

/// How many rows one transaction deletes.
pub(crate) const PURGE_ROWS: i64 = 500;
/// For how long a node that no longer reports is remembered, in microseconds: 7 days.
const SILENT_NODE: i64 = 7 * 24 * 3_600 * 1_000_000;
/// For how long the outbox keeps what happened, in microseconds: 7 days.
const TOLD_EVENT: i64 = 7 * 24 * 3_600 * 1_000_000;
/// For how long it keeps what who reads it on has not read yet, in microseconds: 90 days.
const UNREAD_EVENT: i64 = 90 * 24 * 3_600 * 1_000_000;
/// For how long a rollout that ended is remembered, in microseconds: 90 days.
const ENDED_ROLLOUT: i64 = 90 * 24 * 3_600 * 1_000_000;

// Conditions are said twice: who waits for a row's lock in PostgreSQL looks at the outer one again, not at the inner one,
// and the row may have become another one meanwhile.

const RECORDS: &str = "DELETE FROM idempotency WHERE expires_at <= $1 AND digest IN \
    (SELECT digest FROM idempotency WHERE expires_at <= $1 LIMIT $2)";

const ANSWERS: &str = "DELETE FROM answers WHERE until <= $1 AND digest IN \
    (SELECT digest FROM answers WHERE until <= $1 LIMIT $2)";

const REVOCATIONS: &str = "DELETE FROM revocations WHERE until <= $1 AND digest IN \
    (SELECT digest FROM revocations WHERE until <= $1 LIMIT $2)";

const NODES: &str = "DELETE FROM nodes WHERE seen_at <= $1 AND name IN \
    (SELECT name FROM nodes WHERE seen_at <= $1 LIMIT $2)";

const EVENTS: &str = "DELETE FROM outbox WHERE at <= $1 AND number IN \
    (SELECT number FROM outbox WHERE at <= $1 AND number <= $3 LIMIT $2)";

const ROLLOUTS: &str = "DELETE FROM rollouts WHERE ended_at <= $1 AND id IN \
    (SELECT id FROM rollouts WHERE ended_at <= $1 LIMIT $2)";

const TOLD: &str = "DELETE FROM told WHERE until <= $1 AND digest IN \
    (SELECT digest FROM told WHERE until <= $1 LIMIT $2)";

const QUOTAS: &str = "DELETE FROM quotas WHERE ends <= $1 AND (node, digest) IN \
    (SELECT node, digest FROM quotas WHERE ends <= $1 LIMIT $2)";

impl Store {
    /// Deletes what expired: idempotency records, kept answers, revocations, nodes that have been silent for 7 days, events
    /// of the outbox after 7 days or, unread, 90, rollouts 90 days after their end, quotas whose windows are over, names of what was told
    /// once. Says how many rows. Decision records have a retention of their own: [`purge_records`](Self::purge_records).
    /// Of idempotency records the clock decides that decided when they expire: a node that is ahead forgets none too early.
    pub async fn purge(&self, now: i64) -> Result<u64, StoreError> {
        self.purge_by(ClockOf::Store, now).await
    }

    pub(crate) async fn purge_by(&self, clock: ClockOf, now: i64) -> Result<u64, StoreError> {
        let mut purged = 0;
        let ago = |span| Time { clock: ClockOf::Caller, now: now.saturating_sub(span) };
        for (delete, before) in [
            (RECORDS, Time { clock, now }),
            (ANSWERS, ago(0)),
            (TOLD, ago(0)),
            (QUOTAS, ago(0)),
            (REVOCATIONS, ago(0)),
            (NODES, ago(SILENT_NODE)),
            (ROLLOUTS, ago(ENDED_ROLLOUT)),
        ] {
            loop {
                let rows = self.delete_some(delete, before).await?;
                purged += rows;
                if rows < PURGE_ROWS.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(purged + self.purge_outbox(now).await?)
    }

    /// Deletes events of the outbox: those that were read on, or where nobody reads, after a while; the others much later,
    /// should whoever read them never come back.
    async fn purge_outbox(&self, now: i64) -> Result<u64, StoreError> {
        let read = self.outbox_read().await?.map_or(i64::MAX, |read| stored(read.number));
        let told = self.delete_told(now.saturating_sub(TOLD_EVENT), read).await?;
        let unread = self.delete_told(now.saturating_sub(UNREAD_EVENT), i64::MAX).await?;
        if unread > 0 {
            tracing::error!(
                unread,
                "events of the gateway went by age that no dispatcher had taken: their tenants are not told"
            );
        }
        Ok(told + unread)
    }

    async fn delete_told(&self, before: i64, to: i64) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let done = self.db.write(0, move |connection| {
                Box::pin(async move {
                    let delete = sqlx::query(EVENTS).bind(before).bind(PURGE_ROWS).bind(to);
                    Ok(delete.execute(connection).await?.rows_affected())
                })
            });
            let rows = done.await?;
            purged += rows;
            if rows < PURGE_ROWS.unsigned_abs() {
                return Ok(purged);
            }
        }
    }

    /// Purges again and again, with a pause between. Ends never; drop it to stop.
    pub async fn purge_forever(self, clock: Clock, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            match self.purge(clock.micros()).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "expired rows purged"),
                Err(error) => tracing::warn!(%error, "expired rows could not be purged"),
            }
        }
    }

    async fn delete_some(&self, delete: &'static str, before: Time) -> Result<u64, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let before = before.read(connection).await?;
                let delete = sqlx::query(delete).bind(before).bind(PURGE_ROWS);
                Ok(delete.execute(connection).await?.rows_affected())
            })
        });
        done.await
    }
}
