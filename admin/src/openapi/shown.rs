//! The shapes of what handlers make as values, and no type has.

use jiff::Timestamp;
use model::id::{ConsumerId, CredentialId, TenantId};
use schemars::JsonSchema;
use serde_json::Value;

/// What changed, without secrets.
#[derive(JsonSchema)]
#[schemars(rename = "Patch", untagged)]
#[expect(dead_code, reason = "a schema of what `difference::between` makes as a value")]
pub(crate) enum Shown {
    /// All of it (JSON Patch, RFC 6902).
    Whole(Vec<PatchOperation>),
    /// Of one that is too long to be shown, what was touched.
    Abridged {
        /// Always true.
        #[schemars(extend("const" = true))]
        abridged: bool,
        /// How many operations there are.
        operations: u64,
        /// The first of them, without values.
        touched: Vec<PatchOperation>,
    },
}

/// One operation of a JSON Patch.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema of what `difference::between` makes as a value")]
pub(crate) struct PatchOperation {
    /// `add`, `remove` or `replace`.
    op: String,
    /// Where (RFC 6901).
    path: String,
    /// What stands there now.
    #[schemars(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// Something that is wrong with what was sent.
#[derive(JsonSchema)]
#[schemars(rename = "Mistake")]
#[expect(dead_code, reason = "a schema of what `problem::located` makes as a value")]
pub(crate) struct Located {
    /// Where in what was sent (RFC 6901); where in the document, when it lies elsewhere.
    pointer: String,
    /// Where in the document.
    document_pointer: String,
    /// What is wrong, and how it should be.
    message: String,
}

/// A credential, as it is shown: without its hash, and with whose it is.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema of what `credential::Owner::shown` makes as a value")]
pub(crate) struct CredentialShown {
    /// The credential's id, unique within the consumer.
    id: CredentialId,
    /// An API key.
    api_key: KeyShown,
    /// The tenant.
    tenant: TenantId,
    /// The consumer.
    consumer: ConsumerId,
}

/// An API key, as it is shown.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema of what `credential::Owner::shown` makes as a value")]
pub(crate) struct KeyShown {
    /// The key's first characters.
    #[schemars(extend("format" = "key-prefix"))]
    prefix: String,
    /// When it stops being accepted.
    #[schemars(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}
