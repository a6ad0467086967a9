//! Order: by key, by endpoint, and what becomes of those behind one that came to nothing.

use super::world::World;
use model::webhook::{Delivery, DeliveryState, Reason, WebhookId};
use std::time::Duration;

/// The ids that came to this path with success at last: in the order of their last arrivals.
fn came(world: &World, path: &str) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for arrival in world.sink.at(path) {
        ids.retain(|id| *id != arrival.id);
        ids.push(arrival.id);
    }
    ids
}

fn texts(ids: &[WebhookId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_ordered_endpoint_gets_each_event_after_all_earlier_ones_have_arrived() {
    let world =
        World::with(&[("/fail/1", "ordering: endpoint, on_failure: stop, schedule: [100ms]")])
            .await;
    let running = world.dispatcher().await;
    let ids = world.accept(0, &[("a", "x"); 10]).await;
    world.until(DeliveryState::Delivered, 10).await;
    let arrivals = world.sink.at("/fail/1");
    let expected: Vec<_> = texts(&ids).into_iter().flat_map(|id| [id.clone(), id]).collect();
    assert_eq!(arrivals.into_iter().map(|arrival| arrival.id).collect::<Vec<_>>(), expected);
    assert_eq!(world.sink.most_at_once("/fail/1"), 1);
    running.close().await;
}

#[tokio::test]
async fn order_by_key_holds_within_a_key_and_holds_up_no_other() {
    let world =
        World::with(&[("/fail/1", "ordering: key, on_failure: stop, schedule: [1s]")]).await;
    let running = world.dispatcher().await;
    let events: Vec<_> = (0..12).map(|n| ("a", ["ada", "grace", "alan"][n % 3])).collect();
    let ids = world.accept(0, &events).await;
    world.until(DeliveryState::Delivered, 12).await;
    let came = came(&world, "/fail/1");
    for key in 0..3 {
        let of_key: Vec<_> = ids.iter().skip(key).step_by(3).map(ToString::to_string).collect();
        let mut in_order = came.clone();
        in_order.retain(|id| of_key.contains(id));
        assert_eq!(in_order, of_key);
    }
    // The first of each key went at once, though the first of another failed.
    let firsts: Vec<_> =
        world.sink.arrivals().iter().take(3).map(|arrival| arrival.id.clone()).collect();
    let mut expected = texts(&ids[..3]);
    expected.sort();
    let mut firsts = firsts;
    firsts.sort();
    assert_eq!(firsts, expected);
    running.close().await;
}

/// State, reason, and whether it is due, of each delivery of an endpoint.
async fn states(world: &World, endpoint: &str) -> Vec<(DeliveryState, Option<Reason>, bool)> {
    let told = |delivery: Delivery| (delivery.state, delivery.reason, delivery.due_at.is_some());
    world.of(endpoint).await.into_iter().map(told).collect()
}

#[tokio::test]
async fn behind_a_dead_one_those_of_its_key_stop_or_go_on_as_the_endpoint_says() {
    let world = World::with(&[
        ("/status/500/stop", "ordering: key, on_failure: stop, schedule: [100ms]"),
        ("/status/500/skip", "ordering: key, on_failure: skip, schedule: [100ms]"),
    ])
    .await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "ada"), ("b", "ada"), ("c", "grace")]).await;
    world.until(DeliveryState::Dead, 5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (stop, skip) = (states(&world, "e0").await, states(&world, "e1").await);
    let dead = (DeliveryState::Dead, Some(Reason::Exhausted), false);
    assert_eq!(stop, [dead, (DeliveryState::Pending, None, false), dead]);
    assert_eq!(skip, [dead, dead, dead]);
    running.close().await;
}
