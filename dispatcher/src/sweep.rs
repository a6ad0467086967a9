//! Sweeps: what is due in the store, whoever made it so, becomes known here. Hints are quicker; this finds what they miss.
//!
//! Invariant: nothing that is due waits for longer than a sweep, however it became so.

use crate::Dispatcher;
use crate::lanes::Unsure;
use model::port::StoreError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two sweeps when nobody asks for one.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two sweeps at least.
const PACE: Duration = Duration::from_millis(100);
/// Sweeps take one part in so many of the time at most.
const SHARE: u32 = 20;
/// Between two sweeps of what waits behind nothing any more.
const ORDER_PAUSE: Duration = Duration::from_secs(5);
/// How many lanes one sweep reads. The others come when the first are empty.
const LANES_MAX: u32 = 20_000;

/// Sweeps until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut order = Instant::now();
    while !dispatcher.is_stopping() {
        let began = Instant::now();
        if let Err(error) = sweep(&dispatcher, &mut order).await {
            dispatcher.away(&error);
        }
        let pace = PACE.max(began.elapsed() * SHARE);
        dispatcher.pause(pace).await;
        tokio::select! {
            () = dispatcher.sweep.notified() => {}
            () = tokio::time::sleep(PAUSE.saturating_sub(pace)) => {}
            _ = dispatcher.stopped() => {}
        }
    }
}

async fn sweep(dispatcher: &Dispatcher, order: &mut Instant) -> Result<(), StoreError> {
    if order.elapsed() >= ORDER_PAUSE {
        *order = Instant::now();
        let mended = dispatcher.store.mend_order().await?;
        if mended > 0 {
            tracing::debug!(mended, "deliveries waited behind nothing");
        }
    }
    if dispatcher.book().is_none() {
        return Ok(());
    }
    let now = dispatcher.time.micros();
    let lanes = dispatcher.store.due_lanes(LANES_MAX).await?;
    if dispatcher.lanes.swept(lanes, now) == Unsure::Some {
        // What is not served here is parked only where neither an operator nor a newer document says otherwise.
        let standings = dispatcher.store.standings().await?;
        dispatcher.lanes.adopt(&standings, now);
        if let Some(newest) = dispatcher.revisions.newest().await? {
            dispatcher.lanes.is_sure(newest.number, now);
        }
    }
    Ok(())
}
