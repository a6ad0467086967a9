//! The document's plans and limits: what tenants may use, and what upstreams are sent.

use super::{EventCaps, PackCaps};
use crate::id::{LimitId, PlanId, RouteId, ServiceId};
use crate::quota::{LimitMode, OnStoreError, Per, Quota, Rate};
use crate::units::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of limits. Without any, nothing is limited.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The plan's id.
    pub id: PlanId,
    /// Its limits, all decided together.
    #[schemars(length(max = 16))]
    pub limits: Vec<Limit>,
    /// Whether a tenant that is far above what it is used to is slowed; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
    /// What packs may use for a tenant.
    #[serde(default, skip_serializing_if = "PackCaps::is_default")]
    pub packs: PackCaps,
    /// How many events a tenant may send.
    #[serde(default, skip_serializing_if = "EventCaps::is_default")]
    pub events: EventCaps,
}

/// A limit: exactly one of `rate` (with `burst`), `quota` and `concurrency`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The limit's id, as partners see it.
    pub id: LimitId,
    /// So many units per second, minute or hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How many units a `rate` admits at one instant; as many as its number of units when absent. All of it comes back in
    /// at most 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// So many units in each period of the tenant's calendar: `minute`, `hour`, `day`, `week`, `month`, or
    /// `billing_month`, which begins on the tenant's `billing_day`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// So many requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: Option<u32>,
    /// Who shares the counter.
    pub per: Per,
    /// Which requests it counts; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<LimitScope>,
    /// Whether the shared store decides about each request. Otherwise nodes may take units in advance, and together admit
    /// so much more at most as the documentation says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Whether it refuses, or is only tried out.
    #[serde(default, skip_serializing_if = "LimitMode::is_enforce")]
    pub mode: LimitMode,
    /// What happens when the store of counters can't answer. No default: the operator chooses.
    pub on_store_error: OnStoreError,
}

/// The requests that a limit counts: those of one route, or of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitScope {
    /// Those of this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteId>,
    /// Those of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
}

/// Slows a tenant that is far above its own baseline, on each node for what it sees of it. It is refused with
/// `RATE_LIMITED` by the limit `adaptive`, with an audit entry by `system` when that begins and when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// How many times its baseline a tenant may send before it is slowed; it is then admitted so much.
    #[schemars(range(min = 2, max = 1_000))]
    pub factor: u32,
    /// In which time the baseline follows half of a change: 10s to 168h. Nobody is slowed who was seen for less.
    pub half_life: Duration,
    /// What is admitted whatever the baseline is, in units.
    pub floor: Rate,
    /// For how long a tenant must be above that before it is slowed, and below it before it no longer is: 1s to 1h.
    pub patience: Duration,
}

/// A limit towards an upstream. What it refuses is answered with `UPSTREAM_UNAVAILABLE`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamLimit {
    /// The limit's id, unique within its upstream.
    pub id: LimitId,
    /// So many requests per second, minute or hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How many requests a `rate` admits at one instant; as many as its number of units when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// So many requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: Option<u32>,
    /// What happens when the store of counters can't answer. No default: the operator chooses.
    pub on_store_error: OnStoreError,
}

/// What follows from an upstream's 429 or 503 that has a `Retry-After` (RFC 9110 §10.2.3): until then no such request is
/// sent to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// Whose requests are held back: those of the tenant that was answered so (`tenant`), everybody's (`upstream`), or
    /// nobody's (`off`).
    pub per: BackoffPer,
    /// The longest pause, whatever the upstream says: 1s to 1h.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { per: BackoffPer::Tenant, max: Duration(std::time::Duration::from_secs(60)) }
    }
}

impl Backoff {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose requests an upstream's `Retry-After` holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackoffPer {
    /// Those of the tenant that was answered so.
    Tenant,
    /// Everybody's.
    Upstream,
    /// Nobody's: the answer is passed on, and that is all.
    Off,
}

/// What is charged to quotas that would not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Charge {
    /// Replays of stored answers.
    pub replays: bool,
    /// Requests that the upstream answers with 5xx.
    pub upstream_errors: bool,
}

impl Charge {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
