//! `tollgate demo`: everything in one process, in front of the demo CRM. The roles are those of `serve`.

mod backend;
mod packs;
mod secrets;
mod seed;
mod welcome;

pub(crate) use backend::{Backend, written_for};
pub(crate) use packs::lay;
pub(crate) use secrets::Secrets;

use crate::folder;
use crate::node::{Listeners, Node};
use crate::parts::Parts;
use crate::settings::{Role, Settings};
use crate::{Ending, ports, print, token};
use clap::Args;
use gateway::watch::{Readers, replace};
use model::Clock;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

const HINT: &str = "choose others with `--port-base N` (`make run PORT_BASE=N`)";
/// The demo's own ports when nobody chooses others: gateway, admin, dispatcher, CRM, status.
const PORTS: [u16; 5] = [8080, 8081, 8082, 9000, 8083];

/// Where the demo's own receiver of webhooks is: what `webhooks.allow_private` has to allow.
pub(crate) const LOOPBACK: &str = "127.0.0.0/8";

/// Starts gateway, admin, dispatcher and the demo CRM in one process, on SQLite; nothing else is needed.
///
/// Example: tollgate demo --data .tollgate/demo --port-base 18080
#[derive(Args)]
pub(crate) struct Demo {
    /// Where everything is kept; made and filled at first start.
    #[arg(long, default_value = ".tollgate/demo")]
    data: PathBuf,
    /// Ports N (gateway), N+1 (admin), N+2 (dispatcher), N+3 (CRM), N+4 (status) instead of 8080, 8081, 8082, 9000, 8083.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=65_531))]
    port_base: Option<u16>,
    /// Fills the data folder and ends.
    #[arg(long)]
    seed_only: bool,
}

/// Where the parts of the demo listen.
struct Addresses {
    gateway: SocketAddr,
    admin: SocketAddr,
    dispatcher: SocketAddr,
    crm: SocketAddr,
    status: SocketAddr,
}

impl Addresses {
    fn new(base: Option<u16>) -> Self {
        let ports = match base {
            None => PORTS,
            Some(base) => [base, base + 1, base + 2, base + 3, base + 4],
        };
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let [gateway, admin, dispatcher, crm, status] = ports.map(at);
        Self { gateway, admin, dispatcher, crm, status }
    }
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let addresses = Addresses::new(self.port_base);
        let lock = folder::hold(&self.data)?;
        let settings = settings(&self.data, &addresses)?;
        crate::log::start("warn,gateway::publish=info,gateway::follow=info");
        crate::descriptors::raise();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            match self.seed_only {
                true => fill(&settings, &addresses).await,
                false => start(settings, &addresses, lock).await,
            }
        })?;
        runtime.shutdown_background();
        Ok(Ending::Done)
    }
}

/// The process' own settings; of those in the environment, what the demo leaves open.
fn settings(data: &Path, addresses: &Addresses) -> anyhow::Result<Settings> {
    let mut settings = Settings::read(None)?;
    data.clone_into(&mut settings.data);
    settings.document.file = None;
    settings.roles = vec![Role::Gateway, Role::Admin, Role::Dispatcher];
    settings.listen.gateway = addresses.gateway;
    settings.listen.admin = addresses.admin;
    settings.listen.dispatcher = addresses.dispatcher;
    settings.listen.status = addresses.status;
    // Webhooks go to the demo's own receiver, which is on this machine.
    let loopback = LOOPBACK.parse()?;
    if !settings.webhooks.allow_private.contains(&loopback) {
        settings.webhooks.allow_private.push(loopback);
    }
    Ok(settings)
}

/// Fills the data folder and the store, and starts nothing.
async fn fill(settings: &Settings, addresses: &Addresses) -> anyhow::Result<()> {
    let parts = Parts::make(settings, Clock::system()).await?;
    let secrets = Secrets::of(&settings.data)?;
    seed::document(&parts, &settings.data, addresses.crm, &secrets).await?;
    parts.store.close().await;
    print(&format!("{} is filled", settings.data.display()));
    Ok(())
}

async fn start(settings: Settings, addresses: &Addresses, lock: File) -> anyhow::Result<()> {
    let data = &settings.data;
    let listener = ports::bind("demo CRM", addresses.crm, HINT)?;
    let listeners = Listeners::bind(&settings, HINT)?;
    let secrets = Secrets::of(data)?;
    let backend =
        Backend::open(data, &secrets, [addresses.crm, addresses.dispatcher], &Clock::system())
            .await?;
    let (stop_crm, crm_stopped) = oneshot::channel::<()>();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let crm = tokio::spawn(backend.serve(listener, async {
        let _ = crm_stopped.await;
    }));
    let parts = Parts::make(&settings, Clock::system()).await?;
    let token = seed::token(&parts, data).await?;
    seed::document(&parts, data, addresses.crm, &secrets).await?;
    let environment = environment(addresses, token);
    let text: String =
        environment.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    replace(&data.join("demo.env"), text.as_bytes(), Readers::Owner)?;
    let node = Node::start(&settings, listeners, parts, lock).await?;
    welcome::show(data, &environment);
    let ended = node.run().await;
    let _ = stop_crm.send(());
    crm.await??;
    ended
}

/// What `demo.env` holds. No value has a quote in it.
fn environment(addresses: &Addresses, admin_token: String) -> Vec<(String, String)> {
    let url = |address: SocketAddr| format!("http://{address}");
    let mut environment = vec![
        ("GATEWAY_URL".to_owned(), url(addresses.gateway)),
        ("ADMIN_URL".to_owned(), url(addresses.admin)),
        ("DISPATCHER_URL".to_owned(), url(addresses.dispatcher)),
        ("CRM_URL".to_owned(), url(addresses.crm)),
        ("STATUS_URL".to_owned(), url(addresses.status)),
        ("ADMIN_TOKEN".to_owned(), admin_token.clone()),
        ("TOLLGATE_ADMIN_URL".to_owned(), url(addresses.admin)),
        ("TOLLGATE_ADMIN_TOKEN".to_owned(), admin_token),
    ];
    let now = Clock::system().now();
    for consumer in demo::CONSUMERS {
        let tenant = consumer.tenant.to_uppercase();
        environment.push((format!("{tenant}_KEY"), consumer.api_key.to_owned()));
        environment.push((format!("{tenant}_JWT"), token::for_demo(consumer, now)));
    }
    environment
}
