//! What the gateway itself has to tell: written to the store's outbox in the transaction of what it tells of. And
//! [`CloudEvent`]s, the form in which all events come in, are kept and go out.

mod attribute;
mod binary;
mod cloud;
mod digest;
mod json;
#[cfg(test)]
mod tests;
mod version;

pub use cloud::{CloudEvent, Data, Malformed, New};
pub use json::EVENTS_MAX;
pub use version::{VersionChange, version_changes};

use crate::id::TenantId;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// UUIDv7; sorts by time.
    pub id: String,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// What, like `tollgate.pack.quarantined`.
    pub r#type: String,
    /// Whom it concerns; none when it concerns the deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Of what it tells, like `/v1/attachments/acme-pages`.
    pub subject: String,
    /// What is to be known about it.
    pub data: Value,
}

/// A version of a pack was taken out of service.
pub const PACK_QUARANTINED: &str = "tollgate.pack.quarantined";
/// A candidate was taken back.
pub const PACK_ROLLED_BACK: &str = "tollgate.pack.rolled_back";
/// An attachment decides nothing any more: there is no version to go back to.
pub const PACK_HALTED: &str = "tollgate.pack.halted";
/// A candidate became the running version.
pub const PACK_PROMOTED: &str = "tollgate.pack.promoted";
/// A tenant, consumer or credential has used so much of a quota.
pub const QUOTA_REACHED: &str = "tollgate.quota.reached";
/// What partners may rely on of a version of an API is another now: its state, its dates, what follows it.
pub const VERSION_CHANGED: &str = "tollgate.version.changed";
/// An endpoint of webhooks was disabled: it said 410, or failed for too long.
pub const ENDPOINT_DISABLED: &str = "tollgate.endpoint.disabled";
/// Deliveries to an endpoint went by age that were neither delivered nor given up.
pub const DELIVERIES_EXPIRED: &str = "tollgate.deliveries.expired";
/// A source no longer knew how far it was read: it is read from the start.
pub const SOURCE_RESTARTED: &str = "tollgate.source.restarted";
/// Entries of a source can't be accepted, and are passed over.
pub const SOURCE_SKIPPED: &str = "tollgate.source.skipped";
