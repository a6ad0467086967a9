//! One turn at a source: it is asked until there is nothing more for now.

use super::cursor::{State, Step};
use crate::Dispatcher;
use crate::bookmark::{Bookmark, Lost};
use crate::client::{Fetched, Question};
use crate::inbound::{Entry, at, event_of};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ingest::Origin;
use model::document::{Poll, Source};
use model::event::{Event, SOURCE_RESTARTED, SOURCE_SKIPPED};
use model::port::StoreError;
use model::webhook::Acceptance;
use model::{ErrorCode, Reject, retry_after};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use store::control::ToldOnce;

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// How many answers a turn has; then others have theirs.
const PAGES_MAX: u32 = 100;

/// How often a turn starts over: a source that knows none of its own cursors fails, and is left alone for a while.
const RESTARTS_MAX: u32 = 1;

/// How many entries are accepted together.
const ENTRIES_AT_ONCE: usize = 256;

/// How many of the entries that were passed over are named.
const SKIPPED_NAMED_MAX: usize = 10;

/// For how long it is remembered that something was told.
const TOLD_TIME: Duration = Duration::from_secs(7 * 86_400);

/// A turn at a source.
pub(super) struct Turn<'a> {
    pub(super) dispatcher: &'a Arc<Dispatcher>,
    pub(super) source: &'a Source,
    pub(super) poll: &'a Poll,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// There is nothing more for now.
    All,
    /// There may be more.
    Some,
}

impl Pages {
    /// How long to wait before the next turn, of one that took so many microseconds.
    pub(super) fn pause(self, interval: Duration, took: i64) -> Duration {
        match self {
            // What was held back by the other side has waited already.
            Self::All => interval.saturating_sub(Duration::from_micros(took.unsigned_abs())),
            Self::Some => Duration::ZERO,
        }
    }
}

/// Why a turn ends early. Its text holds no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Question(String),
    #[error("it can't be asked: {0}")]
    Asked(String),
    #[error("it answers with status {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("its answer can't be read: {0}")]
    Unreadable(String),
    #[error("its entries are not accepted for now: {0}")]
    Refused(ErrorCode, Option<Duration>),
    #[error("the process stops")]
    Stopped,
}

impl Trouble {
    /// Whether it is the source's fault, or that of the way to it. That its tenant's caps are reached is none.
    pub(super) fn is_fault(&self) -> bool {
        !matches!(self, Self::Refused(ErrorCode::RateLimited, _))
    }

    /// How long it is to be left alone, if somebody said so.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Status(_, wait) | Self::Refused(_, wait) => *wait,
            _ => None,
        }
    }
}

impl Turn<'_> {
    /// Asks until there is nothing more. How far it was read is kept after each answer.
    pub(super) async fn run(
        &self,
        bookmark: &mut Bookmark,
        state: &mut State,
    ) -> Result<Pages, Trouble> {
        let question = self.question().await?;
        let (mut step, mut restarts) = (Step::First, 0);
        for _ in 0..PAGES_MAX {
            let fetched = self.ask(&question, bookmark, state, step).await?;
            match fetched.status {
                StatusCode::OK => {}
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => return Ok(Pages::All),
                StatusCode::BAD_REQUEST | StatusCode::GONE
                    if state.cursor.is_some() && restarts < RESTARTS_MAX =>
                {
                    restarts += 1;
                    self.start_over(state, fetched.status).await?;
                    bookmark.keep(state).await?;
                    step = Step::First;
                    continue;
                }
                status => return Err(Trouble::Status(status, self.wait(&fetched.headers))),
            }
            let answer: &RawValue = serde_json::from_slice(&fetched.body).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                Trouble::Unreadable(format!("it is not JSON: line {line}, column {column}"))
            })?;
            let entries = self.entries(answer)?;
            bookmark.while_waiting(self.keep(&entries)).await??;
            let moved = match &self.poll.cursor {
                Some(cursor) => state.advance(cursor, answer, &entries),
                None => false,
            };
            if !moved && step == Step::First {
                let text =
                    |name| fetched.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
                state.etag = text(header::ETAG).map(str::to_owned);
                state.last_modified = text(header::LAST_MODIFIED).map(str::to_owned);
            }
            bookmark.keep(state).await?;
            if !self.goes_on(step, moved, &entries) {
                return Ok(Pages::All);
            }
            step = Step::Next;
        }
        Ok(Pages::Some)
    }

    /// Whether there may be more: the mark moved with something in the answer, or all of it lies in the overlap.
    fn goes_on(&self, step: Step, moved: bool, entries: &[&RawValue]) -> bool {
        let reached_back = self.poll.cursor.as_ref().is_some_and(|cursor| cursor.overlap.is_some());
        !entries.is_empty() && (moved || (step == Step::First && reached_back))
    }

    /// What is asked, with the secrets that it needs.
    async fn question(&self) -> Result<Question, Trouble> {
        let (dispatcher, poll) = (self.dispatcher.clone(), self.poll.clone());
        let tenant = self.source.tenant.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let reveal = |secret: &_| dispatcher.secrets.reveal(secret);
            dispatcher.client.question(&poll, &tenant, &reveal)
        });
        let prepared = prepared.await.map_err(|error| Trouble::Question(error.to_string()))?;
        prepared.map_err(|error| Trouble::Question(error.to_string()))
    }

    async fn ask(
        &self,
        question: &Question,
        bookmark: &mut Bookmark,
        state: &State,
        step: Step,
    ) -> Result<Fetched, Trouble> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let mut put = |name: HeaderName, value: &Option<String>| {
            if let Some(Ok(value)) = value.as_ref().map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        };
        if step == Step::First {
            put(header::IF_NONE_MATCH, &state.etag);
            put(header::IF_MODIFIED_SINCE, &state.last_modified);
        }
        let query = state.query(self.poll, step);
        let query: Vec<(&str, &str)> =
            query.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let client = &self.dispatcher.client;
        let asked = client.ask(question, &query, headers, ANSWER_BYTES_MAX);
        let fetched = bookmark.while_waiting(asked).await?;
        fetched.map_err(|failure| Trouble::Asked(failure.to_string()))
    }

    fn entries<'b>(&self, answer: &'b RawValue) -> Result<Vec<&'b RawValue>, Trouble> {
        let place = &self.poll.items;
        let unreadable =
            || Trouble::Unreadable(format!("there is no list of entries at `{place}`"));
        let items = at(answer, place).ok_or_else(unreadable)?;
        serde_json::from_str(items.get()).map_err(|_| unreadable())
    }

    fn wait(&self, headers: &HeaderMap) -> Option<Duration> {
        let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        retry_after::parse(value, self.dispatcher.clock.now())
    }

    /// Accepts entries in their order. One that can't ever be is passed over, and told; one that can't now ends the turn.
    async fn keep(&self, entries: &[&RawValue]) -> Result<(), Trouble> {
        let source = format!("/v1/sources/{}", self.source.id);
        let mut skipped = Vec::new();
        for some in entries.chunks(ENTRIES_AT_ONCE) {
            let mut events = Vec::with_capacity(some.len());
            for entry in some {
                let event = event_of(&Entry {
                    source: &source,
                    tenant: &self.source.tenant,
                    mapping: &self.source.event,
                    text: entry,
                    known_as: None,
                });
                match event {
                    Ok(event) => events.push(event),
                    Err(reject) => skipped.push(Skipped::of(&reject)),
                }
            }
            let ids: Vec<String> = events.iter().map(|event| event.id().to_owned()).collect();
            let kept = self.dispatcher.ingest.keep_each(Origin::Source, events).await;
            for (outcome, id) in kept.map_err(later)?.into_iter().zip(ids) {
                match outcome {
                    Ok(Acceptance::Accepted | Acceptance::Repeat) => {}
                    Ok(Acceptance::Conflict) => skipped.push(Skipped::conflict(id)),
                    Ok(Acceptance::Full) => {
                        return Err(Trouble::Refused(ErrorCode::RateLimited, None));
                    }
                    Err(reject) if !ingest::waits(reject.code) => {
                        skipped.push(Skipped { id: Some(id), ..Skipped::of(&reject) });
                    }
                    Err(reject) => return Err(later(reject)),
                }
            }
        }
        self.tell_skipped(&skipped).await
    }

    async fn tell_skipped(&self, skipped: &[Skipped]) -> Result<(), Trouble> {
        let Some(first) = skipped.first() else { return Ok(()) };
        let (source, count) = (&self.source.id, skipped.len());
        let (code, message) = (first.code, &first.message);
        tracing::warn!(%source, count, %code, message, "entries of a source are passed over");
        let named: Vec<Value> =
            skipped.iter().take(SKIPPED_NAMED_MAX).map(Skipped::shown).collect();
        let mut of = Sha256::new();
        skipped.iter().for_each(|skipped| of.update(skipped.shown().to_string()));
        let of = of.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let data = json!({ "source": source, "count": count, "entries": named });
        self.tell(SOURCE_SKIPPED, &of, data).await
    }

    /// The other side no longer knows the mark: everything is read again, and what is kept already is a repeat.
    async fn start_over(&self, state: &mut State, status: StatusCode) -> Result<(), Trouble> {
        let source = &self.source.id;
        tracing::warn!(%source, %status, "a source no longer knows its cursor: it is read from the start");
        let of = state.cursor.take().unwrap_or_default();
        state.start_over();
        let data = json!({ "source": source, "status": status.as_u16() });
        self.tell(SOURCE_RESTARTED, &of, data).await
    }

    /// Puts an event into the outbox, once.
    async fn tell(&self, kind: &str, of: &str, data: Value) -> Result<(), Trouble> {
        let now = self.dispatcher.clock.now();
        let source = &self.source.id;
        let event = Event {
            id: uuid::Uuid::now_v7().to_string(),
            at: now,
            r#type: kind.to_owned(),
            tenant: Some(self.source.tenant.clone()),
            subject: format!("/v1/sources/{source}"),
            data,
        };
        let until = now.checked_add(TOLD_TIME).unwrap_or(now);
        let told = ToldOnce { name: format!("{kind}\0{source}\0{of}"), until, event };
        self.dispatcher.store.tell_once(vec![told]).await?;
        Ok(())
    }
}

/// An entry that is passed over.
#[derive(Clone, Debug)]
struct Skipped {
    id: Option<String>,
    code: ErrorCode,
    message: String,
    errors: Option<Value>,
}

impl Skipped {
    fn of(reject: &Reject) -> Self {
        let errors = reject.details.get("errors").cloned();
        Self { id: None, code: reject.code, message: reject.public_message().to_owned(), errors }
    }

    fn conflict(id: String) -> Self {
        let message = "Another event of this source was accepted under its id.".to_owned();
        Self { id: Some(id), code: ErrorCode::Conflict, message, errors: None }
    }

    fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "code": self.code.as_str(),
            "message": self.message,
            "errors": self.errors,
        })
    }
}

fn later(reject: Reject) -> Trouble {
    Trouble::Refused(reject.code, reject.retry_after.map(Duration::from_secs))
}
