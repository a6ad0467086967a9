//! What was measured, and where.

use serde::Serialize;
use std::process::Command;

/// The build and the machine; `unknown` stands for what can't be found out.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) commit: String,
    /// Whether files differ from the commit.
    pub(crate) dirty: bool,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    /// Load averages before the first run: whether others were at work.
    pub(crate) load_before: String,
}

pub(crate) fn describe() -> Machine {
    let unknown = || "unknown".to_owned();
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = file("/proc/cpuinfo").lines().find_map(|line| {
        line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned())
    });
    Machine {
        commit: output("git", &["rev-parse", "HEAD"]).unwrap_or_else(unknown),
        dirty: output("git", &["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty()),
        cpu: cpu.unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: file("/proc/sys/kernel/osrelease"),
        rustc: output("rustc", &["--version"]).unwrap_or_else(unknown),
        load_before: file("/proc/loadavg"),
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
