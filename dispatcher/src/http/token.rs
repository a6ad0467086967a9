//! Bearer tokens of producers: those of the admin API, found in the store.
//!
//! Invariant: a token that was revoked is refused within [`KNOWN_TIME`], and one that has ended at once.

use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use model::role::Permission;
use model::token::{self, Token, TokenHash};
use model::{ErrorCode, Reject};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;

/// For how long a token that was accepted is so without asking again.
const KNOWN_TIME: Duration = Duration::from_secs(1);

/// How many tokens are remembered.
const KNOWN_MAX: usize = 1_024;

/// The longest token that is looked up, in bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// After how many seconds it is worth asking a store again that did not answer.
const STORE_RETRY_S: u64 = 1;

/// Tokens, and those of the last second.
pub(super) struct Tokens {
    store: Store,
    known: Mutex<HashMap<TokenHash, (Arc<Token>, Timestamp)>>,
}

impl Tokens {
    /// Those of this store.
    pub(super) fn new(store: Store) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// The token of a request, if it is accepted and may send events.
    pub(super) async fn producer(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Arc<Token>, Reject> {
        let token = self.accepted(bearer(headers).map_err(challenge)?, now).await?;
        if token.role.may(Permission::Produce) {
            return Ok(token);
        }
        let message = format!("Tokens of role `{}` may not send events.", token.role.as_str());
        Err(Reject::new(ErrorCode::Forbidden).message(message))
    }

    async fn accepted(&self, text: &str, now: Timestamp) -> Result<Arc<Token>, Reject> {
        let hash = token::hash(text);
        let token = match self.known(&hash, now) {
            Some(token) => token,
            None => self.find(hash, now).await?,
        };
        if token.is_live(now) {
            Ok(token)
        } else if token.revoked_at.is_some() {
            Err(challenge(ErrorCode::CredentialInvalid))
        } else {
            Err(challenge(ErrorCode::CredentialExpired))
        }
    }

    async fn find(&self, hash: TokenHash, now: Timestamp) -> Result<Arc<Token>, Reject> {
        let found = self.store.token_of(&hash).await.map_err(|error| {
            Reject::new(ErrorCode::DependencyUnavailable).retry_after(STORE_RETRY_S).because(error)
        })?;
        let token = Arc::new(found.ok_or_else(|| challenge(ErrorCode::CredentialInvalid))?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(hash, (token.clone(), now));
        Ok(token)
    }

    fn known(&self, hash: &TokenHash, now: Timestamp) -> Option<Arc<Token>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, since) = known.get(hash)?;
        let age = Duration::try_from(now.duration_since(*since)).ok()?;
        (age < KNOWN_TIME).then(|| token.clone())
    }
}

/// RFC 6750 §2.1.
fn bearer(headers: &HeaderMap) -> Result<&str, ErrorCode> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let value = lines.next().ok_or(ErrorCode::CredentialMissing)?;
    let parts = value.to_str().ok().and_then(|value| value.split_once(' '));
    match (parts, lines.next()) {
        (Some((scheme, token)), None)
            if scheme.eq_ignore_ascii_case("bearer")
                && (1..=TOKEN_BYTES_MAX).contains(&token.len()) =>
        {
            Ok(token)
        }
        _ => Err(ErrorCode::CredentialInvalid),
    }
}

/// RFC 6750 §3.
fn challenge(code: ErrorCode) -> Reject {
    let value = match code {
        ErrorCode::CredentialMissing => r#"Bearer realm="tollgate-admin""#,
        _ => r#"Bearer realm="tollgate-admin", error="invalid_token""#,
    };
    Reject::new(code).header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value))
}
