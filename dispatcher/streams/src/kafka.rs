//! Kafka, by librdkafka: topics of a consumer group as a source, a topic as a sink.

use crate::sink::Publish;
use crate::source::{self, Verdict};
use crate::{BATCH, PAUSES, Parts, StreamError, lasting, sink};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use model::event::CloudEvent;
use model::id::TenantId;
use model::webhook::StoredEvent;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a batch waits for more messages after its first.
const GATHER: Duration = Duration::from_millis(20);
/// How long a producer that ends waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(5);
/// The largest record, unless `message.max.bytes` says otherwise: librdkafka's own default.
const RECORD_BYTES: usize = 1_000_000;
/// What attributes in headers begin with (CloudEvents, Kafka binding §3.2).
const PREFIX: &str = "ce_";
/// Why a message lies where refused ones do.
const ERROR_HEADER: &str = "tollgate-error";

/// A cluster of Kafka.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `host:9092`, one or several.
    pub brokers: Vec<String>,
    /// What else librdkafka is told, by the names of its own documentation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Properties whose values stand in files, such as `sasl.password`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub property_files: BTreeMap<String, PathBuf>,
    /// Where events come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
}

/// Topics with CloudEvents, structured or binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The topics.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Whose all events are; each names its tenant when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The topic where messages are put that are never accepted.
    pub rejected: String,
}

/// Where what is accepted goes. Records of one tenant and subject have the same key: they stay in their order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// The topic.
    pub topic: String,
}

impl fmt::Debug for Settings {
    /// Without properties, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field("source", &self.source)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
    }
}

impl Settings {
    fn client(&self) -> Result<ClientConfig, StreamError> {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, file) in &self.property_files {
            let value = std::fs::read_to_string(file)
                .map_err(|error| StreamError::File(file.display().to_string(), error))?;
            config.set(name, value.trim());
        }
        config.set("bootstrap.servers", self.brokers.join(","));
        Ok(config)
    }

    /// The largest record, in bytes.
    fn largest(&self) -> usize {
        let said = self.properties.get("message.max.bytes");
        said.and_then(|bytes| bytes.parse().ok()).unwrap_or(RECORD_BYTES)
    }

    /// A producer whose records are on all replicas' disks before it says so, once and in order.
    fn producer(&self) -> Result<FutureProducer, StreamError> {
        let mut config = self.client()?;
        config.set("enable.idempotence", "true").set("acks", "all");
        config.set("message.timeout.ms", "20000");
        config.create().map_err(broker)
    }
}

pub(crate) fn spawn(
    settings: &Settings,
    parts: &Parts,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    if let Some(from) = settings.source.clone() {
        let (settings, parts, stop) = (settings.clone(), parts.clone(), stop.clone());
        tasks.spawn(async move {
            lasting("kafka source", stop, || take(&settings, &from, &parts)).await;
        });
    }
    if let Some(to) = settings.sink.clone() {
        let (settings, parts, stop) = (settings.clone(), parts.clone(), stop.clone());
        tasks.spawn(async move {
            let name = format!("sink/kafka/{}", to.topic);
            lasting("kafka sink", stop, || give(&name, &settings, &to, &parts)).await;
        });
    }
}

fn broker(error: impl fmt::Display) -> StreamError {
    StreamError::Broker(error.to_string())
}

/// The source: takes records in batches and commits their offsets once their events are.
async fn take(settings: &Settings, from: &Source, parts: &Parts) -> Result<(), StreamError> {
    let mut config = settings.client()?;
    config.set("group.id", &from.group).set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false").set("auto.offset.reset", "earliest");
    let consumer: StreamConsumer = config.create().map_err(broker)?;
    let producer = settings.producer()?;
    let topics: Vec<&str> = from.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(broker)?;
    loop {
        let records = gather(&consumer).await?;
        let mut left: Vec<&BorrowedMessage<'_>> = records.iter().collect();
        let mut pause = PAUSES.0;
        // What can't be accepted now is kept at, in its order: a group that takes the partition over begins before it.
        loop {
            left = accept(&producer, from, parts, left).await?;
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        commit(&consumer, &records)?;
    }
}

/// A batch: the first record whenever it comes, and those that follow at once.
async fn gather(consumer: &StreamConsumer) -> Result<Vec<BorrowedMessage<'_>>, StreamError> {
    let most = usize::try_from(BATCH).unwrap_or(usize::MAX);
    let mut records = vec![consumer.recv().await.map_err(broker)?];
    while records.len() < most {
        match tokio::time::timeout(GATHER, consumer.recv()).await {
            Ok(record) => records.push(record.map_err(broker)?),
            Err(_) => break,
        }
    }
    Ok(records)
}

/// Accepts the events of records; gives back those that are to be tried again.
async fn accept<'a, 'b>(
    producer: &FutureProducer,
    from: &Source,
    parts: &Parts,
    records: Vec<&'a BorrowedMessage<'b>>,
) -> Result<Vec<&'a BorrowedMessage<'b>>, StreamError> {
    let read = records.iter().map(|record| {
        (headers(record), Bytes::copy_from_slice(record.payload().unwrap_or_default()))
    });
    let verdicts = source::judge(&parts.ingest, from.tenant.as_ref(), read.collect()).await;
    let mut left = Vec::new();
    for (record, verdict) in records.into_iter().zip(verdicts) {
        match verdict {
            Verdict::Kept => {}
            Verdict::Later => left.push(record),
            Verdict::Refused(why) => reject(producer, from, record, &why).await?,
        }
    }
    Ok(left)
}

/// Puts a record where refused ones are kept; returns once it is on the brokers' disks.
async fn reject(
    producer: &FutureProducer,
    from: &Source,
    record: &BorrowedMessage<'_>,
    why: &str,
) -> Result<(), StreamError> {
    let (topic, offset) = (record.topic(), record.offset());
    tracing::warn!(topic, partition = record.partition(), offset, why, "a record was refused");
    let headers = record.headers().map(rdkafka::message::BorrowedHeaders::detach);
    let why = Header { key: ERROR_HEADER, value: Some(why) };
    let headers = headers.unwrap_or_default().insert(why);
    let mut put = FutureRecord::to(&from.rejected).headers(headers);
    if let Some(key) = record.key() {
        put = put.key(key);
    }
    if let Some(payload) = record.payload() {
        put = put.payload(payload);
    }
    let sent = producer.send_result(put).map_err(|(error, _)| broker(error))?;
    sent.await.map_err(broker)?.map_err(|(error, _)| broker(error))?;
    Ok(())
}

/// Commits the offset behind the last record of each partition.
fn commit(consumer: &StreamConsumer, records: &[BorrowedMessage<'_>]) -> Result<(), StreamError> {
    let mut behind: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for record in records {
        let offset = behind.entry((record.topic(), record.partition())).or_default();
        *offset = (*offset).max(record.offset() + 1);
    }
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in behind {
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(broker)?;
    }
    // Not awaited: a commit that is lost brings records again, which are known.
    consumer.commit(&list, CommitMode::Async).map_err(broker)
}

/// Headers as HTTP has them, with those of the Kafka binding as those of the HTTP binding.
fn headers(record: &BorrowedMessage<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        let name = match header.key.strip_prefix(PREFIX) {
            Some(attribute) => format!("ce-{attribute}"),
            None => header.key.to_owned(),
        };
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(header.value.unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// The sink.
async fn give(
    name: &str,
    settings: &Settings,
    to: &Sink,
    parts: &Parts,
) -> Result<(), StreamError> {
    let most = settings.largest().saturating_sub(sink::BESIDE);
    let publisher = Publisher { producer: settings.producer()?, topic: to.topic.clone(), most };
    sink::run(name, parts, publisher).await
}

struct Publisher {
    producer: FutureProducer,
    topic: String,
    /// The largest event that the producer takes, in bytes.
    most: usize,
}

impl Publish for Publisher {
    async fn publish(&mut self, events: &[StoredEvent]) -> Result<(), StreamError> {
        let mut underway = Vec::with_capacity(events.len());
        for event in events {
            let key = key(event)?;
            let content = sink::content(event, self.most)?;
            let headers = OwnedHeaders::new()
                .insert(Header { key: "content-type", value: Some(CloudEvent::STRUCTURED) })
                .insert(Header { key: "webhook-id", value: Some(event.webhook_id.as_str()) });
            let record =
                FutureRecord::to(&self.topic).key(&key).payload(&*content).headers(headers);
            underway.push(self.producer.send_result(record).map_err(|(error, _)| broker(error))?);
        }
        for acknowledged in underway {
            acknowledged.await.map_err(broker)?.map_err(|(error, _)| broker(error))?;
        }
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // What was not acknowledged is sent again from the cursor.
        if let Err(error) = self.producer.flush(FLUSH) {
            tracing::debug!(%error, "records were left on their way");
        }
    }
}

/// What keeps records in order: tenant and subject.
fn key(event: &StoredEvent) -> Result<String, StreamError> {
    let read = CloudEvent::kept(&event.content);
    let read = read.map_err(|error| StreamError::Torn(error.to_string()))?;
    let subject = read.attribute("subject").unwrap_or_default();
    Ok(format!("{}/{subject}", event.tenant))
}
