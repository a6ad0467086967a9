//! Tenants that are aside: each has had more than its share of fan-out's page, so that its cursor passes their events. They
//! have places of their own, take turns, and come back once they have caught up.
//!
//! Invariant: who is aside has something that was not planned yet, up to the cursor. Places are changed by fan-out alone, in
//! the transaction of its turn.

use super::planning::Place;
use super::sql::Sql;
use model::id::TenantId;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

/// How many of them have a part of one turn.
pub(super) const AT_ONCE: i64 = 32;

const LIST: &str = "SELECT tenant, number, at FROM webhook_aside ORDER BY turn, tenant LIMIT $1";

pub(super) static PUT: Sql = Sql::of_rows(
    "tenant TEXT, number BIGINT, at BIGINT",
    "INSERT INTO webhook_aside (tenant, number, at, turn) SELECT tenant, number, at, $2 FROM {rows} AS aside WHERE true \
     ON CONFLICT (tenant) DO UPDATE SET number = excluded.number, at = excluded.at, turn = excluded.turn",
);

static BACK: Sql = Sql::of_rows(
    "tenant TEXT",
    "DELETE FROM webhook_aside WHERE tenant IN (SELECT tenant FROM {rows} AS back)",
);

/// How far a tenant's events were planned: as far as it has a place of its own, or else where fan-out's cursor is.
pub(super) const PLACE: &str = "SELECT COALESCE(aside.number, cursor.number) AS number, COALESCE(aside.at, cursor.at) AS at \
     FROM webhook_numbers cursor LEFT JOIN webhook_aside aside ON aside.tenant = $1 WHERE cursor.name = 'fan_out'";

/// A tenant that is aside, and how far its events were planned.
pub(super) struct Aside {
    pub(super) tenant: TenantId,
    pub(super) place: Place,
}

#[derive(Serialize)]
struct Put<'a> {
    tenant: &'a str,
    number: i64,
    at: i64,
}

impl<'a> Put<'a> {
    fn of(aside: &'a Aside) -> Self {
        let Place { number, at } = aside.place;
        Self { tenant: aside.tenant.as_str(), number, at }
    }
}

#[derive(Serialize)]
struct Back<'a> {
    tenant: &'a str,
}

/// Those whose turn it is.
pub(super) async fn first(connection: &mut AnyConnection) -> Result<Vec<Aside>, sqlx::Error> {
    let rows = sqlx::query(LIST).bind(AT_ONCE).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Aside { tenant: row.try_get::<&str, _>("tenant")?.into(), place: place(row)? })
        })
        .collect()
}

/// Puts them aside, or says how far they have come in this turn.
pub(super) async fn put(
    connection: &mut AnyConnection,
    aside: &[Aside],
    turn: i64,
) -> Result<(), sqlx::Error> {
    if aside.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = aside.iter().map(Put::of).collect();
    PUT.with(connection, &rows)?.bind(turn).execute(connection).await.map(drop)
}

/// Takes them back: the cursor is where they are.
pub(super) async fn take_back(
    connection: &mut AnyConnection,
    tenants: &[TenantId],
) -> Result<(), sqlx::Error> {
    if tenants.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = tenants.iter().map(|tenant| Back { tenant: tenant.as_str() }).collect();
    BACK.with(connection, &rows)?.execute(connection).await.map(drop)
}

/// The place in a row.
pub(super) fn place(row: &AnyRow) -> Result<Place, sqlx::Error> {
    Ok(Place { number: row.try_get("number")?, at: row.try_get("at")? })
}
