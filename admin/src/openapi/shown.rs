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

/// What a pack's vectors came to.
#[derive(JsonSchema)]
#[schemars(rename = "Trial")]
#[expect(dead_code, reason = "a schema of what `pack_host::Trial` is kept as")]
pub(crate) struct TrialShown {
    /// Whether each vector came to the same in a fresh instance and in a used one.
    reusable: bool,
    /// Whether decisions begin from a memory image, taken after `configure`.
    image: bool,
    /// Each vector, by name.
    vectors: Vec<TriedShown>,
}

/// What one vector came to.
#[derive(JsonSchema)]
#[schemars(rename = "Tried")]
#[expect(dead_code, reason = "a schema of what `pack_host::Tried` is kept as")]
pub(crate) struct TriedShown {
    /// Its name.
    name: String,
    /// What was decided, in a line.
    outcome: String,
    /// What it took in a fresh instance; absent where the settings were refused, as expected.
    #[schemars(skip_serializing_if = "Option::is_none")]
    fresh: Option<SpentShown>,
    /// What it took in a used one.
    #[schemars(skip_serializing_if = "Option::is_none")]
    reused: Option<SpentShown>,
    /// How a used instance decided otherwise.
    #[schemars(skip_serializing_if = "Option::is_none")]
    reuse_difference: Option<String>,
}

/// What a decision took.
#[derive(JsonSchema)]
#[schemars(rename = "Spent")]
#[expect(dead_code, reason = "a schema of what `pack_host::Spent` is kept as")]
pub(crate) struct SpentShown {
    /// CPU time, in microseconds.
    micros: f64,
    /// Fuel.
    fuel: u64,
    /// Memory, in bytes.
    memory: u64,
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
