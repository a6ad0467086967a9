//! Concurrency, rate, retry budget, breaker, and neighbours that don't answer.

use super::world::{World, eventually};
use model::webhook::{DeliveryState, Outcome};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn no_more_attempts_are_under_way_than_the_endpoint_allows() {
    let world =
        World::with(&[("/wait/20/a", "concurrency: 3"), ("/wait/20/b", "concurrency: 1")]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 40]).await;
    world.until(DeliveryState::Delivered, 80).await;
    assert_eq!(world.sink.most_at_once("/wait/20/a"), 3);
    assert_eq!(world.sink.most_at_once("/wait/20/b"), 1);
    running.close().await;
}

#[tokio::test]
async fn two_dispatchers_share_what_an_endpoint_allows() {
    let world = World::with(&[("/wait/20", "concurrency: 4")]).await;
    let (one, other) = (world.dispatcher().await, world.dispatcher().await);
    eventually(|| async {
        let seen = [&one, &other].map(|running| running.metric("tollgate_webhook_dispatchers"));
        if seen == [2.0, 2.0] { Ok(()) } else { Err(format!("{seen:?} dispatchers")) }
    })
    .await;
    world.accept(0, &[("a", "x"); 100]).await;
    world.until(DeliveryState::Delivered, 100).await;
    assert!(world.sink.most_at_once("/wait/20") <= 4);
    assert_eq!(world.sink.arrivals().len(), 100, "none twice");
    let sent = [&one, &other]
        .map(|running| running.metric("tollgate_webhook_settled_total{state=\"delivered\"}"));
    assert!(sent[0] > 0.0 && sent[1] > 0.0, "{sent:?}");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn the_rate_holds_in_every_interval() {
    let world = World::with(&[("/ok", "rate: 20/s, concurrency: 50")]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 50]).await;
    world.until(DeliveryState::Delivered, 50).await;
    let came: Vec<_> = world.sink.arrivals().iter().map(|arrival| arrival.at).collect();
    for (n, from) in came.iter().enumerate() {
        for (m, to) in came.iter().enumerate().skip(n) {
            // A burst is a tenth of a second's; what is on its way may come together.
            let allowed = 2.0 + 20.0 * (*to - *from + Duration::from_millis(50)).as_secs_f64();
            assert!((m - n + 1) as f64 <= allowed + 1.0, "{} within {:?}", m - n + 1, *to - *from);
        }
    }
    let deliveries = world.deliveries().await;
    assert!(deliveries.iter().all(|delivery| delivery.attempts == 1), "waiting burns no attempt");
    running.close().await;
}

#[tokio::test]
async fn an_open_breaker_parks_what_is_due_and_burns_no_attempt() {
    let breaker = "breaker: { failure_rate: 0.5, window: 10s, min_attempts: 5, open_for: 2s }";
    let more = format!("{breaker}, concurrency: 1, schedule: [100ms, 100ms, 100ms, 100ms, 100ms]");
    let world = World::with(&[("/switch", more.as_str())]).await;
    world.sink.switch(false);
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 20]).await;
    eventually(|| async {
        let open = running.metric("tollgate_webhook_endpoints{state=\"open\"}");
        if open == 1.0 { Ok(()) } else { Err("it is closed".to_owned()) }
    })
    .await;
    let opened = Instant::now();
    let sent = world.sink.arrivals().len();
    assert_eq!(sent, 5);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.sink.arrivals().len(), sent, "nothing is sent while it is open");
    let standings = world.store.standings().await.unwrap();
    assert!(standings[0].open_until.is_some() && standings[0].opened == 1, "{standings:?}");
    world.sink.switch(true);
    world.until(DeliveryState::Delivered, 20).await;
    let probe = &world.sink.arrivals()[sent];
    assert!(probe.at.duration_since(opened) > Duration::from_millis(1_500));
    let attempts: u32 = world.deliveries().await.iter().map(|delivery| delivery.attempts).sum();
    assert_eq!(attempts, 25, "five failed, and everything was sent once more at most");
    running.close().await;
}

#[tokio::test]
async fn retries_that_fail_stay_within_their_budget_and_burn_no_attempt_while_they_wait() {
    let world = World::with(&[(
        "/status/503",
        "retry_budget: 0, schedule: [100ms, 100ms, 100ms], concurrency: 20",
    )])
    .await;
    let running = world.dispatcher().await;
    let began = Instant::now();
    world.accept(0, &[("a", "x"); 60]).await;
    eventually(|| async {
        let sent = world.sink.arrivals().len();
        if sent >= 80 { Ok(()) } else { Err(format!("{sent} were sent")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let retries = world.sink.arrivals().len() - 60;
    // Twenty at once, then one a second.
    let most = 20.0 + began.elapsed().as_secs_f64();
    assert!(retries as f64 <= most + 1.0, "{retries} of {most}");
    assert!(running.metric("tollgate_webhook_retries_postponed_total") > 0.0);
    let made: u32 = world.deliveries().await.iter().map(|delivery| delivery.attempts).sum();
    assert!(made as usize <= world.sink.arrivals().len());
    running.close().await;
}

#[tokio::test]
async fn endpoints_that_hang_or_drip_hold_up_neither_their_tenants_others_nor_other_tenants() {
    let world = World::new().await;
    let dripping = world.sink.dripping.clone();
    world.serve(&[
        ("/hang", "timeout: 5s, concurrency: 4"),
        (&dripping, "timeout: 1s, schedule: [10s], concurrency: 4"),
        ("/ok/acme", ""),
        ("/ok/globex", "tenant: globex"),
    ]);
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 100]).await;
    // Let the slow ones take their slots.
    eventually(|| async {
        let held = world.sink.at("/hang").len();
        if held >= 4 { Ok(()) } else { Err(format!("{held} hang")) }
    })
    .await;
    let began = Instant::now();
    world.accept_of("globex", 0, &[("a", "x"); 50]).await;
    world.accept(100, &[("a", "x"); 50]).await;
    eventually(|| async {
        let came = (world.sink.at("/ok/acme").len(), world.sink.at("/ok/globex").len());
        if came == (150, 50) { Ok(()) } else { Err(format!("{came:?}")) }
    })
    .await;
    // Far less than any of the timeouts in the way would take.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(world.sink.most_at_once("/hang") <= 4);
    eventually(|| async {
        for delivery in world.of("e1").await {
            let attempts = world.attempts(&delivery).await;
            if attempts.iter().any(|attempt| attempt.outcome == Outcome::TimedOut) {
                return Ok(());
            }
        }
        Err("a body that drips is cut off at the timeout".to_owned())
    })
    .await;
    running.dispatcher.close(Duration::from_secs(4)).await;
}
