//! Decision records of exchanges: written in batches, looked up by operators and partners, deleted by age or tenant.

use crate::Store;
use crate::db::serialize;
use crate::purge::PURGE_ROWS;
use crate::rows::{Columns as _, places, searched, text, unreadable};
use crate::search::Search;
use jiff::Timestamp;
use model::id::{ConsumerId, RouteId, TenantId};
use model::port::StoreError;
use model::record::Record;
use sqlx::{AnyConnection, AssertSqlSafe};

/// How many records one transaction writes: a batch does not hold up the claims that it shares a transaction with.
pub const BATCH: usize = 500;
/// How many records one statement writes.
const ROWS: usize = 50;
/// Those who delete records or differences do so one by one: they would wait for each other's rows crosswise.
pub(crate) const DELETING: i64 = 0x746f_6c6c_7265_6373;

const LIST: &str = "SELECT record FROM records";

const PURGE: &str = "DELETE FROM records WHERE id IN \
    (SELECT id FROM records WHERE at < $1 ORDER BY at LIMIT $2)";

const PURGE_DIFFERENCES: &str = "DELETE FROM differences WHERE id IN \
    (SELECT id FROM differences WHERE at < $1 ORDER BY at LIMIT $2)";

const ERASE: &str = "DELETE FROM records WHERE id IN \
    (SELECT id FROM records WHERE tenant = $1 AND at <= $2 LIMIT $3)";

const ERASE_DIFFERENCES: &str = "DELETE FROM differences WHERE id IN \
    (SELECT id FROM differences WHERE tenant = $1 AND at <= $2 LIMIT $3)";

/// Which records are wanted. Newest first.
#[derive(Clone, Debug, Default)]
pub struct RecordQuery {
    /// Of this request id or trace id.
    pub exchange: Option<String>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of this consumer.
    pub consumer: Option<ConsumerId>,
    /// Of this route.
    pub route: Option<RouteId>,
    /// With this code.
    pub error: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// Older than the record of this id.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Store {
    /// Writes records, all or none of each [`BATCH`]. One that is there already (by id) stays as it is.
    pub async fn write_records(&self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut rows = records.iter().map(Row::of).collect::<Result<Vec<_>, _>>()?;
        while !rows.is_empty() {
            let batch: Vec<Row> = rows.drain(..rows.len().min(BATCH)).collect();
            let size = batch.iter().map(|row| row.record.len()).sum();
            let done = self.db.write(size, |connection| {
                Box::pin(async move {
                    for rows in batch.chunks(ROWS) {
                        insert(connection, rows).await?;
                    }
                    Ok(())
                })
            });
            done.await?;
        }
        Ok(())
    }

    /// Records, newest first.
    pub async fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, StoreError> {
        // Those of one exchange are found at once, and partners ask for them.
        let _place = match query.exchange {
            Some(_) => None,
            None => Some(self.search_place().await?),
        };
        let query = query.clone();
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let list = Search::new(LIST)
                    .filter(
                        "(request_id = {} OR trace_id = {})",
                        query.exchange.as_deref().map(searched),
                    )?
                    .filter("tenant = {}", query.tenant.map(|id| searched(id.as_str())))?
                    .filter("consumer = {}", query.consumer.map(|id| searched(id.as_str())))?
                    .filter("route = {}", query.route.map(|id| searched(id.as_str())))?
                    .filter("error = {}", query.error.as_deref().map(searched))?
                    .filter("at >= {}", query.since.map(|time| time.as_microsecond()))?
                    .filter("at < {}", query.until.map(|time| time.as_microsecond()))?
                    .filter("id < {}", query.before.as_deref().map(text))?;
                list.first(query.limit, "id DESC", connection).await
            })
        });
        let rows = rows.await?;
        rows.iter().map(|row| serde_json::from_str(row.of("record")?).map_err(unreadable)).collect()
    }

    /// Deletes records and differences that are older, in transactions of a bounded number of rows; says how many.
    pub async fn purge_records(&self, before: Timestamp) -> Result<u64, StoreError> {
        let before = before.as_microsecond();
        let mut purged = 0;
        loop {
            let done = self.db.write(0, move |connection| {
                Box::pin(async move {
                    serialize(connection, DELETING).await?;
                    let mut rows = 0;
                    for purge in [PURGE, PURGE_DIFFERENCES] {
                        let purge = sqlx::query(purge).bind(before).bind(PURGE_ROWS);
                        rows += purge.execute(&mut *connection).await?.rows_affected();
                    }
                    Ok(rows)
                })
            });
            let rows = done.await?;
            purged += rows;
            if rows < PURGE_ROWS.unsigned_abs() {
                return Ok(purged);
            }
        }
    }

    /// Deletes a tenant's records and differences until few are left, in transactions of a bounded number of rows; says how many.
    pub(crate) async fn erase_most(
        &self,
        tenant: &TenantId,
        until: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut erased = 0;
        loop {
            let tenant = tenant.clone();
            let done = self.db.write(0, move |connection| {
                Box::pin(async move { erase_some(connection, &tenant, until).await })
            });
            let rows = done.await?;
            erased += rows;
            if rows < PURGE_ROWS.unsigned_abs() {
                return Ok(erased);
            }
        }
    }
}

/// Deletes so many of a tenant's records and differences as one transaction may.
pub(crate) async fn erase_some(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    until: Timestamp,
) -> Result<u64, sqlx::Error> {
    serialize(connection, DELETING).await?;
    let mut rows = 0;
    for erase in [ERASE, ERASE_DIFFERENCES] {
        let erase = sqlx::query(erase)
            .bind(searched(tenant.as_str()))
            .bind(until.as_microsecond())
            .bind(PURGE_ROWS);
        rows += erase.execute(&mut *connection).await?.rows_affected();
    }
    Ok(rows)
}

/// A record as it is kept.
struct Row {
    id: String,
    at: i64,
    request_id: String,
    trace_id: String,
    tenant: Option<String>,
    consumer: Option<String>,
    route: String,
    error: Option<String>,
    record: String,
}

impl Row {
    fn of(record: &Record) -> Result<Self, StoreError> {
        Ok(Self {
            id: text(&record.id),
            at: record.at.as_microsecond(),
            request_id: searched(&record.request_id),
            trace_id: searched(&record.trace_id),
            tenant: record.tenant.as_ref().map(|id| searched(id.as_str())),
            consumer: record.consumer.as_ref().map(|id| searched(id.as_str())),
            route: searched(record.route.as_str()),
            error: record.error.as_deref().map(searched),
            record: serde_json::to_string(record).map_err(unreadable)?,
        })
    }
}

/// Inserts rows by one statement: with a server far away, a round trip for each would be felt.
async fn insert(connection: &mut AnyConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO records (id, at, request_id, trace_id, tenant, consumer, route, error, \
         record) VALUES {} ON CONFLICT (id) DO NOTHING",
        places(rows.len(), 9)
    );
    // Of whole chunks alone the statement is kept: the rest differs every time.
    let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(rows.len() == ROWS);
    for row in rows {
        insert = insert
            .bind(row.id.clone())
            .bind(row.at)
            .bind(row.request_id.clone())
            .bind(row.trace_id.clone())
            .bind(row.tenant.clone())
            .bind(row.consumer.clone())
            .bind(row.route.clone())
            .bind(row.error.clone())
            .bind(row.record.clone());
    }
    insert.execute(connection).await.map(drop)
}
