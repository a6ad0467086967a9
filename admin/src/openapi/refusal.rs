//! Refusals: each status once, with the codes that it may carry.

use super::answer::with_headers;
use super::example::{REQUEST, TRACE};
use http::StatusCode;
use model::{ErrorCode, Problem, Reject};
use serde_json::{Value, json};
use utoipa::openapi::{ContentBuilder, Ref, Response, ResponseBuilder};

/// Every status that refuses.
pub(super) const REFUSALS: &[u16] =
    &[400, 401, 403, 404, 408, 409, 412, 413, 422, 428, 429, 500, 503];

/// The codes that this API refuses with. 405 is of methods that are not described.
pub(super) const CODES: &[ErrorCode] = &[
    ErrorCode::ValidationFailed,
    ErrorCode::IdempotencyKeyInvalid,
    ErrorCode::CredentialMissing,
    ErrorCode::CredentialInvalid,
    ErrorCode::CredentialExpired,
    ErrorCode::Forbidden,
    ErrorCode::TenantSuspended,
    ErrorCode::NotFound,
    ErrorCode::RequestTimeout,
    ErrorCode::Conflict,
    ErrorCode::IdempotencyInProgress,
    ErrorCode::PreconditionFailed,
    ErrorCode::BodyTooLarge,
    ErrorCode::ConfigInvalid,
    ErrorCode::IdempotencyKeyReused,
    ErrorCode::PreconditionRequired,
    ErrorCode::RateLimited,
    ErrorCode::Internal,
    ErrorCode::DependencyUnavailable,
    ErrorCode::Overloaded,
];

fn codes(status: u16) -> impl Iterator<Item = ErrorCode> {
    CODES.iter().copied().filter(move |code| code.status().as_u16() == status)
}

/// The name of a refusal among the components' responses.
pub(super) fn name(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.unwrap_or_default().replace(' ', "")
}

/// The name of its body's schema.
pub(super) fn schema_name(status: u16) -> String {
    format!("Problem{status}")
}

/// The refusal, as the components have it.
pub(super) fn response(status: u16) -> Response {
    let about: Vec<String> =
        codes(status).map(|code| format!("`{code}`: {}", code.message())).collect();
    let example = codes(status).next().map(|code| json!(Reject::new(code).problem(TRACE, REQUEST)));
    let schema = Ref::from_schema_name(schema_name(status));
    let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
    let response =
        ResponseBuilder::new().description(about.join(" ")).content(Problem::MEDIA_TYPE, content);
    let further: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        409 | 429 | 503 => &["Retry-After"],
        _ => &[],
    };
    with_headers(response, further).build()
}

/// The body of one status: a problem with one of its codes.
pub(super) fn schema(status: u16) -> Value {
    let codes: Vec<&str> = codes(status).map(ErrorCode::as_str).collect();
    let mut properties = json!({ "code": { "enum": codes }, "status": { "const": status } });
    if let (422, Some(properties)) = (status, properties.as_object_mut()) {
        let errors = json!({
            "type": "array",
            "items": { "$ref": "#/components/schemas/Mistake" },
            "description": "Everything that is wrong.",
        });
        properties.insert("details".to_owned(), json!({ "properties": { "errors": errors } }));
    }
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    json!({ "allOf": [problem, { "type": "object", "properties": properties }] })
}

/// The error body (RFC 9457).
pub(super) fn problem() -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let properties = json!({
        "code": text("What to tell apart by. Never renamed."),
        "message": text("For people."),
        "details": { "type": "object", "description": "What the code has to say beside." },
        "trace_id": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
        "retryable": {
            "type": "boolean",
            "description": "Whether the same request may succeed later.",
        },
        "type": text("`/.tollgate/errors/{code}`: what the code means, at the gateway."),
        "title": text("A short name of the code."),
        "status": { "type": "integer" },
        "detail": text("The message."),
        "instance": text("`urn:request:` and the request's id."),
    });
    let required: Vec<&String> =
        properties.as_object().into_iter().flatten().map(|p| p.0).collect();
    json!({
        "type": "object",
        "description": "Why a request was refused (RFC 9457).",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
