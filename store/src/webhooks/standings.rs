//! How endpoints stand, beside the document.
//!
//! Invariant: what is written later counts; whether an endpoint is disabled is changed by disabling and enabling alone, and
//! told once.

use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use crate::control::{WriteError, append_event, whole};
use crate::rows::{Columns as _, text, unreadable};
use model::event::Event;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{Disabled, Reason, Standing};
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

/// How many deliveries one transaction parks.
const PARKED: i64 = 1_000;

const ALL: &str = "SELECT endpoint, tenant, failing_since, open_until, opened, disabled_reason, disabled_since, at \
     FROM webhook_standings ORDER BY endpoint";

pub(super) static KEEP: Sql = Sql::of_rows(
    "endpoint TEXT, tenant TEXT, failing_since BIGINT, open_until BIGINT, opened BIGINT, at BIGINT",
    "INSERT INTO webhook_standings AS kept (endpoint, tenant, failing_since, open_until, opened, at) \
     SELECT endpoint, tenant, failing_since, open_until, opened, at FROM {rows} AS new WHERE true ORDER BY endpoint \
     ON CONFLICT (endpoint) DO UPDATE SET tenant = excluded.tenant, failing_since = excluded.failing_since, \
         open_until = excluded.open_until, opened = excluded.opened, at = excluded.at, \
         disabled_reason = CASE WHEN kept.tenant = excluded.tenant THEN kept.disabled_reason END, \
         disabled_since = CASE WHEN kept.tenant = excluded.tenant THEN kept.disabled_since END, \
         recovery = CASE WHEN kept.tenant = excluded.tenant THEN kept.recovery END, \
         recover_to = CASE WHEN kept.tenant = excluded.tenant THEN kept.recover_to END \
     WHERE kept.at < excluded.at",
);

// A recovery that was under way is none any more. How an endpoint of that id stood of another tenant's says nothing.
const DISABLE: &str = "INSERT INTO webhook_standings AS kept \
         (endpoint, tenant, failing_since, open_until, opened, disabled_reason, disabled_since, at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (endpoint) DO UPDATE SET tenant = excluded.tenant, failing_since = excluded.failing_since, \
         open_until = excluded.open_until, opened = excluded.opened, disabled_reason = excluded.disabled_reason, \
         disabled_since = excluded.disabled_since, recovery = NULL, recover_to = NULL, \
         at = CASE WHEN kept.at > excluded.at THEN kept.at ELSE excluded.at END \
     WHERE kept.disabled_since IS NULL OR kept.tenant <> excluded.tenant";

// It stays so until the commit. Whoever enables it comes before, and nothing is parked, or after, and takes that up.
pub(super) static STAYS_DISABLED: Sql = Sql::new(
    "SELECT s.disabled_since FROM webhook_standings s WHERE s.endpoint = $1 AND s.tenant = $2 {share}",
);

pub(super) static PARK: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'parked', reason = $3, due_at = NULL, settled_at = {now} \
     WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND tenant = $2 AND state = 'pending' \
         AND due_at IS NOT NULL ORDER BY endpoint, due_at, number LIMIT $4 {skip}) RETURNING tenant",
);

#[derive(Serialize)]
struct Row<'a> {
    endpoint: &'a str,
    tenant: &'a str,
    failing_since: Option<i64>,
    open_until: Option<i64>,
    opened: i64,
    at: i64,
}

impl Store {
    /// How every endpoint stands of which something is known.
    pub async fn standings(&self) -> Result<Vec<Standing>, StoreError> {
        let find = sqlx::query(ALL);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(read).collect()
    }

    /// Keeps how endpoints stand, but for what is known of later, and for whether they are disabled.
    pub async fn keep_standings(&self, standings: Vec<Standing>) -> Result<(), StoreError> {
        if standings.is_empty() {
            return Ok(());
        }
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let rows: Vec<_> = standings.iter().map(Row::of).collect();
                KEEP.with(connection, &rows)?.execute(connection).await.map(drop)
            })
        });
        done.await
    }

    /// Disables an endpoint, tells so in the outbox, and parks what is due for it; says whether it was not disabled before.
    /// Nothing more once somebody enabled it again. Those that wait behind others are parked by
    /// [`mend_order`](Self::mend_order).
    pub async fn disable_endpoint(
        &self,
        standing: Standing,
        event: Event,
    ) -> Result<bool, StoreError> {
        let Some(disabled) = standing.disabled.clone() else { return Ok(false) };
        let endpoint = text(standing.endpoint.as_str());
        let tenant = text(standing.tenant.as_str());
        let done = self.db.write(0, |connection| {
            Box::pin(whole(connection, |connection| {
                Box::pin(async move {
                    let is_new = disable(connection, &standing).await?;
                    if is_new {
                        append_event(connection, vec![event]).await?;
                    }
                    Ok(is_new)
                })
            }))
        });
        let is_new = done.await?.map_err(|error| match error {
            WriteError::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        })?;
        let reason = if disabled.reason == Reason::Gone { Reason::Gone } else { Reason::Disabled };
        while self.park(endpoint.clone(), tenant.clone(), reason).await? >= PARKED.unsigned_abs() {}
        self.tell_webhooks();
        Ok(is_new)
    }

    async fn park(
        &self,
        endpoint: String,
        tenant: String,
        reason: Reason,
    ) -> Result<u64, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let stands = STAYS_DISABLED.query(connection);
                let stands = stands.bind(endpoint.clone()).bind(tenant.clone());
                let stands = stands.fetch_optional(&mut *connection).await?;
                let since = stands.map(|row| row.try_get::<Option<i64>, _>("disabled_since"));
                if since.transpose()?.flatten().is_none() {
                    return Ok(0);
                }
                let park = PARK.query(connection).bind(endpoint).bind(tenant);
                let park = park.bind(reason.as_str()).bind(PARKED);
                let rows = park.fetch_all(&mut *connection).await?;
                let mut waiting = Waiting::default();
                for row in &rows {
                    waiting.add(row.try_get("tenant")?, -1);
                }
                waiting.count(connection).await?;
                Ok(rows.len() as u64)
            })
        });
        done.await
    }
}

async fn disable(connection: &mut AnyConnection, standing: &Standing) -> Result<bool, sqlx::Error> {
    let row = Row::of(standing);
    let disabled = standing.disabled.as_ref();
    let done = sqlx::query(DISABLE)
        .bind(row.endpoint.to_owned())
        .bind(row.tenant.to_owned())
        .bind(row.failing_since)
        .bind(row.open_until)
        .bind(row.opened)
        .bind(disabled.map(|disabled| disabled.reason.as_str()))
        .bind(disabled.map(|disabled| disabled.since.as_microsecond()))
        .bind(row.at)
        .execute(connection);
    Ok(done.await?.rows_affected() > 0)
}

impl<'a> Row<'a> {
    fn of(standing: &'a Standing) -> Self {
        Self {
            endpoint: standing.endpoint.as_str(),
            tenant: standing.tenant.as_str(),
            failing_since: standing.failing_since.map(|at| at.as_microsecond()),
            open_until: standing.open_until.map(|at| at.as_microsecond()),
            opened: standing.opened.into(),
            at: standing.at.as_microsecond(),
        }
    }
}

fn read(row: &AnyRow) -> Result<Standing, StoreError> {
    let disabled =
        match (row.of::<Option<&str>>("disabled_reason")?, row.maybe_time("disabled_since")?) {
            (Some(reason), Some(since)) => {
                let reason = Reason::parse(reason).ok_or_else(|| unreadable("disabled_reason"))?;
                Some(Disabled { reason, since })
            }
            _ => None,
        };
    Ok(Standing {
        endpoint: EndpointId::from(row.of::<&str>("endpoint")?),
        tenant: TenantId::from(row.of::<&str>("tenant")?),
        failing_since: row.maybe_time("failing_since")?,
        open_until: row.maybe_time("open_until")?,
        opened: u32::try_from(row.number("opened")?).unwrap_or(u32::MAX),
        disabled,
        at: row.time("at")?,
    })
}
