//! `/v1/audit`: who did what, when, from where. A page as JSON, or an export as lines of JSON.
//!
//! Invariant: an export holds one page in memory, whatever its length, and one that breaks off is seen to: its last chunk
//! is missing. Its next part begins at the id of its last line (`before`).

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::Reader;
use crate::answer::Answer;
use crate::body::Query;
use crate::page::{LIMIT_MAX, Page};
use crate::problem::Refused;
use crate::search::{id, of_tenant, words};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use jiff::Timestamp;
use model::audit::Entry;
use model::id::TenantId;
use model::port::StoreError;
use model::{ErrorCode, Reject};
use serde::Deserialize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use store::Store;
use store::control::AuditQuery;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// What exports are written in.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// The most entries of one export.
pub(crate) const EXPORT_MAX: u32 = 100_000;
/// How many exports are written at once; more are refused.
pub(crate) const EXPORTS_MAX: usize = 4;
/// How long a client may leave an export unread before it is broken off.
const EXPORT_STALL_MAX: Duration = Duration::from_secs(30);
/// How many pages of an export wait to be read.
const PAGES_AHEAD: usize = 1;
/// The longest action that is searched, in characters.
pub(crate) const ACTION_MAX: usize = 64;
/// The longest actor's name that is searched, in characters.
pub(crate) const ACTOR_MAX: usize = 64;
/// The longest path that is searched, in characters.
pub(crate) const RESOURCE_MAX: usize = 512;

/// What stands in place of where somebody came from.
const WITHHELD: &str = "withheld";

/// Which entries are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditAsked {
    tenant: Option<String>,
    actor: Option<String>,
    action: Option<String>,
    resource: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    before: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/audit", routing::get(list))
}

/// `GET /v1/audit`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(asked): Query<AuditAsked>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let exports = wants_lines(&headers);
    let lines = lines(asked.limit)?;
    let page =
        Page::of("audit", asked.limit.map(|_| lines.min(LIMIT_MAX)), asked.cursor.as_deref())?;
    let before: Option<String> = id("before", asked.before)?;
    let tenant = of_tenant(&acting, id("tenant", asked.tenant)?);
    let query = AuditQuery {
        tenant: tenant.clone().flatten(),
        actor: words("actor", asked.actor, ACTOR_MAX)?,
        action: words("action", asked.action, ACTION_MAX)?,
        resource: words("resource", asked.resource, RESOURCE_MAX)?,
        since: asked.since,
        until: asked.until,
        // Of both, what is older: ids grow with time.
        before: before.into_iter().chain(page.after.clone()).min(),
        limit: page.wanted(),
    };
    if exports {
        let left = if tenant.is_none() { 0 } else { lines };
        return export(&shared, &acting, query, left);
    }
    let entries = match tenant {
        Some(_) => shared.store.audit(&query).await?,
        None => Vec::new(),
    };
    let entries = entries.into_iter().map(|entry| shown(entry, acting.tenant())).collect();
    Ok(Answer::ok(&page.listed(entries, |entry: &Entry| entry.id.clone())).into_response())
}

/// An entry as it is shown to a token of this tenant, or of none: which token somebody else has, and from where they came,
/// is not a tenant's to know.
fn shown(mut entry: Entry, own: Option<&TenantId>) -> Entry {
    if own.is_some() && entry.actor.tenant.as_ref() != own {
        entry.actor.token = None;
        entry.actor.source = WITHHELD.to_owned();
    }
    entry
}

/// Whether lines are asked for by name: whoever takes anything gets a page.
fn wants_lines(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    ranges.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(NDJSON));
        let refused = |part: &str| {
            let weight = part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            weight.is_some_and(|weight| weight <= 0.0)
        };
        named && !parts.any(refused)
    })
}

/// How many entries are asked for. A page has no more than any other list's.
fn lines(limit: Option<u32>) -> Result<u32, Refused> {
    match limit.unwrap_or(EXPORT_MAX) {
        limit @ 1..=EXPORT_MAX => Ok(limit),
        _ => Err(Refused::malformed(format!("`limit` must be 1 to {EXPORT_MAX}."))),
    }
}

fn export(
    shared: &Shared,
    acting: &Acting,
    query: AuditQuery,
    left: u32,
) -> Result<Response, Refused> {
    let Ok(place) = shared.exports.clone().try_acquire_owned() else {
        return Err(Reject::new(ErrorCode::Overloaded).retry_after(1).into());
    };
    let (pages, lines) = mpsc::channel(PAGES_AHEAD);
    let own = acting.tenant().cloned();
    let exporting = Exporting { store: shared.store.clone(), own, query, left, _place: place };
    tokio::spawn(exporting.run(pages));
    let mut response = Body::new(Lines(lines)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// An export on its way.
struct Exporting {
    store: Store,
    /// Of whom it is asked for, when that is a token of a tenant.
    own: Option<TenantId>,
    query: AuditQuery,
    left: u32,
    _place: OwnedSemaphorePermit,
}

impl Exporting {
    /// Writes page after page, until all is told, the client is gone or the store can't answer.
    async fn run(mut self, pages: mpsc::Sender<Part>) {
        loop {
            let part = self.part().await;
            let last = !matches!(part, Ok(Some(_)));
            if let Err(error) = &part {
                tracing::warn!(%error, "an export of the audit breaks off");
            }
            let sent = tokio::time::timeout(EXPORT_STALL_MAX, pages.send(part)).await;
            if last || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// The next page's lines; none after the last.
    async fn part(&mut self) -> Part {
        if self.left == 0 {
            return Ok(None);
        }
        self.query.limit = self.left.min(LIMIT_MAX);
        let entries = self.store.audit(&self.query).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        self.query.before = Some(last.id.clone());
        self.left -= u32::try_from(entries.len()).unwrap_or(self.left).min(self.left);
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, &shown(entry, self.own.as_ref()))
                .map_err(|error| StoreError::Unreadable(error.to_string()))?;
            lines.push(b'\n');
        }
        Ok(Some(lines.into()))
    }
}

/// Lines of an export; none at its end.
type Part = Result<Option<Bytes>, StoreError>;

/// The body of an export. One whose writer is gone before it told the end breaks off: what was sent is not the whole.
struct Lines(mpsc::Receiver<Part>);

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        self.0.poll_recv(context).map(|part| match part {
            Some(Ok(Some(lines))) => Some(Ok(Frame::data(lines))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(StoreError::TimedOut(EXPORT_STALL_MAX))),
        })
    }
}
