//! JWTs (RFC 7519, RFC 8725, RFC 9068). The issuer decides which algorithms and keys count; the token never does.
//!
//! Time comes from the caller, so this module checks `exp`, `nbf` and `iat` itself and uses the JWT crate for signatures.

use super::Caller;
use super::key_set::{Key, KeySet};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use model::id::{IssuerId, TenantId};
use model::{ErrorCode, Reject};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest `kid`, in bytes (RFC 8725 §3.10: it is a name to look up, nothing else).
const KEY_ID_BYTES_MAX: usize = 128;
/// Verified tokens that are remembered.
const CACHED_TOKENS_MAX: usize = 10_000;
/// Tokens longer than this are verified each time, which bounds the cache's memory at about 20 MiB.
const CACHED_TOKEN_BYTES_MAX: usize = 2 * 1024;

/// A refusal that does not tell which check failed; the cause is for the log.
pub(super) fn refused(cause: impl fmt::Display) -> Reject {
    Reject::new(ErrorCode::CredentialInvalid).because(cause)
}

/// An issuer as requests need it.
#[derive(Debug)]
pub struct Issuer {
    /// Its id in the document.
    pub id: IssuerId,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// The algorithms that it uses.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// Its keys, which outlive revisions.
    pub keys: Arc<KeySet>,
    /// The tenant of all its tokens, or the claim that names one.
    pub tenant: TenantSource,
    /// The claim that names the consumer.
    pub consumer_claim: String,
    /// The claim that lists scopes.
    pub scopes_claim: String,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// The `typ` that is required, lower case, without `application/`.
    pub typ: Option<String>,
}

/// Where a token's tenant comes from.
#[derive(Debug)]
pub enum TenantSource {
    /// The issuer speaks for one tenant.
    Fixed(TenantId),
    /// This claim names it.
    Claim(String),
}

/// A token whose parts were read and whose signature is still to be verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// `iss`, only good for finding whose keys must verify it.
    pub(super) issuer: String,
    message: &'a str,
    signature: &'a str,
    header: TokenHeader,
    claims: Value,
}

/// The header's members that matter; `jku`, `jwk`, `x5u` and `x5c` are never followed (RFC 8725 §3.10).
#[derive(Debug, Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

/// Claims whose signature, times, issuer and audience hold.
#[derive(Debug)]
pub(super) struct Verified {
    issuer: IssuerId,
    pub(super) claims: Arc<Value>,
    pub(super) key_id: String,
    keys: Arc<KeySet>,
    generation: u64,
    /// From and until when the token is accepted, leeway included (seconds).
    accepted: (f64, f64),
}

impl<'a> Token<'a> {
    /// Splits and decodes a compact serialisation (RFC 7515 §7.1).
    pub(super) fn parse(token: &'a str) -> Result<Self, Reject> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused("token too long"));
        }
        let (message, signature) =
            token.rsplit_once('.').ok_or_else(|| refused("not three parts"))?;
        let (header, claims) = message.split_once('.').ok_or_else(|| refused("not three parts"))?;
        let header: TokenHeader = decode(header)?;
        let claims: Value = decode(claims)?;
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { issuer, message, signature, header, claims })
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Reject> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(refused)?;
    serde_json::from_slice(&bytes).map_err(refused)
}

impl Issuer {
    /// Verifies a token that names this issuer: algorithm, key, signature, then claims.
    pub(super) async fn verify(
        &self,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<Verified, Reject> {
        let algorithm = self.algorithm(&token.header)?;
        let key_id = token.header.kid.as_deref().unwrap_or_default();
        let (generation, keys) = self.keys.candidates(key_id, algorithm).await?;
        if !keys.iter().any(|key| verifies(key, token, algorithm)) {
            return Err(refused("the signature does not verify"));
        }
        let accepted = self.accepted_span(&token.claims)?;
        let seconds = now.as_duration().as_secs_f64();
        if seconds >= accepted.1 {
            return Err(Reject::new(ErrorCode::CredentialExpired));
        }
        if seconds < accepted.0 {
            return Err(refused("not valid yet"));
        }
        self.check_audience(&token.claims)?;
        Ok(Verified {
            issuer: self.id.clone(),
            claims: Arc::new(token.claims.clone()),
            key_id: key_id.to_owned(),
            keys: self.keys.clone(),
            generation,
            accepted,
        })
    }

    /// The token's algorithm, if it is one of the issuer's; `none` is none of them in any spelling.
    fn algorithm(&self, header: &TokenHeader) -> Result<jsonwebtoken::Algorithm, Reject> {
        if header.crit.is_some() || header.b64.is_some() {
            return Err(refused("unknown critical header"));
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX) {
            return Err(refused("kid too long"));
        }
        if let Some(wanted) = &self.typ {
            let typ = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
            if typ.strip_prefix("application/").unwrap_or(&typ) != wanted {
                return Err(refused(format_args!("typ is {typ:?}, not {wanted:?}")));
            }
        }
        let algorithm = match &*header.alg {
            "RS256" => jsonwebtoken::Algorithm::RS256,
            "ES256" => jsonwebtoken::Algorithm::ES256,
            "EdDSA" => jsonwebtoken::Algorithm::EdDSA,
            "HS256" => jsonwebtoken::Algorithm::HS256,
            other => return Err(refused(format_args!("algorithm {other:?}"))),
        };
        if self.algorithms.contains(&algorithm) {
            Ok(algorithm)
        } else {
            Err(refused(format_args!("{algorithm:?} is not an algorithm of issuer {}", self.id)))
        }
    }

    /// From `nbf` (or `iat`) to `exp`, widened by the leeway. `exp` is required.
    fn accepted_span(&self, claims: &Value) -> Result<(f64, f64), Reject> {
        let leeway = self.leeway.as_secs_f64();
        let expires = time_claim(claims, "exp")?.ok_or_else(|| refused("no exp"))?;
        let not_before = time_claim(claims, "nbf")?.unwrap_or(0.0);
        let issued = time_claim(claims, "iat")?.unwrap_or(0.0);
        Ok((not_before.max(issued) - leeway, expires + leeway))
    }

    fn check_audience(&self, claims: &Value) -> Result<(), Reject> {
        let ours = |audience: &Value| {
            audience.as_str().is_some_and(|name| self.audiences.iter().any(|known| known == name))
        };
        let named = match claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        if named { Ok(()) } else { Err(refused("aud does not name us")) }
    }

    pub(super) fn tenant_of<'a>(&'a self, claims: &'a Value) -> Result<&'a str, Reject> {
        match &self.tenant {
            TenantSource::Fixed(tenant) => Ok(tenant.as_str()),
            TenantSource::Claim(name) => text_claim(claims, name),
        }
    }

    pub(super) fn consumer_of<'a>(&self, claims: &'a Value) -> Result<&'a str, Reject> {
        text_claim(claims, &self.consumer_claim)
    }

    /// A string with spaces between scopes (RFC 8693 §4.2) or an array of them.
    pub(super) fn scopes_of<'a>(&self, claims: &'a Value) -> Vec<&'a str> {
        match claims.get(&self.scopes_claim) {
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

fn verifies(key: &Key, token: &Token<'_>, algorithm: jsonwebtoken::Algorithm) -> bool {
    jsonwebtoken::crypto::verify(
        token.signature,
        token.message.as_bytes(),
        &key.decoding,
        algorithm,
    )
    .unwrap_or(false)
}

/// A NumericDate (RFC 7519 §2), whole or with a fraction; never negative, never beyond 2^53.
fn time_claim(claims: &Value, name: &str) -> Result<Option<f64>, Reject> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if (0.0..=LARGEST).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(refused(format_args!("{name} is not a time"))),
        },
    }
}

fn text_claim<'a>(claims: &'a Value, name: &str) -> Result<&'a str, Reject> {
    claims
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| refused(format_args!("no claim {name:?}")))
}

/// Tokens that were verified before. A hit is good only for the same edition of the directory and the same generation of
/// keys, and while the token's own times hold; so rotation and a publish need no invalidation of their own. Revocations
/// are asked for a hit as well.
#[derive(Debug)]
pub struct TokenCache(quick_cache::sync::Cache<Box<str>, Arc<Remembered>>);

#[derive(Debug)]
struct Remembered {
    caller: Caller,
    issuer: IssuerId,
    edition: u64,
    keys: Arc<KeySet>,
    generation: u64,
    accepted: (f64, f64),
}

impl Default for TokenCache {
    fn default() -> Self {
        Self(quick_cache::sync::Cache::new(CACHED_TOKENS_MAX))
    }
}

impl TokenCache {
    pub(super) fn get(
        &self,
        token: &str,
        edition: u64,
        now: Timestamp,
    ) -> Option<(Caller, IssuerId)> {
        let found = self.0.get(token)?;
        let seconds = now.as_duration().as_secs_f64();
        let good = found.edition == edition
            && found.generation == found.keys.generation()
            && (found.accepted.0..found.accepted.1).contains(&seconds);
        good.then(|| (found.caller.clone(), found.issuer.clone()))
    }

    pub(super) fn put(&self, token: &str, edition: u64, verified: &Verified, caller: Caller) {
        if token.len() <= CACHED_TOKEN_BYTES_MAX {
            let remembered = Remembered {
                caller,
                issuer: verified.issuer.clone(),
                edition,
                keys: verified.keys.clone(),
                generation: verified.generation,
                accepted: verified.accepted,
            };
            self.0.insert(token.into(), Arc::new(remembered));
        }
    }
}
