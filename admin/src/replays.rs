//! `/v1/webhook_replays`: jobs that send the events of a bounded window again.
//!
//! Invariant: a replay is made, and ended, in the transaction of its audit entry; dispatchers run it. What a dry run counts
//! are deliveries that are there; events that an endpoint never had are planned by the document when their turn comes.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query, verb};
use crate::endpoints::Endpoint;
use crate::once::{Once, Posted};
use crate::page::Page;
use crate::place::Place;
use crate::problem::Refused;
use crate::revisions::Empty;
use crate::search::{id, of_tenant};
use crate::verbs;
use crate::write::{Run, TryQuery};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use jiff::{SignedDuration, Timestamp};
use model::audit::Entry;
use model::config::ConfigError;
use model::role::Section;
use model::webhook::{Replay, ReplayRequest, ReplayState};
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use store::control::{Effect, Write, WriteError};

/// The longest window of a replay.
const WINDOW_MAX: SignedDuration = SignedDuration::from_hours(31 * 24);
/// The longest type that is asked for, in bytes.
const TYPE_BYTES_MAX: usize = 128;

/// Which replays are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplaysQuery {
    tenant: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What a replay would do.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ReplayDryRun {
    /// How many events were accepted in the window.
    events: u64,
    /// How many deliveries would be queued, of those that are there.
    queue: u64,
    /// How many would be skipped, as they were delivered or are on their way.
    skip: u64,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let verbs = vec![("cancel", routing::post(cancel))];
    Router::new()
        .route("/v1/webhook_replays", routing::get(list).post(create))
        .route("/v1/webhook_replays/{id}", verbs::split(Some(routing::get(get)), verbs))
}

/// `GET /v1/webhook_replays`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<ReplaysQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("webhook_replays", query.limit, query.cursor.as_deref())?;
    let before = page.after.as_deref();
    let replays = match of_tenant(&acting, id("tenant", query.tenant)?) {
        Some(tenant) => shared.store.replays(tenant.as_ref(), before, page.wanted()).await?,
        None => Vec::new(),
    };
    Ok(Answer::ok(&page.listed(replays, |replay: &Replay| replay.id.clone())))
}

/// `GET /v1/webhook_replays/{id}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(id): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    Ok(Answer::ok(&seen(&shared, &acting, &id).await?))
}

async fn seen(shared: &Shared, acting: &Acting, id: &str) -> Result<Replay, Refused> {
    let found = shared.store.replay(id).await?.ok_or(ErrorCode::NotFound)?;
    acting.sees(found.request.tenant.as_str())?;
    Ok(found)
}

/// `POST /v1/webhook_replays`
async fn create(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Query(query): Query<TryQuery>,
    Posted { body, once }: Posted<ReplayRequest>,
) -> Result<Response, Refused> {
    once.done(&shared, asked(&shared, &acting, &once, query.run(), body)).await
}

async fn asked(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    run: Run,
    request: ReplayRequest,
) -> Result<Answer, Refused> {
    let errors = unfit(shared, acting, &request).await?;
    if !errors.is_empty() {
        return Err(Refused::unfit(&errors));
    }
    let counted = shared.store.replay_count(&request).await?;
    if run == Run::Dry {
        let (events, queue, skip) = (counted.events, counted.queue, counted.skip);
        return Ok(Answer::ok(&ReplayDryRun { events, queue, skip }));
    }
    let replay = Replay {
        id: shared.fresh_id(),
        request,
        state: ReplayState::Running,
        created_at: shared.clock.now(),
        by: acting.actor.name.clone(),
        counted: counted.queue,
        queued: 0,
        skipped: 0,
        cursor: 0,
        ended_at: None,
    };
    let tenant = replay.request.tenant.clone();
    let facts =
        json!({ "replay": replay.id, "request": replay.request, "counted": replay.counted });
    let audit = Entry { tenant: Some(tenant), ..acting.entry(shared, facts) };
    let answer = Answer::created(format!("/v1/webhook_replays/{}", replay.id), &replay);
    let effect = Effect::CreateReplay(Box::new(replay));
    shared.store.write(Write { effect, audit, answer: once.keep(&answer)? }).await?;
    Ok(answer)
}

/// Everything that is wrong with what is asked for. What is another tenant's is not there.
async fn unfit(
    shared: &Shared,
    acting: &Acting,
    request: &ReplayRequest,
) -> Result<Vec<ConfigError>, Refused> {
    let newest = shared.newest().await?;
    let tenant = request.tenant.as_str();
    let mut errors = Vec::new();
    let mut add = |at: &str, message: String| errors.push(ConfigError::new(at, message));
    let known = Place::root(Section::Tenants, tenant).find(&newest.document).is_some();
    let hidden = acting.tenant().is_some_and(|own| *own != request.tenant);
    if hidden {
        let error = ConfigError::new("/tenant", format!("there is no tenant `{tenant}`"));
        return Err(Refused::unfit(&[error]).hiding());
    }
    if !known {
        add("/tenant", format!("there is no tenant `{tenant}`"));
    } else if let Some(endpoint) = &request.endpoint {
        let found = Endpoint::find(acting, &newest, endpoint.as_str());
        if !found.is_ok_and(|found| found.is_of(&request.tenant)) {
            add("/endpoint", format!("the tenant has no endpoint `{endpoint}`"));
        }
    }
    if request.until <= request.since {
        add("/until", "must be later than `since`".to_owned());
    } else if request.until.duration_since(request.since) > WINDOW_MAX {
        let days = WINDOW_MAX.as_hours() / 24;
        add("/until", format!("must be at most {days} days after `since`"));
    }
    if request.since > shared.clock.now() {
        add("/since", "is in the future".to_owned());
    }
    for (index, wanted) in request.types.iter().enumerate() {
        if wanted.is_empty() || wanted.len() > TYPE_BYTES_MAX {
            add(&format!("/types/{index}"), format!("must be 1 to {TYPE_BYTES_MAX} bytes"));
        }
    }
    Ok(errors)
}

/// `POST /v1/webhook_replays/{id}:cancel`
async fn cancel(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    let work = async {
        let replay = seen(&shared, &acting, verb(&segment).0).await?;
        if replay.state != ReplayState::Running {
            return Err(ended(replay.state));
        }
        let now: Timestamp = shared.clock.now();
        let facts = json!({ "replay": replay.id, "queued": replay.queued });
        let tenant = Some(replay.request.tenant.clone());
        let audit = Entry { tenant, ..acting.entry(&shared, facts) };
        let effect = Effect::CancelReplay(replay.id.clone(), now);
        let will = Replay { state: ReplayState::Cancelled, ended_at: Some(now), ..replay };
        let answer = Answer::ok(&will);
        match shared.store.write(Write { effect, audit, answer: once.keep(&answer)? }).await {
            Ok(_) => Ok(answer),
            Err(WriteError::Stale) => Err(ended(ReplayState::Done)),
            Err(error) => Err(error.into()),
        }
    };
    once.done(&shared, work).await
}

fn ended(state: ReplayState) -> Refused {
    let message = "It has ended: there is nothing to cancel.";
    Reject::new(ErrorCode::Conflict).message(message).detail("state", state.as_str()).into()
}
