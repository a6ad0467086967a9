//! `/v1/idempotency`: what is kept of an idempotency key, and freeing one of which nobody knows what came of it.
//!
//! A key stands in the path as it stands in the header, bare or quoted, percent-encoded. A segment that ends in `:release`
//! as it was sent is the verb's, any other colon the key's; the colon of a key that ends so is written `%3A`.
//!
//! Invariants: who looks a key up is told what state it is in, and not what was answered: that is a partner's data, which
//! nobody needs to keep traffic in order, as a record that can be released has no answer. It is told to administrators who
//! ask for it, after the audit has it. Records are not in the store's transactions: a release is audited twice, before it as
//! begun, and after it as what it came to. Where the first entry stands alone, nobody knows.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query};
use crate::once::{Once, Posted};
use crate::problem::Refused;
use crate::verbs;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use model::audit::Entry;
use model::id::{RouteId, TenantId, is_id};
use model::idempotency::{
    self as machine, Fence, Found, Key, Outline, Record, RecordsError, Settled, State as Stage,
};
use model::revision::KeptAnswer;
use model::role::Permission;
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::{Effect, Write};
use tokio::sync::SemaphorePermit;

/// How many look-ups are in progress at once; more are refused. Each holds at most one stored answer.
pub(crate) const LOOKUPS_MAX: usize = 8;

/// Where tenants' keys are.
pub(crate) const KEYS: &str = "/v1/idempotency/";

/// What is done to a key, as the path has it.
const RELEASE: &str = "release";

/// What is kept of a key.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyRecords {
    /// The tenant.
    tenant: TenantId,
    /// One record of each subject and route that used the key, newest first.
    records: Vec<RecordShown>,
}

/// What is kept of a key that a subject used on a route.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "IdempotencyRecord")]
pub(crate) struct RecordShown {
    /// Its name: the hash of tenant, subject, route and key.
    id: String,
    /// The route.
    route: RouteId,
    /// How far it is.
    state: StateShown,
    /// Whether a request that was sent before the holder's may have taken effect: the route has such requests sent again.
    in_doubt: bool,
    /// The number of whoever holds it: larger than those of all before.
    fence: i64,
    /// The node that sent the request. Not told to tokens of a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// When the request was let through.
    claimed_at: Timestamp,
    /// Until when its holder has the key to itself; of `dispatched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<Timestamp>,
    /// Since when it is so; of the other states.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// When the key is free again.
    expires_at: Timestamp,
    /// The status that was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// How much of the answer is kept, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// What is kept of the answer, with `?body=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<StoredAnswer>,
}

/// How far a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "IdempotencyState")]
pub(crate) enum StateShown {
    /// The request may be on its way.
    Dispatched,
    /// Nobody knows whether it took effect.
    Unknown,
    /// It was answered, and repeats get that answer.
    Done,
    /// It was answered, and the answer is not kept.
    NotRetained,
}

/// What is kept of an answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StoredAnswer {
    /// The headers that repeats get; what is no text in them is shown as U+FFFD.
    headers: Vec<StoredHeader>,
    /// The body in base64; none where it is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    body: Option<String>,
}

/// A header that is kept.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StoredHeader {
    /// Its name, in lower case.
    name: String,
    /// Its value.
    value: String,
}

/// Which record is released.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Releasing {
    /// The record's `id`.
    record: String,
    /// The `fence` that it was seen with: what somebody else holds by then is left alone.
    fence: i64,
}

/// What was released.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Released {
    /// The tenant.
    tenant: TenantId,
    /// The record, as it was.
    record: RecordShown,
}

/// `?record=&body=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyQuery {
    record: Option<String>,
    body: Option<bool>,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let release = vec![(RELEASE, routing::post(release))];
    Router::new().route(
        "/v1/idempotency/{tenant}/{key}",
        verbs::split_from_names(routing::get(get), release),
    )
}

/// `GET /v1/idempotency/{tenant}/{key}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path((tenant, key)): Path<(String, String)>,
    Query(query): Query<KeyQuery>,
) -> Result<Answer, Refused> {
    let asked = Asked::of(&shared, &acting, &tenant, &key)?;
    let with_body = query.body.unwrap_or_default();
    if with_body {
        acting.may(Permission::Administer)?;
    }
    let _place = asked.place()?;
    let Found { now, mut records } = asked.find().await?;
    records.retain(|record| query.record.as_ref().is_none_or(|id| *id == name(record)));
    if records.is_empty() {
        return Err(absent());
    }
    let mut shown: Vec<_> = records.iter().map(|record| asked.shown(record, now)).collect();
    if with_body {
        asked.tell_answer(&records, &mut shown).await?;
    }
    Ok(Answer::ok(&KeyRecords { tenant: asked.tenant, records: shown }))
}

/// `POST /v1/idempotency/{tenant}/{key}:release`
async fn release(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path((tenant, segment)): Path<(String, String)>,
    NoQuery: NoQuery,
    Posted { body, once }: Posted<Releasing>,
) -> Result<Response, Refused> {
    let key = segment.strip_suffix(RELEASE).and_then(|rest| rest.strip_suffix(':'));
    let asked = Asked::of(&shared, &acting, &tenant, key.unwrap_or_default())?;
    once.done(&shared, asked.release(&body, &once)).await
}

/// A key that is asked about, by somebody who may.
struct Asked<'a> {
    shared: &'a Shared,
    acting: &'a Acting,
    tenant: TenantId,
    key: Key,
}

impl<'a> Asked<'a> {
    fn of(
        shared: &'a Shared,
        acting: &'a Acting,
        tenant: &str,
        key: &str,
    ) -> Result<Self, Refused> {
        acting.sees(tenant)?;
        if !is_id(tenant) {
            return Err(ErrorCode::NotFound.into());
        }
        // Clients resolve dot segments (RFC 3986 §5.2.4), also encoded ones; with a quote before it, none is left.
        if key.starts_with('.') {
            let message = "A key that begins with a dot is written in quotes here: `%22.…%22`.";
            return Err(Refused::malformed(message));
        }
        let key = Key::parse(key.as_bytes())
            .map_err(|error| Refused::malformed(format!("This can't be looked up: {error}.")))?;
        Ok(Self { shared, acting, tenant: TenantId::from(tenant), key })
    }

    /// A place among those who look keys up.
    fn place(&self) -> Result<SemaphorePermit<'a>, Refused> {
        self.shared.lookups.try_acquire().map_err(|_| {
            let busy = Reject::new(ErrorCode::Overloaded).retry_after(1);
            busy.message("Too many keys are being looked up.").into()
        })
    }

    async fn find(&self) -> Result<Found, Refused> {
        self.shared.records.find(&self.tenant, &self.key).await.map_err(refused)
    }

    /// As it is by the store's clock.
    fn shown(&self, record: &Record<Outline>, now: i64) -> RecordShown {
        RecordShown::of(record, now, self.acting.tenant().is_some())
    }

    /// Adds the one stored answer that there is, once it is audited that it is told.
    async fn tell_answer(
        &self,
        records: &[Record<Outline>],
        shown: &mut [RecordShown],
    ) -> Result<(), Refused> {
        let is_answered = |record: &Record<Outline>| matches!(record.state, Stage::Done { .. });
        let answered = records.iter().zip(shown).filter(|(record, _)| is_answered(record));
        let mut answered: Vec<_> = answered.collect();
        if answered.len() > 1 {
            return Err(Refused::malformed(
                "There are several records with an answer under this key: name one of them with `record`.",
            ));
        }
        let Some((record, shown)) = answered.pop() else { return Ok(()) };
        let answer = self.shared.records.answer(&record.key, record.fence).await;
        let Some(answer) = answer.map_err(refused)? else {
            return Err(conflict("The record changed meanwhile: look it up again."));
        };
        let facts = json!({ "told": "answer", "record": shown.id, "fence": shown.fence });
        self.note(facts, None).await?;
        // What can't be opened is known only now.
        shown.state = StateShown::of(&answer.outline());
        shown.answer = Some(StoredAnswer::of(&answer));
        Ok(())
    }

    async fn release(&self, releasing: &Releasing, once: &Once) -> Result<Answer, Refused> {
        let _place = self.place()?;
        let Found { now, records } = self.find().await?;
        let record = records.iter().find(|record| name(record) == releasing.record);
        let record = record.ok_or_else(absent)?;
        let shown = self.shown(record, now);
        // Refuses what can't be released before anything of it is written.
        is_releasable(&shown, releasing.fence)?;
        let told = |state: &str| json!({ "state": state, "record": shown });
        self.note(told("begun"), None).await?;
        let cleared = self.shared.records.clear(&record.key, Fence(releasing.fence)).await;
        match cleared {
            Ok(Settled::Applied) => {
                let facts = told("done");
                let answer = Answer::ok(&Released { tenant: self.tenant.clone(), record: shown });
                self.note(facts, once.keep(&answer)?).await?;
                Ok(answer)
            }
            Ok(Settled::Already | Settled::Stale) => {
                self.note(told("stale"), None).await?;
                Err(conflict("The record changed meanwhile: look it up again."))
            }
            Err(error) => {
                self.note(told("failed"), None).await?;
                Err(refused(error))
            }
        }
    }

    async fn note(&self, facts: Value, answer: Option<KeptAnswer>) -> Result<(), Refused> {
        let audit =
            Entry { tenant: Some(self.tenant.clone()), ..self.acting.entry(self.shared, facts) };
        self.shared.store.write(Write { effect: Effect::Note, audit, answer }).await?;
        Ok(())
    }
}

/// Only what nobody knows is released, and only as it was seen.
fn is_releasable(record: &RecordShown, fence: i64) -> Result<(), Refused> {
    let message = match record.state {
        _ if record.fence != fence => "Another request holds the key by now: look it up again.",
        StateShown::Unknown => return Ok(()),
        StateShown::Dispatched => {
            "The request may be on its way until `lease_until`: nothing is released before that."
        }
        StateShown::Done | StateShown::NotRetained => {
            "The request was answered: there is nothing to release."
        }
    };
    Err(conflict(message))
}

impl RecordShown {
    fn of(record: &Record<Outline>, now: i64, bound: bool) -> Self {
        let (state, lease_until, since) = match record.state_at(now) {
            Stage::Dispatched { lease_until } => (StateShown::Dispatched, Some(lease_until), None),
            Stage::Unknown { since } => (StateShown::Unknown, None, Some(since)),
            Stage::Done { stored_at, answer } => (StateShown::of(&answer), None, Some(stored_at)),
        };
        let answer = match &record.state {
            Stage::Done { answer, .. } => Some(answer),
            Stage::Dispatched { .. } | Stage::Unknown { .. } => None,
        };
        Self {
            id: name(record),
            route: record.route.clone(),
            state,
            in_doubt: record.in_doubt,
            fence: record.fence.0,
            owner: (!bound).then(|| record.owner.as_str().to_owned()),
            claimed_at: at(record.claimed_at),
            lease_until: lease_until.map(at),
            since: since.map(at),
            expires_at: at(record.expires_at),
            status: answer.map(|answer| answer.status.as_u16()),
            size: answer.map(|answer| answer.size as u64),
            answer: None,
        }
    }
}

impl StateShown {
    const fn of(answer: &Outline) -> Self {
        if answer.is_retained { Self::Done } else { Self::NotRetained }
    }
}

impl StoredAnswer {
    fn of(answer: &machine::Answer) -> Self {
        match answer {
            machine::Answer::Retained(response) => Self {
                headers: response.headers.iter().map(StoredHeader::of).collect(),
                body: Some(STANDARD.encode(&response.body)),
            },
            // Whoever could open it has.
            machine::Answer::Sealed(_) => Self { headers: Vec::new(), body: None },
            machine::Answer::NotRetained { location, .. } => {
                let location = location.iter().map(|value| (header::LOCATION, value.clone()));
                let headers = location.map(|line| StoredHeader::of(&line)).collect();
                Self { headers, body: None }
            }
        }
    }
}

impl StoredHeader {
    fn of((name, value): &(HeaderName, HeaderValue)) -> Self {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self { name: name.as_str().to_owned(), value }
    }
}

/// The record's name.
fn name(record: &Record<Outline>) -> String {
    record.key.digest.to_string()
}

fn at(micros: i64) -> Timestamp {
    // A saturated sum lies beyond what can be shown.
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

fn absent() -> Refused {
    let message = "No such record is kept: the key is free.";
    Reject::new(ErrorCode::NotFound).message(message).into()
}

fn conflict(message: &str) -> Refused {
    Reject::new(ErrorCode::Conflict).message(message).into()
}

fn refused(error: RecordsError) -> Refused {
    match error {
        RecordsError::Elsewhere => conflict(
            "Idempotency records are kept in each gateway's own process, and this one is no gateway. Ask a process that is \
             both (`roles: [gateway, admin]`).",
        ),
        RecordsError::Store(error) => error.into(),
    }
}
