//! Where packs are checked, compiled, configured and tried: in a child process that is small, has nothing of ours, and is
//! ended when it takes too long, because no library that reads a stranger's module can be stopped halfway.
//!
//! Invariant: at most [`MAX_JOBS`] of them run at one time; each is waited for, whatever becomes of it.

mod child;
mod frame;
mod serve;

pub use serve::serve;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artefact::Artefact;
use crate::compile;
use crate::host::Host;
use crate::pack::PackError;
use crate::package::Package;
use crate::trial::{self, Trial};

/// The argument that makes a process a worker.
pub const ARGUMENT: &str = "pack-worker";
/// The largest compiled pack, in bytes.
pub(crate) const MAX_ARTEFACT_BYTES: usize = 16 << 20;
/// The most that a worker hands over, in bytes.
const MAX_ANSWER_BYTES: usize = (64 << 20) + MAX_ARTEFACT_BYTES;
/// Workers at one time, of this process.
const MAX_JOBS: usize = 2;
/// How long a job waits for its turn.
const MAX_TURN: Duration = Duration::from_secs(300);

/// Where packs are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    /// In a child process: this program, called with [`ARGUMENT`], runs [`serve`].
    Process(PathBuf),
    /// In this process. For tools that run a pack for its author, and for tests.
    Here,
}

/// What one job of a child process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLimits {
    /// Time on the clock, after which it is killed.
    pub wall: Duration,
    /// Time on all processors together; whole seconds.
    pub cpu: Duration,
    /// Memory of its own, in bytes; what its allocator reserves counts.
    pub memory: u64,
}

impl Default for JobLimits {
    /// Far above what a pack of [`crate::MAX_MODULE_BYTES`] takes on a slow machine.
    fn default() -> Self {
        Self { wall: Duration::from_secs(120), cpu: Duration::from_secs(120), memory: 2 << 30 }
    }
}

/// What is asked of a worker about a pack.
pub(crate) struct Job<'a> {
    pub(crate) package: &'a Package,
    pub(crate) task: Task,
}

/// What a worker does with it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Compile it with each of these settings, as far as one job goes.
    Prepare { settings: Vec<Value>, memory: usize },
    /// Try its vectors.
    Trial,
}

/// What came of it.
pub(crate) enum Done {
    /// Of the first settings, at least one.
    Prepared(Vec<Result<Artefact, PackError>>),
    /// Of its vectors.
    Tried(Trial),
}

impl Job<'_> {
    /// Does it in this process.
    fn run(&self, host: &Arc<Host>) -> Result<Done, PackError> {
        match &self.task {
            Task::Prepare { settings, memory } => {
                Ok(Done::Prepared(compile::prepare(host, self.package, settings, *memory)))
            }
            Task::Trial => trial::run(host, self.package).map(Done::Tried),
        }
    }
}

/// The workers of a host.
pub(crate) struct Workers {
    worker: Worker,
    limits: JobLimits,
}

impl Workers {
    pub(crate) fn new(worker: Worker, limits: JobLimits) -> Self {
        Self { worker, limits }
    }

    /// Has a job done, and waits for it.
    pub(crate) fn run(&self, host: &Arc<Host>, job: &Job<'_>) -> Result<Done, PackError> {
        match &self.worker {
            Worker::Here => job.run(host),
            Worker::Process(program) => {
                let _turn = Turn::take()?;
                child::run(program, &self.limits, job)
            }
        }
    }
}

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// One of the [`MAX_JOBS`]; dropping it lets the next one begin.
struct Turn;

impl Turn {
    fn take() -> Result<Self, PackError> {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = GIVEN_BACK.wait_timeout_while(taken, MAX_TURN, |taken| *taken >= MAX_JOBS);
        let (mut taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(PackError::Busy);
        }
        *taken += 1;
        Ok(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}
