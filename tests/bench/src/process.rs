//! The processes under measurement: started here, ended here, and what they cost.

use crate::Outcome;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Linux counts a process's time in these, whatever the kernel's own tick (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process; dropping it ends it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a program; what it prints goes to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Outcome<Self> {
        let out = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { name, child })
    }

    /// Fails when the process has ended.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(format!("`{}` ended with {status}; its log says why", self.name).into())
            }
        }
    }

    fn proc(&self, file: &str) -> Outcome<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path)
            .map_err(|error| format!("`{}`: {path}: {error}", self.name).into())
    }

    /// Memory in use, in KiB.
    pub(crate) fn resident_kib(&self) -> Outcome<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or_else(|| {
            format!("`{}` ended while it was measured; its log may say why", self.name)
        })?;
        Ok(kib.parse()?)
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> Outcome<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a whole process, in seconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    /// What the process, with all its threads, has used so far (proc_pid_stat(5): `utime`, `stime`).
    pub(crate) fn of(process: &Process) -> Outcome<Self> {
        Self::read(&process.proc("stat")?)
    }

    /// The same of a process that is not ours, and of all that it started and that still run.
    pub(crate) fn of_family(pid: u32) -> Outcome<Self> {
        let read = |pid: &str| Self::read(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?);
        let mut sum = read(&pid.to_string())?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for child in children.split_whitespace() {
            // One that ends meanwhile is not worth the run.
            if let Ok(cpu) = read(child) {
                sum = Self { user: sum.user + cpu.user, system: sum.system + cpu.system };
            }
        }
        Ok(sum)
    }

    /// The same of this process.
    pub(crate) fn own() -> Outcome<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/stat")?)
    }

    fn read(stat: &str) -> Outcome<Self> {
        // The name, in parentheses, may hold anything; fields are counted after it, the first being number 3.
        let (_, fields) = stat.rsplit_once(") ").ok_or("stat has no name")?;
        let mut times = fields.split(' ').skip(14 - 3);
        let mut next = || -> Outcome<f64> {
            let ticks: u32 = times.next().ok_or("stat is short")?.parse()?;
            Ok(f64::from(ticks) / TICKS_PER_SECOND)
        };
        Ok(Self { user: next()?, system: next()? })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}
