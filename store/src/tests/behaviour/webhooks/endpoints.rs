//! Endpoints that are disabled and enabled, and what operators do with single deliveries.

use super::*;
use crate::control::{Effect, Recover, WriteError};
use crate::tests::samples::{at, done, id, write};
use crate::webhooks::DeliveryQuery;
use model::event::Event;
use model::webhook::{DeliveryState, Disabled, Reason, Standing};
use serde_json::json;

fn standing(endpoint: &str, seconds: i64) -> Standing {
    Standing {
        endpoint: endpoint.into(),
        tenant: "acme".into(),
        failing_since: Some(at(seconds - 10)),
        open_until: Some(at(seconds + 10)),
        opened: 3,
        disabled: None,
        at: at(seconds),
    }
}

fn disabled(endpoint: &str, seconds: i64, reason: Reason) -> Standing {
    let disabled = Some(Disabled { reason, since: at(seconds) });
    Standing { disabled, ..standing(endpoint, seconds) }
}

fn told(number: u64) -> Event {
    Event {
        id: id(number),
        at: at(0),
        r#type: "tollgate.endpoint.disabled".to_owned(),
        tenant: Some("acme".into()),
        subject: "/v1/endpoints/e1".to_owned(),
        data: json!({}),
    }
}

async fn in_state(store: &Store, state: DeliveryState) -> Vec<(u64, Option<Reason>)> {
    let query = DeliveryQuery { state: Some(state), limit: 100, ..DeliveryQuery::default() };
    let found = store.deliveries(&query).await.unwrap();
    let number = |id: &str| model::webhook::delivery_number(id).unwrap();
    found.iter().rev().map(|found| (number(&found.id), found.reason)).collect()
}

fn enable(endpoint: &str, recover: Recover) -> crate::control::Write {
    enable_of("acme", endpoint, recover)
}

fn enable_of(tenant: &str, endpoint: &str, recover: Recover) -> crate::control::Write {
    let (endpoint, tenant) = (endpoint.into(), tenant.into());
    write(Effect::EnableEndpoint { endpoint, tenant, recover })
}

pub(in crate::tests) async fn what_is_known_later_of_an_endpoint_counts(store: &Store) {
    store.keep_standings(vec![standing("e2", 0), standing("e1", 5)]).await.unwrap();
    store.keep_standings(vec![]).await.unwrap();
    let older = Standing { opened: 9, ..standing("e1", 4) };
    let newer = Standing { opened: 9, failing_since: None, ..standing("e2", 1) };
    store.keep_standings(vec![older, newer.clone()]).await.unwrap();
    assert_eq!(store.standings().await.unwrap(), [standing("e1", 5), newer]);
    // Whether it is disabled is nothing that is kept so.
    assert!(store.disable_endpoint(disabled("e1", 6, Reason::Gone), told(1)).await.unwrap());
    store.keep_standings(vec![standing("e1", 7)]).await.unwrap();
    store.keep_standings(vec![disabled("e3", 7, Reason::Gone)]).await.unwrap();
    let standings = store.standings().await.unwrap();
    let since: Vec<_> =
        standings.iter().map(|s| (s.at, s.disabled.as_ref().map(|d| d.since))).collect();
    assert_eq!(since, [(at(7), Some(at(6))), (at(1), None), (at(7), None)]);
}

pub(in crate::tests) async fn a_disabled_endpoint_parks_what_is_due_and_tells_once(store: &Store) {
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&["e1", "e2"])).await;
    let held = hold(store, "e1", 1).await;
    assert!(store.disable_endpoint(disabled("e1", 0, Reason::Exhausted), told(1)).await.unwrap());
    assert!(!store.disable_endpoint(disabled("e1", 9, Reason::Gone), told(2)).await.unwrap());
    let outbox: Vec<_> = store.outbox(0, 9).await.unwrap().into_iter().map(|o| o.event).collect();
    assert_eq!(outbox, [told(1)], "once");
    assert_eq!(store.standings().await.unwrap(), [disabled("e1", 0, Reason::Exhausted)]);
    let parked = Some(Reason::Disabled);
    assert_eq!(in_state(store, DeliveryState::Parked).await, [(3, parked), (5, parked)]);
    // The one that was on its way comes to its end.
    settle(store, &held, Next::Parked(Reason::Gone)).await;
    sound(store).await;
    let written = done(store.write(enable("e1", Recover::Parked)).await);
    assert_eq!(written.rows, 3);
    let standings = store.standings().await.unwrap();
    assert_eq!((&standings[0].disabled, standings[0].opened), (&None, 0));
    assert_eq!(standings[0].failing_since.or(standings[0].open_until), None);
    assert!(standings[0].at > at(0), "what was known before is older");
    let held = hold(store, "e1", 9).await;
    assert_eq!(
        held.iter().map(|held| (held.number, held.attempt)).collect::<Vec<_>>(),
        [(1, 1), (3, 1), (5, 1)]
    );
    assert_eq!(done(store.write(enable("e1", Recover::Parked)).await).rows, 0);
    assert_eq!(done(store.write(enable("unknown", Recover::Parked)).await).rows, 0);
    sound(store).await;
}

pub(in crate::tests) async fn what_is_not_recovered_stays_parked_and_stops_nobody(store: &Store) {
    accept(store, "acme", &["a-1", "b-1", "a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    let (gone, left) = (Some(Reason::Gone), Some(Reason::Disabled));
    assert_eq!(in_state(store, DeliveryState::Parked).await, [(1, gone), (2, gone)]);
    assert_eq!(in_state(store, DeliveryState::Pending).await, [(3, None)], "it waits behind one");
    sound(store).await;
    assert_eq!(done(store.write(enable("e1", Recover::Nothing)).await).rows, 0);
    // With what waits behind it, whether a sweep was there or not.
    let parked = [(1, gone), (2, gone), (3, left)];
    assert_eq!(in_state(store, DeliveryState::Parked).await, parked);
    sound(store).await;
    accept(store, "acme", &["a-3"]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a-3"]);
    sound(store).await;
    // With recovery, in their order.
    accept(store, "acme", &["c-1", "c-2"]).await;
    let parked: Plan = Arc::new(|event: &StoredEvent| {
        let planned = by_key("e2")(event);
        planned.into_iter().map(|p| Planned { parked: Some(Reason::Removed), ..p }).collect()
    });
    fan_out(store, &parked).await;
    assert_eq!(done(store.write(enable("e2", Recover::Parked)).await).rows, 2);
    for expected in ["c-1", "c-2"] {
        let held = hold(store, "e2", 9).await;
        assert_eq!(ids(&held), [expected]);
        settle(store, &held, Next::Delivered).await;
    }
    sound(store).await;
}

/// Enables an endpoint, and is broken off after the first transaction.
async fn begun(store: &Store, recover: Recover) -> u64 {
    let first = store.db.write(0, move |connection| {
        Box::pin(async move {
            crate::control::whole(connection, |connection| {
                Box::pin(async move {
                    let (endpoint, tenant) = ("e1".into(), "acme".into());
                    crate::webhooks::enable(connection, &endpoint, &tenant, recover).await
                })
            })
            .await
        })
    });
    first.await.unwrap().unwrap()
}

/// More than one transaction takes, and broken off after the first.
pub(in crate::tests) async fn very_many_that_were_parked_are_taken_up(store: &Store) {
    const ALL: u64 = 2_500;
    let events = (0..ALL).map(|count| event("acme", &count.to_string())).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    fan_out(store, &to(&["e1"])).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    assert_eq!(store.backlog().await.unwrap(), Default::default());
    let first = begun(store, Recover::Parked).await;
    assert!(first > 0 && first < ALL, "{first}");
    sound(store).await;
    assert_eq!(store.mend_order().await.unwrap(), ALL - first, "the sweep goes on");
    assert_eq!(store.mend_order().await.unwrap(), 0);
    assert_eq!(store.backlog().await.unwrap().waiting, ALL);
    sound(store).await;
}

pub(in crate::tests) async fn single_deliveries_are_retried_and_given_up(store: &Store) {
    accept(store, "acme", &["a"]).await;
    fan_out(store, &to(&["e1"])).await;
    let dead = Next::Dead { reason: Reason::Exhausted, blocks: false };
    let retry = || write(Effect::RetryDelivery { number: 1 });
    let discard = || write(Effect::DiscardDelivery { number: 1 });
    for number in [2, 0, u64::MAX] {
        for effect in [Effect::RetryDelivery { number }, Effect::DiscardDelivery { number }] {
            let told = store.write(write(effect)).await;
            assert!(matches!(told, Err(WriteError::NotFound)), "{told:?}");
        }
    }
    for next in [dead, Next::Parked(Reason::Gone), Next::Due(later(SPAN))] {
        let held = hold(store, "e1", 9).await;
        for effect in [retry(), discard()] {
            let told = store.write(effect).await;
            assert!(matches!(told, Err(WriteError::Stale)), "it is held: {told:?}");
        }
        settle(store, &held, next).await;
        assert_eq!(hold(store, "e1", 9).await, [], "{next:?}");
        done(store.write(retry()).await);
        sound(store).await;
    }
    let (delivery, attempts) = store.delivery(1).await.unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.reason, attempts.len()),
        (DeliveryState::Pending, None, 3)
    );
    for before in [None, Some(Next::Parked(Reason::Gone)), Some(dead)] {
        if let Some(next) = before {
            done(store.write(retry()).await);
            settle(store, &hold(store, "e1", 9).await, next).await;
        }
        done(store.write(discard()).await);
        let told = store.write(discard()).await;
        assert!(matches!(told, Err(WriteError::Stale)), "once: {told:?}");
        assert_eq!(in_state(store, DeliveryState::Dead).await, [(1, Some(Reason::Discarded))]);
        sound(store).await;
    }
    done(store.write(retry()).await);
    settle(store, &hold(store, "e1", 9).await, Next::Delivered).await;
    for effect in [retry(), discard()] {
        let told = store.write(effect).await;
        assert!(matches!(told, Err(WriteError::Stale)), "it is delivered: {told:?}");
    }
    sound(store).await;
}

pub(in crate::tests) async fn a_ping_goes_to_one_endpoint(store: &Store) {
    accept(store, "acme", &["a"]).await;
    let ping = |id: &str| {
        let event = Box::new(NewEvent { r#type: "tollgate.ping".to_owned(), ..event("acme", id) });
        write(Effect::Ping { event, endpoint: "e9".into() })
    };
    let written = done(store.write(ping("p")).await);
    assert_eq!(written.delivery, Some(1));
    let told = store.write(ping("p")).await;
    assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
    let held = hold(store, "e9", 9).await;
    assert_eq!((ids(&held), held[0].event), (vec!["p".to_owned()], 2));
    assert_eq!(fan_out(store, &to(&["e1"])).await, 2, "the plan skips it, or not");
    sound(store).await;
}

/// An endpoint's id changes hands: nothing of the first tenant's goes to the second one, nor stops what does.
pub(in crate::tests) async fn what_was_another_tenants_stays_theirs(store: &Store) {
    let gone = Some(Reason::Gone);
    accept(store, "acme", &["a-1", "a-2", "b-1"]).await;
    fan_out(store, &by_key("e1")).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    assert_eq!(in_state(store, DeliveryState::Parked).await, [(1, gone), (3, gone)]);
    for recover in [Recover::Parked, Recover::Nothing] {
        assert_eq!(done(store.write(enable_of("globex", "e1", recover)).await).rows, 0);
        assert_eq!(in_state(store, DeliveryState::Parked).await, [(1, gone), (3, gone)]);
        assert_eq!(in_state(store, DeliveryState::Pending).await, [(2, None)], "still behind it");
        let [standing] = store.standings().await.unwrap().try_into().unwrap();
        assert_eq!((standing.tenant, standing.disabled), ("globex".into(), None));
    }
    accept(store, "globex", &["a-1", "a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    let held = hold(store, "e1", 9).await;
    assert_eq!(held.len(), 1, "one's own order is kept, and no other's");
    assert_eq!((ids(&held), &held[0].tenant), (vec!["a-1".to_owned()], &"globex".into()));
    settle(store, &held, Next::Parked(Reason::Gone)).await;
    // Parked with it is only what is its tenant's.
    accept(store, "acme", &["c-1"]).await;
    fan_out(store, &by_key("e1")).await;
    let of_globex = Standing { tenant: "globex".into(), ..disabled("e1", 0, Reason::Gone) };
    assert!(store.disable_endpoint(of_globex, told(2)).await.unwrap());
    assert_eq!(in_state(store, DeliveryState::Parked).await, [(1, gone), (3, gone), (4, gone)]);
    // Whose it is again takes up what is theirs.
    assert_eq!(done(store.write(enable("e1", Recover::Parked)).await).rows, 2);
    assert_eq!(in_state(store, DeliveryState::Parked).await, [(4, gone)]);
    sound(store).await;
}

pub(in crate::tests) async fn what_is_known_of_another_tenants_endpoint_says_nothing(
    store: &Store,
) {
    let of_globex = |standing: Standing| Standing { tenant: "globex".into(), ..standing };
    assert!(store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap());
    store.keep_standings(vec![of_globex(standing("e1", 1))]).await.unwrap();
    assert_eq!(store.standings().await.unwrap(), [of_globex(standing("e1", 1))]);
    assert!(store.disable_endpoint(disabled("e1", 2, Reason::Gone), told(2)).await.unwrap());
    let again = of_globex(disabled("e1", 3, Reason::Exhausted));
    assert!(store.disable_endpoint(again.clone(), told(3)).await.unwrap(), "and it is told");
    assert_eq!(store.standings().await.unwrap(), [again]);
}

pub(in crate::tests) async fn what_was_given_up_is_no_dead_letter(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1"])).await;
    let dead = Next::Dead { reason: Reason::Exhausted, blocks: false };
    settle(store, &hold(store, "e1", 9).await, dead).await;
    for left in [1, 0] {
        assert_eq!(store.backlog().await.unwrap().dead, left + 1);
        done(store.write(write(Effect::DiscardDelivery { number: left + 1 })).await);
        assert_eq!(store.backlog().await.unwrap().dead, left);
    }
    sound(store).await;
}

pub(in crate::tests) async fn what_waited_goes_in_its_turn_once_its_endpoint_is_enabled(
    store: &Store,
) {
    accept(store, "acme", &["a-1", "a-2", "b-1"]).await;
    fan_out(store, &by_key("e1")).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    assert_eq!(store.mend_order().await.unwrap(), 1);
    accept(store, "acme", &["a-3"]).await;
    fan_out(store, &by_key("e1")).await;
    let (gone, blocked) = (Some(Reason::Gone), Some(Reason::Blocked));
    let parked = [(1, gone), (2, blocked), (3, gone), (4, blocked)];
    assert_eq!(in_state(store, DeliveryState::Parked).await, parked);
    assert_eq!(store.backlog().await.unwrap().waiting, 0, "it shuts nobody's door");
    sound(store).await;
    assert_eq!(done(store.write(enable("e1", Recover::Parked)).await).rows, 2);
    assert_eq!(store.backlog().await.unwrap().waiting, 2);
    let mut sent = Vec::new();
    loop {
        let held = hold(store, "e1", 9).await;
        if held.is_empty() {
            break;
        }
        sent.extend(ids(&held));
        settle(store, &held, Next::Delivered).await;
        sound(store).await;
    }
    assert_eq!(sent, ["a-1", "b-1", "a-2", "a-3"]);
}

/// More of a key than one transaction takes.
pub(in crate::tests) async fn what_waited_is_left_with_the_rest_where_nothing_is_recovered(
    store: &Store,
) {
    const BEHIND: usize = 1_500;
    accept(store, "acme", &["a-1"]).await;
    fan_out(store, &by_key("e1")).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    let behind = (0..BEHIND).map(|count| event("acme", &format!("a-behind-{count}"))).collect();
    store.accept_events(vec![arriving(behind)]).await.unwrap();
    while store.fan_out(by_key("e1"), None, 2_000).await.unwrap().events > 0 {}
    done(store.write(enable("e1", Recover::Nothing)).await);
    assert_eq!(hold(store, "e1", 9).await, []);
    sound(store).await;
    accept(store, "acme", &["a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a-2"], "it goes on with what comes");
    // Whoever thinks better of it gets it all.
    assert_eq!(done(store.write(enable("e1", Recover::Parked)).await).rows, BEHIND as u64 + 1);
    assert_eq!(hold(store, "e1", 2_000).await.len(), BEHIND + 1);
    sound(store).await;
}

/// Nor what waits behind one that is on its way.
pub(in crate::tests) async fn what_waits_behind_a_dead_one_is_not_left_with_what_is_parked(
    store: &Store,
) {
    accept(store, "acme", &["a-1", "a-2", "b-1", "b-2", "c-1", "c-2"]).await;
    fan_out(store, &by_key("e1")).await;
    let held = hold(store, "e1", 9).await;
    settle(store, &held[..1], Next::Dead { reason: Reason::Exhausted, blocks: true }).await;
    settle(store, &held[1..2], Next::Parked(Reason::Gone)).await;
    assert_eq!(store.mend_order().await.unwrap(), 2);
    done(store.write(enable("e1", Recover::Nothing)).await);
    let parked = [(2, Some(Reason::Blocked)), (3, Some(Reason::Gone)), (4, Some(Reason::Disabled))];
    assert_eq!(in_state(store, DeliveryState::Parked).await, parked);
    assert_eq!(hold(store, "e1", 9).await, []);
    sound(store).await;
    done(store.write(write(Effect::DiscardDelivery { number: 1 })).await);
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a-2"]);
    settle(store, &held[2..], Next::Delivered).await;
    assert_eq!(ids(&hold(store, "e1", 9).await), ["c-2"]);
    sound(store).await;
}

/// Whoever began it is killed, and sweeps go on with it.
pub(in crate::tests) async fn nothing_is_sent_of_what_is_being_left(store: &Store) {
    const BEHIND: usize = 6_000;
    accept(store, "acme", &["a-1"]).await;
    fan_out(store, &by_key("e1")).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    let behind = (0..BEHIND).map(|count| event("acme", &format!("a-behind-{count}"))).collect();
    store.accept_events(vec![arriving(behind)]).await.unwrap();
    while store.fan_out(by_key("e1"), None, 2_000).await.unwrap().events > 0 {}
    begun(store, Recover::Nothing).await;
    accept(store, "acme", &["a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    let open = "SELECT count(*) FROM webhook_standings WHERE recovery IS NOT NULL";
    let mut sweeps = 0;
    while number(store, open).await > 0 {
        assert_eq!(hold(store, "e1", 9).await, [], "after {sweeps} sweeps");
        store.mend_order().await.unwrap();
        sound(store).await;
        sweeps += 1;
    }
    assert_eq!(sweeps, 2, "no sweep does it all");
    let held = hold(store, "e1", 9).await;
    assert_eq!(ids(&held), ["a-2"], "what came meanwhile");
    settle(store, &held, Next::Delivered).await;
    assert_eq!(store.mend_order().await.unwrap(), 0);
    assert_eq!(hold(store, "e1", 9).await, []);
    sound(store).await;
}

/// However late the one that held it comes to its end.
pub(in crate::tests) async fn what_was_held_before_its_endpoint_was_enabled_is_not_parked(
    store: &Store,
) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1"])).await;
    let before = hold(store, "e1", 1).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    done(store.write(enable("e1", Recover::Parked)).await);
    // It was an hour ago.
    for hour_ago in [
        "UPDATE webhook_deliveries SET held_at = held_at - 3600000000 WHERE state = 'held'",
        "UPDATE webhook_standings SET enabled_at = enabled_at - 3600000000",
    ] {
        execute(store, hour_ago).await;
    }
    let after = hold(store, "e1", 1).await;
    settle(store, &before, Next::Parked(Reason::Gone)).await;
    settle(store, &after, Next::Parked(Reason::Removed)).await;
    let removed = [(after[0].number, Some(Reason::Removed))];
    assert_eq!(in_state(store, DeliveryState::Parked).await, removed);
    sound(store).await;
}

pub(in crate::tests) async fn what_is_said_of_an_endpoint_before_it_was_enabled_parks_nothing(
    store: &Store,
) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&["e1"])).await;
    let held = hold(store, "e1", 9).await;
    store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1)).await.unwrap();
    settle(store, &held[..1], Next::Parked(Reason::Gone)).await;
    assert_eq!(done(store.write(enable("e1", Recover::Parked)).await).rows, 1);
    // A dispatcher that did not hear of it yet.
    settle(store, &held[1..], Next::Parked(Reason::Gone)).await;
    assert_eq!(in_state(store, DeliveryState::Parked).await, []);
    sound(store).await;
    let query = DeliveryQuery { limit: 9, ..DeliveryQuery::default() };
    let [last, _] = store.deliveries(&query).await.unwrap().try_into().unwrap();
    assert!(last.due_at.unwrap() <= later(Duration::from_secs(2)), "{last:?}");
    // Once it is disabled anew, that is what counts.
    store.disable_endpoint(disabled("e1", 1, Reason::Gone), told(2)).await.unwrap();
    assert_eq!(in_state(store, DeliveryState::Parked).await.len(), 2);
    sound(store).await;
}

/// While it is still being disabled.
pub(in crate::tests) async fn whoever_enables_an_endpoint_ends_its_parking(store: &Store) {
    const ALL: u64 = 20_000;
    let events = (0..ALL).map(|count| event("acme", &count.to_string())).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
    while store.fan_out(to(&["e1"]), None, 2_000).await.unwrap().events > 0 {}
    let disables = store.disable_endpoint(disabled("e1", 0, Reason::Gone), told(1));
    let enables = async {
        while store.standings().await.unwrap().is_empty() {}
        done(store.write(enable("e1", Recover::Parked)).await)
    };
    let (is_new, _) = tokio::join!(disables, enables);
    assert!(is_new.unwrap());
    assert_eq!(in_state(store, DeliveryState::Parked).await, []);
    sound(store).await;
}
