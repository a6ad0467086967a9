//! `tollgate demo`: everything in one process, in front of the demo CRM. The roles are those of `serve`.

use crate::node::{self, Node, Start};
use crate::settings::{Role, Settings};
use crate::{Ending, ports, print, token};
use anyhow::bail;
use clap::Args;
use gateway::watch::{Readers, replace};
use model::Clock;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

const HINT: &str = "choose others with `--port-base N` (`make run PORT_BASE=N`)";
/// The demo's own ports when nobody chooses others: gateway, admin, CRM, status.
const PORTS: [u16; 4] = [8080, 8081, 9000, 8083];

/// Starts gateway, admin and the demo CRM in one process, on SQLite; nothing else is needed.
///
/// Example: tollgate demo --data .tollgate/demo --port-base 18080
#[derive(Args)]
pub(crate) struct Demo {
    /// Where everything is kept; made and filled at first start.
    #[arg(long, default_value = ".tollgate/demo")]
    data: PathBuf,
    /// Ports N (gateway), N+1 (admin), N+3 (CRM), N+4 (status) instead of 8080, 8081, 9000, 8083.
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
    crm: SocketAddr,
    status: SocketAddr,
}

impl Addresses {
    fn new(base: Option<u16>) -> Self {
        let [gateway, admin, crm, status] = match base {
            None => PORTS,
            Some(base) => [base, base + 1, base + 3, base + 4],
        };
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { gateway: at(gateway), admin: at(admin), crm: at(crm), status: at(status) }
    }
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let addresses = Addresses::new(self.port_base);
        let lock = node::hold(&self.data)?;
        seed(&self.data, addresses.crm)?;
        if self.seed_only {
            print(&format!("{} is filled", self.data.display()));
            return Ok(Ending::Done);
        }
        crate::log::start("warn,gateway::watch=info");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(start(self.data, addresses, lock))?;
        runtime.shutdown_background();
        Ok(Ending::Done)
    }
}

async fn start(data: PathBuf, addresses: Addresses, lock: File) -> anyhow::Result<()> {
    let listener = ports::bind("demo CRM", addresses.crm, HINT)?;
    let crm = crm::Crm::open(crm_settings(&data)).await?;
    let (stop_crm, crm_stopped) = oneshot::channel::<()>();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let crm = tokio::spawn(crm.serve(listener, async {
        let _ = crm_stopped.await;
    }));
    let mut settings = Settings::read(None)?;
    settings.data.clone_from(&data);
    settings.document.file = None;
    settings.roles = vec![Role::Gateway, Role::Admin];
    settings.listen.gateway = addresses.gateway;
    settings.listen.admin = addresses.admin;
    settings.listen.status = addresses.status;
    let environment = environment(&data, &addresses)?;
    let text: String =
        environment.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    replace(&data.join("demo.env"), text.as_bytes(), Readers::Owner)?;
    let start = Start { settings, clock: Clock::system(), hint: HINT, lock };
    let node = Node::start(start).await?;
    welcome(&data, &environment);
    let ended = node.run().await;
    let _ = stop_crm.send(());
    crm.await??;
    ended
}

/// Fills an empty data folder; what is there already stays, but for the address of the demo's own CRM.
pub(crate) fn seed(data: &Path, crm: SocketAddr) -> anyhow::Result<()> {
    let packs = data.join("packs");
    std::fs::create_dir_all(&packs)?;
    for pack in demo::PACKS {
        let file = packs.join(format!("{}-{}.wasm", pack.name, pack.version));
        if !file.exists() {
            let component = pack_host::componentize(pack.wasm)?;
            replace(&file, &component, Readers::Everybody)?;
        }
    }
    let (document, place) = (data.join("document.yaml"), data.join("crm.address"));
    let before = std::fs::read_to_string(&place).unwrap_or_else(|_| demo::CRM_ADDRESS.to_owned());
    let text = match std::fs::read_to_string(&document) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => demo::DOCUMENT.to_owned(),
        Err(error) => bail!("{} can't be read: {error}", document.display()),
    };
    let after = crm.to_string();
    replace(&document, text.replace(before.trim(), &after).as_bytes(), Readers::Everybody)?;
    replace(&place, after.as_bytes(), Readers::Everybody)?;
    Ok(())
}

/// The demo's CRM, with a client for each consumer of the demo.
pub(crate) fn crm_settings(data: &Path) -> crm::Settings {
    let clients = demo::CONSUMERS.iter().map(|consumer| crm::Client {
        id: consumer.id.to_owned(),
        secret: consumer.client_secret.to_owned(),
        tenant: consumer.tenant.to_owned(),
        scopes: consumer.scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    });
    crm::Settings {
        database: data.join("crm.db"),
        issuer: demo::ISSUER.to_owned(),
        audience: demo::AUDIENCE.to_owned(),
        clients: clients.collect(),
    }
}

/// What `demo.env` holds. No value has a quote in it.
fn environment(data: &Path, addresses: &Addresses) -> anyhow::Result<Vec<(String, String)>> {
    let url = |address: SocketAddr| format!("http://{address}");
    let admin_token = node::admin_token(data)?;
    let mut environment = vec![
        ("GATEWAY_URL".to_owned(), url(addresses.gateway)),
        ("ADMIN_URL".to_owned(), url(addresses.admin)),
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
    Ok(environment)
}

/// Addresses, keys and commands to try, each on one line.
fn welcome(data: &Path, environment: &[(String, String)]) {
    let value = |name: &str| {
        let found = environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let (gateway, admin) = (value("GATEWAY_URL"), value("ADMIN_URL"));
    let (acme, globex) = (value("ACME_KEY"), value("GLOBEX_KEY"));
    let body = r#"'{"name":{"given":"Ada","family":"Lovelace"},"emails":["ada@example.org"],"notes":"met at the fair"}'"#;
    let lines = [
        "Tollgate is ready.".to_owned(),
        String::new(),
        format!("  gateway   {gateway}"),
        format!("  admin     {admin}"),
        format!("  demo CRM  {}", value("CRM_URL")),
        format!("  status    {}/metrics", value("STATUS_URL")),
        String::new(),
        format!("  acme      {acme}   (gold: reads and writes)"),
        format!("  globex    {globex}   (free: reads)"),
        format!("  admin     {}", value("ADMIN_TOKEN")),
        format!("  all of it, and JWTs, in {}", data.join("demo.env").display()),
        String::new(),
        "Try:".to_owned(),
        format!("  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {acme}'"),
        format!(
            "  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {acme}' -H 'Content-Type: application/json' -H 'Idempotency-Key: try-1' -d {body}"
        ),
        format!(
            "  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {globex}' -H 'Content-Type: application/json' -H 'Idempotency-Key: try-2' -d {body}"
        ),
        format!(
            "  curl -i {gateway}/v1/contacts -H \"Authorization: Bearer $(. {}; echo $ACME_JWT)\"",
            data.join("demo.env").display()
        ),
        format!("  curl -s {gateway}/.tollgate/usage -H 'X-Api-Key: {acme}'"),
        format!("  curl -s {gateway}/.tollgate/errors/RATE_LIMITED"),
        format!(
            "  curl -s {admin}/v1/document -H 'Authorization: Bearer {}'",
            value("ADMIN_TOKEN")
        ),
        String::new(),
        format!(
            "The document is {}: edit it, and the next request sees it. Ctrl-C ends.",
            data.join("document.yaml").display()
        ),
    ];
    for line in lines {
        print(&line);
    }
}
