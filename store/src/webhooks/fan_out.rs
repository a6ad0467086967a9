//! Fan-out: the first reader of the events. Of each it makes one delivery for every endpoint that is planned.
//!
//! Invariant: of an event it plans once, however many processes fan out: the cursor is moved from where the events were read,
//! or nothing is done. Nor is anything done by a plan of a revision that is not the newest of everybody's: of those that were
//! accepted after a revision was published, no event misses an endpoint of it.

use super::order::{self, OrderKey};
use super::reading;
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use crate::control::is_outdated;
use crate::rows::{Columns as _, searched, stored};
use crate::search::ROWS_MAX;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{Planned, StoredEvent};
use serde::Serialize;
use sqlx::AnyConnection;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Says where an event goes: the same whenever it is asked, in no time.
pub type Plan = Arc<dyn Fn(&StoredEvent) -> Vec<Planned> + Send + Sync>;

/// How many deliveries one transaction makes, or as many as one event has.
const MADE_MAX: usize = 2_000;

const CURSOR: &str = "SELECT cursor.number AS number, cursor.at AS at FROM webhook_numbers cursor, webhook_numbers newest \
     WHERE cursor.name = 'fan_out' AND newest.name = 'events' AND newest.number > cursor.number";

const MOVE: &str =
    "UPDATE webhook_numbers SET number = $1, at = $2 WHERE name = 'fan_out' AND number = $3";

const NUMBERS: &str =
    "UPDATE webhook_numbers SET number = number + $1 WHERE name = 'deliveries' RETURNING number";

pub(super) static INSERT: Sql = Sql::of_rows(
    "number BIGINT, event BIGINT, accepted_at BIGINT, tenant TEXT, endpoint TEXT, order_key TEXT, state TEXT, reason TEXT, \
     blocks BIGINT, is_due BIGINT, replay TEXT",
    "INSERT INTO webhook_deliveries (number, event, accepted_at, tenant, endpoint, order_key, state, reason, blocks, \
     attempts, due_at, fence, settled_at, replay) \
     SELECT number, event, accepted_at, tenant, endpoint, order_key, state, reason, blocks, 0, \
         CASE is_due WHEN 1 THEN {now} END, 0, CASE state WHEN 'parked' THEN {now} END, replay \
     FROM {rows} AS new",
);

/// What fan-out did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FannedOut {
    /// How many events it has done with: none when all are done, or another one is at it.
    pub events: u32,
    /// Whether there may be more.
    pub more: bool,
    /// Whether a later revision than the plan's is everybody's: nothing was done.
    pub outdated: bool,
    /// Where something may be due.
    pub lanes: Vec<(TenantId, EndpointId)>,
}

/// A delivery that is to be made.
pub(super) struct New {
    pub(super) event: i64,
    pub(super) accepted_at: i64,
    pub(super) tenant: TenantId,
    pub(super) planned: Planned,
    pub(super) replay: Option<String>,
}

impl New {
    pub(super) fn of(event: &StoredEvent, planned: Planned, replay: Option<&str>) -> Self {
        Self {
            event: stored(event.number),
            accepted_at: event.accepted_at.as_microsecond(),
            tenant: event.tenant.clone(),
            planned,
            replay: replay.map(str::to_owned),
        }
    }

    /// What it waits by. Of its tenant: the endpoint's id may have been another one's, whose deliveries stop nobody else's.
    /// Of a long key the part that is indexed counts: more is ordered than must be, never less.
    fn order_key(&self) -> Option<OrderKey> {
        let key = self.planned.order_key.as_deref()?;
        Some(OrderKey {
            endpoint: self.planned.endpoint.as_str().to_owned(),
            order_key: searched(&format!("{} {key}", self.tenant)),
        })
    }
}

#[derive(Serialize)]
struct Row<'a> {
    number: i64,
    event: i64,
    accepted_at: i64,
    tenant: &'a str,
    endpoint: &'a str,
    order_key: Option<String>,
    state: &'static str,
    reason: Option<&'static str>,
    blocks: i64,
    is_due: i64,
    replay: Option<&'a str>,
}

impl fmt::Debug for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.event, self.planned.endpoint)
    }
}

impl Store {
    /// Plans the deliveries of the next events, at most so many: fewer where they have many. `revision`: the one that the
    /// plan was made from; none where the document is not kept in the store.
    pub async fn fan_out(
        &self,
        plan: Plan,
        revision: Option<u64>,
        limit: u32,
    ) -> Result<FannedOut, StoreError> {
        let find = sqlx::query(CURSOR);
        let cursor = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        let Some(cursor) = cursor else { return Ok(FannedOut::default()) };
        let (after, since) = (cursor.number("number")?, cursor.of("at")?);
        let events = self.events_since(after, since, limit).await?;
        let read = events.len();
        let planned = planned(events, &plan);
        let Some((last, _)) = planned.last() else { return Ok(FannedOut::default()) };
        let (number, at) = (stored(last.number), last.accepted_at.as_microsecond());
        let count = u32::try_from(planned.len()).unwrap_or(u32::MAX);
        let more = planned.len() < read || count >= limit.min(ROWS_MAX);
        let mut planned_for = Waiting::default();
        let mut new = Vec::new();
        for (event, planned) in planned {
            planned_for.add(event.tenant.as_str(), -1);
            new.extend(planned.into_iter().map(|planned| New::of(&event, planned, None)));
        }
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                if let Some(revision) = revision
                    && is_outdated(connection, revision).await?
                {
                    return Ok(FannedOut { outdated: true, ..FannedOut::default() });
                }
                let moved = sqlx::query(MOVE).bind(number).bind(at).bind(stored(after));
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(FannedOut::default());
                }
                let lanes = insert(connection, new, &mut planned_for).await?;
                planned_for.count(connection).await?;
                let lanes = lanes.into_iter().collect();
                Ok(FannedOut { events: count, more, outdated: false, lanes })
            })
        });
        let done = done.await?;
        if !done.lanes.is_empty() {
            self.tell_webhooks();
        }
        Ok(done)
    }

    /// Events after this number, 0 for all, in the order of their numbers.
    pub async fn events_after(
        &self,
        number: u64,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.events_since(number, 0, limit).await
    }

    /// The same, where all are known to be of that time or later.
    async fn events_since(
        &self,
        number: u64,
        since: i64,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let find = reading::events_after(number, since, limit);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(reading::event).collect()
    }
}

/// Plans events until there are enough deliveries for a transaction: of the first one in any case.
pub(super) fn planned(events: Vec<StoredEvent>, plan: &Plan) -> Vec<(StoredEvent, Vec<Planned>)> {
    let (mut all, mut deliveries) = (Vec::with_capacity(events.len()), 0);
    for event in events {
        let planned = plan(&event);
        deliveries += planned.len();
        if deliveries > MADE_MAX && !all.is_empty() {
            break;
        }
        all.push((event, planned));
    }
    all
}

/// Makes deliveries; says where some may be due. What waits is added up, to be counted at the transaction's end.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    new: Vec<New>,
    waiting: &mut Waiting,
) -> Result<BTreeSet<(TenantId, EndpointId)>, sqlx::Error> {
    let mut lanes = BTreeSet::new();
    if new.is_empty() {
        return Ok(lanes);
    }
    // From here on nobody else makes deliveries until the commit: of two of a key, the second sees the first.
    let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
    let newest: i64 = sqlx::query_scalar(NUMBERS).bind(count).fetch_one(&mut *connection).await?;
    // Those keys that something waits in already, and those that got something here.
    let mut taken =
        order::taken(connection, new.iter().filter_map(New::order_key).collect()).await?;
    let mut rows = Vec::with_capacity(new.len());
    for (number, new) in (newest - count + 1..).zip(&new) {
        let endpoint = &new.planned.endpoint;
        let order_key = new.order_key();
        let is_first = order_key.clone().is_none_or(|order_key| taken.insert(order_key));
        let is_due = is_first && new.planned.parked.is_none();
        if new.planned.parked.is_none() {
            // Also where it waits behind another one: who was about to hold that one left it, as its row was locked here.
            lanes.insert((new.tenant.clone(), endpoint.clone()));
            waiting.add(new.tenant.as_str(), 1);
        }
        rows.push(Row {
            number,
            event: new.event,
            accepted_at: new.accepted_at,
            tenant: new.tenant.as_str(),
            endpoint: endpoint.as_str(),
            blocks: i64::from(order_key.is_some()),
            order_key: order_key.map(|known| known.order_key),
            state: if new.planned.parked.is_some() { "parked" } else { "pending" },
            reason: new.planned.parked.map(|reason| reason.as_str()),
            is_due: i64::from(is_due),
            replay: new.replay.as_deref(),
        });
    }
    INSERT.with(connection, &rows)?.execute(connection).await?;
    Ok(lanes)
}
