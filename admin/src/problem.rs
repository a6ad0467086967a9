//! The error body, as axum answers it.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use model::{ErrorCode, Problem, Reject};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A refusal on its way out.
pub(crate) struct Refused(Reject);

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self(reject)
    }
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Reject::new(code).into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let trace_id = uuid::Uuid::new_v4().simple().to_string();
        let request_id = uuid::Uuid::now_v7().to_string();
        let body = self.0.problem(&trace_id, &request_id).to_bytes();
        if self.0.status.is_server_error() || self.0.cause.is_some() {
            tracing::warn!(trace_id, code = %self.0.code, cause = self.0.cause.as_deref(), "refused");
        }
        let mut response = (self.0.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::try_from(request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        for (name, value) in &self.0.headers {
            headers.append(name, value.clone());
        }
        response
    }
}
