//! Webhooks of the document's sources: verified over the raw body, and read as events.
//!
//! Invariant: nothing of a body is read before its signature was verified.

mod mapping;
mod verify;

pub(crate) use mapping::{Entry, at, event_of};

use crate::Dispatcher;
use crate::secret::Secrets;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use model::document::{self, Mapping};
use model::event::CloudEvent;
use model::id::{SourceId, TenantId};
use model::{ErrorCode, Reject};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use verify::{Refused, Verifier};

/// For how long a source's secrets are used before they are read again: those in files may change.
pub(crate) const SECRETS_TIME: Duration = Duration::from_secs(10);

/// The sources of the document in force that send webhooks.
pub(crate) struct Inbound {
    dispatcher: Arc<Dispatcher>,
    secrets_time: Duration,
    /// Those that sent something under this revision: never more than the document has.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    sources: HashMap<SourceId, Arc<Source>>,
}

/// A source that sends webhooks.
pub(crate) struct Source {
    id: SourceId,
    tenant: TenantId,
    verifier: Verifier,
    mapping: Mapping,
    /// When its secrets were read, in microseconds since the epoch.
    read_at: i64,
}

impl Inbound {
    /// Those of this dispatcher's document, whose secrets are read again after so long.
    pub(crate) fn new(dispatcher: Arc<Dispatcher>, secrets_time: Duration) -> Self {
        Self { dispatcher, secrets_time, known: Mutex::default() }
    }

    /// The source of this id. `now`: µs since the epoch.
    pub(crate) async fn source(&self, id: SourceId, now: i64) -> Result<Arc<Source>, Reject> {
        let book = self.dispatcher.fresh_book().await.ok_or_else(|| {
            Reject::new(ErrorCode::DependencyUnavailable)
                .retry_after(1)
                .because("no revision is in force yet")
        })?;
        if let Some(known) = self.known(book.revision, &id, now) {
            return Ok(known);
        }
        let written = book.config.document().sources.iter().find(|source| source.id == id);
        let written = written.ok_or(ErrorCode::NotFound)?.clone();
        let (dispatcher, secrets_time) = (self.dispatcher.clone(), self.secrets_time);
        let read = tokio::task::spawn_blocking(move || {
            Source::read(&dispatcher.secrets, &written, secrets_time, now)
        });
        let read = read.await.map_err(|error| Reject::new(ErrorCode::Internal).because(error))?;
        let source = Arc::new(read?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.revision != book.revision {
            *known = Known { revision: book.revision, sources: HashMap::new() };
        }
        known.sources.insert(id.clone(), source.clone());
        Ok(source)
    }

    fn known(&self, revision: u64, id: &SourceId, now: i64) -> Option<Arc<Source>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let source = known.sources.get(id).filter(|_| known.revision == revision)?;
        let age = u128::try_from(now.saturating_sub(source.read_at)).ok()?;
        (age < self.secrets_time.as_micros()).then(|| source.clone())
    }
}

impl Source {
    /// A source as the document has it, with its secrets. Reads files.
    fn read(
        secrets: &Secrets,
        source: &document::Source,
        secrets_time: Duration,
        now: i64,
    ) -> Result<Self, Reject> {
        let kind = source.verify.ok_or(ErrorCode::NotFound)?;
        let unready = |cause: String| {
            Reject::new(ErrorCode::DependencyUnavailable)
                .retry_after(secrets_time.as_secs().max(1))
                .because(format!("a secret of the source `{}`: {cause}", source.id))
        };
        let mut revealed = Vec::new();
        for secret in source.secret.iter().chain(&source.previous_secret) {
            let secret = secrets.reveal(secret);
            revealed.push(secret.map_err(|error| unready(error.to_string()))?);
        }
        Ok(Self {
            id: source.id.clone(),
            tenant: source.tenant.clone(),
            verifier: Verifier::new(kind, &revealed, source.tolerance.0).map_err(unready)?,
            mapping: source.event.clone(),
            read_at: now,
        })
    }

    /// Refuses what can't be this source's, whatever its body is.
    pub(crate) fn look(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), Reject> {
        self.verifier.look(headers, now.as_second()).map_err(unverified)
    }

    /// The event that a webhook tells of.
    pub(crate) fn event(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        now: Timestamp,
    ) -> Result<CloudEvent, Reject> {
        let message = self.verifier.verify(headers, body, now.as_second()).map_err(unverified)?;
        let text = serde_json::from_slice(body).map_err(|error| {
            Reject::new(ErrorCode::ValidationFailed).message(format!(
                "The body is not JSON: line {}, column {}.",
                error.line(),
                error.column()
            ))
        })?;
        event_of(&Entry {
            source: &format!("/v1/inbound/{}", self.id),
            tenant: &self.tenant,
            mapping: &self.mapping,
            text,
            known_as: message,
        })
    }
}

/// 401, as RFC 9110 §15.5.2 has it: with what is asked for.
fn unverified(why: Refused) -> Reject {
    let code = match why {
        Refused::Missing(_) => ErrorCode::CredentialMissing,
        _ => ErrorCode::SignatureInvalid,
    };
    Reject::new(code)
        .message(why.to_string())
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Signature realm="tollgate""#))
}
