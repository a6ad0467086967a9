//! Bearer tokens of operators: who acts. Only a token's hash is kept; a token has far more than 160 random bits, so that a
//! fast hash is enough.

use crate::Shared;
use crate::acting::Acting;
use crate::events;
use crate::problem::Refused;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::audit::Entry;
use model::id::{NodeName, TokenId};
use model::port::StoreError;
use model::role::{Actor, Role};
use model::token::{Token, TokenHash};
use model::{Clock, ErrorCode, Reject};
use rand::Rng as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use store::Store;

/// The longest token that is looked up, in bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// A new token: `tga_` and 256 random bits in hex.
pub fn new_token() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().fold("tga_".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash under which a token is kept.
pub(crate) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes this the first token of a deployment, of role admin, unless a live one of no tenant is there. Says whether it was.
pub async fn first_token(
    store: &Store,
    clock: &Clock,
    node: &NodeName,
    token: &str,
) -> Result<bool, StoreError> {
    let now = clock.now();
    let id = TokenId::from(uuid::Uuid::now_v7().to_string().as_str());
    let first = Token {
        id: id.clone(),
        name: "first".to_owned(),
        role: Role::Admin,
        tenant: None,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    let audit = Entry {
        id: uuid::Uuid::now_v7().to_string(),
        at: now,
        actor: Actor::system(node),
        action: "tokens.create".to_owned(),
        resource: format!("/v1/tokens/{id}"),
        tenant: None,
        request_id: uuid::Uuid::now_v7().to_string(),
        revision: None,
        difference: json!({ "id": id, "name": first.name, "role": first.role }),
        refused: None,
    };
    store.first_token(first, hash(token), audit).await
}

/// Lets a request through whose token is known and live, and says who acts.
pub(crate) async fn check(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let stranger = Acting::stranger(&request);
    let token = bearer(request.headers()).map(str::to_owned);
    let known = match &token {
        Ok(token) => accepted(&shared, token).await,
        Err(code) => Err(challenge(*code)),
    };
    let acting = match (known, token) {
        (Ok(known), Ok(token)) => Acting::of(&request, known, &token),
        (Err(refused), _) => return turned_away(&shared, &stranger, refused).await,
        (Ok(_), Err(code)) => return challenge(code).into_response(),
    };
    // Nothing else here is a producer's: not even to learn what is there.
    if acting.actor.role == Some(Role::Producer) && request.uri().path() != events::PATH {
        let refused = Refused::forbidden("Tokens of role `producer` send events only.");
        return acting.noted(&shared, refused.into_response()).await;
    }
    request.extensions_mut().insert(acting.clone());
    let response = next.run(request).await;
    acting.noted(&shared, response).await
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

async fn accepted(shared: &Shared, token: &str) -> Result<Token, Refused> {
    let known = shared.store.token_of(&hash(token)).await?;
    let known = known.ok_or_else(|| challenge(ErrorCode::CredentialInvalid))?;
    if known.is_live(shared.clock.now()) {
        Ok(known)
    } else if known.revoked_at.is_some() {
        Err(challenge(ErrorCode::CredentialInvalid))
    } else {
        Err(challenge(ErrorCode::CredentialExpired))
    }
}

/// RFC 6750 §3.
fn challenge(code: ErrorCode) -> Refused {
    let value = match code {
        ErrorCode::CredentialMissing => r#"Bearer realm="tollgate-admin""#,
        _ => r#"Bearer realm="tollgate-admin", error="invalid_token""#,
    };
    Reject::new(code).header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value)).into()
}

async fn turned_away(shared: &Shared, stranger: &Acting, refused: Refused) -> Response {
    let code = refused.code();
    if code.status() == StatusCode::UNAUTHORIZED {
        stranger.note(shared, code).await;
    }
    refused.into_response()
}
