//! Sweeps: what is due in the store, whoever made it so, becomes known here. Hints are quicker; this finds what they miss.
//!
//! Invariant: nothing that is due waits for longer than a round of sweeps, however it became so: each sweep goes on from the
//! lane where the one before ended, and a round is a single sweep unless there are more than [`LANES_MAX`] lanes.

use crate::Dispatcher;
use crate::lanes::Unsure;
use model::id::EndpointId;
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
/// Between two looks at what waits behind nothing any more; where there is something, each sweep does a part of it.
const ORDER_PAUSE: Duration = Duration::from_secs(5);
/// How many lanes one sweep reads. The next one begins behind them.
const LANES_MAX: u32 = 20_000;

/// How far sweeps have come.
struct Swept {
    /// When to look next for what waits behind nothing.
    order: Instant,
    /// The last lane of a sweep that did not reach the end.
    lanes: Option<EndpointId>,
}

/// Sweeps until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut swept = Swept { order: Instant::now() + ORDER_PAUSE, lanes: None };
    while !dispatcher.is_stopping() {
        let began = Instant::now();
        if let Err(error) = sweep(&dispatcher, &mut swept).await {
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

async fn sweep(dispatcher: &Dispatcher, swept: &mut Swept) -> Result<(), StoreError> {
    if Instant::now() >= swept.order {
        swept.order = Instant::now() + ORDER_PAUSE;
        let mended = dispatcher.store.mend_order().await?;
        if mended > 0 {
            swept.order = Instant::now();
            tracing::debug!(
                mended,
                "deliveries waited behind nothing, or behind what nobody works at"
            );
        }
    }
    if dispatcher.book().is_none() {
        return Ok(());
    }
    let now = dispatcher.time.micros();
    if lanes(dispatcher, &mut swept.lanes, LANES_MAX, now).await? == Unsure::Some {
        // What is not served here is parked only where neither an operator nor a newer document says otherwise.
        let standings = dispatcher.store.standings().await?;
        dispatcher.lanes.adopt(&standings, now);
        if let Some(newest) = dispatcher.newest().await? {
            dispatcher.lanes.is_sure(newest, now);
        }
    }
    Ok(())
}

/// Looks at the next so many lanes, and where the next look begins.
async fn lanes(
    dispatcher: &Dispatcher,
    after: &mut Option<EndpointId>,
    most: u32,
    now: i64,
) -> Result<Unsure, StoreError> {
    let lanes = dispatcher.store.due_lanes(after.as_ref(), most).await?;
    let is_full = u32::try_from(lanes.len()).is_ok_and(|lanes| lanes == most);
    *after = lanes.iter().map(|lane| &lane.endpoint).max().filter(|_| is_full).cloned();
    Ok(dispatcher.lanes.swept(lanes, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::World;
    use jiff::Timestamp;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_sweep_goes_on_where_the_one_before_ended() {
        let world = World::with(&[("/0", ""), ("/1", ""), ("/2", "")]).await;
        let dispatcher = world.dispatcher_at_rest();
        let book = dispatcher.fresh_book().await.unwrap();
        world.accept(0, &[("a", "x")]).await;
        let (plan, _) = dispatcher.plan().unwrap();
        world.store.fan_out(plan, None, 10).await.unwrap();
        let now = Timestamp::MAX.as_microsecond();
        dispatcher.lanes.follow(&book, now);
        let mut after = None;
        let mut seen = Vec::new();
        for _ in 0..3 {
            lanes(&dispatcher, &mut after, 2, now).await.unwrap();
            let takes = dispatcher.lanes.claim(now).map(|claim| claim.takes).unwrap_or_default();
            let takes: BTreeSet<_> = takes.into_iter().map(|take| take.endpoint).collect();
            seen.push((after.clone(), takes));
        }
        let of = |ids: &[&str]| ids.iter().map(|id| EndpointId::from(*id)).collect();
        let (first, rest) = (of(&["e0", "e1"]), of(&["e2"]));
        // In the third one, what is claimed already.
        assert_eq!(seen, [(Some("e1".into()), first), (None, rest), (Some("e1".into()), of(&[]))]);
    }
}
