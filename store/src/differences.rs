//! Exchanges on which two versions of a pack decided differently: written in batches, looked up newest first. They age out
//! and are erased with the decision records, as both tell of the same exchanges.
//!
//! Invariant: of each rollout the newest [`DIFFERENCES_MAX`] are kept, and no more.

use crate::Store;
use crate::db::serialize;
use crate::records::DELETING;
use crate::rows::{Columns as _, places, searched, searched_ids, text, unreadable};
use crate::search::Search;
use model::id::{AttachmentId, PackId};
use model::port::StoreError;
use model::rollout::Difference;
use sqlx::{AnyConnection, AssertSqlSafe};
use std::collections::BTreeSet;

/// How many differences of one rollout are kept.
pub const DIFFERENCES_MAX: u32 = 10_000;
/// How many differences one transaction writes.
pub const BATCH: usize = 500;
/// How many differences one statement writes.
const ROWS: usize = 50;

const LIST: &str = "SELECT difference FROM differences";

// The oldest that is kept, once there are as many as there may be.
const OLDEST: &str = "SELECT id FROM differences WHERE rollout = $1 \
    ORDER BY id DESC LIMIT 1 OFFSET $2";

const TRIM: &str = "DELETE FROM differences WHERE rollout = $1 AND id < $2";

/// Which differences are wanted. Newest first.
#[derive(Clone, Debug, Default)]
pub struct DifferenceQuery {
    /// Of this pack.
    pub pack: Option<PackId>,
    /// On one of these attachments.
    pub attachments: Option<Vec<AttachmentId>>,
    /// Older than the difference of this id.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Store {
    /// Writes differences, each with its rollout's id; all or none of each [`BATCH`]. One that is there already (by id)
    /// stays as it is. Of a rollout that has too many, the oldest go.
    pub async fn write_differences(
        &self,
        differences: Vec<(String, Difference)>,
    ) -> Result<(), StoreError> {
        let mut rows = differences.iter().map(Row::of).collect::<Result<Vec<_>, _>>()?;
        while !rows.is_empty() {
            let batch: Vec<Row> = rows.drain(..rows.len().min(BATCH)).collect();
            let size = batch.iter().map(|row| row.difference.len()).sum();
            let done = self.db.write(size, |connection| {
                Box::pin(async move {
                    for rows in batch.chunks(ROWS) {
                        insert(connection, rows).await?;
                    }
                    let rollouts: BTreeSet<&str> =
                        batch.iter().map(|row| row.rollout.as_str()).collect();
                    for rollout in rollouts {
                        trim(connection, rollout).await?;
                    }
                    Ok(())
                })
            });
            done.await?;
        }
        Ok(())
    }

    /// Differences, newest first.
    pub async fn differences(
        &self,
        query: &DifferenceQuery,
    ) -> Result<Vec<Difference>, StoreError> {
        let _place = self.search_place().await?;
        let query = query.clone();
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let list = Search::new(LIST)
                    .filter("pack = {}", query.pack.map(|id| searched(id.as_str())))?
                    .one_of("attachment", query.attachments.map(searched_ids))?
                    .filter("id < {}", query.before.as_deref().map(text))?;
                list.first(query.limit, "id DESC", connection).await
            })
        });
        let rows = rows.await?;
        let differences =
            rows.iter().map(|row| serde_json::from_str(row.of("difference")?).map_err(unreadable));
        differences.collect()
    }
}

/// A difference as it is kept.
struct Row {
    id: String,
    at: i64,
    rollout: String,
    attachment: String,
    pack: String,
    tenant: String,
    difference: String,
}

impl Row {
    fn of((rollout, difference): &(String, Difference)) -> Result<Self, StoreError> {
        Ok(Self {
            id: text(&difference.id),
            at: difference.at.as_microsecond(),
            rollout: text(rollout),
            attachment: searched(difference.attachment.as_str()),
            pack: searched(difference.pack.as_str()),
            tenant: searched(difference.tenant.as_str()),
            difference: serde_json::to_string(difference).map_err(unreadable)?,
        })
    }
}

/// Inserts rows by one statement: with a server far away, a round trip for each would be felt.
async fn insert(connection: &mut AnyConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO differences (id, at, rollout, attachment, pack, tenant, difference) \
         VALUES {} ON CONFLICT (id) DO NOTHING",
        places(rows.len(), 7)
    );
    // Of whole chunks alone the statement is kept: the rest differs every time.
    let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(rows.len() == ROWS);
    for row in rows {
        insert = insert
            .bind(row.id.clone())
            .bind(row.at)
            .bind(row.rollout.clone())
            .bind(row.attachment.clone())
            .bind(row.pack.clone())
            .bind(row.tenant.clone())
            .bind(row.difference.clone());
    }
    insert.execute(connection).await.map(drop)
}

async fn trim(connection: &mut AnyConnection, rollout: &str) -> Result<(), sqlx::Error> {
    let oldest: Option<String> = sqlx::query_scalar(OLDEST)
        .bind(rollout.to_owned())
        .bind(i64::from(DIFFERENCES_MAX) - 1)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(oldest) = oldest else { return Ok(()) };
    serialize(connection, DELETING).await?;
    let trim = sqlx::query(TRIM).bind(rollout.to_owned()).bind(oldest);
    trim.execute(connection).await.map(drop)
}
