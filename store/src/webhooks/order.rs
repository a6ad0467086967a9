//! Order: of the deliveries of one endpoint and order key, only the first that is not done with is due.
//!
//! Invariant: whoever is done with the first makes the next one due in the same transaction. Fan-out locks the first one of a
//! key before it puts another behind it, so that neither misses the other; what leaves rows to others is mended by a sweep.

use super::sql::Sql;
use crate::Store;
use crate::db::is_postgres;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeSet;

/// How many keys one sweep looks at.
const SWEPT: i64 = 1_000;

pub(super) static TAKEN: [Sql; 2] = [
    Sql::of_rows(
        KEY,
        "SELECT endpoint, order_key FROM {rows} AS asked WHERE EXISTS (SELECT 1 FROM webhook_deliveries d \
             WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key)",
    ),
    // Whoever is done with the first one before this one commits sees what is put behind it.
    Sql::of_rows(
        KEY,
        "SELECT asked.endpoint, asked.order_key FROM {rows} AS asked CROSS JOIN LATERAL \
             (SELECT d.number FROM webhook_deliveries d \
              WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key \
              ORDER BY d.endpoint, d.order_key, d.number LIMIT 1 FOR SHARE) first",
    ),
];

pub(super) static RELEASE: Sql = Sql::of_rows(
    KEY,
    "UPDATE webhook_deliveries SET due_at = {now} WHERE number IN (SELECT number FROM webhook_deliveries \
         WHERE state = 'pending' AND due_at IS NULL AND number IN \
             (SELECT (SELECT d.number FROM webhook_deliveries d \
                  WHERE d.blocks = 1 AND d.endpoint = asked.endpoint AND d.order_key = asked.order_key \
                  ORDER BY d.endpoint, d.order_key, d.number LIMIT 1) \
              FROM {rows} AS asked) {skip}) \
     RETURNING tenant, endpoint",
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
     SELECT d.endpoint, d.order_key, CASE WHEN d.state = 'pending' AND d.due_at IS NULL THEN 1 ELSE 0 END AS is_stuck \
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

impl Store {
    /// Makes due what waits behind nothing any more, of the next 1,000 keys; says how many that were. To be called every few
    /// seconds: goes on where it ended, and finishes what enabling endpoints has begun.
    pub async fn mend_order(&self) -> Result<u64, StoreError> {
        let mut mended = self.take_up().await?;
        let from = self.bell.swept().unwrap_or_default();
        let (endpoint, order_key) = from;
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let sweep = SWEEP.query(connection).bind(endpoint).bind(order_key).bind(SWEPT);
                let rows = sweep.fetch_all(connection).await?;
                rows.iter().map(seen).collect::<Result<Vec<_>, _>>()
            })
        });
        let seen = read.await?;
        let is_whole = i64::try_from(seen.len()).is_ok_and(|seen| seen < SWEPT);
        let last = seen.iter().map(|(key, _)| key).max().cloned();
        self.bell.sweep_from(last.filter(|_| !is_whole).map(|key| (key.endpoint, key.order_key)));
        let stuck: BTreeSet<_> =
            seen.into_iter().filter(|(_, is_stuck)| *is_stuck == 1).map(|(key, _)| key).collect();
        if !stuck.is_empty() {
            let done = self
                .db
                .write(0, |connection| Box::pin(async move { released(connection, stuck).await }));
            mended += done.await?.len() as u64;
        }
        if mended > 0 {
            self.tell_webhooks();
        }
        Ok(mended)
    }
}

fn seen(row: &AnyRow) -> Result<(OrderKey, i64), sqlx::Error> {
    Ok((key(row)?, row.try_get("is_stuck")?))
}

fn key(row: &AnyRow) -> Result<OrderKey, sqlx::Error> {
    Ok(OrderKey { endpoint: row.try_get("endpoint")?, order_key: row.try_get("order_key")? })
}

/// Those of the keys that something is in that is not done with.
pub(super) async fn taken(
    connection: &mut AnyConnection,
    keys: BTreeSet<OrderKey>,
) -> Result<BTreeSet<OrderKey>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(keys);
    }
    let [sqlite, postgres] = &TAKEN;
    let find = if is_postgres(connection) { postgres } else { sqlite };
    let keys: Vec<_> = keys.into_iter().collect();
    let rows = find.with(connection, &keys)?.fetch_all(connection).await?;
    rows.iter().map(key).collect()
}

/// Makes the first of each key due, where it waits; says which, in lanes.
pub(super) async fn released(
    connection: &mut AnyConnection,
    keys: BTreeSet<OrderKey>,
) -> Result<Vec<(TenantId, EndpointId)>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let rows = RELEASE.with(connection, &keys)?.fetch_all(connection).await?;
    rows.iter().map(lane).collect()
}

/// The lane of a row with tenant and endpoint.
pub(super) fn lane(row: &AnyRow) -> Result<(TenantId, EndpointId), sqlx::Error> {
    let (tenant, endpoint): (&str, &str) = (row.try_get("tenant")?, row.try_get("endpoint")?);
    Ok((tenant.into(), endpoint.into()))
}
