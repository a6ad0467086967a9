//! `/v1/document`: the whole document, read and replaced. Its text is kept as it was sent.

use crate::Shared;
use crate::acting::Acting;
use crate::answer::{Answer, DryRun};
use crate::body::{self, DOCUMENT_BYTES_MAX, Query};
use crate::newest::blocking;
use crate::once::Once;
use crate::precondition::{Conditions, is_known, tag_of};
use crate::problem::{Refused, located};
use crate::write::{ChangeQuery, Edit, How, Made, Proposal, Run, Writing};
use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use model::config;
use model::role::{Permission, Section};
use model::{ErrorCode, Reject};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

/// How many whole documents are read at once, sent or of old revisions; others wait with their bodies unread.
pub(crate) const DOCUMENTS_MAX: usize = 4;

/// How long they wait.
const DOCUMENT_WAIT_MAX: Duration = Duration::from_secs(10);

/// The newest document.
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    acting.may(Permission::Read)?;
    acting.unbound()?;
    let newest = shared.newest().await?;
    let Some(etag) = &newest.etag else {
        let none = Reject::new(ErrorCode::NotFound).message("No document is in force yet.");
        return Err(none.into());
    };
    let answer = Answer::ok(&()).tagged(etag.clone()).of_revision(newest.number);
    if is_known(&headers, etag) {
        return Ok(answer.not_modified());
    }
    blocking(move || answer.large(&newest.document)).await
}

/// Replaces the document, or says what replacing it would change.
pub(crate) async fn put(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    Query(query): Query<ChangeQuery>,
    request: Request,
) -> Result<Answer, Refused> {
    let changes = |section: &Section| acting.may(Permission::Change(*section)).is_ok();
    if !Section::ALL.iter().any(changes) {
        acting.may(Permission::Change(Section::Tenants))?;
    }
    acting.unbound()?;
    let how = How::of(&shared, &acting, &query).await?;
    let conditions = Conditions::of(request.headers())?;
    let _place = place(&shared).await?;
    let bytes = body::read(request, body::DOCUMENT, DOCUMENT_BYTES_MAX).await?;
    let text = String::from_utf8(bytes.into())
        .map_err(|_| Refused::malformed("The document is not UTF-8 text."))?;
    let (text, parsed) = blocking(move || {
        let parsed = config::parse(&text);
        (text, parsed)
    })
    .await?;
    let document = match parsed {
        Ok(document) => document,
        Err(errors) if how.run == Run::Dry => {
            let errors = located(&errors, None);
            return Ok(Answer::ok(&DryRun { valid: false, errors, difference: json!([]) }));
        }
        Err(errors) => return Err(Refused::invalid(&errors, None)),
    };
    let etag = tag_of(text.as_bytes());
    let guard = how.guard();
    let edit: Edit = Arc::new(move |newest| {
        conditions.permit(newest.etag.as_deref(), guard)?;
        Ok(Proposal { document: document.clone(), text: Some(text.clone()), at: None })
    });
    let answer = |made: &Made| made.changed(&how, Some(etag.clone()), None);
    Writing { shared: &shared, acting: &acting, how: &how, once: &Once::NEVER }
        .change(edit, answer)
        .await
}

/// A place for one more whole document in memory; 503 when none gets free in time.
pub(crate) async fn place(shared: &Shared) -> Result<SemaphorePermit<'_>, Refused> {
    match timeout(DOCUMENT_WAIT_MAX, shared.documents.acquire()).await {
        Ok(place) => place.map_err(Refused::internal),
        Err(_) => {
            let busy =
                Reject::new(ErrorCode::Overloaded).message("Other documents are being read.");
            Err(busy.retry_after(1).into())
        }
    }
}
