//! A pack's vectors, tried on the host that will run it: each in a fresh instance, and then all of the same settings, twice
//! over, in one that is reused.
//!
//! Invariant: a pack whose instances may be reused decided the same in both ways, about every vector.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use model::document::PhaseName;
use model::rollout::{self, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compile::Compiler;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::grants::{Caps, Counting, Grants, LogGate};
use crate::host::Host;
use crate::interface;
use crate::limits::Limits;
use crate::pack::{About, PackError, shown};
use crate::package::Package;
use crate::prepared::{Measured, Prepared};
use crate::request::{PolicyRequest, PolicyResponse};
use crate::vector::{Came, NamedVector};

/// How often a fresh instance is asked, for a time that can be told.
const ROUNDS: usize = 5;

/// What came of a pack's vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Whether instances may be reused: there are vectors, and a reused instance decides them like fresh ones.
    pub reusable: bool,
    /// Whether instances start from a memory image that was taken after `configure`.
    pub image: bool,
    /// Each, by name.
    pub vectors: Vec<Tried>,
}

/// What came of one vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Its name.
    pub name: String,
    /// What the pack decided, in a line.
    pub outcome: String,
    /// What that took in a fresh instance; nothing where the settings were refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<Spent>,
    /// What it took in one that had decided before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<Spent>,
    /// How the outcome differs from what the vector expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// How a reused instance decided otherwise than a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_difference: Option<String>,
}

/// What one call took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Processor time, in microseconds.
    pub micros: f64,
    /// Fuel.
    pub fuel: u64,
    /// Linear memory of the instance, in bytes.
    pub memory: u64,
}

impl Trial {
    /// Whether every vector came out as expected.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The vectors that did not, and how they differ.
    pub fn failures(&self) -> impl Iterator<Item = String> {
        self.vectors.iter().filter_map(|tried| {
            let difference = tried.difference.as_ref()?;
            Some(format!("the vector `{}`: {difference}", tried.name))
        })
    }
}

/// Tries all vectors of a pack, in this process.
pub(crate) fn run(host: &Arc<Host>, package: &Package) -> Result<Trial, PackError> {
    let wasm = interface::component(package.module())?;
    let compiler = Compiler::new(host, package, &wasm)?;
    let bench = Bench {
        host,
        about: Arc::new(About {
            label: package.label().into(),
            manifest: package.manifest().clone(),
        }),
        compiler,
        limits: Limits::from(package.manifest().limits),
    };
    let mut trial =
        Trial { reusable: false, image: bench.compiler.takes_images(), vectors: Vec::new() };
    for (settings, vectors) in by_settings(package.vectors()) {
        bench.try_all(settings, &vectors, &mut trial)?;
    }
    trial.vectors.sort_by(|a, b| a.name.cmp(&b.name));
    let same = trial.vectors.iter().all(|tried| tried.reuse_difference.is_none());
    trial.reusable = same && trial.vectors.iter().any(|tried| tried.reused.is_some());
    Ok(trial)
}

/// Vectors that have the same settings, which are compiled once.
fn by_settings(vectors: &[NamedVector]) -> Vec<(&Value, Vec<&NamedVector>)> {
    let mut groups: Vec<(&Value, Vec<&NamedVector>)> = Vec::new();
    for vector in vectors {
        let settings = &vector.vector.settings;
        match groups.iter_mut().find(|(known, _)| *known == settings) {
            Some((_, group)) => group.push(vector),
            None => groups.push((settings, vec![vector])),
        }
    }
    groups
}

struct Bench<'a> {
    host: &'a Arc<Host>,
    about: Arc<About>,
    compiler: Compiler<'a>,
    limits: Limits,
}

impl Bench<'_> {
    fn try_all(
        &self,
        settings: &Value,
        vectors: &[&NamedVector],
        trial: &mut Trial,
    ) -> Result<(), PackError> {
        let artefact = match self.compiler.artefact(settings, self.limits.memory) {
            Ok(artefact) => artefact,
            Err(error @ PackError::Settings { .. }) => {
                let came = Came::Refused(error.to_string());
                trial.vectors.extend(vectors.iter().map(|vector| tried(vector, &came)));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        trial.image &= artefact.image;
        let start = |reuse: Option<NonZeroU32>| {
            let made = artefact.load(self.host, settings)?;
            Prepared::new(self.host, &self.about, made, self.limits, reuse)
        };
        let (prepared, again) = (start(None)?, start(Some(NonZeroU32::MAX))?);
        let mut tried: Vec<(Tried, Came)> =
            vectors.iter().map(|vector| fresh(&prepared, vector)).collect();
        // Once to leave something behind in the instance, and once more to see whether it matters.
        for _ in 0..2 {
            for ((tried, came), vector) in tried.iter_mut().zip(vectors) {
                let (second, spent) = ask(&again, vector);
                tried.reused = Some(spent);
                let differs = difference(came, &second);
                tried.reuse_difference = tried.reuse_difference.take().or(differs);
            }
        }
        trial.vectors.extend(tried.into_iter().map(|(tried, _)| tried));
        Ok(())
    }
}

fn tried(vector: &NamedVector, came: &Came) -> Tried {
    Tried {
        name: vector.name.clone(),
        outcome: shown(came.told()),
        fresh: None,
        reused: None,
        difference: vector.vector.expect.difference(came).map(shown),
        reuse_difference: None,
    }
}

/// Asks fresh instances, and takes the time in the middle.
fn fresh(prepared: &Prepared, vector: &NamedVector) -> (Tried, Came) {
    let (came, mut spent) = ask(prepared, vector);
    let mut times = vec![spent.micros];
    times.extend((1..ROUNDS).map(|_| ask(prepared, vector).1.micros));
    times.sort_by(f64::total_cmp);
    spent.micros = times.get(ROUNDS / 2).copied().unwrap_or(spent.micros);
    let mut tried = tried(vector, &came);
    tried.fresh = Some(spent);
    (tried, came)
}

/// Asks an instance, with nothing counted or logged before.
fn ask(prepared: &Prepared, vector: &NamedVector) -> (Came, Spent) {
    let vector = &vector.vector;
    let (data, counters) = (Arc::new(vector.pack_data()), Arc::new(Counters::default()));
    let grants = Grants {
        caps: Caps::default(),
        data: &data,
        counters: Counting::Acting(&counters),
        log: &Arc::new(LogGate::default()),
    };
    let request = vector.request.policy_request(vector.now);
    let response = vector.response.clone().unwrap_or_default().policy_response();
    match (request, response) {
        (Ok(request), Ok(response)) => {
            ask_about(prepared, vector.phase, (&request, &response), &grants)
        }
        // It was checked when it was read.
        (Err(message), _) | (_, Err(message)) => {
            let none = Spent { micros: 0.0, fuel: 0, memory: 0 };
            (Came::Refused(message), none)
        }
    }
}

fn ask_about(
    prepared: &Prepared,
    phase: PhaseName,
    (request, response): (&Arc<PolicyRequest>, &Arc<PolicyResponse>),
    grants: &Grants<'_>,
) -> (Came, Spent) {
    match phase {
        PhaseName::Cost => told(prepared.cost_measured(request, grants), Outcome::Cost),
        PhaseName::Request => told(prepared.on_request_measured(request, grants), Outcome::Decided),
        PhaseName::Response => {
            told(prepared.on_response_measured(request, response, grants), Outcome::Decided)
        }
    }
}

fn told<T>(measured: Measured<T>, outcome: impl FnOnce(T) -> Outcome) -> (Came, Spent) {
    let spent = Spent {
        micros: measured.took.max(Duration::ZERO).as_secs_f64() * 1e6,
        fuel: measured.fuel,
        memory: measured.memory as u64,
    };
    let came = match measured.outcome {
        Ok(said) => Came::Of(outcome(said), String::new()),
        Err(Failure { reason, detail, .. }) => Came::Of(Outcome::Failed(reason), detail),
    };
    (came, spent)
}

/// How a reused instance decided otherwise.
fn difference(fresh: &Came, reused: &Came) -> Option<String> {
    let (Came::Of(fresh, _), Came::Of(reused, _)) = (fresh, reused) else { return None };
    rollout::difference(fresh, reused).map(|_| {
        shown(format!("fresh: {}; reused: {}", rollout::summary(fresh), rollout::summary(reused)))
    })
}
