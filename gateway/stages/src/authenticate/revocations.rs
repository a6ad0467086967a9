//! What is revoked: credentials and tokens that are refused from now on, whatever the document says.
//!
//! Invariant: the set is replaced whole, and every request asks it, also for a token that is remembered. It holds no
//! configuration: nothing in it refers to a revision. While nothing is revoked, asking is one atomic load.

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use model::Identity;
use model::id::{ConsumerId, CredentialId, IssuerId, TenantId};
use model::revocation::{Revocation, Revoked};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What is revoked, as far as this process knows.
#[derive(Debug, Default)]
pub struct Revocations(ArcSwapOption<Known>);

/// Why a credential that is good otherwise is refused; for the log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// This very token.
    #[error("revoked: the token's jti")]
    Jti,
    /// The tokens of its subject.
    #[error("revoked: the subject's tokens of that time")]
    Subject,
    /// The tokens of its issuer.
    #[error("revoked: the issuer's tokens of that time")]
    Issuer,
    /// This very credential.
    #[error("revoked: the credential")]
    Credential,
}

/// Issuers first, so that a lookup borrows what the request has. Times are whole seconds: tokens that were issued until
/// then are refused.
#[derive(Debug, Default)]
struct Known {
    tokens: HashMap<IssuerId, HashSet<Box<str>>>,
    subjects: HashMap<IssuerId, HashMap<Box<str>, i64>>,
    issuers: HashMap<IssuerId, i64>,
    credentials: HashMap<TenantId, HashSet<(ConsumerId, CredentialId)>>,
}

impl Revocations {
    /// Takes these revocations in place of those before, as far as they are still to be remembered.
    pub fn replace(&self, revocations: Vec<Revocation>, now: Timestamp) {
        let mut known = Known::default();
        let live = |entry: &Revocation| entry.until.is_none_or(|until| now < until);
        let live: Vec<_> = revocations.into_iter().filter(live).collect();
        let some = !live.is_empty();
        live.into_iter().for_each(|revocation| known.add(revocation));
        self.0.store(some.then(|| Arc::new(known)));
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.0.load().is_none()
    }

    /// Whether a credential that the gateway keeps is revoked.
    pub(super) fn check_key(&self, identity: &Identity) -> Result<(), Cause> {
        match self.0.load().as_deref() {
            Some(known) => known.check_key(identity),
            None => Ok(()),
        }
    }

    /// Whether a token of this issuer is revoked.
    pub(super) fn check_token(&self, issuer: &IssuerId, claims: &Value) -> Result<(), Cause> {
        match self.0.load().as_deref() {
            Some(known) => known.check_token(issuer, claims),
            None => Ok(()),
        }
    }
}

impl Known {
    fn add(&mut self, revocation: Revocation) {
        let at = revocation.at.as_second();
        let latest = |known: &mut i64| *known = at.max(*known);
        match revocation.what {
            Revoked::Jti { issuer, jti } => {
                self.tokens.entry(issuer).or_default().insert(jti.into());
            }
            Revoked::Subject { issuer, subject } => {
                let subjects = self.subjects.entry(issuer).or_default();
                subjects.entry(subject.into()).and_modify(latest).or_insert(at);
            }
            Revoked::Issuer { issuer } => {
                self.issuers.entry(issuer).and_modify(latest).or_insert(at);
            }
            Revoked::Credential { tenant, consumer, credential } => {
                self.credentials.entry(tenant).or_default().insert((consumer, credential));
            }
        }
    }

    fn check_key(&self, identity: &Identity) -> Result<(), Cause> {
        let Some(revoked) = self.credentials.get(&identity.tenant) else { return Ok(()) };
        let credential = CredentialId::from(identity.credential.as_str());
        match revoked.contains(&(identity.consumer.clone(), credential)) {
            true => Err(Cause::Credential),
            false => Ok(()),
        }
    }

    fn check_token(&self, issuer: &IssuerId, claims: &Value) -> Result<(), Cause> {
        let claim = |name| claims.get(name).and_then(Value::as_str);
        // A token that doesn't say when it was issued may be of any time.
        let issued = claims.get("iat").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY);
        let by_then = |second: i64| issued < second.saturating_add(1) as f64;
        if self.issuers.get(issuer).is_some_and(|second| by_then(*second)) {
            return Err(Cause::Issuer);
        }
        let revoked = self.subjects.get(issuer).and_then(|known| known.get(claim("sub")?));
        if revoked.is_some_and(|second| by_then(*second)) {
            return Err(Cause::Subject);
        }
        let revoked = self.tokens.get(issuer).and_then(|known| known.get(claim("jti")?));
        if revoked.is_some() { Err(Cause::Jti) } else { Ok(()) }
    }
}
