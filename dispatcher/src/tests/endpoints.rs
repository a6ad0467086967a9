//! Endpoints that are retired, fail for too long, are disabled, enabled again, or removed.

use super::world::{World, eventually};
use model::Clock;
use model::event::ENDPOINT_DISABLED;
use model::id::{EndpointId, TenantId};
use model::webhook::{DeliveryState, Reason, Standing};
use std::time::Duration;

#[tokio::test]
async fn an_endpoint_that_says_410_is_disabled_at_once_and_told_of_once() {
    let world = World::with(&[("/status/410", "concurrency: 2"), ("/ok", "")]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 10]).await;
    world.until(DeliveryState::Parked, 10).await;
    let sent = world.sink.at("/status/410").len();
    assert!((1..=2).contains(&sent), "{sent}: only what was under way");
    for delivery in world.of("e0").await {
        assert_eq!(delivery.reason, Some(Reason::Gone));
    }
    eventually(|| async {
        let standings = world.store.standings().await.map_err(|error| error.to_string())?;
        let disabled = standings.first().and_then(|standing| standing.disabled.clone());
        if disabled.is_some_and(|disabled| disabled.reason == Reason::Gone) {
            Ok(())
        } else {
            Err("it is not disabled".to_owned())
        }
    })
    .await;
    world.accept(10, &[("a", "x"); 5]).await;
    world.until(DeliveryState::Parked, 15).await;
    assert_eq!(world.sink.at("/status/410").len(), sent, "nothing is sent any more");
    world.until(DeliveryState::Delivered, 15).await;
    let told = world.notices().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].r#type.as_str(), told[0].subject.as_str()),
        (ENDPOINT_DISABLED, "/v1/endpoints/e0")
    );
    running.close().await;
}

#[tokio::test]
async fn one_that_fails_for_too_long_is_disabled_when_a_delivery_comes_to_nothing() {
    let world =
        World::with(&[("/status/500", "disable_after: 2h, schedule: [100ms], concurrency: 1")])
            .await;
    let hours_ago = |hours: i64| Clock::system().now() - jiff::SignedDuration::from_hours(hours);
    let failing = Standing {
        endpoint: EndpointId::from("e0"),
        tenant: TenantId::from("acme"),
        failing_since: Some(hours_ago(3)),
        open_until: None,
        opened: 0,
        disabled: None,
        at: hours_ago(1),
    };
    world.store.keep_standings(vec![failing]).await.unwrap();
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Parked, 2).await;
    world.until(DeliveryState::Dead, 1).await;
    let mut told: Vec<_> = world.of("e0").await.iter().map(|it| (it.state, it.reason)).collect();
    told.sort_by_key(|(state, _)| state.as_str());
    let parked = (DeliveryState::Parked, Some(Reason::Disabled));
    assert_eq!(told, [(DeliveryState::Dead, Some(Reason::Exhausted)), parked, parked]);
    assert_eq!(world.notices().await.len(), 1);
    running.close().await;
}

#[tokio::test]
async fn enabling_takes_up_what_was_parked() {
    let world = World::with(&[("/switch", "")]).await;
    world.disable("e0").await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 5]).await;
    world.until(DeliveryState::Parked, 5).await;
    assert!(world.sink.arrivals().is_empty());
    world.enable("e0").await;
    world.until(DeliveryState::Delivered, 5).await;
    running.close().await;
}

#[tokio::test]
async fn what_is_due_at_one_that_the_document_disables_or_no_longer_has_is_parked() {
    let world = World::with(&[("/ok", ""), ("/status/500", "schedule: [3s, 3s]")]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Delivered, 3).await;
    world.serve(&[("/ok", "state: disabled")]);
    world.accept(3, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Parked, 6).await;
    for (endpoint, reason) in [("e0", Reason::Disabled), ("e1", Reason::Removed)] {
        let mut deliveries = world.of(endpoint).await;
        deliveries.retain(|delivery| delivery.state == DeliveryState::Parked);
        assert_eq!(deliveries.len(), 3, "{endpoint}");
        assert!(deliveries.iter().all(|delivery| delivery.reason == Some(reason)), "{endpoint}");
    }
    assert_eq!((world.sink.at("/ok").len(), world.sink.at("/status/500").len()), (3, 3));
    running.close().await;
}

#[tokio::test]
async fn an_endpoint_that_comes_with_a_revision_gets_the_next_event() {
    let world = World::with(&[("/ok/a", "")]).await;
    let running = world.dispatcher().await;
    for n in 0..5 {
        world.serve(&[("/ok/a", ""), ("/ok/b", "")]);
        world.accept(2 * n, &[("a", "x")]).await;
        world.until(DeliveryState::Delivered, 3 * n + 2).await;
        world.serve(&[("/ok/a", "")]);
        world.accept(2 * n + 1, &[("a", "x")]).await;
        world.until(DeliveryState::Delivered, 3 * n + 3).await;
    }
    assert_eq!((world.sink.at("/ok/a").len(), world.sink.at("/ok/b").len()), (10, 5));
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.close().await;
}

#[tokio::test]
async fn an_id_that_another_tenant_has_by_now_gives_it_nothing_of_the_first() {
    let world =
        World::with(&[("/status/500", "schedule: [2s, 2s], ordering: endpoint, on_failure: stop")])
            .await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"); 3]).await;
    eventually(|| async {
        match world.sink.arrivals().len() {
            0 => Err("nothing was tried".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    // Disabled in the store as well: that was another endpoint.
    let at = Clock::system().now();
    let standing = Standing {
        endpoint: EndpointId::from("e0"),
        tenant: TenantId::from("acme"),
        failing_since: None,
        open_until: Some(at + jiff::SignedDuration::from_hours(1)),
        opened: 1,
        disabled: None,
        at,
    };
    world.store.keep_standings(vec![standing]).await.unwrap();
    world.serve(&[("/ok", "tenant: globex, ordering: endpoint, on_failure: stop")]);
    let ids = world.accept_of("globex", 10, &[("a", "x"); 3]).await;
    world.until(DeliveryState::Delivered, 3).await;
    world.until(DeliveryState::Parked, 1).await;
    let came: Vec<_> = world.sink.at("/ok").into_iter().map(|arrival| arrival.id).collect();
    assert_eq!(came, ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut first = world.deliveries().await;
    first.retain(|delivery| delivery.tenant.as_str() == "acme");
    let parked: Vec<_> = first.iter().filter_map(|delivery| delivery.reason).collect();
    assert_eq!((first.len(), parked), (3, vec![Reason::Removed]));
    running.close().await;
}
