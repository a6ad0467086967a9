//! A data plane, a dispatcher and a demo CRM for one scenario: real sockets, a clock that stands still, a folder that goes
//! away.

use super::Party;
use crate::settings::DatabaseUrl;
use crate::{demo, listener};
use anyhow::{Context as _, bail};
use dispatcher::Dispatcher;
use gateway::ledger::AnyLedger;
use gateway::quotas::Quotas;
use gateway::server::{self, Listen};
use gateway::watch::DocumentFile;
use gateway::{Gateway, Settings, record};
use ingest::Ingest;
use ipnet::IpNet;
use jiff::Timestamp;
use model::Clock;
use model::idempotency::Salt;
use model::webhook::Reach;
use pack_host::Host;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the parts may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How long what is being delivered may take at the end.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// What one scenario runs against.
pub(super) struct Local {
    clock: Clock,
    gateway_address: SocketAddr,
    crm_address: SocketAddr,
    _gateway: Arc<Gateway>,
    dispatcher: Arc<Dispatcher>,
    /// Of dispatcher and CRM.
    _tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Local {
    /// Starts all, at this time, with this document.
    pub(super) async fn start(
        document: &Path,
        at: Timestamp,
        host: &Arc<Host>,
    ) -> anyhow::Result<Self> {
        let clock = Clock::manual(at);
        let folder = tempfile::tempdir()?;
        let crm = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let crm_address = crm.local_addr()?;
        let text = std::fs::read_to_string(document)
            .with_context(|| format!("{} can't be read", document.display()))?;
        let secrets = demo::Secrets::of(folder.path())?;
        let text = demo::written_for(&text, crm_address, &secrets);
        let document = folder.path().join("document.yaml");
        std::fs::write(&document, text)?;
        let packs = crate::folder::packs(folder.path())?;
        demo::lay(&packs)?;
        let inbound = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addresses = [crm_address, inbound.local_addr()?];
        let backend = demo::Backend::open(folder.path(), &secrets, addresses, &clock).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = backend.serve(crm, std::future::pending()).await {
                tracing::error!(%error, "the demo CRM ended");
            }
        });
        let database = DatabaseUrl::embedded(folder.path());
        let store = Store::open(database.revealed()).await?;
        let loopback: IpNet = demo::LOOPBACK.parse()?;
        let gateway = Gateway::new(Settings {
            clock: clock.clone(),
            packs,
            host: host.clone(),
            quotas: Quotas::in_process(),
            ledger: AnyLedger::in_process(),
            salt: Salt([0; 32]),
            node: "scenario".into(),
            runtime: tokio::runtime::Handle::current(),
            version: env!("CARGO_PKG_VERSION"),
            store: store.clone(),
            keys: MasterKeys::default(),
            reach: Reach::new(vec![loopback]),
            events_kept: crate::settings::Webhooks::default().retention,
            records: record::Settings::default(),
        })?;
        let file = DocumentFile::new(gateway.clone(), document);
        if let Err(errors) = file.load().await {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("the document is not valid:\n{}", lines.join("\n"));
        }
        let address = free_address()?;
        let (stop, stopped) = watch::channel(false);
        let dispatcher = dispatcher(store, file, &clock, loopback)?;
        tasks.spawn(dispatcher.clone().run());
        tasks.spawn(listener::serve(inbound, dispatcher.router(), stopped.clone()));
        server::start(gateway.clone(), &Listen { address, threads: 2 }, stopped)?;
        answers(&gateway, address).await?;
        Ok(Self {
            clock,
            gateway_address: address,
            crm_address,
            _gateway: gateway,
            dispatcher,
            _tasks: tasks,
            _folder: folder,
            _stop: stop,
        })
    }

    /// Ends all of it. What is being delivered may come to its end.
    pub(super) async fn end(self) {
        self.dispatcher.close(END_DEADLINE).await;
    }

    /// Where this party is.
    pub(super) fn url(&self, party: Party) -> String {
        match party {
            Party::Gateway => format!("http://{}", self.gateway_address),
            Party::Crm => format!("http://{}", self.crm_address),
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn dispatcher(
    store: Store,
    revisions: Arc<DocumentFile>,
    clock: &Clock,
    loopback: IpNet,
) -> anyhow::Result<Arc<Dispatcher>> {
    let ingest = Ingest::start(ingest::Settings {
        store: store.clone(),
        revisions: revisions.clone(),
        clock: clock.clone(),
    });
    Ok(Dispatcher::new(dispatcher::Settings {
        store,
        revisions,
        ingest,
        keys: MasterKeys::default(),
        clock: clock.clone(),
        node: "scenario".into(),
        allow_private: vec![loopback],
        version: env!("CARGO_PKG_VERSION"),
    })?)
}

/// Waits until the gateway does.
async fn answers(gateway: &Gateway, address: SocketAddr) -> anyhow::Result<()> {
    let ready = async {
        while tokio::net::TcpStream::connect(address).await.is_err() || gateway.is_ready().is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(START_DEADLINE, ready).await.context("the gateway did not get ready")
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
