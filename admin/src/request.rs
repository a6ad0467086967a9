//! What surrounds every request: its ids, the error body, and how many are served at once and for how long.
//!
//! Invariant: every answer names its request, and a request that was begun is brought to its end even when its client has
//! left: a write is never cut in half by that.

use crate::Shared;
use crate::problem::{self, Refused};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use model::{ErrorCode, Reject};
use std::sync::Arc;
use std::time::Duration;

/// How many requests are served at once; more are refused.
pub(crate) const REQUESTS_MAX: usize = 64;

/// How long a request may take before its client is told to come back.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Under which names a request is known.
#[derive(Clone)]
pub(crate) struct Ids {
    /// The client's `X-Request-ID` when it is well formed, else a UUIDv7.
    pub(crate) request: Arc<str>,
    /// The client's trace (W3C Trace Context §3.2.2.3), else a random one: 32 hex digits.
    pub(crate) trace: Arc<str>,
}

impl Ids {
    fn of(headers: &HeaderMap, shared: &Shared) -> Self {
        let request = request_id(headers).map_or_else(|| shared.fresh_id().into(), Arc::from);
        let trace = trace_id(headers).map_or_else(fresh_trace, Arc::from);
        Self { request, trace }
    }
}

/// Outermost: gives the request its ids, and refusals their body.
pub(crate) async fn frame(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let ids = Ids::of(request.headers(), &shared);
    let method = request.method().clone();
    request.extensions_mut().insert(ids.clone());
    let mut response = next.run(request).await;
    if let Some(reject) = response.extensions_mut().remove::<Arc<Reject>>() {
        response = problem::write(response, &reject, &ids, &method);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(&*ids.request) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Serves at most [`REQUESTS_MAX`] at once, for at most [`REQUEST_TIME_MAX`]; the rest is 503.
pub(crate) async fn bounded(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(place) = shared.places.clone().try_acquire_owned() else {
        return overloaded("Too many requests are in progress.").into_response();
    };
    // A task of its own: it holds its place, and goes on, until it is done.
    let served = tokio::spawn(async move {
        let response = next.run(request).await;
        drop(place);
        response
    });
    match tokio::time::timeout(REQUEST_TIME_MAX, served).await {
        Ok(Ok(response)) => response,
        Ok(Err(panicked)) => Refused::internal(panicked).into_response(),
        Err(_) => overloaded("This takes too long; it may still be done.").into_response(),
    }
}

fn overloaded(message: &str) -> Refused {
    Reject::new(ErrorCode::Overloaded).message(message).retry_after(1).into()
}

/// One line of 8 to 128 of `[A-Za-z0-9._~:-]`, as at the gateway.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(&X_REQUEST_ID).iter();
    let text = lines.next()?.to_str().ok()?;
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'-');
    let sound =
        lines.next().is_none() && (8..=128).contains(&text.len()) && text.bytes().all(allowed);
    sound.then_some(text)
}

fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    let text = lines.next()?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sound = lines.next().is_none()
        && version.len() == 2
        && version != "ff"
        && trace.len() == 32
        && hex(version)
        && hex(trace)
        && trace.bytes().any(|b| b != b'0');
    sound.then_some(trace)
}

fn fresh_trace() -> Arc<str> {
    format!("{:032x}", rand::random::<u128>().max(1)).into()
}
