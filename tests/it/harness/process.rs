//! The real binary as a child: started, watched, killed by its handle.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::panicking;

/// How much of a log a failing test prints, in lines.
const PRINTED_LINES: usize = 300;

/// A running `tollgate`. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// The command, without what this environment says about Tollgate.
pub(crate) fn tollgate() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    tollgate().args(arguments).output().unwrap()
}

/// `target/<profile>/tollgate`: test executables lie in `deps` beside it.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("tollgate");
    assert!(binary.is_file(), "there is no {}: build it first: make build", binary.display());
    binary
}

impl Process {
    /// Starts the command; what it prints is appended to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Self { child: command.spawn().unwrap(), log: log.to_owned() }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its memory and its sockets are gone when this returns: SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end: SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Memory in use, in KiB (proc_pid_status(5): `VmRSS`).
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        let mut bytes = Vec::new();
        File::open(&self.log).unwrap().read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if panicking() {
            let log = self.log();
            // What went well only hides the rest.
            let served = |line: &&str| {
                line.contains(r#""error":"""#) && line.contains(r#""target":"exchange""#)
            };
            let lines: Vec<&str> = log.lines().filter(|line| !served(line)).collect();
            let start = lines.len().saturating_sub(PRINTED_LINES);
            println!(
                "--- the end of its log, without what was served ---\n{}",
                lines[start..].join("\n")
            );
        }
    }
}
