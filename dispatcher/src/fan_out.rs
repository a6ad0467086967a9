//! Fan-out: events become deliveries, one for each endpoint that wants them. One dispatcher works at it at a time; the store
//! sees to that.
//!
//! Invariant: without a document no event is fanned out: it would go nowhere.

use crate::Dispatcher;
use model::port::StoreError;
use std::sync::Arc;
use std::time::Duration;

/// How many events one transaction takes.
const BATCH: u32 = 256;
/// Between two transactions at least, so that what comes meanwhile shares the next one.
const PACE: Duration = Duration::from_millis(4);
/// How long nobody looks when nobody tells of anything.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a document, and for a store that can't answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// Fans out until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    // A clone of its own remembers what this loop has noticed.
    let store = dispatcher.store.clone();
    while !dispatcher.is_stopping() {
        let Some(book) = dispatcher.books.fresh().await else {
            dispatcher.pause(PATIENCE).await;
            continue;
        };
        dispatcher.lanes.follow(&book, dispatcher.time.micros());
        match step(&dispatcher).await {
            Ok(Found::More) => {}
            Ok(found) => {
                if found == Found::Nothing {
                    // Somebody told of something else: others fanned out, or an operator took something up again.
                    dispatcher.sweep.notify_one();
                }
                tokio::select! {
                    () = store.webhooks_changed(LOOK_PAUSE) => {}
                    _ = dispatcher.stopped() => {}
                }
                dispatcher.pause(PACE).await;
            }
            Err(error) => {
                dispatcher.away(&error);
                dispatcher.pause(PATIENCE).await;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Some,
    More,
}

async fn step(dispatcher: &Dispatcher) -> Result<Found, StoreError> {
    let Some(plan) = dispatcher.plan() else { return Ok(Found::Nothing) };
    let fanned_out = dispatcher.store.fan_out(plan, BATCH).await?;
    dispatcher.back();
    dispatcher.metrics.events.inc_by(fanned_out.events.into());
    let now = dispatcher.time.micros();
    let lanes = fanned_out.lanes.into_iter().map(|(tenant, endpoint)| (tenant, endpoint, now));
    dispatcher.lanes.due(lanes, now);
    Ok(match fanned_out.events {
        0 => Found::Nothing,
        BATCH => Found::More,
        _ => Found::Some,
    })
}
