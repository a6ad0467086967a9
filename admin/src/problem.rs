//! Refusals on their way out: whatever goes wrong, the caller sees the one error body.
//!
//! Invariant: a refusal that a handler makes holds no request id; [`frame`](crate::request::frame) puts it into the body,
//! so that body, header and audit name the same one.

use crate::request::Ids;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, header};
use model::config::ConfigError;
use model::port::StoreError;
use model::revision::PublishError;
use model::{ErrorCode, Problem, Reject};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::WriteError;

/// After how many seconds it is worth asking a store again that did not answer.
const STORE_RETRY_S: u64 = 1;

/// Why a request is not done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is refused.
    Rejected(Reject),
    /// It is refused because it is another tenant's, and doesn't say so. The audit does.
    Hidden(Reject),
    /// An answer was kept meanwhile for its `Idempotency-Key`: [`Once::done`](crate::once::Once::done) gives it.
    Repeat,
}

impl Refused {
    /// 400: the request is malformed, and how.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Reject::new(ErrorCode::ValidationFailed).message(message).into()
    }

    /// 403: and what would be needed.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Reject::new(ErrorCode::Forbidden).message(message).into()
    }

    /// 404: it is another tenant's, as if it were not there.
    pub(crate) fn hidden() -> Self {
        Self::Hidden(Reject::new(ErrorCode::NotFound))
    }

    /// The same, known to be refused because it is another tenant's.
    pub(crate) fn hiding(self) -> Self {
        match self {
            Self::Rejected(reject) => Self::Hidden(reject),
            Self::Hidden(_) | Self::Repeat => self,
        }
    }

    /// 422: every error, with pointers into the document and into what was sent, if that stands at `at`.
    pub(crate) fn invalid(errors: &[ConfigError], at: Option<&str>) -> Self {
        Reject::new(ErrorCode::ConfigInvalid).detail("errors", located(errors, at)).into()
    }

    /// 422 of what is no part of a document: every error, with pointers into what was sent.
    pub(crate) fn unfit(errors: &[ConfigError]) -> Self {
        Reject::new(ErrorCode::ConfigInvalid)
            .message("What was sent is not valid.")
            .detail("errors", located(errors, Some("")))
            .into()
    }

    /// Something that can't be, with its cause for the log.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        Reject::new(ErrorCode::Internal).because(cause).into()
    }

    /// What it is refused with.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(reject) | Self::Hidden(reject) => reject.code,
            Self::Repeat => ErrorCode::IdempotencyInProgress,
        }
    }
}

/// Errors as answers show them: `document_pointer` always, and `pointer` into what was sent where the error lies in it.
pub(crate) fn located(errors: &[ConfigError], at: Option<&str>) -> Value {
    let shown = errors.iter().map(|error| {
        let pointer = at.and_then(|at| rest(&error.pointer, at)).unwrap_or(&error.pointer);
        json!({ "pointer": pointer, "document_pointer": error.pointer, "message": error.message })
    });
    shown.collect()
}

/// What of a pointer follows another one, if it points at the same place or into it.
pub(crate) fn rest<'a>(pointer: &'a str, at: &str) -> Option<&'a str> {
    pointer.strip_prefix(at).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Reject::new(code).into()
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Reject::new(ErrorCode::DependencyUnavailable)
            .retry_after(STORE_RETRY_S)
            .because(error)
            .into()
    }
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Invalid(errors) => Self::invalid(&errors, None),
            PublishError::Stale => ErrorCode::PreconditionFailed.into(),
            PublishError::Staged { number, nodes } => staged(number, &nodes),
            PublishError::ReadOnly => Reject::new(ErrorCode::Conflict)
                .message("The document is kept in a file that the operator owns; change it there.")
                .into(),
            PublishError::NotFound => ErrorCode::NotFound.into(),
            PublishError::Repeat => Self::Repeat,
            PublishError::Store(error) => error.into(),
        }
    }
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stale => ErrorCode::PreconditionFailed.into(),
            WriteError::Staged { number, nodes } => staged(number, &nodes),
            WriteError::NotFound => ErrorCode::NotFound.into(),
            WriteError::Repeat => Self::Repeat,
            WriteError::LastToken => Reject::new(ErrorCode::Conflict)
                .message("It is the last live token of role `admin` that is bound to no tenant: make another one first.")
                .into(),
            error @ (WriteError::TooMany(_)
            | WriteError::TooLarge { .. }
            | WriteError::OtherPack) => Reject::new(ErrorCode::Conflict)
                .message(format!("This can't be kept: {error}."))
                .into(),
            WriteError::Store(error) => error.into(),
        }
    }
}

fn staged(number: u64, nodes: &[model::id::NodeName]) -> Refused {
    let nodes: Vec<&str> = nodes.iter().map(model::id::NodeName::as_str).collect();
    Reject::new(ErrorCode::Conflict)
        .message("The newest revision is on some nodes only: release it or roll it back first.")
        .detail("revision", number)
        .detail("nodes", nodes)
        .into()
}

/// Marks a response that hides what is another tenant's. It never leaves the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hides;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (reject, hides) = match self {
            Self::Rejected(reject) => (reject, None),
            Self::Hidden(reject) => (reject, Some(Hides)),
            Self::Repeat => (Reject::new(ErrorCode::IdempotencyInProgress).retry_after(1), None),
        };
        let mut response = reject.status.into_response();
        response.extensions_mut().insert(Arc::new(reject));
        if let Some(hides) = hides {
            response.extensions_mut().insert(hides);
        }
        response
    }
}

/// Writes the body of a refusal. Headers that the response has already (`Allow`) stay.
pub(crate) fn write(response: Response, reject: &Reject, ids: &Ids, method: &Method) -> Response {
    if reject.status.is_server_error() || reject.cause.is_some() {
        let cause = reject.cause.as_deref();
        tracing::warn!(request_id = &*ids.request, trace_id = &*ids.trace, code = %reject.code, cause, "refused");
    }
    let (mut parts, _) = response.into_parts();
    let headers = &mut parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    if let Some(seconds) = reject.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    for (name, value) in &reject.headers {
        headers.append(HeaderName::clone(name), value.clone());
    }
    let body = if method == Method::HEAD {
        axum::body::Body::empty()
    } else {
        reject.problem(&ids.trace, &ids.request).to_bytes().into()
    };
    Response::from_parts(parts, body)
}
