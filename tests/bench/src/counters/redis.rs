//! A Redis of the bench's own: started here on a free port, ended here.

use crate::Outcome;
use crate::process::{Cpu, Process};
use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, cmd};
use gateway::quotas::{Quotas, SharedSettings};
use model::Clock;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long it may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks whether it does.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a decision may take: what it costs is measured, not what happens when others use the machine.
const DEADLINE: Duration = Duration::from_secs(1);
/// What decides: our script, by its hash or whole, and what it is compared with.
const DECIDING: [&str; 3] = ["evalsha", "eval", "incr"];

pub(super) struct Redis {
    process: Process,
    port: u16,
    /// Asks for figures; decisions have connections of their own.
    asked: MultiplexedConnection,
}

/// What it has done so far.
#[derive(Clone, Copy)]
pub(super) struct Done {
    pub(super) cpu: Cpu,
    /// Commands that decide.
    pub(super) commands: u64,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub(super) async fn start(folder: &Path) -> Outcome<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder);
        let mut process = Process::start("redis-server", &mut command, &folder.join("redis.log"))?;
        let began = Instant::now();
        let asked = loop {
            process.check()?;
            match connect(port).await {
                Ok(connection) => break connection,
                Err(error) if began.elapsed() > START_DEADLINE => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        Ok(Self { process, port, asked })
    }

    /// Counters on it, as a gateway has them.
    pub(super) fn quotas(&self) -> Outcome<Quotas> {
        Ok(Quotas::shared(SharedSettings {
            url: url(self.port).parse()?,
            deadline: DEADLINE,
            node: Some("bench".into()),
            clock: Clock::system(),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// One more connection, of the kind that the gateway has.
    pub(super) async fn connection(&self) -> Outcome<MultiplexedConnection> {
        connect(self.port).await
    }

    /// What it has done until now.
    pub(super) async fn done(&mut self) -> Outcome<Done> {
        self.process.check()?;
        let told: String = cmd("INFO").arg("commandstats").query_async(&mut self.asked).await?;
        Ok(Done { cpu: Cpu::of(&self.process)?, commands: commands(&told)? })
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

async fn connect(port: u16) -> Outcome<MultiplexedConnection> {
    let mut connection = Client::open(url(port))?.get_multiplexed_async_connection().await?;
    let _: String = cmd("PING").query_async(&mut connection).await?;
    Ok(connection)
}

/// Calls of those commands, of lines like `cmdstat_incr:calls=2,usec=1,…`.
fn commands(told: &str) -> Outcome<u64> {
    let mut calls = 0;
    for line in told.lines() {
        let Some((name, rest)) =
            line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        if DECIDING.contains(&name) {
            let number = rest.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
            calls += number.ok_or("a command's figures begin with its calls")?.parse::<u64>()?;
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_is_counted_and_nothing_else() {
        let told = "# Commandstats\r\ncmdstat_incr:calls=3,usec=9,usec_per_call=3.00\r\n\
                    cmdstat_evalsha:calls=40,usec=1\r\ncmdstat_get:calls=500,usec=1\r\ncmdstat_eval:calls=1,usec=1\r\n";
        assert_eq!(commands(told).unwrap(), 44);
        assert!(commands("cmdstat_incr:usec=1").is_err());
    }
}
