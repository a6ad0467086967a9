//! What a policy pack may say about an exchange. Typed, so that decisions can be compared, explained and simulated.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a pack decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing to add.
    Continue,
    /// Go on with these changes.
    Edit(Edits),
    /// Refuse; the caller sees why.
    Deny(Denial),
    /// Answer in place of the upstream.
    Answer(PackAnswer),
}

impl Decision {
    /// The name used in metrics and records.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Edit(_) => "edit",
            Self::Deny(_) => "deny",
            Self::Answer(_) => "answer",
        }
    }
}

/// Changes to a head, applied in order, and perhaps another body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// Changes to headers.
    pub headers: Vec<HeaderEdit>,
    /// What takes the body's place.
    pub body: Option<Bytes>,
}

impl Edits {
    /// Adds those of a later pack.
    pub fn extend(&mut self, later: Self) {
        self.headers.extend(later.headers);
        if later.body.is_some() {
            self.body = later.body;
        }
    }

    /// Applies the changes of headers to a header map.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for edit in &self.headers {
            match edit {
                HeaderEdit::Set(name, value) => {
                    headers.insert(name, value.clone());
                }
                HeaderEdit::Append(name, value) => {
                    headers.append(name, value.clone());
                }
                HeaderEdit::Remove(name) => {
                    headers.remove(name);
                }
            }
        }
    }
}

/// One change of a header. Names are never hop-by-hop, framing or identity headers: the host refuses those.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderEdit {
    /// Replaces every line of this name by one.
    Set(HeaderName, HeaderValue),
    /// Adds a line.
    Append(HeaderName, HeaderValue),
    /// Removes every line of this name.
    Remove(HeaderName),
}

/// A refusal by a pack.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// 400 to 499; 403 when the pack says nothing.
    pub status: StatusCode,
    /// The pack's own reason, `lower_snake`; shown as `details.reason`.
    pub reason: String,
    /// Shown to the caller.
    pub message: String,
    /// Shown to the caller beside `policy` and `reason`.
    pub details: Map<String, Value>,
}

/// An answer by a pack, in place of the upstream's.
#[derive(Clone, Debug, PartialEq)]
pub struct PackAnswer {
    /// 200 to 599.
    pub status: StatusCode,
    /// Never hop-by-hop, framing or the gateway's own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

/// Why a pack could not decide. Each reason is kept apart in metrics and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Out of fuel: the call did more work than it may.
    Fuel,
    /// Past the epoch net: the call took more wall time than any call may.
    Deadline,
    /// Asked for more memory than it may have.
    Memory,
    /// Trapped: a panic, an out-of-bounds access, unreachable code, stack exhaustion.
    Trap,
    /// Returned something that is not a decision, or too large a one.
    Output,
    /// Called the host too often or with too much.
    HostLimit,
    /// No instance was free: on the node, for the attachment or for the tenant.
    Saturated,
    /// The tenant's packs have used the CPU time that they may use in a second.
    TenantCpu,
    /// The version is out of service after too many faults, or the attachment is halted.
    Quarantined,
    /// It reads the answer's body, which is larger than the gateway holds for a pack.
    BodyTooLarge,
}

impl FailureReason {
    /// Every reason, for metric labels.
    pub const ALL: &'static [Self] = &[
        Self::Fuel,
        Self::Deadline,
        Self::Memory,
        Self::Trap,
        Self::Output,
        Self::HostLimit,
        Self::Saturated,
        Self::TenantCpu,
        Self::Quarantined,
        Self::BodyTooLarge,
    ];

    /// Whether it is the pack's own fault, for which it may be taken out of service.
    pub const fn is_fault(self) -> bool {
        match self {
            Self::Fuel
            | Self::Deadline
            | Self::Memory
            | Self::Trap
            | Self::Output
            | Self::HostLimit => true,
            Self::Saturated | Self::TenantCpu | Self::Quarantined | Self::BodyTooLarge => false,
        }
    }

    /// The name used in metrics and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Trap => "trap",
            Self::Output => "output",
            Self::HostLimit => "host_limit",
            Self::Saturated => "saturated",
            Self::TenantCpu => "tenant_cpu",
            Self::Quarantined => "quarantined",
            Self::BodyTooLarge => "body_too_large",
        }
    }
}
