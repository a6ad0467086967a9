//! Connections are kept while they are good, and no longer.

use super::super::sink::{Reply, Sink, Told, client, local_client, status, target};
use super::super::{Client, Message, Target};
use super::*;
use crate::client::sink::body;
use model::Clock;
use model::webhook::{Outcome, WebhookId};
use serde_json::json;

async fn send(client: &Client, target: &Target) -> Outcome {
    let id = WebhookId::known("evt_1");
    let content = Bytes::from_static(b"{}");
    let message = Message { webhook_id: &id, attempt: 1, content: &content };
    client.send(target, &message, &|| true).await.unwrap().outcome
}

fn count(client: &Client) -> usize {
    let kept = lock(&client.pool.kept);
    assert_eq!(kept.count, kept.hosts.values().map(Vec::len).sum::<usize>());
    kept.count
}

/// Moves what is kept into the past.
fn age(client: &Client, idle: Duration, made: Duration) {
    for connection in lock(&client.pool.kept).hosts.values_mut().flatten() {
        connection.idle = connection.idle.checked_sub(idle).unwrap();
        connection.made = connection.made.checked_sub(made).unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_every_whole_answer() {
    for reply in [
        status(204),
        body(200, "x".repeat(60_000)),
        body(500, "no"),
        Reply::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let client = local_client();
        let target = target(&client, &sink.url(), json!({}));
        for _ in 0..5 {
            send(&client, &target).await;
        }
        assert_eq!((sink.connections(), sink.requests().len(), count(&client)), (1, 5, 1));
    }
}

#[tokio::test]
async fn a_connection_whose_answer_was_not_read_to_its_end_is_closed() {
    for (reply, outcome) in [
        (Reply::Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"), Outcome::TimedOut),
        (body(200, "x".repeat(200_000)), Outcome::Delivered),
        (Reply::Answer(200, "connection: close\r\n", "ok".to_owned()), Outcome::Delivered),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let client = local_client();
        let target = target(&client, &sink.url(), json!({ "timeout": "200ms" }));
        for _ in 0..2 {
            assert_eq!(send(&client, &target).await, outcome);
        }
        assert_eq!(sink.connections(), 2);
    }
}

/// The receiver closes it while it is idle.
#[tokio::test]
async fn a_kept_connection_that_was_closed_is_not_used() {
    let sink = Sink::new(|_| Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
    let client = local_client();
    let target = target(&client, &sink.url(), json!({}));
    for _ in 0..20 {
        assert_eq!(send(&client, &target).await, Outcome::Delivered);
    }
    assert_eq!(sink.requests().len(), 20);
}

/// The receiver closes it just when the next request is on its way: that one is sent again.
#[tokio::test]
async fn a_request_that_was_lost_on_a_kept_connection_is_sent_once_more() {
    let sink = Sink::new(|number| if number == 1 { Reply::Last(b"") } else { status(204) }).await;
    let client = local_client();
    let target = target(&client, &sink.url(), json!({}));
    for _ in 0..2 {
        assert_eq!(send(&client, &target).await, Outcome::Delivered);
    }
    assert_eq!((sink.connections(), sink.requests().len()), (2, 3));
    // Once: a receiver that takes no request is not asked for ever.
    let sink = Sink::new(|number| if number == 0 { status(204) } else { Reply::Last(b"") }).await;
    let target = super::super::sink::target(&client, &sink.url(), json!({}));
    assert_eq!(send(&client, &target).await, Outcome::Delivered);
    assert_eq!(send(&client, &target).await, Outcome::Unreachable);
    assert_eq!(sink.requests().len(), 3);
}

/// What stands behind an answer is not the answer to the next request: receivers of several tenants may share a host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_asked_for_is_nobodys() {
    for _ in 0..50 {
        let sink = Sink::new(|number| match number {
            0 => Reply::Raw(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
                  HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            ),
            _ => status(500),
        });
        let sink = sink.await;
        let client = local_client();
        let target = target(&client, &sink.url(), json!({}));
        assert_eq!(send(&client, &target).await, Outcome::Delivered);
        assert_eq!(send(&client, &target).await, Outcome::ServerError);
    }
}

/// What a receiver answered is not asked for again, even if it is nonsense.
#[tokio::test]
async fn an_answer_that_is_no_http_is_not_asked_for_again() {
    let sink =
        Sink::new(|number| if number == 0 { status(204) } else { Reply::Last(b"what?\r\n\r\n") });
    let sink = sink.await;
    let client = local_client();
    let target = target(&client, &sink.url(), json!({}));
    assert_eq!(send(&client, &target).await, Outcome::Delivered);
    assert_eq!(send(&client, &target).await, Outcome::ServerError);
    assert_eq!(sink.requests().len(), 2);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_or_is_old_is_not_used() {
    for (idle, made, connections) in [
        (Duration::ZERO, Duration::ZERO, 1),
        (IDLE_MAX, Duration::ZERO, 2),
        (Duration::ZERO, AGE_MAX, 2),
    ] {
        let sink = Sink::new(|_| status(204)).await;
        let client = local_client();
        let target = target(&client, &sink.url(), json!({}));
        send(&client, &target).await;
        age(&client, idle, made);
        send(&client, &target).await;
        assert_eq!((sink.connections(), count(&client)), (connections, 1));
    }
}

#[tokio::test]
async fn the_sweep_closes_what_nobody_asks_for() {
    let sink = Sink::new(|_| status(204)).await;
    let client = local_client();
    let target = target(&client, &sink.url(), json!({}));
    send(&client, &target).await;
    lock(&client.pool.kept).close_idle(Instant::now());
    assert_eq!(count(&client), 1);
    age(&client, IDLE_MAX, Duration::ZERO);
    lock(&client.pool.kept).close_idle(Instant::now());
    assert_eq!(count(&client), 0);
    assert!(lock(&client.pool.kept).hosts.is_empty());
}

#[tokio::test]
async fn so_many_are_kept_of_one_host_and_in_all() {
    let sink = Sink::new(|_| status(204)).await;
    let client = Arc::new(local_client());
    let target = target(&client, &sink.url(), json!({}));
    let burst: Vec<_> = (0..KEPT_PER_HOST + 20)
        .map(|_| {
            let (client, target) = (Arc::clone(&client), target.clone());
            tokio::spawn(async move { send(&client, &target).await })
        })
        .collect();
    for sent in burst {
        assert_eq!(sent.await.unwrap(), Outcome::Delivered);
    }
    assert!(count(&client) <= KEPT_PER_HOST);
    // As if other hosts had the rest.
    lock(&client.pool.kept).hosts.clear();
    lock(&client.pool.kept).count = KEPT_MAX;
    send(&client, &target).await;
    assert!(lock(&client.pool.kept).hosts.values().all(Vec::is_empty));
}

/// Two names of one address share nothing, and neither do its ports and schemes.
#[tokio::test]
async fn connections_are_kept_by_scheme_host_and_port() {
    let sink = Sink::new(|_| status(204)).await;
    let client = client(&["127.0.0.0/8"], Told::new(&[&["127.0.0.1"]]), Clock::system());
    let port = sink.address.port();
    for host in ["a.example", "b.example", "127.0.0.1"] {
        for path in ["", "x", "x?y"] {
            let target = target(&client, &format!("http://{host}:{port}/{path}"), json!({}));
            assert_eq!(send(&client, &target).await, Outcome::Delivered);
        }
    }
    assert_eq!((sink.connections(), count(&client)), (3, 3));
}

#[tokio::test]
async fn a_pool_that_is_gone_leaves_nothing_behind() {
    let sink = Sink::new(|_| status(204)).await;
    let client = local_client();
    send(&client, &target(&client, &sink.url(), json!({}))).await;
    let kept = Arc::downgrade(&client.pool.kept);
    drop(client);
    assert_eq!(kept.strong_count(), 0);
}
