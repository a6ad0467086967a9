//! One Redis, as this process sees it: a connection that is made, watched and made again in the background.
//!
//! Invariants: no command waits longer than it was told to, nor for a connection; how many wait is bounded. A connection
//! that was closed, that no longer answers or that leads to a replica is replaced, also after a failover.

mod keeper;

use super::url::{Kind, RedisUrl};
use model::port::StoreError;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

/// How long a command may take, unless told otherwise.
pub const COMMAND_DEADLINE: Duration = Duration::from_millis(15);
/// How many commands may wait for their answers.
const WAITING_MAX: usize = 4_096;
/// How many doubts about the connection wait to be looked into; more of them say nothing new.
const DOUBTS_MAX: usize = 16;

/// One Redis. Clones share the connection.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

/// Whether commands can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is a connection; whether it answers, commands show.
    Connected,
    /// There is none: commands are refused at once.
    Away,
}

struct Shared {
    connection: watch::Receiver<Option<Connection>>,
    doubts: mpsc::Sender<Doubt>,
    waiting: Semaphore,
    deadline: Duration,
    url: RedisUrl,
    keeper: AbortHandle,
}

/// A connection, or those to a cluster's nodes. Clones share it.
#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Why a connection may have to be replaced.
#[derive(Debug)]
enum Doubt {
    /// A command that goes to this key had no answer in time.
    Silent(String),
    /// It is of no use: it was closed, or leads to a server that takes no writes.
    Useless(String),
}

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was not sent.
    NotSent(StoreError),
    /// It may have been done.
    TimedOut(Duration),
    /// Redis refused it, or the connection broke.
    Refused(RedisError),
}

impl Link {
    /// A link to this Redis, whose connection is kept on this runtime. Commands take no longer than the deadline, unless
    /// told otherwise.
    pub fn new(url: RedisUrl, deadline: Duration, runtime: &Handle) -> Self {
        let (publish, connection) = watch::channel(None);
        let (doubts, heard) = mpsc::channel(DOUBTS_MAX);
        let keeper = keeper::Keeper::new(url.clone(), publish, heard);
        let keeper = runtime.spawn(keeper.keep()).abort_handle();
        let waiting = Semaphore::new(WAITING_MAX);
        Self(Arc::new(Shared { connection, doubts, waiting, deadline, url, keeper }))
    }

    /// Whether there is a connection now.
    pub fn state(&self) -> LinkState {
        match *self.0.connection.borrow() {
            Some(_) => LinkState::Connected,
            None => LinkState::Away,
        }
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        // The keeper lives as long as this does.
        let _ = self.0.connection.clone().wait_for(Option::is_some).await;
    }

    /// Where it leads.
    pub fn url(&self) -> &RedisUrl {
        &self.0.url
    }

    /// Whether keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        *self.0.url.kind() == Kind::Cluster
    }

    /// When a command that is sent now has to be answered.
    pub(super) fn due(&self) -> Instant {
        Instant::now() + self.0.deadline
    }

    /// Sends a command that goes to this key, and waits for its answer until then.
    pub(super) async fn run(
        &self,
        key: &str,
        command: &Cmd,
        until: Instant,
    ) -> Result<Value, Failure> {
        let (connection, _place) = self.take_place()?;
        let asked = Instant::now();
        let answer = match connection {
            Connection::Single(mut one) => timeout_at(until, command.query_async(&mut one)).await,
            Connection::Cluster(mut all) => timeout_at(until, command.query_async(&mut all)).await,
        };
        self.judge(key, answer.map_err(|_| asked.elapsed()))
    }

    /// Sends commands together, each with the key that it goes to. The answers are in their order.
    pub(super) async fn run_all(
        &self,
        commands: Vec<(String, Cmd)>,
        until: Instant,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let Some((key, _)) = commands.first() else { return Ok(Vec::new()) };
        let key = key.clone();
        let (connection, _place) = self.take_place()?;
        let Connection::Single(mut connection) = connection else {
            return Ok(self.run_spread(commands, until).await);
        };
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.ignore_errors();
        for (_, command) in commands {
            pipeline.add_command(command);
        }
        let asked = Instant::now();
        let answers = timeout_at(until, pipeline.query_async(&mut connection)).await;
        let answers: Vec<_> = self.judge(&key, answers.map_err(|_| asked.elapsed()))?;
        Ok(answers.into_iter().map(|answer| self.judge(&key, Ok(answer))).collect())
    }

    /// The same over a cluster, where each command finds its own server.
    async fn run_spread(
        &self,
        commands: Vec<(String, Cmd)>,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let mut tasks = JoinSet::new();
        let lost = || StoreError::Unavailable("the command was dropped".to_owned());
        let mut answers: Vec<_> = commands.iter().map(|_| Err(Failure::NotSent(lost()))).collect();
        for (place, (key, command)) in commands.into_iter().enumerate() {
            let link = self.clone();
            tasks.spawn(async move { (place, link.run(&key, &command, until).await) });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok((place, answer)) = done
                && let Some(slot) = answers.get_mut(place)
            {
                *slot = answer;
            }
        }
        answers
    }

    fn take_place(&self) -> Result<(Connection, tokio::sync::SemaphorePermit<'_>), Failure> {
        let connection = self.0.connection.borrow().clone();
        let connection = connection.ok_or_else(|| {
            Failure::NotSent(StoreError::Unavailable(format!("no connection to {}", self.0.url)))
        })?;
        let full = StoreError::Full("commands that wait for Redis");
        let place = self.0.waiting.try_acquire().map_err(|_| Failure::NotSent(full))?;
        Ok((connection, place))
    }

    /// What an answer, or its absence after so long, means for the caller and for the connection.
    fn judge<T>(
        &self,
        key: &str,
        answer: Result<Result<T, RedisError>, Duration>,
    ) -> Result<T, Failure> {
        let error = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(waited) => {
                self.doubt(Doubt::Silent(key.to_owned()));
                return Err(Failure::TimedOut(waited));
            }
        };
        let is_useless = matches!(code_of(&error), "READONLY" | "NOAUTH" | "MASTERDOWN")
            || error.is_unrecoverable_error();
        if is_useless {
            self.doubt(Doubt::Useless(error.to_string()));
        }
        Err(Failure::Refused(error))
    }

    fn doubt(&self, doubt: Doubt) {
        // A full queue holds doubts enough.
        let _ = self.0.doubts.try_send(doubt);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.0.url).field("state", &self.state()).finish()
    }
}

impl Failure {
    /// Whether Redis does not know the script.
    pub(super) fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused(error)
            if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(error) => error,
            Failure::TimedOut(waited) => Self::TimedOut(waited),
            Failure::Refused(error) => match code_of(&error) {
                "OOM" => Self::Full("Redis' memory"),
                // Redis is well; what it holds under these keys, or what it was asked, is not.
                "WRONGTYPE" | "ERR" => Self::Unreadable(error.to_string()),
                _ => Self::Unavailable(error.to_string()),
            },
        }
    }
}

/// The code of an error that Redis answered; also of one within a script, which Redis 6 wraps into an `ERR`.
pub(super) fn code_of(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let within = error.detail().and_then(|detail| detail.split_once(": -"));
    match within.and_then(|(_, inner)| inner.split_whitespace().next()) {
        Some(inner) if code == "ERR" => inner,
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_redis_is_well_and_what_was_written() {
        let table = [
            ("OOM command not allowed when used memory > 'maxmemory'. script: 1f", "full"),
            // As Redis 6 tells what happened within a script.
            (
                "ERR Error running script (call to f_1f): @user_script:9: -OOM command not allowed",
                "full",
            ),
            (
                "ERR Error running script (call to f_1f): @user_script:9: -READONLY You can't write",
                "not available",
            ),
            ("READONLY You can't write against a read only replica.", "not available"),
            ("LOADING Redis is loading the dataset in memory", "not available"),
            ("CLUSTERDOWN The cluster is down", "not available"),
            ("MISCONF Redis is configured to save RDB snapshots", "not available"),
            ("BUSY Redis is busy running a script", "not available"),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "not available"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "can't be read"),
            ("ERR user_script:3: attempt to compare nil with number", "can't be read"),
        ];
        for (text, said) in table {
            let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
            let error = Failure::Refused(value.extract_error().unwrap_err());
            let error = StoreError::from(error);
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }
}
