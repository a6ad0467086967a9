//! What the roles of a process share: the store, the gateway that compiles, whoever holds the document.

use crate::folder;
use crate::say;
use crate::settings::{IdempotencyStore, Role, Settings};
use anyhow::{Context as _, bail};
use gateway::follow::{Follower, Heed};
use gateway::ledger::AnyLedger;
use gateway::quotas::{Quotas, SharedSettings};
use gateway::watch::DocumentFile;
use gateway::{Gateway, record};
use jiff::Timestamp;
use model::Clock;
use model::audit::Entry;
use model::id::NodeName;
use model::idempotency::Salt;
use model::revision::Revisions;
use model::role::Actor;
use model::webhook::Reach;
use pack_host::worker::Worker;
use pack_host::{Host, HostSettings};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::seal::MasterKeys;
use store::{ClockOf, Store};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Between two purges of what expired in the database.
const PURGE_PAUSE: Duration = Duration::from_secs(60);

/// The file of whoever asks, as long as it runs (proc_pid_exe(5)).
pub(crate) const THIS_BINARY: &str = "/proc/self/exe";

/// Decisions that may be in progress in a process at one time, whoever's.
const INSTANCES: u32 = 256;

/// What is made first and outlives the servers. Clones share it.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) keys: MasterKeys,
    pub(crate) clock: Clock,
    pub(crate) node: NodeName,
    pub(crate) gateway: Arc<Gateway>,
    /// What packs run on: one of a process, whatever its roles.
    pub(crate) host: Arc<Host>,
    heed: Arc<Heed>,
    source: Source,
}

/// Whoever holds the document.
#[derive(Clone)]
enum Source {
    /// A file that the operator owns.
    File(Arc<DocumentFile>),
    /// The store.
    Store(Arc<Follower>),
}

impl Parts {
    /// Opens the store and puts the document in force, if there is one that can be read: without the store, the last good
    /// revision. An operator's file that can't be put in force is an error.
    pub(crate) async fn make(settings: &Settings, clock: Clock) -> anyhow::Result<Self> {
        let data = &settings.data;
        let keys = settings.keys()?;
        let database = settings.database();
        let store = Store::open(database.revealed()).await.with_context(|| database.to_string())?;
        let node = match &settings.node {
            Some(name) => name.clone(),
            None => folder::node_name(data)?,
        };
        let host = host(&settings.data, Traffic::of(settings))?;
        let gateway = Gateway::new(gateway::Settings {
            clock: clock.clone(),
            host: host.clone(),
            packs: folder::packs(data)?,
            quotas: quotas(settings, &node, &clock),
            ledger: ledger(settings, &store),
            salt: Salt(folder::salt(data, &store).await?),
            node: node.clone(),
            runtime: tokio::runtime::Handle::current(),
            version: env!("CARGO_PKG_VERSION"),
            store: store.clone(),
            keys: keys.clone(),
            reach: Reach::new(settings.webhooks.allow_private.clone()),
            events_kept: settings.webhooks.retention,
            records: record::Settings {
                buffer: settings.records.buffer,
                retention: settings.records.retention.0,
            },
        })?;
        let source = match &settings.document.file {
            Some(file) => Source::File(of_file(&gateway, file).await?),
            None => {
                let follower = Follower::new(gateway.clone(), folder::last_good(data));
                follower.start().await;
                Source::Store(follower)
            }
        };
        let heed = Heed::new(gateway.clone(), folder::revoked(data));
        Ok(Self { store, keys, clock, node, gateway, host, heed, source })
    }

    /// The port to the document.
    pub(crate) fn revisions(&self) -> Arc<dyn Revisions> {
        match &self.source {
            Source::File(file) => file.clone(),
            Source::Store(follower) => follower.clone(),
        }
    }

    /// Takes up what is refused at once, then follows document and store for as long as the tasks live.
    pub(crate) async fn follow(&self, roles: Vec<String>, tasks: &mut JoinSet<()>) {
        self.heed.start().await;
        match &self.source {
            Source::File(file) => tasks.spawn(file.clone().follow()),
            Source::Store(follower) => tasks.spawn(follower.clone().run()),
        };
        tasks.spawn(self.heed.clone().run(roles));
        tasks.spawn(gateway::rollout::run(self.gateway.clone(), self.revisions()));
        tasks.spawn(self.store.clone().purge_forever(self.clock.clone(), PURGE_PAUSE));
    }
}

/// Where limits are counted. A process that serves nobody only looks: what the others may do is not divided by it.
fn quotas(settings: &Settings, node: &NodeName, clock: &Clock) -> Quotas {
    let Some(url) = &settings.redis.quota else { return Quotas::in_process() };
    Quotas::shared(SharedSettings {
        url: url.clone(),
        deadline: settings.redis.deadline(),
        node: settings.is(Role::Gateway).then(|| node.clone()),
        clock: clock.clone(),
        runtime: tokio::runtime::Handle::current(),
    })
}

/// Where idempotency records are kept.
fn ledger(settings: &Settings, store: &Store) -> AnyLedger {
    let room = settings.idempotency_room.shared();
    match (settings.idempotency, &settings.redis.idempotency) {
        (IdempotencyStore::Memory, _) => AnyLedger::in_process(),
        (IdempotencyStore::Redis, Some(url)) => {
            AnyLedger::on_redis(url.clone(), room, &tokio::runtime::Handle::current())
        }
        // Settings that name Redis and no URL are refused.
        (IdempotencyStore::Database | IdempotencyStore::Redis, _) => {
            AnyLedger::Sql(store.ledger_of(room, ClockOf::Store))
        }
    }
}

/// Whether packs decide in this process, or are compiled and tried only.
#[derive(Clone, Copy)]
pub(crate) enum Traffic {
    Served,
    None,
}

impl Traffic {
    fn of(settings: &Settings) -> Self {
        if settings.is(Role::Gateway) { Self::Served } else { Self::None }
    }
}

/// What packs run on. They are compiled in children of this binary, also when its file was replaced meanwhile.
pub(crate) fn host(data: &Path, traffic: Traffic) -> anyhow::Result<Arc<Host>> {
    let worker = Worker::Process(THIS_BINARY.into());
    let cache = Some(folder::compiled(data));
    let settings = match traffic {
        Traffic::Served => HostSettings { cache, ..HostSettings::new(INSTANCES, worker) },
        Traffic::None => HostSettings { cache, ..HostSettings::small(worker) },
    };
    Ok(Host::new(settings)?)
}

/// The audit entry of what this node does by itself.
pub(crate) fn system_entry(
    node: &NodeName,
    at: Timestamp,
    action: &str,
    resource: String,
    difference: Value,
) -> Entry {
    Entry {
        id: Uuid::now_v7().to_string(),
        at,
        actor: Actor::system(node),
        action: action.to_owned(),
        resource,
        tenant: None,
        request_id: Uuid::now_v7().to_string(),
        revision: None,
        difference,
        refused: None,
    }
}

/// Puts an operator's file in force; at start there is nothing to fall back to.
async fn of_file(gateway: &Arc<Gateway>, path: &Path) -> anyhow::Result<Arc<DocumentFile>> {
    let document = DocumentFile::new(gateway.clone(), path.to_owned());
    if let Err(errors) = document.load().await {
        for error in &errors {
            say(&error.to_string());
        }
        let count = match errors.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        bail!("{} can't be put in force ({count})", path.display());
    }
    Ok(document)
}
