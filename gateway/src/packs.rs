//! Packs at work: what a revision attaches, and what becomes of one exchange at their hands.
//!
//! Invariants: which version of a pack acts on an exchange is settled once, so that no exchange sees two; what a version
//! says that doesn't act changes nothing; a request looks at the attachments of its route and tenant, and at no others.

mod ask;
mod picks;
mod respond;
#[cfg(test)]
mod tests;

pub use picks::{Picks, Readers};
pub use respond::{AnswerBody, Responded};

use crate::report::Series;
use crate::rollout::{AttachmentUse, DataSource, TenantUse, VersionHealth, Watch};
use model::document::{Mode, OnFailure, PhaseName};
use model::id::{AttachmentId, PackId, TenantId};
use pack_host::{Caps, Prepared};
use std::collections::HashMap;
use std::sync::Arc;

/// The most that packs may make of a request's cost, as a route may.
pub const COST_MAX: u32 = 1_000_000;
/// Attachments that decide about one exchange; a document with more is refused.
pub const ATTACHMENTS_MAX: usize = 64;

/// A pack with its settings, at work on some exchanges.
pub struct Attachment {
    /// Its id.
    pub id: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// For whom it decides.
    pub ring: Ring,
    /// When it speaks.
    pub phases: Vec<PhaseName>,
    /// Whether its decisions act.
    pub mode: Mode,
    /// What happens when it can't decide.
    pub on_failure: OnFailure,
    /// The version that runs.
    pub running: Version,
    /// The one on its way into service.
    pub candidate: Option<Candidate>,
    /// What its decisions share on this node.
    pub usage: Arc<AttachmentUse>,
    /// The data that operators keep for the pack, where a version reads it.
    pub data: Option<Arc<DataSource>>,
}

/// For whom an attachment decides. What decides for everybody has the last word on what the upstream gets, and is the first
/// to see what it answers: no tenant's pack undoes what it enforces, or shows what it hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// For one tenant.
    Tenants,
    /// For everybody.
    Everybodys,
}

/// One version of an attachment's pack.
pub struct Version {
    /// What runs; nothing while the attachment is halted.
    pub work: Option<Work>,
    /// Where it is counted when it acts, or would act if the attachment didn't observe.
    pub acting: Arc<Series>,
    /// Where it is counted when it is only compared.
    pub aside: Arc<Series>,
}

/// What runs of a version, and how it fares.
pub struct Work {
    /// The pack with its settings.
    pub prepared: Arc<Prepared>,
    /// Its faults on this node.
    pub health: Arc<VersionHealth>,
    /// Whether it reads the request's body.
    pub reads_request: bool,
    /// Whether it reads the answer's body.
    pub reads_response: bool,
    /// Whether it counts.
    pub counts: bool,
}

/// A version on its way into service.
pub struct Candidate {
    /// The version.
    pub version: Version,
    /// Whether it acts on its share.
    pub acts: bool,
    /// Its share, and what is seen of it.
    pub watch: Arc<Watch>,
}

impl Attachment {
    /// Whether it speaks in this phase.
    pub fn speaks(&self, phase: PhaseName) -> bool {
        self.phases.contains(&phase)
    }
}

/// What packs may use for a tenant, as one revision says, and what they do use.
pub struct TenantPacks {
    /// The tenant.
    pub id: TenantId,
    /// The most of one call.
    pub caps: Caps,
    /// Its use on this node.
    pub usage: Arc<TenantUse>,
}

/// The attachments of a route in the order in which they decide about requests, by tenant.
#[derive(Default)]
pub struct Attached {
    everybody: Vec<Arc<Attachment>>,
    /// Of tenants with attachments of their own: those and everybody's.
    tenants: HashMap<TenantId, Vec<Arc<Attachment>>>,
}

impl Attached {
    /// Sorts these by tenant, whose order they keep. One without a tenant is everybody's.
    pub fn new(all: &[(Option<&TenantId>, &Arc<Attachment>)]) -> Self {
        let mut own: HashMap<&TenantId, Vec<usize>> = HashMap::new();
        let mut everybodys = Vec::new();
        for (place, (tenant, _)) in all.iter().enumerate() {
            match tenant {
                Some(tenant) => own.entry(tenant).or_default().push(place),
                None => everybodys.push(place),
            }
        }
        let at = |places: &[usize]| {
            let found = places.iter().filter_map(|place| all.get(*place));
            found.map(|(_, attachment)| (*attachment).clone()).collect()
        };
        let tenants = own.into_iter().map(|(tenant, mut places)| {
            places.extend(&everybodys);
            places.sort_unstable();
            (tenant.clone(), at(&places))
        });
        Self { tenants: tenants.collect(), everybody: at(&everybodys) }
    }

    /// One that decides about an exchange about which too many do.
    pub fn beyond_max(&self) -> Option<&Attachment> {
        let all = self.tenants.values().chain([&self.everybody]);
        all.filter_map(|some| some.get(ATTACHMENTS_MAX)).map(|one| &**one).min_by_key(|one| &one.id)
    }

    /// Those that decide about this tenant's requests.
    pub fn of(&self, tenant: &TenantId) -> &[Arc<Attachment>] {
        self.tenants.get(tenant).unwrap_or(&self.everybody)
    }
}
