//! The keys that packs are signed with: Ed25519 (RFC 8032).
//!
//! Invariant: the private half leaves this module in PEM only, for its owner's file.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pem::{EncodeConfig, LineEnding, Pem};

use super::PackageError;

/// How documents write that a public key is of this kind.
const PREFIX: &str = "ed25519:";
/// The length of a public key (RFC 8032 §5.1.5).
const PUBLIC_BYTES: usize = 32;
/// The PEM label of PKCS#8 (RFC 7468 §10).
const LABEL: &str = "PRIVATE KEY";

/// The private half of a key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, PackageError> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| PackageError::NoRandomness)
    }

    /// Reads a key as [`SigningKey::to_pem`] and `openssl genpkey -algorithm ed25519` write it.
    pub fn from_pem(text: &str) -> Result<Self, PackageError> {
        let bad = || PackageError::SigningKey;
        let pem = pem::parse(text).map_err(|_| bad())?;
        if pem.tag() != LABEL {
            return Err(bad());
        }
        // OpenSSL writes PKCS#8 version 1, which leaves the public half out.
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).map(Self).map_err(|_| bad())
    }

    /// PKCS#8 in PEM. Whoever writes it to a file makes that file readable by its owner only.
    pub fn to_pem(&self) -> Result<String, PackageError> {
        let pkcs8 = self.0.to_pkcs8v1().map_err(|_| PackageError::SigningKey)?;
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        Ok(pem::encode_config(&Pem::new(LABEL, pkcs8.as_ref()), config))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; PUBLIC_BYTES];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// The public half of a key; as text `ed25519:` and the base64 of its 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_BYTES]);

impl PublicKey {
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), PackageError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).map_err(|_| PackageError::SignatureInvalid)
    }
}

impl FromStr for PublicKey {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        let bad = || PackageError::PublicKey;
        let encoded = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| bad())?;
        Ok(Self(bytes.try_into().map_err(|_| bad())?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}
