//! Settling: what came of attempts, in batches.
//!
//! Invariant: who no longer holds a delivery changes nothing of it, and leaves no attempt in the ledger. With a delivery that
//! is done with, the next one of its key becomes due in the same transaction.

use super::hold::micros;
use super::lost::{LOST, now};
use super::order::{OrderKey, released};
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use crate::rows::{stored, text};
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{Attempt, DeliveryState, Next, Outcome, Settlement};
use serde::Serialize;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How many bytes of an excerpt are kept.
const EXCERPT_BYTES_MAX: usize = 2_048;
/// For how long nothing is parked at an endpoint that was enabled: until all know that it is.
const SURE_AGAIN: Duration = Duration::from_secs(10);
/// How long what is not parked for that waits.
const SURE_PAUSE: Duration = Duration::from_secs(1);

// Everyone who waits for several rows waits for them in this order.
pub(super) static LOCK: Sql = Sql::of_rows(
    COLUMNS,
    "SELECT d.number FROM {rows} AS given JOIN webhook_deliveries d ON d.number = given.delivery \
     ORDER BY d.endpoint, d.order_key, d.number FOR UPDATE OF d",
);

// It stays so until the commit: of an endpoint that is being enabled what is held is parked before, and taken up with the
// rest, or is known here to be enabled.
pub(super) static ENABLED: Sql = Sql::of_rows(
    COLUMNS,
    "SELECT given.delivery, CASE WHEN s.disabled_since IS NULL AND (s.enabled_at >= {now} - $2 OR s.enabled_at >= d.held_at) \
         THEN 1 ELSE 0 END AS is_enabled \
     FROM {rows} AS given JOIN webhook_deliveries d ON d.number = given.delivery \
     JOIN webhook_standings s ON s.endpoint = d.endpoint AND s.tenant = d.tenant \
     ORDER BY s.endpoint {share}",
);

pub(super) static SETTLE: Sql = Sql::of_rows(
    COLUMNS,
    "UPDATE webhook_deliveries AS d SET state = given.becomes, reason = given.because, \
         blocks = CASE given.lets_go WHEN 1 THEN 0 ELSE d.blocks END, attempts = d.attempts + given.counts, \
         due_at = given.due, settled_at = CASE given.ends WHEN 1 THEN {now} END \
     FROM {rows} AS given WHERE d.number = given.delivery AND d.fence = given.held_with AND d.state = 'held' \
     RETURNING number, tenant, endpoint, order_key",
);

const COLUMNS: &str = "delivery BIGINT, held_with BIGINT, becomes TEXT, because TEXT, lets_go BIGINT, counts BIGINT, \
     due BIGINT, ends BIGINT";

pub(super) static KEEP: Sql = Sql::of_rows(
    "delivery BIGINT, fence BIGINT, at BIGINT, attempt BIGINT, took BIGINT, outcome TEXT, status BIGINT, excerpt TEXT, \
     node TEXT",
    "INSERT INTO webhook_attempts (delivery, fence, at, attempt, took, outcome, status, excerpt, node) \
     SELECT delivery, fence, at, attempt, took, outcome, status, excerpt, node FROM {rows} AS made \
     WHERE true ON CONFLICT DO NOTHING",
);

/// What settling came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The numbers of deliveries that were no longer held with that fence: nothing was changed of them.
    pub stale: Vec<u64>,
    /// Where one became due that had waited behind another one.
    pub now_due: Vec<(TenantId, EndpointId)>,
}

#[derive(Serialize)]
struct Row {
    delivery: i64,
    held_with: i64,
    becomes: &'static str,
    because: Option<&'static str>,
    lets_go: i64,
    counts: i64,
    due: Option<i64>,
    ends: i64,
}

impl Row {
    fn of(settlement: &Settlement) -> Self {
        let (state, reason, lets_go, due) = match settlement.next {
            Next::Delivered => (DeliveryState::Delivered, None, true, None),
            Next::Due(at) => (DeliveryState::Pending, None, false, Some(at)),
            Next::Parked(reason) => (DeliveryState::Parked, Some(reason), false, None),
            Next::Dead { reason, blocks } => (DeliveryState::Dead, Some(reason), !blocks, None),
        };
        let is_lost = |attempt: &Attempt| attempt.outcome == Outcome::Lost;
        let lost = settlement.attempt.as_ref().is_some_and(is_lost) && due.is_some();
        Self {
            delivery: stored(settlement.number),
            held_with: stored(settlement.fence),
            becomes: state.as_str(),
            because: reason.map(|reason| reason.as_str()).or(lost.then_some(LOST)),
            lets_go: i64::from(lets_go),
            counts: i64::from(settlement.attempt.is_some()),
            due: due.map(|at| at.as_microsecond()),
            ends: i64::from(state != DeliveryState::Pending),
        }
    }
}

/// An attempt as it is kept.
#[derive(Serialize)]
pub(super) struct Made {
    pub(super) delivery: i64,
    pub(super) fence: i64,
    pub(super) at: i64,
    pub(super) attempt: i64,
    pub(super) took: i64,
    pub(super) outcome: &'static str,
    pub(super) status: Option<i64>,
    pub(super) excerpt: Option<String>,
    pub(super) node: String,
}

impl Made {
    fn of(settlement: &Settlement, attempt: &Attempt) -> Self {
        Self {
            delivery: stored(settlement.number),
            fence: stored(settlement.fence),
            at: attempt.at.as_microsecond(),
            attempt: attempt.attempt.into(),
            took: stored(attempt.took),
            outcome: attempt.outcome.as_str(),
            status: attempt.status.map(i64::from),
            excerpt: attempt
                .excerpt
                .as_deref()
                .map(|excerpt| text(&excerpt[..excerpt.floor_char_boundary(EXCERPT_BYTES_MAX)])),
            node: text(&attempt.node),
        }
    }
}

impl Store {
    /// Settles attempts, in one transaction.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<Settled, StoreError> {
        if settlements.is_empty() {
            return Ok(Settled::default());
        }
        let size = settlements
            .iter()
            .filter_map(|s| s.attempt.as_ref()?.excerpt.as_ref())
            .map(String::len)
            .sum();
        let done = self.db.write(size, |connection| {
            Box::pin(async move { settle(connection, &settlements).await })
        });
        let settled = done.await?;
        if !settled.now_due.is_empty() {
            self.tell_webhooks();
        }
        Ok(settled)
    }
}

pub(super) async fn settle(
    connection: &mut AnyConnection,
    settlements: &[Settlement],
) -> Result<Settled, sqlx::Error> {
    let mut rows: Vec<_> = settlements.iter().map(Row::of).collect();
    not_parked(connection, &mut rows).await?;
    if crate::db::is_postgres(connection) && rows.len() > 1 {
        LOCK.with(connection, &rows)?.execute(&mut *connection).await?;
    }
    let changed = SETTLE.with(connection, &rows)?.fetch_all(&mut *connection).await?;
    let mut done = HashMap::with_capacity(changed.len());
    for row in &changed {
        done.insert(row.try_get::<i64, _>("number")?, row);
    }
    let (mut waiting, mut keys, mut attempts) = (Waiting::default(), BTreeSet::new(), Vec::new());
    let mut settled = Settled::default();
    for (settlement, given) in settlements.iter().zip(&rows) {
        // Once: of one that is named twice, the second is stale.
        let Some(row) = done.remove(&given.delivery) else {
            settled.stale.push(settlement.number);
            continue;
        };
        if let Some(attempt) = &settlement.attempt {
            attempts.push(Made::of(settlement, attempt));
        }
        if given.ends == 1 {
            waiting.add(row.try_get("tenant")?, -1);
        }
        if given.lets_go == 1
            && let Some(order_key) = row.try_get::<Option<String>, _>("order_key")?
        {
            keys.insert(OrderKey { endpoint: row.try_get("endpoint")?, order_key });
        }
    }
    keep(connection, &attempts).await?;
    settled.now_due = released(connection, keys, &mut waiting).await?;
    waiting.count(connection).await?;
    Ok(settled)
}

/// What was to be parked at an endpoint that was enabled just now, or since it was held, is due again soon: who said so may
/// not have known it yet, and nobody would take it up.
async fn not_parked(connection: &mut AnyConnection, rows: &mut [Row]) -> Result<(), sqlx::Error> {
    let is_parked = |row: &&mut Row| row.becomes == DeliveryState::Parked.as_str();
    let mut parked: Vec<_> = rows.iter_mut().filter(is_parked).collect();
    if parked.is_empty() {
        return Ok(());
    }
    let find = ENABLED.with(connection, &parked)?.bind(micros(SURE_AGAIN));
    let found = find.fetch_all(&mut *connection).await?;
    let mut enabled = BTreeSet::new();
    for row in &found {
        if row.try_get::<i64, _>("is_enabled")? == 1 {
            enabled.insert(row.try_get::<i64, _>("delivery")?);
        }
    }
    if enabled.is_empty() {
        return Ok(());
    }
    let due = now(connection).await?.saturating_add(micros(SURE_PAUSE));
    for row in parked.iter_mut().filter(|row| enabled.contains(&row.delivery)) {
        (row.becomes, row.because) = (DeliveryState::Pending.as_str(), None);
        (row.due, row.ends) = (Some(due), 0);
    }
    Ok(())
}

/// Writes attempts into the ledger.
pub(super) async fn keep(
    connection: &mut AnyConnection,
    attempts: &[Made],
) -> Result<(), sqlx::Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    KEEP.with(connection, attempts)?.execute(connection).await.map(drop)
}
