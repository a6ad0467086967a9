//! The gateway's own events, as events of their tenants: from the store's outbox into the log of events.
//!
//! Invariant: each is accepted before the place of it is kept, and is a repeat when that was lost, so that none is missing
//! and none comes twice. Events that concern the deployment, and no tenant, stay in the outbox: no endpoint could get them.

use crate::Dispatcher;
use crate::bookmark::{Bookmark, Lost};
use ingest::{Ingest, Origin};
use model::event::{CloudEvent, Malformed, New};
use model::port::StoreError;
use model::webhook::Acceptance;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use store::control::{OUTBOX_READER, OutboxRead, Outgoing};

/// `source` of the gateway's own events.
const SOURCE: &str = "/tollgate";

/// How often the outbox is looked at.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// How many events are read at once.
const PAGE: u32 = 256;

/// Why reading stops for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("events are not accepted: {0}")]
    Refused(String),
}

/// Reads the outbox until the dispatcher stops.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    while !dispatcher.is_stopping() {
        match forward(&dispatcher.store, &dispatcher.ingest, &dispatcher.holder).await {
            Ok(More::Yes) => continue,
            Ok(More::No) => {}
            Err(error) => tracing::warn!(%error, "the gateway's own events wait"),
        }
        dispatcher.pause(LOOK_TIME).await;
    }
}

/// Whether there may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// Accepts what is new in the outbox, unless another dispatcher is about it.
async fn forward(store: &Store, ingest: &Ingest, holder: &str) -> Result<More, Trouble> {
    // Nothing is written while there is nothing.
    let seen: OutboxRead = Bookmark::look(store, OUTBOX_READER).await?;
    if store.outbox(seen.number, 1).await?.is_empty() {
        return Ok(More::No);
    }
    let Some(mut bookmark) = Bookmark::take(store, OUTBOX_READER, holder).await? else {
        return Ok(More::No);
    };
    let seen: OutboxRead = bookmark.state();
    let page = store.outbox(seen.number, PAGE).await?;
    let Some(newest) = page.last().map(|outgoing| outgoing.number) else {
        bookmark.give_back(&seen).await?;
        return Ok(More::No);
    };
    bookmark.while_waiting(accept(ingest, &page)).await??;
    bookmark.give_back(&OutboxRead { number: newest }).await?;
    Ok(if page.len() < PAGE as usize { More::No } else { More::Yes })
}

async fn accept(ingest: &Ingest, page: &[Outgoing]) -> Result<(), Trouble> {
    let mut events = Vec::with_capacity(page.len());
    for outgoing in page {
        match event_of(outgoing) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => {}
            Err(errors) => {
                let (number, error) = (outgoing.number, errors.first().map(ToString::to_string));
                tracing::error!(number, error, "an event of the gateway is none that can be sent");
            }
        }
    }
    let refused = |reject: model::Reject| {
        Trouble::Refused(reject.cause.clone().unwrap_or_else(|| reject.code.to_string()))
    };
    for outcome in ingest.keep_each(Origin::Gateway, events).await.map_err(refused)? {
        if outcome.map_err(refused)? == Acceptance::Conflict {
            tracing::error!("an event of the gateway has the id of another one");
        }
    }
    Ok(())
}

/// The event of a tenant that it is.
fn event_of(outgoing: &Outgoing) -> Result<Option<CloudEvent>, Vec<Malformed>> {
    let event = &outgoing.event;
    let Some(tenant) = &event.tenant else { return Ok(None) };
    let data = serde_json::value::to_raw_value(&event.data).ok();
    let time = event.at.to_string();
    let new = New {
        id: &event.id,
        source: SOURCE,
        r#type: &event.r#type,
        subject: Some(event.subject.as_str()).filter(|subject| !subject.is_empty()),
        time: Some(&time),
        tenant: tenant.as_str(),
        data: data.as_deref(),
    };
    CloudEvent::new(&new).map(Some)
}

#[cfg(test)]
mod tests;
