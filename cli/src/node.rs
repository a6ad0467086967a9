//! One process' roles, composed: the data plane at the edge, admin and status beside it.

use crate::settings::{IdempotencyStore, Role, Settings};
use crate::status::{self, Probe};
use crate::{ports, say};
use anyhow::Context as _;
use gateway::Gateway;
use gateway::ledger::AnyLedger;
use gateway::server::{self, Listen};
use gateway::watch::{DocumentFile, Owner};
use model::Clock;
use model::idempotency::Salt;
use model::revision::Revisions as _;
use rand::Rng as _;
use std::fmt::Write as _;
use std::fs::File;
use std::future::IntoFuture as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the edge may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long admin and status may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Between two purges of what expired in the database.
const PURGE_PAUSE: Duration = Duration::from_secs(60);

/// What every process needs to know to start.
pub(crate) struct Start {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// How to choose other ports.
    pub(crate) hint: &'static str,
    /// Holds the data folder for this process.
    pub(crate) lock: File,
}

/// A process whose roles run.
pub(crate) struct Node {
    gateway: Arc<Gateway>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    /// Ends with the node: follows the document, purges the database.
    _background: JoinSet<()>,
    _lock: File,
}

impl Node {
    /// Starts the roles. When this returns, they answer.
    pub(crate) async fn start(start: Start) -> anyhow::Result<Self> {
        let Start { settings, clock, hint, lock } = start;
        let listen = &settings.listen;
        let status = ports::bind("status endpoints", listen.status, hint)?;
        let admin = match settings.roles.contains(&Role::Admin) {
            true => Some(ports::bind("admin API", listen.admin, hint)?),
            false => None,
        };
        let edge = settings.roles.contains(&Role::Gateway);
        if edge {
            drop(ports::bind("gateway", listen.gateway, hint)?);
        }
        let (mut servers, mut background) = (JoinSet::new(), JoinSet::new());
        let gateway = gateway(&settings, clock, &mut background).await?;
        let (stop, stopped) = watch::channel(false);
        let document = document(&settings, &gateway, &mut background).await?;
        if edge {
            let threads = match settings.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            };
            server::start(
                gateway.clone(),
                &Listen { address: listen.gateway, threads },
                stopped.clone(),
            )?;
            listens(listen.gateway).await?;
        }
        let revisions = document.clone();
        let in_force: Probe = Arc::new(move || {
            revisions.current().map(drop).ok_or("no document is in force".to_owned())
        });
        let router = status::router(gateway.clone(), vec![("document", in_force)]);
        if let Some(admin) = admin {
            let token = admin_token(&settings.data)?;
            let api = admin::router(document, admin::TokenHash::of(&token), router.clone());
            serve(&mut servers, admin, api, stopped.clone())?;
        }
        serve(&mut servers, status, router, stopped)?;
        Ok(Self { gateway, stop, servers, _background: background, _lock: lock })
    }

    /// Runs until SIGTERM or SIGINT, then lets exchanges end.
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
        server::drained(&self.gateway).await;
        let ended = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
            self.servers.abort_all();
        }
        Ok(())
    }
}

async fn gateway(
    settings: &Settings,
    clock: Clock,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Arc<Gateway>> {
    let data = &settings.data;
    let packs = data.join("packs");
    std::fs::create_dir_all(&packs)
        .with_context(|| format!("{} can't be made", packs.display()))?;
    let ledger = match settings.idempotency {
        IdempotencyStore::Memory => AnyLedger::in_process(),
        IdempotencyStore::Database => {
            let store = Store::open(&settings.database_url()).await?;
            tasks.spawn(store.clone().purge_forever(clock.clone(), PURGE_PAUSE));
            AnyLedger::Sql(store.ledger())
        }
    };
    Ok(Gateway::new(gateway::Settings {
        clock,
        packs,
        ledger,
        salt: Salt(salt(data)?),
        node: format!("{}", std::process::id()).as_str().into(),
        runtime: tokio::runtime::Handle::current(),
        version: env!("CARGO_PKG_VERSION"),
    })?)
}

/// Puts the document in force and follows it.
async fn document(
    settings: &Settings,
    gateway: &Arc<Gateway>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Arc<DocumentFile>> {
    let (path, owner) = match &settings.document.file {
        Some(file) => (file.clone(), Owner::Operator),
        None => (settings.data.join("document.yaml"), Owner::Admin),
    };
    let document = DocumentFile::new(gateway.clone(), path.clone(), owner);
    if let Err(errors) = document.load().await {
        for error in &errors {
            say(&error.to_string());
        }
        let count = if errors.len() == 1 {
            "1 error".to_owned()
        } else {
            format!("{} errors", errors.len())
        };
        anyhow::bail!("{} can't be put in force ({count})", path.display());
    }
    tasks.spawn(document.clone().follow());
    Ok(document)
}

fn serve(
    tasks: &mut JoinSet<()>,
    listener: std::net::TcpListener,
    router: axum::Router,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tasks.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop).into_future().await;
        if let Err(error) = served {
            tracing::error!(%error, "a listener ended");
        }
    });
    Ok(())
}

/// Takes a data folder for this process, or says that another one has it.
pub(crate) fn hold(data: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data).with_context(|| format!("{} can't be made", data.display()))?;
    let path = data.join("lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("{} can't be made", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            anyhow::bail!("{} is in use by another tollgate; choose another folder", data.display())
        }
    }
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

/// The admin token: made at first start, readable by the owner only.
pub(crate) fn admin_token(data: &Path) -> anyhow::Result<String> {
    kept(&data.join("admin.token"), || format!("tga_{}", hex(&random())))
}

/// What keeps this deployment's derived idempotency keys apart from others'.
fn salt(data: &Path) -> anyhow::Result<[u8; 32]> {
    let text = kept(&data.join("idempotency.salt"), || hex(&random()))?;
    let mut salt = [0; 32];
    for (index, byte) in salt.iter_mut().enumerate() {
        let digits = text.get(index * 2..index * 2 + 2).context("idempotency.salt is cut off")?;
        *byte = u8::from_str_radix(digits, 16).context("idempotency.salt is not hex")?;
    }
    Ok(salt)
}

/// The content of a file that is made once and only the owner can read.
fn kept(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let text = make();
            writeln!(file, "{text}")?;
            file.sync_all()?;
            Ok(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{} can't be read", path.display()))?;
            Ok(text.trim().to_owned())
        }
        Err(error) => Err(error).with_context(|| format!("{} can't be made", path.display())),
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
