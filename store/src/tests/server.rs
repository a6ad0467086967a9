//! A PostgreSQL server of a test's own, which it stops and starts. Its data lies in a temporary folder.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or to end.
const READY: Duration = Duration::from_secs(30);
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Server {
    directory: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A server that was not started yet.
    pub(super) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { directory, port: listener.local_addr().unwrap().port(), process: None };
        std::fs::create_dir(server.data()).unwrap();
        if is_root() {
            // PostgreSQL refuses to run as root.
            for path in [server.directory.path(), &server.data()] {
                let owned = Command::new("chown").arg("postgres:").arg(path).status().unwrap();
                assert!(owned.success());
            }
        }
        let made = server
            .command("initdb")
            .args(["-U", "tollgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .status()
            .unwrap();
        assert!(made.success(), "initdb");
        server
    }

    pub(super) fn url(&self) -> String {
        format!("postgres://tollgate@127.0.0.1:{}/postgres", self.port)
    }

    pub(super) fn start(&mut self) {
        let process = self
            .command("postgres")
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < READY, "the server did not start");
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends it at once, whoever is connected.
    pub(super) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let pid = process.id().to_string();
        let asked = Command::new("kill").args(["-QUIT", &pid]).status();
        assert!(asked.is_ok_and(|status| status.success()), "{pid} is no more");
        process.wait().unwrap();
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of PostgreSQL's programs on this server's data, in the folder that its user may read.
    fn command(&self, program: &str) -> Command {
        let path = programs().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            let user = ["--reuid", "postgres", "--regid", "postgres", "--init-groups"];
            // Whatever ends the test ends the server.
            command.args(["--pdeathsig", "INT"]).args(user).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.arg("-D").arg(self.data()).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Not ended by what is typed at the test's terminal, before the test is.
        command.process_group(0);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
            if ended.is_ok() {
                process.wait().map(drop).unwrap_or_default();
            }
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Where PostgreSQL's programs of the newest version are, as in scripts/services.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|newest| Path::new("/usr/lib/postgresql").join(newest.to_string()).join("bin"));
    newest.unwrap_or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path);
        let place = places.find(|place| place.join("initdb").exists());
        place.expect("PostgreSQL is not installed: run scripts/setup test")
    })
}
