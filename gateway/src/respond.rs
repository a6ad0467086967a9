//! Answers that the gateway makes itself, and what it adds to those of upstreams.

use crate::facts::{Facts, Witness};
use crate::pipeline::Held;
use crate::trace::{Trace, X_REQUEST_ID};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::idempotency::StoredResponse;
use model::quota::{Outcome, Reading, fields};
use model::{ErrorCode, PackAnswer, Problem, Reject};
use stages::version::API_VERSION;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const TOLLGATE_REVISION: HeaderName = HeaderName::from_static("tollgate-revision");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// An answer without the upstream.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those that [`added`] gives.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What it means for what was charged.
    pub charged: Outcome,
    outcome: Option<&'static str>,
}

impl Reply {
    /// A stored answer, byte for byte, marked as a replay. `outcome`: how its key was treated.
    pub fn stored(response: StoredResponse, outcome: &'static str) -> Self {
        let StoredResponse { status, headers: stored, body } = response;
        let mut headers = HeaderMap::with_capacity(stored.len() + 1);
        for (name, value) in stored {
            headers.append(name, value);
        }
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        Self { status, headers, body, charged: Outcome::Replayed, outcome: Some(outcome) }
    }

    /// A pack's answer, charged as the upstream's would be.
    pub fn by_pack(answer: PackAnswer) -> Self {
        let PackAnswer { status, headers: lines, body } = answer;
        let mut headers = HeaderMap::with_capacity(lines.len());
        for (name, value) in lines {
            headers.append(name, value);
        }
        Self { status, headers, body, charged: Outcome::of_status(status), outcome: None }
    }

    /// JSON of our own endpoints.
    pub fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = value.to_string().into();
        Self { status, headers, body, charged: Outcome::Replayed, outcome: None }
    }

    /// The error body of a refusal.
    pub fn refusal(reject: &Reject, trace: &Trace) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &reject.headers {
            headers.append(name, value.clone());
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
        // RFC 6585 §4 and good sense: what was refused now may be fine in a second.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = reject.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(status) = proxy_status(reject.code) {
            headers.insert(PROXY_STATUS, HeaderValue::from_static(status));
        }
        let body = reject.problem(&trace.trace_id, &trace.request_id).to_bytes();
        let charged = Outcome::RefusedLater;
        Self { status: reject.status, headers, body, charged, outcome: None }
    }
}

impl Witness for Reply {
    fn attest(&self, facts: &mut Facts) {
        facts.idempotency = self.outcome;
    }
}

/// RFC 9209 §2.3, for the 5xx that we make.
const fn proxy_status(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::UpstreamUnreachable | ErrorCode::UpstreamUnavailable => {
            Some("tollgate; error=destination_unavailable")
        }
        ErrorCode::UpstreamTimeout => Some("tollgate; error=connection_timeout"),
        ErrorCode::Internal | ErrorCode::PolicyFailed | ErrorCode::DependencyUnavailable => {
            Some("tollgate; error=proxy_internal_error")
        }
        ErrorCode::Overloaded => Some("tollgate; error=connection_limit_reached"),
        _ => None,
    }
}

/// Headers of an upstream's answer that ours replace.
pub const OWNED: [HeaderName; 10] = [
    X_REQUEST_ID,
    TOLLGATE_REVISION,
    API_VERSION,
    IDEMPOTENCY_REPLAYED,
    IDEMPOTENCY_STATUS,
    RATELIMIT_POLICY,
    RATELIMIT,
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
];

/// What every answer carries: ids, revision, version and its life, limits.
pub fn added(facts: &Facts, held: &Held, bypassed: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    if let Ok(id) = HeaderValue::try_from(&facts.trace.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    if facts.revision > 0 {
        headers.insert(TOLLGATE_REVISION, HeaderValue::from(facts.revision));
    }
    if let (Some(version), Some(matched)) = (&held.version, &held.matched) {
        headers.insert(API_VERSION, version.version().header.clone());
        for (name, value) in version.version().lifecycle(matched.path()) {
            headers.append(name, value);
        }
        if let Some(vary) = matched.route().service.vary() {
            headers.append(header::VARY, vary);
        }
    }
    if let Some(caller) = &held.caller {
        let route = held.matched.as_ref().map(|matched| &matched.route().id);
        if let Some(policy) = caller.tenant().limits.policy(route) {
            headers.insert(RATELIMIT_POLICY, policy.clone());
        }
        show(&mut headers, &facts.readings);
    }
    if bypassed {
        headers.insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("not-enforced"));
    }
    headers
}

fn show(headers: &mut HeaderMap, readings: &[Reading]) {
    if let Some(current) = fields::current(readings) {
        headers.insert(RATELIMIT, current);
    }
    if let Some(tightest) = fields::tightest(readings) {
        headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(tightest.limit));
        headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(tightest.remaining));
        if let Some(reset) = tightest.reset_after {
            headers.insert(X_RATELIMIT_RESET, HeaderValue::from(fields::whole_seconds(reset)));
        }
    }
}
