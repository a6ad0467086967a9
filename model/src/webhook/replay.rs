//! Replays: jobs that send the events of a bounded window again.

use crate::id::{EndpointId, TenantId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A replay as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Whose events.
    pub tenant: TenantId,
    /// To which endpoint; to all of the tenant's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointId>,
    /// Events that were accepted at this time or later.
    pub since: Timestamp,
    /// Events that were accepted before this time.
    pub until: Timestamp,
    /// Only events of these types, `*` for any run of characters; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub types: Vec<String>,
    /// What becomes of events that were delivered already.
    #[serde(default)]
    pub dedupe: Dedupe,
    /// How many deliveries a second are queued at most.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 10_000))]
    pub rate: u32,
}

impl ReplayRequest {
    /// How long so many deliveries take at its rate.
    pub fn time_of(&self, deliveries: u64) -> Duration {
        let micros = deliveries.saturating_mul(1_000_000) / u64::from(self.rate.max(1));
        Duration::from_micros(micros)
    }
}

fn hundred() -> u32 {
    100
}

/// What a replay does with deliveries that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dedupe {
    /// They are skipped.
    #[default]
    SkipDelivered,
    /// They are sent once more, under the same `webhook-id`.
    Force,
}

/// Where a replay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// Its deliveries are being queued.
    Running,
    /// All are queued.
    Done,
    /// Somebody ended it; what was queued stays.
    Cancelled,
}

impl ReplayState {
    /// The name that the API and the store use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A replay as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Replay {
    /// UUIDv7.
    pub id: String,
    /// What was asked for.
    #[serde(flatten)]
    pub request: ReplayRequest,
    /// Where it stands.
    pub state: ReplayState,
    /// When it was asked for.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// By whom: the actor's name.
    pub by: String,
    /// How many deliveries it was to queue when it was asked for.
    pub counted: u64,
    /// How many it queued.
    pub queued: u64,
    /// How many it skipped, as they were delivered or are on their way.
    pub skipped: u64,
    /// The number of the last event that it looked at.
    pub cursor: u64,
    /// When it was done or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
}
