//! Waiting for replicas, for routes that want them to have what was written.
//!
//! Invariant: what is waited for was written by the same connection, hence by the same master: a failover between the two
//! can't make a claim look safe that is gone. Waiting holds up a connection, so that this one is used for nothing else, and
//! made where a route wants it.

use crate::redis::link::{Failure, Link};
use crate::redis::script::Script;
use model::port::StoreError;
use redis::{Cmd, Value};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// How long replicas may take.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How many commands are on their way at a time, each behind the others' waits: fewer than make a connection look dead.
const WAITING_MAX: usize = 16;

/// A connection for commands that replicas must have.
#[derive(Debug)]
pub(super) struct Replicas {
    beside: Link,
    link: OnceLock<Link>,
    places: Semaphore,
    runtime: Handle,
}

/// A place among the commands that are on their way.
#[derive(Debug)]
pub(super) struct Place<'a> {
    link: &'a Link,
    _held: SemaphorePermit<'a>,
}

impl Replicas {
    /// Of the servers that this link leads to.
    pub(super) fn new(beside: Link, runtime: &Handle) -> Self {
        let places = Semaphore::new(WAITING_MAX);
        Self { beside, link: OnceLock::new(), places, runtime: runtime.clone() }
    }

    /// The connection, which begins to be made when it is first asked for.
    pub(super) fn link(&self) -> &Link {
        self.link.get_or_init(|| self.beside.again(&self.runtime))
    }

    /// A place, if there is a connection and one is free until then.
    pub(super) async fn place(&self, until: Instant) -> Result<Place<'_>, StoreError> {
        let link = self.link();
        let ready = async {
            link.connected().await;
            self.places.acquire().await
        };
        match timeout_at(until, ready).await {
            Ok(Ok(held)) => Ok(Place { link, _held: held }),
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable(
                "no connection that waits for replicas is free".to_owned(),
            )),
        }
    }
}

impl Place<'_> {
    /// Runs a script, and says whether so many replicas have what it wrote.
    pub(super) async fn run(
        &self,
        script: &Script,
        until: Instant,
        key: &str,
        fill: impl Fn(&mut Cmd),
        replicas: u8,
    ) -> Result<(Value, Result<(), StoreError>), Failure> {
        let both =
            async |command| self.link.run_both(key, [command, wait_for(replicas)], until).await;
        let answers = match both(script.by_hash(&fill)).await {
            [Err(failure), _] if failure.is_unknown_script() => both(script.whole(&fill)).await,
            answers => answers,
        };
        let [told, had] = answers;
        Ok((told?, enough(had, replicas)))
    }
}

#[cfg(test)]
impl Replicas {
    /// Takes all places.
    pub(super) async fn taken(&self) -> SemaphorePermit<'_> {
        let all = u32::try_from(WAITING_MAX).unwrap();
        self.places.acquire_many(all).await.unwrap()
    }
}

fn wait_for(replicas: u8) -> Cmd {
    let mut wait = redis::cmd("WAIT");
    wait.arg(replicas).arg(WAIT_MAX.subsec_millis());
    wait
}

fn enough(had: Result<Value, Failure>, replicas: u8) -> Result<(), StoreError> {
    match had? {
        Value::Int(had) if i64::from(replicas) <= had => Ok(()),
        Value::Int(had) => Err(StoreError::Unanswered(format!(
            "{had} of {replicas} replicas have what was written"
        ))),
        other => Err(StoreError::Unreadable(format!("{other:?}"))),
    }
}
