//! `/v1/revisions`: what was published, how two of them differ, and bringing one back.
//!
//! Invariant: a rollback is a change like any other: role and tenant are asked for what it changes, and it is compiled
//! before it is published. Only its text is another revision's, byte for byte, unless versions of packs were quarantined
//! meanwhile: these stay so.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query, verb};
use crate::difference;
use crate::document;
use crate::newest::blocking;
use crate::once::{Once, Posted};
use crate::page::{Page, PageQuery};
use crate::problem::Refused;
use crate::verbs;
use crate::write::{Edit, How, Proposal, TryQuery, Writing};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use jiff::Timestamp;
use model::id::NodeName;
use model::revision::{PublishError, RevisionInfo, Staged};
use model::rollout;
use model::{ErrorCode, Reject, config};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::Revision;

/// The largest number of a revision that a store holds.
const NUMBER_MAX: u64 = i64::MAX.unsigned_abs();

/// A revision as lists show it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Revision")]
pub(crate) struct RevisionItem {
    /// Its number.
    #[schemars(range(min = 1))]
    revision: u64,
    /// When it was published.
    at: Timestamp,
    /// Who published it.
    author: String,
    /// What was done, as the audit says.
    action: String,
    /// `sha256:` and the hex SHA-256 of its text.
    digest: String,
    /// The size of its text in bytes.
    size: u64,
    /// The nodes that it went to first; null when it is everybody's.
    nodes: Option<Vec<NodeName>>,
}

impl From<RevisionInfo> for RevisionItem {
    fn from(info: RevisionInfo) -> Self {
        let RevisionInfo { number, at, digest, size, author, action, nodes } = info;
        Self { revision: number, at, author, action, digest, size, nodes }
    }
}

/// A revision with its document.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RevisionWhole {
    #[serde(flatten)]
    item: RevisionItem,
    /// The document.
    document: Value,
    /// The document as it was written.
    text: String,
}

/// How two revisions differ.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Difference {
    /// The revision from which.
    from: u64,
    /// The revision to which.
    to: u64,
    /// What makes the one of the other, without secrets.
    #[schemars(with = "crate::openapi::Shown")]
    difference: Value,
}

/// `?to=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DifferenceQuery {
    to: Option<u64>,
}

/// Of requests that say all by their path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let verbs = vec![("rollback", routing::post(rollback)), ("release", routing::post(release))];
    Router::new()
        .route("/v1/revisions", routing::get(list))
        .route("/v1/revisions/{revision}", verbs::split(Some(routing::get(get)), verbs))
        .route("/v1/revisions/{revision}/diff", routing::get(diff))
}

/// `GET /v1/revisions`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let page = Page::of("revisions", query.limit, query.cursor.as_deref())?;
    let after = page.after::<u64>()?.map(|number| number.min(NUMBER_MAX));
    let found = shared.store.revisions(after, page.wanted()).await?;
    let items = found.into_iter().map(RevisionItem::from).collect();
    Ok(Answer::ok(&page.listed(items, |item: &RevisionItem| item.revision.to_string())))
}

/// `GET /v1/revisions/{revision}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(number): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let number = number_of(&number)?;
    let _place = document::place(&shared).await?;
    let Revision { info, text } = found(&shared, number).await?;
    let document = read(text.clone()).await?;
    let whole = RevisionWhole { item: info.into(), document, text: text.to_string() };
    blocking(move || Answer::ok(&whole).of_revision(number)).await
}

/// `GET /v1/revisions/{revision}/diff`
async fn diff(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(number): Path<String>,
    Query(query): Query<DifferenceQuery>,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let number = number_of(&number)?;
    let _place = document::place(&shared).await?;
    let before = found(&shared, number).await?;
    let after = match query.to {
        Some(to) => found(&shared, to).await?,
        None => shared.store.newest().await?.ok_or(ErrorCode::NotFound)?,
    };
    let (from, to) = (before.info.number, after.info.number);
    let (before, after) = (read(before.text).await?, read(after.text).await?);
    let difference = blocking(move || difference::between(&before, &after)).await?;
    Ok(Answer::ok(&Difference { from, to, difference }))
}

/// `POST /v1/revisions/{revision}:rollback`
async fn rollback(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    Query(query): Query<TryQuery>,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    acting.unbound()?;
    let how = How { run: query.run(), nodes: None, staged: Staged::Replace };
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    once.done(&shared, bring_back(&writing, verb(&segment).0)).await
}

async fn bring_back(writing: &Writing<'_>, number: &str) -> Result<Answer, Refused> {
    let Writing { shared, how, .. } = *writing;
    let number = number_of(number)?;
    if shared.revisions.is_read_only() {
        return Err(PublishError::ReadOnly.into());
    }
    let _place = document::place(shared).await?;
    let Revision { info, text } = found(shared, number).await?;
    if info.nodes.is_some() && shared.newest().await?.number == number {
        let message = format!("Revision {number} is on some nodes only: release it.");
        return Err(conflict(message));
    }
    let document = read(text.clone()).await?;
    let edit: Edit = Arc::new(move |newest| {
        let mut document = document.clone();
        let carried = rollout::keep_quarantines(&newest.document, &mut document);
        let text = (!carried).then(|| text.to_string());
        Ok(Proposal { document, text, at: None })
    });
    writing.change(edit, |made| made.changed(how, None, None)).await
}

/// `POST /v1/revisions/{revision}:release`
async fn release(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    acting.unbound()?;
    once.done(&shared, give_to_all(&shared, &acting, &once, verb(&segment).0)).await
}

async fn give_to_all(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    number: &str,
) -> Result<Answer, Refused> {
    let number = number_of(number)?;
    if shared.revisions.is_read_only() {
        return Err(PublishError::ReadOnly.into());
    }
    let info = found(shared, number).await?.info;
    let not_staged = || conflict(format!("Revision {number} does not wait to be released."));
    let Some(nodes) = &info.nodes else { return Err(not_staged()) };
    let entry = acting.entry(shared, json!({ "nodes": nodes }));
    let answer = Answer::ok(&RevisionItem { nodes: None, ..info.into() }).of_revision(number);
    let released = shared.revisions.release(number, entry, once.keep(&answer)?).await;
    match released {
        Ok(_) => Ok(answer),
        // It is there: something newer took its place.
        Err(PublishError::NotFound | PublishError::Stale) => Err(not_staged()),
        Err(error) => Err(error.into()),
    }
}

fn conflict(message: String) -> Refused {
    Reject::new(ErrorCode::Conflict).message(message).into()
}

/// The number that a path names, if it is written as numbers are.
fn number_of(text: &str) -> Result<u64, Refused> {
    let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    number.ok_or(ErrorCode::NotFound.into())
}

async fn found(shared: &Shared, number: u64) -> Result<Revision, Refused> {
    let missing = || {
        let message = format!("There is no revision {number}.");
        Refused::from(Reject::new(ErrorCode::NotFound).message(message))
    };
    if number > NUMBER_MAX {
        return Err(missing());
    }
    shared.store.revision(number).await?.ok_or_else(missing)
}

/// A text that was published, as a value.
async fn read(text: Arc<str>) -> Result<Value, Refused> {
    let parsed = blocking(move || config::parse(&text)).await?;
    parsed.map_err(|errors| Refused::internal(format_args!("{errors:?}")))
}
