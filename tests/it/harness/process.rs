//! The real binary as a child: started, watched, killed by its handle.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::panicking;
use std::time::Duration;

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
    without_settings(&mut command);
    command.stdin(Stdio::null());
    command
}

fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(&name);
        }
    }
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

/// Sends this signal, by its name without `SIG`, to a process that is there.
pub(crate) fn signal(name: &str, process: u32) {
    assert!(signal_if_there(name, process), "SIG{name} to {process}");
}

/// Sends it where the process is there. Says whether it was.
pub(crate) fn signal_if_there(name: &str, process: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null());
    kill.status().unwrap().success()
}

/// What tells that a command has ended, and how. No command prints it.
const ENDED: &str = "-- it ended with";
/// How long one command may take: some compile.
const COMMAND_MAX: Duration = Duration::from_secs(300);

/// A shell with `tollgate` in its path, as somebody types into it.
pub(crate) struct Shell {
    bash: Child,
    typed: ChildStdin,
    printed: Receiver<String>,
}

impl Shell {
    /// One that is in this folder. What cargo builds there is kept for the next run.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let tollgate = binary();
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "-s"]).current_dir(folder);
        without_settings(&mut command);
        command.env("PATH", format!("{}:{path}", tollgate.parent().unwrap().display()));
        command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide"));
        let mut bash = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (typed, output) = (bash.stdin.take().unwrap(), bash.stdout.take().unwrap());
        let (lines, printed) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|line| lines.send(line).is_ok())
        });
        let mut shell = Self { bash, typed, printed };
        shell.run("exec 2>&1");
        shell
    }

    /// What a command prints, and how it ends.
    pub(crate) fn run(&mut self, command: &str) -> (String, i32) {
        let told =
            "__ended=$?; printf '\\n%s %s\\n' '".to_owned() + ENDED + "' $__ended; (exit $__ended)";
        writeln!(self.typed, "{command}\n{told}").unwrap();
        let mut printed = String::new();
        loop {
            let line = self.printed.recv_timeout(COMMAND_MAX);
            let line =
                line.unwrap_or_else(|_| panic!("`{command}` does not end; it printed\n{printed}"));
            if let Some(status) = line.strip_prefix(ENDED) {
                // The line end before the mark is not the command's.
                printed.pop();
                return (printed, status.trim().parse().unwrap());
            }
            printed.push_str(&line);
            printed.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        self.bash.kill().ok();
        self.bash.wait().ok();
    }
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
        signal("TERM", self.child.id());
    }

    /// Memory in use, in KiB (proc_pid_status(5): `VmRSS`).
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How many threads it has (proc_pid_task(5)).
    pub(crate) fn threads(&self) -> u64 {
        let folder = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(folder).unwrap().count() as u64
    }

    /// How many file descriptors it has open (proc_pid_fd(5)).
    pub(crate) fn descriptors(&self) -> u64 {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).unwrap().count() as u64
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
