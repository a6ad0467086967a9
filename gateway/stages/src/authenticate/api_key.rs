//! API keys: SHA-256 at rest, found by their prefix, compared in constant time.
//!
//! A key has at least 160 random bits, so a fast hash is enough; a password would need a slow one.

use super::{Caller, Tenant};
use jiff::Timestamp;
use model::{ErrorCode, Identity, Reject};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Longest key that is looked at, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// One key, as a revision knows it.
#[derive(Debug)]
pub struct ApiKey {
    /// SHA-256 of the whole key.
    hash: [u8; 32],
    /// When it stops being accepted.
    expires: Option<Timestamp>,
    caller: Caller,
}

impl ApiKey {
    /// A key that stands for this identity, of this tenant.
    pub fn new(
        hash: [u8; 32],
        expires: Option<Timestamp>,
        identity: Identity,
        tenant: Arc<Tenant>,
    ) -> Self {
        Self { hash, expires, caller: Caller::new(identity, tenant) }
    }
}

/// Every key of a revision, by prefix.
#[derive(Debug, Default)]
pub struct ApiKeys {
    by_prefix: HashMap<Box<str>, ApiKey>,
    /// The distinct lengths of the prefixes; few, as they come from one generator.
    lengths: Vec<usize>,
}

impl ApiKeys {
    /// Adds a key; prefixes are unique in a checked document.
    pub fn insert(&mut self, prefix: &str, key: ApiKey) {
        if !self.lengths.contains(&prefix.len()) {
            self.lengths.push(prefix.len());
        }
        self.by_prefix.insert(prefix.into(), key);
    }

    /// Accepts a key as it was sent. An unknown prefix costs the same hash and comparison as a known one.
    pub(super) fn verify(&self, presented: &str, now: Timestamp) -> Result<Caller, Reject> {
        const NOBODY: [u8; 32] = [0; 32];
        let refused = |cause: &str| Reject::new(ErrorCode::CredentialInvalid).because(cause);
        if presented.len() > KEY_BYTES_MAX {
            return Err(refused("key too long"));
        }
        let hash = Sha256::digest(presented.as_bytes());
        let (mut known, mut accepted) = (false, None);
        // A prefix may begin another one, so every length is compared.
        for length in &self.lengths {
            let candidate = presented.get(..*length).and_then(|prefix| self.by_prefix.get(prefix));
            known |= candidate.is_some();
            let expected = candidate.map_or(&NOBODY, |key| &key.hash);
            if bool::from(hash.as_slice().ct_eq(expected)) {
                accepted = candidate;
            }
        }
        let Some(key) = accepted else {
            return Err(refused(if known { "wrong key" } else { "unknown prefix" }));
        };
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Reject::new(ErrorCode::CredentialExpired));
        }
        Ok(key.caller.clone())
    }
}
