//! NATS JetStream: a durable pull consumer as a source, subjects of a stream as a sink.

use crate::sink::Publish;
use crate::source::{self, Verdict};
use crate::{BATCH, Parts, StreamError, lasting, sink};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{ConnectOptions, HeaderMap as NatsHeaders};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use model::event::CloudEvent;
use model::id::TenantId;
use model::webhook::StoredEvent;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the server waits for an acknowledgement before it gives a message again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How many messages may be on their way.
const UNACKED_MAX: i64 = 1_024;
/// When a message that can't be accepted now comes again.
const LATER: Duration = Duration::from_secs(1);
/// How long a pull waits for the first message.
const PULL: Duration = Duration::from_secs(5);
/// Why a message lies where refused ones do.
const ERROR_HEADER: &str = "Tollgate-Error";

/// A NATS server, or several of a cluster.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `nats://host:4222` or `tls://…`, with commas between several.
    pub url: String,
    /// A file with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A `.creds` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// Where events come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
}

/// A stream with CloudEvents, structured or binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The stream.
    pub stream: String,
    /// The durable consumer; made where there is none.
    pub consumer: String,
    /// The subjects that are read; all of the stream when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Whose all events are; each names its tenant when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Where messages are put that are never accepted. A stream must keep it.
    pub rejected: String,
}

/// Where what is accepted goes: `{subject}.{tenant}.{type}`. A stream must keep it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// What subjects begin with.
    pub subject: String,
}

impl fmt::Debug for Settings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("source", &self.source)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
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
            lasting("nats source", stop, || take(&settings, &from, &parts)).await;
        });
    }
    if let Some(to) = settings.sink.clone() {
        let (settings, parts, stop) = (settings.clone(), parts.clone(), stop.clone());
        tasks.spawn(async move {
            let name = format!("sink/nats/{}", to.subject);
            lasting("nats sink", stop, || give(&name, &settings, &to, &parts)).await;
        });
    }
}

async fn connect(settings: &Settings) -> Result<Context, StreamError> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| StreamError::File(path.display().to_string(), error))
    };
    let mut options = ConnectOptions::new().name("tollgate");
    if let Some(file) = &settings.token_file {
        options = options.token(read(file)?.trim().to_owned());
    }
    if let Some(file) = &settings.credentials_file {
        options = options.credentials(&read(file)?).map_err(broker)?;
    }
    let servers: Vec<&str> = settings.url.split(',').map(str::trim).collect();
    Ok(jetstream::new(options.connect(servers).await.map_err(broker)?))
}

// What the client says names servers, never passwords.
fn broker(error: impl fmt::Display) -> StreamError {
    StreamError::Broker(error.to_string())
}

/// The source: takes messages in batches, for as long as the server gives them.
async fn take(settings: &Settings, from: &Source, parts: &Parts) -> Result<(), StreamError> {
    let context = connect(settings).await?;
    let stream = context.get_stream(&from.stream).await.map_err(broker)?;
    let config = pull::Config {
        durable_name: Some(from.consumer.clone()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: UNACKED_MAX,
        filter_subject: from.subject.clone().unwrap_or_default(),
        ..pull::Config::default()
    };
    let consumer: PullConsumer =
        stream.get_or_create_consumer(&from.consumer, config).await.map_err(broker)?;
    loop {
        // Gives what is there at once, and else waits for the first.
        let most = usize::try_from(BATCH).unwrap_or(usize::MAX);
        let mut messages = Vec::new();
        let mut first =
            consumer.batch().max_messages(1).expires(PULL).messages().await.map_err(broker)?;
        while let Some(message) = first.next().await {
            messages.push(message.map_err(broker)?);
        }
        if messages.is_empty() {
            continue;
        }
        let mut rest = consumer
            .fetch()
            .max_messages(most.saturating_sub(1))
            .messages()
            .await
            .map_err(broker)?;
        while let Some(message) = rest.next().await {
            messages.push(message.map_err(broker)?);
        }
        let read = messages.iter().map(|message| {
            (message.headers.as_ref().map(headers).unwrap_or_default(), message.payload.clone())
        });
        let verdicts = source::judge(&parts.ingest, from.tenant.as_ref(), read.collect()).await;
        for (message, verdict) in messages.iter().zip(verdicts) {
            let kind = match verdict {
                Verdict::Kept => AckKind::Ack,
                Verdict::Later => AckKind::Nak(Some(LATER)),
                Verdict::Refused(why) => {
                    reject(&context, from, message, &why).await?;
                    AckKind::Term
                }
            };
            message.ack_with(kind).await.map_err(broker)?;
        }
    }
}

/// Puts a message where refused ones are kept; returns once it is on the broker's disk.
async fn reject(
    context: &Context,
    from: &Source,
    message: &jetstream::Message,
    why: &str,
) -> Result<(), StreamError> {
    tracing::warn!(stream = from.stream, subject = %message.subject, why, "a message was refused");
    let mut headers = message.headers.clone().unwrap_or_default();
    // A line each.
    headers.insert(ERROR_HEADER, why.replace(['\r', '\n'], " ").as_str());
    let put = context.publish_with_headers(from.rejected.clone(), headers, message.payload.clone());
    put.await.map_err(broker)?.await.map_err(broker)?;
    Ok(())
}

/// Headers as HTTP has them. What HTTP can't have says nothing of an event.
fn headers(from: &NatsHeaders) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in from.iter() {
        let Ok(name) = HeaderName::from_bytes(name.to_string().as_bytes()) else { continue };
        for value in values {
            if let Ok(value) = HeaderValue::from_str(value.as_str()) {
                headers.append(name.clone(), value);
            }
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
    let context = connect(settings).await?;
    let most = context.client().server_info().max_payload.saturating_sub(sink::BESIDE);
    let publisher = Publisher { context, prefix: to.subject.clone(), most };
    sink::run(name, parts, publisher).await
}

struct Publisher {
    context: Context,
    prefix: String,
    /// The largest event that the server takes, in bytes.
    most: usize,
}

impl Publish for Publisher {
    async fn publish(&mut self, events: &[StoredEvent]) -> Result<(), StreamError> {
        let mut underway = Vec::with_capacity(events.len());
        for event in events {
            let subject =
                format!("{}.{}.{}", self.prefix, tenant(&event.tenant), token(&event.r#type));
            let mut headers = NatsHeaders::new();
            // The server knows a repeat by it, within its window.
            headers.insert("Nats-Msg-Id", event.webhook_id.as_str());
            headers.insert("content-type", CloudEvent::STRUCTURED);
            let content = sink::content(event, self.most)?;
            underway.push(
                self.context
                    .publish_with_headers(subject, headers, content)
                    .await
                    .map_err(broker)?,
            );
        }
        for acknowledged in underway {
            acknowledged.await.map_err(broker)?;
        }
        Ok(())
    }
}

/// A tenant as one token: two tenants never share one, nor does one lie within another's.
fn tenant(tenant: &TenantId) -> String {
    tenant.as_str().replace('.', "%2E")
}

/// What may stand in a subject; the rest is `_`. Dots within a type make tokens of their own.
fn token(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let tokens: Vec<String> = text
        .split('.')
        .map(|part| match part.is_empty() {
            true => "_".to_owned(),
            false => part.chars().map(plain).collect(),
        })
        .collect();
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_make_subjects_without_wildcards() {
        for (written, subject) in [
            ("contact.created", "contact.created"),
            ("contact.*", "contact._"),
            ("a..b", "a._.b"),
            ("größe >", "gr__e__"),
        ] {
            assert_eq!(token(written), subject);
        }
    }

    #[test]
    fn a_tenant_is_one_token_and_nobody_elses() {
        assert_eq!(tenant(&"acme.prod".into()), "acme%2Eprod");
        assert_eq!(tenant(&"acme".into()), "acme");
    }
}
