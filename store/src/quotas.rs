//! What was used of quotas that a node counts in its own process: kept for its next start.
//!
//! Invariant: a counter's row is the last that was told of it, and goes once its window is over.

use crate::Store;
use crate::rows::{Columns as _, places, stored, text, unreadable};
use model::id::NodeName;
use model::port::StoreError;
use model::quota::{CounterKey, KeptQuota, Period, Window};
use sha2::{Digest as _, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

/// How many counters one transaction writes.
const BATCH: usize = 500;
/// How many counters one statement writes.
const ROWS: usize = 50;
/// How many counters one query reads.
const PAGE: i64 = 5_000;
/// About how many bytes a counter holds beside its name.
const ROW_BYTES: usize = 100;

const OF_NODE: &str = "SELECT digest, counter, period, starts, ends, used FROM quotas \
    WHERE node = $1 AND ends > $2 AND digest > $3 ORDER BY digest LIMIT $4";

impl Store {
    /// Keeps how these counters of a node stand, in place of what was kept of them before; all or none of each 500. No
    /// counter stands twice.
    pub async fn keep_quotas(
        &self,
        node: &NodeName,
        quotas: &[KeptQuota],
    ) -> Result<(), StoreError> {
        for batch in quotas.chunks(BATCH) {
            let rows: Vec<Row> = batch.iter().map(|quota| Row::of(node, quota)).collect();
            let size = rows.iter().map(|row| row.counter.len() + ROW_BYTES).sum();
            let done = self.db.write(size, |connection| {
                Box::pin(async move {
                    for rows in rows.chunks(ROWS) {
                        put(connection, rows).await?;
                    }
                    Ok(())
                })
            });
            done.await?;
        }
        Ok(())
    }

    /// What is kept of a node's counters in windows that are not over. `now`: microseconds since the epoch.
    pub async fn kept_quotas(
        &self,
        node: &NodeName,
        now: i64,
    ) -> Result<Vec<KeptQuota>, StoreError> {
        let mut kept = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = sqlx::query(OF_NODE)
                .bind(text(node.as_str()))
                .bind(now)
                .bind(after.clone())
                .bind(PAGE);
            let rows = self.db.read(|connection| Box::pin(page.fetch_all(connection))).await?;
            let Some(last) = rows.last() else { return Ok(kept) };
            after = last.of::<&[u8]>("digest")?.to_vec();
            for row in &rows {
                match read(row) {
                    Ok(quota) => kept.push(quota),
                    // Of a later release perhaps: the others are kept all the same.
                    Err(error) => tracing::warn!(%error, "a kept quota can't be read"),
                }
            }
        }
    }
}

/// A counter as it is kept.
struct Row {
    node: String,
    digest: Vec<u8>,
    counter: String,
    period: &'static str,
    window: Window,
    used: i64,
}

impl Row {
    fn of(node: &NodeName, quota: &KeptQuota) -> Self {
        let counter = quota.key.storage_name(&quota.tenant);
        Self {
            node: text(node.as_str()),
            digest: Sha256::digest(&counter).to_vec(),
            counter: text(&counter),
            period: quota.period.as_str(),
            window: quota.window,
            used: stored(quota.used),
        }
    }
}

async fn put(connection: &mut AnyConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO quotas (node, digest, counter, period, starts, ends, used) VALUES {} \
         ON CONFLICT (node, digest) DO UPDATE SET counter = excluded.counter, \
            period = excluded.period, starts = excluded.starts, ends = excluded.ends, \
            used = excluded.used",
        places(rows.len(), 7)
    );
    let mut put = sqlx::query(AssertSqlSafe(sql));
    for row in rows {
        put = put
            .bind(row.node.clone())
            .bind(row.digest.clone())
            .bind(row.counter.clone())
            .bind(row.period)
            .bind(row.window.start)
            .bind(row.window.end)
            .bind(row.used);
    }
    put.execute(connection).await.map(drop)
}

fn read(row: &AnyRow) -> Result<KeptQuota, StoreError> {
    let (counter, period): (&str, &str) = (row.of("counter")?, row.of("period")?);
    let (tenant, key) =
        CounterKey::of_storage_name(counter).ok_or_else(|| unreadable("counter"))?;
    let period = Period::ALL.into_iter().find(|known| known.as_str() == period);
    Ok(KeptQuota {
        tenant,
        key,
        period: period.ok_or_else(|| unreadable("period"))?,
        window: Window { start: row.of("starts")?, end: row.of("ends")? },
        used: row.number("used")?,
    })
}
