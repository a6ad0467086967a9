//! Looking: events, deliveries with their attempts, what endpoints poll, and how much waits.

use super::hold::at;
use super::sql::Sql;
use crate::Store;
use crate::rows::{Columns as _, searched, stored, text, unreadable};
use crate::search::{ROWS_MAX, Search};
use bytes::Bytes;
use jiff::Timestamp;
use model::id::{EndpointId, TenantId};
use model::port::StoreError;
use model::webhook::{
    Attempt, Delivery, DeliveryState, Outcome, Reason, StoredEvent, WebhookId, delivery_id,
};
use sqlx::any::AnyRow;

/// How many attempts of a delivery are shown: the newest.
const ATTEMPTS_SHOWN: i64 = 200;
/// How far dead letters are counted.
const DEAD_COUNTED: i64 = 100_000;

pub(super) const EVENTS: &str = "SELECT number, accepted_at, webhook_id, tenant, source, id, type, content FROM webhook_events \
     WHERE number > $1 ORDER BY number LIMIT $2";

pub(super) const EVENT: &str = "SELECT e.number, e.accepted_at, e.webhook_id, e.tenant, e.source, e.id, e.type, e.content \
     FROM webhook_ids i JOIN webhook_events e ON e.number = i.event AND e.accepted_at = i.at WHERE i.webhook_id = $1";

pub(super) const ID: &str = "SELECT event, at FROM webhook_ids WHERE webhook_id = $1";

pub(super) const LIST: &str = "SELECT d.number, d.state, d.reason, d.tenant, d.endpoint, d.accepted_at, d.attempts, d.due_at, \
         d.settled_at, d.replay, e.webhook_id, e.type, e.source, e.id \
     FROM webhook_deliveries d JOIN webhook_events e ON e.number = d.event AND e.accepted_at = d.accepted_at";

pub(super) const ATTEMPTS: &str = "SELECT attempt, at, took, outcome, status, excerpt, node FROM webhook_attempts \
     WHERE delivery = $1 ORDER BY fence DESC LIMIT $2";

pub(super) const POLL: &str = "SELECT d.number, e.webhook_id, e.accepted_at, e.content FROM webhook_deliveries d \
     JOIN webhook_events e ON e.number = d.event AND e.accepted_at = d.accepted_at \
     WHERE d.endpoint = $1 AND d.tenant = $2 AND d.number > $3 ORDER BY d.number LIMIT $4";

const NEWEST: &str = "SELECT number FROM webhook_numbers WHERE name = 'deliveries'";

const WAITING: &str =
    "SELECT CAST(COALESCE(SUM(waiting), 0) AS BIGINT) AS waiting FROM webhook_waiting";

pub(super) const DEAD: &str = "SELECT count(*) AS dead FROM (SELECT 1 AS one FROM webhook_deliveries WHERE state = 'dead' AND reason <> 'discarded' \
     LIMIT $1) dead";

/// The event behind fan-out's cursor.
pub(super) const NEXT: &str = "SELECT number, accepted_at FROM webhook_events \
     WHERE number > (SELECT number FROM webhook_numbers WHERE name = 'fan_out') \
         AND accepted_at >= (SELECT at FROM webhook_numbers WHERE name = 'fan_out') ORDER BY number LIMIT 1";

/// How many tenants are aside; and of the one whose events were planned least far, the next one.
pub(super) const ASIDE: &str = "SELECT (SELECT count(*) FROM webhook_aside) AS aside, \
         (SELECT e.number FROM webhook_events e WHERE e.tenant = a.tenant AND e.accepted_at >= a.at \
             AND e.number > a.number ORDER BY e.accepted_at, e.number LIMIT 1) AS number, \
         (SELECT e.accepted_at FROM webhook_events e WHERE e.tenant = a.tenant AND e.accepted_at >= a.at \
             AND e.number > a.number ORDER BY e.accepted_at, e.number LIMIT 1) AS accepted_at \
     FROM webhook_aside a WHERE a.number = (SELECT MIN(number) FROM webhook_aside) LIMIT 1";

/// The first of each lane: as many steps as there are lanes.
pub(super) static OLDEST: Sql = Sql::new(
    "WITH RECURSIVE lanes(endpoint) AS ( \
         SELECT (SELECT d.endpoint FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
             ORDER BY d.endpoint, d.due_at, d.number LIMIT 1) \
         UNION ALL \
         SELECT (SELECT d.endpoint FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
             AND d.endpoint > lanes.endpoint ORDER BY d.endpoint, d.due_at, d.number LIMIT 1) \
         FROM lanes WHERE lanes.endpoint IS NOT NULL) \
     SELECT MIN((SELECT d.due_at FROM webhook_deliveries d WHERE d.state = 'pending' AND d.due_at IS NOT NULL \
         AND d.endpoint = lanes.endpoint ORDER BY d.endpoint, d.due_at, d.number LIMIT 1)) AS oldest \
     FROM lanes WHERE lanes.endpoint IS NOT NULL",
);

/// Which deliveries are wanted. Newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQuery {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// To this endpoint.
    pub endpoint: Option<EndpointId>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// For another reason than this, or for none.
    pub without: Option<Reason>,
    /// Of this event.
    pub webhook_id: Option<WebhookId>,
    /// Of events of this type.
    pub r#type: Option<String>,
    /// Of events that were accepted from then on.
    pub since: Option<Timestamp>,
    /// Of events that were accepted before then.
    pub until: Option<Timestamp>,
    /// With smaller numbers than this.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// An event as an endpoint polls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The number of its delivery.
    pub number: u64,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The event in structured form.
    pub content: Bytes,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events before fan-out, and deliveries that are pending or held.
    pub waiting: u64,
    /// Dead letters that nobody gave up, counted up to 100,000.
    pub dead: u64,
    /// When the oldest pending delivery is due; may be in the future.
    pub oldest_due: Option<Timestamp>,
    /// The number of the oldest event that is not planned, and when it was accepted.
    pub next_event: Option<(u64, Timestamp)>,
    /// How many tenants' events are planned in turns of their own.
    pub aside: u64,
}

impl Store {
    /// Events after this number, 0 for all, in the order of their numbers.
    pub async fn events_after(
        &self,
        number: u64,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let limit = i64::from(limit.min(ROWS_MAX));
        let find = sqlx::query(EVENTS).bind(stored(number)).bind(limit);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(event).collect()
    }

    /// The event that receivers know by this id.
    pub async fn event(&self, id: &WebhookId) -> Result<Option<StoredEvent>, StoreError> {
        let find = sqlx::query(EVENT).bind(text(id.as_str()));
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(event).transpose()
    }

    /// Deliveries, newest first.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<Delivery>, StoreError> {
        let _place = self.search_place().await?;
        let query = query.clone();
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let mut of_event = None;
                if let Some(id) = &query.webhook_id {
                    let id = sqlx::query(ID).bind(text(id.as_str()));
                    let Some(id) = id.fetch_optional(&mut *connection).await? else {
                        return Ok(Vec::new());
                    };
                    of_event = Some(sqlx::Row::try_get::<i64, _>(&id, "event")?);
                }
                let list = Search::new(LIST)
                    .also(query.state.map(in_state))
                    .filter(
                        "COALESCE(d.reason, '') <> {}",
                        query.without.map(|reason| reason.as_str().to_owned()),
                    )?
                    .filter("d.event = {}", of_event)?
                    .filter("d.tenant = {}", query.tenant.map(|tenant| text(tenant.as_str())))?
                    .filter("d.endpoint = {}", query.endpoint.map(|id| text(id.as_str())))?
                    .filter("e.type = {}", query.r#type.as_deref().map(searched))?
                    .filter("d.accepted_at >= {}", query.since.map(at))?
                    .filter("d.accepted_at < {}", query.until.map(at))?
                    .filter("d.number < {}", query.before.map(stored))?;
                list.first(query.limit, "d.number DESC", connection).await
            })
        });
        rows.await?.iter().map(delivery).collect()
    }

    /// A delivery with its newest 200 attempts, in the order in which they were made.
    pub async fn delivery(
        &self,
        number: u64,
    ) -> Result<Option<(Delivery, Vec<Attempt>)>, StoreError> {
        let number = stored(number);
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let find = Search::new(LIST).filter("d.number = {}", Some(number))?;
                let found = find.first(1, "d.number", &mut *connection).await?;
                let attempts = sqlx::query(ATTEMPTS).bind(number).bind(ATTEMPTS_SHOWN);
                Ok((found, attempts.fetch_all(connection).await?))
            })
        });
        let (found, attempts) = read.await?;
        let Some(found) = found.first() else { return Ok(None) };
        let attempts = attempts.iter().rev().map(attempt).collect::<Result<_, _>>()?;
        Ok(Some((delivery(found)?, attempts)))
    }

    /// The events of an endpoint's deliveries after this number, whatever became of them.
    pub async fn endpoint_events(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Polled>, StoreError> {
        let find = sqlx::query(POLL)
            .bind(text(endpoint.as_str()))
            .bind(text(tenant.as_str()))
            .bind(stored(after))
            .bind(i64::from(limit.min(ROWS_MAX)));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        let polled = |row: &AnyRow| {
            Ok(Polled {
                number: row.number("number")?,
                webhook_id: WebhookId::known(row.of::<String>("webhook_id")?),
                accepted_at: row.time("accepted_at")?,
                content: row.of::<Vec<u8>>("content")?.into(),
            })
        };
        rows.iter().map(polled).collect()
    }

    /// The number of the newest delivery: after it, polling yields only what comes.
    pub async fn newest_delivery(&self) -> Result<u64, StoreError> {
        let row = self.db.read(|connection| Box::pin(sqlx::query(NEWEST).fetch_one(connection)));
        row.await?.number("number")
    }

    /// How much there is to do. Takes about as long as a claim: cheap enough every second.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let read = self.db.read(|connection| {
            Box::pin(async move {
                let waiting = sqlx::query(WAITING).fetch_one(&mut *connection).await?;
                let dead = sqlx::query(DEAD).bind(DEAD_COUNTED).fetch_one(&mut *connection).await?;
                let next = sqlx::query(NEXT).fetch_optional(&mut *connection).await?;
                let aside = sqlx::query(ASIDE).fetch_optional(&mut *connection).await?;
                let oldest = OLDEST.query(connection).fetch_one(connection).await?;
                Ok((waiting, dead, next, aside, oldest))
            })
        });
        let (waiting, dead, next, aside, oldest) = read.await?;
        let mut next_event = next.as_ref().map(next_of).transpose()?.flatten();
        if let Some(aside) = aside.as_ref().map(next_of).transpose()?.flatten() {
            next_event = Some(next_event.map_or(aside, |next| next.min(aside)));
        }
        Ok(Backlog {
            waiting: waiting.of::<i64>("waiting")?.max(0).unsigned_abs(),
            dead: dead.number("dead")?,
            oldest_due: oldest.maybe_time("oldest")?,
            next_event,
            aside: aside.map_or(Ok(0), |row| row.number("aside"))?,
        })
    }
}

/// Number and time of an event, where there is one.
fn next_of(row: &AnyRow) -> Result<Option<(u64, Timestamp)>, StoreError> {
    let Some(at) = row.maybe_time("accepted_at")? else { return Ok(None) };
    Ok(Some((row.number("number")?, at)))
}

/// With the state's name in the text: else no index of a state is found fit.
pub(super) const fn in_state(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => "d.state = 'pending'",
        DeliveryState::Held => "d.state = 'held'",
        DeliveryState::Delivered => "d.state = 'delivered'",
        DeliveryState::Parked => "d.state = 'parked'",
        DeliveryState::Dead => "d.state = 'dead'",
    }
}

pub(super) fn event(row: &AnyRow) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        number: row.number("number")?,
        webhook_id: WebhookId::known(row.of::<String>("webhook_id")?),
        tenant: TenantId::from(row.of::<&str>("tenant")?),
        source: row.of("source")?,
        id: row.of("id")?,
        r#type: row.of("type")?,
        accepted_at: row.time("accepted_at")?,
        content: row.of::<Vec<u8>>("content")?.into(),
    })
}

fn delivery(row: &AnyRow) -> Result<Delivery, StoreError> {
    let state = DeliveryState::parse(row.of("state")?).ok_or_else(|| unreadable("state"))?;
    // Of what is on its way it says how it came to be so.
    let is_told = matches!(state, DeliveryState::Parked | DeliveryState::Dead);
    let reason = row.of::<Option<&str>>("reason")?.filter(|_| is_told);
    Ok(Delivery {
        id: delivery_id(row.number("number")?),
        state,
        reason: reason
            .map(|name| Reason::parse(name).ok_or_else(|| unreadable("reason")))
            .transpose()?,
        tenant: TenantId::from(row.of::<&str>("tenant")?),
        endpoint: EndpointId::from(row.of::<&str>("endpoint")?),
        webhook_id: WebhookId::known(row.of::<String>("webhook_id")?),
        r#type: row.of("type")?,
        source: row.of("source")?,
        event_id: row.of("id")?,
        accepted_at: row.time("accepted_at")?,
        attempts: u32::try_from(row.number("attempts")?).unwrap_or(u32::MAX),
        due_at: row.maybe_time("due_at")?,
        settled_at: row.maybe_time("settled_at")?,
        replay: row.of("replay")?,
    })
}

fn attempt(row: &AnyRow) -> Result<Attempt, StoreError> {
    let status = row.of::<Option<i64>>("status")?;
    Ok(Attempt {
        attempt: u32::try_from(row.number("attempt")?).unwrap_or(u32::MAX),
        at: row.time("at")?,
        took: row.number("took")?,
        outcome: Outcome::parse(row.of("outcome")?).ok_or_else(|| unreadable("outcome"))?,
        status: status
            .map(|status| status.try_into().map_err(|_| unreadable("status")))
            .transpose()?,
        excerpt: row.of("excerpt")?,
        node: row.of("node")?,
    })
}
