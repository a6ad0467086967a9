//! What processes saw of open rollouts, window by window.
//!
//! Invariant: a report replaces the one before of the same process and window, so that one that is repeated counts once; and
//! of each rollout each process keeps its last two windows only.

use crate::Store;
use crate::db::serialize;
use crate::rows::{Columns as _, stored, text, unreadable};
use model::port::StoreError;
use model::rollout::Samples;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

/// How many reports one transaction writes.
const BATCH: usize = 500;

/// Whoever reports and whoever ends a rollout do so one by one: what came before the end counts, what came after is dropped.
const REPORTING: i64 = 0x746f_6c6c_7361_6d70;

const REPORT: &str = "INSERT INTO rollout_samples (rollout, number, process, samples) \
    SELECT id, $2, $3, $4 FROM rollouts WHERE id = $1 AND state = 'open' \
    ON CONFLICT (rollout, number, process) DO UPDATE SET samples = excluded.samples";

// Each process its own: another one's clock may be ahead.
const FORGET: &str =
    "DELETE FROM rollout_samples WHERE rollout = $1 AND number < $2 AND process = $3";

const OF: &str = "SELECT samples FROM rollout_samples WHERE rollout = $1 AND number = $2";

const NEWEST: &str = "SELECT samples FROM rollout_samples WHERE rollout = $1 \
    AND number = (SELECT max(number) FROM rollout_samples WHERE rollout = $1)";

const KEEP: &str = "UPDATE rollouts SET samples = $2 WHERE id = $1 AND samples IS NULL";

const DROP: &str = "DELETE FROM rollout_samples WHERE rollout = $1";

/// What one process saw of a rollout in one window, so far.
#[derive(Clone, Debug)]
pub struct SampleReport {
    /// The rollout's id.
    pub rollout: String,
    /// Which run of which node: one that started again begins at 0 and must not take away what was seen before.
    pub process: String,
    /// Which window: 0 for the first one, from the rollout's beginning on.
    pub window: u64,
    /// All that it saw in this window.
    pub samples: Samples,
}

impl Store {
    /// Replaces what these processes reported of these windows before. What is told of a rollout that ended is dropped.
    pub async fn report_samples(&self, reports: Vec<SampleReport>) -> Result<(), StoreError> {
        for batch in reports.chunks(BATCH) {
            let rows = batch.iter().map(|report| {
                let samples = serde_json::to_string(&report.samples).map_err(unreadable)?;
                let window = stored(report.window);
                Ok((text(&report.rollout), window, text(&report.process), samples))
            });
            let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
            let size = rows.iter().map(|(_, _, _, samples)| samples.len()).sum();
            let done = self.db.write(size, |connection| {
                Box::pin(async move {
                    serialize(connection, REPORTING).await?;
                    for (rollout, window, process, samples) in rows {
                        let report = sqlx::query(REPORT).bind(rollout.clone()).bind(window);
                        report
                            .bind(process.clone())
                            .bind(samples)
                            .execute(&mut *connection)
                            .await?;
                        let forget = sqlx::query(FORGET).bind(rollout).bind(window - 1);
                        forget.bind(process).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            });
            done.await?;
        }
        Ok(())
    }

    /// What all processes saw, for each of these rollouts and windows.
    pub async fn samples(&self, of: Vec<(String, u64)>) -> Result<Vec<Samples>, StoreError> {
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let mut all = Vec::with_capacity(of.len());
                for (rollout, window) in of {
                    let find = sqlx::query(OF).bind(text(&rollout)).bind(stored(window));
                    all.push(find.fetch_all(&mut *connection).await?);
                }
                Ok(all)
            })
        });
        rows.await?.iter().map(|rows| merged(rows)).collect()
    }
}

/// What was seen of a rollout in the newest window that there is.
pub(super) async fn newest(
    connection: &mut AnyConnection,
    rollout: &str,
) -> Result<Vec<AnyRow>, sqlx::Error> {
    sqlx::query(NEWEST).bind(rollout.to_owned()).fetch_all(connection).await
}

/// Keeps what was seen of a rollout that ended, all in one.
pub(super) async fn close(
    connection: &mut AnyConnection,
    rollout: &str,
) -> Result<(), sqlx::Error> {
    serialize(connection, REPORTING).await?;
    let seen = newest(&mut *connection, rollout).await?;
    // What can't be read, of a later release, is not worth keeping a rollout open.
    let kept = merged(&seen).and_then(|all| serde_json::to_string(&all).map_err(unreadable));
    if let Ok(kept) = kept {
        let keep = sqlx::query(KEEP).bind(rollout.to_owned()).bind(kept);
        keep.execute(&mut *connection).await?;
    }
    sqlx::query(DROP).bind(rollout.to_owned()).execute(connection).await.map(drop)
}

pub(super) fn merged(rows: &[AnyRow]) -> Result<Samples, StoreError> {
    let mut all = Samples::default();
    for row in rows {
        all.merge(&serde_json::from_str(row.of("samples")?).map_err(unreadable)?);
    }
    Ok(all)
}
