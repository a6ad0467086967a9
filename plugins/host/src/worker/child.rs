//! The parent's side: a child process for one job.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{ARGUMENT, Done, Job, JobLimits, MAX_ANSWER_BYTES, frame};
use crate::pack::PackError;

/// How the kernel ends a process that took all of its processor time (`getrlimit(2)`).
const SIGXCPU: i32 = 24;
/// How a process ends itself when it gets no memory (`malloc` fails, and Rust aborts).
const SIGABRT: i32 = 6;
/// The same after a fault, such as a stack without end.
const SIGSEGV: i32 = 11;

/// How often it is looked whether a child that gave its answer has ended.
const ENDING: Duration = Duration::from_millis(1);

/// Has a child do the job.
pub(super) fn run(program: &Path, limits: &JobLimits, job: &Job<'_>) -> Result<Done, PackError> {
    let failed = |error: io::Error| PackError::Worker { message: error.to_string() };
    let child = Command::new(program)
        .arg(ARGUMENT)
        // It reads a stranger's module: our secrets are no business of its.
        .env_clear()
        .current_dir("/")
        // Ended by us alone, with whatever it may have started.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (answer, status) = talk(Running(child), frame::write_job(limits, job), limits)?;
    if !status.success() {
        return Err(ended(status, limits));
    }
    let garbled = || PackError::Worker { message: "its answer can't be read".to_owned() };
    frame::read_answer(&answer).ok_or_else(garbled)?
}

/// Writes the job and reads the answer until the child has closed its output, or is out of time.
fn talk(
    mut child: Running,
    job: Vec<u8>,
    limits: &JobLimits,
) -> Result<(Vec<u8>, ExitStatus), PackError> {
    let failed = |error: io::Error| PackError::Worker { message: error.to_string() };
    let (Some(mut stdin), Some(stdout)) = (child.0.stdin.take(), child.0.stdout.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    let began = Instant::now();
    let (done, answered) = mpsc::sync_channel(1);
    let (answer, status) = std::thread::scope(|scope| {
        // A child that ends early says why by its status; that the job couldn't be written is no news then.
        scope.spawn(move || stdin.write_all(&job));
        scope.spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.take(MAX_ANSWER_BYTES as u64).read_to_end(&mut answer);
            let _gone = done.send(read.map(|_| answer));
        });
        let answer = answered.recv_timeout(limits.wall);
        let within = match answer {
            Ok(Ok(_)) => limits.wall.saturating_sub(began.elapsed()),
            Ok(Err(_)) | Err(_) => Duration::ZERO,
        };
        // Both threads end when the child has.
        (answer, child.end(within))
    });
    match answer {
        Ok(answer) => Ok((answer.map_err(failed)?, status.map_err(failed)?)),
        Err(RecvTimeoutError::Timeout) => Err(took(format!("{:?}", limits.wall))),
        Err(RecvTimeoutError::Disconnected) => Err(failed(io::ErrorKind::BrokenPipe.into())),
    }
}

fn took(what: String) -> PackError {
    PackError::TooCostly { what }
}

/// What it means that the child did not end by itself.
fn ended(status: ExitStatus, limits: &JobLimits) -> PackError {
    match status.signal() {
        Some(SIGXCPU) => took(format!("{:?} of processor time", limits.cpu)),
        Some(SIGABRT | SIGSEGV) => took(format!("{} MiB of memory", limits.memory >> 20)),
        _ => PackError::Worker { message: format!("it ended with {status}") },
    }
}

/// A child that is killed and waited for, whatever happens.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // It was not waited for yet, so that the number is still its own. It may have ended by itself.
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let _ended = group.map(|group| kill_process_group(group, Signal::KILL));
    }

    /// How it ended, after it closed its output. One that goes on for longer than this is killed.
    fn end(&mut self, within: Duration) -> io::Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() >= within {
                self.kill();
                return self.0.wait();
            }
            // It has nothing left to do but to end.
            std::thread::sleep(ENDING);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            self.kill();
            let _status = self.0.wait();
        }
    }
}
