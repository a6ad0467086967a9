//! Packs and attachments of a document → what decides about requests. Every error at the value that is amiss.
//!
//! Invariant: what is the same is made once and shared by every revision that needs it: a pack by its content, a prepared
//! one by its settings, limits and reuse as well.

mod wanted;

use super::Sources;
use super::pack_files::{Loaded, used};
use crate::packs::{Attachment, Candidate, Ring, TenantPacks, Version, Work};
use crate::report::{Metrics, Part, Series};
use crate::rollout::Watch;
use model::config::ConfigError;
use model::document::{self, Document, Mode, PackKey, RolloutMode};
use model::id::TenantId;
use pack_host::{BodyOf, Capability, Caps, Limits};
use std::collections::HashMap;
use std::sync::Arc;
use wanted::{Ready, Role, prepare, wanted};

/// What a document's attachments come to.
#[derive(Default)]
pub(super) struct Packs<'a> {
    /// In the order in which they decide, each with its scope.
    pub(super) attachments: Vec<(&'a document::Scope, Arc<Attachment>)>,
    /// What packs may use for each tenant.
    pub(super) tenants: HashMap<TenantId, Arc<TenantPacks>>,
    /// Those whose packs are on their way.
    pub(super) rollouts: Vec<Arc<Watch>>,
    /// What is used of pack files.
    pub(super) loaded: Vec<Arc<Loaded>>,
}

/// A pack of the document that some attachment runs.
struct Found<'a> {
    loaded: Arc<Loaded>,
    key: &'a PackKey,
    version: Arc<str>,
}

/// Every pack that a document's attachments run, ready, and the attachments themselves.
pub(super) fn packs<'a>(
    document: &'a Document,
    sources: &Sources,
    metrics: &Metrics,
    errors: &mut Vec<ConfigError>,
) -> Packs<'a> {
    if document.attachments.is_empty() {
        return Packs::default();
    }
    let found = find(document, sources, errors);
    let wanted: Vec<_> = wanted(document, &found).collect();
    for wanted in &wanted {
        wanted.check(sources, errors);
    }
    let mut prepared = prepare(&wanted, errors);
    let mut made = Maker { sources, metrics, found: &found, prepared: &mut prepared };
    let mut packs =
        Packs { loaded: found.values().map(|it| it.loaded.clone()).collect(), ..Packs::default() };
    let mut ordered: Vec<_> = document.attachments.iter().enumerate().collect();
    ordered.sort_by(|(_, a), (_, b)| (ring(a), a.order, &a.id).cmp(&(ring(b), b.order, &b.id)));
    for (index, entry) in ordered {
        // Where something is amiss, it is said already.
        let Some(attachment) = made.attachment(index, entry) else { continue };
        packs.rollouts.extend(attachment.candidate.iter().map(|candidate| candidate.watch.clone()));
        packs.attachments.push((&entry.scope, Arc::new(attachment)));
    }
    packs.tenants = tenants(document, sources);
    packs
}

/// For whom an attachment decides.
const fn ring(entry: &document::Attachment) -> Ring {
    match entry.scope.tenant {
        Some(_) => Ring::Tenants,
        None => Ring::Everybodys,
    }
}

fn tenants(document: &Document, sources: &Sources) -> HashMap<TenantId, Arc<TenantPacks>> {
    let plans: HashMap<_, _> = document.plans.iter().map(|plan| (&plan.id, &plan.packs)).collect();
    let compiled = document.tenants.iter().map(|tenant| {
        let caps = plans.get(&tenant.plan).expect("a checked document has no dangling plan");
        let usage = sources.live.tenant(&tenant.id, caps);
        let packs = TenantPacks { id: tenant.id.clone(), caps: Caps::from(*caps), usage };
        (tenant.id.clone(), Arc::new(packs))
    });
    compiled.collect()
}

/// The packs that attachments run, by `name@version`.
fn find<'a>(
    document: &'a Document,
    sources: &Sources,
    errors: &mut Vec<ConfigError>,
) -> HashMap<String, Found<'a>> {
    let places: HashMap<_, _> = document
        .packs
        .iter()
        .enumerate()
        .map(|(at, pack)| ((&pack.id, &pack.version), at))
        .collect();
    let kept = sources.packs.kept(used(document));
    let mut found = HashMap::new();
    for named in used(document) {
        let place = places.get(&(&named.id, &named.version)).copied().unwrap_or_default();
        match sources.packs.find(named, &document.pack_keys, &kept) {
            Ok(loaded) => {
                let Ok(key) = loaded.pack.package().signer(&document.pack_keys) else { continue };
                let version = named.version.as_str().into();
                found.insert(
                    format!("{}@{}", named.id, named.version),
                    Found { loaded, key, version },
                );
            }
            Err(missing) => {
                let pointer = format!("/packs/{place}{}", missing.field);
                errors.push(ConfigError::new(pointer, missing.message));
            }
        }
    }
    found
}

/// Makes attachments of what was prepared.
struct Maker<'a> {
    sources: &'a Sources,
    metrics: &'a Metrics,
    found: &'a HashMap<String, Found<'a>>,
    prepared: &'a mut Ready,
}

impl Maker<'_> {
    /// None where a version of it could not be had.
    fn attachment(&mut self, index: usize, entry: &document::Attachment) -> Option<Attachment> {
        let live = &self.sources.live;
        let running = self.version(index, entry, Role::Running)?;
        let candidate = match (&entry.rollout, live.watch(entry)) {
            (Some(rollout), Some(watch)) => Some(Candidate {
                version: self.version(index, entry, Role::Candidate)?,
                acts: rollout.mode == RolloutMode::Canary,
                watch,
            }),
            (Some(_) | None, _) => None,
        };
        let versions = [Some(&entry.pack), entry.rollout.as_ref().map(|it| &it.candidate)];
        let manifests = versions.into_iter().flatten().filter_map(|it| self.found.get(it));
        let mut manifests = manifests.map(|found| found.loaded.pack.manifest());
        let limits = manifests.clone().fold(entry.limits, |limits, it| limits.or(it.limits));
        let (pack, _) = entry.pack.split_once('@')?;
        let reads = manifests.any(|manifest| manifest.capabilities.contains(&Capability::Data));
        Some(Attachment {
            id: entry.id.clone(),
            pack: pack.into(),
            ring: ring(entry),
            phases: entry.phases.clone(),
            mode: entry.mode,
            on_failure: entry.on_failure,
            running,
            candidate,
            usage: live.attachment(entry, Limits::from(limits).instances),
            data: reads.then(|| live.data(&pack.into())),
        })
    }

    fn version(
        &mut self,
        index: usize,
        entry: &document::Attachment,
        role: Role,
    ) -> Option<Version> {
        let reference = match role {
            Role::Running => &entry.pack,
            Role::Candidate => &entry.rollout.as_ref()?.candidate,
        };
        let (pack, version) = reference.split_once('@')?;
        let work = match entry.halted {
            true => None,
            false => {
                let manifest = self.found.get(reference)?.loaded.pack.manifest();
                Some(Work {
                    prepared: self.prepared.remove(&(index, role))?,
                    health: self.sources.live.version(reference, entry),
                    reads_request: manifest.body.contains(&BodyOf::Request),
                    reads_response: manifest.body.contains(&BodyOf::Response),
                    counts: manifest.capabilities.contains(&Capability::Counters),
                })
            }
        };
        let (acting, aside) = match (entry.mode, role) {
            (Mode::Enforce, Role::Running) => (Part::Enforce, Part::Baseline),
            (Mode::Enforce, Role::Candidate) => (Part::Canary, Part::Shadow),
            (Mode::Observe, Role::Running) => (Part::Observe, Part::Baseline),
            (Mode::Observe, Role::Candidate) => (Part::Observe, Part::Shadow),
        };
        let known = self.found.get(reference).map(|found| found.version.clone());
        let version = known.unwrap_or_else(|| version.into());
        let series = |part| -> Arc<Series> { self.metrics.pack(&pack.into(), &version, part) };
        Some(Version { work, acting: series(acting), aside: series(aside) })
    }
}

#[cfg(test)]
mod tests;
