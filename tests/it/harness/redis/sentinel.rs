//! A master with a replica, and three sentinels that watch over them.

use super::{KEEPS, Redis};
use crate::harness::PATIENCE;
use crate::harness::ports::free;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What sentinels call the master.
const SERVICE: &str = "quotas";

/// The servers.
pub(crate) struct Watched {
    servers: [Redis; 2],
    sentinels: Vec<Redis>,
}

impl Watched {
    /// Starts them, and waits until every sentinel knows everybody.
    pub(crate) fn start() -> Self {
        let master = Redis::with(KEEPS);
        let port = master.address().port().to_string();
        let of = format!("127.0.0.1 {port}");
        let replica = Redis::with(
            &[KEEPS, &["--replicaof", &of, "--repl-diskless-sync-delay", "0"]].concat(),
        );
        let sentinel = |_| {
            let file = format!(
                "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {SERVICE} 1000\n\
                 sentinel failover-timeout {SERVICE} 5000\n"
            );
            Redis::with_file(free(1), Some(&file), &["--sentinel"])
        };
        let watched =
            Self { servers: [master, replica], sentinels: (0..3).map(sentinel).collect() };
        watched.until("every sentinel knows everybody", |sentinel| {
            let told = sentinel.ask(&["SENTINEL", "MASTER", SERVICE]);
            let lines: Vec<&str> = told.lines().collect();
            let value = |name: &str| lines.iter().skip_while(|line| **line != name).nth(1).copied();
            value("num-slaves") == Some("1") && value("num-other-sentinels") == Some("2")
        });
        watched
    }

    /// Where they are.
    pub(crate) fn url(&self) -> String {
        let addresses: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
        format!("redis+sentinel://{}/{SERVICE}", addresses.join(","))
    }

    /// The master, and its replica.
    pub(crate) fn servers(&self) -> &[Redis] {
        &self.servers
    }

    pub(crate) fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    fn until(&self, what: &str, holds: impl Fn(&Redis) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !self.sentinels.iter().all(&holds) {
            let log = || self.sentinels[0].log();
            assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}\n{}", log());
            sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL to the master.
    pub(crate) fn kill_master(&mut self) {
        self.servers[0].kill();
    }

    /// Waits until the replica is the master, as every sentinel sees it.
    pub(crate) fn has_failed_over(&self) {
        let port = self.servers[1].address().port().to_string();
        self.until("the replica is the master", |sentinel| {
            let told = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            told.lines().any(|line| line == port)
        });
        assert!(self.servers[1].ask(&["ROLE"]).starts_with("master"));
    }

    /// Starts the old master again: it becomes a replica.
    pub(crate) fn start_old_master_again(&mut self) {
        self.servers[0].start_again();
    }
}
