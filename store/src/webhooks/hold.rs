//! Holding deliveries for attempts, in batches per lane, where a lane is what goes to one endpoint.
//!
//! Invariant: what is held has a fence that nobody had before, and nobody else holds it.

use super::expired;
use super::lost::LOST;
use super::order::lane;
use super::settle::settle;
use super::sql::Sql;
use crate::Store;
use crate::db::{Db, is_postgres};
use crate::rows::{Columns as _, text, unreadable};
use bytes::Bytes;
use jiff::Timestamp;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{DueLane, HeldDelivery, Next, Settlement, Take, WebhookId};
use serde::Serialize;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How many deliveries one call holds at most.
pub const HELD_MAX: u32 = 2_000;

// From lane to lane along the index: what waits within a lane is not read.
pub(super) static LANES: Sql = Sql::new(
    "WITH RECURSIVE lanes(endpoint) AS ( \
         SELECT (SELECT d.endpoint FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
             AND d.endpoint > $1 ORDER BY d.endpoint, d.due_at, d.number LIMIT 1) \
         UNION ALL \
         SELECT (SELECT d.endpoint FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
             AND d.endpoint > lanes.endpoint ORDER BY d.endpoint, d.due_at, d.number LIMIT 1) \
         FROM lanes WHERE lanes.endpoint IS NOT NULL) \
     SELECT d.tenant, d.endpoint, d.due_at FROM \
         (SELECT (SELECT d.number FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
              AND d.endpoint = lanes.endpoint ORDER BY d.endpoint, d.due_at, d.number LIMIT 1) AS number \
          FROM lanes WHERE lanes.endpoint IS NOT NULL LIMIT $2) firsts \
     JOIN webhook_deliveries d ON d.number = firsts.number",
);

pub(super) static HOLD_LANE: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'held', fence = fence + 1, holder = $2, \
     held_at = {now}, hold_until = {now} + $3 \
     WHERE number IN (SELECT number FROM webhook_deliveries WHERE state = 'pending' AND endpoint = $1 \
         AND due_at >= $4 AND due_at <= {now} ORDER BY endpoint, due_at, number LIMIT $5) \
     RETURNING number, fence, event, accepted_at, tenant, endpoint, attempts, reason, due_at",
);

// Of all lanes at once, leaving what others are about to hold. As an array: however many the planner takes to be chosen, it
// looks them up by their numbers.
pub(super) static HOLD_LANES: Sql = Sql::of_rows(
    "endpoint TEXT, low BIGINT, most BIGINT",
    "WITH chosen AS MATERIALIZED (SELECT d.number FROM {rows} AS asked CROSS JOIN LATERAL \
         (SELECT number FROM webhook_deliveries WHERE state = 'pending' AND endpoint = asked.endpoint \
              AND due_at >= asked.low AND due_at <= {now} \
              ORDER BY endpoint, due_at, number LIMIT asked.most {skip}) d) \
     UPDATE webhook_deliveries d SET state = 'held', fence = d.fence + 1, holder = $2, \
         held_at = {now}, hold_until = {now} + $3 \
     WHERE d.number = ANY (ARRAY(SELECT number FROM chosen)) \
     RETURNING d.number, d.fence, d.event, d.accepted_at, d.tenant, d.endpoint, d.attempts, d.reason, d.due_at",
);

pub(super) static EVENTS: Sql = Sql::of_rows(
    "event BIGINT, at BIGINT",
    "SELECT e.number, e.webhook_id, e.content FROM {rows} AS asked \
     JOIN webhook_events e ON e.number = asked.event AND e.accepted_at = asked.at",
);

// Only who was about to make it or had it when its event went leaves one.
pub(super) static FORGET: Sql = Sql::of_rows(
    "number BIGINT",
    expired::deletes!(
        "DELETE FROM webhook_deliveries WHERE number IN (SELECT number FROM {rows} AS gone)"
    ),
);

#[derive(Serialize)]
struct Gone {
    number: i64,
}

#[derive(Serialize)]
struct Asked {
    endpoint: String,
    low: i64,
    most: i64,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    event: i64,
    at: i64,
}

impl Store {
    /// The endpoints with something that is due, now or later: of those whose ids follow this one, the first so many, in no
    /// order. Also those that are disabled, or no longer in the document.
    pub async fn due_lanes(
        &self,
        after: Option<&EndpointId>,
        limit: u32,
    ) -> Result<Vec<DueLane>, StoreError> {
        // No id is empty.
        let after = after.map_or_else(String::new, |after| text(after.as_str()));
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let lanes = LANES.query(connection).bind(after).bind(i64::from(limit));
                lanes.fetch_all(connection).await
            })
        });
        let rows = read.await?;
        let read = |row: &AnyRow| {
            let (tenant, endpoint) = lane(row).map_err(unreadable)?;
            Ok(DueLane { tenant, endpoint, due_at: row.time("due_at")? })
        };
        rows.iter().map(read).collect()
    }

    /// Holds what is due, for so long: of each lane at most so many, in the order in which they are due. Whoever holds
    /// beats ([`beat`](Self::beat)) under the same name, before it holds and again and again; else it is taken to be lost.
    pub async fn hold(
        &self,
        takes: Vec<Take>,
        holder: &str,
        span: Duration,
    ) -> Result<Vec<HeldDelivery>, StoreError> {
        let mut room = HELD_MAX;
        let mut asked = Vec::with_capacity(takes.len());
        for take in takes {
            let most = take.most.min(room);
            room -= most;
            asked.push(Asked {
                endpoint: take.endpoint.as_str().to_owned(),
                low: take.low_water.as_microsecond(),
                most: most.into(),
            });
        }
        asked.retain(|asked| asked.most > 0);
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let (holder, span, db) = (text(holder), micros(span), self.db.clone());
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let rows = if is_postgres(connection) {
                    let hold = HOLD_LANES.with(connection, &asked)?.bind(holder).bind(span);
                    hold.fetch_all(&mut *connection).await?
                } else {
                    hold_each(connection, asked, holder, span).await?
                };
                let events = events_of(connection, &rows).await?;
                forget(connection, &rows, &events).await?;
                let held = rows.iter().filter_map(|row| read(row, &events).transpose());
                let held = held.collect::<Result<Vec<_>, _>>();
                Ok(held.map(|held| Handed { held, db }))
            })
        });
        let mut held = done.await??.take();
        held.sort_by(|a, b| {
            (&a.endpoint, a.due_at, a.number).cmp(&(&b.endpoint, b.due_at, b.number))
        });
        Ok(held)
    }
}

/// What is held, on its way to who asked for it. Where nobody waits any more it is due again: nobody else would know of it
/// until its hold is over.
struct Handed {
    held: Vec<HeldDelivery>,
    db: Db,
}

impl Handed {
    fn take(mut self) -> Vec<HeldDelivery> {
        std::mem::take(&mut self.held)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let untried = |held: HeldDelivery| Settlement {
            number: held.number,
            fence: held.fence,
            attempt: None,
            next: Next::Due(held.due_at),
        };
        let settlements: Vec<_> = std::mem::take(&mut self.held).into_iter().map(untried).collect();
        if !settlements.is_empty() {
            self.db.write_later(move |connection| {
                Box::pin(async move { settle(connection, &settlements).await.map(drop) })
            });
        }
    }
}

async fn hold_each(
    connection: &mut AnyConnection,
    asked: Vec<Asked>,
    holder: String,
    span: i64,
) -> Result<Vec<AnyRow>, sqlx::Error> {
    let mut rows = Vec::new();
    for asked in asked {
        let hold = HOLD_LANE.query(connection).bind(asked.endpoint).bind(holder.clone()).bind(span);
        let hold = hold.bind(asked.low).bind(asked.most);
        rows.extend(hold.fetch_all(&mut *connection).await?);
    }
    Ok(rows)
}

/// Each event once.
async fn events_of(
    connection: &mut AnyConnection,
    held: &[AnyRow],
) -> Result<HashMap<i64, (WebhookId, Bytes)>, sqlx::Error> {
    use sqlx::Row as _;
    let mut asked = BTreeSet::new();
    for row in held {
        asked.insert(Event { event: row.try_get("event")?, at: row.try_get("accepted_at")? });
    }
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let asked: Vec<_> = asked.into_iter().collect();
    let rows = EVENTS.with(connection, &asked)?.fetch_all(connection).await?;
    let event = |row: &AnyRow| {
        let id = WebhookId::known(row.try_get::<String, _>("webhook_id")?);
        Ok((row.try_get("number")?, (id, Bytes::from(row.try_get::<Vec<u8>, _>("content")?))))
    };
    rows.iter().map(event).collect()
}

/// Deletes what is held of events that are gone: there is nothing to send. What waits behind it is freed by
/// [`mend_order`](Store::mend_order).
async fn forget(
    connection: &mut AnyConnection,
    held: &[AnyRow],
    events: &HashMap<i64, (WebhookId, Bytes)>,
) -> Result<(), sqlx::Error> {
    use sqlx::Row as _;
    let mut gone = Vec::new();
    for row in held {
        if !events.contains_key(&row.try_get("event")?) {
            gone.push(Gone { number: row.try_get("number")? });
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let rows = FORGET.with(connection, &gone)?.fetch_all(&mut *connection).await?;
    expired::deleted(connection, &rows).await
}

/// None of an event that is gone.
fn read(
    row: &AnyRow,
    events: &HashMap<i64, (WebhookId, Bytes)>,
) -> Result<Option<HeldDelivery>, StoreError> {
    let event: i64 = row.of("event")?;
    let Some((webhook_id, content)) = events.get(&event) else { return Ok(None) };
    Ok(Some(HeldDelivery {
        number: row.number("number")?,
        fence: row.number("fence")?,
        event: event.unsigned_abs(),
        webhook_id: webhook_id.clone(),
        tenant: TenantId::from(row.of::<&str>("tenant")?),
        endpoint: EndpointId::from(row.of::<&str>("endpoint")?),
        attempt: u32::try_from(row.number("attempts")?).unwrap_or(u32::MAX).saturating_add(1),
        is_lost: row.of::<Option<&str>>("reason")? == Some(LOST),
        due_at: row.time("due_at")?,
        accepted_at: row.time("accepted_at")?,
        content: content.clone(),
    }))
}

/// In microseconds.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 4)
}

/// The time that a column can hold: also of `Timestamp::MIN`.
pub(super) fn at(time: Timestamp) -> i64 {
    time.as_microsecond()
}
