//! Real sockets that count who connects to them. "Public" is 127.0.0.2, which these guards are told to allow; "private" is
//! everything else of this machine.

use super::*;
use crate::client::sink::{Reply, Sink, Told, body, client, status, target};
use crate::client::{Client, Message, Sent};
use bytes::Bytes;
use model::Clock;
use model::id::TenantId;
use model::webhook::{Outcome, WebhookId};
use serde_json::json;
use std::sync::atomic::Ordering;

const PUBLIC: &str = "127.0.0.2/32";

fn strict(names: Arc<dyn Names>) -> Client {
    client(&[PUBLIC], names, Clock::system())
}

async fn send(client: &Client, url: &str) -> Sent {
    let id = WebhookId::known("evt_1");
    let content = Bytes::from_static(b"{}");
    let message = Message { webhook_id: &id, attempt: 1, content: &content };
    client.send(&target(client, url, json!({})), &message, &|| true).await.unwrap()
}

/// A private receiver and a public one, at the same port.
async fn pair(script: impl Fn(usize) -> Reply + Send + Sync + Clone + 'static) -> (Sink, Sink) {
    for _ in 0..20 {
        let private = Sink::new(script.clone()).await;
        let public = std::net::SocketAddr::new([127, 0, 0, 2].into(), private.address.port());
        if std::net::TcpListener::bind(public).is_ok() {
            return (private, Sink::at(&public.to_string(), script).await);
        }
    }
    panic!("there is no port that is free on both addresses");
}

/// The name is resolved once for each connection: no second look could tell another address.
#[tokio::test]
async fn a_name_that_turns_private_is_not_connected_to() {
    let closing = |_| Reply::Answer(204, "connection: close\r\n", String::new());
    let (private, public) = pair(closing).await;
    let names = Told::new(&[
        &["127.0.0.2"],
        &["127.0.0.1"],
        &["127.0.0.2"],
        &["127.0.0.2", "127.0.0.1"],
        &["127.0.0.1", "127.0.0.2"],
        &["127.0.0.2", "::1"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::127.0.0.1"],
        &["169.254.169.254"],
        &["0.0.0.0"],
    ]);
    let client = strict(Arc::clone(&names) as Arc<dyn Names>);
    let url = format!("http://rebind.example:{}/", private.address.port());
    let mut outcomes = Vec::new();
    for _ in 0..10 {
        outcomes.push(send(&client, &url).await.outcome);
    }
    use Outcome::{Delivered as Yes, Forbidden as No};
    assert_eq!(outcomes, [Yes, No, Yes, No, No, No, No, No, No, No]);
    assert_eq!(names.asked.load(Ordering::SeqCst), 10);
    assert_eq!((public.connections(), private.connections()), (2, 0));
}

/// A connection that is kept goes where it went, whatever its name says now.
#[tokio::test]
async fn a_kept_connection_does_not_follow_its_name() {
    let (private, public) = pair(|_| status(204)).await;
    let names = Told::new(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let client = strict(names);
    let url = format!("http://rebind.example:{}/", private.address.port());
    for _ in 0..3 {
        assert_eq!(send(&client, &url).await.outcome, Outcome::Delivered);
    }
    assert_eq!((public.connections(), private.connections()), (1, 0));
}

#[tokio::test]
async fn no_form_of_a_private_address_is_connected_to() {
    let v4 = Sink::new(|_| status(204)).await;
    let port = v4.address.port();
    let v6 = Sink::at(&format!("[::1]:{port}"), |_| status(204)).await;
    let client = strict(Told::new(&[&["127.0.0.1"]]));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.3",
        "127.0.0.1.",
        "１２７.0.0.1",
        "%31%32%37.0.0.1",
        "0.0.0.0",
        "0",
        "localhost",
        "a.localhost",
        "private.example",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[::ffff:0:127.0.0.1]",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "100.64.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        "[fd00::1]",
        "198.18.0.1",
        "192.0.2.1",
        "240.0.0.1",
        "[fd00:ec2::254]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let sent = send(&client, &url).await;
            assert_eq!(sent.outcome, Outcome::Forbidden, "{url}: {sent:?}");
            assert_eq!(sent.status, None, "{url}");
        }
    }
    // Public, but plain.
    assert_eq!(send(&client, "http://8.8.8.8/").await.outcome, Outcome::Forbidden);
    assert_eq!((v4.connections(), v6.connections()), (0, 0));
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    let private = Sink::new(|_| status(204)).await;
    for code in [301, 302, 303, 307, 308] {
        let location: &'static str =
            Box::leak(format!("location: {}\r\n", private.url()).into_boxed_str());
        let public =
            Sink::at("127.0.0.2:0", move |_| Reply::Answer(code, location, String::new())).await;
        let sent = send(&strict(Told::new(&[&["127.0.0.2"]])), &public.url()).await;
        assert_eq!((sent.outcome, sent.status), (Outcome::Redirected, Some(code)));
        assert!(sent.excerpt.unwrap().contains(&private.url()));
        assert_eq!(public.connections(), 1);
    }
    assert_eq!(private.connections(), 0);
}

/// What else could lead a client elsewhere.
#[tokio::test]
async fn nothing_that_an_answer_says_makes_another_connection() {
    let private = Sink::new(|_| status(204)).await;
    let head: &'static str = Box::leak(
        format!(
            "refresh: 0; url={url}\r\nalt-svc: h2=\"{address}\"\r\nlink: <{url}>; rel=preload\r\n\
             content-location: {url}\r\n",
            url = private.url(),
            address = private.address,
        )
        .into_boxed_str(),
    );
    let public = Sink::at("127.0.0.2:0", move |_| Reply::Answer(200, head, String::new())).await;
    let client = strict(Told::new(&[&["127.0.0.2"]]));
    for _ in 0..2 {
        assert_eq!(send(&client, &public.url()).await.outcome, Outcome::Delivered);
    }
    assert_eq!((public.connections(), private.connections()), (1, 0));
}

#[tokio::test]
async fn a_host_is_reached_by_the_address_that_answers() {
    let sink = Sink::new(|_| body(200, "ok")).await;
    // Nobody listens at 127.0.0.9.
    let names = Told::new(&[&["127.0.0.9", "127.0.0.1"]]);
    let client = client(&["127.0.0.0/8"], names, Clock::system());
    let url = format!("http://two.example:{}/", sink.address.port());
    assert_eq!(send(&client, &url).await.outcome, Outcome::Delivered);
    let nobody = format!("http://127.0.0.9:{}/", sink.address.port());
    assert_eq!(send(&client, &nobody).await.outcome, Outcome::Unreachable);
}

#[test]
fn addresses_of_both_families_are_tried_in_turns() {
    let order = |list: &[&str]| {
        let addresses: Vec<IpAddr> = list.iter().map(|text| text.parse().unwrap()).collect();
        in_turns(&addresses).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(order(&["::1", "::2", "1.1.1.1", "1.1.1.2"]), ["::1", "1.1.1.1", "::2", "1.1.1.2"]);
    assert_eq!(
        order(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"]),
        ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]
    );
    assert_eq!(order(&["::1"; 20]).len(), ADDRESSES_MAX);
    assert!(order(&[]).is_empty());
}

#[tokio::test]
async fn the_system_knows_its_own_names_and_says_which_it_does_not() {
    let names = SystemNames::default();
    let found = names.addresses("localhost", &TenantId::from("acme")).await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    // RFC 6761 §6.4: resolvers answer that there is none, or can't be asked at all.
    let error = names.addresses("no-such-name.invalid", &TenantId::from("acme")).await.unwrap_err();
    assert!(matches!(&error, NameError::Unknown(name, _) if name == "no-such-name.invalid"));
}
