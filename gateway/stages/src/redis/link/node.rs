//! One server, whichever that is at the moment, and the connection to it.

use super::Failure;
use super::keeper::{Connected, Doubt, Keeper, Target};
use model::port::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// How many doubts about the connection wait to be looked into; more of them say nothing new.
const DOUBTS_MAX: usize = 16;

/// One server, and the connection to it.
pub(super) struct Node {
    connection: watch::Receiver<Option<Connected>>,
    doubts: mpsc::Sender<Doubt>,
    shown: String,
    keeper: AbortHandle,
}

impl Node {
    pub(super) fn new(target: Target, runtime: &Handle) -> Self {
        let (publish, connection) = watch::channel(None);
        let (doubts, heard) = mpsc::channel(DOUBTS_MAX);
        let shown = target.to_string();
        let keeper = Keeper::new(target, publish, heard).keep();
        let keeper = runtime.spawn(keeper).abort_handle();
        Self { connection, doubts, shown, keeper }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.borrow().is_some()
    }

    /// Which keys the server evicts, if any.
    pub(super) fn evicts(&self) -> Option<Arc<str>> {
        self.connection.borrow().as_ref().and_then(|connected| connected.evicts.clone())
    }

    /// Waits until there is a connection.
    pub(super) async fn connected(&self) {
        // The keeper lives as long as this does.
        let _ = self.connection.clone().wait_for(Option::is_some).await;
    }

    /// Sends a command, and waits for its answer until then.
    pub(super) async fn ask(&self, command: &Cmd, until: Instant) -> Result<Value, Failure> {
        let mut connection = self.connection()?;
        let asked = Instant::now();
        let answer = timeout_at(until, command.query_async(&mut connection)).await;
        self.judge(answer.map_err(|_| asked.elapsed()))
    }

    /// Sends commands together. The answers are in their order.
    pub(super) async fn ask_all(
        &self,
        commands: impl IntoIterator<Item = Cmd, IntoIter: ExactSizeIterator>,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let commands = commands.into_iter();
        let count = commands.len();
        if count == 0 {
            return Vec::new();
        }
        let mut connection = match self.connection() {
            Ok(connection) => connection,
            Err(failure) => return failure.of_all(count),
        };
        let mut pipeline = Pipeline::with_capacity(count);
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command);
        }
        let asked = Instant::now();
        let answers = timeout_at(until, pipeline.query_async(&mut connection)).await;
        let answers: Result<Vec<_>, _> = self.judge(answers.map_err(|_| asked.elapsed()));
        match answers {
            Ok(answers) => answers.into_iter().map(|answer| self.judge(Ok(answer))).collect(),
            Err(failure) => failure.of_all(count),
        }
    }

    fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let connection =
            self.connection.borrow().as_ref().map(|connected| connected.connection.clone());
        connection.ok_or_else(|| {
            let why = format!("there is no connection to {}", self.shown);
            Failure::NotSent(StoreError::Unavailable(why))
        })
    }

    /// What an answer, or its absence after so long, means for the caller and for the connection.
    fn judge<T>(&self, answer: Result<Result<T, RedisError>, Duration>) -> Result<T, Failure> {
        let failure = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Failure::of(error),
            Err(waited) => Failure::TimedOut(waited),
        };
        let doubt = match failure.spoils_connection() {
            Some(why) => Some(Doubt::Useless(why)),
            None => matches!(failure, Failure::TimedOut(_)).then_some(Doubt::Silent),
        };
        if let Some(doubt) = doubt {
            // A full queue holds doubts enough.
            let _ = self.doubts.try_send(doubt);
        }
        Err(failure)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
