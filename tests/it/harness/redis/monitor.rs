//! Every command that a server is sent, as its `MONITOR` tells it.

use super::Redis;
use crate::harness::PATIENCE;
use crate::harness::token::unique;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that wait to be looked at; more hold the server's answer up, and nothing else.
const LINES_MAX: usize = 100_000;

/// Listens from when it is made.
pub(crate) struct Monitor {
    cli: Child,
    lines: Receiver<String>,
}

impl Monitor {
    pub(crate) fn of(redis: &Redis) -> Self {
        let mut cli = redis.cli();
        cli.arg("MONITOR").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut cli = cli.spawn().unwrap();
        let output = cli.stdout.take().unwrap();
        let (sender, lines): (SyncSender<String>, _) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        let monitor = Self { cli, lines };
        assert_eq!(monitor.next(), "OK");
        monitor
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("MONITOR: {error}"))
    }

    /// What clients sent since it was asked last, a command a line. What scripts do in turn is not theirs.
    pub(crate) fn commands(&self, redis: &Redis) -> Vec<String> {
        let mark = unique();
        redis.ask(&["ECHO", &mark]);
        let mut commands = Vec::new();
        loop {
            let line = self.next();
            let (source, command) = line.split_once("] ").unwrap_or_else(|| panic!("{line}"));
            if command.contains(&mark) {
                return commands;
            }
            if !source.ends_with(" lua") {
                commands.push(command.to_owned());
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        self.cli.kill().ok();
        self.cli.wait().ok();
    }
}
