//! What a pack is asked about.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::id::{PlanId, RouteId, VersionName};
use model::{Head, Identity};

/// One request, as far as packs may see it. Shared, so that a decision copies only what the pack asks for.
#[derive(Clone, Debug)]
pub struct PolicyRequest {
    /// The head after the Gate.
    pub head: Arc<Head>,
    /// The whole body, where it was read. Only packs whose manifest asks for it see it.
    pub body: Option<Bytes>,
    /// The size of the body in bytes, as far as it is known.
    pub body_size: Option<u64>,
    /// The caller.
    pub identity: Arc<Identity>,
    /// The plan of the caller's tenant.
    pub plan: PlanId,
    /// The time zone of the caller's tenant.
    pub timezone: TimeZone,
    /// The matched route.
    pub route: RouteId,
    /// The resolved version of the API.
    pub version: VersionName,
    /// Marks the pack's log lines, and is the seed of its random numbers.
    pub request_id: Arc<str>,
    /// When the exchange began: the only time that packs see.
    pub now: Timestamp,
}

/// The answer to a request, as far as packs may see it.
#[derive(Clone, Debug)]
pub struct PolicyResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers, as the caller would get them.
    pub headers: Arc<HeaderMap>,
    /// The whole body, where it was read. Only packs whose manifest asks for it see it.
    pub body: Option<Bytes>,
}
