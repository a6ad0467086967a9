//! What is accepted, handed on: a cursor over the log of events, moved once the broker has them.

use crate::{BATCH, Parts, StreamError};
use model::webhook::StoredEvent;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::time::Duration;

/// How long a process has a sink for itself without saying so again. Longer than a batch takes.
const SPAN: Duration = Duration::from_secs(60);
/// How long the broker may take for a batch.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);
/// How long it waits for new events at most.
const IDLE: Duration = Duration::from_secs(1);

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
        position.after = last.number;
        keep(name, parts, fence, position).await?;
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
