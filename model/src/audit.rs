//! What was done at the control plane, by whom: the audit entry. Append-only; written in the transaction of what it tells.

use crate::error::ErrorCode;
use crate::id::TenantId;
use crate::role::Actor;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that was done, or refused. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct Entry {
    /// UUIDv7: sorts by time.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Who, and from where.
    pub actor: Actor,
    /// What was asked for, like `plans.put`, `revisions.rollback`, `tokens.create`.
    pub action: String,
    /// On what: the resource's path, like `/v1/plans/gold`.
    pub resource: String,
    /// The tenant that it concerns, where it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The id of the request that did it.
    pub request_id: String,
    /// The revision that it made, released or would have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What changed, as a JSON Patch (RFC 6902) of the document, or facts of another kind; `[]` for nothing.
    pub difference: Value,
    /// The error code when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "code")]
    #[schemars(with = "Option<String>")]
    pub refused: Option<ErrorCode>,
}

/// An error code by its name.
mod code {
    use crate::error::ErrorCode;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        code: &Option<ErrorCode>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match code {
            Some(code) => serializer.serialize_some(code.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ErrorCode>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| ErrorCode::parse(&name).ok_or_else(|| de::Error::custom("unknown code")))
            .transpose()
    }
}
