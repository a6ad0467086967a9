//! Dispatchers that end, fall silent, or come back.

use super::world::{World, eventually};
use jiff::Timestamp;
use model::id::EndpointId;
use model::webhook::{DeliveryState, Outcome, Take};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn what_a_silent_dispatcher_held_is_given_back_within_ten_seconds() {
    let world = World::with(&[("/ok", "")]).await;
    // One that fans out, holds what is due, and is never heard of again.
    let plan = |event: &model::webhook::StoredEvent| {
        let endpoint = EndpointId::from("e0");
        assert_eq!(event.tenant.as_str(), "acme");
        vec![model::webhook::Planned { endpoint, order_key: None, parked: None }]
    };
    let ids = world.accept(0, &[("a", "x"); 3]).await;
    world.store.beat("gone/1").await.unwrap();
    world.store.fan_out(std::sync::Arc::new(plan), 10).await.unwrap();
    let take = Take { endpoint: EndpointId::from("e0"), most: 10, low_water: Timestamp::MIN };
    let held = world.store.hold(vec![take], "gone/1", Duration::from_secs(90)).await.unwrap();
    assert_eq!(held.len(), 3);
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
