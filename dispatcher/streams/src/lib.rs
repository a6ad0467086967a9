//! Events beyond one machine: streams of NATS JetStream and topics of Kafka as sources and sinks.
//!
//! Invariants: the store stays the truth, so that a broker that is lost loses nothing that was accepted. A message is
//! acknowledged once its event is committed, or lies where refused ones are kept; a sink's cursor moves once the broker has
//! the events on its disk. So everything passes at least once, and what comes again is known by its id.
#![cfg(any(feature = "nats", feature = "kafka"))]

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
mod sink;
mod source;

use ingest::Ingest;
use model::port::StoreError;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::time::Duration;
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How many messages or events go together.
const BATCH: u32 = 256;
/// After a failure: the first pause, doubled up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Which brokers there are. Only those that this build knows can be named.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// NATS JetStream.
    #[cfg(feature = "nats")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<nats::Settings>,
    /// Kafka.
    #[cfg(feature = "kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<kafka::Settings>,
}

/// What streams stand on.
#[derive(Clone)]
pub struct Parts {
    /// Where events are.
    pub store: Store,
    /// The door that they come in by.
    pub ingest: Ingest,
    /// Unique of this start of this process.
    pub holder: String,
}

/// Why a stream stands still. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The broker doesn't take or give anything.
    #[error("the broker: {0}")]
    Broker(String),
    /// The store doesn't answer.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// An event that is kept can't be read.
    #[error("an event that is kept can't be read: {0}")]
    Torn(String),
    /// A file of the settings can't be read.
    #[error("`{0}` can't be read: {1}")]
    File(String, #[source] std::io::Error),
}

/// Runs all streams that the settings name until told to stop. A broker that is away is waited for.
pub async fn run(settings: Settings, parts: Parts, mut stop: watch::Receiver<bool>) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    #[cfg(feature = "nats")]
    if let Some(settings) = settings.nats {
        nats::spawn(&settings, &parts, &stop, &mut tasks);
    }
    #[cfg(feature = "kafka")]
    if let Some(settings) = settings.kafka {
        kafka::spawn(&settings, &parts, &stop, &mut tasks);
    }
    // An error means that nobody can tell it to stop any more.
    stop.wait_for(|stopped| *stopped).await.ok();
    while tasks.join_next().await.is_some() {}
    // Other processes go on at once.
    if let Err(error) = parts.store.leave(&parts.holder).await {
        tracing::debug!(%error, "others wait until the sinks are not held any more");
    }
}

/// Runs a stream again and again: each time that it fails after a longer pause.
async fn lasting<F>(name: &str, mut stop: watch::Receiver<bool>, mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StreamError>>,
{
    let (first, longest) = PAUSES;
    let mut pause = first;
    loop {
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            ended = attempt() => ended,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = ended {
            tracing::warn!(stream = name, %error, "a stream stands still; it is tried again");
        }
        // One that went on for a while is not the same failure again.
        pause = if began.elapsed() > longest { first } else { (pause * 2).min(longest) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
    }
}
