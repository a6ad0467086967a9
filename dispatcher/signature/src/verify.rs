//! What a receiver does.

use crate::key::{PublicKey, Secret, Signed};
use crate::sign::is_id;
use crate::{ID, SIGNATURE, TIMESTAMP};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName};
use std::time::Duration;

/// How many signatures of a message are looked at: more than any sender has secrets.
const SIGNATURES_MAX: usize = 32;
/// Longest id of a message, in bytes.
const ID_MAX: usize = 256;
/// Longest timestamp, in digits: this side of the year 33658.
const TIMESTAMP_DIGITS: usize = 12;

/// Why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A header is not there.
    #[error("the header `{0}` is missing")]
    Missing(HeaderName),
    /// A header stands there more than once, so that two readers could read two messages.
    #[error("the header `{0}` stands there more than once")]
    Repeated(HeaderName),
    /// A header is not what it must be.
    #[error("the header `{0}` is malformed")]
    Malformed(HeaderName),
    /// It was signed too long ago.
    #[error("the message was signed too long ago")]
    Old,
    /// It says that it was signed in the future.
    #[error("the message was signed in the future")]
    Future,
    /// None of its signatures is one of the message by a key that is known.
    #[error("no signature is one of this message by a known key")]
    Signature,
}

/// A message that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it was signed, in seconds since the Unix epoch.
    pub timestamp: i64,
}

/// What verifies the messages of one sender.
#[derive(Clone, Debug)]
pub struct Verifier {
    tolerance: i64,
    secrets: Vec<Secret>,
    keys: Vec<PublicKey>,
}

impl Verifier {
    /// One that takes nothing yet; of messages as old as this, or as far in the future, in whole seconds.
    pub fn new(tolerance: Duration) -> Self {
        let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
        Self { tolerance, secrets: Vec::new(), keys: Vec::new() }
    }

    /// Takes what was signed with this secret (`v1`).
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Takes what was signed with this key (`v1a`).
    #[must_use]
    pub fn key(mut self, key: PublicKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Verifies a message: its headers and its raw body, now (in seconds since the Unix epoch). Signatures of other schemes,
    /// and what is none, are passed over.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: i64,
    ) -> Result<Message<'a>, Refused> {
        let id = only(headers, ID)?;
        let timestamp = only(headers, TIMESTAMP)?;
        let signatures = only(headers, SIGNATURE)?;
        if !is_id(id.as_bytes()) || id.len() > ID_MAX {
            return Err(Refused::Malformed(ID));
        }
        let at = seconds(timestamp).ok_or(Refused::Malformed(TIMESTAMP))?;
        if now.saturating_sub(at) > self.tolerance {
            return Err(Refused::Old);
        }
        if at.saturating_sub(now) > self.tolerance {
            return Err(Refused::Future);
        }
        let signed = Signed { id: id.as_bytes(), timestamp: timestamp.as_bytes(), body };
        if self.any(signatures, &signed) {
            return Ok(Message { id, timestamp: at });
        }
        Err(Refused::Signature)
    }

    fn any(&self, signatures: &str, signed: &Signed<'_>) -> bool {
        let tags: Vec<hmac::Tag> = self.secrets.iter().map(|secret| secret.tag(signed)).collect();
        signatures.split(' ').take(SIGNATURES_MAX).any(|entry| {
            let Some((scheme, encoded)) = entry.split_once(',') else { return false };
            let Ok(signature) = BASE64_STANDARD.decode(encoded) else { return false };
            match scheme {
                "v1" => {
                    tags.iter().any(|tag| verify_slices_are_equal(tag.as_ref(), &signature).is_ok())
                }
                "v1a" => self.keys.iter().any(|key| key.verifies(signed, &signature)),
                _ => false,
            }
        })
    }
}

/// The one value of a header.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<&str, Refused> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Err(Refused::Missing(name)) };
    if values.next().is_some() {
        return Err(Refused::Repeated(name));
    }
    value.to_str().map_err(|_| Refused::Malformed(name))
}

/// Digits and nothing else: `+1`, `1.5` and `1e9` are signed texts too, and no two libraries read them alike.
fn seconds(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && text.len() <= TIMESTAMP_DIGITS { text.parse().ok() } else { None }
}
