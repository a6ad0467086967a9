//! The part of the document that packs are: who may ship them, which there are, where they decide, and what is on its way
//! into service.

use crate::id::{AttachmentId, PackId, PackKeyId, RouteId, ServiceId, TenantId};
use crate::units::{Duration, Size};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A public key: what its owner signs may be attached for these tenants.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackKey {
    /// The key's id, as signatures name it.
    pub id: PackKeyId,
    /// `ed25519:` and the base64 of the 32 bytes (RFC 8032 §5.1.5).
    #[schemars(extend("format" = "public-key"))]
    pub public_key: String,
    /// Ids of tenants, or `*` for all of them and for attachments without a tenant.
    #[schemars(length(min = 1))]
    pub tenants: Vec<String>,
}

/// A policy pack that attachments may name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// The pack's name.
    pub id: PackId,
    /// Its version.
    #[schemars(extend("format" = "pack-version"))]
    pub version: String,
    /// `sha256:` and the hex SHA-256 of the pack's manifest, which names everything else in its file. Without one, the pack
    /// that was uploaded under this name and version is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "sha256"))]
    pub digest: Option<String>,
    /// Why it must not decide any more. Set by the system after too many faults, or by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantined>,
}

/// Why a version of a pack must not decide any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Since when.
    pub at: Timestamp,
    /// Why, for people.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// A pack with settings, at work on some exchanges.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The attachment's id.
    pub id: AttachmentId,
    /// `name@version`: the running version.
    #[schemars(extend("format" = "pack-reference"))]
    pub pack: String,
    /// Which exchanges; all of them when empty.
    #[serde(default)]
    pub scope: Scope,
    /// When it speaks.
    #[schemars(length(min = 1))]
    pub phases: Vec<PhaseName>,
    /// Whether its decisions act.
    pub mode: Mode,
    /// What happens when it can't decide. No default: the operator chooses.
    pub on_failure: OnFailure,
    /// Lower numbers decide first; equal ones by id.
    #[serde(default)]
    #[schemars(range(min = -1_000_000_000, max = 1_000_000_000))]
    pub order: i32,
    /// What its `configure` gets.
    #[serde(default = "empty_object")]
    #[schemars(extend("type" = "object"))]
    pub settings: Value,
    /// What one call may use, within the caps of the caller's plan.
    #[serde(default, skip_serializing_if = "PackLimits::is_empty")]
    pub limits: PackLimits,
    /// How many decisions one instance makes before it is dropped; 1 when absent: a fresh one for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1_000_000))]
    pub reuse: Option<u32>,
    /// After how many faults the pack's version is taken out of service.
    #[serde(default)]
    pub quarantine: QuarantineAfter,
    /// Another version on its way into service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Whether it decides nothing for now; `on_failure` says what becomes of requests meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halted: bool,
}

/// What one call of a pack may use. What is absent is as the pack's manifest asks, else the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackLimits {
    /// CPU, in fuel: about one unit per WebAssembly instruction, the same for the same request on any host. 10,000,000
    /// when absent, worth about 2 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000, max = 100_000_000))]
    pub fuel: Option<u64>,
    /// The net beneath the fuel, in wall time: 100ms to 10s; 100ms when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Linear memory: 64KiB to 64MiB; 4MiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// What it may hand to the host: 1KiB to 16MiB; 64KiB when absent, and the size of a body that it may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Size>,
    /// Calls of the host; 512 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub host_calls: Option<u32>,
    /// Lines in the log; 16 when absent. Further ones are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000))]
    pub log_lines: Option<u32>,
    /// Decisions of this attachment at one time; 64 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub instances: Option<u32>,
}

impl PackLimits {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and of what they don't say, those.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            fuel: self.fuel.or(other.fuel),
            deadline: self.deadline.or(other.deadline),
            memory: self.memory.or(other.memory),
            output: self.output.or(other.output),
            host_calls: self.host_calls.or(other.host_calls),
            log_lines: self.log_lines.or(other.log_lines),
            instances: self.instances.or(other.instances),
        }
    }
}

/// After how many faults a version is taken out of service: the candidate rolled back, or the running version replaced by
/// the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineAfter {
    /// So many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub faults: u32,
    /// Within so long, on one node: 1s to 24h.
    pub window: Duration,
}

impl Default for QuarantineAfter {
    fn default() -> Self {
        Self { faults: 5, window: Duration(std::time::Duration::from_secs(30)) }
    }
}

/// Another version of an attachment's pack on its way into service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// `name@version` of the same pack.
    #[schemars(extend("format" = "pack-reference"))]
    pub candidate: String,
    /// Whether its decisions act on its share.
    pub mode: RolloutMode,
    /// Its share of the exchanges, in percent; 100 when absent.
    #[serde(default = "all_of_them")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))]
    pub percent: f64,
    /// By what the share is taken: one with the same stays in it, or out of it, on every node.
    #[serde(default)]
    pub by: By,
    /// Over how long it is judged: 10s to 24h.
    pub window: Duration,
    /// How many exchanges it must have decided before it is judged by rates.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub min_samples: u64,
    /// When it is rolled back by itself. Faults beyond `quarantine` roll back in any case.
    #[serde(default)]
    pub rollback_on: RollbackOn,
    /// What happens when a window with enough samples ended and nothing speaks against it.
    #[serde(default, skip_serializing_if = "OnPass::is_wait")]
    pub on_pass: OnPass,
}

/// Whether a candidate's decisions act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutMode {
    /// The running version's act; the candidate's are compared with them.
    Observe,
    /// The candidate's act on its share.
    Canary,
}

impl RolloutMode {
    /// The name as documents and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Canary => "canary",
        }
    }
}

/// By what a candidate's share is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// By the request's id.
    Request,
    /// By the caller's consumer, within its tenant.
    #[default]
    Consumer,
    /// By the caller's tenant.
    Tenant,
}

/// When a candidate is rolled back by itself. What is absent is not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackOn {
    /// More than this share of its calls failed: 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub fault_rate: Option<f64>,
    /// The slowest 1 % of its calls took longer, whatever the phase: 10µs to 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<Duration>,
    /// More than this share of its decisions differs from the running version's: 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub difference_rate: Option<f64>,
}

/// What happens when nothing speaks against a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnPass {
    /// Somebody promotes it.
    #[default]
    Wait,
    /// It is promoted by itself.
    Promote,
}

impl OnPass {
    /// Whether somebody promotes it.
    pub const fn is_wait(&self) -> bool {
        matches!(self, Self::Wait)
    }
}

/// Which exchanges an attachment decides. Every part that is given must match.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// On this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// On this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteId>,
}

/// When a pack speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Before limits are asked: what the request costs.
    Cost,
    /// Before the request is forwarded.
    Request,
    /// Before the answer is returned.
    Response,
}

impl PhaseName {
    /// The name as documents and manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// Whether a pack's decisions act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They do.
    Enforce,
    /// They are recorded only.
    Observe,
}

impl Mode {
    /// The name as documents and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// What happens when a pack can't decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The request is refused with POLICY_FAILED.
    Closed,
    /// The request goes on as if the pack had said nothing.
    Open,
}

fn all_of_them() -> f64 {
    100.0
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}
