//! The child's side: one job from standard input, one answer to standard output.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, nice, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use super::{Job, JobLimits, Worker, frame};
use crate::host::{Host, HostSettings};
use crate::limits::MAX_MEMORY;
use crate::package::MAX_FILE_BYTES;

/// The largest job: a pack file and the settings of attachments.
const MAX_JOB_BYTES: u64 = MAX_FILE_BYTES as u64 + (64 << 20);
/// Descriptors: the three streams, and what the engine maps memory images from.
const MAX_FILES: u64 = 64;
/// The largest file. It has none on disk, but memory images are files in memory.
const MAX_IMAGE_BYTES: u64 = MAX_MEMORY as u64;
/// How far it steps back behind other processes (`nice(2)`).
const NICE: i32 = 10;
/// The highest (`proc(5)`).
const OOM_SCORE: &str = "1000";

/// Does the one job that stands on standard input. Only for a process that was started for nothing else.
pub fn serve() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer() -> io::Result<()> {
    // The parent may be gone before it can kill.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut stdin = io::stdin().lock();
    confine(&frame::read_limits(&mut stdin)?)?;
    let mut bytes = Vec::new();
    stdin.take(MAX_JOB_BYTES).read_to_end(&mut bytes)?;
    let (task, package) = frame::read_job(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    drop(bytes);
    // What libraries say when they panic is of use to nobody; that they did is told by what came of the job.
    std::panic::set_hook(Box::new(|_| {}));
    let host = Host::new(HostSettings::small(Worker::Here)).map_err(io::Error::other)?;
    let answer = frame::write_answer(Job { package: &package, task }.run(&host));
    let mut out = io::stdout().lock();
    out.write_all(&answer)?;
    out.flush()
}

/// Gives up what the job doesn't need.
fn confine(limits: &JobLimits) -> io::Result<()> {
    // Requests come first; and where memory runs out, this process goes first.
    nice(NICE)?;
    let _refused = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let limit = |resource, at_most: u64| {
        setrlimit(resource, Rlimit { current: Some(at_most), maximum: Some(at_most) })
    };
    // A second more until it is killed without a word: the first signal says why.
    let cpu = limits.cpu.as_secs();
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu), maximum: Some(cpu + 1) })?;
    // Not of the address space: the engine reserves much more of that than it uses.
    limit(Resource::Data, limits.memory)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, MAX_IMAGE_BYTES)?;
    limit(Resource::Nofile, MAX_FILES)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
