//! PostgreSQL for tests: databases of their own on the server that `make test` starts, and servers of their own for tests
//! that take the server away.
//!
//! Invariant: a database goes with the test that made it, and a server with its processes and its folder.

use super::PATIENCE;
use super::ports::{free, local};
use super::process::{signal, signal_if_there};
use super::token::unique;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An empty database on the server that `TOLLGATE_TEST_POSTGRES` names.
pub(crate) struct Database {
    server: String,
    name: String,
}

impl Database {
    pub(crate) fn fresh() -> Self {
        let server = std::env::var("TOLLGATE_TEST_POSTGRES").unwrap_or_else(|_| {
            panic!(
                "TOLLGATE_TEST_POSTGRES is not set: run the tests by `make test`, which starts the servers"
            )
        });
        let name = unique().replace('-', "_");
        psql(&server, &format!("create database {name}"));
        Self { server, name }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    /// Runs these statements; what they answer, a line for each row and `|` between columns.
    pub(crate) fn sql(&self, statements: &str) -> String {
        psql(&self.url(), statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Processes that use it may still be ending.
        run_psql(&self.server, &format!("drop database {} with (force)", self.name)).ok();
    }
}

/// A server of the test's own.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A server that answers, with one empty database.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Another user must get to what is below it.
        allow(folder.path(), "755");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        allow(&data, "700");
        if is_root() {
            succeeds(Command::new("chown").arg("postgres:").arg(&data));
        }
        let mut initdb = as_server("initdb", folder.path());
        initdb.arg("-D").arg(&data);
        initdb.args(["-U", "tollgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        succeeds(&mut initdb);
        let mut server = Self { folder, port: free(1), process: None };
        server.start_again();
        psql(&server.database("postgres"), "create database tollgate");
        server
    }

    /// Where its database is.
    pub(crate) fn url(&self) -> String {
        self.database("tollgate")
    }

    fn database(&self, name: &str) -> String {
        format!("postgres://tollgate@{}/{name}", local(self.port))
    }

    /// Starts it again on the same data and port, and waits until it answers.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = as_server("postgres", self.folder.path());
        command.arg("-D").arg(self.folder.path().join("data"));
        command.args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=100",
            // Nothing has to survive a power cut.
            "fsync=off",
            "full_page_writes=off",
        ] {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while run_psql(&self.database("postgres"), "select 1").is_err() {
            if let Some(ended) = process.try_wait().unwrap() {
                panic!("PostgreSQL ended: {ended}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not answer\n{}", self.log());
            sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
    }

    /// Ends it as operators do: sessions are cut off.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        signal("INT", process.id());
        process.wait().unwrap();
        assert!(TcpStream::connect(local(self.port)).is_err());
    }

    /// From now on nothing is answered, and no connection is closed: what a machine that hangs looks like.
    pub(crate) fn freeze(&self) {
        let server = self.process.as_ref().unwrap().id();
        // First of all, so that it starts no others.
        signal("STOP", server);
        children(server).into_iter().for_each(|child| signal("STOP", child));
    }

    /// It goes on where it was.
    pub(crate) fn thaw(&self) {
        let server = self.process.as_ref().unwrap().id();
        children(server).into_iter().for_each(|child| signal("CONT", child));
        signal("CONT", server);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A frozen one takes no other signal.
            for frozen in children(process.id()).into_iter().chain([process.id()]) {
                signal_if_there("CONT", frozen);
            }
            signal_if_there("QUIT", process.id());
            process.wait().ok();
        }
    }
}

fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// A program of the newest PostgreSQL that is installed, as a user that it accepts, in a folder that this user may
/// enter. The kernel ends it with the thread that starts it, even when that is killed.
fn as_server(program: &str, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg(installed(program)).current_dir(folder).stdin(Stdio::null());
    command
}

/// PostgreSQL refuses to run as root.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().nth(1) == Some("0")
}

fn installed(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &PathBuf| -> u32 {
        path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
    };
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(version);
    newest.map_or_else(|| program.into(), |newest| newest.join("bin").join(program))
}

fn allow(path: &Path, mode: &str) {
    succeeds(Command::new("chmod").arg(mode).arg(path));
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn psql(url: &str, statements: &str) -> String {
    run_psql(url, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
}

fn run_psql(url: &str, statements: &str) -> Result<String, String> {
    let mut command = Command::new(installed("psql"));
    command.args([url, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
