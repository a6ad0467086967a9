//! How much of each tenant's waits: events before fan-out, and deliveries that are pending or held. Counted by whoever
//! changes it, in the same transaction.
//!
//! Invariant: it is counted last, by one statement and in the order of tenants, so that whoever waits for a count holds none.

use super::sql::Sql;
use serde::Serialize;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeMap;

pub(super) static COUNT: Sql = Sql::of_rows(
    "tenant TEXT, added BIGINT",
    "INSERT INTO webhook_waiting AS counted (tenant, part, waiting) \
     SELECT tenant, {part}, added FROM {rows} AS added WHERE true ORDER BY tenant \
     ON CONFLICT (tenant, part) DO UPDATE SET waiting = counted.waiting + excluded.waiting",
);

pub(super) static WAITING: Sql = Sql::of_rows(
    "tenant TEXT",
    "SELECT tenant, CAST(SUM(waiting) AS BIGINT) AS waiting FROM webhook_waiting \
     WHERE tenant IN (SELECT tenant FROM {rows} AS asked) GROUP BY tenant",
);

/// What came and went, by tenant.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<String, i64>);

#[derive(Serialize)]
struct Added<'a> {
    tenant: &'a str,
    added: i64,
}

#[derive(Serialize)]
struct Asked<'a> {
    tenant: &'a str,
}

impl Waiting {
    pub(super) fn add(&mut self, tenant: &str, added: i64) {
        match self.0.get_mut(tenant) {
            Some(sum) => *sum += added,
            None => drop(self.0.insert(tenant.to_owned(), added)),
        }
    }

    /// Counts it. To be called once in a transaction, at its end.
    pub(super) async fn count(self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let changed = self.0.iter().filter(|(_, added)| **added != 0);
        let rows: Vec<_> = changed.map(|(tenant, added)| Added { tenant, added: *added }).collect();
        if rows.is_empty() {
            return Ok(());
        }
        COUNT.with(connection, &rows)?.execute(connection).await.map(drop)
    }
}

/// How much waits of each of these tenants.
pub(super) async fn waiting_of(
    connection: &mut AnyConnection,
    tenants: impl Iterator<Item = &str>,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let tenants: Vec<_> = tenants.map(|tenant| Asked { tenant }).collect();
    if tenants.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = WAITING.with(connection, &tenants)?.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("tenant")?, row.try_get("waiting")?))).collect()
}
