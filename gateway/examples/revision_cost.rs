//! What a revision of many tenants costs: the time of each phase, and of a lookup afterwards, for growing documents.
//!
//! `cargo run --release -p gateway --example revision_cost`. Each tenant has three API keys. A busy machine adds to it.
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]

use gateway::ledger::AnyLedger;
use gateway::{Gateway, Settings, record};
use http::{HeaderMap, HeaderValue, Method};
use model::document::CredentialKind;
use model::idempotency::Salt;
use model::{Clock, Head, config};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stages::authenticate::{Requirement, X_API_KEY};
use std::error::Error;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use store::seal::MasterKeys;

const TENANTS: [usize; 3] = [100, 1_000, 10_000];
const KEYS: usize = 3;
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];
const ROUNDS: usize = 5;
const LOOKUPS: u32 = 20_000;

/// The best of some rounds.
struct Best {
    parse: Duration,
    check: Duration,
    compile: Duration,
    swap: Duration,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Fails only where somebody was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let gateway = gateway(folder.path()).await?;
    println!("best of {ROUNDS}, ms; a lookup in µs");
    println!(
        "{:>8} {:>6} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "tenants", "form", "KiB", "parse", "check", "compile", "swap", "sum", "lookup"
    );
    for tenants in TENANTS {
        let document = document(tenants)?;
        let texts = [("json", document.to_string()), ("yaml", serde_saphyr::to_string(&document)?)];
        for (form, text) in texts {
            let best = best(&gateway, &text)?;
            let lookup = lookup(&gateway, tenants).await?;
            let phases = [best.parse, best.check, best.compile, best.swap];
            let sum = phases.iter().sum();
            let [parse, check, compile, swap] = phases.map(millis);
            println!(
                "{tenants:>8} {form:>6} {:>9} {parse:>8.1} {check:>8.1} {compile:>8.1} {swap:>8.1} {:>8.1} {lookup:>8.2}",
                text.len() / 1024,
                millis(sum),
            );
        }
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn gateway(folder: &std::path::Path) -> Result<Arc<Gateway>, Box<dyn Error>> {
    let url = format!("sqlite://{}", folder.join("tollgate.db").display());
    Ok(Gateway::new(Settings {
        clock: Clock::system(),
        packs: folder.join("packs"),
        ledger: AnyLedger::in_process(),
        salt: Salt([0; 32]),
        node: "bench".into(),
        runtime: tokio::runtime::Handle::current(),
        version: "bench",
        store: Store::open(&url).await?,
        keys: MasterKeys::default(),
        records: record::Settings::default(),
    })?)
}

fn best(gateway: &Gateway, text: &str) -> Result<Best, String> {
    let failed = |errors: Vec<config::ConfigError>| format!("{errors:?}");
    let most = Duration::MAX;
    let mut best = Best { parse: most, check: most, compile: most, swap: most };
    for round in 1..=ROUNDS {
        let began = Instant::now();
        let value = config::parse(text).map_err(failed)?;
        best.parse = best.parse.min(began.elapsed());
        let began = Instant::now();
        let config = Arc::new(config::check(&value).map_err(failed)?);
        best.check = best.check.min(began.elapsed());
        let began = Instant::now();
        let compiled = gateway.compile(config).map_err(failed)?;
        best.compile = best.compile.min(began.elapsed());
        let began = Instant::now();
        // With it goes the one before.
        gateway.put_in_force(compiled, round as u64);
        best.swap = best.swap.min(began.elapsed());
    }
    Ok(best)
}

/// How long a caller is looked up, in µs: its key is hashed, found and compared.
async fn lookup(gateway: &Gateway, tenants: usize) -> Result<f64, String> {
    let snapshot = gateway.live.pin().ok_or("nothing is in force")?;
    let requirement = Requirement { any_of: vec![CredentialKind::ApiKey], scopes: Vec::new() };
    let heads = (0..100).map(|index| head(&key(index * (tenants * KEYS) / 100)));
    let heads = heads.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{error}"))?;
    let now = gateway.clock.now();
    let began = Instant::now();
    for head in heads.iter().cycle().take(LOOKUPS as usize) {
        let caller =
            snapshot.directory.authenticate(&requirement, &gateway.memory, head, now).await;
        caller.map_err(|refused| format!("{:?}", refused.reject))?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKUPS))
}

fn head(key: &str) -> Result<Head, http::header::InvalidHeaderValue> {
    let mut headers = HeaderMap::new();
    headers.insert(X_API_KEY, HeaderValue::from_str(key)?);
    Ok(Head {
        method: Method::GET,
        path: "/".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    })
}

fn key(number: usize) -> String {
    format!("{}_0123456789abcdef0123456789abcdef", prefix(number))
}

fn prefix(number: usize) -> String {
    format!("tg_live_{number:08}")
}

fn document(tenants: usize) -> Result<Value, std::fmt::Error> {
    let tenants = (0..tenants).map(|tenant| {
        let credentials = (0..KEYS).map(|at| {
            let number = tenant * KEYS + at;
            let mut hash = "sha256:".to_owned();
            for byte in Sha256::digest(key(number)) {
                write!(hash, "{byte:02x}")?;
            }
            let api_key =
                json!({ "hash": hash, "prefix": prefix(number), "expires": "2099-01-01T00:00:00Z" });
            Ok(json!({ "id": format!("k{at}"), "api_key": api_key }))
        });
        let credentials: Value = credentials.collect::<Result<_, std::fmt::Error>>()?;
        Ok(json!({
            "id": format!("tenant-{tenant}"),
            "plan": if tenant % 2 == 0 { "gold" } else { "free" },
            "state": "active",
            "timezone": ZONES.get(tenant % ZONES.len()),
            "pins": { "contacts": "v1" },
            "consumers": [{
                "id": "app",
                "scopes": ["contacts:read", "contacts:write"],
                "credentials": credentials,
            }],
        }))
    });
    let limits = json!([
        { "id": "burst", "rate": "50/s", "burst": 100, "per": "tenant", "on_store_error": "local" },
        { "id": "daily", "quota": "100000/day", "per": "tenant", "on_store_error": "local" },
    ]);
    Ok(json!({
        "format": 1,
        "upstreams": [{ "id": "crm", "targets": [{ "address": "127.0.0.1:9000" }] }],
        "services": [{
            "id": "contacts",
            "select": ["path", "tenant_pin", "default"],
            "versions": [{ "name": "v1", "upstream": "crm", "state": "active", "default": true }],
        }],
        "routes": [{
            "id": "contacts.list",
            "service": "contacts",
            "match": { "path": "/contacts", "methods": ["GET"] },
            "authenticate": { "any_of": ["api_key"] },
        }],
        "plans": [{ "id": "gold", "limits": limits }, { "id": "free", "limits": limits }],
        "tenants": tenants.collect::<Result<Value, std::fmt::Error>>()?,
    }))
}
