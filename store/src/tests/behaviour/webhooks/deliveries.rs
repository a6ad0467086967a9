//! Holding, settling, and what is given back.

use super::*;
use crate::webhooks::DeliveryQuery;
use model::webhook::{DeliveryState, Reason};

pub(in crate::tests) async fn what_is_due_is_held_once_and_in_its_order(store: &Store) {
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&["e1", "e2"])).await;
    let held = hold(store, "e1", 2).await;
    assert_eq!(ids(&held), ["a", "b"]);
    assert!(held.iter().all(|held| held.attempt == 1 && held.accepted_at <= held.due_at));
    assert_eq!(held[0].webhook_id, event("acme", "a").webhook_id);
    assert_eq!(ids(&hold(store, "e1", 2).await), ["c"]);
    assert_eq!(hold(store, "e1", 2).await, []);
    store.beat("d2").await.unwrap();
    let two = vec![take("e2", 1), take("e1", 9), take("e3", 9), take("e2", 9)];
    let rest = store.hold(two, "d2", SPAN).await.unwrap();
    let mut rest = ids(&rest);
    rest.sort();
    rest.dedup();
    assert!(!rest.is_empty() && rest.len() <= 3, "{rest:?}");
    sound(store).await;
}

pub(in crate::tests) async fn lanes_are_read_on_behind_the_last_one(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1", "e2", "e3"])).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let lanes = store.due_lanes(after.as_ref(), 2).await.unwrap();
        let mut ids: Vec<_> = lanes.into_iter().map(|lane| lane.endpoint).collect();
        ids.sort();
        after = ids.last().cloned();
        seen.push(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["e1 e2", "e3", ""]);
}

pub(in crate::tests) async fn what_is_due_later_waits_and_low_water_is_kept(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1"])).await;
    let held = hold(store, "e1", 9).await;
    let soon = later(Duration::from_secs(600));
    settle(store, &held[..1], Next::Due(soon)).await;
    settle(store, &held[1..], Next::Due(now())).await;
    let lanes = store.due_lanes(None, 10).await.unwrap();
    assert_eq!(lanes.len(), 1);
    assert!(lanes[0].due_at < soon);
    assert_eq!(store.backlog().await.unwrap().oldest_due, Some(lanes[0].due_at));
    let low = Take { low_water: later(Duration::from_secs(1)), ..take("e1", 9) };
    store.beat("d1").await.unwrap();
    assert_eq!(store.hold(vec![low], "d1", SPAN).await.unwrap(), [], "it is below the mark");
    let again = hold(store, "e1", 9).await;
    assert_eq!(ids(&again), ["b"]);
    assert_eq!((again[0].attempt, again[0].fence > held[1].fence), (2, true));
    let lanes = store.due_lanes(None, 10).await.unwrap();
    assert_eq!((lanes.len(), lanes[0].due_at), (1, soon));
    // Given back untried, it counts as none.
    let untried = Settlement { attempt: None, ..settlement(&again[0], Next::Due(now())) };
    assert_eq!(store.settle(vec![untried]).await.unwrap().stale, [0; 0]);
    assert_eq!(hold(store, "e1", 9).await[0].attempt, 2);
    sound(store).await;
}

pub(in crate::tests) async fn every_attempt_is_in_the_ledger(store: &Store) {
    accept(store, "acme", &["a"]).await;
    fan_out(store, &to(&["e1"])).await;
    for next in [Next::Due(now()), Next::Due(now()), Next::Delivered] {
        settle(store, &hold(store, "e1", 1).await, next).await;
    }
    let (delivery, attempts) = store.delivery(1).await.unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.attempts, delivery.reason),
        (DeliveryState::Delivered, 3, None)
    );
    assert_eq!((delivery.r#type.as_str(), delivery.event_id.as_str()), ("contact.created", "a"));
    assert!(delivery.due_at.is_none() && delivery.settled_at.is_some());
    let told: Vec<_> = attempts.iter().map(|a| (a.attempt, a.outcome, a.status)).collect();
    let failed = |attempt| (attempt, Outcome::ServerError, Some(500));
    assert_eq!(told, [failed(1), failed(2), (3, Outcome::Delivered, Some(204))]);
    assert_eq!(attempts[0].excerpt.as_deref(), Some("told\u{fffd}so"));
    assert_eq!(store.delivery(2).await.unwrap(), None);
    sound(store).await;
}

pub(in crate::tests) async fn who_no_longer_holds_changes_nothing(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1"])).await;
    let first = hold(store, "e1", 9).await;
    settle(store, &first, Next::Due(now())).await;
    let second = hold(store, "e1", 9).await;
    for next in [
        Next::Delivered,
        Next::Due(now()),
        Next::Parked(Reason::Gone),
        Next::Dead { reason: Reason::Exhausted, blocks: false },
    ] {
        let late = settlement(&first[0], next);
        let mut unknown = settlement(&first[0], next);
        unknown.number = 99;
        let told = store.settle(vec![late, unknown]).await.unwrap();
        assert_eq!((told.stale, told.now_due), (vec![1, 99], vec![]), "{next:?}");
        let (delivery, attempts) = store.delivery(1).await.unwrap().unwrap();
        assert_eq!((delivery.state, attempts.len()), (DeliveryState::Held, 1), "{next:?}");
    }
    // Of a batch, the others are settled: each once.
    let twice = settlement(&second[1], Next::Delivered);
    let all = vec![settlement(&first[0], Next::Delivered), twice.clone(), twice];
    assert_eq!(store.settle(all).await.unwrap().stale, [1, 2]);
    settle(store, &second[..1], Next::Delivered).await;
    let again = settlement(&second[0], Next::Delivered);
    assert_eq!(store.settle(vec![again]).await.unwrap().stale, [1], "once");
    assert_eq!(store.backlog().await.unwrap().waiting, 0);
    sound(store).await;
}

pub(in crate::tests) async fn what_the_silent_hold_is_given_back(store: &Store) {
    const SILENT: Duration = Duration::from_secs(5);
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&["e1"])).await;
    let [a, b, c] = hold(store, "e1", 9).await.try_into().unwrap();
    assert_eq!(store.give_back_lost(SILENT).await.unwrap(), 0, "it lives");
    // Held for too long, though its holder lives.
    execute(store, "UPDATE webhook_deliveries SET hold_until = held_at - 1 WHERE number = 3").await;
    assert_eq!(store.give_back_lost(SILENT).await.unwrap(), 1);
    execute(store, "UPDATE webhook_dispatchers SET beat_at = beat_at - 6000000").await;
    let beat = store.beat("d2").await.unwrap();
    assert_eq!(beat.live, ["d2"], "the other one is silent");
    assert_eq!(store.give_back_lost(SILENT).await.unwrap(), 2);
    let told = store.settle(vec![settlement(&a, Next::Delivered)]).await.unwrap();
    assert_eq!(told.stale, [1], "it came back too late");
    let again = store.hold(vec![take("e1", 9)], "d2", SPAN).await.unwrap();
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|held| held.attempt == 2 && held.fence > b.fence.max(c.fence)));
    let (_, attempts) = store.delivery(1).await.unwrap().unwrap();
    let told: Vec<_> = attempts.iter().map(|a| (a.attempt, a.outcome, a.node.as_str())).collect();
    assert_eq!(told, [(1, Outcome::Lost, "d1")]);
    sound(store).await;
}

/// Several hold and settle at once, some of them too late.
pub(in crate::tests) async fn many_hold(store: Store) {
    const EVENTS: usize = 150;
    let ids: Vec<_> = (0..EVENTS).map(|count| count.to_string()).collect();
    let events = ids.iter().map(|id| event("acme", id)).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    fan_out(&store, &to(&["e1", "e2"])).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3 {
        let store = store.clone();
        tasks.spawn(async move {
            let holder = format!("d{task}");
            let (mut delivered, mut round) = (Vec::new(), 0);
            while store.backlog().await.unwrap().waiting > 0 {
                store.beat(&holder).await.unwrap();
                let takes = vec![take("e2", 9), take("e1", 9)];
                let held = store.hold(takes, &holder, SPAN).await.unwrap();
                round += 1;
                let next = if round % 3 == 0 { Next::Due(now()) } else { Next::Delivered };
                let all: Vec<_> = held.iter().map(|held| settlement(held, next)).collect();
                // Twice: the second one is late.
                let (one, two) = tokio::join!(store.settle(all.clone()), store.settle(all.clone()));
                assert_eq!(one.unwrap().stale.len() + two.unwrap().stale.len(), all.len());
                if next == Next::Delivered {
                    delivered.extend(held.iter().map(|held| held.number));
                }
            }
            delivered
        });
    }
    let mut delivered: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    delivered.sort_unstable();
    assert_eq!(delivered, (1..=2 * EVENTS as u64).collect::<Vec<_>>(), "each once");
    let query =
        DeliveryQuery { state: Some(DeliveryState::Delivered), limit: 2_000, ..Default::default() };
    assert_eq!(store.deliveries(&query).await.unwrap().len(), 2 * EVENTS);
    sound(&store).await;
}

pub(in crate::tests) async fn deliveries_are_found_by_what_they_say(store: &Store) {
    accept(store, "acme", &["a", "b", "c"]).await;
    accept(store, "globex", &["a"]).await;
    let of = |event: &StoredEvent| {
        let id = if event.tenant.as_str() == "acme" { ["e1", "e2"].as_slice() } else { &["e3"] };
        let planned = |id: &&str| Planned { endpoint: (*id).into(), order_key: None, parked: None };
        id.iter().map(planned).collect::<Vec<_>>()
    };
    store.fan_out(Arc::new(of), None, 10).await.unwrap();
    let dead = |reason| Next::Dead { reason, blocks: false };
    let held = hold(store, "e1", 2).await;
    settle(store, &held[..1], dead(Reason::Exhausted)).await;
    settle(store, &held[1..], Next::Parked(Reason::Gone)).await;
    settle(store, &hold(store, "e2", 1).await, dead(Reason::Discarded)).await;
    settle(store, &hold(store, "e3", 1).await, Next::Delivered).await;
    let any = DeliveryQuery { limit: 10, ..DeliveryQuery::default() };
    let state = |state| DeliveryQuery { state: Some(state), ..any.clone() };
    for (query, expected) in [
        (any.clone(), vec![7, 6, 5, 4, 3, 2, 1]),
        (DeliveryQuery { before: Some(6), limit: 2, ..any.clone() }, vec![5, 4]),
        (DeliveryQuery { tenant: Some("globex".into()), ..any.clone() }, vec![7]),
        (DeliveryQuery { endpoint: Some("e2".into()), ..any.clone() }, vec![6, 4, 2]),
        (state(DeliveryState::Dead), vec![2, 1]),
        (DeliveryQuery { without: Some(Reason::Discarded), ..state(DeliveryState::Dead) }, vec![1]),
        (state(DeliveryState::Parked), vec![3]),
        (state(DeliveryState::Delivered), vec![7]),
        (state(DeliveryState::Pending), vec![6, 5, 4]),
        (state(DeliveryState::Held), vec![]),
        (
            DeliveryQuery { webhook_id: Some(event("acme", "b").webhook_id), ..any.clone() },
            vec![4, 3],
        ),
        (DeliveryQuery { webhook_id: Some(event("acme", "x").webhook_id), ..any.clone() }, vec![]),
        (
            DeliveryQuery { r#type: Some("contact.created".into()), limit: 1, ..any.clone() },
            vec![7],
        ),
        (DeliveryQuery { r#type: Some("other".into()), ..any.clone() }, vec![]),
        (DeliveryQuery { since: Some(later(SPAN)), ..any.clone() }, vec![]),
        (DeliveryQuery { until: Some(later(SPAN)), limit: 1, ..any.clone() }, vec![7]),
    ] {
        let found = store.deliveries(&query).await.unwrap();
        let found: Vec<_> =
            found.iter().filter_map(|found| model::webhook::delivery_number(&found.id)).collect();
        assert_eq!(found, expected, "{query:?}");
    }
    assert_eq!(store.backlog().await.unwrap().dead, 1, "one was given up");
    sound(store).await;
}
