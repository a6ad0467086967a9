//! Bodies and queries of requests, read within bounds.
//!
//! Invariant: no handler reads a body in another way, so that none is unbounded in size, depth or time.

use crate::problem::Refused;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use model::{ErrorCode, Reject, config};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Largest document that is taken, in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Largest body of any other request, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// JSON as most requests send it.
pub(crate) const JSON: &[&str] = &["application/json"];
/// What PATCH takes (RFC 7396 §4); JSON means the same.
pub(crate) const MERGE_PATCH: &[&str] = &["application/merge-patch+json", "application/json"];
/// How documents are written.
pub(crate) const DOCUMENT: &[&str] =
    &["application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/plain"];

/// Reads a body of one of these media types, of at most so many bytes. Without a type it is taken for what is wanted.
pub(crate) async fn read(request: Request, kinds: &[&str], max: usize) -> Result<Bytes, Refused> {
    let headers = request.headers().clone();
    let bytes = bytes(request, max).await?;
    if !bytes.is_empty() {
        check_type(&headers, kinds)?;
    }
    Ok(bytes)
}

/// Reads a body of at most so many bytes, of whatever media type.
pub(crate) async fn bytes(mut request: Request, max: usize) -> Result<Bytes, Refused> {
    DefaultBodyLimit::max(max).apply(&mut request);
    let read = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, &())).await;
    let read = read.map_err(|_| Refused::from(ErrorCode::RequestTimeout))?;
    read.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refused::from(
            Reject::new(ErrorCode::BodyTooLarge)
                .message("The request's body is too large.")
                .detail("limit", max),
        ),
        _ => Refused::malformed(error.body_text()),
    })
}

fn check_type(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Refused> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kinds.iter().any(|kind| kind.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let wanted = kinds.join("`, `");
    Err(Refused::malformed(format!("The body's `Content-Type` must be one of `{wanted}`.")))
}

/// Parses JSON, at most 128 levels deep. An error never repeats what was sent.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refused::malformed(format!("The body is not JSON: {error}.")))
}

/// A body of this shape; all errors at once. An empty one is `{}`.
pub(crate) fn typed<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, Refused> {
    let value = if bytes.is_empty() { serde_json::json!({}) } else { parse(bytes)? };
    let errors = config::shape_errors::<T>(&value);
    if !errors.is_empty() {
        return Err(Refused::unfit(&errors));
    }
    serde_json::from_value(value)
        .map_err(|error| Refused::unfit(&[config::ConfigError::new("", error.to_string())]))
}

/// A JSON value of at most [`BODY_BYTES_MAX`] bytes: a whole resource.
pub(crate) struct Whole(pub(crate) Value);

impl<S: Sync> FromRequest<S> for Whole {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        parse(&read(request, JSON, BODY_BYTES_MAX).await?).map(Self)
    }
}

/// A merge patch (RFC 7396) of at most [`BODY_BYTES_MAX`] bytes.
pub(crate) struct Merge(pub(crate) Value);

impl<S: Sync> FromRequest<S> for Merge {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        parse(&read(request, MERGE_PATCH, BODY_BYTES_MAX).await?).map(Self)
    }
}

/// The query as this type, which should refuse unknown fields; malformed is 400.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|error| Refused::malformed(error.body_text()))
    }
}

/// Of requests that take no query: with one, 400.
pub(crate) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(Refused::malformed("This takes no query parameters.")),
        }
    }
}

/// The path's parameters; what can't be read names nothing: 404.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Self(path)).map_err(|_| ErrorCode::NotFound.into())
    }
}

/// `{id}:verb` as its two parts.
pub(crate) fn verb(segment: &str) -> (&str, Option<&str>) {
    match segment.rsplit_once(':') {
        Some((id, verb)) => (id, Some(verb)),
        None => (segment, None),
    }
}
