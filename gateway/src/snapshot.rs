//! One revision, compiled: everything that requests need and nothing that they change.
//!
//! Invariant: [`Live`] is the one cell of configuration in the process. A request pins it once; a publish replaces it
//! whole and resets no runtime state, which lives beside it and is keyed by id. What a snapshot uses, it owns: packs and
//! key sets that no snapshot uses are gone.

use crate::compile::{Fetched, Loaded};
use crate::packs::TenantPacks;
use crate::rollout::Watch;
use crate::route::RouteTable;
use crate::upstream::Upstream;
use arc_swap::ArcSwapOption;
use model::document::Endpoint;
use model::id::{EndpointId, IssuerId, TenantId, UpstreamId};
use stages::authenticate::Directory;
use std::collections::HashMap;
use std::sync::Arc;

/// One revision, compiled.
pub struct Snapshot {
    /// Its number; 0 until it is put in force.
    pub revision: u64,
    /// Who may call.
    pub directory: Directory,
    /// What may be called.
    pub routes: RouteTable,
    /// Where calls go.
    pub upstreams: HashMap<UpstreamId, Arc<Upstream>>,
    /// The services, for `/.tollgate/versions`.
    pub services: Vec<Arc<stages::version::Service>>,
    /// Where events go, for who polls them.
    pub endpoints: HashMap<EndpointId, Arc<Endpoint>>,
    /// The key sets that are fetched for it.
    pub key_sets: Vec<(IssuerId, Arc<Fetched>)>,
    /// What packs may use for each tenant; nothing where nothing is attached.
    pub tenants: HashMap<TenantId, Arc<TenantPacks>>,
    /// The candidates that are on their way into service.
    pub rollouts: Vec<Arc<Watch>>,
    /// What is used of pack files.
    pub packs: Vec<Arc<Loaded>>,
}

/// The cell that holds the snapshot in force; empty until the first revision.
#[derive(Default)]
pub struct Live(ArcSwapOption<Snapshot>);

impl Live {
    /// Takes the snapshot in force for one request.
    pub fn pin(&self) -> Option<Arc<Snapshot>> {
        self.0.load_full()
    }

    /// Puts a snapshot in force. The old one is freed when the last request that pinned it ends.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Some(Arc::new(snapshot)));
    }
}
