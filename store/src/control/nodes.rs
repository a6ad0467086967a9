//! Nodes, as they report themselves.

use crate::Store;
use crate::rows::{Columns as _, text, unreadable};
use jiff::Timestamp;
use model::node::NodeReport;
use model::port::StoreError;

const REPORT: &str = "INSERT INTO nodes (name, seen_at, report) VALUES ($1, $2, $3) \
    ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, report = excluded.report";

const SEEN: &str = "SELECT report FROM nodes WHERE seen_at >= $1 ORDER BY name LIMIT $2";

/// How many nodes are told of at most.
const NODES_MAX: i64 = 10_000;

impl Store {
    /// What a node says of itself replaces what it said before.
    pub async fn report_node(&self, report: &NodeReport) -> Result<(), StoreError> {
        let whole = serde_json::to_string(report).map_err(unreadable)?;
        let put = sqlx::query(REPORT)
            .bind(text(report.name.as_str()))
            .bind(report.seen_at.as_microsecond())
            .bind(whole);
        let done = self.db.write(0, |connection| {
            Box::pin(async move { put.execute(connection).await.map(drop) })
        });
        done.await
    }

    /// Nodes that reported since then, by name.
    pub async fn nodes(&self, since: Timestamp) -> Result<Vec<NodeReport>, StoreError> {
        let seen = sqlx::query(SEEN).bind(since.as_microsecond()).bind(NODES_MAX);
        let rows = self.db.read(|connection| Box::pin(seen.fetch_all(connection))).await?;
        rows.iter().map(|row| serde_json::from_str(row.of("report")?).map_err(unreadable)).collect()
    }
}
