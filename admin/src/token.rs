//! Bearer tokens of operators: only their hash is kept, and it is compared in constant time.

use crate::Shared;
use crate::problem::Refused;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, header};
use model::{ErrorCode, Reject};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// SHA-256 of a token. Tokens have at least 160 random bits, so a fast hash is enough.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn accepts(&self, token: &str) -> bool {
        bool::from(self.0.ct_eq(&Self::of(token).0))
    }
}

/// Lets a request through that brings the token.
pub(crate) async fn check<R: Send + Sync + 'static>(
    State(shared): State<Arc<Shared<R>>>,
    request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let challenge = |code| {
        let value = HeaderValue::from_static(r#"Bearer realm="tollgate-admin""#);
        Refused::from(Reject::new(code).header(header::WWW_AUTHENTICATE, value))
    };
    let value = request.headers().get(header::AUTHORIZATION);
    let value = value.ok_or_else(|| challenge(ErrorCode::CredentialMissing))?;
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && shared.token.accepts(token) =>
        {
            Ok(next.run(request).await)
        }
        _ => Err(challenge(ErrorCode::CredentialInvalid)),
    }
}
