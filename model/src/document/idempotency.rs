//! How a route treats `Idempotency-Key`.

use crate::units::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a route treats `Idempotency-Key`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Whether a key must be sent.
    pub mode: IdempotencyMode,
    /// How long answers are kept: 1m to 168h.
    #[serde(default = "one_day")]
    pub retention: Duration,
    /// How long a repeat waits for what comes of the first request, before it is told that it is in progress: 0s to 30s.
    #[serde(default = "no_time", skip_serializing_if = "is_no_time")]
    pub wait: Duration,
    /// The statuses of the upstream that say that it did nothing: they are not kept, and the key is free again.
    #[serde(default = "not_processed", skip_serializing_if = "is_not_processed")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)))]
    pub release_on: Vec<u16>,
    /// What a repeat of a request whose outcome nobody knows gets.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// How many replicas of a Redis must have a claim before its request is sent: 0 to 5. Other stores have none.
    #[serde(default, skip_serializing_if = "is_none")]
    #[schemars(range(min = 0, max = 5))]
    pub replicas: u8,
    /// What happens when the store can't answer. No default: the operator chooses.
    pub on_store_error: OnLedgerError,
}

/// Whether a key must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdempotencyMode {
    /// A request without one is refused.
    Required,
    /// A request without one is forwarded without protection.
    Optional,
}

/// What a repeat of a request whose outcome nobody knows gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// 409 until the record is released or expires.
    #[default]
    Reject,
    /// It is sent again, with the same derived key and a larger fence: only for an upstream that recognises its own repeats
    /// by the derived key.
    Redrive,
}

/// What a keyed request gets when the idempotency store can't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLedgerError {
    /// 503: nothing is dispatched unprotected.
    Closed,
    /// Forwarded without protection; the answer says so (`Idempotency-Status: not-enforced`).
    Bypass,
}

fn one_day() -> Duration {
    Duration(std::time::Duration::from_secs(24 * 60 * 60))
}

fn no_time() -> Duration {
    Duration(std::time::Duration::ZERO)
}

fn is_no_time(span: &Duration) -> bool {
    span.0.is_zero()
}

fn not_processed() -> Vec<u16> {
    vec![408, 425, 429]
}

fn is_not_processed(statuses: &[u16]) -> bool {
    statuses == not_processed()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_none(replicas: &u8) -> bool {
    *replicas == 0
}
