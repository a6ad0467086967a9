//! Standard Webhooks: signing and verifying, `v1` (HMAC-SHA256) and `v1a` (Ed25519).
//!
//! What is signed is `webhook-id "." webhook-timestamp "." body`: the raw bytes of the headers and of the body, nothing
//! parsed and written again. Keys are shown by nothing here, neither by `Debug` nor by errors.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

mod key;
mod sign;
mod verify;

pub use key::{KeyError, PublicKey, Secret, SigningKey};
pub use sign::{SignError, Signer};
pub use verify::{Message, Refused, Verifier};

use http::HeaderName;

/// What receivers know an event by, at every attempt the same.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// When this attempt was signed, in seconds since the Unix epoch.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Signatures, separated by spaces.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

#[cfg(test)]
mod tests;
