//! `/v1/deliveries` and `/v1/dead_letters`: what became of events at their endpoints, and what an operator does about it.
//!
//! Invariant: a token that is bound to a tenant sees that tenant's only, without the names of nodes. What an event says is a
//! tenant's data: it is told to whoever may operate, after the audit has it. Receivers like to repeat it in their answers,
//! which are shown to nobody else either. A retry and a discard are one transaction with their audit entry.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query, verb};
use crate::endpoints::Endpoint;
use crate::once::{Once, Posted};
use crate::page::{Listed, Page};
use crate::problem::Refused;
use crate::revisions::Empty;
use crate::search::{id, of_tenant, words};
use crate::verbs;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use jiff::Timestamp;
use model::audit::Entry;
use model::id::TenantId;
use model::role::Permission;
use model::webhook::{
    Attempt, Delivery, DeliveryState, Outcome, Reason, WebhookId, delivery_number,
};
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::{Effect, Write, WriteError};
use store::webhooks::DeliveryQuery;

/// The longest `webhook_id` and `type` that are looked for, in characters.
pub(crate) const WORD_MAX: usize = 128;

/// Which deliveries are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveriesQuery {
    tenant: Option<String>,
    endpoint: Option<String>,
    state: Option<DeliveryState>,
    webhook_id: Option<String>,
    r#type: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Which dead letters are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLettersQuery {
    tenant: Option<String>,
    endpoint: Option<String>,
    webhook_id: Option<String>,
    r#type: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `?body=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BodyQuery {
    body: Option<bool>,
}

/// A delivery with what became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeliveryWhole {
    /// The delivery.
    #[serde(flatten)]
    delivery: Delivery,
    /// Each attempt that is kept, newest first: at most 200. One that is taken up again begins at 1 again.
    history: Vec<AttemptShown>,
    /// The event in structured form (CloudEvents 1.0), with `?body=true`; none when it is no longer kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Value>,
}

/// An attempt, as it is shown.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeliveryAttempt")]
pub(crate) struct AttemptShown {
    /// Which one, from 1.
    attempt: u32,
    /// When it began.
    at: Timestamp,
    /// How long it took, in microseconds.
    took_us: u64,
    /// What it came to.
    outcome: Outcome,
    /// The status, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// What went wrong, for people, where there was no answer; else how the answer's body began, which is told to whoever may
    /// operate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<String>,
    /// The node that made it. Not told to tokens of a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let verbs = vec![("retry", routing::post(retry)), ("discard", routing::post(discard))];
    Router::new()
        .route("/v1/deliveries", routing::get(list))
        .route("/v1/deliveries/{id}", verbs::split(Some(routing::get(get)), verbs))
        .route("/v1/dead_letters", routing::get(dead_letters))
}

/// `GET /v1/deliveries`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("deliveries", query.limit, query.cursor.as_deref())?;
    let asked = DeliveryQuery {
        endpoint: id("endpoint", query.endpoint)?,
        state: query.state,
        webhook_id: words("webhook_id", query.webhook_id, WORD_MAX)?.map(WebhookId::known),
        r#type: words("type", query.r#type, WORD_MAX)?,
        since: query.since,
        until: query.until,
        ..DeliveryQuery::default()
    };
    found(&shared, &acting, page, id("tenant", query.tenant)?, asked).await
}

/// `GET /v1/dead_letters`: what came to nothing, and nobody has closed yet.
async fn dead_letters(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("dead_letters", query.limit, query.cursor.as_deref())?;
    let asked = DeliveryQuery {
        endpoint: id("endpoint", query.endpoint)?,
        state: Some(DeliveryState::Dead),
        without: Some(Reason::Discarded),
        webhook_id: words("webhook_id", query.webhook_id, WORD_MAX)?.map(WebhookId::known),
        r#type: words("type", query.r#type, WORD_MAX)?,
        since: query.since,
        until: query.until,
        ..DeliveryQuery::default()
    };
    found(&shared, &acting, page, id("tenant", query.tenant)?, asked).await
}

async fn found(
    shared: &Shared,
    acting: &Acting,
    page: Page,
    tenant: Option<TenantId>,
    asked: DeliveryQuery,
) -> Result<Answer, Refused> {
    let (before, limit) = (page.after()?, page.wanted());
    let deliveries = match of_tenant(acting, tenant) {
        Some(tenant) => {
            shared.store.deliveries(&DeliveryQuery { tenant, before, limit, ..asked }).await?
        }
        None => Vec::new(),
    };
    let number = |delivery: &Delivery| {
        delivery_number(&delivery.id).map(|number| number.to_string()).unwrap_or_default()
    };
    let listed: Listed<Delivery> = page.listed(deliveries, number);
    Ok(Answer::ok(&listed))
}

/// `GET /v1/deliveries/{id}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(id): Path<String>,
    Query(query): Query<BodyQuery>,
) -> Result<Answer, Refused> {
    let with_body = query.body.unwrap_or_default();
    if with_body {
        acting.may(Permission::Operate)?;
    }
    let Seen { delivery, attempts, .. } = Seen::of(&shared, &acting, &id).await?;
    let event = match with_body {
        true => told(&shared, &acting, &delivery).await?,
        false => None,
    };
    let history = attempts.into_iter().map(|attempt| AttemptShown::to(&acting, attempt)).collect();
    Ok(Answer::ok(&DeliveryWhole { delivery, history, event }))
}

/// What the event says, once it is audited that it is told; none when it is no longer kept.
async fn told(
    shared: &Shared,
    acting: &Acting,
    delivery: &Delivery,
) -> Result<Option<Value>, Refused> {
    let facts = json!({ "told": "event", "delivery": delivery.id });
    let audit = Entry { tenant: Some(delivery.tenant.clone()), ..acting.entry(shared, facts) };
    shared.store.write(Write { effect: Effect::Note, audit, answer: None }).await?;
    let kept = shared.store.event(&delivery.webhook_id).await?;
    kept.map(|kept| serde_json::from_slice(&kept.content)).transpose().map_err(Refused::internal)
}

/// `POST /v1/deliveries/{id}:retry`
async fn retry(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    once.done(&shared, change(&shared, &acting, &once, &segment, Verb::Retry)).await
}

/// `POST /v1/deliveries/{id}:discard`
async fn discard(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    once.done(&shared, change(&shared, &acting, &once, &segment, Verb::Discard)).await
}

/// What an operator does about a delivery.
enum Verb {
    Retry,
    Discard,
}

/// Does it, and answers with the delivery as it is then.
async fn change(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    segment: &str,
    asked: Verb,
) -> Result<Answer, Refused> {
    let Seen { number, delivery: was, .. } = Seen::of(shared, acting, verb(segment).0).await?;
    let now = Some(shared.clock.now());
    let (effect, will) = match asked {
        Verb::Retry => {
            if matches!(was.state, DeliveryState::Delivered | DeliveryState::Held) {
                return Err(settled(&was));
            }
            let newest = shared.newest().await?;
            Endpoint::of_delivery(&newest, &was)?.is_served(shared).await?;
            let (state, reason, settled_at) = (DeliveryState::Pending, None, None);
            let will =
                Delivery { state, reason, attempts: 0, due_at: now, settled_at, ..was.clone() };
            (Effect::RetryDelivery { number }, will)
        }
        Verb::Discard => {
            let (state, reason) = (DeliveryState::Dead, Some(Reason::Discarded));
            let will = Delivery { state, reason, due_at: None, settled_at: now, ..was.clone() };
            (Effect::DiscardDelivery { number }, will)
        }
    };
    let facts = json!({
        "delivery": was.id,
        "endpoint": was.endpoint,
        "webhook_id": was.webhook_id,
        "before": { "state": was.state, "reason": was.reason, "attempts": was.attempts },
    });
    let answer = Answer::ok(&will);
    let audit = Entry { tenant: Some(was.tenant.clone()), ..acting.entry(shared, facts) };
    let write = Write { effect, audit, answer: once.keep(&answer)? };
    match shared.store.write(write).await {
        Ok(_) => Ok(answer),
        Err(WriteError::Stale) => Err(settled(&was)),
        Err(error) => Err(error.into()),
    }
}

fn settled(delivery: &Delivery) -> Refused {
    let message = "It is under way, waits behind another one, is delivered or discarded: look it up again. What was delivered is \
         sent once more by a replay with `dedupe: force`.";
    Reject::new(ErrorCode::Conflict)
        .message(message)
        .detail("state", delivery.state.as_str())
        .into()
}

/// A delivery that who asks may see.
struct Seen {
    number: u64,
    delivery: Delivery,
    attempts: Vec<Attempt>,
}

impl Seen {
    async fn of(shared: &Shared, acting: &Acting, id: &str) -> Result<Self, Refused> {
        let number = delivery_number(id).ok_or(ErrorCode::NotFound)?;
        let found = shared.store.delivery(number).await?;
        let (delivery, attempts) = found.ok_or(ErrorCode::NotFound)?;
        acting.sees(delivery.tenant.as_str())?;
        Ok(Self { number, delivery, attempts })
    }
}

impl AttemptShown {
    fn to(acting: &Acting, attempt: Attempt) -> Self {
        let Attempt { attempt, at, took, outcome, status, excerpt, node } = attempt;
        // What is said without an answer is the gateway's own.
        let is_told = status.is_none() || acting.may(Permission::Operate).is_ok();
        Self {
            attempt,
            at,
            took_us: took,
            outcome,
            status,
            excerpt: excerpt.filter(|_| is_told),
            node: acting.tenant().is_none().then_some(node),
        }
    }
}
