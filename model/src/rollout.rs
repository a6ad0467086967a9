//! Another version of a pack on its way into service: who gets it, how decisions differ, what the samples say, and the
//! changes of a document that follow. Pure.
//!
//! Invariant: all nodes take the same share, come to the same verdict of the same samples, and to the same document of the
//! same verdict.

mod before;
mod difference;
mod edit;
mod lasting;
mod samples;
mod shift;

pub use before::Before;
pub use difference::{Outcome, difference, summary};
pub use edit::{Fallen, Unchanged, promote, quarantine, roll_back, roll_back_to, take_out};
pub use lasting::keep_quarantines;
pub use samples::{Durations, Samples, Verdict, judge};
pub use shift::{Became, Shift, events, shifts};

use crate::Identity;
use crate::document::{By, Rollout};
use crate::id::{AttachmentId, ConsumerId, PackId, RouteId, TenantId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Whether an exchange belongs to a candidate's share. Every node says the same of it, and so does every phase of it.
pub fn takes(
    rollout: &Rollout,
    attachment: &AttachmentId,
    caller: &Identity,
    request_id: &str,
) -> bool {
    if rollout.percent >= 100.0 {
        return true;
    }
    let mut hash = Sha256::new();
    // Another attachment, another candidate: another share, so that the same consumers are not first each time.
    for part in [attachment.as_str(), rollout.candidate.as_str()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    match rollout.by {
        By::Request => hash.update(request_id.as_bytes()),
        By::Tenant => hash.update(caller.tenant.as_str().as_bytes()),
        By::Consumer => {
            hash.update(caller.tenant.as_str().as_bytes());
            hash.update([0]);
            hash.update(caller.consumer.as_str().as_bytes());
        }
    }
    let head =
        hash.finalize().iter().take(8).fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
    // As many bits as a float holds exactly.
    let unit = (head >> 11) as f64 / (1_u64 << 53) as f64;
    unit * 100.0 < rollout.percent
}

/// One rollout, from the revision that brought it to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutInfo {
    /// UUIDv7; sorts by time.
    pub id: String,
    /// Where the pack is attached.
    pub attachment: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// The running version, like `1.0.0`.
    pub running: String,
    /// The candidate's version.
    pub candidate: String,
    /// When it began.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// Where it stands.
    pub state: RolloutState,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What all nodes saw in the present window, or in the last one.
    pub samples: Samples,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The candidate decides or observes.
    Open,
    /// The candidate became the running version.
    Promoted,
    /// It was taken back.
    RolledBack,
    /// The document no longer has it.
    Withdrawn,
}

impl RolloutState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Open, Self::Promoted, Self::RolledBack, Self::Withdrawn];

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The name as the store and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// One exchange on which two versions of a pack decided differently. No values of headers, no bodies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PackDifference")]
pub struct Difference {
    /// UUIDv7; sorts by time.
    pub id: String,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Where the pack is attached.
    pub attachment: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// The running version.
    pub running: String,
    /// The candidate's version.
    pub candidate: String,
    /// `X-Request-ID`.
    pub request_id: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// Whose request it was.
    pub tenant: TenantId,
    /// And of which application.
    pub consumer: ConsumerId,
    /// On which route.
    pub route: RouteId,
    /// `cost`, `request` or `response`.
    pub phase: String,
    /// What the running version said, as [`summary`] tells it.
    pub running_decision: String,
    /// What the candidate said.
    pub candidate_decision: String,
    /// In what they differ.
    pub why: String,
    /// Which of them acted: `running` or `candidate`.
    pub acted: String,
}

#[cfg(test)]
mod tests;
