//! An issuer's keys: read from a file, fetched from an address in the background, or one shared secret.
//!
//! Invariant: a set that can't be read changes nothing; the last good one stays. A request waits for a fetch only when
//! it names a key that isn't known, for a bounded time, and fetches never come closer together than [`FETCH_INTERVAL_MIN`].

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};
use model::{ErrorCode, Reject};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// Keys of one set.
const KEYS_MAX: usize = 100;
/// Bytes of one set.
const SET_BYTES_MAX: usize = 256 * 1024;
/// Weakest RSA key, in bits (RFC 7518 §3.3).
const RSA_BITS_MIN: usize = 2048;
/// Between two fetches that unknown key ids ask for.
pub const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Between two tries while no set was ever read.
const FIRST_FETCH_RETRY: Duration = Duration::from_millis(500);
/// One fetch, from connect to last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request with an unknown key id waits for a fetch; it does not wait at all when none may begin by then.
const WAIT_FOR_FETCH: Duration = Duration::from_secs(2);
/// How long a set stays fresh when its answer says nothing, and the bounds of what it may say.
const FRESH: (Duration, Duration, Duration) =
    (Duration::from_secs(300), Duration::from_secs(300), Duration::from_secs(86_400));

/// One key and the only algorithm it is used with.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish()
    }
}

#[derive(Debug)]
struct Keys {
    generation: u64,
    keys: Arc<[Key]>,
}

/// Why a set is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWK set (RFC 7517 §5).
    #[error("is not a JWK set: {0}")]
    Malformed(String),
    /// A key that must not be in a public set.
    #[error("key {0:?}: {1}")]
    Key(String, &'static str),
    /// It couldn't be fetched.
    #[error("could not be fetched: {0}")]
    Fetch(String),
}

/// The keys of one issuer. Outlives revisions.
#[derive(Debug)]
pub struct KeySet {
    current: ArcSwap<Keys>,
    /// Where it is fetched from; none for files and secrets.
    uri: Option<String>,
    /// From when the next fetch may begin; sent anew after each one, good or not.
    next: watch::Sender<Instant>,
    wanted: Notify,
}

impl KeySet {
    /// A fixed set: the text of a file.
    pub fn from_json(text: &[u8]) -> Result<Self, KeySetError> {
        Ok(Self::with(read(text)?, None))
    }

    /// One shared secret, for HS256.
    pub fn from_secret(secret: &[u8]) -> Self {
        let key = Key {
            id: None,
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret),
        };
        Self::with(vec![key], None)
    }

    /// A set that [`KeySet::keep_fresh`] fetches; empty until then.
    pub fn fetched_from(uri: &str) -> Self {
        Self::with(Vec::new(), Some(uri.to_owned()))
    }

    fn with(keys: Vec<Key>, uri: Option<String>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Keys { generation: 0, keys: keys.into() }),
            uri,
            next: watch::Sender::new(Instant::now()),
            wanted: Notify::new(),
        }
    }

    /// Changes with every set that differs from the one before.
    pub(super) fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Whether there is a set to verify with.
    pub fn is_ready(&self) -> bool {
        !self.current.load().keys.is_empty()
    }

    /// The keys that may have signed a token with this key id (empty when it names none) and algorithm.
    pub(super) async fn candidates(
        &self,
        key_id: &str,
        algorithm: Algorithm,
    ) -> Result<(u64, Vec<Key>), Reject> {
        let mut found = self.lookup(key_id, algorithm);
        if found.1.is_empty() && self.uri.is_some() {
            let mut next = self.next.subscribe();
            self.wanted.notify_one();
            if *next.borrow_and_update() <= Instant::now() + WAIT_FOR_FETCH {
                // Whether it came or not, the keys of now decide.
                timeout(WAIT_FOR_FETCH, next.changed()).await.ok();
                found = self.lookup(key_id, algorithm);
            }
        }
        if found.1.is_empty() && !self.is_ready() {
            return Err(Reject::new(ErrorCode::DependencyUnavailable)
                .message("The keys of this token's issuer can't be fetched at the moment.")
                .retry_after(2));
        }
        Ok(found)
    }

    fn lookup(&self, key_id: &str, algorithm: Algorithm) -> (u64, Vec<Key>) {
        let current = self.current.load();
        let shared = algorithm == Algorithm::HS256;
        let fits = |key: &&Key| {
            key.algorithm == algorithm
                && (shared || key_id.is_empty() || key.id.as_deref() == Some(key_id))
        };
        (current.generation, current.keys.iter().filter(fits).cloned().collect())
    }

    /// Fetches the set when it is due or wanted, for as long as the issuer is in the document.
    pub async fn keep_fresh(self: Arc<Self>, client: reqwest::Client) {
        let Some(uri) = self.uri.clone() else { return };
        loop {
            let started = Instant::now();
            let pause = match fetch(&client, &uri).await {
                Ok((keys, fresh)) => {
                    self.replace(keys);
                    fresh
                }
                Err(error) => {
                    tracing::warn!(uri, %error, "key set not refreshed; the last good one stays");
                    if self.is_ready() { FETCH_INTERVAL_MIN } else { FIRST_FETCH_RETRY }
                }
            };
            let next = started + if self.is_ready() { FETCH_INTERVAL_MIN } else { pause };
            self.next.send_replace(next);
            tokio::time::sleep_until(next).await;
            if self.is_ready() {
                let rest = pause.saturating_sub(FETCH_INTERVAL_MIN);
                // Due or wanted: either way it is time.
                timeout(rest, self.wanted.notified()).await.ok();
            }
        }
    }

    fn replace(&self, keys: Vec<Key>) {
        let current = self.current.load_full();
        let same = current.keys.len() == keys.len()
            && current.keys.iter().zip(&keys).all(|(old, new)| {
                old.id == new.id
                    && old.algorithm == new.algorithm
                    && old.decoding.try_get_as_bytes().ok() == new.decoding.try_get_as_bytes().ok()
                    && old.id.is_some()
            });
        if !same {
            let generation = current.generation + 1;
            self.current.store(Arc::new(Keys { generation, keys: keys.into() }));
        }
    }
}

async fn fetch(client: &reqwest::Client, uri: &str) -> Result<(Vec<Key>, Duration), KeySetError> {
    let failed = |error: reqwest::Error| KeySetError::Fetch(error.without_url().to_string());
    let get = client.get(uri).timeout(FETCH_TIMEOUT).send();
    let mut response = get.await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let fresh = freshness(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > SET_BYTES_MAX {
            return Err(KeySetError::Fetch(format!("larger than {SET_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((read(&body)?, fresh))
}

/// `Cache-Control: max-age`, within bounds.
fn freshness(headers: &http::HeaderMap) -> Duration {
    let (default, least, most) = FRESH;
    let control = headers.get(http::header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let age = control.and_then(|control| {
        let age = control.split(',').find_map(|part| part.trim().strip_prefix("max-age="))?;
        age.parse().ok().map(Duration::from_secs)
    });
    age.map_or(default, |age| age.clamp(least, most))
}

/// Reads a JWK set. Keys of other families are passed over; secret, weak or ambiguous ones spoil the whole set.
fn read(text: &[u8]) -> Result<Vec<Key>, KeySetError> {
    let malformed = |error: serde_json::Error| KeySetError::Malformed(error.to_string());
    let value: serde_json::Value = serde_json::from_slice(text).map_err(malformed)?;
    let private = |key: &serde_json::Value| {
        ["d", "p", "q", "k"].iter().any(|secret| key.get(secret).is_some())
    };
    let listed = value.get("keys").and_then(serde_json::Value::as_array);
    for key in listed.into_iter().flatten() {
        if private(key) {
            let id = key.get("kid").and_then(serde_json::Value::as_str).unwrap_or_default();
            return Err(KeySetError::Key(
                id.to_owned(),
                "holds a secret, which a public set must not",
            ));
        }
    }
    let set: JwkSet = serde_json::from_value(value).map_err(malformed)?;
    if set.keys.len() > KEYS_MAX {
        return Err(KeySetError::Malformed(format!("more than {KEYS_MAX} keys")));
    }
    let mut ids = HashSet::new();
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let id = jwk.common.key_id.clone();
        let name = id.clone().unwrap_or_default();
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            return Err(KeySetError::Key(name, "stands twice"));
        }
        let Some(algorithm) = algorithm_of(jwk) else { continue };
        let decoding = DecodingKey::from_jwk(jwk)
            .map_err(|_| KeySetError::Key(name.clone(), "can't be read"))?;
        if let AlgorithmParameters::RSA(rsa) = &jwk.algorithm
            && rsa.n.len() * 6 < RSA_BITS_MIN
        {
            return Err(KeySetError::Key(name, "is an RSA key of less than 2048 bits"));
        }
        keys.push(Key { id, algorithm, decoding });
    }
    if keys.is_empty() {
        return Err(KeySetError::Malformed("no key that can be used".to_owned()));
    }
    Ok(keys)
}

/// The one algorithm a key is used with: what it says, if its type agrees; else what its type implies.
fn algorithm_of(jwk: &jsonwebtoken::jwk::Jwk) -> Option<Algorithm> {
    let implied = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let said = match jwk.common.key_algorithm {
        None => implied,
        Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        Some(KeyAlgorithm::ES256) => Algorithm::ES256,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        Some(_) => return None,
    };
    (said == implied).then_some(implied)
}
