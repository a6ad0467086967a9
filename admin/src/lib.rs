//! The control plane's HTTP API. It publishes through [`Revisions`] and knows neither pingora nor files.
//!
//! Invariant: but for the status endpoints, nothing is answered without a token; every refusal has the one error body.

mod document;
mod problem;
mod token;

pub use token::TokenHash;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use model::ErrorCode;
use model::revision::Revisions;
use problem::Refused;
use std::sync::Arc;

/// Largest document that is taken, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// What handlers share.
pub(crate) struct Shared<R> {
    revisions: Arc<R>,
    token: TokenHash,
}

/// The API. `status` answers `/healthz`, `/readyz` and `/metrics`, which need no token.
pub fn router<R: Revisions>(revisions: Arc<R>, token: TokenHash, status: Router) -> Router {
    let shared = Arc::new(Shared { revisions, token });
    let v1 = Router::new()
        .route("/v1/document", get(document::get::<R>).put(document::put::<R>))
        .fallback(async || Refused::from(ErrorCode::NotFound))
        .method_not_allowed_fallback(async || Refused::from(ErrorCode::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(DOCUMENT_BYTES_MAX))
        // Outermost: what isn't there is nobody's business either.
        .layer(axum::middleware::from_fn_with_state(shared.clone(), token::check::<R>))
        .with_state(shared);
    v1.merge(status)
}

#[cfg(test)]
mod tests;
