//! Attempts against real sockets: whatever a receiver does, an attempt ends, is told apart, and holds nobody else up.

use super::sink::{Reply, SECRET, Sink, Told, body, client, local_client, reveal, status, target};
use super::*;
use model::document::Poll;
use model::id::TenantId;
use model::webhook::WebhookId;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt as _;

const EVENT: &[u8] = br#"{"specversion":"1.0","id":"1","source":"/crm","type":"contact.created","subject":"7","tenant":"acme","datacontenttype":"application/json","data":{"name":"Ann","big":12345678901234567890}}"#;

async fn send(client: &Client, target: &Target, attempt: u32) -> Sent {
    let id = WebhookId::known("evt_1");
    let content = Bytes::from_static(EVENT);
    let message = Message { webhook_id: &id, attempt, content: &content };
    client.send(target, &message, &|| true).await.unwrap()
}

async fn one(url: &str, fields: Value) -> Sent {
    let client = local_client();
    send(&client, &target(&client, url, fields), 1).await
}

#[tokio::test]
async fn an_attempt_is_signed_as_receivers_verify_it() {
    let sink = Sink::new(|_| status(204)).await;
    let sent = one(&sink.url(), json!({})).await;
    assert_eq!(
        sent,
        Sent { outcome: Outcome::Delivered, status: Some(204), excerpt: None, retry_after: None }
    );
    let [request] = &sink.requests()[..] else { panic!("one request") };
    let (head, sent_body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(sent_body.as_bytes(), EVENT);
    let headers: HeaderMap = head
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    assert_eq!(head.lines().next(), Some("POST /hook HTTP/1.1"));
    for (name, value) in [
        ("host", sink.address.to_string().as_str()),
        ("user-agent", "Tollgate/0.0.0"),
        ("content-type", "application/cloudevents+json"),
        ("webhook-id", "evt_1"),
        ("webhook-attempt", "1"),
    ] {
        assert_eq!(headers[name], value);
    }
    let official = standardwebhooks::Webhook::new(SECRET).unwrap();
    official.verify(sent_body.as_bytes(), &headers).unwrap();
    assert!(official.verify(sent_body.replace("Ann", "Bob").as_bytes(), &headers).is_err());
}

#[tokio::test]
async fn an_event_in_binary_mode_is_signed_as_it_is_sent() {
    let sink = Sink::new(|_| status(204)).await;
    assert_eq!(one(&sink.url(), json!({ "format": "binary" })).await.outcome, Outcome::Delivered);
    let [request] = &sink.requests()[..] else { panic!("one request") };
    let (head, sent_body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(sent_body, r#"{"name":"Ann","big":12345678901234567890}"#);
    for line in ["ce-id: 1", "ce-type: contact.created", "content-type: application/json"] {
        assert!(head.contains(line), "{head}");
    }
    let value = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap().parse::<HeaderValue>().unwrap()
    };
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: HeaderMap =
        names.map(|name| (HeaderName::from_static(name), value(name))).into_iter().collect();
    let official = standardwebhooks::Webhook::new(SECRET).unwrap();
    official.verify(sent_body.as_bytes(), &headers).unwrap();
}

#[tokio::test]
async fn what_a_receiver_says_is_told_apart() {
    for (reply, outcome, status, excerpt) in [
        (body(200, "ok"), Outcome::Delivered, Some(200), None),
        (body(400, "no such field"), Outcome::ClientError, Some(400), Some("no such field")),
        (body(410, "gone"), Outcome::Gone, Some(410), Some("gone")),
        (body(500, "\0"), Outcome::ServerError, Some(500), Some("\\u{0}")),
        (status(503), Outcome::ServerError, Some(503), None),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({})).await;
        assert_eq!(
            (sent.outcome, sent.status, sent.excerpt.as_deref()),
            (outcome, status, excerpt)
        );
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_is_heard() {
    let throttled = |value| Reply::Answer(429, value, String::new());
    for (reply, outcome, wait) in [
        (throttled("retry-after: 7\r\n"), Outcome::Throttled, Some(7)),
        (throttled(""), Outcome::Throttled, None),
        (throttled("retry-after: soon\r\n"), Outcome::Throttled, None),
        (Reply::Answer(503, "retry-after: 9\r\n", String::new()), Outcome::Throttled, Some(9)),
        (Reply::Answer(500, "retry-after: 9\r\n", String::new()), Outcome::ServerError, Some(9)),
        (Reply::Answer(200, "retry-after: 9\r\n", String::new()), Outcome::Delivered, None),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({})).await;
        assert_eq!((sent.outcome, sent.retry_after), (outcome, wait.map(Duration::from_secs)));
    }
}

/// The time is for the whole exchange: a head that came in time is not an answer.
#[tokio::test]
async fn an_answer_that_does_not_end_is_none() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    for (case, reply) in [
        ("says nothing", Reply::Hang),
        ("drips its head", Reply::Drip(b"HTTP/1.1 200 OK\r\nx-slow: ")),
        ("drips its body", Reply::Drip(head)),
        ("begins a body", Reply::Raw(head)),
        ("begins a chunked body", Reply::Raw(chunked)),
        ("only says to go on", Reply::Raw(b"HTTP/1.1 100 Continue\r\n\r\n")),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({ "timeout": "200ms" })).await;
        assert_eq!((sent.outcome, sent.status), (Outcome::TimedOut, None), "{case}");
        assert_eq!(sink.requests().len(), 1, "{case}");
    }
    // A host that takes connections and never TLS.
    let sink = Sink::new(|_| Reply::Hang).await;
    let url = sink.url().replace("http:", "https:");
    assert_eq!(one(&url, json!({ "timeout": "200ms" })).await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn of_a_long_answer_no_more_is_read_than_is_needed() {
    for reply in [
        Reply::Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n"),
        Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({})).await;
        assert_eq!((sent.outcome, sent.excerpt), (Outcome::Delivered, None));
        // What is in the sockets' buffers was taken as well.
        assert!(sink.taken.load(Ordering::SeqCst) < 32 << 20);
    }
    let sink = Sink::new(|_| body(500, "x".repeat(100_000))).await;
    let sent = one(&sink.url(), json!({})).await;
    assert_eq!(sent.excerpt.map(|text| text.len()), Some(1_024));
}

#[tokio::test]
async fn what_is_no_http_is_an_error_of_the_receiver() {
    let long: &'static [u8] = Box::leak(
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(200_000)).into_boxed_str(),
    )
    .as_bytes();
    for reply in [
        Reply::Last(b"220 mail.example ESMTP\r\n"),
        Reply::Last(b"HTTP/1.1 99 x\r\n\r\n"),
        Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
        Reply::Last(long),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({})).await;
        assert_eq!(sent.outcome, Outcome::ServerError, "{sent:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_endpoint_that_is_not_reached() {
    for reply in [
        Reply::Last(b""),
        Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        Reply::Last(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ] {
        let sink = Sink::new(move |_| reply.clone()).await;
        let sent = one(&sink.url(), json!({})).await;
        assert_eq!((sent.outcome, sent.status), (Outcome::Unreachable, None), "{sent:?}");
        // A fresh connection is not tried twice.
        assert_eq!(sink.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_certificate_is_for_the_name_that_was_asked_for() {
    let sink = Sink::tls(|_| status(204)).await;
    let port = sink.address.port();
    let client = local_client();
    for (host, outcome) in [
        ("hooks.example", Outcome::Delivered),
        ("other.example", Outcome::Tls),
        ("127.0.0.1", Outcome::Tls),
    ] {
        let target = target(&client, &format!("https://{host}:{port}/"), json!({}));
        assert_eq!(send(&client, &target, 1).await.outcome, outcome, "{host}");
    }
    // An authority that nobody trusts, and a host without TLS.
    let nobody = Trust::new(rustls::RootCertStore::empty()).unwrap();
    let reach = Reach::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let names = Told::new(&[&["127.0.0.1"]]);
    let strict = Client::with(reach, names, nobody, Clock::system(), "0").unwrap();
    let target = target(&strict, &format!("https://hooks.example:{port}/"), json!({}));
    let sent = send(&strict, &target, 1).await;
    assert_eq!(sent.outcome, Outcome::Tls);
    assert!(sent.excerpt.unwrap().contains("UnknownIssuer"));
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    assert_eq!(one(&url, json!({})).await.outcome, Outcome::Tls);
}

#[tokio::test]
async fn a_header_is_shown_to_the_receiver_and_to_nobody_else() {
    let sink = Sink::new(|_| body(401, "not known: key-1234567890")).await;
    let header = json!({ "name": "X-Key", "secret": { "env": "key-1234567890" } });
    let fields = json!({ "authorization": { "header": header } });
    let client = local_client();
    let target = target(&client, &sink.url(), fields);
    let sent = send(&client, &target, 1).await;
    assert!(sink.requests()[0].contains("x-key: key-1234567890\r\n"));
    assert_eq!(sent.excerpt.as_deref(), Some("not known: [hidden]"));
    let shown = format!("{target:?}");
    assert!(!shown.contains("1234567890") && !shown.contains(&SECRET[6..]), "{shown}");
}

#[tokio::test]
async fn what_is_wrong_with_a_target_is_said_without_its_secrets() {
    let client = local_client();
    for (fields, expected) in [
        (json!({ "url": "ftp://a.example" }), "`url` must start with"),
        (json!({ "secret": { "env": "hunter2-hunter2" } }), "`secret` must start with `whsec_`"),
        (json!({ "secret": { "file": "x" } }), "`secret` could not be had: nothing"),
        (json!({ "signing_key": { "env": "hunter2" } }), "`signing_key` must start with `whsk_`"),
        (
            json!({ "authorization": { "header": { "name": "X", "secret": { "env": "hunter2\n" } } } }),
            "`authorization/header` must be text",
        ),
    ] {
        let mut endpoint = json!({ "id": "a", "tenant": "t", "url": "https://a.example", "events": ["*"], "secret": { "env": SECRET } });
        endpoint.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let endpoint = serde_json::from_value(endpoint).unwrap();
        let error = client.target(&endpoint, &reveal).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn a_question_carries_its_query_and_its_answer_is_bounded() {
    let sink = Sink::new(|_| Reply::Answer(200, "etag: \"1\"\r\n", "[1,2]".to_owned())).await;
    let client = local_client();
    let poll: Poll =
        serde_json::from_value(json!({ "url": format!("{}?a=b", sink.url()) })).unwrap();
    let question = client.question(&poll, &TenantId::from("acme"), &reveal).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("if-none-match", HeaderValue::from_static("\"0\""));
    let asked = client.ask(&question, &[("since", "x y")], headers.clone(), 5).await.unwrap();
    assert_eq!(
        (asked.status, &asked.body[..], &asked.headers["etag"]),
        (StatusCode::OK, &b"[1,2]"[..], &HeaderValue::from_static("\"1\""))
    );
    assert!(sink.requests()[0].starts_with("GET /hook?a=b&since=x+y HTTP/1.1\r\n"));
    assert!(sink.requests()[0].contains("if-none-match: \"0\"\r\n"));
    let long = client.ask(&question, &[], headers, 4).await.unwrap_err();
    assert!(matches!(long, Failure::Long(4)), "{long}");
    // Sources are behind the guard as well.
    let poll: Poll = serde_json::from_value(json!({ "url": "https://169.254.169.254/" })).unwrap();
    let question = client.question(&poll, &TenantId::from("acme"), &reveal).unwrap();
    let refused = client.ask(&question, &[], HeaderMap::new(), 4).await.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::Forbidden);
}

#[tokio::test]
async fn each_attempt_is_signed_with_its_own_time() {
    let start = "2026-01-01T00:00:00Z".parse().unwrap();
    let clock = Clock::manual(start);
    let sink = Sink::new(|_| status(500)).await;
    let client = client(&["127.0.0.0/8"], Told::new(&[&["127.0.0.1"]]), clock.clone());
    let target = target(&client, &sink.url(), json!({}));
    for attempt in 1..=2 {
        send(&client, &target, attempt).await;
        clock.advance(Duration::from_secs(60));
    }
    let requests = sink.requests();
    assert!(requests[0].contains("webhook-timestamp: 1767225600\r\n"));
    assert!(requests[1].contains("webhook-timestamp: 1767225660\r\n"));
    assert!(requests[1].contains("webhook-attempt: 2\r\n"));
}
