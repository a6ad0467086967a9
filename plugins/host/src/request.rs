//! What a pack is asked about.

use std::sync::Arc;

use model::id::{RouteId, VersionName};
use model::{Head, Identity};

/// One request, as far as packs may see it. Shared, so that a decision copies only what the pack asks for.
#[derive(Clone, Debug)]
pub struct PolicyRequest {
    /// The head after the Gate.
    pub head: Arc<Head>,
    /// The caller.
    pub identity: Arc<Identity>,
    /// The matched route.
    pub route: RouteId,
    /// The resolved version of the API.
    pub version: VersionName,
    /// Marks the pack's log lines.
    pub request_id: Arc<str>,
}

/// The type behind the guest's handle. An instance sees one request only, so the handle's value says nothing.
#[allow(unreachable_pub, reason = "the generated interface re-exports it, within this crate")]
pub enum Lent {}
