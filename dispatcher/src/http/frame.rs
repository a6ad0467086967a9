//! What surrounds every request: its ids, the one error body, and how many are served at once and for how long.

use super::{Door, Refused};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use model::{ErrorCode, Problem, Reject};
use std::sync::Arc;
use std::time::Duration;

/// How long a request may take before its client is told to come back. What it sent may still be kept.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Outermost: names the request, and gives refusals their body.
pub(super) async fn frame(request: Request, next: Next) -> Response {
    let id = request_id(request.headers())
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned);
    let trace = trace_id(request.headers())
        .map_or_else(|| format!("{:032x}", rand::random::<u128>().max(1)), str::to_owned);
    let mut response = next.run(request).await;
    if let Some(reject) = response.extensions_mut().remove::<Arc<Reject>>() {
        response = write(response, &reject, &trace, &id);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Serves so many at once, for at most [`REQUEST_TIME_MAX`]; the rest is 503.
pub(super) async fn bounded(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_place) = door.places.try_acquire() else {
        return overloaded("Too many requests are in progress.").into_response();
    };
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => overloaded("This takes too long; it may still be kept.").into_response(),
    }
}

pub(super) fn overloaded(message: &str) -> Refused {
    Reject::new(ErrorCode::Overloaded).message(message).retry_after(1).into()
}

fn write(response: Response, reject: &Reject, trace: &str, id: &str) -> Response {
    if reject.status.is_server_error() || reject.cause.is_some() {
        let cause = reject.cause.as_deref();
        tracing::warn!(request_id = id, trace_id = trace, code = %reject.code, cause, "refused");
    }
    let (mut parts, _) = response.into_parts();
    let headers = &mut parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    if let Some(seconds) = reject.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    for (name, value) in &reject.headers {
        headers.append(name.clone(), value.clone());
    }
    Response::from_parts(parts, reject.problem(trace, id).to_bytes().into())
}

/// One line of 8 to 128 of `[A-Za-z0-9._~:-]`, as at the gateway.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let text = only(headers, &X_REQUEST_ID)?;
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'-');
    ((8..=128).contains(&text.len()) && text.bytes().all(allowed)).then_some(text)
}

/// W3C Trace Context §3.2.2.3.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = only(headers, &TRACEPARENT)?.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sound = version.len() == 2
        && version != "ff"
        && trace.len() == 32
        && hex(version)
        && hex(trace)
        && trace.bytes().any(|b| b != b'0');
    sound.then_some(trace)
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let text = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(text)
}
