//! What runs beside the configuration of packs: how much they use, how their versions fare, what candidates are seen to do,
//! and what this node does about it by itself.
//!
//! Invariant: state is keyed by id, outlives snapshots, and is reached through handles that are resolved when a snapshot is
//! compiled; what no snapshot uses any more is gone. A version that is stopped stays stopped on this node until a document in
//! force says so itself, or does not have the version any more.

mod data;
mod differences;
mod faults;
mod health;
mod judge;
mod switch;
mod system;
mod tenant;
#[cfg(test)]
mod tests;
mod watch;
mod window;

pub use data::DataSource;
pub use health::VersionHealth;
pub use judge::run;
pub use switch::StoppedHere;
pub use tenant::{AttachmentUse, Place, TenantUse};
pub use watch::{Compared, Version, Watch};

use crate::known::Known;
use crate::report::RolloutMetrics;
use differences::Differences;
use health::Record;
use model::Clock;
use model::document::{self, Document, PackCaps, QuarantineAfter};
use model::id::{AttachmentId, PackId, TenantId};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use store::Store;
use switch::{Alarm, Switch};
use tenant::{AttachmentState, CounterSets, TenantState};
use watch::Tally;

/// The runtime state of packs, all of it.
pub struct Packs {
    tenants: Known<TenantState>,
    attachments: Known<AttachmentState>,
    /// By `name@version`, and by attachment and candidate.
    switches: Known<Switch>,
    /// By attachment, version and rule.
    records: Known<Record>,
    data: Known<DataSource>,
    /// By attachment as it is written, with its versions: what was seen of others says nothing about these settings.
    tallies: Known<Tally>,
    counters: Arc<CounterSets>,
    alarm: Arc<Alarm>,
    in_force: RwLock<InForce>,
    differences: Differences,
    metrics: RolloutMetrics,
    clock: Clock,
}

impl Packs {
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        metrics: RolloutMetrics,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            tenants: Known::default(),
            attachments: Known::default(),
            switches: Known::default(),
            records: Known::default(),
            data: Known::default(),
            tallies: Known::default(),
            counters: Arc::default(),
            alarm: Arc::new(Alarm::new(metrics.clone())),
            in_force: RwLock::default(),
            differences: Differences::start(store, metrics.clone(), runtime),
            metrics,
            clock,
        })
    }

    /// A tenant's use of packs, under these caps.
    pub fn tenant(&self, tenant: &TenantId, caps: &PackCaps) -> Arc<TenantUse> {
        let state = self.tenants.get(tenant.as_str(), || TenantState::new(self.counters.clone()));
        Arc::new(TenantUse::new(state, caps))
    }

    /// An attachment's use, with so many decisions at one time.
    pub fn attachment(
        &self,
        attachment: &document::Attachment,
        instances: u32,
    ) -> Arc<AttachmentUse> {
        let state = self.attachments.get(attachment.id.as_str(), AttachmentState::default);
        Arc::new(AttachmentUse::new(state, instances))
    }

    /// How `name@version` fares at an attachment that runs it or has it as its candidate.
    pub fn version(&self, version: &str, attachment: &document::Attachment) -> Arc<VersionHealth> {
        let QuarantineAfter { faults, window } = attachment.quarantine;
        let rule = format!("{} {version} {faults}/{window}", attachment.id);
        let record = self.records.get(&rule, || Record::new(window));
        let switches = [None, Some(&attachment.id)].map(|at| self.switch(version, at));
        let tenant = attachment.scope.tenant.clone();
        Arc::new(VersionHealth::new(switches, record, tenant, attachment.quarantine))
    }

    /// The data of a pack that may ask for it.
    pub fn data(&self, pack: &PackId) -> Arc<DataSource> {
        self.data.get(pack.as_str(), || DataSource::new(pack.clone()))
    }

    /// What is seen of an attachment's candidate; none where it has none, or decides nothing.
    pub fn watch(&self, attachment: &document::Attachment) -> Option<Arc<Watch>> {
        let rollout = attachment.rollout.as_ref().filter(|_| !attachment.halted)?;
        let (pack, running) = attachment.pack.split_once('@')?;
        let (_, candidate) = rollout.candidate.split_once('@')?;
        let key = serde_json::to_string(attachment).unwrap_or_default();
        let tally = self.tallies.get(&key, || Tally::new(self.clock.now()));
        Some(Arc::new(Watch {
            attachment: attachment.id.clone(),
            tenant: attachment.scope.tenant.clone(),
            pack: pack.into(),
            running: running.to_owned(),
            candidate: candidate.to_owned(),
            health: self.version(&rollout.candidate, attachment),
            rollout: rollout.clone(),
            tally,
            differences: self.differences.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }))
    }

    /// The versions that this node stopped, and of which no document in force has said so since.
    pub fn stopped(&self) -> Vec<StoppedHere> {
        self.alarm.stopped()
    }

    /// A document comes into force: what it says itself of versions that this node stopped is no longer this node's.
    pub(crate) fn in_force(&self, document: &Document) {
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = InForce::of(document);
        self.settle();
        self.forget_counters(document);
    }

    /// Makes room: packs that are not attached any more count nothing.
    fn forget_counters(&self, document: &Document) {
        let is_attached = |pack: &PackId| {
            let mut attached = document.attachments.iter();
            attached
                .any(|entry| entry.pack.split_once('@').is_some_and(|(id, _)| id == pack.as_str()))
        };
        let gone = |(pack, _): &(PackId, _)| !is_attached(pack);
        if self.counters.in_use().iter().any(gone) {
            self.tenants.in_use().iter().for_each(|tenant| tenant.keep_counters(is_attached));
        }
    }

    /// Forgets what was stopped here and what the document in force knows of, or does not have.
    fn settle(&self) {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        for key in self.alarm.settle(|key| in_force.may_decide.contains(key)) {
            self.switches.forget(&key);
        }
    }

    /// Whether `name@version` is the running version somewhere.
    fn runs(&self, version: &str) -> bool {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        in_force.running.contains(version)
    }

    fn switch(&self, version: &str, attachment: Option<&AttachmentId>) -> Arc<Switch> {
        self.switches.get(&Switch::key(version, attachment), || {
            Switch::new(version, attachment.cloned(), self.alarm.clone())
        })
    }
}

/// What the document in force says of versions.
#[derive(Default)]
struct InForce {
    /// Those that may decide, at all and at each attachment: keys of [`Switch`]es.
    may_decide: HashSet<String>,
    /// Those that run somewhere, as `name@version`.
    running: HashSet<String>,
}

impl InForce {
    fn of(document: &Document) -> Self {
        let packs = document.packs.iter().filter(|pack| pack.quarantined.is_none());
        let versions = packs.map(|pack| format!("{}@{}", pack.id, pack.version));
        let decides = || document.attachments.iter().filter(|attachment| !attachment.halted);
        let at_attachments = decides().flat_map(|attachment| {
            let candidate = attachment.rollout.as_ref().map(|rollout| &rollout.candidate);
            let versions = [Some(&attachment.pack), candidate].into_iter().flatten();
            versions.map(|version| Switch::key(version, Some(&attachment.id)))
        });
        Self {
            may_decide: versions.chain(at_attachments).collect(),
            running: decides().map(|attachment| attachment.pack.clone()).collect(),
        }
    }
}
