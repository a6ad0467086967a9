//! Packs and attachments of a document → what decides about requests. Every error at the value that is amiss.
//!
//! Invariant: what is the same is made once and shared by every revision that needs it: a pack by its content, a prepared
//! one by its settings, limits and reuse as well.

use super::Sources;
use super::pack_files::{Loaded, used};
use crate::packs::{Attachment, Candidate, Ring, TenantPacks, Version, Work};
use crate::report::{Metrics, Part, Series};
use crate::rollout::Watch;
use model::config::ConfigError;
use model::document::{self, Document, Mode, PackKey, RolloutMode};
use model::id::TenantId;
use pack_host::{Asked, BodyOf, Caps, Capability, Limits, PackError, Prepared, key_covers};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

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

/// Which of an attachment's versions it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Running,
    Candidate,
}

/// A version that is to be prepared for an attachment.
struct Wanted<'a> {
    index: usize,
    role: Role,
    found: &'a Found<'a>,
    entry: &'a document::Attachment,
    limits: Limits,
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
    let mut packs = Packs { loaded: found.values().map(|it| it.loaded.clone()).collect(), ..Packs::default() };
    let mut ordered: Vec<_> = document.attachments.iter().enumerate().collect();
    ordered.sort_by(|(_, a), (_, b)| {
        (ring(a), a.order, &a.id).cmp(&(ring(b), b.order, &b.id))
    });
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
    let places: HashMap<_, _> =
        document.packs.iter().enumerate().map(|(at, pack)| ((&pack.id, &pack.version), at)).collect();
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

/// Every version of every attachment that runs, of which there is a pack.
fn wanted<'a>(
    document: &'a Document,
    found: &'a HashMap<String, Found<'a>>,
) -> impl Iterator<Item = Wanted<'a>> {
    let running = document.attachments.iter().enumerate().filter(|(_, entry)| !entry.halted);
    running.flat_map(move |(index, entry)| {
        let candidate = entry.rollout.as_ref().map(|rollout| &rollout.candidate);
        let versions = [(Role::Running, Some(&entry.pack)), (Role::Candidate, candidate)];
        versions.into_iter().filter_map(move |(role, reference)| {
            let found = found.get(reference?)?;
            let limits = entry.limits.or(found.loaded.pack.manifest().limits);
            Some(Wanted { index, role, found, entry, limits: limits.into() })
        })
    })
}

impl Wanted<'_> {
    /// What the pack's file says against the attachment.
    fn check(&self, sources: &Sources, errors: &mut Vec<ConfigError>) {
        let Self { entry, found, .. } = self;
        let mut amiss = |pointer: String, message: String| {
            errors.push(ConfigError::new(pointer, message));
        };
        let tenant = entry.scope.tenant.as_ref();
        if !key_covers(found.key, tenant) {
            let whom = tenant.map_or_else(
                || "all tenants: add `*` to its `tenants`, or give the scope a tenant".to_owned(),
                |tenant| format!("tenant `{tenant}`: add it to its `tenants`"),
            );
            let key = &found.key.id;
            amiss(self.pointer(), format!("it is signed by the key `{key}`, which may not ship for {whom}"));
        }
        let manifest = found.loaded.pack.manifest();
        for (at, phase) in entry.phases.iter().enumerate() {
            if !manifest.phases.contains(phase) {
                let has: Vec<_> = manifest.phases.iter().map(|phase| phase.as_str()).collect();
                let (pack, has) = (found.loaded.pack.label(), has.join(", "));
                amiss(
                    format!("/attachments/{}/phases/{at}", self.index),
                    format!("{pack} does not speak in phase `{}`, only in: {has}", phase.as_str()),
                );
            }
        }
        if entry.reuse.is_some() {
            let pointer = format!("/attachments/{}/reuse", self.index);
            let pack = found.loaded.pack.label();
            match found.loaded.is_reusable(&sources.packs.host) {
                Ok(true) => {}
                Ok(false) => amiss(
                    pointer,
                    format!("{pack} decides otherwise when an instance is used again, as its vectors show: leave it out"),
                ),
                Err(error) => amiss(pointer, format!("{pack} can't be tried: {error}")),
            }
        }
    }

    /// Where the version is named.
    fn pointer(&self) -> String {
        match self.role {
            Role::Running => format!("/attachments/{}/pack", self.index),
            Role::Candidate => format!("/attachments/{}/rollout/candidate", self.index),
        }
    }

    fn reuse(&self) -> Option<NonZeroU32> {
        self.entry.reuse.and_then(NonZeroU32::new)
    }

    /// By what it is known among all that was made of its pack.
    fn key(&self) -> String {
        format!("{:?} {:?} {}", self.limits, self.entry.reuse, self.entry.settings)
    }

    /// Why it can't be prepared, each part of it where it is written.
    fn errors(&self, error: PackError) -> Vec<ConfigError> {
        let at = |field: &str| format!("/attachments/{}{field}", self.index);
        let told = match self.role {
            Role::Running => String::new(),
            Role::Candidate => format!("the candidate {}: ", self.found.loaded.pack.label()),
        };
        match error {
            PackError::Settings { errors } => {
                let one = |error: pack_host::SettingsError| {
                    let pointer = at(&format!("/settings{}", error.pointer));
                    ConfigError::new(pointer, format!("{told}{}", error.message))
                };
                errors.into_iter().map(one).collect()
            }
            PackError::Limits { message } => vec![ConfigError::new(at("/limits"), told + &message)],
            other => vec![ConfigError::new(self.pointer(), other.to_string())],
        }
    }
}

type Ready = HashMap<(usize, bool), Arc<Prepared>>;

/// Prepares all of them, those of a pack together.
fn prepare(wanted: &[Wanted<'_>], errors: &mut Vec<ConfigError>) -> Ready {
    let mut ready = Ready::new();
    let mut of_packs: HashMap<&str, Vec<&Wanted<'_>>> = HashMap::new();
    for one in wanted {
        of_packs.entry(one.found.loaded.pack.digest()).or_default().push(one);
    }
    for all in of_packs.values() {
        let Some(loaded) = all.first().map(|one| &one.found.loaded) else { continue };
        for (one, prepared) in all.iter().zip(prepare_all(loaded, all)) {
            match prepared {
                Ok(prepared) => {
                    ready.insert((one.index, one.role == Role::Candidate), prepared);
                }
                Err(error) => errors.extend(one.errors(error)),
            }
        }
    }
    ready
}

/// What all of these, of one pack, want. What is known is not made again.
fn prepare_all(loaded: &Loaded, all: &[&Wanted<'_>]) -> Vec<Result<Arc<Prepared>, PackError>> {
    let keys: Vec<String> = all.iter().map(|one| one.key()).collect();
    let mut made: HashMap<&str, Result<Arc<Prepared>, PackError>> = HashMap::new();
    let mut missing = HashMap::new();
    for (key, one) in keys.iter().zip(all) {
        match loaded.known(key) {
            Some(prepared) => drop(made.insert(key, Ok(prepared))),
            None => drop(missing.insert(key.as_str(), one)),
        }
    }
    let (missing, asked): (Vec<_>, Vec<_>) = missing
        .into_iter()
        .map(|(key, one)| {
            let (settings, limits, reuse) = (&one.entry.settings, one.limits, one.reuse());
            (key, Asked { settings, limits, reuse })
        })
        .unzip();
    for (key, prepared) in missing.into_iter().zip(loaded.pack.prepare_all(&asked)) {
        made.insert(key, prepared.map(|prepared| loaded.keep(key, prepared)));
    }
    let broken = || Err(PackError::Worker { message: "it left something out".to_owned() });
    keys.iter().map(|key| made.get(key.as_str()).cloned().unwrap_or_else(broken)).collect()
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
                    prepared: self.prepared.remove(&(index, role == Role::Candidate))?,
                    health: self.sources.live.version(&pack.into(), version, &entry.quarantine),
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
        let series =
            |part| -> Arc<Series> { self.metrics.pack(&pack.into(), &version, part) };
        Some(Version { work, acting: series(acting), aside: series(aside) })
    }
}

#[cfg(test)]
mod tests;
