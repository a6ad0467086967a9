//! A data plane and a demo CRM for one scenario: real sockets, a clock that stands still, a folder that goes away.

use crate::demo;
use crate::settings::DatabaseUrl;
use anyhow::{Context as _, bail};
use gateway::ledger::AnyLedger;
use gateway::quotas::Quotas;
use gateway::server::{self, Listen};
use gateway::watch::DocumentFile;
use gateway::{Gateway, Settings, record};
use jiff::Timestamp;
use model::Clock;
use model::idempotency::Salt;
use pack_host::Host;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use tokio::sync::watch;

/// How long the parts may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// What one scenario runs against.
pub(super) struct Local {
    clock: Clock,
    address: SocketAddr,
    _gateway: Arc<Gateway>,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Local {
    /// Starts both, at this time, with this document.
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
        let text = text.replace(::demo::CRM_ADDRESS, &crm_address.to_string());
        let document = folder.path().join("document.yaml");
        std::fs::write(&document, text)?;
        let packs = crate::folder::packs(folder.path())?;
        demo::lay(&packs)?;
        let crm_clock = clock.clone();
        let time = crm::Clock::from_fn(move || crm_clock.now());
        let backend = crm::Crm::open_with_clock(demo::crm_settings(folder.path()), time).await?;
        tokio::spawn(backend.serve(crm, std::future::pending()));
        let database = DatabaseUrl::embedded(folder.path());
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
            store: Store::open(database.revealed()).await?,
            keys: MasterKeys::default(),
            records: record::Settings::default(),
        })?;
        let file = DocumentFile::new(gateway.clone(), document);
        if let Err(errors) = file.load().await {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("the document is not valid:\n{}", lines.join("\n"));
        }
        let address = free_address()?;
        let (stop, stopped) = watch::channel(false);
        server::start(gateway.clone(), &Listen { address, threads: 2 }, stopped)?;
        let ready = async {
            while tokio::net::TcpStream::connect(address).await.is_err()
                || gateway.is_ready().is_err()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(START_DEADLINE, ready)
            .await
            .context("the gateway did not get ready")?;
        Ok(Self { clock, address, _gateway: gateway, _folder: folder, _stop: stop })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
