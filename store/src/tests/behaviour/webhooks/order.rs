//! Order: what waits for what, and what it comes to when several work at once.

use super::*;
use crate::control::{Effect, WriteError};
use crate::tests::samples::{done, write};
use crate::webhooks::DeliveryQuery;
use model::webhook::{DeliveryState, Reason};

const STOP: Next = Next::Dead { reason: Reason::Exhausted, blocks: true };
const SKIP: Next = Next::Dead { reason: Reason::Exhausted, blocks: false };

pub(in crate::tests) async fn of_a_key_the_first_alone_is_due(store: &Store) {
    accept(store, "acme", &["a-1", "b-1", "a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    accept(store, "acme", &["a-3", "b-2"]).await;
    fan_out(store, &by_key("e1")).await;
    sound(store).await;
    let held = hold(store, "e1", 9).await;
    assert_eq!(ids(&held), ["a-1", "b-1"]);
    assert_eq!(hold(store, "e1", 9).await, []);
    // One that is tried again still stands before the others.
    let soon = later(Duration::from_secs(600));
    let told = store.settle(vec![settlement(&held[0], Next::Due(soon))]).await.unwrap();
    assert_eq!((told.stale, told.now_due), (vec![], vec![]));
    let told = store.settle(vec![settlement(&held[1], Next::Delivered)]).await.unwrap();
    assert_eq!(told.now_due, [("acme".into(), "e1".into())]);
    assert_eq!(ids(&hold(store, "e1", 9).await), ["b-2"]);
    execute(
        store,
        "UPDATE webhook_deliveries SET due_at = 1 WHERE due_at IS NOT NULL AND state = 'pending'",
    )
    .await;
    for expected in ["a-1", "a-2", "a-3"] {
        let held = hold(store, "e1", 9).await;
        assert_eq!(ids(&held), [expected]);
        sound(store).await;
        settle(store, &held, Next::Delivered).await;
    }
    // What comes when nothing is before it is due at once.
    accept(store, "acme", &["a-4"]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a-4"]);
    // Keys are as long as they are.
    let long = "ä".repeat(5_000);
    let [one, two] = ["1", "2"].map(|count| format!("{long}-{count}"));
    accept(store, "acme", &[&one, &two]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), [one]);
    sound(store).await;
}

pub(in crate::tests) async fn one_that_came_to_nothing_stops_its_key_or_is_skipped(store: &Store) {
    accept(store, "acme", &["a-1", "a-2", "b-1", "b-2", "c-1"]).await;
    fan_out(store, &by_key("e1")).await;
    let held = hold(store, "e1", 9).await;
    assert_eq!(ids(&held), ["a-1", "b-1", "c-1"]);
    settle(store, &held[..1], STOP).await;
    settle(store, &held[1..2], SKIP).await;
    settle(store, &held[2..], STOP).await;
    // Another one waits behind a dead one, too.
    accept(store, "acme", &["a-3", "c-2"]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), ["b-2"]);
    sound(store).await;
    // Somebody tries the first one again: it stands where it stood.
    done(store.write(write(Effect::RetryDelivery { number: 1 })).await);
    let held = hold(store, "e1", 9).await;
    assert_eq!((ids(&held), held[0].attempt), (vec!["a-1".to_owned()], 1));
    settle(store, &held, Next::Delivered).await;
    let held = hold(store, "e1", 9).await;
    assert_eq!(ids(&held), ["a-2"]);
    settle(store, &held, STOP).await;
    // Or gives it up.
    for (number, next) in [(2, "a-3"), (5, "c-2")] {
        done(store.write(write(Effect::DiscardDelivery { number })).await);
        assert_eq!(ids(&hold(store, "e1", 9).await), [next]);
        sound(store).await;
    }
    // One in the middle can be given up, too: nothing overtakes.
    accept(store, "acme", &["d-1", "d-2", "d-3"]).await;
    fan_out(store, &by_key("e1")).await;
    done(store.write(write(Effect::DiscardDelivery { number: 9 })).await);
    for expected in ["d-1", "d-3"] {
        let held = hold(store, "e1", 9).await;
        assert_eq!(ids(&held), [expected]);
        settle(store, &held, Next::Delivered).await;
    }
    sound(store).await;
}

/// Events of few keys are fanned out while those before are settled: nothing overtakes, nothing is left, and nobody mends.
pub(in crate::tests) async fn many_order(store: Store) {
    const EVENTS: usize = 200;
    const KEYS: usize = 5;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            let (holder, mut seen) = (format!("d{task}"), Vec::new());
            let begun = std::time::Instant::now();
            while number(
                &store,
                "SELECT count(*) FROM webhook_deliveries WHERE state = 'delivered'",
            )
            .await
                < EVENTS as i64
            {
                assert!(begun.elapsed() < Duration::from_secs(60), "something is left");
                store.beat(&holder).await.unwrap();
                let held = store.hold(vec![take("e1", 3)], &holder, SPAN).await.unwrap();
                seen.extend(held.iter().map(|held| (held.due_at, held.number)));
                settle(&store, &held, Next::Delivered).await;
                let fanned_out = store.fan_out(by_key("e1"), None, 3).await.unwrap();
                if held.is_empty() && fanned_out.events == 0 {
                    rest().await;
                }
            }
            seen
        });
    }
    for count in 0..EVENTS {
        accept(&store, "acme", &[&format!("{}-{count}", count % KEYS)]).await;
    }
    let seen: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(seen.len(), EVENTS, "each is held once");
    sound(&store).await;
    // In the order of settling, each key's numbers grow.
    let settled = "SELECT count(*) FROM webhook_deliveries d JOIN webhook_deliveries e \
        ON e.order_key = d.order_key AND e.number > d.number AND e.held_at < d.settled_at";
    assert_eq!(
        number(&store, settled).await,
        0,
        "one was held before the one before it was settled"
    );
}

pub(in crate::tests) async fn what_is_stuck_is_mended(store: &Store) {
    // More keys than one sweep looks at.
    let ids: Vec<_> = (0..1_100).map(|key| format!("k{key}-1")).collect();
    let events = ids.iter().map(|id| event("acme", id)).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    fan_out(store, &by_key("e1")).await;
    accept(store, "acme", &["k0-2", "k7-2"]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(store.mend_order().await.unwrap() + store.mend_order().await.unwrap(), 0);
    execute(store, "UPDATE webhook_deliveries SET due_at = NULL WHERE number % 2 = 0").await;
    let mut mended = 0;
    for _ in 0..3 {
        mended += store.mend_order().await.unwrap();
    }
    assert_eq!(mended, 550);
    sound(store).await;
}

/// Each delivery with what a reader is told of it, and how many are counted.
async fn seen(store: &Store) -> (Vec<(DeliveryState, Option<Reason>)>, u64) {
    let query = DeliveryQuery { limit: 100, ..DeliveryQuery::default() };
    let found = store.deliveries(&query).await.unwrap();
    let seen = found.iter().rev().map(|found| (found.state, found.reason)).collect();
    (seen, store.backlog().await.unwrap().waiting)
}

pub(in crate::tests) async fn what_waits_behind_one_that_nobody_works_at_takes_up_no_backlog(
    store: &Store,
) {
    const PENDING: (DeliveryState, Option<Reason>) = (DeliveryState::Pending, None);
    const BLOCKED: (DeliveryState, Option<Reason>) = (DeliveryState::Parked, Some(Reason::Blocked));
    for (next, first) in [
        (STOP, (DeliveryState::Dead, Some(Reason::Exhausted))),
        (Next::Parked(Reason::Removed), (DeliveryState::Parked, Some(Reason::Removed))),
    ] {
        let before = seen(store).await.0.len() as u64;
        accept(store, "acme", &[&format!("{before}a-1"), &format!("{before}a-2")]).await;
        fan_out(store, &by_key("e1")).await;
        settle(store, &hold(store, "e1", 9).await, next).await;
        // What was there is parked by a sweep, what comes at once.
        accept(store, "acme", &[&format!("{before}a-3"), &format!("{before}b-1")]).await;
        fan_out(store, &by_key("e1")).await;
        let of = async || {
            let (seen, waiting) = seen(store).await;
            (seen[usize::try_from(before).unwrap()..].to_vec(), waiting)
        };
        assert_eq!(of().await, (vec![first, PENDING, BLOCKED, PENDING], 2));
        assert_eq!(store.mend_order().await.unwrap(), 1);
        assert_eq!(of().await, (vec![first, BLOCKED, BLOCKED, PENDING], 1));
        assert_eq!(store.mend_order().await.unwrap(), 0);
        sound(store).await;
        let held = hold(store, "e1", 9).await;
        assert_eq!(ids(&held), [format!("{before}b-1")]);
        settle(store, &held, Next::Delivered).await;
        // Nobody makes it overtake.
        let told = store.write(write(Effect::RetryDelivery { number: before + 2 })).await;
        assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
        // The first goes on, and each after it in its turn.
        done(store.write(write(Effect::RetryDelivery { number: before + 1 })).await);
        for (place, left) in [(1, 2), (2, 1)] {
            let held = hold(store, "e1", 9).await;
            assert_eq!(ids(&held), [format!("{before}a-{place}")]);
            assert_eq!(of().await.1, 1, "it counts while it is its turn");
            let (seen, _) = of().await;
            assert_eq!(seen.iter().filter(|seen| **seen == BLOCKED).count(), left);
            settle(store, &held, Next::Delivered).await;
            sound(store).await;
        }
        // Or it is given up.
        done(store.write(write(Effect::DiscardDelivery { number: before + 3 })).await);
        assert_eq!(of().await.1, 0);
        sound(store).await;
    }
}

pub(in crate::tests) async fn what_waits_behind_many_is_parked_a_few_at_a_time(store: &Store) {
    const BEHIND: usize = 5_000;
    accept(store, "acme", &["a-first"]).await;
    let events = (0..BEHIND).map(|count| event("acme", &format!("a-{count}"))).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    while store.fan_out(by_key("e1"), None, 2_000).await.unwrap().events > 0 {}
    settle(store, &hold(store, "e1", 9).await, STOP).await;
    let mut swept = Vec::new();
    while swept.last() != Some(&0) {
        swept.push(store.mend_order().await.unwrap());
        sound(store).await;
    }
    assert_eq!(swept, [4_000, 1_000, 0], "no sweep does it all");
    assert_eq!(store.backlog().await.unwrap().waiting, 0);
}
