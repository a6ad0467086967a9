//! Webhooks: events, their deliveries, and who works at them. Every claim ends with [`sound`]: whatever was done, what is
//! counted is what is there, and nothing waits for nothing.

mod deliveries;
mod endpoints;
mod events;
mod order;
mod replays;
mod retention;

pub(in crate::tests) use deliveries::*;
pub(in crate::tests) use endpoints::*;
pub(in crate::tests) use events::*;
pub(in crate::tests) use order::*;
pub(in crate::tests) use replays::*;
pub(in crate::tests) use retention::*;

use crate::Store;
use crate::webhooks::{Arriving, Plan};
use jiff::Timestamp;
use model::Clock;
use model::webhook::{
    Acceptance, Attempt, HeldDelivery, NewEvent, Next, Outcome, Planned, Settlement, StoredEvent,
    Take, WebhookId,
};
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any test.
pub(in crate::tests) const SPAN: Duration = Duration::from_secs(90);

pub(in crate::tests) fn event(tenant: &str, id: &str) -> NewEvent {
    let content = format!(
        r#"{{"specversion":"1.0","source":"crm","id":"{id}","data":{{"text":"ä\u0000"}}}}"#
    );
    NewEvent {
        webhook_id: WebhookId::of(&tenant.into(), "crm", id),
        tenant: tenant.into(),
        source: "crm".to_owned(),
        id: id.to_owned(),
        r#type: "contact.created".to_owned(),
        digest: [7; 32],
        content: content.into_bytes().into(),
    }
}

pub(in crate::tests) fn arriving(events: Vec<NewEvent>) -> Arriving {
    Arriving { events, backlog: BTreeMap::new() }
}

/// Accepts events of one tenant, in one request.
pub(in crate::tests) async fn accept(store: &Store, tenant: &str, ids: &[&str]) {
    let events = ids.iter().map(|id| event(tenant, id)).collect();
    let told = store.accept_events(vec![arriving(events)]).await.unwrap();
    assert_eq!(told, [vec![Acceptance::Accepted; ids.len()]]);
}

/// A plan to these endpoints, without order.
pub(in crate::tests) fn to(endpoints: &'static [&'static str]) -> Plan {
    Arc::new(move |_: &StoredEvent| {
        let planned = |id: &&str| Planned { endpoint: (*id).into(), order_key: None, parked: None };
        endpoints.iter().map(planned).collect()
    })
}

/// A plan to so many endpoints, without order.
pub(in crate::tests) fn to_many(endpoints: u32) -> Plan {
    Arc::new(move |_: &StoredEvent| {
        let planned = |number: u32| Planned {
            endpoint: format!("e{number}").as_str().into(),
            order_key: None,
            parked: None,
        };
        (0..endpoints).map(planned).collect()
    })
}

/// A plan to so many endpoints, by the event's tenant; to one endpoint of others.
pub(in crate::tests) fn by_tenant(wide: &'static [(&'static str, u32)]) -> Plan {
    Arc::new(move |event: &StoredEvent| {
        let tenant = event.tenant.as_str();
        let known = wide.iter().find(|(wide, _)| *wide == tenant);
        let planned = |number: u32| Planned {
            endpoint: format!("{tenant}-{number}").as_str().into(),
            order_key: None,
            parked: None,
        };
        (0..known.map_or(1, |(_, count)| *count)).map(planned).collect()
    })
}

/// A plan to one endpoint, ordered by what stands before `-` in an event's id.
pub(in crate::tests) fn by_key(endpoint: &'static str) -> Plan {
    Arc::new(move |event: &StoredEvent| {
        let key = event.id.split_once('-').map_or("", |(key, _)| key);
        vec![Planned { endpoint: endpoint.into(), order_key: Some(key.to_owned()), parked: None }]
    })
}

/// Fans out until nothing is left; says how many events that were.
pub(in crate::tests) async fn fan_out(store: &Store, plan: &Plan) -> u32 {
    let mut events = 0;
    loop {
        match store.fan_out(Arc::clone(plan), None, 100).await.unwrap().events {
            0 => return events,
            some => events += some,
        }
    }
}

pub(in crate::tests) fn take(endpoint: &str, most: u32) -> Take {
    Take { endpoint: endpoint.into(), most, low_water: Timestamp::MIN }
}

/// Holds what is due, as a dispatcher that lives.
pub(in crate::tests) async fn hold(store: &Store, endpoint: &str, most: u32) -> Vec<HeldDelivery> {
    store.beat("d1").await.unwrap();
    store.hold(vec![take(endpoint, most)], "d1", SPAN).await.unwrap()
}

/// The ids of the events of what is held.
pub(in crate::tests) fn ids(held: &[HeldDelivery]) -> Vec<String> {
    let id = |held: &HeldDelivery| {
        let content: serde_json::Value = serde_json::from_slice(&held.content).unwrap();
        content["id"].as_str().unwrap().to_owned()
    };
    held.iter().map(id).collect()
}

pub(in crate::tests) fn settlement(held: &HeldDelivery, next: Next) -> Settlement {
    let outcome = if next == Next::Delivered { Outcome::Delivered } else { Outcome::ServerError };
    let attempt = Attempt {
        attempt: held.attempt,
        at: now(),
        took: 1_234,
        outcome,
        status: Some(if next == Next::Delivered { 204 } else { 500 }),
        excerpt: Some("told\0so".to_owned()),
        node: "node".to_owned(),
    };
    Settlement { number: held.number, fence: held.fence, attempt: Some(attempt), next }
}

/// Settles all of it the same way.
pub(in crate::tests) async fn settle(store: &Store, held: &[HeldDelivery], next: Next) {
    let settlements = held.iter().map(|held| settlement(held, next)).collect();
    assert_eq!(store.settle(settlements).await.unwrap().stale, [0; 0]);
}

/// Whoever found nothing to do lets others work.
pub(in crate::tests) async fn rest() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

pub(in crate::tests) fn now() -> Timestamp {
    // In whole milliseconds, as SQLite tells the time: what is due now must not be due a moment after it.
    Timestamp::from_millisecond(Clock::system().now().as_millisecond()).unwrap()
}

/// So long from now.
pub(in crate::tests) fn later(span: Duration) -> Timestamp {
    now().checked_add(span).unwrap()
}

/// Does what no function of the store does.
pub(in crate::tests) async fn execute(store: &Store, sql: &str) {
    let sql = sql.to_owned();
    let done = store.db.write(0, |connection| {
        Box::pin(async move { sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop) })
    });
    done.await.unwrap();
}

/// The number that a query yields.
pub(in crate::tests) async fn number(store: &Store, sql: &str) -> i64 {
    let sql = sql.to_owned();
    let read = store.db.read(|connection| {
        Box::pin(
            async move { sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0) },
        )
    });
    read.await.unwrap()
}

/// Whether what is counted is what is there, and nothing waits behind nothing.
pub(in crate::tests) async fn sound(store: &Store) {
    let counted = "SELECT CAST(COALESCE(SUM(waiting), 0) AS BIGINT) FROM webhook_waiting";
    let events = "SELECT count(*) FROM webhook_events e WHERE number > \
        COALESCE((SELECT a.number FROM webhook_aside a WHERE a.tenant = e.tenant), \
            (SELECT number FROM webhook_numbers WHERE name = 'fan_out'))";
    let open = "SELECT count(*) FROM webhook_deliveries WHERE state IN ('pending', 'held')";
    let there = number(store, events).await + number(store, open).await;
    assert_eq!(number(store, counted).await, there, "what waits is counted");
    let stuck = "SELECT count(*) FROM webhook_deliveries d WHERE due_at IS NULL AND (state = 'pending' OR reason = 'blocked') AND NOT EXISTS \
        (SELECT 1 FROM webhook_deliveries e WHERE e.blocks = 1 AND e.endpoint = d.endpoint \
            AND e.order_key = d.order_key AND e.number < d.number)";
    assert_eq!(number(store, stuck).await, 0, "something waits behind nothing");
    let overtaking = "SELECT count(*) FROM webhook_deliveries d WHERE d.blocks = 1 AND (state = 'held' OR due_at IS NOT NULL) \
        AND EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.blocks = 1 AND e.endpoint = d.endpoint \
            AND e.order_key = d.order_key AND e.number < d.number)";
    assert_eq!(number(store, overtaking).await, 0, "something is due before its turn");
}
