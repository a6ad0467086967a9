//! `/v1/consumers/{id}/credentials`: API keys, made here and shown once.
//!
//! Invariant: a key is in the answer that makes it and nowhere else; the document has its hash.

mod minted;
mod owner;

use crate::Shared;
use crate::allowed::{Keeper, Reader};
use crate::answer::Answer;
use crate::body::{Path, Query, verb};
use crate::once::Posted;
use crate::page::Page;
use crate::place::Place;
use crate::precondition::{is_known, tag};
use crate::problem::Refused;
use crate::verbs;
use crate::write::{ChangeQuery, Edit, How, Made, Proposal, Writing};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use http::HeaderMap;
use jiff::Timestamp;
use minted::Minted;
use model::config::ConfigError;
use model::revocation::Revoked;
use model::units::Duration;
use model::{ErrorCode, Reject};
use owner::Owner;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// How long a rotated key is accepted when nobody says.
const GRACE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
/// The longest grace.
const GRACE_MAX: std::time::Duration = std::time::Duration::from_secs(90 * 24 * 60 * 60);

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let one = routing::get(get).delete(delete);
    let one = verbs::split(Some(one), vec![("rotate", routing::post(rotate))]);
    Router::new()
        .route("/v1/consumers/{id}/credentials", routing::get(list).post(create))
        .route("/v1/consumers/{id}/credentials/{credential}", one)
}

/// `?tenant=`: whose consumer it is, where several have one of this id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTenant {
    #[serde(default)]
    tenant: Option<String>,
}

/// `?tenant=&limit=&cursor=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// `?tenant=&dry_run=&nodes=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantChangeQuery {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    nodes: Option<String>,
}

impl TenantChangeQuery {
    fn split(self) -> (Option<String>, ChangeQuery) {
        (self.tenant, ChangeQuery { dry_run: self.dry_run, nodes: self.nodes })
    }
}

/// A key that is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCredential {
    /// The credential's id; made when absent.
    #[serde(default)]
    #[schemars(extend("format" = "id"))]
    id: Option<String>,
    /// When it stops being accepted; never when absent.
    #[serde(default)]
    expires: Option<Timestamp>,
}

/// How a key is replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old key is still accepted, at most 2160h; 24h when absent.
    #[serde(default)]
    grace: Option<Duration>,
    /// The new credential's id; made when absent.
    #[serde(default)]
    #[schemars(extend("format" = "id"))]
    id: Option<String>,
    /// When the new key stops being accepted; never when absent.
    #[serde(default)]
    expires: Option<Timestamp>,
}

/// A new key, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CreatedCredential {
    /// The key itself: it is not shown again.
    key: String,
    /// The credential.
    #[schemars(with = "crate::openapi::CredentialShown")]
    credential: Value,
    /// The one that it replaces, with its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::openapi::CredentialShown>")]
    replaces: Option<Value>,
    /// The revision that it made.
    revision: u64,
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(consumer): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("consumers.credentials", query.limit, query.cursor.as_deref())?;
    let newest = shared.newest().await?;
    let owner = Owner::find(&acting, &newest.document, &consumer, query.tenant.as_deref())?;
    let found = owner.place.find(&newest.document).ok_or(ErrorCode::NotFound)?;
    let entries = found.value.get("credentials").and_then(Value::as_array).into_iter().flatten();
    let keyed = entries.map(|entry| (id(entry), entry));
    let listed = page.sorted(keyed).map(|(_, entry)| owner.shown(entry));
    Ok(Answer::ok(&listed).of_revision(newest.number))
}

fn id(credential: &Value) -> String {
    credential.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path((consumer, credential)): Path<(String, String)>,
    Query(query): Query<OfTenant>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let newest = shared.newest().await?;
    let owner = Owner::find(&acting, &newest.document, &consumer, query.tenant.as_deref())?;
    let found = owner.credential(&credential).find(&newest.document);
    let found = found.ok_or(ErrorCode::NotFound)?.value;
    let answer = Answer::ok(&owner.shown(found)).tagged(tag(found)).of_revision(newest.number);
    if is_known(&headers, &tag(found)) {
        return Ok(answer.not_modified());
    }
    Ok(answer.into_response())
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Keeper(acting): Keeper,
    Path(consumer): Path<String>,
    Query(query): Query<TenantChangeQuery>,
    Posted { body, once }: Posted<NewCredential>,
) -> Result<Response, Refused> {
    let (tenant, query) = query.split();
    let how = How::of(&shared, &acting, &query).await?;
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    let NewCredential { id, expires } = body;
    let minted = Minted::new(id, expires);
    let work = async {
        fits(past(expires, shared.clock.now()))?;
        let newest = shared.newest().await?;
        let owner = Owner::find(&acting, &newest.document, &consumer, tenant.as_deref())?;
        is_accepted(&shared, &owner, minted.id()).await?;
        writing
            .change(adding(&owner, &minted), |made| shown_once(made, &owner, &minted, None))
            .await
    };
    once.done(&shared, work).await
}

/// Adds a credential to a consumer.
fn adding(owner: &Owner, minted: &Minted) -> Edit {
    let (place, minted) = (owner.credential(minted.id()), minted.clone());
    Arc::new(move |newest| {
        if place.find(&newest.document).is_some() {
            let taken = Reject::new(ErrorCode::Conflict);
            return Err(taken.message("The consumer has a credential of this id.").into());
        }
        let mut document = newest.document.clone();
        let at = place.set(&mut document, Some(minted.credential.clone()))?;
        Ok(Proposal { document, text: None, at })
    })
}

fn shown_once(made: &Made, owner: &Owner, minted: &Minted, replaces: Option<&Place>) -> Answer {
    let replaced = replaces.and_then(|place| place.find(&made.document));
    let body = CreatedCredential {
        key: minted.key.clone(),
        credential: owner.shown(&minted.credential),
        replaces: replaced.map(|found| owner.shown(found.value)),
        revision: made.revision,
    };
    let Owner { tenant, consumer, .. } = owner;
    let id = minted.id();
    Answer::created(format!("/v1/consumers/{consumer}/credentials/{id}?tenant={tenant}"), &body)
        .tagged(tag(&minted.credential))
        .of_revision(made.revision)
}

/// `POST …/{id}:rotate`
async fn rotate(
    State(shared): State<Arc<Shared>>,
    Keeper(acting): Keeper,
    Path((consumer, segment)): Path<(String, String)>,
    Query(query): Query<TenantChangeQuery>,
    Posted { body, once }: Posted<Rotation>,
) -> Result<Response, Refused> {
    let (old, _) = verb(&segment);
    let (tenant, query) = query.split();
    let how = How::of(&shared, &acting, &query).await?;
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    let Rotation { grace, id, expires } = body;
    let minted = Minted::new(id, expires);
    let work = async {
        let (now, grace) = (shared.clock.now(), grace.map_or(GRACE, |wanted| wanted.0));
        fits(past(expires, now).into_iter().chain(too_long(grace)))?;
        let newest = shared.newest().await?;
        let owner = Owner::find(&acting, &newest.document, &consumer, tenant.as_deref())?;
        is_accepted(&shared, &owner, minted.id()).await?;
        let old = owner.credential(old);
        let edit = rotating(old.clone(), &owner, &minted, now + grace);
        writing.change(edit, |made| shown_once(made, &owner, &minted, Some(&old))).await
    };
    once.done(&shared, work).await
}

/// Refuses what was sent for these errors, if there are any.
fn fits(errors: impl IntoIterator<Item = ConfigError>) -> Result<(), Refused> {
    let errors: Vec<_> = errors.into_iter().collect();
    if errors.is_empty() { Ok(()) } else { Err(Refused::unfit(&errors)) }
}

fn past(expires: Option<Timestamp>, now: Timestamp) -> Option<ConfigError> {
    expires.filter(|end| *end <= now).map(|_| ConfigError::new("/expires", "is in the past"))
}

fn too_long(grace: std::time::Duration) -> Option<ConfigError> {
    let hours = GRACE_MAX.as_secs() / 3600;
    let error = || ConfigError::new("/grace", format!("must be at most {hours}h"));
    (grace > GRACE_MAX).then(error)
}

/// Refuses an id that is revoked: gateways would take no key of it.
async fn is_accepted(shared: &Shared, owner: &Owner, id: &str) -> Result<(), Refused> {
    let what = Revoked::Credential {
        tenant: owner.tenant.as_str().into(),
        consumer: owner.consumer.as_str().into(),
        credential: id.into(),
    };
    match shared.store.revocation_of(&what, shared.clock.now()).await? {
        None => Ok(()),
        Some(revocation) => Err(Reject::new(ErrorCode::Conflict)
            .message("The credential of this id is revoked: choose another id, or lift the revocation first.")
            .detail("revocation", revocation.id)
            .into()),
    }
}

/// Adds a credential beside an old one, which ends then, or when it would have anyway.
fn rotating(old: Place, owner: &Owner, minted: &Minted, end: Timestamp) -> Edit {
    let add = adding(owner, minted);
    Arc::new(move |newest| {
        let found = old.find(&newest.document).ok_or(ErrorCode::NotFound)?;
        let mut ending = found.value.clone();
        let key = ending.get_mut("api_key").and_then(Value::as_object_mut);
        let key = key.ok_or_else(|| {
            Reject::new(ErrorCode::Conflict).message("Only API keys are rotated here.")
        })?;
        let stands = key.get("expires").and_then(Value::as_str);
        let stands = stands.and_then(|text| text.parse::<Timestamp>().ok());
        if stands.is_none_or(|stands| end < stands) {
            key.insert("expires".to_owned(), end.to_string().into());
        }
        let mut proposal = add(newest)?;
        old.set(&mut proposal.document, Some(ending))?;
        Ok(proposal)
    })
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    Keeper(acting): Keeper,
    Path((consumer, credential)): Path<(String, String)>,
    Query(query): Query<TenantChangeQuery>,
    headers: HeaderMap,
) -> Result<Answer, Refused> {
    let (tenant, query) = query.split();
    let newest = shared.newest().await?;
    let owner = Owner::find(&acting, &newest.document, &consumer, tenant.as_deref())?;
    let place = owner.credential(&credential);
    crate::resource::changed(&shared, &acting, place, (&query, &headers), |present| {
        present.ok_or(ErrorCode::NotFound)?;
        Ok(None)
    })
    .await
}
