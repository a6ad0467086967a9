//! What a document of many tenants costs: reading and compiling a revision of it, and finding the caller of an API key
//! afterwards. Measured in this process, with the code that gateways and admin run.
//!
//! Invariant: the sizes take turns within each round, so that ratios compare neighbours in time.

use crate::report::Spread;
use crate::{Outcome, chain, say};
use gateway::ledger::AnyLedger;
use gateway::quotas::Quotas;
use gateway::{Gateway, record};
use http::{HeaderMap, HeaderValue, Method};
use model::document::CredentialKind;
use model::idempotency::Salt;
use model::{Clock, Head, config};
use pack_host::worker::Worker;
use pack_host::{Host, HostSettings};
use serde::Serialize;
use serde_json::{Value, json};
use stages::authenticate::{Requirement, X_API_KEY};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use store::seal::MasterKeys;

/// The sizes; the first is what the others are compared with.
const TENANTS: [usize; 3] = [10, 1_000, 10_000];
/// API keys of each tenant.
const KEYS: usize = 3;
/// How long reading and compiling the largest document may take.
const REVISION_MAX: Duration = Duration::from_secs(1);
/// Lookups of one measurement.
const LOOKUPS: usize = 40_000;
/// Requests that they are made of, as many for each size, over all of its keys: their own memory costs every size the
/// same.
const REQUESTS: usize = 4_096;
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];

/// One size in one round, as measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) round: u32,
    pub(crate) tenants: usize,
    /// Size of the document's text.
    pub(crate) bytes: usize,
    /// Text to value, JSON as the API writes it.
    pub(crate) parse_ms: f64,
    /// Value to checked configuration.
    pub(crate) check_ms: f64,
    /// Configuration to snapshot.
    pub(crate) compile_ms: f64,
    /// Putting it in force and letting go of the one before.
    pub(crate) swap_ms: f64,
    /// Hashing a key, finding its caller and comparing.
    pub(crate) lookup_us: f64,
}

impl Measured {
    /// All that lies between a text and its being in force.
    pub(crate) fn revision_ms(&self) -> f64 {
        self.parse_ms + self.check_ms + self.compile_ms + self.swap_ms
    }
}

/// A document, who asks under it, and a gateway that has no other: with a revision goes the one before, which is as large.
struct Case {
    gateway: Arc<Gateway>,
    tenants: usize,
    text: String,
    heads: Vec<Head>,
}

/// Measures every size in every round.
pub(crate) async fn measure(folder: &Path, rounds: u32) -> Outcome<Vec<Measured>> {
    let mut cases = Vec::new();
    for tenants in TENANTS {
        let case = Case::of(tenants, folder).await?;
        // The first one has no predecessor, and finds nothing in any cache.
        case.measure(0).await?;
        cases.push(case);
    }
    let mut measured = Vec::new();
    for round in 1..=rounds {
        for case in &cases {
            let one = case.measure(round).await?;
            say(&format!(
                "round {round:>2}  {:>6} tenants  a revision {:>7.1} ms  a lookup {:.2} µs",
                one.tenants,
                one.revision_ms(),
                one.lookup_us
            ));
            measured.push(one);
        }
    }
    Ok(measured)
}

/// A gateway that serves nobody. It compiles packs by the program among these, if there are any.
pub(crate) async fn gateway(
    folder: &Path,
    name: &str,
    programs: Option<&Path>,
) -> Outcome<Arc<Gateway>> {
    // It wants a provider, though nothing is fetched here. Fails only where somebody was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("sqlite://{}", folder.join(format!("{name}.db")).display());
    let worker = programs.map_or(Worker::Here, |path| Worker::Process(path.join("tollgate")));
    let packs = HostSettings { cache: Some(folder.join("aot")), ..HostSettings::small(worker) };
    Ok(Gateway::new(gateway::Settings {
        clock: Clock::system(),
        packs: folder.join("packs"),
        host: Host::new(packs)?,
        quotas: Quotas::in_process(),
        ledger: AnyLedger::in_process(),
        salt: Salt([0; 32]),
        node: "bench".into(),
        runtime: tokio::runtime::Handle::current(),
        version: env!("CARGO_PKG_VERSION"),
        store: Store::open(&url).await?,
        keys: MasterKeys::default(),
        reach: model::webhook::Reach::default(),
        events_kept: model::units::Duration(Duration::from_secs(30 * 86_400)),
        records: record::Settings::default(),
    })?)
}

impl Case {
    async fn of(tenants: usize, folder: &Path) -> Outcome<Self> {
        let keys = tenants * KEYS;
        // A prime: comes to each key, and far from the one before.
        let heads = (0..REQUESTS).map(|index| head(&key(index * 7_919 % keys)));
        Ok(Self {
            gateway: gateway(folder, &format!("tenants-{tenants}"), None).await?,
            tenants,
            text: document(tenants).to_string(),
            heads: heads.collect::<Result<_, _>>()?,
        })
    }

    async fn measure(&self, round: u32) -> Outcome<Measured> {
        let failed = |errors: Vec<config::ConfigError>| format!("{errors:?}");
        let (value, parse_ms) = timed(|| config::parse(&self.text));
        let (config, check_ms) = timed(|| config::check(&value.map_err(failed)?).map_err(failed));
        let config = Arc::new(config?);
        let (compiled, compile_ms) = timed(|| self.gateway.compile(config));
        let compiled = compiled.map_err(failed)?;
        let ((), swap_ms) = timed(|| self.gateway.put_in_force(compiled, u64::from(round) + 1));
        Ok(Measured {
            round,
            tenants: self.tenants,
            bytes: self.text.len(),
            parse_ms,
            check_ms,
            compile_ms,
            swap_ms,
            lookup_us: self.look_up().await?,
        })
    }

    async fn look_up(&self) -> Outcome<f64> {
        let gateway = &self.gateway;
        let snapshot = gateway.live.pin().ok_or("nothing is in force")?;
        let requirement = Requirement { any_of: vec![CredentialKind::ApiKey], scopes: Vec::new() };
        let now = gateway.clock.now();
        let began = Instant::now();
        for head in self.heads.iter().cycle().take(LOOKUPS) {
            let caller =
                snapshot.directory.authenticate(&requirement, &gateway.memory, head, now).await;
            caller.map_err(|refused| format!("{:?}", refused.reject))?;
        }
        let each = began.elapsed() / u32::try_from(LOOKUPS)?;
        Ok(each.as_secs_f64() * 1e6)
    }
}

pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let made = work();
    (made, began.elapsed().as_secs_f64() * 1e3)
}

fn head(key: &str) -> Result<Head, http::header::InvalidHeaderValue> {
    let mut headers = HeaderMap::new();
    headers.insert(X_API_KEY, HeaderValue::from_str(key)?);
    Ok(Head {
        method: Method::GET,
        path: "/".to_owned(),
        query: None,
        authority: "bench.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    })
}

fn prefix(number: usize) -> String {
    format!("tg_live_{number:08}")
}

fn key(number: usize) -> String {
    format!("{}_0123456789abcdef0123456789abcdef", prefix(number))
}

/// A document of so many tenants, otherwise small.
fn document(tenants: usize) -> Value {
    let limits = json!([
        { "id": "burst", "rate": "50/s", "burst": 100, "per": "tenant", "on_store_error": "local" },
        { "id": "daily", "quota": "100000/day", "per": "tenant", "on_store_error": "local" },
    ]);
    json!({
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
        "tenants": (0..tenants).map(tenant).collect::<Value>(),
    })
}

fn tenant(number: usize) -> Value {
    let credential = |each| {
        let key_number = number * KEYS + each;
        let api_key = json!({
            "hash": chain::digest(&key(key_number)), "prefix": prefix(key_number),
            "expires": "2099-01-01T00:00:00Z",
        });
        json!({ "id": format!("k{each}"), "api_key": api_key })
    };
    json!({
        "id": format!("tenant-{number}"),
        "plan": if number.is_multiple_of(2) { "gold" } else { "free" },
        "state": "active",
        "timezone": ZONES.get(number % ZONES.len()),
        "pins": { "contacts": "v1" },
        "consumers": [{
            "id": "app",
            "scopes": ["contacts:read", "contacts:write"],
            "credentials": (0..KEYS).map(credential).collect::<Value>(),
        }],
    })
}

/// The table, with ratios to the smallest size in the same round.
pub(crate) fn markdown(measured: &[Measured]) -> String {
    let of = |tenants| measured.iter().filter(move |one| one.tenants == tenants);
    let [smallest, ..] = TENANTS;
    let mut text = format!(
        "| tenants × {KEYS} keys | document KiB | parse / check / compile / swap ms, median | a revision ms, median (min–max) | \
         a lookup µs | × that of {smallest} tenants, of one round |\n|---|---|---|---|---|---|\n",
    );
    for tenants in TENANTS {
        let Some(first) = of(tenants).next() else { continue };
        let spread = |value: fn(&Measured) -> f64| Spread::of(of(tenants).map(value));
        let ratios =
            of(tenants).zip(of(smallest)).map(|(one, other)| one.lookup_us / other.lookup_us);
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "| {tenants} | {} | {:.1} / {:.1} / {:.1} / {:.1} | {:.1} | {:.2} | {:.2} |",
            first.bytes / 1024,
            spread(|one| one.parse_ms).median,
            spread(|one| one.check_ms).median,
            spread(|one| one.compile_ms).median,
            spread(|one| one.swap_ms).median,
            spread(Measured::revision_ms),
            spread(|one| one.lookup_us),
            Spread::of(ratios),
        );
    }
    let verdict = if in_time(measured) { "In time" } else { "FAILED: too late" };
    let _ = writeln!(
        text,
        "\n{verdict}: a revision of the most tenants may take {REVISION_MAX:?}. Read from JSON, in this process, {LOOKUPS} lookups \
         by {REQUESTS} requests over all keys.\n",
    );
    text
}

/// Whether a revision of the most tenants was made in time, by the median: one round may have been disturbed.
pub(crate) fn in_time(measured: &[Measured]) -> bool {
    let most = TENANTS.into_iter().max();
    let revisions = measured.iter().filter(|one| Some(one.tenants) == most);
    Spread::of(revisions.map(Measured::revision_ms)).median < REVISION_MAX.as_secs_f64() * 1e3
}
