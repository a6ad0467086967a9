//! One Redis, as this process sees it: connections that are made, watched and made again in the background.
//!
//! Invariants: no command waits longer than it was told to, nor for a connection; how many wait is bounded; none is sent
//! twice. A connection that was closed, that no longer answers or that leads to a replica is replaced, also after a
//! failover. What one server of a cluster does holds up nobody who asks another.

mod cluster;
mod failure;
mod keeper;
mod node;

pub(super) use cluster::{SLOTS, hash_slot};
pub(super) use failure::Failure;

use super::url::{Kind, RedisUrl};
use cluster::Cluster;
use keeper::Target;
use model::port::StoreError;
use node::Node;
use redis::{Cmd, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// How long a command may take, unless told otherwise.
pub const COMMAND_DEADLINE: Duration = Duration::from_millis(15);
/// How many commands may wait for their answers.
const WAITING_MAX: usize = 4_096;

/// One Redis. Clones share the connections.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

/// Whether commands can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is a connection; whether it answers, commands show. In a cluster, to one of its masters at least.
    Connected,
    /// There is none: commands are refused at once.
    Away,
}

struct Shared {
    servers: Servers,
    waiting: Semaphore,
    deadline: Duration,
    url: RedisUrl,
}

/// Who answers.
enum Servers {
    One(Node),
    Cluster(Cluster),
}

impl Link {
    /// A link to this Redis, whose connections are kept on this runtime. Commands take no longer than the deadline, unless
    /// told otherwise.
    pub fn new(url: RedisUrl, deadline: Duration, runtime: &Handle) -> Self {
        let servers = match url.kind() {
            Kind::Single | Kind::Sentinel { .. } => {
                Servers::One(Node::new(Target::of(&url), runtime))
            }
            Kind::Cluster => Servers::Cluster(Cluster::new(url.clone(), runtime)),
        };
        let waiting = Semaphore::new(WAITING_MAX);
        Self(Arc::new(Shared { servers, waiting, deadline, url }))
    }

    /// Whether there is a connection now.
    pub fn state(&self) -> LinkState {
        let is_connected = match &self.0.servers {
            Servers::One(node) => node.is_connected(),
            Servers::Cluster(cluster) => cluster.is_connected(),
        };
        if is_connected { LinkState::Connected } else { LinkState::Away }
    }

    /// Waits until there is a connection; in a cluster, to one of its masters.
    pub async fn connected(&self) {
        match &self.0.servers {
            Servers::One(node) => node.connected().await,
            Servers::Cluster(cluster) => cluster.connected().await,
        }
    }

    /// Which keys a server forgets when its memory is full, where that is any (`maxmemory-policy`), as was told when it was
    /// connected to.
    pub fn evicts(&self) -> Option<Arc<str>> {
        match &self.0.servers {
            Servers::One(node) => node.evicts(),
            Servers::Cluster(cluster) => cluster.evicts(),
        }
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
        let _place = self.take_place()?;
        match &self.0.servers {
            Servers::One(node) => node.ask(command, until).await,
            Servers::Cluster(cluster) => cluster.ask(key, command, until).await,
        }
    }

    /// Sends a command that goes to this key and, behind it on the same connection, one about what it wrote. A slot that went
    /// elsewhere is not followed: nothing was written then.
    pub(super) async fn run_both(
        &self,
        key: &str,
        commands: [Cmd; 2],
        until: Instant,
    ) -> [Result<Value, Failure>; 2] {
        let answers = match (self.take_place(), &self.0.servers) {
            (Err(failure), _) => failure.of_all(commands.len()),
            (Ok(_place), Servers::One(node)) => node.ask_all(commands, until).await,
            (Ok(_place), Servers::Cluster(cluster)) => {
                cluster.ask_in_place(key, commands, until).await
            }
        };
        let unpaired = |_| [Err(cluster::lost()), Err(cluster::lost())];
        answers.try_into().unwrap_or_else(unpaired)
    }

    /// Another link to the same servers, with connections of its own.
    pub(super) fn again(&self, runtime: &Handle) -> Self {
        Self::new(self.0.url.clone(), self.0.deadline, runtime)
    }

    /// Sends commands together, each with the key that it goes to. The answers are in their order.
    pub(super) async fn run_all(
        &self,
        commands: Vec<(String, Cmd)>,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let _place = match self.take_place() {
            Ok(place) => place,
            Err(failure) => return failure.of_all(commands.len()),
        };
        match &self.0.servers {
            Servers::One(node) => {
                let commands: Vec<_> = commands.into_iter().map(|(_, command)| command).collect();
                node.ask_all(commands, until).await
            }
            Servers::Cluster(cluster) => cluster.ask_all(commands, until).await,
        }
    }

    fn take_place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let full = StoreError::Full("commands that wait for Redis");
        self.0.waiting.try_acquire().map_err(|_| Failure::NotSent(full))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.0.url).field("state", &self.state()).finish()
    }
}
