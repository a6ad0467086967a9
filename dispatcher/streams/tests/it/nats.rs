//! NATS JetStream: a real server, which is killed.

use crate::harness::{Ground, PATIENCE, counted, event};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use model::event::CloudEvent;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use streams::Settings;
use streams::nats::{Settings as Nats, Sink, Source};
use tempfile::TempDir;

/// A server of this test's own, on a free port of loopback.
struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

fn binary() -> PathBuf {
    ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("nats-server is there: `scripts/setup streams` installs it")
}

impl Server {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let port = {
            let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            taken.local_addr().unwrap().port()
        };
        let child = Self::run(port, &folder);
        let server = Self { child, port, folder };
        let context = server.context().await;
        for (name, subjects) in [("CRM", "crm.>"), ("REJECTED", "rejected.>"), ("OUT", "out.>")] {
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec![subjects.to_owned()],
                ..stream::Config::default()
            };
            context.create_stream(config).await.unwrap();
        }
        server
    }

    fn run(port: u16, folder: &TempDir) -> Child {
        Command::new(binary())
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// kill -9, and up again with what was on its disk.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::run(self.port, &self.folder);
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn context(&self) -> Context {
        let began = Instant::now();
        loop {
            if let Ok(client) = async_nats::connect(self.url()).await {
                return jetstream::new(client);
            }
            assert!(began.elapsed() < PATIENCE, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn settings(&self, source: Option<Source>, sink: Option<Sink>) -> Settings {
        let nats = Nats { url: self.url(), token_file: None, credentials_file: None, source, sink };
        Settings { nats: Some(nats), kafka: None }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn source() -> Source {
    Source {
        stream: "CRM".to_owned(),
        consumer: "tollgate".to_owned(),
        subject: None,
        tenant: None,
        rejected: "rejected.crm".to_owned(),
    }
}

/// Publishes and waits for the server's word, again where there is none.
async fn publish(context: &Context, subject: &'static str, headers: HeaderMap, body: Bytes) {
    let began = Instant::now();
    loop {
        let sent = context.publish_with_headers(subject, headers.clone(), body.clone()).await;
        if let Ok(sent) = sent
            && sent.await.is_ok()
        {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the server takes nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every message of a stream.
async fn messages(context: &Context, name: &str, count: usize) -> Vec<jetstream::Message> {
    let stream = context.get_stream(name).await.unwrap();
    let consumer =
        stream.create_consumer(jetstream::consumer::pull::Config::default()).await.unwrap();
    let mut messages = Vec::new();
    let began = Instant::now();
    while messages.len() < count {
        let mut batch = consumer.fetch().max_messages(500).messages().await.unwrap();
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            message.ack().await.unwrap();
            messages.push(message);
        }
        assert!(began.elapsed() < PATIENCE, "{} of {count} are there", messages.len());
    }
    messages
}

#[tokio::test]
async fn events_of_a_stream_are_accepted_structured_or_binary_and_never_twice() {
    let server = Server::start().await;
    let ground = Ground::new().await;
    let context = server.context().await;
    for n in 0..100 {
        publish(&context, "crm.contacts", HeaderMap::new(), event(n)).await;
        // Once more: the same event.
        publish(&context, "crm.contacts", HeaderMap::new(), event(n)).await;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "100"),
        ("ce-source", "/crm"),
        ("ce-type", "contact.created"),
        ("ce-tenant", "acme"),
        ("content-type", "application/json"),
    ] {
        headers.insert(name, value);
    }
    publish(&context, "crm.contacts", headers, Bytes::from_static(br#"{"n":100}"#)).await;
    let running = ground.run(server.settings(Some(source()), None));
    let accepted = counted(&ground.accepted(101).await);
    assert_eq!(accepted.len(), 101);
    assert!(accepted.values().all(|times| *times == 1), "{accepted:?}");
    let stream = context.get_stream("CRM").await.unwrap();
    let began = Instant::now();
    loop {
        let info = stream.consumer_info("tollgate").await.unwrap();
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "not all was acknowledged: {info:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.end().await;
}

#[tokio::test]
async fn what_is_never_accepted_lies_where_the_settings_say_with_the_reason() {
    let server = Server::start().await;
    let ground = Ground::new().await;
    let context = server.context().await;
    for body in [
        &b"no event"[..],
        br#"{"specversion":"1.0","id":"a","source":"/crm","type":"t","tenant":"nobody"}"#,
        br#"{"specversion":"1.0","id":"b","source":"/crm","type":"contact.created","tenant":"acme","data":{}}"#,
    ] {
        publish(&context, "crm.contacts", HeaderMap::new(), Bytes::from_static(body)).await;
    }
    publish(&context, "crm.contacts", HeaderMap::new(), event(1)).await;
    let running = ground.run(server.settings(Some(source()), None));
    assert_eq!(counted(&ground.accepted(1).await).len(), 1);
    let rejected = messages(&context, "REJECTED", 3).await;
    assert_eq!(rejected.len(), 3);
    for message in rejected {
        let why = message.headers.as_ref().and_then(|headers| headers.get("Tollgate-Error"));
        assert!(why.is_some_and(|why| !why.as_str().is_empty()), "{message:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_source_of_one_tenant_takes_no_event_of_another() {
    let server = Server::start().await;
    let ground = Ground::new().await;
    let context = server.context().await;
    let bare = br#"{"specversion":"1.0","id":"5","source":"/crm","type":"t"}"#;
    publish(&context, "crm.contacts", HeaderMap::new(), Bytes::from_static(bare)).await;
    publish(&context, "crm.contacts", HeaderMap::new(), event(1)).await;
    let from = Source { tenant: Some("globex".into()), ..source() };
    let running = ground.run(server.settings(Some(from), None));
    assert_eq!(messages(&context, "REJECTED", 1).await.len(), 1);
    let accepted = ground.accepted(1).await;
    assert_eq!((accepted.len(), accepted[0].tenant.as_str()), (1, "globex"));
    running.end().await;
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_of_what_it_took() {
    let mut server = Server::start().await;
    let ground = Ground::new().await;
    let running = ground.run(server.settings(Some(source()), None));
    let context = server.context().await;
    let producer = tokio::spawn(async move {
        for n in 0..1_500 {
            publish(&context, "crm.contacts", HeaderMap::new(), event(n)).await;
        }
    });
    for accepted in [200, 700, 1_100] {
        ground.accepted(accepted).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.restart();
    }
    tokio::time::timeout(PATIENCE, producer).await.unwrap().unwrap();
    let accepted = counted(&ground.accepted(1_500).await);
    assert_eq!(accepted.len(), 1_500);
    assert!(accepted.values().all(|times| *times == 1));
    running.end().await;
}

#[tokio::test]
async fn a_sink_hands_on_all_that_was_accepted_in_order_also_while_the_server_was_away() {
    let mut server = Server::start().await;
    let ground = Ground::new().await;
    let sink = Sink { subject: "out".to_owned() };
    ground.accept(0..400).await;
    let running = ground.run(server.settings(None, Some(sink.clone())));
    let context = server.context().await;
    messages(&context, "OUT", 400).await;
    server.kill();
    ground.accept(400..800).await;
    // Another process goes on where this one stopped.
    running.end().await;
    server.restart();
    let running = ground.run(server.settings(None, Some(sink)));
    let context = server.context().await;
    let handed_on = messages(&context, "OUT", 800).await;
    let ids: Vec<usize> = handed_on
        .iter()
        .map(|message| CloudEvent::structured(&message.payload).unwrap().id().parse().unwrap())
        .collect();
    assert_eq!(ids, (0..800).collect::<Vec<_>>());
    assert_eq!(handed_on[0].subject.as_str(), "out.acme.contact.created");
    running.end().await;
}
