//! One process' roles, composed: the data plane at the edge; admin, dispatcher and status beside it.

use crate::folder::FirstToken;
use crate::parts::Parts;
use crate::settings::{IdempotencyStore, Role, Settings};
use crate::status::{self, Readiness};
use crate::{listener, ports, retention, say};
use anyhow::Context as _;
use dispatcher::Dispatcher;
use gateway::kept::Kept;
use gateway::server::{self, Listen};
use gateway::{record, thresholds};
use ingest::Ingest;
use model::idempotency::{self, Records};
use model::usage::{Elsewhere, UsageOf};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the edge may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long attempts to deliver webhooks may take to end. Those of one that did not are made again, elsewhere or later.
const ATTEMPTS_DEADLINE: Duration = Duration::from_secs(20);
/// How long admin, dispatcher and status may take to answer their last requests.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// How long shared counters may take to hear what became of the last requests.
const SETTLE_DEADLINE: Duration = Duration::from_secs(2);
/// How long the store of keys may take to hear what became of the last requests: longer than most failovers.
const OUTCOMES_DEADLINE: Duration = Duration::from_secs(10);
/// How long the store may take to write what waits, at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a start waits for the store to take the first token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to bring the first token to the store.
const TOKEN_PAUSE: Duration = Duration::from_secs(1);

/// The listeners of a process: taken before anything else starts, so that a busy port is named at once.
pub(crate) struct Listeners {
    status: TcpListener,
    admin: Option<TcpListener>,
    dispatcher: Option<TcpListener>,
}

/// A process whose roles run.
pub(crate) struct Node {
    parts: Parts,
    /// Quotas that this process counts for itself.
    kept: Option<Arc<Kept>>,
    dispatcher: Option<Arc<Dispatcher>>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    /// Ends with the node: follows document and store, purges the database.
    background: JoinSet<()>,
    _lock: File,
}

impl Listeners {
    /// Takes the ports of these settings; `hint` says how to choose others.
    pub(crate) fn bind(settings: &Settings, hint: &str) -> anyhow::Result<Self> {
        let listen = &settings.listen;
        let status = ports::bind("status endpoints", listen.status, hint)?;
        let admin = match settings.is(Role::Admin) {
            true => Some(ports::bind("admin API", listen.admin, hint)?),
            false => None,
        };
        let dispatcher = match settings.is(Role::Dispatcher) {
            true => Some(ports::bind("dispatcher", listen.dispatcher, hint)?),
            false => None,
        };
        if settings.is(Role::Gateway) {
            // The edge binds for itself, later.
            drop(ports::bind("gateway", listen.gateway, hint)?);
        }
        Ok(Self { status, admin, dispatcher })
    }
}

impl Node {
    /// Starts the roles. When this returns, they answer. `lock` holds the data folder.
    pub(crate) async fn start(
        settings: &Settings,
        listeners: Listeners,
        parts: Parts,
        lock: File,
    ) -> anyhow::Result<Self> {
        let (mut servers, mut background) = (JoinSet::new(), JoinSet::new());
        let roles = settings.roles.iter().map(|role| role.as_str().to_owned()).collect();
        parts.follow(roles, &mut background).await;
        let (stop, stopped) = watch::channel(false);
        let token = match settings.is(Role::Admin) {
            true => Some(bring_token(settings, &parts, &mut background).await?),
            false => None,
        };
        let mut kept = None;
        if settings.is(Role::Gateway) {
            kept = Kept::start(&parts.gateway).await;
            if let Some(kept) = &kept {
                background.spawn(kept.clone().run());
            }
            let threads = match settings.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            };
            let listen = Listen { address: settings.listen.gateway, threads };
            server::start(parts.gateway.clone(), &listen, stopped.clone())?;
            listens(settings.listen.gateway).await?;
        }
        let ingest = match listeners.admin.is_some() || listeners.dispatcher.is_some() {
            true => Some(ingest(settings, &parts, &mut background)),
            false => None,
        };
        let dispatcher = match (&ingest, settings.is(Role::Dispatcher)) {
            (Some(ingest), true) => Some(dispatcher(settings, &parts, ingest, &mut background)?),
            _ => None,
        };
        #[cfg(any(feature = "nats", feature = "kafka"))]
        if let (Some(ingest), Some(dispatcher)) = (&ingest, &dispatcher) {
            let (store, ingest) = (parts.store.clone(), ingest.clone());
            // Not the dispatcher's own: which of both ends first gives back its places alone.
            let holder = format!("{}/streams", dispatcher.holder());
            let streams = streams::Parts { store, ingest, holder };
            servers.spawn(streams::run(settings.streams.clone(), streams, stopped.clone()));
        }
        let router = status::router(Readiness::of(settings, &parts, token, dispatcher.clone()));
        if let (Some(listener), Some(ingest)) = (listeners.admin, &ingest) {
            let api = admin::router(admin_settings(settings, &parts, ingest), router.clone());
            serve(&mut servers, listener, api, stopped.clone())?;
        }
        if let (Some(listener), Some(dispatcher)) = (listeners.dispatcher, &dispatcher) {
            serve(&mut servers, listener, dispatcher.router(), stopped.clone())?;
        }
        serve(&mut servers, listeners.status, router, stopped)?;
        Ok(Self { parts, kept, dispatcher, stop, servers, background, _lock: lock })
    }

    /// Runs until SIGTERM or SIGINT, then lets exchanges end and writes what is left to write.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        say("tollgate: stopping; requests in progress may end");
        self.stop.send_replace(true);
        let attempts = async {
            if let Some(dispatcher) = &self.dispatcher {
                dispatcher.close(ATTEMPTS_DEADLINE).await;
            }
        };
        tokio::join!(server::drained(&self.parts.gateway), attempts);
        let ended = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
            self.servers.abort_all();
        }
        self.write_the_rest().await;
        self.background.shutdown().await;
        if tokio::time::timeout(CLOSE_DEADLINE, self.parts.store.close()).await.is_err() {
            tracing::warn!("the store was not closed in time");
        }
        Ok(())
    }

    /// Writes what exchanges have left to write.
    async fn write_the_rest(&self) {
        let gateway = &self.parts.gateway;
        let kept = async {
            if let Some(kept) = &self.kept {
                kept.end().await;
            }
        };
        let (lost, untold, outcomes, (), ()) = tokio::join!(
            gateway.recorder.flush(record::FLUSH_MAX),
            gateway.thresholds.flush(thresholds::FLUSH_MAX),
            gateway.settling.drained(OUTCOMES_DEADLINE),
            gateway.quotas.close(SETTLE_DEADLINE),
            kept,
        );
        if lost > 0 {
            tracing::error!(
                records = lost,
                "decision records were lost: the store did not take them"
            );
        }
        if outcomes > 0 {
            tracing::warn!(
                outcomes,
                "the store of keys was not told outcomes: repeats are told that they are unknown"
            );
        }
        if untold > 0 {
            tracing::warn!(
                readings = untold,
                "quotas that reached a threshold were not told of: the next reading is to make up for it"
            );
        }
    }
}

/// What takes events in, and what forgets them when they are too old.
fn ingest(settings: &Settings, parts: &Parts, tasks: &mut JoinSet<()>) -> Ingest {
    tasks.spawn(retention::forget_events(parts.clone(), settings.webhooks.retention));
    let (store, revisions, clock) = (parts.store.clone(), parts.revisions(), parts.clock.clone());
    Ingest::start(ingest::Settings { store, revisions, clock })
}

fn dispatcher(
    settings: &Settings,
    parts: &Parts,
    ingest: &Ingest,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Arc<Dispatcher>> {
    let dispatcher = Dispatcher::new(dispatcher::Settings {
        store: parts.store.clone(),
        revisions: parts.revisions(),
        ingest: ingest.clone(),
        keys: parts.keys.clone(),
        clock: parts.clock.clone(),
        node: parts.node.clone(),
        allow_private: settings.webhooks.allow_private.clone(),
        version: env!("CARGO_PKG_VERSION"),
    })?;
    tasks.spawn(dispatcher.clone().run());
    Ok(dispatcher)
}

fn admin_settings(settings: &Settings, parts: &Parts, ingest: &Ingest) -> admin::Settings {
    let counts_alone = parts.gateway.quotas.in_this_process().is_some();
    let usage: Arc<dyn UsageOf> = match settings.is(Role::Gateway) || !counts_alone {
        true => parts.gateway.clone(),
        // Counters are kept in each gateway's own process.
        false => Arc::new(Elsewhere),
    };
    let is_kept_alone = settings.idempotency == IdempotencyStore::Memory;
    let records: Arc<dyn Records> = match settings.is(Role::Gateway) || !is_kept_alone {
        true => parts.gateway.clone(),
        false => Arc::new(idempotency::Elsewhere),
    };
    admin::Settings {
        revisions: parts.revisions(),
        usage,
        records,
        store: parts.store.clone(),
        keys: parts.keys.clone(),
        clock: parts.clock.clone(),
        node: parts.node.clone(),
        packs: parts.host.clone(),
        ingest: ingest.clone(),
    }
}

fn serve(
    tasks: &mut JoinSet<()>,
    listener: TcpListener,
    router: axum::Router,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tasks.spawn(listener::serve(listener, router, stopped));
    Ok(())
}

/// Waits until the edge accepts connections.
async fn listens(address: SocketAddr) -> anyhow::Result<()> {
    let connected = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LISTEN_DEADLINE, connected)
        .await
        .with_context(|| format!("the gateway does not listen on {address}"))
}

/// Makes the token in the data folder the first one of the store, if that has none. A store that is away gets it when it
/// comes. Turns true once that is settled.
async fn bring_token(
    settings: &Settings,
    parts: &Parts,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let token = FirstToken::of(&settings.data)?;
    let (settled, is_settled) = watch::channel(false);
    match tokio::time::timeout(TOKEN_PATIENCE, token.bring(parts)).await {
        Ok(Ok(accepted)) => {
            settled.send_replace(true);
            told(accepted);
            return Ok(is_settled);
        }
        Ok(Err(error)) => tracing::warn!(%error, "the first admin token waits for the store"),
        Err(_) => {
            tracing::warn!("the first admin token waits for the store, which does not answer");
        }
    }
    let parts = parts.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(TOKEN_PAUSE).await;
            if let Ok(accepted) = token.bring(&parts).await {
                settled.send_replace(true);
                return told(accepted);
            }
        }
    });
    Ok(is_settled)
}

fn told(accepted: bool) {
    if !accepted {
        tracing::info!(
            "the database has an admin token of its own; that of the data folder, if there is one, is not accepted"
        );
    }
}
