//! `/v1/document`: the whole document, read and replaced.

use crate::Shared;
use crate::problem::Refused;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::config::{self, ConfigError};
use model::revision::{PublishError, Published, Revisions};
use model::{ErrorCode, Reject};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const TOLLGATE_REVISION: HeaderName = HeaderName::from_static("tollgate-revision");

/// `?dry_run=true`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutQuery {
    #[serde(default)]
    dry_run: bool,
}

/// The document in force.
pub(crate) async fn get<R: Revisions>(
    State(shared): State<Arc<Shared<R>>>,
) -> Result<Response, Refused> {
    let current = current(&*shared.revisions)?;
    let document = written(&current)?;
    Ok((StatusCode::OK, tags(&current), Json(document)).into_response())
}

/// Replaces the document, or says what replacing it would change.
pub(crate) async fn put<R: Revisions>(
    State(shared): State<Arc<Shared<R>>>,
    query: Result<Query<PutQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Refused> {
    let Query(query) = query
        .map_err(|error| Reject::new(ErrorCode::ValidationFailed).message(error.body_text()))?;
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Reject::new(ErrorCode::BodyTooLarge)
            .message("The document is too large.")
            .detail("limit", crate::DOCUMENT_BYTES_MAX),
        _ => Reject::new(ErrorCode::ValidationFailed).message(error.body_text()),
    })?;
    let text = String::from_utf8(body.to_vec()).map_err(|_| {
        Reject::new(ErrorCode::ValidationFailed).message("The document is not UTF-8 text.")
    })?;
    let current = current(&*shared.revisions)?;
    let expected = precondition(&headers, &current, query.dry_run)?;
    if query.dry_run {
        return Ok(dry_run(&*shared.revisions, &current, text).await?.into_response());
    }
    let published = shared.revisions.publish(text, &expected).await.map_err(refused)?;
    let changed = difference(&written(&current)?, &written(&published)?);
    let body =
        json!({ "revision": published.number, "etag": quoted(&published), "difference": changed });
    Ok((StatusCode::OK, tags(&published), Json(body)).into_response())
}

async fn dry_run<R: Revisions>(
    revisions: &R,
    current: &Published,
    text: String,
) -> Result<Json<Value>, Refused> {
    let proposed = config::parse(&text);
    let errors = revisions.check(text).await.err().unwrap_or_default();
    let changed = match &proposed {
        Ok(proposed) => difference(&written(current)?, proposed),
        Err(_) => Value::Array(Vec::new()),
    };
    Ok(Json(json!({ "valid": errors.is_empty(), "errors": errors, "difference": changed })))
}

fn current<R: Revisions>(revisions: &R) -> Result<Published, Refused> {
    revisions.current().ok_or_else(|| {
        Reject::new(ErrorCode::NotFound).message("No document is in force yet.").into()
    })
}

fn written(published: &Published) -> Result<Value, Refused> {
    config::parse(&published.text).map_err(|errors| {
        Reject::new(ErrorCode::Internal).because(format_args!("{errors:?}")).into()
    })
}

/// RFC 6902: what makes one document of the other.
fn difference(from: &Value, to: &Value) -> Value {
    serde_json::to_value(json_patch::diff(from, to)).unwrap_or_default()
}

/// RFC 9110 §13.1.1. Without `If-Match` nothing is changed: two writers must not overwrite each other unseen.
fn precondition(
    headers: &HeaderMap,
    current: &Published,
    dry_run: bool,
) -> Result<String, Refused> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return if dry_run {
            Ok(current.etag.clone())
        } else {
            Err(ErrorCode::PreconditionRequired.into())
        };
    };
    let value = value.to_str().unwrap_or_default();
    let named = |tag: &str| tag.trim() == quoted(current);
    if value.trim() == "*" || value.split(',').any(named) {
        Ok(current.etag.clone())
    } else {
        Err(stale())
    }
}

fn stale() -> Refused {
    ErrorCode::PreconditionFailed.into()
}

fn refused(error: PublishError) -> Refused {
    match error {
        PublishError::Invalid(errors) => invalid(&errors),
        PublishError::Stale => stale(),
        PublishError::ReadOnly => Reject::new(ErrorCode::Conflict)
            .message("The document is kept in a file that the operator owns; change it there.")
            .into(),
        PublishError::Unavailable(cause) => {
            Reject::new(ErrorCode::DependencyUnavailable).retry_after(1).because(cause).into()
        }
    }
}

fn invalid(errors: &[ConfigError]) -> Refused {
    let errors = serde_json::to_value(errors).unwrap_or_default();
    Reject::new(ErrorCode::ConfigInvalid).detail("errors", errors).into()
}

fn quoted(published: &Published) -> String {
    format!("\"{}\"", published.etag)
}

fn tags(published: &Published) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(tag) = HeaderValue::try_from(quoted(published)) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(TOLLGATE_REVISION, HeaderValue::from(published.number));
    headers
}
