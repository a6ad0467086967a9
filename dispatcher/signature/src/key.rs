//! Keys as they are written: `whsec_`, `whsk_` and `whpk_`, each followed by padded base64.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fmt;
use std::ops::RangeInclusive;

/// Bytes of a secret.
const SECRET_BYTES: RangeInclusive<usize> = 24..=64;
/// Bytes of an Ed25519 seed, and of a public key.
const ED25519_BYTES: usize = 32;

/// Why a text is no key. Says nothing of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another prefix, or none.
    #[error("must start with `{0}`")]
    Prefix(&'static str),
    /// What follows the prefix is not padded base64.
    #[error("is not base64 with padding after `{0}`")]
    Base64(&'static str),
    /// Too few or too many bytes.
    #[error("must be {expected} as base64, and is {actual}")]
    Length {
        /// How many it must be.
        expected: &'static str,
        /// How many it is.
        actual: usize,
    },
    /// The public half of a `whsk_` key is not that of its private half.
    #[error("holds a public key that does not belong to its private key")]
    Mismatch,
}

/// A shared secret: `whsec_` and 24 to 64 bytes.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl Secret {
    const PREFIX: &str = "whsec_";

    /// Reads a secret.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, Self::PREFIX)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(KeyError::Length { expected: "24 to 64 bytes", actual: bytes.len() });
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    pub(crate) fn tag(&self, message: &Signed<'_>) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(message.id);
        context.update(b".");
        context.update(message.timestamp);
        context.update(b".");
        context.update(message.body);
        context.sign()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A private Ed25519 key: `whsk_` and its seed, alone or followed by the public key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    const PREFIX: &str = "whsk_";

    /// Reads a private key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, Self::PREFIX)?;
        let length = KeyError::Length { expected: "32 or 64 bytes", actual: bytes.len() };
        let (seed, public) = bytes.split_at_checked(ED25519_BYTES).ok_or(length)?;
        if !(public.is_empty() || public.len() == ED25519_BYTES) {
            return Err(length);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| length)?;
        if !public.is_empty() && public != pair.public_key().as_ref() {
            return Err(KeyError::Mismatch);
        }
        Ok(Self(pair))
    }

    /// What receivers verify with.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; ED25519_BYTES];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, message: &Signed<'_>) -> Vec<u8> {
        self.0.sign(&message.whole()).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// A public Ed25519 key: `whpk_` and 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; ED25519_BYTES]);

impl PublicKey {
    const PREFIX: &str = "whpk_";

    /// Reads a public key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, Self::PREFIX)?;
        let actual = bytes.len();
        let bytes = bytes.try_into();
        bytes.map(Self).map_err(|_| KeyError::Length { expected: "32 bytes", actual })
    }

    pub(crate) fn verifies(&self, message: &Signed<'_>, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message.whole(), signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, BASE64_STANDARD.encode(self.0))
    }
}

fn decode(text: &str, prefix: &'static str) -> Result<Vec<u8>, KeyError> {
    let base64 = text.strip_prefix(prefix).ok_or(KeyError::Prefix(prefix))?;
    BASE64_STANDARD.decode(base64).map_err(|_| KeyError::Base64(prefix))
}

/// What is signed, in its parts.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) timestamp: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Signed<'_> {
    /// In one piece, for Ed25519, which reads it twice.
    fn whole(&self) -> Vec<u8> {
        [self.id, self.timestamp, self.body].join(&b'.')
    }
}
