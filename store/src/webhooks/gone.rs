//! What is kept of endpoints, sources and tenants goes some time after they went: how endpoints stand, how far sources were
//! read, counts that are zero.
//!
//! Invariant: what the document in force names is kept however long nothing happened to it: one that is disabled stays so.

use super::hold::micros;
use super::readers::source_reader;
use super::sql::Sql;
use crate::Store;
use crate::rows::text;
use model::id::{EndpointId, SourceId};
use model::port::StoreError;
use serde::Serialize;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many tenants one transaction looks at.
const TENANTS: i64 = 500;
/// For how long it is not written down again that an endpoint is named.
const NAMED_TIME: Duration = Duration::from_secs(3_600);

// What others are at is left for the next time.
static NAMED: Sql = Sql::of_rows(
    "endpoint TEXT",
    "UPDATE webhook_standings SET named_at = {now} WHERE endpoint IN (SELECT endpoint FROM webhook_standings \
         WHERE named_at < {now} - $2 AND endpoint IN (SELECT endpoint FROM {rows} AS known) {skip})",
);

// While what was parked is taken up, it is needed. What others are at is left for the next time.
pub(super) static STANDINGS: Sql = Sql::of_rows(
    "endpoint TEXT",
    "DELETE FROM webhook_standings WHERE endpoint IN (SELECT endpoint FROM webhook_standings \
         WHERE at < {now} - $2 AND named_at < {now} - $2 AND recovery IS NULL \
             AND endpoint NOT IN (SELECT endpoint FROM {rows} AS known) {skip})",
);

pub(super) static READERS: Sql = Sql::of_rows(
    "name TEXT",
    "DELETE FROM webhook_readers WHERE name IN (SELECT name FROM webhook_readers \
         WHERE hold_until < {now} - $2 AND name LIKE 'poll/%' AND name NOT IN (SELECT name FROM {rows} AS known) {skip})",
);

pub(super) static ZEROS: Sql = Sql::new(
    "SELECT tenant, part, waiting FROM webhook_waiting WHERE tenant IN \
         (SELECT tenant FROM webhook_waiting WHERE tenant > $1 GROUP BY tenant HAVING SUM(waiting) = 0 \
          ORDER BY tenant LIMIT $2) \
     ORDER BY tenant, part {skip}",
);

pub(super) static FORGET: Sql = Sql::of_rows(
    "tenant TEXT, part BIGINT",
    "DELETE FROM webhook_waiting WHERE (tenant, part) IN (SELECT tenant, part FROM {rows} AS gone)",
);

/// What the document in force names.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its endpoints.
    pub endpoints: Vec<EndpointId>,
    /// Its sources.
    pub sources: Vec<SourceId>,
}

#[derive(Serialize)]
struct Endpoint {
    endpoint: String,
}

#[derive(Serialize)]
struct Reader {
    name: String,
}

#[derive(Serialize)]
struct Part {
    tenant: String,
    part: i64,
}

impl Store {
    /// Forgets how endpoints stood and how far sources were read that are not known, once they were not for so long and
    /// nothing was written of them, and counts of tenants of which nothing waits; says how many rows that were. To be called
    /// every hour, with what the newest document of everybody's names.
    pub async fn forget_gone(&self, known: Known, after: Duration) -> Result<u64, StoreError> {
        let endpoint = |id: EndpointId| Endpoint { endpoint: text(id.as_str()) };
        let endpoints: Vec<_> = known.endpoints.into_iter().map(endpoint).collect();
        let reader = |id: &SourceId| Reader { name: text(&source_reader(id)) };
        let readers: Vec<_> = known.sources.iter().map(reader).collect();
        let after = micros(after);
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let named = NAMED.with(connection, &endpoints)?.bind(micros(NAMED_TIME));
                named.execute(&mut *connection).await?;
                let standings = STANDINGS.with(connection, &endpoints)?.bind(after);
                let standings = standings.execute(&mut *connection).await?.rows_affected();
                let readers = READERS.with(connection, &readers)?.bind(after);
                Ok(standings + readers.execute(connection).await?.rows_affected())
            })
        });
        Ok(done.await? + self.forget_zeros().await?)
    }

    async fn forget_zeros(&self) -> Result<u64, StoreError> {
        let (mut from, mut forgotten) = (Some(String::new()), 0);
        while let Some(after) = from {
            let done = self.db.write(0, move |connection| {
                Box::pin(async move { forget_zeros(connection, after).await })
            });
            let (rows, last) = done.await?;
            forgotten += rows;
            from = last;
        }
        Ok(forgotten)
    }
}

/// Deletes parts of counts that together are zero, as far as nobody else is at them: what is left adds up to what it did. Says
/// how many rows that were, and the last tenant that was looked at.
async fn forget_zeros(
    connection: &mut AnyConnection,
    after: String,
) -> Result<(u64, Option<String>), sqlx::Error> {
    let rows = ZEROS.query(connection).bind(after).bind(TENANTS);
    let rows = rows.fetch_all(&mut *connection).await?;
    let mut tenants: BTreeMap<String, (i64, Vec<i64>)> = BTreeMap::new();
    let mut last = None;
    for row in &rows {
        let tenant: String = row.try_get("tenant")?;
        let (sum, parts) = tenants.entry(tenant.clone()).or_default();
        *sum += row.try_get::<i64, _>("waiting")?;
        parts.push(row.try_get("part")?);
        last = Some(tenant);
    }
    let zero = tenants.into_iter().filter(|(_, (sum, _))| *sum == 0);
    let gone = zero.flat_map(|(tenant, (_, parts))| {
        parts.into_iter().map(move |part| Part { tenant: tenant.clone(), part })
    });
    let gone: Vec<_> = gone.collect();
    if gone.is_empty() {
        return Ok((0, last));
    }
    let forgotten = FORGET.with(connection, &gone)?.execute(connection).await?;
    Ok((forgotten.rows_affected(), last))
}
