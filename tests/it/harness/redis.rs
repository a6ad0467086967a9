//! Redis for tests: servers of the test's own, which it fills up, makes replicas of, stops, freezes and kills.
//!
//! Invariant: a server goes with the test that started it, and its data with it.

mod failing;
mod monitor;
mod sentinel;
mod shards;
mod wire;

pub(crate) use failing::{Failing, Fault};
pub(crate) use monitor::Monitor;
pub(crate) use sentinel::Watched;
pub(crate) use shards::Shards;
pub(crate) use wire::Wire;

use super::PATIENCE;
use super::ports::{free, local};
use super::process::{signal, signal_if_there};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Whatever was acknowledged outlives a kill: it is with the kernel before it is answered.
const KEEPS: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "no"];

/// A server that runs, or ran.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Redis {
    /// A server that keeps what it acknowledged when it is killed.
    pub(crate) fn start() -> Self {
        Self::with(KEEPS)
    }

    /// A server with these arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::with_file(free(1), None, arguments)
    }

    /// A server at this port with these arguments, and a file that it may write to.
    fn with_file(port: u16, file: Option<&str>, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = file.map(|text| {
            let path = folder.path().join("redis.conf");
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        let arguments = file.into_iter().chain(arguments.iter().map(|text| (*text).to_owned()));
        let mut redis = Self { arguments: arguments.collect(), folder, port, process: None };
        redis.start_again();
        redis
    }

    pub(crate) fn address(&self) -> SocketAddr {
        local(self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Starts it again on the same data and port, and waits until it answers.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        // The kernel ends it with the thread that starts it, even when that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server"]).args(&self.arguments);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.arg("--dir").arg(self.folder.path()).stdin(Stdio::null());
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask(&["PING"]).is_err() {
            if let Some(ended) = process.try_wait().unwrap() {
                panic!("Redis ended: {ended}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "Redis does not answer\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(TcpStream::connect(self.address()).is_err());
    }

    /// Whether it was not killed.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// From now on nothing is answered, and no connection is closed: what a machine that hangs looks like.
    pub(crate) fn freeze(&self) {
        signal("STOP", self.process.as_ref().unwrap().id());
    }

    /// It goes on where it was.
    pub(crate) fn thaw(&self) {
        signal("CONT", self.process.as_ref().unwrap().id());
    }

    /// From now on nothing can be written, for want of memory.
    pub(crate) fn fill(&self) {
        self.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    }

    /// There is memory again.
    pub(crate) fn has_room(&self) {
        self.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    }

    /// From now on it is a replica, of a master that nobody can reach: it answers with what it has, and takes no write.
    pub(crate) fn becomes_replica(&self) {
        self.ask(&["REPLICAOF", "127.0.0.1", &free(1).to_string()]);
    }

    pub(crate) fn becomes_master(&self) {
        self.ask(&["REPLICAOF", "NO", "ONE"]);
    }

    /// What it answers to a command.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// What it answers, or says is wrong.
    pub(crate) fn try_ask(&self, command: &[&str]) -> Result<String, String> {
        let mut cli = self.cli();
        let output = cli.arg("-e").args(command).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stdout) + &text(output.stderr))
        }
    }

    fn cli(&self) -> Command {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string()]);
        cli
    }

    /// How many scripts it was asked to run.
    pub(crate) fn scripts_run(&self) -> u64 {
        let told = self.ask(&["INFO", "commandstats"]);
        let calls = |line: &str| {
            let (_, rest) = line.split_once(":calls=")?;
            rest.split(',').next()?.parse::<u64>().ok()
        };
        let scripts = |line: &&str| {
            ["cmdstat_eval:", "cmdstat_evalsha:", "cmdstat_fcall:"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        told.lines().filter(scripts).filter_map(calls).sum()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGKILL ends a frozen one, too.
            signal_if_there("KILL", process.id());
            process.wait().ok();
        }
    }
}
