//! Kafka: librdkafka's own mock of a cluster, whose broker goes away.

use crate::harness::{Ground, PATIENCE, counted, event};
use model::event::CloudEvent;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use streams::Settings;
use streams::kafka::{Settings as Kafka, Sink, Source};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["crm", "rejected", "out"] {
        cluster.create_topic(topic, 3, 1).unwrap();
    }
    cluster
}

fn settings(cluster: &Cluster, source: Option<Source>, sink: Option<Sink>) -> Settings {
    // The mock's groups rebalance after their session; the default is 45 s.
    let properties = [("session.timeout.ms", "6000")];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let kafka = Kafka {
        brokers: vec![cluster.bootstrap_servers()],
        properties: properties.into(),
        property_files: BTreeMap::new(),
        source,
        sink,
    };
    Settings { nats: None, kafka: Some(kafka) }
}

fn source() -> Source {
    Source {
        topics: vec!["crm".to_owned()],
        group: "tollgate".to_owned(),
        tenant: None,
        rejected: "rejected".to_owned(),
    }
}

fn producer(cluster: &Cluster) -> FutureProducer {
    ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap()
}

async fn produce(producer: &FutureProducer, headers: OwnedHeaders, body: &[u8]) {
    let record = FutureRecord::<str, [u8]>::to("crm").payload(body).headers(headers);
    producer.send(record, PATIENCE).await.unwrap();
}

/// What a topic holds, once there is so much: bodies, keys, and the header of why.
async fn records(cluster: &Cluster, topic: &str, count: usize) -> Vec<Seen> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", format!("test-{topic}"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let (mut seen, began) = (Vec::new(), Instant::now());
    while seen.len() < count {
        assert!(began.elapsed() < PATIENCE, "{} of {count} are there", seen.len());
        let Ok(record) = tokio::time::timeout(PATIENCE, consumer.recv()).await.unwrap() else {
            continue;
        };
        let why = record.headers().and_then(|headers| {
            headers.iter().find(|header| header.key == "tollgate-error")?.value.map(<[u8]>::to_vec)
        });
        seen.push(Seen {
            key: record.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
            partition: record.partition(),
            body: record.payload().unwrap_or_default().to_vec(),
            why: why.map(|why| String::from_utf8(why).unwrap()),
        });
    }
    seen
}

struct Seen {
    key: Option<String>,
    partition: i32,
    body: Vec<u8>,
    why: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_accepted_structured_or_binary_and_never_twice() {
    let cluster = cluster();
    let ground = Ground::new().await;
    let producer = producer(&cluster);
    for n in 0..100 {
        produce(&producer, OwnedHeaders::new(), &event(n)).await;
        produce(&producer, OwnedHeaders::new(), &event(n)).await;
    }
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "100"),
        ("ce_source", "/crm"),
        ("ce_type", "contact.created"),
        ("ce_tenant", "acme"),
        ("content-type", "application/json"),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    produce(&producer, headers, br#"{"n":100}"#).await;
    let running = ground.run(settings(&cluster, Some(source()), None));
    let accepted = counted(&ground.accepted(101).await);
    assert_eq!(accepted.len(), 101);
    assert!(accepted.values().all(|times| *times == 1), "{accepted:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_never_accepted_does_not_stop_those_behind_it() {
    let cluster = cluster();
    let ground = Ground::new().await;
    let producer = producer(&cluster);
    produce(&producer, OwnedHeaders::new(), b"no event").await;
    produce(&producer, OwnedHeaders::new(), &event(1)).await;
    let running = ground.run(settings(&cluster, Some(source()), None));
    assert_eq!(counted(&ground.accepted(1).await).len(), 1);
    let rejected = records(&cluster, "rejected", 1).await;
    assert_eq!(rejected[0].body, b"no event");
    assert!(rejected[0].why.as_ref().is_some_and(|why| !why.is_empty()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_loses_nothing() {
    let cluster = cluster();
    let ground = Ground::new().await;
    let producer = producer(&cluster);
    for n in 0..300 {
        produce(&producer, OwnedHeaders::new(), &event(n)).await;
    }
    let running = ground.run(settings(&cluster, Some(source()), None));
    ground.accepted(100).await;
    cluster.broker_down(1).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.broker_up(1).unwrap();
    for n in 300..500 {
        produce(&producer, OwnedHeaders::new(), &event(n)).await;
    }
    let accepted = counted(&ground.accepted(500).await);
    assert_eq!(accepted.len(), 500);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_hands_on_all_that_was_accepted_and_keeps_the_order_of_a_key() {
    let cluster = cluster();
    let ground = Ground::new().await;
    let sink = Sink { topic: "out".to_owned() };
    ground.accept(0..300).await;
    cluster.broker_down(1).unwrap();
    let running = ground.run(settings(&cluster, None, Some(sink.clone())));
    ground.accept(300..400).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.broker_up(1).unwrap();
    let seen = records(&cluster, "out", 400).await;
    let mut of_keys: BTreeMap<(String, i32), Vec<usize>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for record in &seen {
        let event = CloudEvent::structured(&record.body).unwrap();
        let id: usize = event.id().parse().unwrap();
        // A repeat after an error may come again, never before what was accepted earlier.
        if ids.insert(id) {
            let key = record.key.clone().unwrap();
            of_keys.entry((key, record.partition)).or_default().push(id);
        }
    }
    assert_eq!(ids.len(), 400);
    assert_eq!(of_keys.len(), 7, "a key is in one partition: {:?}", of_keys.keys());
    for (key, ids) in of_keys {
        assert!(ids.is_sorted(), "{key:?}: {ids:?}");
    }
    running.end().await;
}
