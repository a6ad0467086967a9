//! Events as they are kept.

use crate::id::TenantId;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The type of events that only try an endpoint: sent to the one that they were made for, and never fanned out.
pub const PING: &str = "tollgate.ping";

/// `webhook-id`: what receivers know an event by. It follows from tenant, source and id of the event, so that it is the same
/// however often the event is sent, and nobody else's.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct WebhookId(String);

impl WebhookId {
    /// That of this event: `evt_` and the first 32 hex digits of a SHA-256.
    pub fn of(tenant: &TenantId, source: &str, id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [tenant.as_str(), source, id] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let digits = hash.finalize().into_iter().take(16).map(|byte| format!("{byte:02x}"));
        Self(format!("evt_{}", digits.collect::<String>()))
    }

    /// One that was made before.
    pub fn known(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event on its way in: checked, not yet kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What receivers will know it by.
    pub webhook_id: WebhookId,
    /// Whose it is.
    pub tenant: TenantId,
    /// `source` of the CloudEvent.
    pub source: String,
    /// `id` of the CloudEvent: unique within tenant and source.
    pub id: String,
    /// `type` of the CloudEvent.
    pub r#type: String,
    /// SHA-256 of what a repeat must be like, in whatever form it was sent.
    pub digest: [u8; 32],
    /// The event in structured form (CloudEvents 1.0, JSON format): what is kept, and sent.
    pub content: Bytes,
}

/// What became of an event that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is kept, and on the disk.
    Accepted,
    /// It was kept before.
    Repeat,
    /// Another one is kept under this tenant, source and id.
    Conflict,
    /// As many deliveries of its tenant wait as may. Nothing of what it was sent with is kept.
    Full,
}

/// An event that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number: from 1, in the order of commits, so that whoever reads on from the last one that it saw misses nothing.
    pub number: u64,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
    /// Whose it is.
    pub tenant: TenantId,
    /// `source` of the CloudEvent.
    pub source: String,
    /// `id` of the CloudEvent.
    pub id: String,
    /// `type` of the CloudEvent.
    pub r#type: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The event in structured form.
    pub content: Bytes,
}
