//! What is known of an endpoint beside the document: kept in the store, so that a restart forgets nothing of it.

use super::Reason;
use crate::id::{EndpointId, TenantId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// Which one.
    pub endpoint: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Since when nothing succeeded; none when the last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub failing_since: Option<Timestamp>,
    /// Until when it is left alone: its breaker is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub open_until: Option<Timestamp>,
    /// How often in a row the breaker opened.
    #[serde(default)]
    pub opened: u32,
    /// Since when it is disabled, by 410 or by failing for too long. An operator enables it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// When this was written.
    #[schemars(with = "String")]
    pub at: Timestamp,
}

/// Why an endpoint was disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disabled {
    /// [`Reason::Gone`], or [`Reason::Exhausted`] when it failed for too long.
    pub reason: Reason,
    /// Since when.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

/// An endpoint with something that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLane {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub endpoint: EndpointId,
    /// The earliest time that something is due: may be in the future.
    pub due_at: Timestamp,
}

/// How much to take of an endpoint's deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// Which one.
    pub endpoint: EndpointId,
    /// How many at most.
    pub most: u32,
    /// What is due before this is known to be gone; reading begins there. `Timestamp::MIN` for a full sweep.
    pub low_water: Timestamp,
}
