//! What a sender does: one header, with a signature by each secret that is not over, so that receivers may change.

use crate::key::{Secret, Signed, SigningKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;

/// Why a message cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// With a dot in its id, a message could be read as another one; what is not visible ASCII fits no header.
    #[error("the id of a message must be visible ASCII without a dot, and not empty")]
    Id,
    /// Before 1970.
    #[error("the time of a message must not be before 1970")]
    Time,
}

/// What signs the messages to one receiver.
#[derive(Clone, Debug)]
pub struct Signer {
    secret: Secret,
    /// With the time that each is over at, in seconds since the Unix epoch.
    previous: Vec<(Secret, i64)>,
    key: Option<Arc<SigningKey>>,
}

impl Signer {
    /// One that signs with this secret (`v1`).
    pub fn new(secret: Secret) -> Self {
        Self { secret, previous: Vec::new(), key: None }
    }

    /// Signs with this secret as well, until then (in seconds since the Unix epoch).
    #[must_use]
    pub fn and_until(mut self, secret: Secret, until: i64) -> Self {
        self.previous.push((secret, until));
        self
    }

    /// Signs with this key as well (`v1a`).
    #[must_use]
    pub fn and_key(mut self, key: SigningKey) -> Self {
        self.key = Some(Arc::new(key));
        self
    }

    /// The value of `webhook-signature` of this message at this time, in seconds since the Unix epoch. `webhook-timestamp`
    /// must be that number in decimal.
    pub fn sign(&self, id: &str, at: i64, body: &[u8]) -> Result<String, SignError> {
        if !is_id(id.as_bytes()) {
            return Err(SignError::Id);
        }
        if at < 0 {
            return Err(SignError::Time);
        }
        let timestamp = at.to_string();
        let message = Signed { id: id.as_bytes(), timestamp: timestamp.as_bytes(), body };
        let mut header = String::with_capacity(96);
        let live = self.previous.iter().filter(|(_, until)| at < *until).map(|(secret, _)| secret);
        for secret in std::iter::once(&self.secret).chain(live) {
            add(&mut header, "v1,", secret.tag(&message).as_ref());
        }
        if let Some(key) = &self.key {
            add(&mut header, "v1a,", &key.sign(&message));
        }
        Ok(header)
    }
}

fn add(header: &mut String, scheme: &str, signature: &[u8]) {
    if !header.is_empty() {
        header.push(' ');
    }
    header.push_str(scheme);
    BASE64_STANDARD.encode_string(signature, header);
}

/// Whether these bytes may be a message's id: no dot, since dots part what is signed.
pub(crate) fn is_id(id: &[u8]) -> bool {
    !id.is_empty() && id.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.')
}
