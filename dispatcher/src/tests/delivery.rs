//! One event, one endpoint: arrival, retries, and what ends them.

use super::world::{World, eventually};
use model::webhook::{DeliveryState, Outcome, Reason};
use std::collections::HashSet;
use std::net::TcpListener;
use std::time::Duration;

#[tokio::test]
async fn an_event_arrives_once_at_each_endpoint_that_wants_it() {
    let world = World::with(&[
        ("/ok/all", ""),
        ("/ok/contacts", "events: [\"contact.*\"]"),
        ("/ok/ada", "attributes: { subject: [\"ada*\", grace] }"),
        ("/ok/globex", "tenant: globex"),
    ])
    .await;
    let running = world.dispatcher().await;
    let events = [("contact.created", "ada/1"), ("contactless", "alan"), ("order.paid", "grace")];
    let ids = world.accept(0, &events).await;
    world.until(DeliveryState::Delivered, 6).await;
    for (path, expected) in [
        ("/ok/all", vec![0, 1, 2]),
        ("/ok/contacts", vec![0]),
        ("/ok/ada", vec![0, 2]),
        ("/ok/globex", vec![]),
    ] {
        let came: HashSet<_> =
            world.sink.at(path).iter().map(|arrival| arrival.id.clone()).collect();
        let expected: HashSet<_> =
            expected.into_iter().map(|n: usize| ids[n].to_string()).collect();
        assert_eq!(came, expected, "{path}");
    }
    assert_eq!(world.sink.arrivals().len(), 6, "none twice");
    let first = &world.sink.at("/ok/contacts")[0];
    assert!(first.attempt == 1 && first.signature.starts_with("v1,"), "{first:?}");
    assert!(first.body.starts_with(b"{\"specversion\""), "{first:?}");
    assert_eq!(running.metric("tollgate_webhook_attempts_total{outcome=\"delivered\"}"), 6.0);
    running.close().await;
}

#[tokio::test]
async fn a_delivery_that_fails_is_tried_again_on_schedule_under_the_same_id() {
    let world = World::with(&[("/fail/2", "schedule: [500ms, 1s]"), ("/ok", "")]).await;
    let running = world.dispatcher().await;
    let ids = world.accept(0, &[("contact.created", "ada")]).await;
    world.until(DeliveryState::Delivered, 2).await;
    let came = world.sink.at("/fail/2");
    assert!(came.iter().all(|arrival| arrival.id == ids[0].as_str()));
    assert_eq!(came.iter().map(|arrival| arrival.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    for (pair, planned) in came.windows(2).zip([500, 1_000]) {
        let waited = pair[1].at - pair[0].at;
        // Not before its time; how much later depends on the machine.
        assert!(waited >= Duration::from_millis(planned * 4 / 5), "{waited:?}");
        assert!(
            waited < Duration::from_millis(planned * 6 / 5) + Duration::from_secs(2),
            "{waited:?}"
        );
    }
    assert_eq!(world.sink.at("/ok").len(), 1, "a repeat is no repeat of what succeeded");
    let attempts = world.attempts(&world.of("e0").await[0]).await;
    let told: Vec<_> = attempts.iter().map(|attempt| (attempt.outcome, attempt.status)).collect();
    let failed = (Outcome::ServerError, Some(500));
    assert_eq!(told, [failed, failed, (Outcome::Delivered, Some(204))]);
    assert_eq!(attempts[0].excerpt.as_deref(), Some("not yet"));
    running.close().await;
}

#[tokio::test]
async fn what_fails_for_good_is_a_dead_letter_with_a_reason() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}/");
    let world = World::with(&[
        ("/status/500", "schedule: [100ms, 100ms]"),
        ("/status/422", "schedule: [100ms, 100ms, 100ms, 100ms]"),
        ("/status/404", "schedule: [100ms]"),
        ("/status/302", "schedule: [100ms]"),
        (nobody.as_str(), "schedule: [100ms]"),
        ("http://10.1.2.3/", "schedule: [100ms]"),
    ])
    .await;
    let running = world.dispatcher().await;
    world.accept(0, &[("contact.created", "ada")]).await;
    world.until(DeliveryState::Dead, 6).await;
    for (endpoint, reason, attempts, outcome) in [
        ("e0", Reason::Exhausted, 3, Outcome::ServerError),
        ("e1", Reason::Refused, 3, Outcome::ClientError),
        ("e2", Reason::Exhausted, 2, Outcome::ClientError),
        ("e3", Reason::Exhausted, 2, Outcome::Redirected),
        ("e4", Reason::Exhausted, 2, Outcome::Unreachable),
        ("e5", Reason::Exhausted, 2, Outcome::Forbidden),
    ] {
        let dead = &world.of(endpoint).await[0];
        assert_eq!((dead.reason, dead.attempts), (Some(reason), attempts), "{endpoint}");
        let made = world.attempts(dead).await;
        assert!(made.iter().all(|attempt| attempt.outcome == outcome), "{endpoint}: {made:?}");
    }
    eventually(|| async {
        let dead = running.metric("tollgate_webhook_dead_letters");
        if dead == 6.0 { Ok(()) } else { Err(format!("{dead} dead letters")) }
    })
    .await;
    running.close().await;
}

#[tokio::test]
async fn retry_after_is_waited_for_and_leaves_the_whole_endpoint_alone() {
    let world = World::with(&[("/later/2", "schedule: [100ms], concurrency: 1")]).await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x"), ("b", "x")]).await;
    world.until(DeliveryState::Dead, 2).await;
    let came = world.sink.at("/later/2");
    assert_eq!(came.len(), 4);
    for pair in came.windows(2) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= Duration::from_millis(1_950), "{waited:?}");
    }
    running.close().await;
}

#[tokio::test]
async fn an_endpoint_whose_secret_is_missing_waits_as_for_any_other_fault() {
    let world = World::with(&[]).await;
    world.serve(&[("/ok", "schedule: [100ms, 10s]")]);
    let running = world.dispatcher().await;
    let secret = world.secret_file();
    std::fs::rename(&secret, secret.with_extension("away")).unwrap();
    world.serve(&[("/ok", "schedule: [100ms, 5s]")]);
    eventually(|| async {
        let book = running.dispatcher.books.fresh().await.ok_or("no book")?;
        if book.revision == 3 { Ok(()) } else { Err(format!("revision {}", book.revision)) }
    })
    .await;
    world.accept(0, &[("a", "x")]).await;
    eventually(|| async {
        let deliveries = world.deliveries().await;
        match deliveries.first().map(|delivery| delivery.attempts) {
            Some(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    std::fs::rename(secret.with_extension("away"), &secret).unwrap();
    // Files are read anew by themselves; a revision has them read at once.
    world.serve(&[("/ok", "schedule: [100ms, 5s]")]);
    world.until(DeliveryState::Delivered, 1).await;
    let attempts = world.attempts(&world.deliveries().await[0]).await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unready, Outcome::Unready, Outcome::Delivered]);
    assert!(!format!("{attempts:?}").contains("whsec_"));
    running.close().await;
}

#[tokio::test]
async fn without_a_document_events_wait() {
    let world = World::new().await;
    let running = world.dispatcher().await;
    world.accept(0, &[("a", "x")]).await;
    assert!(running.dispatcher.is_ready().is_err());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(world.deliveries().await.is_empty());
    world.serve(&[("/ok", "")]);
    world.until(DeliveryState::Delivered, 1).await;
    assert_eq!(running.dispatcher.is_ready(), Ok(()));
    running.close().await;
}
