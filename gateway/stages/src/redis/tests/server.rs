//! A Redis of a test's own, which the test may stop.

use super::{PATIENT, ask};
use crate::redis::{Link, LinkState};
use redis::Connection;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A server that a test may stop.
pub(in crate::redis) struct Server {
    pub(in crate::redis) port: u16,
    options: Vec<String>,
    folder: PathBuf,
    process: Child,
}

impl Server {
    /// One that keeps nothing.
    pub(in crate::redis) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with more options.
    pub(in crate::redis) fn start_with(options: &[&str]) -> Self {
        let port = free_port();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let folder = folder_of(port);
        let process = spawn(port, &folder, &options);
        Self { port, options, folder, process }
    }

    /// One that watches over this master, and calls it `main`.
    pub(in crate::redis) fn sentinel_of(master: &Self) -> Self {
        let port = free_port();
        let folder = folder_of(port);
        let file = folder.join("sentinel.conf");
        let watched = format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port);
        std::fs::write(&file, watched).unwrap();
        // The file, which a sentinel writes to, goes before all options.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server"]).arg(file);
        command.args(["--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1"]);
        Self { port, options: Vec::new(), process: started(command, &folder), folder }
    }

    pub(in crate::redis) fn link(&self, deadline: Duration) -> Link {
        let url = format!("redis://127.0.0.1:{}", self.port).parse().unwrap();
        Link::new(url, deadline, &Handle::current())
    }

    /// A connection to a server that has no keys, as sentinels have none, as soon as it listens.
    pub(in crate::redis) fn connect_without_keys(&self) -> Connection {
        let client = redis::Client::open(("127.0.0.1".to_owned(), self.port)).unwrap();
        let began = Instant::now();
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < PATIENT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection, as soon as it listens and has read what it kept.
    pub(in crate::redis) fn connect(&self) -> Connection {
        let client = redis::Client::open(("127.0.0.1".to_owned(), self.port)).unwrap();
        let began = Instant::now();
        loop {
            let connected = client.get_connection().and_then(|mut connection| {
                redis::cmd("GET").arg("nothing").exec(&mut connection).map(|()| connection)
            });
            match connected {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < PATIENT, "{error}"),
            }
            // Until it listens.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(in crate::redis) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub(in crate::redis) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(in crate::redis) fn start_again(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.options);
    }

    /// Makes this one a replica of the other.
    pub(in crate::redis) fn follow(&self, master: &Self) {
        ask::<()>(&mut self.connect(), &["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that is free when it is told: ask for it at once.
pub(in crate::redis) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn folder_of(port: u16) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("redis-{}-{port}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// The kernel ends it with the test, however that ends.
fn spawn(port: u16, folder: &PathBuf, options: &[String]) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--port", &port.to_string()]);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).args(options);
    started(command, folder)
}

fn started(mut command: Command, folder: &PathBuf) -> Child {
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until the link is so, which is another process' to change.
pub(in crate::redis) async fn until(link: &Link, state: LinkState) {
    let began = Instant::now();
    while link.state() != state {
        assert!(began.elapsed() < PATIENT, "the link is not {state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
