//! Dispatchers that end, fall silent, come back, or stand still in part.

use super::world::{World, eventually};
use crate::presence::SILENT;
use jiff::Timestamp;
use model::id::EndpointId;
use model::webhook::{DeliveryState, Outcome, Planned, StoredEvent, Take, WebhookId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Three events that a dispatcher fans out and holds, which is never heard of again.
async fn held_by(world: &World, holder: &str) -> Vec<WebhookId> {
    let plan = |event: &StoredEvent| {
        let endpoint = EndpointId::from("e0");
        assert_eq!(event.tenant.as_str(), "acme");
        vec![Planned { endpoint, order_key: None, parked: None }]
    };
    let ids = world.accept(0, &[("a", "x"); 3]).await;
    world.store.beat(holder).await.unwrap();
    world.store.fan_out(Arc::new(plan), None, 10).await.unwrap();
    let take = Take { endpoint: EndpointId::from("e0"), most: 10, low_water: Timestamp::MIN };
    let held = world.store.hold(vec![take], holder, Duration::from_secs(90)).await.unwrap();
    assert_eq!(held.len(), 3);
    ids
}

#[tokio::test]
async fn what_a_silent_dispatcher_held_is_given_back_within_ten_seconds() {
    let world = World::with(&[("/ok", "")]).await;
    let ids = held_by(&world, "gone/1").await;
    let began = Instant::now();
    let running = world.dispatcher().await;
    world.until(DeliveryState::Delivered, 3).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(running.metric("tollgate_webhook_given_back_total"), 3.0);
    for delivery in world.deliveries().await {
        let outcomes: Vec<_> =
            world.attempts(&delivery).await.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [Outcome::Lost, Outcome::Delivered]);
    }
    let mut came: Vec<_> = world.sink.arrivals().into_iter().map(|arrival| arrival.id).collect();
    came.sort();
    let mut ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.sort();
    assert_eq!(came, ids);
    running.close().await;
}

#[tokio::test]
async fn what_a_dispatcher_was_reading_is_read_on_at_once_when_it_ends() {
    let world = World::with(&[("/ok", "")]).await;
    let running = world.dispatcher().await;
    let span = Duration::from_secs(60);
    let holder = running.dispatcher.holder().to_owned();
    for (name, holder) in [("poll/crm", holder.as_str()), ("poll/erp", "other/1")] {
        world.store.hold_reader(name, holder, span).await.unwrap().unwrap();
    }
    running.close().await;
    for (name, is_free) in [("poll/crm", true), ("poll/erp", false)] {
        let held = world.store.hold_reader(name, "third/1", span).await.unwrap();
        assert_eq!(held.is_some(), is_free, "{name}");
    }
}

#[tokio::test]
async fn after_an_outage_of_the_store_everybody_beats_before_anybody_is_taken_for_silent() {
    let world = World::with(&[("/ok", "")]).await;
    held_by(&world, "other/1").await;
    // Nobody is heard for longer than the silence. Then the other one is heard later than this one.
    tokio::time::sleep(SILENT + Duration::from_millis(500)).await;
    let running = world.dispatcher().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..6 {
        world.store.beat("other/1").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(running.metric("tollgate_webhook_given_back_total"), 0.0);
    assert!(world.deliveries().await.iter().all(|known| known.state == DeliveryState::Held));
    running.close().await;
}

#[tokio::test]
async fn a_task_that_panics_is_told_and_started_again() {
    let world = World::with(&[("/ok", "")]).await;
    let running = world.dispatcher().await;
    let ready = |expected: fn(Result<(), String>) -> bool| {
        let dispatcher = running.dispatcher.clone();
        eventually(move || {
            let ready = dispatcher.is_ready();
            async move { if expected(ready.clone()) { Ok(()) } else { Err(format!("{ready:?}")) } }
        })
    };
    ready(|ready| ready.is_ok()).await;
    world.panics(true);
    ready(|ready| ready.is_err_and(|why| why.contains("compile, fan_out"))).await;
    world.panics(false);
    world.accept(0, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Delivered, 3).await;
    ready(|ready| ready.is_ok()).await;
    running.close().await;
}

#[tokio::test]
async fn what_waits_for_fan_out_counts_in_the_age_of_the_queue_and_in_its_lag() {
    // Without a document nothing is fanned out.
    let world = World::new().await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    let ages = || {
        ["tollgate_webhook_queue_age_seconds", "tollgate_webhook_fan_out_lag_seconds"]
            .map(|age| running.metric(age))
    };
    eventually(|| async {
        let ages = ages();
        if ages.iter().all(|age| *age >= 1.0) { Ok(()) } else { Err(format!("{ages:?} s")) }
    })
    .await;
    world.serve(&[("/ok", "")]);
    world.until(DeliveryState::Delivered, 3).await;
    eventually(|| async {
        let ages = ages();
        if ages == [0.0, 0.0] { Ok(()) } else { Err(format!("{ages:?} s")) }
    })
    .await;
    assert_eq!(running.metric("tollgate_webhook_tenants_aside"), 0.0);
    running.close().await;
}

#[tokio::test]
async fn one_that_stops_lets_attempts_end_and_settles_them() {
    let world =
        World::with(&[("/wait/700", "concurrency: 10"), ("/hang", "concurrency: 2, timeout: 60s")])
            .await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 20]).await;
    eventually(|| async {
        let under_way = (world.sink.at("/wait/700").len(), world.sink.at("/hang").len());
        if under_way == (10, 2) { Ok(()) } else { Err(format!("{under_way:?}")) }
    })
    .await;
    running.close().await;
    let of = |state| {
        let world = &world;
        async move { world.deliveries().await.iter().filter(|delivery| delivery.state == state).count() }
    };
    assert_eq!(of(DeliveryState::Delivered).await, 10, "what was under way ended");
    assert_eq!(of(DeliveryState::Held).await, 0, "nothing is left held");
    let lost = world.of("e1").await;
    let cut: Vec<_> = lost.iter().filter(|delivery| delivery.attempts == 1).collect();
    assert_eq!(cut.len(), 2);
    assert_eq!(world.attempts(cut[0]).await[0].outcome, Outcome::Lost);
    // The next one takes up the rest at once.
    let next = world.dispatcher().await;
    eventually(|| async {
        let delivered = of(DeliveryState::Delivered).await;
        if delivered == 20 { Ok(()) } else { Err(format!("{delivered} are delivered")) }
    })
    .await;
    next.dispatcher.close(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_breaker_outlives_its_dispatcher() {
    let breaker = "breaker: { failure_rate: 0.5, window: 10s, min_attempts: 2, open_for: 1h }";
    let more = format!("{breaker}, concurrency: 1, schedule: [100ms, 100ms]");
    let world = World::with(&[("/status/500", more.as_str())]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 5]).await;
    eventually(|| async {
        let sent = world.sink.arrivals().len();
        if sent == 2 { Ok(()) } else { Err(format!("{sent} were sent")) }
    })
    .await;
    running.close().await;
    let next = world.dispatcher().await;
    eventually(|| async {
        let open = next.metric("tollgate_webhook_endpoints{state=\"open\"}");
        if open == 1.0 { Ok(()) } else { Err("it is closed".to_owned()) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.sink.arrivals().len(), 2);
    next.close().await;
}

#[tokio::test]
async fn two_hundred_that_a_killed_dispatcher_had_in_hand_are_sent_within_ten_seconds() {
    let world = World::with(&[("/ok", "concurrency: 200, retry_budget: 0")]).await;
    let plan = |_: &StoredEvent| {
        let endpoint = EndpointId::from("e0");
        vec![Planned { endpoint, order_key: None, parked: None }]
    };
    world.accept(0, &[("a", "x"); 200]).await;
    world.store.fan_out(Arc::new(plan), None, 256).await.unwrap();
    let take = || Take { endpoint: EndpointId::from("e0"), most: 200, low_water: Timestamp::MIN };
    // Killed again and again: what is lost is never held up.
    for killed in ["gone/1", "gone/2"] {
        world.store.beat(killed).await.unwrap();
        let held = world.store.hold(vec![take()], killed, Duration::from_secs(90)).await.unwrap();
        assert_eq!(held.len(), 200);
        assert_eq!(
            held.iter().filter(|held| held.is_lost).count(),
            if killed == "gone/1" { 0 } else { 200 }
        );
        if killed == "gone/1" {
            world.store.give_back_lost(Duration::ZERO).await.unwrap();
        }
    }
    let began = Instant::now();
    let running = world.dispatcher().await;
    world.until(DeliveryState::Delivered, 200).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(running.metric("tollgate_webhook_retries_postponed_total"), 0.0);
    running.close().await;
}

#[tokio::test]
async fn a_dispatcher_with_an_older_document_leaves_events_to_those_with_the_newest() {
    let world = World::with(&[("/ok/old", "")]).await;
    world.published(2).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(world.deliveries().await.is_empty(), "they would miss what is new");
    assert_eq!(running.dispatcher.is_ready(), Ok(()), "a newer one may be on its way");
    world.serve(&[("/ok/old", ""), ("/ok/new", "")]);
    world.until(DeliveryState::Delivered, 6).await;
    assert_eq!(world.sink.at("/ok/new").len(), 3);
    running.close().await;
}

/// Events are of all nodes. One that started with a document of its own knows the others' from the store.
#[tokio::test]
async fn a_document_that_is_on_some_nodes_only_says_nothing_of_webhooks() {
    let world = World::with(&[("/ok/all", "")]).await;
    world.keep(None).await;
    world.serve(&[("/ok/all", ""), ("/ok/staged", "")]);
    world.keep(Some(vec!["test".into()])).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Delivered, 3).await;
    assert_eq!(world.deliveries().await.len(), 3, "to everybody's endpoint alone");
    assert_eq!(running.dispatcher.is_ready(), Ok(()));
    world.release().await;
    eventually(|| async {
        let book = running.dispatcher.fresh_book().await.ok_or("there is none")?;
        if book.revision == 2 { Ok(()) } else { Err(format!("{} is in force", book.revision)) }
    })
    .await;
    world.accept(3, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Delivered, 9).await;
    assert_eq!(world.sink.at("/ok/staged").len(), 3);
    running.close().await;
}
