//! What handlers answer with, and what can be kept for a repeat.

use crate::openapi::{Located, Shown};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::id::NodeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) const TOLLGATE_REVISION: HeaderName = HeaderName::from_static("tollgate-revision");

/// An answer that is not a refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    status: u16,
    /// Without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    body: Value,
}

impl Answer {
    /// An answer with this body. What can't be serialised is a fault of ours.
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_value(body).unwrap_or_default();
        Self { status: status.as_u16(), etag: None, revision: None, location: None, body }
    }

    /// 200.
    pub(crate) fn ok(body: &impl Serialize) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// 200 with a large value, which is written once and never copied.
    pub(crate) fn large(self, value: &Value) -> Response {
        let mut response = self.into_response();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(value.to_string());
        response
    }

    /// 201, and where what was made is.
    pub(crate) fn created(location: String, body: &impl Serialize) -> Self {
        Self { location: Some(location), ..Self::new(StatusCode::CREATED, body) }
    }

    /// With the resource's tag, given without quotes.
    #[must_use]
    pub(crate) fn tagged(self, etag: impl Into<String>) -> Self {
        Self { etag: Some(etag.into()), ..self }
    }

    /// With another status.
    #[must_use]
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status: status.as_u16(), ..self }
    }

    /// 304: tag and revision without the body (RFC 9110 §15.4.5).
    pub(crate) fn not_modified(self) -> Response {
        let mut response = self.with_status(StatusCode::NOT_MODIFIED).into_response();
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response
    }

    /// The status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// With the revision that it speaks of.
    #[must_use]
    pub(crate) fn of_revision(self, number: u64) -> Self {
        Self { revision: Some(number), ..self }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: Option<String>| {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        };
        put(header::ETAG, self.etag.map(|etag| format!("\"{etag}\"")));
        put(header::LOCATION, self.location);
        put(TOLLGATE_REVISION, self.revision.map(|number| number.to_string()));
        (status, headers, axum::Json(self.body)).into_response()
    }
}

/// What a change of the document answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Changed {
    /// The revision that it made; the present one when nothing was to change.
    pub(crate) revision: u64,
    /// The resource's tag from now on; none when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
    /// What changed in the document.
    #[schemars(with = "Shown")]
    pub(crate) difference: Value,
    /// The nodes that it went to first; none when it is everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<Vec<NodeName>>,
    /// The resource as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<Value>,
}

/// What a change would do.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DryRun {
    /// Whether it would be published.
    pub(crate) valid: bool,
    /// Everything that is wrong.
    #[schemars(with = "Vec<Located>")]
    pub(crate) errors: Value,
    /// What would change in the document.
    #[schemars(with = "Shown")]
    pub(crate) difference: Value,
}
