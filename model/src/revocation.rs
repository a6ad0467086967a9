//! Revocations: credentials and tokens that are refused at once, without a new revision of the document.

use crate::id::{ConsumerId, CredentialId, IssuerId, TenantId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// UUIDv7.
    pub id: String,
    /// When it was made. Tokens issued at or before that second are refused where `what` is a subject or an issuer.
    pub at: Timestamp,
    /// Until when it must be remembered; for good when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What is refused.
    #[serde(flatten)]
    pub what: Revoked,
}

/// What a revocation refuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoked {
    /// One token, by its `jti`.
    Jti {
        /// The issuer's id in the document.
        issuer: IssuerId,
        /// The token's `jti`.
        jti: String,
    },
    /// Every token of a subject that was issued before.
    Subject {
        /// The issuer's id in the document.
        issuer: IssuerId,
        /// The token's `sub`.
        subject: String,
    },
    /// One credential that the gateway keeps.
    Credential {
        /// The tenant.
        tenant: TenantId,
        /// The consumer.
        consumer: ConsumerId,
        /// The credential's id.
        credential: CredentialId,
    },
    /// Every token of an issuer that was issued before.
    Issuer {
        /// The issuer's id in the document.
        issuer: IssuerId,
    },
}

/// The most revocations that are in force at a time.
pub const REVOCATIONS_MAX: usize = 100_000;
