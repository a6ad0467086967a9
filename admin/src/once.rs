//! `Idempotency-Key` of POSTs: the answer is kept in the transaction of what was done, and a repeat gets it again.
//!
//! Invariant: at rest nobody can read an answer, not even one that showed a secret: it is sealed under a key that only token
//! and idempotency key give, and the store has neither.

use crate::Shared;
use crate::acting::Acting;
use crate::answer::Answer;
use crate::body::{self, BODY_BYTES_MAX};
use crate::problem::Refused;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, Uri};
use model::idempotency::Key;
use model::revision::KeptAnswer;
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The body of a POST of this shape, at most 1 MiB of JSON. An extractor: a repeat gets its answer, and the handler is not
/// asked. It stands behind whatever asks the token's role.
pub(crate) struct Posted<T> {
    /// What was sent.
    pub(crate) body: T,
    /// Under which name.
    pub(crate) once: Once,
}

impl<T: DeserializeOwned + JsonSchema + Send> FromRequest<Arc<Shared>> for Posted<T> {
    type Rejection = Undone;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Undone> {
        let named = Named::of(&request)?;
        let bytes = body::read(request, body::JSON, BODY_BYTES_MAX).await?;
        let body = body::typed(&bytes)?;
        Ok(Self { body, once: named.once(shared, &bytes).await? })
    }
}

/// Why a POST is not done now.
pub(crate) enum Undone {
    /// It is refused.
    Refused(Refused),
    /// It was done before: this is its answer.
    Before(Box<Response>),
}

impl<R: Into<Refused>> From<R> for Undone {
    fn from(refused: R) -> Self {
        Self::Refused(refused.into())
    }
}

impl IntoResponse for Undone {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(refused) => refused.into_response(),
            Self::Before(response) => *response,
        }
    }
}

/// A POST before its body is read: who sends what where, under which name.
pub(crate) struct Named {
    acting: Acting,
    key: Option<Key>,
    method: Method,
    uri: Uri,
}

impl Named {
    /// Reads the head.
    pub(crate) fn of(request: &Request) -> Result<Self, Refused> {
        let key = Key::of(request.headers()).map_err(|error| {
            Reject::new(ErrorCode::IdempotencyKeyInvalid).message(error.to_string())
        })?;
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Ok(Self { acting: Acting::of_request(request.extensions())?, key, method, uri })
    }

    /// Looks for the answer to a repeat. To be asked after the token's role and before anything is done.
    pub(crate) async fn once(self, shared: &Shared, body: &[u8]) -> Result<Once, Undone> {
        let Self { acting, key, method, uri } = self;
        let Some(key) = key else { return Ok(Once(None)) };
        let query = uri.query().unwrap_or_default();
        let asked = [method.as_str().as_bytes(), uri.path().as_bytes(), query.as_bytes(), body];
        let parts: [&[u8]; 2] = [&acting.seal, key.as_str().as_bytes()];
        let kept = Kept {
            digest: hash(b"tollgate/admin/answer/digest/1", &parts),
            fingerprint: hash(b"tollgate/admin/fingerprint/1", &asked),
            sealing: hash(b"tollgate/admin/answer/key/1", &parts),
            until: shared.clock.now() + KEPT,
        };
        match kept.replay(shared).await? {
            Some(response) => Err(Undone::Before(Box::new(response))),
            None => Ok(Once(Some(kept))),
        }
    }
}

/// A POST that is done now, and whose answer may be kept.
pub(crate) struct Once(Option<Kept>);

struct Kept {
    digest: [u8; 32],
    fingerprint: [u8; 32],
    sealing: [u8; 32],
    until: jiff::Timestamp,
}

impl Once {
    /// Of requests that are no POST: nothing is kept.
    pub(crate) const NEVER: Self = Self(None);

    /// The answer as it is kept, for the write that it is the answer to; nothing without a key.
    pub(crate) fn keep(&self, answer: &Answer) -> Result<Option<KeptAnswer>, Refused> {
        self.0.as_ref().map(|kept| kept.seal(answer)).transpose()
    }

    /// Does it. What the client gets: the answer; or the one that a request with the same key was given meanwhile.
    pub(crate) async fn done(
        &self,
        shared: &Shared,
        work: impl Future<Output = Result<Answer, Refused>>,
    ) -> Result<Response, Refused> {
        match (work.await, &self.0) {
            (Ok(answer), _) => Ok(answer.into_response()),
            // What the first did may be why this one was refused.
            (Err(refused), Some(kept)) => match (kept.replay(shared).await, refused) {
                (Ok(Some(response)), _) => Ok(response),
                (Err(reused), Refused::Repeat) => Err(reused),
                (_, refused) => Err(refused),
            },
            (Err(refused), None) => Err(refused),
        }
    }
}

impl Kept {
    async fn replay(&self, shared: &Shared) -> Result<Option<Response>, Refused> {
        let found = shared.store.answer(&self.digest, shared.clock.now()).await?;
        let Some(found) = found else { return Ok(None) };
        if found.fingerprint != self.fingerprint {
            return Err(ErrorCode::IdempotencyKeyReused.into());
        }
        let mut response = self.open(&found)?.into_response();
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(response))
    }

    fn key(&self) -> Result<RandomizedNonceKey, Refused> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.sealing).map_err(Refused::internal)
    }

    /// What an answer belongs to: nobody moves it to another request.
    fn belongs(&self) -> Aad<Vec<u8>> {
        Aad::from([self.digest, self.fingerprint].concat())
    }

    fn seal(&self, answer: &Answer) -> Result<KeptAnswer, Refused> {
        let mut text = serde_json::to_vec(answer).map_err(Refused::internal)?;
        let nonce = self.key()?.seal_in_place_append_tag(self.belongs(), &mut text);
        let nonce = nonce.map_err(Refused::internal)?;
        let sealed = [nonce.as_ref().as_slice(), &text].concat();
        let Self { digest, fingerprint, until, .. } = *self;
        Ok(KeptAnswer { digest, fingerprint, status: answer.status(), sealed, until })
    }

    fn open(&self, found: &KeptAnswer) -> Result<Answer, Refused> {
        let torn = || Refused::internal("a kept answer can't be opened");
        let (nonce, text) = found.sealed.split_at_checked(NONCE_LEN).ok_or_else(torn)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| torn())?;
        let mut text = text.to_vec();
        let opened = self.key()?.open_in_place(nonce, self.belongs(), &mut text);
        serde_json::from_slice(opened.map_err(|_| torn())?).map_err(Refused::internal)
    }
}

/// SHA-256 over parts that can't run into each other.
fn hash(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(label);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
