//! The versions that attachments want: what their packs' files say against it, and what is prepared of them.

use super::Found;
use crate::compile::Sources;
use crate::compile::pack_files::Loaded;
use model::config::ConfigError;
use model::document::{self, Document};
use pack_host::{Asked, Limits, PackError, Prepared, key_covers};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Which of an attachment's versions it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// The one that runs.
    Running,
    /// The one on its way.
    Candidate,
}

/// A version that is to be prepared for an attachment.
pub(super) struct Wanted<'a> {
    index: usize,
    role: Role,
    found: &'a Found<'a>,
    entry: &'a document::Attachment,
    limits: Limits,
}

/// What was prepared, by the attachment's place in the document.
pub(super) type Ready = HashMap<(usize, Role), Arc<Prepared>>;

/// Every version of every attachment that runs, of which there is a pack.
pub(super) fn wanted<'a>(
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
    pub(super) fn check(&self, sources: &Sources, errors: &mut Vec<ConfigError>) {
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
            amiss(
                self.pointer(),
                format!("it is signed by the key `{key}`, which may not ship for {whom}"),
            );
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
                    format!(
                        "{pack} decides otherwise when an instance is used again, as its vectors show: leave it out"
                    ),
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

/// Prepares all of them, those of a pack together.
pub(super) fn prepare(wanted: &[Wanted<'_>], errors: &mut Vec<ConfigError>) -> Ready {
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
                    ready.insert((one.index, one.role), prepared);
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
