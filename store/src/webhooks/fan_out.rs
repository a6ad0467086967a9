//! Fan-out: the first reader of the events. Of each it makes one delivery for every endpoint that is planned.
//!
//! Invariant: an event is planned once, however many processes fan out: a [turn](super::turn) is the next one after what it
//! was read from, or nothing is done. Nor is anything done by a plan of a revision that is not the newest of everybody's: of
//! those that were accepted after a revision was published, no event misses an endpoint of it.

use super::aside;
use super::order::{self, Behind, OrderKey};
use super::planning::{Place, Placed, Plan};
use super::sql::Sql;
use super::turn::Turn;
use super::waiting::Waiting;
use crate::Store;
use crate::control::is_outdated;
use crate::rows::searched;
use crate::search::ROWS_MAX;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{Planned, Reason};
use serde::Serialize;
use sqlx::AnyConnection;
use std::collections::BTreeSet;
use std::fmt;

const MOVE: &str = "UPDATE webhook_numbers SET number = $1, at = $2, turn = turn + 1 WHERE name = 'fan_out' AND turn = $3";

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
    /// How many events it planned: none when all are, or another one is at it.
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
    pub(super) fn of(
        event: Place,
        tenant: &TenantId,
        planned: Planned,
        replay: Option<&str>,
    ) -> Self {
        Self {
            event: event.number,
            accepted_at: event.at,
            tenant: tenant.clone(),
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
    /// Plans the deliveries of the next events: of at most so many of all tenants, and some of those that are aside.
    /// `revision`: the one that the plan was made from; none where the document is not kept in the store.
    pub async fn fan_out(
        &self,
        plan: Plan,
        revision: Option<u64>,
        limit: u32,
    ) -> Result<FannedOut, StoreError> {
        let Some(start) = self.start_of_turn().await? else { return Ok(FannedOut::default()) };
        let turn = self.turn(start, &plan, limit.clamp(1, ROWS_MAX)).await?;
        let count = u32::try_from(turn.events.len()).unwrap_or(u32::MAX);
        let (mut planned_for, mut new) = (Waiting::default(), Vec::new());
        for Placed { place, tenant, planned } in turn.events {
            planned_for.add(tenant.as_str(), -1);
            new.extend(planned.into_iter().map(|planned| New::of(place, &tenant, planned, None)));
        }
        let Turn { number, cursor, aside, back, more, .. } = turn;
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                if let Some(revision) = revision
                    && is_outdated(connection, revision).await?
                {
                    return Ok(FannedOut { outdated: true, ..FannedOut::default() });
                }
                let moved = sqlx::query(MOVE).bind(cursor.number).bind(cursor.at).bind(number);
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(FannedOut::default());
                }
                aside::put(connection, &aside, number).await?;
                aside::take_back(connection, &back).await?;
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
        let behind = order_key.as_ref().and_then(|order_key| taken.get(order_key)).copied();
        let is_blocked = behind == Some(Behind::IsBlocked);
        let parked = new.planned.parked.or(is_blocked.then_some(Reason::Blocked));
        if let (Some(order_key), None) = (&order_key, behind) {
            let behind = if parked.is_some() { Behind::IsBlocked } else { Behind::Waits };
            taken.insert(order_key.clone(), behind);
        }
        let is_due = behind.is_none() && parked.is_none();
        if parked.is_none() {
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
            state: if parked.is_some() { "parked" } else { "pending" },
            reason: parked.map(Reason::as_str),
            is_due: i64::from(is_due),
            replay: new.replay.as_deref(),
        });
    }
    INSERT.with(connection, &rows)?.execute(connection).await?;
    Ok(lanes)
}
