//! The chains: what stands between the load and the upstream, and the requests that it gets.

use crate::load;
use crate::packs::{self, PACK};
use crate::process::Process;
use crate::{Outcome, Settings};
use model::Clock;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Longest start of a process; packs are compiled in it.
const START_MAX: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(50);
/// Distinct tokens, so that the full chain does not live on a single one.
const TOKENS: u32 = 64;
const TOKEN_LIFETIME_SECONDS: i64 = 24 * 60 * 60;
const ISSUER: &str = "https://idp.bench.example";
const AUDIENCE: &str = "crm-api";
const KEY: &str = "tg_live_be7c_0123456789abcdefghijklmnopqrstuv";
const KEY_PREFIX: &str = "tg_live_be7c";

/// Where a bench takes place.
pub(crate) struct Place<'a> {
    /// For everything that is written.
    pub(crate) folder: &'a Path,
    /// Where the programs lie.
    pub(crate) programs: &'a Path,
    pub(crate) settings: &'a Settings,
}

/// One way from the load to the upstream.
pub(crate) struct Chain {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Where its requests go.
    pub(crate) address: SocketAddr,
    /// The proxy; none when there is nothing in between.
    pub(crate) process: Option<Process>,
    /// What connections send, in turns.
    pub(crate) requests: Vec<Arc<[u8]>>,
    /// Requests that must be refused, with the status: the chain does what it is measured for.
    refused: Vec<(Arc<[u8]>, u16)>,
}

impl Chain {
    /// Shows that the chain answers what it should and refuses what it should.
    pub(crate) async fn prove(&self) -> Outcome<()> {
        let accepted = self.requests.iter().map(|request| (request, 200));
        for (request, expected) in
            accepted.chain(self.refused.iter().map(|(request, status)| (request, *status)))
        {
            let status = load::once(self.address, request.clone())
                .await
                .map_err(|error| format!("`{}`: {error}", self.id))?;
            if status != expected {
                let request = String::from_utf8_lossy(request);
                return Err(format!(
                    "`{}` answered {status} instead of {expected} to\n{request}",
                    self.id
                )
                .into());
            }
        }
        Ok(())
    }
}

/// Starts the upstream.
pub(crate) async fn upstream(place: &Place<'_>) -> Outcome<(Process, SocketAddr)> {
    let threads = place.settings.threads.to_string();
    let address = free_address()?;
    let mut command = Command::new(place.programs.join("bench-upstream"));
    command.args([&address.to_string(), &threads, &place.settings.bytes.to_string()]);
    let mut process = Process::start("upstream", &mut command, &place.folder.join("upstream.log"))?;
    ready(&mut process, address, "/", START_MAX).await?;
    Ok((process, address))
}

/// Starts the upstream and every chain, and waits until all answer.
pub(crate) async fn start(place: &Place<'_>, clock: &Clock) -> Outcome<(Process, Vec<Chain>)> {
    let threads = place.settings.threads.to_string();
    let (upstream, upstream_at) = upstream(place).await?;

    let signed = tokens(clock);
    let full: Vec<_> =
        signed.iter().map(|token| bearer(token, "x-correlation-id: bench\r\n")).collect();
    let key = format!("x-api-key: {KEY}\r\n");

    let bare_at = free_address()?;
    let mut command = Command::new(place.programs.join("bench-bare"));
    command.args([&bare_at.to_string(), &upstream_at.to_string(), &threads]);
    let mut bare = Process::start("bare", &mut command, &place.folder.join("bare.log"))?;
    ready(&mut bare, bare_at, "/", START_MAX).await?;

    let routing =
        Tollgate::start(place, "routing", &routing_document(upstream_at), START_MAX).await?;
    let whole = Tollgate::start(place, "full", &full_document(upstream_at)?, START_MAX).await?;
    let chains = vec![
        Chain {
            id: "direct",
            title: "direct (CPU is the upstream's)",
            address: upstream_at,
            process: None,
            requests: full.clone(),
            refused: Vec::new(),
        },
        Chain {
            id: "bare",
            title: "bare pingora",
            address: bare_at,
            process: Some(bare),
            requests: full.clone(),
            refused: Vec::new(),
        },
        Chain {
            id: "routing",
            title: "Tollgate, routing only",
            address: routing.address,
            process: Some(routing.process),
            requests: vec![get("/v1/contacts", &key)],
            refused: vec![(get("/v1/contacts", ""), 401), (get("/v1/nothing", &key), 404)],
        },
        Chain {
            id: "full",
            title: "Tollgate, full chain",
            address: whole.address,
            process: Some(whole.process),
            refused: signed.first().map(|token| refusals(token)).unwrap_or_default(),
            requests: full,
        },
    ];
    Ok((upstream, chains))
}

/// What the full chain must refuse: no token, one whose signature fails, and what the pack denies.
fn refusals(token: &str) -> Vec<(Arc<[u8]>, u16)> {
    let forged = token.rsplit_once('.').map(|(signed, _)| format!("{signed}.{}", "A".repeat(342)));
    let forged = bearer(&forged.unwrap_or_default(), "x-correlation-id: bench\r\n");
    vec![(get("/v1/contacts", ""), 401), (forged, 401), (bearer(token, ""), 403)]
}

fn bearer(token: &str, headers: &str) -> Arc<[u8]> {
    get("/v1/contacts", &format!("authorization: Bearer {token}\r\n{headers}"))
}

pub(crate) fn get(path: &str, headers: &str) -> Arc<[u8]> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: bench.example\r\naccept: application/json\r\n{headers}\r\n"
    )
    .into_bytes()
    .into()
}

/// The gateway, as it is shipped.
pub(crate) struct Tollgate {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Tollgate {
    /// Starts one under a document, and waits for so long at most until it is ready.
    pub(crate) async fn start(
        place: &Place<'_>,
        name: &'static str,
        document: &Value,
        start_max: Duration,
    ) -> Outcome<Self> {
        Self::start_with(place, name, document, start_max, &json!({})).await
    }

    /// The same with more settings of the process.
    pub(crate) async fn start_with(
        place: &Place<'_>,
        name: &'static str,
        document: &Value,
        start_max: Duration,
        more: &Value,
    ) -> Outcome<Self> {
        let folder = std::path::absolute(place.folder)?.join(name);
        packs::file::lay(&folder.join("packs"))?;
        write_json(&folder.join("jwks.json"), &json!(crm::Signer::demo().jwks()))?;
        // JSON is YAML. Paths in a document are absolute, whatever the process's working folder.
        let mut document = document.clone();
        if let Some(file) = document.pointer_mut("/issuers/0/jwks/file") {
            *file = json!(folder.join("jwks.json"));
        }
        let document_at = write_json(&folder.join("document.yaml"), &document)?;
        let (gateway, status) = (free_address()?, free_address()?);
        let mut settings = json!({
            "roles": ["gateway"],
            "listen": { "gateway": gateway, "status": status },
            "data": folder,
            "document": { "file": document_at },
            "threads": place.settings.threads,
        });
        if let (Some(settings), Some(more)) = (settings.as_object_mut(), more.as_object()) {
            settings.extend(more.clone());
        }
        let config = write_json(&folder.join("tollgate.yaml"), &settings)?;
        let mut command = Command::new(place.programs.join("tollgate"));
        command.args(["serve", "--config"]).arg(config).env("TOLLGATE_LOG", "warn");
        let mut process =
            Process::start(name, &mut command, &place.folder.join(format!("{name}.log")))?;
        ready(&mut process, status, "/readyz", start_max).await?;
        Ok(Self { address: gateway, process })
    }
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Outcome<PathBuf> {
    std::fs::write(path, serde_json::to_vec_pretty(value)?)?;
    Ok(path.to_owned())
}

/// Waits until the process answers 200.
pub(crate) async fn ready(
    process: &mut Process,
    address: SocketAddr,
    path: &str,
    start_max: Duration,
) -> Outcome<()> {
    let answers = async {
        loop {
            process.check()?;
            if matches!(load::once(address, get(path, "")).await, Ok(200)) {
                return Ok(());
            }
            tokio::time::sleep(START_POLL).await;
        }
    };
    let waited = tokio::time::timeout(start_max, answers).await;
    waited.unwrap_or_else(|_| Err(format!("nothing answers 200 at {address}{path}").into()))
}

/// A port of loopback that was free a moment ago.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// One service, one version, one route: what both documents share.
pub(crate) fn document(
    upstream: SocketAddr,
    credential: &str,
    scopes: &[&str],
    limits: Value,
) -> Value {
    json!({
        "format": 1,
        "upstreams": [{ "id": "crm", "targets": [{ "address": upstream }] }],
        "services": [{
            "id": "contacts",
            "select": ["path", "header", "tenant_pin", "default"],
            "versions": [{ "name": "v1", "upstream": "crm", "state": "active", "default": true }],
        }],
        "routes": [{
            "id": "contacts.list",
            "service": "contacts",
            "match": { "path": "/contacts", "methods": ["GET"] },
            "authenticate": { "any_of": [credential] },
            "scopes": scopes,
        }],
        "plans": [{ "id": "gold", "limits": limits }],
        "tenants": [{
            "id": "acme",
            "plan": "gold",
            "state": "active",
            "consumers": [{
                "id": "app",
                "scopes": ["contacts:read"],
                "credentials": [{ "id": "k1", "api_key": { "hash": digest(KEY), "prefix": KEY_PREFIX } }],
            }],
        }],
    })
}

/// An API key, a route, an upstream.
fn routing_document(upstream: SocketAddr) -> Value {
    document(upstream, "api_key", &[], json!([]))
}

/// A JWT with scopes, three limits that never refuse, and a pack.
fn full_document(upstream: SocketAddr) -> Outcome<Value> {
    let limits = json!([
        { "id": "burst", "rate": "1000000/s", "burst": 1_000_000, "per": "tenant", "on_store_error": "local" },
        { "id": "daily", "quota": "1000000000/day", "per": "tenant", "on_store_error": "local" },
        { "id": "open", "concurrency": 10_000, "per": "consumer", "on_store_error": "local" },
    ]);
    let mut document = document(upstream, "jwt", &["contacts:read"], limits);
    if let Some(document) = document.as_object_mut() {
        let issuer = json!([{
            "id": "idp", "issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["RS256"],
            "jwks": { "file": "" }, "tenant": "acme", "typ": "at+jwt",
        }]);
        document.insert("issuers".to_owned(), issuer);
        document.insert("pack_keys".to_owned(), json!([packs::file::key()?]));
        document.insert("packs".to_owned(), json!([{ "id": PACK, "version": "1.0.0" }]));
        let attachment = json!([{
            "id": "correlate", "pack": format!("{PACK}@1.0.0"), "phases": ["request"], "mode": "enforce",
            "on_failure": "closed", "settings": { "header": "x-correlation-id" },
        }]);
        document.insert("attachments".to_owned(), attachment);
    }
    Ok(document)
}

/// As documents hold it.
pub(crate) fn digest(key: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(key.as_bytes()).iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn tokens(clock: &Clock) -> Vec<String> {
    let signer = crm::Signer::demo();
    let now = clock.now().as_second();
    let claims = |n: u32| crm::Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: "app".to_owned(),
        client_id: "app".to_owned(),
        tenant: "acme".to_owned(),
        scope: "contacts:read".to_owned(),
        iat: now,
        nbf: now,
        exp: now + TOKEN_LIFETIME_SECONDS,
        jti: format!("bench-{n}"),
    };
    (0..TOKENS).map(|n| signer.mint(&claims(n))).collect()
}
