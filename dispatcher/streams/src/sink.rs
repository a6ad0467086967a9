//! What is accepted, handed on: a cursor over the log of events, moved once the broker has them.

use crate::{BATCH, Parts, StreamError};
use bytes::Bytes;
use model::webhook::StoredEvent;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::future::Future;
use std::time::Duration;

/// How long a process has a sink for itself without saying so again. Longer than a batch takes.
const SPAN: Duration = Duration::from_secs(60);
/// How long the broker may take for a batch.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);
/// How long it waits for new events at most.
const IDLE: Duration = Duration::from_secs(1);

/// The extension attribute of an event without its data: how many bytes it has.
const OMITTED: &str = "omittedbytes";
/// What a broker's message takes beside the event, in bytes, at most.
pub(crate) const BESIDE: usize = 4 << 10;

/// A broker's side of a sink.
pub(crate) trait Publish: Send {
    /// Hands events on, in their order; returns once all are on the broker's disk.
    fn publish(
        &mut self,
        events: &[StoredEvent],
    ) -> impl Future<Output = Result<(), StreamError>> + Send;
}

/// Where a sink stands, as the store keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The number of the last event that the broker has.
    after: u64,
}

/// Hands on what is accepted, from where whoever had the sink before stopped. Ends only with an error.
pub(crate) async fn run(
    name: &str,
    parts: &Parts,
    mut broker: impl Publish,
) -> Result<(), StreamError> {
    let (fence, mut position) = held(name, parts).await?;
    loop {
        let events = parts.store.events_after(position.after, BATCH).await?;
        let Some(last) = events.last() else {
            keep(name, parts, fence, position).await?;
            parts.store.webhooks_changed(IDLE).await;
            continue;
        };
        tokio::time::timeout(PUBLISH_DEADLINE, broker.publish(&events)).await.map_err(|_| {
            StreamError::Broker(format!("it did not take events within {PUBLISH_DEADLINE:?}"))
        })??;
        skipped(name, position, &events);
        position.after = last.number;
        keep(name, parts, fence, position).await?;
    }
}

/// The event as the broker takes it. One that is larger than a message may be goes without its data, and says so: it must
/// not stop those behind it, and whoever reads learns that it is there.
pub(crate) fn content(event: &StoredEvent, most: usize) -> Result<Bytes, StreamError> {
    if event.content.len() <= most {
        return Ok(event.content.clone());
    }
    let read: Result<Map<String, Value>, _> = serde_json::from_slice(&event.content);
    let mut read = read.map_err(|error| StreamError::Torn(error.to_string()))?;
    read.retain(|name, _| !matches!(name.as_str(), "data" | "data_base64" | "datacontenttype"));
    read.insert(OMITTED.to_owned(), event.content.len().into());
    tracing::warn!(event = %event.webhook_id, bytes = event.content.len(), "the broker takes it without its data only");
    Ok(Value::Object(read).to_string().into())
}

/// Says so where events were deleted before the sink came to them: numbers have no gaps.
fn skipped(name: &str, position: Position, events: &[StoredEvent]) {
    let Some(first) = events.first() else { return };
    let missing = first.number.saturating_sub(position.after.saturating_add(1));
    if missing > 0 && position.after > 0 {
        tracing::error!(
            stream = name,
            missing,
            "events were no longer kept when the sink came to them"
        );
    }
}

/// Waits until no other process has the sink.
async fn held(name: &str, parts: &Parts) -> Result<(u64, Position), StreamError> {
    loop {
        if let Some(reader) = parts.store.hold_reader(name, &parts.holder, SPAN).await? {
            let position = match reader.state.is_empty() {
                true => Position::default(),
                false => serde_json::from_str(&reader.state)
                    .map_err(|error| StreamError::Torn(error.to_string()))?,
            };
            return Ok((reader.fence, position));
        }
        tokio::time::sleep(IDLE).await;
    }
}

/// Keeps the position. Somebody else has the sink when the fence is stale: they go on.
async fn keep(
    name: &str,
    parts: &Parts,
    fence: u64,
    position: Position,
) -> Result<(), StreamError> {
    let state = serde_json::to_string(&position).unwrap_or_default();
    match parts.store.keep_reader(name, fence, SPAN, Some(state)).await? {
        true => Ok(()),
        false => Err(StreamError::Broker("another process has taken it over".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_too_large_goes_without_its_data_and_says_so() {
        let content = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","tenant":"acme","data":{"a":"xxxxxxxxxx"}}"#;
        let event = StoredEvent {
            number: 1,
            webhook_id: model::webhook::WebhookId::known("evt_1"),
            tenant: "acme".into(),
            source: "/s".to_owned(),
            id: "1".to_owned(),
            r#type: "t".to_owned(),
            accepted_at: jiff::Timestamp::UNIX_EPOCH,
            content: content.into(),
        };
        assert_eq!(super::content(&event, content.len()).ok(), Some(event.content.clone()));
        let told = super::content(&event, content.len() - 1).unwrap();
        let told: Map<String, Value> = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["omittedbytes"], content.len());
        assert_eq!(told["id"], "1");
        assert!(!told.contains_key("data"));
    }
}
