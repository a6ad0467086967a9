//! What is shown to receivers beside the signature: a header, or a bearer token by the client credentials grant (RFC 6749
//! §4.4).
//!
//! A token is kept until shortly before it is over, and however many deliveries wait for it, it is asked for once at a time.
//! Token endpoints are written by tenants as well: they are reached through the guard like everything else.

use crate::client::{Asked, Bounds, Client, Extent, Failure, Place};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use model::Clock;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex as Lock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a token is waited for, whoever asks for it.
pub(crate) const TOKEN_MAX: Duration = Duration::from_secs(8);
/// How long a failure is told to whoever comes next, before the token endpoint is asked again.
const FAILURE_KEPT: i64 = 5_000_000;
/// How long a token is kept that says nothing about how long it is good.
const LIFE_UNKNOWN: u64 = 300;
/// Longest time that a token is kept, in seconds.
const LIFE_MAX: u64 = 24 * 3_600;
/// How long before its end a token is no longer shown, in seconds; at most half of its life.
const MARGIN: u64 = 30;
/// How much of a token endpoint's answer is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;
/// Longest token, in bytes: it has to fit into a header.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// What a receiver wants to see.
#[derive(Clone)]
pub(crate) enum Authorization {
    /// Nothing.
    None,
    /// This header.
    Header(HeaderName, HeaderValue),
    /// A token.
    Token(Arc<TokenSource>),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Header(name, _) => write!(f, "Header({name})"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// Why there is no token. Holds nothing of what was sent or answered but the code of an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// The token endpoint could not be asked.
    #[error("the token endpoint could not be asked: {0}")]
    Exchange(String),
    /// It refused.
    #[error("the token endpoint answered {0}{1}")]
    Refused(StatusCode, String),
    /// Its answer is none (RFC 6749 §5.1).
    #[error("the token endpoint's answer {0}")]
    Answer(&'static str),
    /// It took too long.
    #[error("there was no token within {TOKEN_MAX:?}")]
    Late,
}

/// How a token is asked for.
pub(crate) struct Credentials<'a> {
    pub(crate) place: Place,
    pub(crate) client_id: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) scopes: &'a [String],
}

/// Tokens of this process, by what they are asked for with: a new revision that changes nothing of that asks for none.
#[derive(Default)]
pub(crate) struct Tokens(Lock<HashMap<[u8; 32], Weak<TokenSource>>>);

impl Tokens {
    /// Where to get tokens for these credentials.
    pub(crate) fn source(&self, credentials: &Credentials<'_>) -> Arc<TokenSource> {
        let source = TokenSource::new(credentials);
        let mut hash = Sha256::new();
        let url = credentials.place.destination().uri().to_string();
        for part in [url.as_bytes(), source.basic.as_bytes(), &source.body] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, source| source.strong_count() > 0);
        let key: [u8; 32] = hash.finalize().into();
        if let Some(source) = sources.get(&key).and_then(Weak::upgrade) {
            return source;
        }
        let source = Arc::new(source);
        sources.insert(key, Arc::downgrade(&source));
        source
    }
}

/// Where tokens for some credentials come from.
pub(crate) struct TokenSource {
    place: Place,
    basic: HeaderValue,
    body: Bytes,
    /// Held while the token is asked for.
    state: Mutex<State>,
}

/// With times in microseconds since the Unix epoch.
enum State {
    None,
    Token { value: HeaderValue, until: i64 },
    Failed { error: TokenError, until: i64 },
}

impl TokenSource {
    fn new(credentials: &Credentials<'_>) -> Self {
        let Credentials { place, client_id, secret, scopes } = credentials;
        // RFC 6749 §2.3.1: both are form-encoded before they are an HTTP Basic user and password.
        let encoded =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let user = format!("{}:{}", encoded(client_id), encoded(secret));
        let basic = format!("Basic {}", BASE64_STANDARD.encode(user));
        let mut basic = HeaderValue::try_from(basic).expect("base64 fits into a header");
        basic.set_sensitive(true);
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("grant_type", "client_credentials");
        if !scopes.is_empty() {
            body.append_pair("scope", &scopes.join(" "));
        }
        let body = body.finish().into();
        Self { place: place.clone(), basic, body, state: Mutex::new(State::None) }
    }

    /// The value of `Authorization` with a token that is good, and is not the one that was refused.
    pub(crate) async fn token(
        &self,
        client: &Client,
        clock: &Clock,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, TokenError> {
        let token = timeout(TOKEN_MAX, self.token_unbounded(client, clock, refused));
        token.await.unwrap_or(Err(TokenError::Late))
    }

    async fn token_unbounded(
        &self,
        client: &Client,
        clock: &Clock,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, TokenError> {
        let mut state = self.state.lock().await;
        let now = clock.micros();
        match &*state {
            State::Token { value, until } if now < *until && Some(value) != refused => {
                return Ok(value.clone());
            }
            State::Failed { error, until } if now < *until => return Err(error.clone()),
            State::Token { .. } | State::Failed { .. } | State::None => {}
        }
        match self.fetch(client).await {
            Ok((value, life)) => {
                let kept = life.saturating_sub(MARGIN.min(life / 2));
                let kept = i64::try_from(kept).unwrap_or(i64::MAX).saturating_mul(1_000_000);
                *state = State::Token { value: value.clone(), until: now.saturating_add(kept) };
                Ok(value)
            }
            Err(error) => {
                let until = clock.micros().saturating_add(FAILURE_KEPT);
                *state = State::Failed { error: error.clone(), until };
                Err(error)
            }
        }
    }

    /// A token, and how many seconds it is good.
    async fn fetch(&self, client: &Client) -> Result<(HeaderValue, u64), TokenError> {
        let mut headers = HeaderMap::with_capacity(5);
        headers.insert(AUTHORIZATION, self.basic.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
        let bounds = Bounds { read: ANSWER_MAX, kept: ANSWER_MAX };
        let (place, body) = (&self.place, self.body.clone());
        let method = Method::POST;
        let asked = Asked { place, method, headers, body, bounds, is_ours: &|| true };
        // A little less than the caller waits, so that this failure is kept for those who wait as well.
        let answer = client.exchange(asked, TOKEN_MAX - Duration::from_millis(200)).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::Late(_) => TokenError::Late,
            failure => TokenError::Exchange(failure.to_string()),
        })?;
        if answer.extent != Extent::Whole {
            return Err(TokenError::Answer("is longer than 64 KiB"));
        }
        if !answer.status.is_success() {
            return Err(TokenError::Refused(answer.status, error_code(&answer.body)));
        }
        read(&answer.body)
    }
}

/// RFC 6749 §5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// A number, which some send as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

fn read(body: &[u8]) -> Result<(HeaderValue, u64), TokenError> {
    // The cause would tell parts of the answer.
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|_| TokenError::Answer("is no JSON with `access_token` and `token_type`"))?;
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err(TokenError::Answer("is a token of another type than `Bearer`"));
    }
    let token = &granted.access_token;
    let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !visible {
        return Err(TokenError::Answer("holds a token that fits into no header"));
    }
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| TokenError::Answer("holds a token that is none"))?;
    value.set_sensitive(true);
    let life = match granted.expires_in {
        Some(Seconds::Number(seconds)) if seconds >= 0.0 => whole(seconds),
        Some(Seconds::Text(text)) => text.parse().ok(),
        Some(Seconds::Number(_)) | None => None,
    };
    Ok((value, life.unwrap_or(LIFE_UNKNOWN).min(LIFE_MAX)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(seconds: f64) -> Option<u64> {
    Some(seconds as u64)
}

/// `error` of an answer that refuses (RFC 6749 §5.2), where it is one of the codes that there are: nothing else of the
/// answer is told.
fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    const CODES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let code = refusal.and_then(|refusal| CODES.into_iter().find(|code| *code == refusal.error));
    code.map_or_else(String::new, |code| format!(" ({code})"))
}

#[cfg(test)]
mod tests;
