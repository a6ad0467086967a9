//! The one error table: code, status, retryability, title and public message on one line each.
//!
//! Invariant: whatever the gateway or admin refuses, the caller sees one of these codes in one body
//! ([`Problem`], RFC 9457 with our members). What the log keeps (the cause) is never in the body.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

macro_rules! error_codes {
    ($( $variant:ident $code:literal $status:ident $retry:ident $title:literal $message:literal $remedy:literal; )*) => {
        /// A public error code. Part of the contract: never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode { $( #[doc = $message] $variant, )* }

        impl ErrorCode {
            /// Every code, in table order.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$variant, )* ];

            /// The code as callers see it.
            pub const fn as_str(self) -> &'static str { match self { $( Self::$variant => $code, )* } }

            /// The HTTP status that carries the code.
            pub const fn status(self) -> StatusCode { match self { $( Self::$variant => StatusCode::$status, )* } }

            /// Whether the same request may succeed later.
            pub const fn retryable(self) -> bool { match self { $( Self::$variant => error_codes!(@retry $retry), )* } }

            /// A short name for the kind of problem (RFC 9457 §3.1.3).
            pub const fn title(self) -> &'static str { match self { $( Self::$variant => $title, )* } }

            /// What a caller is told when a stage has nothing more exact to say.
            pub const fn message(self) -> &'static str { match self { $( Self::$variant => $message, )* } }

            /// What a caller can do about it; shown by `/.tollgate/errors/{code}`.
            pub const fn remedy(self) -> &'static str { match self { $( Self::$variant => $remedy, )* } }
        }
    };
    (@retry retry) => { true };
    (@retry final) => { false };
}

error_codes! {
    ValidationFailed "VALIDATION_FAILED" BAD_REQUEST final "Invalid request" "The request is malformed." "Correct the request as `details` says, then send it again.";
    VersionUnknown "VERSION_UNKNOWN" BAD_REQUEST final "Unknown version" "This API version does not exist." "Use a version listed by `/.tollgate/versions`.";
    IdempotencyKeyMissing "IDEMPOTENCY_KEY_MISSING" BAD_REQUEST final "Idempotency-Key missing" "This operation needs an Idempotency-Key." "Send `Idempotency-Key` with a fresh unique value, such as a UUID, and keep it for retries of the same request.";
    IdempotencyKeyInvalid "IDEMPOTENCY_KEY_INVALID" BAD_REQUEST final "Idempotency-Key invalid" "The Idempotency-Key is malformed." "Send one key of 1 to 255 characters: a quoted string, or a bare token of letters, digits and `._~:+/=-`.";
    CredentialMissing "CREDENTIAL_MISSING" UNAUTHORIZED final "Credential missing" "A credential is required." "Send one of the credentials that `WWW-Authenticate` names.";
    CredentialInvalid "CREDENTIAL_INVALID" UNAUTHORIZED final "Credential invalid" "The credential was not accepted." "Check that the credential is whole, of this environment and not revoked; otherwise ask for a new one.";
    CredentialExpired "CREDENTIAL_EXPIRED" UNAUTHORIZED final "Credential expired" "The credential has expired." "Renew the credential, then send the request again.";
    SignatureInvalid "SIGNATURE_INVALID" UNAUTHORIZED final "Signature invalid" "The request's signature does not verify." "Check the signed text, the secret and the clock.";
    ScopeDenied "SCOPE_DENIED" FORBIDDEN final "Scope denied" "The credential lacks a scope that this operation needs." "Ask for the scopes in `details.required`.";
    TenantSuspended "TENANT_SUSPENDED" FORBIDDEN final "Tenant suspended" "This tenant is suspended." "Contact the operator.";
    PolicyDenied "POLICY_DENIED" FORBIDDEN final "Denied by policy" "A policy denied this request." "See `message` and `details` for what the policy requires.";
    RouteNotFound "ROUTE_NOT_FOUND" NOT_FOUND final "No such route" "No route matches this request." "Check the path.";
    NotFound "NOT_FOUND" NOT_FOUND final "Not found" "There is no such resource." "Check the identifier.";
    MethodNotAllowed "METHOD_NOT_ALLOWED" METHOD_NOT_ALLOWED final "Method not allowed" "The route does not take this method." "Use a method that `Allow` names.";
    RequestTimeout "REQUEST_TIMEOUT" REQUEST_TIMEOUT retry "Request timeout" "The request did not arrive in time." "Send the request again, without pauses.";
    IdempotencyInProgress "IDEMPOTENCY_IN_PROGRESS" CONFLICT retry "Request in progress" "The first request with this Idempotency-Key is still being processed." "Wait `Retry-After` seconds, then repeat the same request with the same key.";
    IdempotencyOutcomeUnknown "IDEMPOTENCY_OUTCOME_UNKNOWN" CONFLICT final "Outcome unknown" "Whether the first request with this Idempotency-Key took effect is not known." "Look the resource up; send the request with a new key only if it had no effect.";
    IdempotencyResponseNotRetained "IDEMPOTENCY_RESPONSE_NOT_RETAINED" CONFLICT final "Response not retained" "The request was processed; its answer was not kept." "Fetch the resource; `details.status` is the status of the first answer.";
    Conflict "CONFLICT" CONFLICT final "Conflict" "The request conflicts with the present state." "Fetch the present state and try again.";
    VersionSunset "VERSION_SUNSET" GONE final "Version withdrawn" "This API version has been withdrawn." "Move to the version that `Link` names.";
    PreconditionFailed "PRECONDITION_FAILED" PRECONDITION_FAILED final "Precondition failed" "The resource has changed since it was read." "Read it again, apply the change to what you get, and send its new ETag.";
    BodyTooLarge "BODY_TOO_LARGE" PAYLOAD_TOO_LARGE final "Body too large" "The request's body is larger than this route takes." "Stay within `details.limit` bytes.";
    UriTooLong "URI_TOO_LONG" URI_TOO_LONG final "URI too long" "The request's target is too long." "Shorten path and query.";
    IdempotencyKeyReused "IDEMPOTENCY_KEY_REUSED" UNPROCESSABLE_ENTITY final "Idempotency-Key reused" "This Idempotency-Key was used for a different request." "Use a fresh key for each distinct request.";
    ConfigInvalid "CONFIG_INVALID" UNPROCESSABLE_ENTITY final "Invalid configuration" "The document is not valid." "Correct every entry of `details.errors`.";
    PreconditionRequired "PRECONDITION_REQUIRED" PRECONDITION_REQUIRED final "Precondition required" "This change needs If-Match." "Read the resource and send its ETag as `If-Match`.";
    RateLimited "RATE_LIMITED" TOO_MANY_REQUESTS retry "Rate limited" "Too many requests." "Wait `Retry-After` seconds.";
    QuotaExceeded "QUOTA_EXCEEDED" TOO_MANY_REQUESTS retry "Quota exceeded" "The quota of this period is spent." "Wait for the next period (`Retry-After`) or ask for a larger plan.";
    ConcurrencyLimited "CONCURRENCY_LIMITED" TOO_MANY_REQUESTS retry "Too many at once" "Too many requests are in progress." "Send fewer requests at the same time.";
    HeadersTooLarge "HEADERS_TOO_LARGE" REQUEST_HEADER_FIELDS_TOO_LARGE final "Headers too large" "The request's header section is too large." "Send fewer or shorter headers.";
    Forbidden "FORBIDDEN" FORBIDDEN final "Forbidden" "This token may not do that." "Use a token of a role that may.";
    Internal "INTERNAL" INTERNAL_SERVER_ERROR retry "Internal error" "Something went wrong on our side." "Try again; quote `trace_id` if it goes on.";
    UpstreamUnreachable "UPSTREAM_UNREACHABLE" BAD_GATEWAY retry "Upstream unreachable" "The service behind the gateway could not be reached, or broke off." "Try again later; keep the Idempotency-Key.";
    UpstreamUnavailable "UPSTREAM_UNAVAILABLE" SERVICE_UNAVAILABLE retry "Upstream unavailable" "The service behind the gateway is not available." "Try again later.";
    DependencyUnavailable "DEPENDENCY_UNAVAILABLE" SERVICE_UNAVAILABLE retry "Dependency unavailable" "A store that this request needs is not available." "Try again later; keep the Idempotency-Key.";
    PolicyFailed "POLICY_FAILED" SERVICE_UNAVAILABLE retry "Policy failed" "A policy could not be evaluated." "Try again later; quote `trace_id` if it goes on.";
    Overloaded "OVERLOADED" SERVICE_UNAVAILABLE retry "Overloaded" "The gateway is at its capacity or shutting down." "Wait `Retry-After` seconds.";
    UpstreamTimeout "UPSTREAM_TIMEOUT" GATEWAY_TIMEOUT retry "Upstream timeout" "The service behind the gateway did not answer in time." "Try again later; keep the Idempotency-Key.";
}

impl ErrorCode {
    /// The code of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// The table as `tollgate schema errors` prints it.
    pub fn table() -> Value {
        Self::ALL.iter().map(|code| code.describe()).collect()
    }

    /// One line of the table.
    pub fn describe(self) -> Value {
        serde_json::json!({
            "code": self.as_str(),
            "status": self.status().as_u16(),
            "retryable": self.retryable(),
            "title": self.title(),
            "message": self.message(),
            "remedy": self.remedy(),
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request is refused: a code on its way out, with public details and a private cause. Boxed, as refusals are rare
/// and every stage's result has room for one.
#[derive(Debug)]
pub struct Reject(Box<Refusal>);

/// What a [`Reject`] holds.
#[derive(Debug)]
pub struct Refusal {
    /// The public code.
    pub code: ErrorCode,
    /// The status; that of the code, unless a policy chose another 4xx or 5xx.
    pub status: StatusCode,
    /// The public message; the table's own when `None`.
    pub message: Option<String>,
    /// Public details.
    pub details: Map<String, Value>,
    /// Whole seconds after which a retry may succeed (`Retry-After`).
    pub retry_after: Option<u64>,
    /// Further response headers, such as `WWW-Authenticate`, `Allow`, `Link`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// What the log keeps. Never shown to the caller.
    pub cause: Option<String>,
}

impl std::ops::Deref for Reject {
    type Target = Refusal;

    fn deref(&self) -> &Refusal {
        &self.0
    }
}

impl std::ops::DerefMut for Reject {
    fn deref_mut(&mut self) -> &mut Refusal {
        &mut self.0
    }
}

impl Reject {
    /// A refusal with the table's own status and message.
    pub fn new(code: ErrorCode) -> Self {
        Self(Box::new(Refusal {
            code,
            status: code.status(),
            message: None,
            details: Map::new(),
            retry_after: None,
            headers: Vec::new(),
            cause: None,
        }))
    }

    /// Says more exactly what is wrong.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Adds a public detail.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a response header.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when a retry may succeed, in whole seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Keeps a cause for the log.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// The public message.
    pub fn public_message(&self) -> &str {
        self.message.as_deref().unwrap_or(self.code.message())
    }

    /// The body that the caller sees.
    pub fn problem<'a>(&'a self, trace_id: &'a str, request_id: &str) -> Problem<'a> {
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            details.entry("retry_after").or_insert_with(|| seconds.into());
        }
        Problem {
            code: self.code.as_str(),
            message: self.public_message(),
            details,
            trace_id,
            retryable: self.code.retryable(),
            r#type: format!("/.tollgate/errors/{}", self.code),
            title: self.code.title(),
            status: self.status.as_u16(),
            detail: self.public_message(),
            instance: format!("urn:request:{request_id}"),
        }
    }
}

impl From<ErrorCode> for Reject {
    fn from(code: ErrorCode) -> Self {
        Self::new(code)
    }
}

/// The error body: our members and those of RFC 9457 in one object.
#[derive(Debug, Serialize)]
pub struct Problem<'a> {
    code: &'a str,
    message: &'a str,
    details: Map<String, Value>,
    trace_id: &'a str,
    retryable: bool,
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: String,
}

impl Problem<'_> {
    /// The media type of the body (RFC 9457 §3).
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// The body's bytes.
    pub fn to_bytes(&self) -> bytes::Bytes {
        serde_json::to_vec(self).expect("a problem has string keys and finite numbers").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_parse_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn the_body_holds_both_shapes_and_never_the_cause() {
        let reject = Reject::new(ErrorCode::RateLimited)
            .detail("limit", "burst")
            .retry_after(1)
            .because("redis://secret@host refused");
        let body = reject.problem("0af7651916cd43dd8448eb211c80319c", "r-1").to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(!text.contains("redis"));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["code"], "RATE_LIMITED");
        assert_eq!(value["details"]["retry_after"], 1);
        assert_eq!(value["message"], value["detail"]);
        assert_eq!(value["status"], 429);
        assert_eq!(value["instance"], "urn:request:r-1");
        assert_eq!(value["type"], "/.tollgate/errors/RATE_LIMITED");
    }
}
