//! Tokens, against real token endpoints that count how often they are asked.

use super::*;
use crate::client::sink::{Reply, Sink, Told, body, client, local_client, status, target};
use crate::client::{Message, Sent, Target};
use model::id::TenantId;
use model::webhook::{Outcome, WebhookId};
use serde_json::json;

/// A token endpoint whose tokens are numbered.
async fn issuer(life: &'static str) -> Sink {
    Sink::new(move |number| {
        body(
            200,
            format!(r#"{{"access_token":"token-{number}-abcdef","token_type":"bearer"{life}}}"#),
        )
    })
    .await
}

fn oauth(client: &Client, receiver: &Sink, issuer: &Sink) -> Target {
    let grant = json!({
        "token_url": issuer.url(), "client_id": "a client", "client_secret": { "env": "s:ecret&1" },
        "scopes": ["hooks.write", "b"],
    });
    target(client, &receiver.url(), json!({ "authorization": { "oauth2": grant } }))
}

async fn send(client: &Client, target: &Target) -> Sent {
    let id = WebhookId::known("evt_1");
    let content = Bytes::from_static(b"{}");
    let message = Message { webhook_id: &id, attempt: 1, content: &content };
    client.send(target, &message, &|| true).await.unwrap()
}

#[tokio::test]
async fn a_token_is_asked_for_as_the_rfc_says_and_shown() {
    let (receiver, issuer) = (Sink::new(|_| status(204)).await, issuer("").await);
    let client = local_client();
    assert_eq!(
        send(&client, &oauth(&client, &receiver, &issuer)).await.outcome,
        Outcome::Delivered
    );
    let asked = &issuer.requests()[0];
    // RFC 6749 §2.3.1: `a+client:s%3Aecret%261`.
    for part in [
        "POST /hook HTTP/1.1\r\n",
        "authorization: Basic YStjbGllbnQ6cyUzQWVjcmV0JTI2MQ==\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        "\r\n\r\ngrant_type=client_credentials&scope=hooks.write+b",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    let shown = &receiver.requests()[0];
    assert!(shown.contains("authorization: Bearer token-0-abcdef\r\n"), "{shown}");
    assert!(shown.contains("webhook-signature: v1,"), "{shown}");
}

#[tokio::test]
async fn however_many_wait_a_token_is_asked_for_once() {
    let (receiver, issuer) = (Sink::new(|_| status(204)).await, issuer("").await);
    let client = Arc::new(local_client());
    let burst: Vec<_> = (0..50)
        .map(|_| {
            // Each revision makes a target of its own.
            let target = oauth(&client, &receiver, &issuer);
            let client = Arc::clone(&client);
            tokio::spawn(async move { (send(&client, &target).await.outcome, target) })
        })
        .collect();
    for sent in burst {
        assert_eq!(sent.await.unwrap().0, Outcome::Delivered);
    }
    assert_eq!((issuer.requests().len(), receiver.requests().len()), (1, 50));
}

#[tokio::test]
async fn a_token_is_kept_until_shortly_before_it_is_over() {
    for (life, kept) in [
        (r#","expires_in":3600"#, 3_570),
        (r#","expires_in":"3600""#, 3_570),
        (r#","expires_in":3600.7"#, 3_570),
        (r#","expires_in":40"#, 20),
        (r#","expires_in":1000000000"#, 24 * 3_600 - 30),
        (r#","expires_in":-1"#, 270),
        (r#","expires_in":"soon""#, 270),
        (r#","expires_in":null"#, 270),
        ("", 270),
    ] {
        let (receiver, issuer) = (Sink::new(|_| status(204)).await, issuer(life).await);
        let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        let client = client(&["127.0.0.0/8"], Told::new(&[&["127.0.0.1"]]), clock.clone());
        let target = oauth(&client, &receiver, &issuer);
        for (later, asked) in [(0, 1), (kept - 1, 1), (1, 2)] {
            clock.advance(Duration::from_secs(later));
            send(&client, &target).await;
            assert_eq!(issuer.requests().len(), asked, "{life} after {later}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let issuer = issuer("").await;
    let first = Sink::new(|number| status(if number == 0 { 401 } else { 204 })).await;
    let client = local_client();
    let target = oauth(&client, &first, &issuer);
    assert_eq!(send(&client, &target).await.outcome, Outcome::Delivered);
    assert!(first.requests()[1].contains("Bearer token-1-"));
    assert_eq!((first.requests().len(), issuer.requests().len()), (2, 2));
    // One that refuses every token is told so, with nothing of the token.
    let never = Sink::new(|number| body(401, format!("bad token-{}-abcdef", number + 1))).await;
    let sent = send(&client, &oauth(&client, &never, &issuer)).await;
    assert_eq!((sent.outcome, sent.status), (Outcome::ClientError, Some(401)));
    assert_eq!((never.requests().len(), issuer.requests().len()), (2, 3));
    assert!(!sent.excerpt.unwrap().contains("token-2"));
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    for (reply, told) in [
        (
            body(401, r#"{"error":"invalid_client","error_description":"s:ecret&1"}"#),
            "401 Unauthorized (invalid_client)",
        ),
        (body(400, r#"{"error":"s:ecret&1"}"#), "400 Bad Request"),
        (body(500, "s:ecret&1"), "500 Internal Server Error"),
        (Reply::Answer(302, "location: https://a.example/\r\n", String::new()), "302 Found"),
        (body(200, "s:ecret&1"), "is no JSON"),
        (body(200, r#"{"access_token":"s:ecret&1","token_type":"mac"}"#), "another type"),
        (body(200, r#"{"access_token":"a b","token_type":"Bearer"}"#), "fits into no header"),
        (body(200, r#"{"access_token":"","token_type":"Bearer"}"#), "fits into no header"),
        (
            body(
                200,
                format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "x".repeat(9_000)),
            ),
            "fits into no header",
        ),
        (
            body(
                200,
                format!(
                    r#"{{"access_token":"a","token_type":"Bearer","x":"{}"}}"#,
                    "x".repeat(70_000)
                ),
            ),
            "longer than",
        ),
        (Reply::Last(b""), "could not be asked"),
    ] {
        let issuer = Sink::new(move |_| reply.clone()).await;
        let receiver = Sink::new(|_| status(204)).await;
        let client = local_client();
        let target = oauth(&client, &receiver, &issuer);
        let sent = send(&client, &target).await;
        assert_eq!(sent.outcome, Outcome::Unready);
        let text = sent.excerpt.unwrap();
        assert!(text.contains(told) && !text.contains("s:ecret"), "{text}");
        // A failure is told for a while: the token endpoint is not asked by each of a thousand deliveries.
        send(&client, &target).await;
        assert_eq!((issuer.connections(), receiver.connections()), (1, 0));
    }
}

#[tokio::test]
async fn a_failure_is_not_kept_for_long() {
    let issuer = Sink::new(|number| match number {
        0 => status(503),
        _ => body(200, r#"{"access_token":"token-abcdef","token_type":"Bearer"}"#),
    });
    let (issuer, receiver) = (issuer.await, Sink::new(|_| status(204)).await);
    let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
    let client = client(&["127.0.0.0/8"], Told::new(&[&["127.0.0.1"]]), clock.clone());
    let target = oauth(&client, &receiver, &issuer);
    assert_eq!(send(&client, &target).await.outcome, Outcome::Unready);
    clock.advance(Duration::from_secs(5));
    assert_eq!(send(&client, &target).await.outcome, Outcome::Delivered);
}

/// Tenants write token endpoints as well.
#[tokio::test]
async fn a_token_endpoint_is_behind_the_guard() {
    let issuer = issuer("").await;
    let receiver = Sink::at("127.0.0.2:0", |_| status(204)).await;
    let client = client(&["127.0.0.2/32"], Told::new(&[&["127.0.0.1"]]), Clock::system());
    let sent = send(&client, &oauth(&client, &receiver, &issuer)).await;
    assert_eq!(sent.outcome, Outcome::Unready);
    assert!(sent.excerpt.unwrap().contains("127.0.0.1 is a loopback address"));
    assert_eq!((issuer.connections(), receiver.connections()), (0, 0));
}

/// Another secret is another source: what one tenant's credentials gave is not shown for another's.
#[tokio::test]
async fn tokens_are_of_their_credentials() {
    let issuer = issuer("").await;
    let tokens = Tokens::default();
    let place = || Place::parse(&issuer.url(), &TenantId::from("acme")).unwrap();
    let source = |client_id, secret, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let credentials = Credentials { place: place(), client_id, secret, scopes: &scopes };
        tokens.source(&credentials)
    };
    let first = source("a", "b", &["c"]);
    assert!(Arc::ptr_eq(&first, &source("a", "b", &["c"])));
    for other in [
        source("a", "x", &["c"]),
        source("x", "b", &["c"]),
        source("a", "b", &[]),
        source("a:b", "", &["c"]),
    ] {
        assert!(!Arc::ptr_eq(&first, &other));
    }
    drop(first);
    source("z", "z", &[]);
    assert_eq!(tokens.0.lock().unwrap().len(), 1);
}
