//! Where records are kept: a gateway of its own for each store, and what store and gateway cost.

use crate::Outcome;
use crate::chain::{Place, Tollgate};
use crate::process::Cpu;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest start of a gateway.
const START_MAX: Duration = Duration::from_secs(30);

/// A store.
pub(super) struct Kind {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    settings: Value,
    /// Its server, which has processes of its own; none within the gateway.
    server: Option<u32>,
}

/// A gateway whose records are there.
pub(super) struct Store {
    pub(super) kind: Kind,
    gateway: Tollgate,
}

/// What both have used so far.
#[derive(Clone, Copy)]
pub(super) struct Used {
    pub(super) gateway: Cpu,
    pub(super) store: Cpu,
}

/// Every store there is; the servers are those of `scripts/services with`.
pub(super) fn all() -> Outcome<[Kind; 4]> {
    let (redis, postgres) = (given("TOLLGATE_TEST_REDIS")?, given("TOLLGATE_TEST_POSTGRES")?);
    let folder = PathBuf::from(given("TOLLGATE_TEST_SERVICES")?);
    let first_number = |file: PathBuf| -> Outcome<u32> {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let word = text.split_whitespace().next().ok_or("a list of processes is empty")?;
        Ok(word.parse()?)
    };
    let of = |id, title, settings, server| Kind { id, title, settings, server };
    Ok([
        of("memory", "in process", json!({ "idempotency": "memory" }), None),
        of("sqlite", "SQLite", json!({ "idempotency": "database" }), None),
        of(
            "postgres",
            "PostgreSQL",
            json!({ "idempotency": "database", "database": postgres }),
            Some(first_number(folder.join("postgres/postmaster.pid"))?),
        ),
        of(
            "redis",
            "Redis",
            json!({ "idempotency": "redis", "redis": { "idempotency": redis } }),
            Some(first_number(folder.join("pids"))?),
        ),
    ])
}

fn given(name: &str) -> Outcome<String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not there: `make bench-keys` starts the servers").into())
}

impl Store {
    /// Starts its gateway under this document.
    pub(super) async fn start(place: &Place<'_>, kind: Kind, document: &Value) -> Outcome<Self> {
        let more = &kind.settings;
        let gateway = Tollgate::start_with(place, kind.id, document, START_MAX, more).await?;
        Ok(Self { kind, gateway })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    pub(super) fn cpu(&self) -> Outcome<Used> {
        let store = match self.kind.server {
            Some(server) => Cpu::of_family(server)?,
            None => Cpu::default(),
        };
        Ok(Used { gateway: Cpu::of(&self.gateway.process)?, store })
    }
}
