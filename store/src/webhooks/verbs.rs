//! What operators do with deliveries and endpoints: within the control plane's writes, so that audit and answer are in the
//! same transaction.

use super::accept::{Arriving, accept};
use super::fan_out::{New, insert};
use super::order::{OrderKey, released};
use super::sql::Sql;
use super::taking_up::{self, LEAVE, Recovery, TAKE_UP};
use super::waiting::Waiting;
use crate::control::{Undone, WriteError};
use crate::rows::{stored, text};
use model::id::{EndpointId, TenantId};
use model::webhook::{Acceptance, NewEvent, Planned, Reason};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeSet;

pub(super) static FIND: Sql = Sql::new(
    "SELECT tenant, endpoint, order_key, state, reason, blocks, due_at FROM webhook_deliveries WHERE number = $1 {lock}",
);

pub(super) static RETRY: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, \
         due_at = CASE WHEN blocks = 0 THEN {now} END WHERE number = $1",
);

pub(super) static DUE: Sql =
    Sql::new("UPDATE webhook_deliveries SET due_at = {now} WHERE number = $1");

pub(super) static DISCARD: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'dead', reason = 'discarded', blocks = 0, due_at = NULL, settled_at = {now} \
     WHERE number = $1",
);

// Before anything is read: whoever parks what the endpoint has holds it until that is done.
pub(super) static LOCK: Sql =
    Sql::new("SELECT endpoint FROM webhook_standings WHERE endpoint = $1 {lock}");

const ENABLE: &str = "INSERT INTO webhook_standings AS kept \
         (endpoint, tenant, opened, at, recovery, recover_to, enabled_at) \
     SELECT $1, $2, 0, {now}, $3, number, {now} FROM webhook_numbers WHERE name = 'deliveries' \
     ON CONFLICT (endpoint) DO UPDATE SET tenant = excluded.tenant, failing_since = NULL, open_until = NULL, opened = 0, \
         disabled_reason = NULL, disabled_since = NULL, recovery = excluded.recovery, recover_to = excluded.recover_to, \
         enabled_at = excluded.enabled_at, \
         at = CASE WHEN kept.at >= excluded.at THEN kept.at + 1 ELSE excluded.at END \
     RETURNING recover_to";

pub(super) static ENABLE_ENDPOINT: Sql = Sql::new(ENABLE);

const KNOWN: &str = "SELECT 1 AS one FROM webhook_standings WHERE endpoint = $1 UNION ALL \
     SELECT 1 AS one FROM webhook_deliveries WHERE endpoint = $1 LIMIT 1";

/// What becomes of what was parked while an endpoint was disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recover {
    /// It is sent.
    Parked,
    /// It stays parked, with what waits behind it.
    Nothing,
}

/// Makes a delivery due that is dead or parked, or due later only.
pub(crate) async fn retry(connection: &mut AnyConnection, number: u64) -> Result<(), Undone> {
    let number = stored(number);
    let row = find(connection, number).await?;
    let (state, reason): (&str, Option<&str>) = (row.try_get("state")?, row.try_get("reason")?);
    let due_at: Option<i64> = row.try_get("due_at")?;
    match (state, due_at) {
        ("pending", Some(_)) => {
            DUE.query(connection).bind(number).execute(connection).await?;
            return Ok(());
        }
        // It goes in its turn.
        ("parked", _) if reason == Some(Reason::Blocked.as_str()) => {
            return Err(WriteError::Stale.into());
        }
        ("dead" | "parked", _) => {}
        _ => return Err(WriteError::Stale.into()),
    }
    RETRY.query(connection).bind(number).execute(&mut *connection).await?;
    let mut waiting = Waiting::default();
    waiting.add(row.try_get("tenant")?, 1);
    let order_key = taking_up::order_key(&row)?;
    // Where it has a key it stands in its row again, and is due if it is the first.
    released(connection, order_key.into_iter().collect(), &mut waiting).await?;
    Ok(waiting.count(connection).await?)
}

/// Gives a delivery up that is pending, parked or dead.
pub(crate) async fn discard(connection: &mut AnyConnection, number: u64) -> Result<(), Undone> {
    let number = stored(number);
    let row = find(connection, number).await?;
    let (state, reason): (&str, Option<&str>) = (row.try_get("state")?, row.try_get("reason")?);
    match (state, reason) {
        ("pending" | "parked", _) => {}
        ("dead", reason) if reason != Some("discarded") => {}
        _ => return Err(WriteError::Stale.into()),
    }
    DISCARD.query(connection).bind(number).execute(&mut *connection).await?;
    let keys: BTreeSet<OrderKey> = taking_up::order_key(&row)?.into_iter().collect();
    let mut waiting = Waiting::default();
    if state == "pending" {
        waiting.add(row.try_get("tenant")?, -1);
    }
    released(connection, keys, &mut waiting).await?;
    Ok(waiting.count(connection).await?)
}

async fn find(connection: &mut AnyConnection, number: i64) -> Result<AnyRow, Undone> {
    let row = FIND.query(connection).bind(number).fetch_optional(connection).await?;
    row.ok_or_else(|| WriteError::NotFound.into())
}

/// Enables an endpoint of a tenant, and takes up the first of what was parked of that tenant's; says how many of them. The
/// rest is [`Store::take_up`]'s.
///
/// [`Store::take_up`]: crate::Store::take_up
pub(crate) async fn enable(
    connection: &mut AnyConnection,
    endpoint: &EndpointId,
    tenant: &TenantId,
    recover: Recover,
) -> Result<u64, Undone> {
    let (endpoint, tenant) = (text(endpoint.as_str()), text(tenant.as_str()));
    let known = sqlx::query(KNOWN).bind(endpoint.clone());
    if known.fetch_optional(&mut *connection).await?.is_none() {
        // There is nothing to clear.
        return Ok(0);
    }
    let lock = LOCK.query(connection).bind(endpoint.clone());
    lock.fetch_optional(&mut *connection).await?;
    let recovery = match recover {
        Recover::Parked => TAKE_UP,
        Recover::Nothing => LEAVE,
    };
    let enable = ENABLE_ENDPOINT.query(connection).bind(endpoint.clone()).bind(tenant.clone());
    let enabled = enable.bind(recovery).fetch_one(&mut *connection).await?;
    let (takes_up, to) = (recover == Recover::Parked, enabled.try_get("recover_to")?);
    let recovery = Recovery { endpoint, tenant, takes_up, to };
    Ok(if takes_up { recovery.take_free(connection).await? } else { 0 })
}

/// Accepts an event and makes its one delivery, without a plan; says the delivery's number.
pub(crate) async fn ping(
    connection: &mut AnyConnection,
    event: NewEvent,
    endpoint: EndpointId,
) -> Result<u64, Undone> {
    let tenant = event.tenant.clone();
    let arriving = Arriving { events: vec![event], backlog: std::collections::BTreeMap::new() };
    let accepted = accept(connection, &[arriving]).await?;
    if accepted.told.iter().flatten().any(|told| *told != Acceptance::Accepted) {
        return Err(WriteError::Stale.into());
    }
    let planned = Planned { endpoint, order_key: None, parked: None };
    let mut waiting = accepted.added;
    let (event, accepted_at) = (accepted.number, accepted.at);
    let new = New { event, accepted_at, tenant, planned, replay: None };
    insert(connection, vec![new], &mut waiting).await?;
    waiting.count(connection).await?;
    let newest = "SELECT number FROM webhook_numbers WHERE name = 'deliveries'";
    let newest: i64 = sqlx::query_scalar(newest).fetch_one(connection).await?;
    Ok(newest.unsigned_abs())
}
