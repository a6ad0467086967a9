//! Claiming: holds what is due, as much as there is room for, and has each delivery sent by a task of its own.
//!
//! Invariant: nothing is claimed by a process that others may take for silent, nor by one that stops.

use crate::Dispatcher;
use crate::deliver::UnderWay;
use crate::lanes::{Due, Place, Postponed};
use crate::settle::Settling;
use model::id::{EndpointId, TenantId};
use model::webhook::{Next, Reason, Settlement};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two claims at least, so that slots that become free meanwhile share the next one.
const PACE: Duration = Duration::from_millis(4);
/// How long nobody looks when nobody tells of anything.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a store that can't answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// Claims until it is to stop, then waits for the attempts that are under way.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut attempts = JoinSet::new();
    let mut last = Instant::now();
    while !dispatcher.is_stopping() {
        wait(&dispatcher).await;
        while !dispatcher.is_stopping() && dispatcher.presence.is_heard() {
            tokio::time::sleep_until(last + PACE).await;
            last = Instant::now();
            while attempts.try_join_next().is_some() {}
            match claim(&dispatcher, &mut attempts).await {
                Claimed::Some => {}
                Claimed::Nothing => break,
                Claimed::Failed => dispatcher.pause(PATIENCE).await,
            }
        }
    }
    let deadline = dispatcher.stopped().await;
    let end = async { while attempts.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, end).await.is_err() {
        tracing::warn!(attempts = attempts.len(), "attempts were cut off, and count as lost");
        attempts.shutdown().await;
    }
}

/// Waits until there may be something to claim.
async fn wait(dispatcher: &Dispatcher) {
    let due = dispatcher.lanes.next_alarm().map_or(LOOK_PAUSE, |at| {
        let micros = at.saturating_sub(dispatcher.time.micros()).max(0);
        Duration::from_micros(micros.unsigned_abs()).min(LOOK_PAUSE)
    });
    tokio::select! {
        () = dispatcher.lanes.look.notified() => {}
        () = tokio::time::sleep(due) => {}
        _ = dispatcher.stopped() => {}
    }
}

enum Claimed {
    Some,
    Nothing,
    Failed,
}

async fn claim(dispatcher: &Arc<Dispatcher>, attempts: &mut JoinSet<()>) -> Claimed {
    let Some(mut claim) = dispatcher.lanes.claim(dispatcher.time.micros()) else {
        return Claimed::Nothing;
    };
    let takes = std::mem::take(&mut claim.takes);
    let held = match dispatcher.store.hold(takes, &dispatcher.holder, claim.span).await {
        Ok(held) => held,
        Err(error) => {
            dispatcher.away(&error);
            dispatcher.lanes.not_taken(claim, dispatcher.time.micros());
            return Claimed::Failed;
        }
    };
    dispatcher.back();
    let mut strangers = Vec::new();
    for due in dispatcher.lanes.taken(claim, held, dispatcher.time.micros()) {
        match due {
            Due::Send { held, endpoint, started, place } => {
                let under_way = UnderWay::new(dispatcher.clone(), *held, endpoint, started, place);
                attempts.spawn(under_way.run());
            }
            Due::GiveBack { settlement, tenant, endpoint, why, place } => {
                let untried = Untried { settlement, lane: (tenant, endpoint), place };
                match why {
                    Postponed::ByBudget => dispatcher.metrics.postponed.inc(),
                    // The next sweep makes sure again.
                    Postponed::Parked => dispatcher.sweep.notify_one(),
                    Postponed::Stranger(revision) => {
                        strangers.push((revision, untried));
                        continue;
                    }
                }
                untried.give_back(dispatcher);
            }
        }
    }
    if !strangers.is_empty() {
        park(dispatcher, strangers).await;
    }
    Claimed::Some
}

/// A delivery that is given back untried.
struct Untried {
    settlement: Settlement,
    lane: (TenantId, EndpointId),
    place: Place,
}

impl Untried {
    fn give_back(self, dispatcher: &Dispatcher) {
        let Self { settlement, lane, place } = self;
        dispatcher.settler.settle(Settling { settlement, lane, is_awaited: false, place });
    }
}

/// Parks what is of a tenant whose endpoint is another's by the newest document: theirs is removed. Where the document here is
/// not the newest one, or nobody can tell, it waits.
async fn park(dispatcher: &Dispatcher, strangers: Vec<(u64, Untried)>) {
    let newest = match dispatcher.newest().await {
        Ok(newest) => newest,
        Err(error) => {
            dispatcher.away(&error);
            None
        }
    };
    for (revision, mut untried) in strangers {
        if newest == Some(revision) {
            untried.settlement.next = Next::Parked(Reason::Removed);
        }
        untried.give_back(dispatcher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settle;
    use crate::tests::world::World;
    use model::webhook::DeliveryState;

    #[tokio::test]
    async fn what_waited_until_others_may_have_it_is_not_sent() {
        let world = World::with(&[("/ok", "")]).await;
        // It never beats, so that everybody else takes it for silent.
        let dispatcher = world.dispatcher_at_rest();
        let book = dispatcher.fresh_book().await.unwrap();
        world.accept(0, &[("a", "x")]).await;
        let (plan, _) = dispatcher.plan().unwrap();
        world.store.fan_out(plan, None, 10).await.unwrap();
        let now = dispatcher.time.micros();
        dispatcher.lanes.follow(&book, now);
        dispatcher.lanes.due([("acme".into(), "e0".into(), now)], now);
        let mut attempts = JoinSet::new();
        assert!(matches!(claim(&dispatcher, &mut attempts).await, Claimed::Some));
        assert_eq!(attempts.len(), 1, "it was held");
        attempts.join_all().await;
        dispatcher.settler.finish();
        settle::run(dispatcher.clone()).await;
        assert_eq!(world.sink.at("/ok").len(), 0);
        let delivery = &world.deliveries().await[0];
        assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Pending, 0));
        assert_eq!(dispatcher.lanes.counts().in_hand, 0);
    }
}
