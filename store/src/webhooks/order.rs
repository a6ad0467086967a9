//! Order: of the deliveries of one endpoint and order key, only the first that is not done with is due.
//!
//! Invariant: whoever is done with the first makes the next one due in the same transaction. Fan-out locks the first one of a
//! key before it puts another behind it, so that neither misses the other; what leaves rows to others is mended by a sweep.
//!
//! What waits behind one that nobody works at, as it is parked or dead, is parked as well, and not counted: it takes up none
//! of its tenant's backlog, however long that lasts. It stays so until its own turn comes, or until it is
//! [left](super::leaving) with that one.

use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use crate::db::is_postgres;
use crate::rows::{Columns as _, unreadable};
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::Reason;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeMap, BTreeSet};

/// How many keys one sweep looks at.
const SWEPT: i64 = 1_000;
/// How many deliveries one transaction parks that wait behind such.
const BLOCKED: i64 = 1_000;
/// How many transactions of a kind one sweep takes at most.
const STEPS: usize = 4;

pub(super) static TAKEN: [Sql; 2] = [
    Sql::of_rows(
        KEY,
        "SELECT endpoint, order_key, state FROM (SELECT asked.endpoint, asked.order_key, (SELECT d.state FROM webhook_deliveries d \
             WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key \
             ORDER BY d.endpoint, d.order_key, d.number LIMIT 1) AS state FROM {rows} AS asked) firsts WHERE state IS NOT NULL",
    ),
    // Whoever is done with the first one before this one commits sees what is put behind it.
    Sql::of_rows(
        KEY,
        "SELECT asked.endpoint, asked.order_key, first.state FROM {rows} AS asked CROSS JOIN LATERAL \
             (SELECT d.state FROM webhook_deliveries d \
              WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key \
              ORDER BY d.endpoint, d.order_key, d.number LIMIT 1 FOR SHARE) first",
    ),
];

// One that was parked keeps the reason until it is settled, so that this says of which kind it was.
pub(super) static RELEASE: Sql = Sql::of_rows(
    KEY,
    "UPDATE webhook_deliveries SET state = 'pending', due_at = {now}, settled_at = NULL \
     WHERE number IN (SELECT number FROM webhook_deliveries \
         WHERE due_at IS NULL AND (state = 'pending' OR reason = 'blocked') AND number IN \
             (SELECT (SELECT d.number FROM webhook_deliveries d \
                  WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key \
                  ORDER BY d.endpoint, d.order_key, d.number LIMIT 1) \
              FROM {rows} AS asked) {skip}) \
     RETURNING tenant, endpoint, reason",
);

// Of the first ones that are still what they were, what waits behind. Nobody takes one of them up meanwhile: what is behind
// it would be let go before it was parked here.
pub(super) static BLOCK: Sql = Sql::of_rows(
    "number BIGINT",
    "WITH firsts AS MATERIALIZED (SELECT number, endpoint, order_key FROM webhook_deliveries \
         WHERE number IN (SELECT number FROM {rows} AS asked) AND blocks = 1 AND state IN ('parked', 'dead') {skip}) \
     UPDATE webhook_deliveries SET state = 'parked', reason = 'blocked', settled_at = {now} \
     WHERE number IN (SELECT d.number FROM firsts JOIN webhook_deliveries d \
         ON d.endpoint = firsts.endpoint AND d.order_key = firsts.order_key \
         WHERE d.state = 'pending' AND d.due_at IS NULL LIMIT $2 {skip}) \
     RETURNING tenant",
);

// Walks from key to key along the index: each step costs the same, however many wait.
pub(super) static SWEEP: Sql = Sql::new(
    "WITH RECURSIVE firsts(number) AS ( \
         SELECT (SELECT d.number FROM webhook_deliveries d \
             WHERE d.blocks = 1 AND (d.endpoint, d.order_key) > ($1, $2) \
             ORDER BY d.endpoint, d.order_key, d.number LIMIT 1) \
         UNION ALL \
         SELECT (SELECT d.number FROM webhook_deliveries d \
             WHERE d.blocks = 1 AND (d.endpoint, d.order_key) > (first.endpoint, first.order_key) \
             ORDER BY d.endpoint, d.order_key, d.number LIMIT 1) \
         FROM firsts JOIN webhook_deliveries first ON first.number = firsts.number) \
     SELECT d.number, d.endpoint, d.order_key, \
         CASE WHEN d.due_at IS NULL AND (d.state = 'pending' OR d.reason = 'blocked') THEN 'stuck' \
              WHEN d.state IN ('parked', 'dead') AND EXISTS (SELECT 1 FROM webhook_deliveries w WHERE w.state = 'pending' \
                  AND w.due_at IS NULL AND w.endpoint = d.endpoint AND w.order_key = d.order_key) THEN 'blocks' \
              ELSE 'well' END AS stands \
     FROM (SELECT number FROM firsts WHERE number IS NOT NULL LIMIT $3) seen \
     JOIN webhook_deliveries d ON d.number = seen.number",
);

const KEY: &str = "endpoint TEXT, order_key TEXT";

/// What deliveries wait behind each other by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct OrderKey {
    pub(super) endpoint: String,
    pub(super) order_key: String,
}

/// What a sweep found.
#[derive(Default)]
struct Swept {
    /// Keys whose first waits for nothing.
    stuck: BTreeSet<OrderKey>,
    /// Numbers of firsts that nobody works at, with something behind them.
    blocking: Vec<i64>,
}

#[derive(Serialize)]
struct First {
    number: i64,
}

impl Store {
    /// Makes due what waits behind nothing any more, and parks what waits behind one that nobody works at, of the next 1,000
    /// keys; says how many that were. To be called every few seconds, and again soon where it did something: goes on where
    /// it ended, and with what enabling endpoints has begun.
    pub async fn mend_order(&self) -> Result<u64, StoreError> {
        let taken_up = self.take_up(STEPS).await?;
        let Swept { stuck, blocking } = self.sweep_order().await?;
        let mut released = 0;
        if !stuck.is_empty() {
            let done = self.db.write(0, |connection| {
                Box::pin(async move {
                    let mut waiting = Waiting::default();
                    let lanes = self::released(connection, stuck, &mut waiting).await?;
                    waiting.count(connection).await?;
                    Ok(lanes.len() as u64)
                })
            });
            released = done.await?;
        }
        if taken_up + released > 0 {
            self.tell_webhooks();
        }
        Ok(taken_up + released + self.block(blocking).await?)
    }

    async fn sweep_order(&self) -> Result<Swept, StoreError> {
        let (endpoint, order_key) = self.bell.swept().unwrap_or_default();
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let sweep = SWEEP.query(connection).bind(endpoint).bind(order_key).bind(SWEPT);
                sweep.fetch_all(connection).await
            })
        });
        let rows = read.await?;
        let (mut swept, mut last) = (Swept::default(), None);
        for row in &rows {
            let key = key(row).map_err(unreadable)?;
            match row.of("stands")? {
                "stuck" => drop(swept.stuck.insert(key.clone())),
                "blocks" => swept.blocking.push(row.of("number")?),
                _ => {}
            }
            last = last.max(Some(key));
        }
        let is_whole = i64::try_from(rows.len()).is_ok_and(|seen| seen < SWEPT);
        let last = last.filter(|_| !is_whole);
        self.bell.sweep_from(last.map(|key| (key.endpoint, key.order_key)));
        Ok(swept)
    }

    /// Parks what waits behind these, or a part of it; says how many.
    async fn block(&self, firsts: Vec<i64>) -> Result<u64, StoreError> {
        let mut blocked = 0;
        for _ in 0..STEPS {
            if firsts.is_empty() {
                break;
            }
            let rows: Vec<_> = firsts.iter().map(|number| First { number: *number }).collect();
            let done = self.db.write(0, |connection| Box::pin(block(connection, rows)));
            let rows = done.await?;
            blocked += rows;
            if rows < BLOCKED.unsigned_abs() {
                break;
            }
        }
        Ok(blocked)
    }
}

async fn block(connection: &mut AnyConnection, firsts: Vec<First>) -> Result<u64, sqlx::Error> {
    let rows = BLOCK.with(connection, &firsts)?.bind(BLOCKED).fetch_all(&mut *connection).await?;
    let mut waiting = Waiting::default();
    for row in &rows {
        waiting.add(row.try_get("tenant")?, -1);
    }
    waiting.count(connection).await?;
    Ok(rows.len() as u64)
}

fn key(row: &AnyRow) -> Result<OrderKey, sqlx::Error> {
    Ok(OrderKey { endpoint: row.try_get("endpoint")?, order_key: row.try_get("order_key")? })
}

/// What becomes of one that is put behind others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// It waits.
    Waits,
    /// The first one is parked or dead: so is this one parked.
    IsBlocked,
}

/// Those of the keys that something is in that is not done with.
pub(super) async fn taken(
    connection: &mut AnyConnection,
    keys: BTreeSet<OrderKey>,
) -> Result<BTreeMap<OrderKey, Behind>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let [sqlite, postgres] = &TAKEN;
    let find = if is_postgres(connection) { postgres } else { sqlite };
    let keys: Vec<_> = keys.into_iter().collect();
    let rows = find.with(connection, &keys)?.fetch_all(connection).await?;
    let taken = |row: &AnyRow| {
        let behind = match row.try_get("state")? {
            "parked" | "dead" => Behind::IsBlocked,
            _ => Behind::Waits,
        };
        Ok((key(row)?, behind))
    };
    rows.iter().map(taken).collect()
}

/// Makes the first of each key due, where it waits; says which, in lanes. What waits is added up, to be counted at the
/// transaction's end.
pub(super) async fn released(
    connection: &mut AnyConnection,
    keys: BTreeSet<OrderKey>,
    waiting: &mut Waiting,
) -> Result<Vec<(TenantId, EndpointId)>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let rows = RELEASE.with(connection, &keys)?.fetch_all(connection).await?;
    for row in &rows {
        if row.try_get::<Option<&str>, _>("reason")? == Some(Reason::Blocked.as_str()) {
            waiting.add(row.try_get("tenant")?, 1);
        }
    }
    rows.iter().map(lane).collect()
}

/// The lane of a row with tenant and endpoint.
pub(super) fn lane(row: &AnyRow) -> Result<(TenantId, EndpointId), sqlx::Error> {
    let (tenant, endpoint): (&str, &str) = (row.try_get("tenant")?, row.try_get("endpoint")?);
    Ok((tenant.into(), endpoint.into()))
}
