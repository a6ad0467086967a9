//! The data plane's runtime state: what outlives revisions, and the cell that holds the one in force.

use crate::body::Budget;
use crate::compile::{self, PackFiles};
use crate::ledger::AnyLedger;
use crate::report::{Metrics, RevisionState};
use crate::snapshot::Live;
use model::Clock;
use model::config::{Config, ConfigError};
use model::idempotency::{Owner, Salt};
use model::quota::Settlement;
use stages::authenticate::jwt::TokenCache;
use stages::counters::{self, MemoryCounters};
use stages::throttle::Permit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Permits of cut-off exchanges that wait to be settled.
const SETTLEMENTS_MAX: usize = 4096;
/// Between two looks for counters and records that expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a gateway is made with.
pub struct Settings {
    /// The clock.
    pub clock: Clock,
    /// Where pack files lie.
    pub packs: PathBuf,
    /// The store of idempotency records.
    pub ledger: AnyLedger,
    /// Keeps derived idempotency keys of this deployment apart from others'.
    pub salt: Salt,
    /// The name of this node, for operators.
    pub node: Owner,
    /// Where background work runs.
    pub runtime: tokio::runtime::Handle,
    /// The version of the build, for `tollgate_build_info`.
    pub version: &'static str,
}

/// The data plane of one process.
pub struct Gateway {
    /// The clock.
    pub clock: Clock,
    /// The cell that holds the revision in force.
    pub live: Live,
    /// The one reporter.
    pub metrics: Metrics,
    /// Counters of limits.
    pub counters: MemoryCounters,
    /// Idempotency records.
    pub ledger: AnyLedger,
    /// Keeps derived idempotency keys of this deployment apart from others'.
    pub salt: Salt,
    /// The name of this node, for operators.
    pub node: Owner,
    /// Verified tokens.
    pub tokens: TokenCache,
    /// Bytes of buffered bodies.
    pub budget: Budget,
    files: PackFiles,
    keys: compile::KeySets,
    revisions: AtomicU64,
    /// The document in force; held while another one is compiled.
    in_force: Mutex<Option<Config>>,
    was_ready: AtomicBool,
    settlements: mpsc::Sender<(Permit, Settlement)>,
}

/// Why a gateway can't be made.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The host of packs didn't start.
    #[error("the pack host did not start: {0}")]
    Host(#[from] pack_host::HostError),
    /// Metrics collide.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The client that fetches key sets can't be made.
    #[error("HTTP client: {0}")]
    Client(String),
}

impl Gateway {
    /// A gateway without a revision: it answers 503 until one is published.
    pub fn new(settings: Settings) -> Result<Arc<Self>, GatewayError> {
        let host = pack_host::Host::new(pack_host::HostSettings::default())?;
        let keys = compile::KeySets::new(settings.runtime.clone())
            .map_err(|error| GatewayError::Client(error.to_string()))?;
        let (settlements, queue) = mpsc::channel(SETTLEMENTS_MAX);
        let gateway = Arc::new(Self {
            clock: settings.clock,
            live: Live::default(),
            metrics: Metrics::new(settings.version)?,
            counters: MemoryCounters::new(counters::Capacity::default()),
            ledger: settings.ledger,
            salt: settings.salt,
            node: settings.node,
            tokens: TokenCache::default(),
            budget: Budget::default(),
            files: PackFiles::new(settings.packs, host),
            keys,
            revisions: AtomicU64::new(0),
            in_force: Mutex::default(),
            was_ready: AtomicBool::new(false),
            settlements,
        });
        settings.runtime.spawn(settle_cut_off(Arc::downgrade(&gateway), queue));
        settings.runtime.spawn(sweep(Arc::downgrade(&gateway)));
        Ok(gateway)
    }

    /// Compiles a document and puts it in force, or says everything that is in the way and changes nothing.
    /// Blocks: packs are compiled here.
    pub fn publish(&self, config: &Config) -> Result<u64, Vec<ConfigError>> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.revisions.load(Ordering::Acquire) + 1;
        let snapshot = match compile::compile(config, number, &self.files, &self.keys) {
            Ok(snapshot) => snapshot,
            Err(errors) => {
                self.forget_all_but(in_force.as_ref());
                self.metrics.revision(RevisionState::Rejected, number);
                return Err(errors);
            }
        };
        self.live.publish(snapshot);
        self.revisions.store(number, Ordering::Release);
        self.metrics.revision(RevisionState::Active, number);
        self.accepted();
        self.forget_all_but(Some(config));
        *in_force = Some(config.clone());
        Ok(number)
    }

    /// Everything that publishing this document would say, without doing it. Blocks.
    pub fn check(&self, config: &Config) -> Result<(), Vec<ConfigError>> {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = compile::compile(config, 0, &self.files, &self.keys).map(drop);
        self.forget_all_but(in_force.as_ref());
        compiled
    }

    /// Lets go of what was made for a document that is not in force.
    fn forget_all_but(&self, config: Option<&Config>) {
        if let Some(config) = config {
            self.files.keep_only_those_of(config);
            self.keys.keep_only_those_of(config);
        }
    }

    /// Shows that nothing is in the way: the document is the one in force.
    pub fn accepted(&self) {
        self.metrics.revision(RevisionState::Rejected, 0);
    }

    /// Shows that a document could not even be read.
    pub fn rejected(&self) {
        let number = self.revisions.load(Ordering::Acquire) + 1;
        self.metrics.revision(RevisionState::Rejected, number);
    }

    /// The revision in force; 0 when there is none.
    pub fn revision(&self) -> u64 {
        self.revisions.load(Ordering::Acquire)
    }

    /// Whether traffic can be served: a revision is in force, and every issuer's keys were there once. An issuer that
    /// can't be reached later is its tenants' trouble, not a reason to take the node out.
    pub fn is_ready(&self) -> Result<(), String> {
        if self.revision() == 0 {
            return Err("no revision is in force".to_owned());
        }
        if self.was_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(issuer) = self.keys.missing() {
            return Err(format!("the keys of issuer `{issuer}` are not there yet"));
        }
        self.was_ready.store(true, Ordering::Release);
        Ok(())
    }

    /// What the pack files look like now; changes whenever one of them does.
    pub fn pack_files_state(&self, config: &Config) -> u64 {
        self.files.state(config)
    }

    /// Settles the permit of an exchange that was cut off. Never waits: what finds no room expires by itself.
    pub fn settle_later(&self, permit: Permit, settlement: Settlement) {
        if self.settlements.try_send((permit, settlement)).is_err() {
            tracing::warn!("a cut-off exchange's permit was left to expire: the queue is full");
        }
    }
}

async fn settle_cut_off(
    gateway: std::sync::Weak<Gateway>,
    mut queue: mpsc::Receiver<(Permit, Settlement)>,
) {
    while let Some((permit, settlement)) = queue.recv().await {
        let Some(gateway) = gateway.upgrade() else { return };
        let now = gateway.clock.micros();
        if let Err(error) = permit.settle(&gateway.counters, settlement, now).await {
            tracing::warn!(%error, "a permit was left to expire");
        }
    }
}

async fn sweep(gateway: std::sync::Weak<Gateway>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let now = gateway.clock.micros();
        gateway.counters.sweep(now);
        gateway.ledger.sweep(now);
    }
}
