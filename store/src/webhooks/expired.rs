//! Deliveries that are deleted, by age or as their event is gone, and what is told of those that were neither delivered nor
//! given up.
//!
//! Invariant: what went so is counted in the transaction that deletes it, and told to its tenant in the one that takes the
//! count away: once, whoever is killed in between. What tells of such is not counted when it goes undelivered itself: who
//! takes nothing would be told of it for ever.

use super::lost::now;
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use crate::control::{Undone, WriteError, append_event, whole};
use crate::db::is_postgres;
use crate::rows::unreadable;
use jiff::Timestamp;
use model::event::{DELIVERIES_EXPIRED, Event};
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::Reason;
use serde::Serialize;
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How many endpoints one transaction tells of.
const TOLD: i64 = 256;

/// What a statement that deletes deliveries says of each, for [`deleted`]. `notices`: 1 where it was to tell of such itself.
macro_rules! deletes {
    ($delete:literal) => {
        concat!(
            $delete,
            " RETURNING number, tenant, endpoint, state, reason, accepted_at, \
                 (SELECT count(*) FROM webhook_events e WHERE e.number = webhook_deliveries.event \
                      AND e.accepted_at = webhook_deliveries.accepted_at AND e.source = '/tollgate' \
                      AND e.type = 'tollgate.deliveries.expired') AS notices"
        )
    };
}
pub(super) use deletes;

pub(super) static ATTEMPTS: Sql = Sql::of_rows(
    "number BIGINT",
    "DELETE FROM webhook_attempts WHERE delivery IN (SELECT number FROM {rows} AS gone)",
);

static COUNT: Sql = Sql::of_rows(
    "tenant TEXT, endpoint TEXT, pending BIGINT, parked BIGINT, dead BIGINT, first_at BIGINT, last_at BIGINT",
    "INSERT INTO webhook_expired AS counted (tenant, endpoint, pending, parked, dead, first_at, last_at) \
     SELECT tenant, endpoint, pending, parked, dead, first_at, last_at FROM {rows} AS added WHERE true \
         ORDER BY tenant, endpoint \
     ON CONFLICT (tenant, endpoint) DO UPDATE SET pending = counted.pending + excluded.pending, \
         parked = counted.parked + excluded.parked, dead = counted.dead + excluded.dead, \
         first_at = CASE WHEN excluded.first_at < counted.first_at THEN excluded.first_at ELSE counted.first_at END, \
         last_at = CASE WHEN excluded.last_at > counted.last_at THEN excluded.last_at ELSE counted.last_at END",
);

static TAKE: Sql = Sql::new(
    "DELETE FROM webhook_expired WHERE (tenant, endpoint) IN \
         (SELECT tenant, endpoint FROM webhook_expired ORDER BY tenant, endpoint LIMIT $1 {skip}) \
     RETURNING tenant, endpoint, pending, parked, dead, first_at, last_at",
);

/// Deliveries to an endpoint that are gone, and were neither delivered nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Whose.
    pub tenant: TenantId,
    /// The endpoint, which may be none any more.
    pub endpoint: EndpointId,
    /// How many were pending or held.
    pub pending: u64,
    /// How many were parked.
    pub parked: u64,
    /// How many were dead letters.
    pub dead: u64,
    /// When the first of their events was accepted.
    pub first_accepted_at: Timestamp,
    /// When the last of their events was accepted.
    pub last_accepted_at: Timestamp,
}

#[derive(Serialize)]
struct Gone {
    number: i64,
}

/// What is added to a count.
#[derive(Serialize)]
struct Row {
    tenant: String,
    endpoint: String,
    pending: i64,
    parked: i64,
    dead: i64,
    first_at: i64,
    last_at: i64,
}

/// Ends the deletion of these deliveries: their attempts go, they no longer wait, and those that came to nothing are counted.
/// To be called once in a transaction, at its end, with what [`deletes`] says of each.
pub(super) async fn deleted(
    connection: &mut AnyConnection,
    rows: &[AnyRow],
) -> Result<(), sqlx::Error> {
    let (mut waiting, mut gone) = (Waiting::default(), Vec::with_capacity(rows.len()));
    let mut counts = BTreeMap::new();
    for row in rows {
        gone.push(Gone { number: row.try_get("number")? });
        let tenant: &str = row.try_get("tenant")?;
        let reason: Option<&str> = row.try_get("reason")?;
        let (pending, parked, dead) = match row.try_get::<&str, _>("state")? {
            "pending" | "held" => {
                waiting.add(tenant, -1);
                (1, 0, 0)
            }
            "parked" => (0, 1, 0),
            "dead" if reason != Some(Reason::Discarded.as_str()) => (0, 0, 1),
            _ => continue,
        };
        if row.try_get::<i64, _>("notices")? > 0 {
            continue;
        }
        let at: i64 = row.try_get("accepted_at")?;
        let name = (tenant.to_owned(), row.try_get::<String, _>("endpoint")?);
        let count = counts.entry(name).or_insert_with_key(|(tenant, endpoint)| Row {
            tenant: tenant.clone(),
            endpoint: endpoint.clone(),
            pending: 0,
            parked: 0,
            dead: 0,
            first_at: at,
            last_at: at,
        });
        count.pending += pending;
        count.parked += parked;
        count.dead += dead;
        count.first_at = count.first_at.min(at);
        count.last_at = count.last_at.max(at);
    }
    // In PostgreSQL attempts go with their days.
    if !gone.is_empty() && !is_postgres(connection) {
        ATTEMPTS.with(connection, &gone)?.execute(&mut *connection).await?;
    }
    if !counts.is_empty() {
        let counts: Vec<_> = counts.into_values().collect();
        COUNT.with(connection, &counts)?.execute(&mut *connection).await?;
    }
    waiting.count(connection).await
}

impl Store {
    /// Tells tenants in the outbox what of theirs went, each endpoint once; says what that was. Where the store fails in the
    /// middle, the rest is told at the next purge.
    pub(super) async fn tell_expired(&self) -> Result<Vec<Expired>, StoreError> {
        let mut all = Vec::new();
        loop {
            let done = self.db.write(0, |connection| {
                Box::pin(whole(connection, |connection| Box::pin(tell(connection))))
            });
            let told = match done.await.and_then(|told| told.map_err(of_store)) {
                Ok(told) => told,
                Err(error) if all.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "not all of what went undelivered is told yet");
                    return Ok(all);
                }
            };
            let count = told.len();
            all.extend(told);
            if i64::try_from(count).unwrap_or(i64::MAX) < TOLD {
                return Ok(all);
            }
        }
    }
}

fn of_store(error: WriteError) -> StoreError {
    match error {
        WriteError::Store(error) => error,
        other => StoreError::Unavailable(other.to_string()),
    }
}

async fn tell(connection: &mut AnyConnection) -> Result<Vec<Expired>, Undone> {
    let rows = TAKE.query(connection).bind(TOLD).fetch_all(&mut *connection).await?;
    let told = rows.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(WriteError::from)?;
    if !told.is_empty() {
        let at = Timestamp::from_microsecond(now(connection).await?);
        let at = at.map_err(unreadable).map_err(WriteError::from)?;
        append_event(connection, told.iter().map(|expired| event(at, expired)).collect()).await?;
    }
    Ok(told)
}

fn event(at: Timestamp, expired: &Expired) -> Event {
    let Expired { tenant, endpoint, pending, parked, dead, first_accepted_at, last_accepted_at } =
        expired;
    Event {
        id: Uuid::now_v7().to_string(),
        at,
        r#type: DELIVERIES_EXPIRED.to_owned(),
        tenant: Some(tenant.clone()),
        subject: format!("/v1/endpoints/{endpoint}"),
        data: json!({
            "endpoint": endpoint,
            "pending": pending,
            "parked": parked,
            "dead": dead,
            "first_accepted_at": first_accepted_at,
            "last_accepted_at": last_accepted_at,
        }),
    }
}

fn read(row: &AnyRow) -> Result<Expired, StoreError> {
    use crate::rows::Columns as _;
    Ok(Expired {
        tenant: TenantId::from(row.of::<&str>("tenant")?),
        endpoint: EndpointId::from(row.of::<&str>("endpoint")?),
        pending: row.number("pending")?,
        parked: row.number("parked")?,
        dead: row.number("dead")?,
        first_accepted_at: row.time("first_at")?,
        last_accepted_at: row.time("last_at")?,
    })
}
