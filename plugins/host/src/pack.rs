//! The first age of a pack: its bytes, which belong to a file that was read and checked, on the host that it is to run on.
//!
//! Invariant: what is made of it on this process's engine was compiled by a worker of this host, or comes from its own
//! cache.

use std::num::NonZeroU32;
use std::sync::Arc;

use model::FailureReason;
use model::id::PackId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artefact::Artefact;
use crate::host::Host;
use crate::limits::Limits;
use crate::package::{BodyOf, Capability, MAX_MODULE_BYTES, Manifest, Package};
use crate::prepared::Prepared;
use crate::trial::Trial;
use crate::worker::{Done, Job, MAX_ARTEFACT_BYTES, Task};

/// Attachments that one job is about.
const MAX_SETTINGS: usize = 256;
/// Their settings together, in bytes; one of them, if it is larger.
const MAX_SETTINGS_BYTES: usize = 16 << 20;
/// What is shown of a text that a pack had a hand in, in bytes.
const MAX_SHOWN_BYTES: usize = 512;

/// A pack on a host.
pub struct Pack {
    host: Arc<Host>,
    package: Package,
    about: Arc<About>,
}

/// What calls know of their pack.
pub(crate) struct About {
    /// What log lines call it, such as `require-header@1.0.0`.
    pub(crate) label: Arc<str>,
    /// What it says of itself.
    pub(crate) manifest: Manifest,
}

/// What one attachment makes of a pack.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What its `configure` gets.
    pub settings: &'a Value,
    /// What one call may use.
    pub limits: Limits,
    /// How many decisions an instance makes before it is dropped; without it, one.
    pub reuse: Option<NonZeroU32>,
}

/// Why a module is no pack, or a pack can't be prepared. The text says how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum PackError {
    /// Larger than [`MAX_MODULE_BYTES`].
    #[error("the module has {bytes} bytes; at most {MAX_MODULE_BYTES} are taken: make it smaller")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// Compiled, it is larger than is taken.
    #[error(
        "the pack takes {bytes} bytes when it is compiled and configured; at most {MAX_ARTEFACT_BYTES} are taken: make the \
         module smaller, or have `configure` leave less in memory"
    )]
    TooLargeCompiled {
        /// How many it has.
        bytes: usize,
    },
    /// Neither a component nor a core module.
    #[error("this is not WebAssembly: give the .wasm file that the build made")]
    NotWasm,
    /// WebAssembly that isn't valid, or uses features that packs don't have.
    #[error("the pack can't be compiled: {message}")]
    Invalid {
        /// What the compiler says.
        message: String,
    },
    /// It imports what no pack can.
    #[error(
        "the module imports `{name}`, which the host does not give: build it for wasm32-unknown-unknown, without WASI, \
         against the `policy.wit` that `tollgate pack new` writes"
    )]
    UnknownImport {
        /// What.
        name: String,
    },
    /// It imports what its manifest doesn't name.
    #[error(
        "the module uses `{}`, which its manifest does not name: add \"{}\" to `capabilities`, or don't use it",
        capability.as_str(), capability.as_str()
    )]
    MissingCapability {
        /// What.
        capability: Capability,
    },
    /// It can ask for a body that its manifest doesn't name.
    #[error(
        "the module reads the {}'s body, which its manifest does not name: add \"{}\" to `body`, or don't read it",
        body.as_str(), body.as_str()
    )]
    UndeclaredBody {
        /// Whose.
        body: BodyOf,
    },
    /// It lacks what the host calls.
    #[error(
        "the module does not export `{export}`: implement it, or take its phase out of the manifest's `phases`"
    )]
    MissingExport {
        /// What.
        export: String,
    },
    /// An import isn't as the host has it.
    #[error("{message}; build the module against the `policy.wit` that `tollgate pack new` writes")]
    Import {
        /// Which, and how it differs.
        message: String,
    },
    /// An export isn't as the host calls it.
    #[error("{message}; build the module against the `policy.wit` that `tollgate pack new` writes")]
    Export {
        /// Which, and how it differs.
        message: String,
    },
    /// The settings schema can't be applied.
    #[error("`settings.schema.json` is no JSON Schema (2020-12): {message}")]
    Schema {
        /// Why.
        message: String,
    },
    /// The settings aren't as the schema says, or the pack refused them.
    #[error("{}", SettingsError::told(errors))]
    Settings {
        /// Why; never empty.
        errors: Vec<SettingsError>,
    },
    /// It failed while it was configured, or could not be started with its settings.
    #[error("the pack failed while it was configured ({}): {detail}", reason.as_str())]
    Configure {
        /// In which way.
        reason: FailureReason,
        /// The engine's words.
        detail: String,
    },
    /// The limits ask for what no limit can grant.
    #[error("limits: {message}")]
    Limits {
        /// Which one.
        message: String,
    },
    /// Compiling and configuring it took more than they may.
    #[error(
        "checking the pack took {what}, the most that compiling, configuring and trying it may: make the module smaller, or \
         have `configure` do less"
    )]
    TooCostly {
        /// Of what too much.
        what: String,
    },
    /// Other packs are being compiled, and went on for too long.
    #[error("the pack had to wait too long for others to be compiled: try again")]
    Busy,
    /// The process that compiles packs could not be run, or broke down.
    #[error("the process that compiles packs failed: {message}")]
    Worker {
        /// How.
        message: String,
    },
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsError {
    /// Where, as a JSON pointer into the settings; empty where the pack itself refused them.
    pub pointer: String,
    /// Why.
    pub message: String,
}

impl SettingsError {
    fn told(errors: &[Self]) -> String {
        let told = |error: &Self| match &*error.pointer {
            "" => error.message.clone(),
            pointer => format!("`{pointer}`: {}", error.message),
        };
        errors.iter().map(told).collect::<Vec<_>>().join("; ")
    }
}

impl PackError {
    pub(crate) fn invalid(error: &dyn std::fmt::Display) -> Self {
        Self::Invalid { message: shown(format!("{error:#}")) }
    }

    /// The pack's own refusal of its settings.
    pub(crate) fn settings(message: String) -> Self {
        let own = SettingsError { pointer: String::new(), message: shown(message) };
        Self::Settings { errors: vec![own] }
    }
}

/// A text that a pack had a hand in, no longer than people read.
pub(crate) fn shown(mut text: String) -> String {
    if text.len() > MAX_SHOWN_BYTES {
        text.truncate(text.floor_char_boundary(MAX_SHOWN_BYTES));
        text.push('…');
    }
    text
}

impl Host {
    /// Takes a pack in. Cheap: it is checked and compiled when it is prepared.
    pub fn load(self: &Arc<Self>, package: Package) -> Arc<Pack> {
        let about = About { label: package.label().into(), manifest: package.manifest().clone() };
        Arc::new(Pack { host: Arc::clone(self), package, about: Arc::new(about) })
    }

    /// Checks a pack and tries its vectors. Blocks for up to [`crate::worker::JobLimits::wall`].
    pub fn try_out(self: &Arc<Self>, package: &Package) -> Result<Trial, PackError> {
        match self.workers.run(self, &Job { package, task: Task::Trial })? {
            Done::Tried(trial) => Ok(trial),
            Done::Prepared(_) => Err(garbled()),
        }
    }
}

impl Pack {
    /// What its file holds.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// Its name.
    pub fn name(&self) -> &PackId {
        self.package.name()
    }

    /// Its version.
    pub fn version(&self) -> &str {
        self.package.version()
    }

    /// `name@version`.
    pub fn label(&self) -> &Arc<str> {
        &self.about.label
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.package.manifest()
    }

    /// `sha256:` and the hexadecimal hash that names its content.
    pub fn digest(&self) -> &str {
        self.package.digest()
    }

    /// Compiles it with the settings of one attachment, or finds that in the cache. Blocks for up to seconds.
    pub fn prepare(
        &self,
        settings: &Value,
        limits: Limits,
        reuse: Option<NonZeroU32>,
    ) -> Result<Arc<Prepared>, PackError> {
        let prepared = self.prepare_all(&[Asked { settings, limits, reuse }]).pop();
        prepared.unwrap_or_else(|| Err(garbled()))
    }

    /// The same for many attachments, in their order: what their settings have in common is compiled once.
    pub fn prepare_all(&self, asked: &[Asked<'_>]) -> Vec<Result<Arc<Prepared>, PackError>> {
        let mut done: Vec<Option<Result<Arc<Prepared>, PackError>>> =
            asked.iter().map(|asked| self.cached(asked)).collect();
        loop {
            let missing: Vec<_> = (0..).zip(&done).filter(|(_, done)| done.is_none()).collect();
            let Some(memory) = missing.first().and_then(|(at, _)| asked.get(*at)) else { break };
            let memory = memory.limits.memory;
            let same = |at: &usize| asked.get(*at).is_some_and(|a| a.limits.memory == memory);
            let mut bytes = 0;
            let fits = |at: &usize| {
                let before = bytes;
                bytes += asked.get(*at).map_or(0, |asked| asked.settings.to_string().len());
                before == 0 || bytes <= MAX_SETTINGS_BYTES
            };
            let batch = missing.iter().map(|(at, _)| *at).filter(same).take(MAX_SETTINGS);
            let batch: Vec<usize> = batch.take_while(fits).collect();
            for (at, made) in self.make(&batch, asked, memory) {
                if let Some(place) = done.get_mut(at) {
                    *place = Some(made);
                }
            }
        }
        done.into_iter().flatten().collect()
    }

    /// Has a worker make what is missing: of some of these at least, what came of them.
    fn make(
        &self,
        batch: &[usize],
        asked: &[Asked<'_>],
        memory: usize,
    ) -> Vec<(usize, Result<Arc<Prepared>, PackError>)> {
        let of = |at: &usize| asked.get(*at).map(|asked| (*at, *asked));
        let batch: Vec<_> = batch.iter().filter_map(of).collect();
        let settings = batch.iter().map(|(_, asked)| asked.settings.clone()).collect();
        let job = Job { package: &self.package, task: Task::Prepare { settings, memory } };
        let all =
            |error: PackError| batch.iter().map(|(at, _)| (*at, Err(error.clone()))).collect();
        let made = match self.host.workers.run(&self.host, &job) {
            Ok(Done::Prepared(made)) if !made.is_empty() => made,
            Ok(_) => return all(garbled()),
            Err(error) => return all(error),
        };
        let prepared = batch.iter().zip(made).map(|((at, asked), made)| {
            let prepared = made.and_then(|artefact| {
                let prepared = self.start(&artefact, asked)?;
                if let Some(cache) = &self.host.cache {
                    cache.keep(&self.key(asked), &artefact);
                }
                Ok(prepared)
            });
            (*at, prepared)
        });
        prepared.collect()
    }

    /// What the cache has for these settings, ready.
    fn cached(&self, asked: &Asked<'_>) -> Option<Result<Arc<Prepared>, PackError>> {
        if let Err(error) = asked.limits.check() {
            return Some(Err(error));
        }
        let artefact = self.host.cache.as_ref()?.find(&self.key(asked))?;
        // An entry that can't be started is as good as none: it is made again, with the reason if there is one.
        self.start(&artefact, asked).ok().map(Ok)
    }

    /// All of what an artefact is made of, beside the engine.
    fn key(&self, asked: &Asked<'_>) -> [String; 3] {
        [self.digest().to_owned(), asked.settings.to_string(), asked.limits.memory.to_string()]
    }

    fn start(&self, artefact: &Artefact, asked: &Asked<'_>) -> Result<Arc<Prepared>, PackError> {
        let made = artefact.load(&self.host, asked.settings)?;
        Prepared::new(&self.host, &self.about, made, asked.limits, asked.reuse).map(Arc::new)
    }
}

fn garbled() -> PackError {
    PackError::Worker { message: "it answered another question".to_owned() }
}
