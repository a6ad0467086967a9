//! `/.tollgate/endpoints/{id}/events`: receivers ask for what would be sent to them, where nothing can reach them.
//!
//! Invariant: an endpoint is its tenant's alone; another's is answered as one that is not there. Reading changes nothing:
//! the cursor is the reader's own. What is read is bounded in entries, bytes and time, and so are those who wait.

use crate::compile::reveal;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use model::document::{Endpoint, Format, Secret};
use model::event::CloudEvent;
use model::id::TenantId;
use model::port::StoreError;
use model::{Clock, ErrorCode, Reject};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use store::webhooks::Polled;
use tokio::time::{Instant, timeout};
use webhook_signature::{self as signature, Signer, SigningKey};

/// Entries in one answer when nobody says, and the most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 100;
/// Entries that are read at a time: an event has up to a MiB.
const CHUNK: u32 = 8;
/// After so many bytes of events an answer ends.
const BYTES_MAX: usize = 4 << 20;
/// The longest that a question waits for something.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Questions at once: in all, and of one tenant. More are refused.
const AT_ONCE: usize = 512;
const AT_ONCE_OF_TENANT: usize = 32;
/// Between two looks of a question that waits, at least and at most.
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The cursor after what is there already.
const LATEST: &str = "latest";

/// Who asks for events, and where they are.
pub(crate) struct Polls {
    store: Store,
    keys: MasterKeys,
    asking: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// `?cursor=&limit=&wait=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    cursor: Cursor,
    limit: u32,
    wait: Duration,
}

/// Where an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Behind the delivery of this number.
    After(u64),
    /// Behind what is there already.
    Latest,
}

/// An event as it would be sent.
#[derive(Debug, Serialize)]
struct Item {
    /// Where a question goes on behind it.
    cursor: String,
    /// The headers to forward it with.
    headers: Map<String, Value>,
    /// The body, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl Question {
    /// As the query has it.
    pub(super) fn of(query: Option<&str>) -> Result<Self, Reject> {
        let mut asked =
            Self { cursor: Cursor::After(0), limit: LIMIT_DEFAULT, wait: Duration::ZERO };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "cursor" if value == LATEST => asked.cursor = Cursor::Latest,
                "cursor" => {
                    asked.cursor = Cursor::After(within(&value, 0..=u64::MAX / 2, "cursor")?);
                }
                "limit" => asked.limit = within(&value, 1..=LIMIT_MAX, "limit")?,
                "wait" => {
                    asked.wait =
                        Duration::from_secs(within(&value, 0..=WAIT_MAX.as_secs(), "wait")?);
                }
                _ => return Err(malformed("This takes `cursor`, `limit` and `wait`.".to_owned())),
            }
        }
        Ok(asked)
    }
}

fn within<T: FromStr + PartialOrd>(
    value: &str,
    range: std::ops::RangeInclusive<T>,
    name: &str,
) -> Result<T, Reject> {
    let parsed = value.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        malformed(match name {
            "limit" => format!("`limit` must be 1 to {LIMIT_MAX}."),
            "wait" => format!("`wait` must be 0 to {} seconds.", WAIT_MAX.as_secs()),
            _ => "`cursor` must be that of an item, `next_cursor` of an answer, or `latest`."
                .to_owned(),
        })
    })
}

fn malformed(message: String) -> Reject {
    Reject::new(ErrorCode::ValidationFailed).message(message)
}

impl Polls {
    /// Events in this store, signed by what these keys open.
    pub(crate) fn new(store: Store, keys: MasterKeys) -> Self {
        Self { store, keys, asking: Arc::default() }
    }

    /// What there is behind the cursor, once there is something or the question has waited enough.
    pub(super) async fn ask(
        &self,
        endpoint: &Arc<Endpoint>,
        question: Question,
        clock: &Clock,
    ) -> Result<Value, Reject> {
        let _place = self.place(&endpoint.tenant)?;
        let signer = self.signer(endpoint.clone()).await?;
        let after = match question.cursor {
            Cursor::After(number) => number,
            Cursor::Latest => answered(self.store.newest_delivery()).await?,
        };
        let found = self.wait(endpoint, after, question).await?;
        let next = found.last().map_or(after, |last| last.number);
        let now = clock.now();
        let items = found.iter().map(|polled| item(polled, endpoint.format, &signer, now));
        let items: Vec<Item> = items.collect::<Result<_, _>>()?;
        Ok(json!({ "items": items, "next_cursor": next.to_string() }))
    }

    async fn wait(
        &self,
        endpoint: &Endpoint,
        after: u64,
        question: Question,
    ) -> Result<Vec<Polled>, Reject> {
        // A clone of its own is woken for itself.
        let store = self.store.clone();
        let end = Instant::now() + question.wait;
        loop {
            let found = read(&store, endpoint, after, question.limit).await?;
            let left = end.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            // What is woken for is everybody's; whoever waits for one endpoint looks a few times a second at most.
            tokio::time::sleep(LOOK_MIN.min(left)).await;
            store.webhooks_changed(LOOK_MAX.min(left)).await;
        }
    }

    /// A place among those who ask.
    fn place(&self, tenant: &TenantId) -> Result<Place, Reject> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let own = asking.get(tenant).copied().unwrap_or_default();
        if own >= AT_ONCE_OF_TENANT || asking.values().sum::<usize>() >= AT_ONCE {
            return Err(Reject::new(ErrorCode::Overloaded)
                .message("Too many questions for events wait at once.")
                .retry_after(1));
        }
        asking.insert(tenant.clone(), own + 1);
        Ok(Place { asking: self.asking.clone(), tenant: tenant.clone() })
    }

    /// What signs for an endpoint. Files may be read for it, so not on this thread.
    async fn signer(&self, endpoint: Arc<Endpoint>) -> Result<Signer, Reject> {
        let keys = self.keys.clone();
        let made = tokio::task::spawn_blocking(move || signer(&endpoint, &keys)).await;
        let made = made.map_err(|error| error.to_string()).and_then(|made| made);
        made.map_err(|cause| {
            Reject::new(ErrorCode::DependencyUnavailable)
                .message(
                    "The secret that this endpoint's events are signed with can't be had here.",
                )
                .retry_after(10)
                .because(cause)
        })
    }
}

/// A place, given back when its question is answered.
struct Place {
    asking: Arc<Mutex<HashMap<TenantId, usize>>>,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        match asking.get_mut(&self.tenant) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(asking.remove(&self.tenant)),
        }
    }
}

async fn read(
    store: &Store,
    endpoint: &Endpoint,
    after: u64,
    limit: u32,
) -> Result<Vec<Polled>, Reject> {
    let mut found: Vec<Polled> = Vec::new();
    let mut bytes = 0;
    let mut left = limit;
    while left > 0 && bytes < BYTES_MAX {
        let after = found.last().map_or(after, |last| last.number);
        let wanted = left.min(CHUNK);
        let chunk = store.endpoint_events(&endpoint.tenant, &endpoint.id, after, wanted);
        let chunk = answered(chunk).await?;
        let got = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        bytes += chunk.iter().map(|polled| polled.content.len()).sum::<usize>();
        found.extend(chunk);
        left = left.saturating_sub(got);
        if got < wanted {
            break;
        }
    }
    Ok(found)
}

async fn answered<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Reject> {
    let unavailable = || Reject::new(ErrorCode::DependencyUnavailable).retry_after(1);
    let done = timeout(DEADLINE, work).await;
    let done =
        done.map_err(|_| unavailable().because(format_args!("no answer in {DEADLINE:?}")))?;
    done.map_err(|error| unavailable().because(error))
}

fn signer(endpoint: &Endpoint, keys: &MasterKeys) -> Result<Signer, String> {
    let text = |secret: &Secret| {
        let bytes = reveal(secret, keys).map_err(|(_, message)| message)?;
        String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
    };
    let key = |secret: &Secret| {
        signature::Secret::parse(&text(secret)?).map_err(|error| error.to_string())
    };
    let mut signer = Signer::new(key(&endpoint.secret)?);
    for previous in &endpoint.previous_secrets {
        signer = signer.and_until(key(&previous.secret)?, previous.until.as_second());
    }
    match &endpoint.signing_key {
        None => Ok(signer),
        Some(secret) => {
            let key = SigningKey::parse(&text(secret)?).map_err(|error| error.to_string())?;
            Ok(signer.and_key(key))
        }
    }
}

fn item(polled: &Polled, format: Format, signer: &Signer, now: Timestamp) -> Result<Item, Reject> {
    let broken = |error: &dyn std::fmt::Display| Reject::new(ErrorCode::Internal).because(error);
    let (headers, body) = match format {
        Format::Structured => (HeaderMap::new(), polled.content.clone()),
        Format::Binary => {
            CloudEvent::kept(&polled.content).map_err(|error| broken(&error))?.binary()
        }
    };
    let mut told = Map::new();
    if format == Format::Structured {
        told.insert("content-type".to_owned(), CloudEvent::STRUCTURED.into());
    }
    for (name, value) in &headers {
        told.insert(name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into());
    }
    let (id, at) = (polled.webhook_id.as_str(), now.as_second());
    let signed = signer.sign(id, at, &body).map_err(|error| broken(&error))?;
    told.insert(signature::ID.as_str().to_owned(), id.into());
    told.insert(signature::TIMESTAMP.as_str().to_owned(), at.to_string().into());
    told.insert(signature::SIGNATURE.as_str().to_owned(), signed.into());
    let (body, body_base64) = text_or_base64(&body);
    Ok(Item { cursor: polled.number.to_string(), headers: told, body, body_base64 })
}

fn text_or_base64(body: &Bytes) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(body) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(body))),
    }
}

#[cfg(test)]
mod tests;
