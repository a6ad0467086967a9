//! The data plane's runtime state: what outlives revisions, and the cell that holds the one in force.

use crate::body::Budget;
use crate::compile::{self, KeySets, PackFiles, PackFolders, Sources};
use crate::known::Known;
use crate::ledger::{AnyLedger, SealingLedger};
use crate::own::{Lookups, Polls};
use crate::protect::Protection;
use crate::record::{self, Recorder};
use crate::report::{Metrics, RevisionState};
use crate::rollout::Packs;
use crate::settling::Settling;
use crate::snapshot::{Live, Snapshot};
use crate::thresholds::Thresholds;
use jiff::Timestamp;
use model::Clock;
use model::config::{Config, ConfigError};
use model::id::NodeName;
use model::idempotency::{Owner, Salt};
use model::node::{ERRORS_MAX, Rejected};
use model::units;
use model::webhook::Reach;
use stages::authenticate::Memory;
use stages::claim::Waiters;
use stages::quotas::Quotas;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use tokio::sync::watch;

/// Between two looks for counters and records that expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a gateway is made with.
pub struct Settings {
    /// The clock.
    pub clock: Clock,
    /// Where an operator lays pack files. What is fetched from the store is kept in its subfolder `cache`.
    pub packs: PathBuf,
    /// Runs packs. A process has one.
    pub host: Arc<pack_host::Host>,
    /// Counters of limits.
    pub quotas: Quotas,
    /// The store of idempotency records.
    pub ledger: AnyLedger,
    /// Keeps derived idempotency keys of this deployment apart from others'.
    pub salt: Salt,
    /// The name of this node.
    pub node: NodeName,
    /// Where background work runs.
    pub runtime: tokio::runtime::Handle,
    /// The version of the build, for `tollgate_build_info` and what the node reports.
    pub version: &'static str,
    /// What the processes of a deployment share.
    pub store: Store,
    /// Open the secrets that a document holds sealed.
    pub keys: MasterKeys,
    /// How decision records are kept.
    pub records: record::Settings,
    /// Which addresses webhooks may be sent to.
    pub reach: Reach,
    /// How long events of webhooks are kept, with their deliveries.
    pub events_kept: units::Duration,
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
    pub quotas: Quotas,
    /// Idempotency records.
    pub ledger: SealingLedger,
    /// Repeats that wait for what comes of the first request.
    pub waiters: Waiters,
    /// Outcomes of which it was not told.
    pub settling: Settling,
    /// Keeps derived idempotency keys of this deployment apart from others'.
    pub salt: Salt,
    /// The name of this node.
    pub node: NodeName,
    /// The same, as idempotency records say who holds them.
    pub owner: Owner,
    /// The version of the build.
    pub version: &'static str,
    /// When it was made.
    pub started_at: Timestamp,
    /// What the processes of a deployment share.
    pub store: Store,
    /// Verified tokens, and what is revoked.
    pub memory: Memory,
    /// Bytes of buffered bodies.
    pub budget: Budget,
    /// Decision records on their way to the store.
    pub recorder: Recorder,
    /// What packs use, and how their versions fare.
    pub packs: Arc<Packs>,
    /// What tenants are used to send.
    pub protection: Protection,
    /// Quotas that are nearly or all used.
    pub thresholds: Thresholds,
    /// Which addresses webhooks may be sent to.
    pub(crate) reach: Reach,
    /// How long events of webhooks are kept: no schedule that is published lasts for longer.
    pub(crate) events_kept: units::Duration,
    /// Decision records, for callers.
    pub(crate) lookups: Lookups,
    /// Events of endpoints, for callers.
    pub(crate) polls: Polls,
    sources: Sources,
    standing: watch::Sender<Standing>,
    was_ready: AtomicBool,
}

/// Which revision is in force here, and which could not be put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The revision in force; 0 when there is none.
    pub revision: u64,
    /// The one that was wanted last, where it was rejected.
    pub rejected: Option<Rejected>,
}

/// A document that was compiled and is not in force yet.
pub struct Compiled {
    snapshot: Snapshot,
    config: Arc<Config>,
}

impl Compiled {
    /// What was compiled.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }
}

/// Why a gateway can't be made.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
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
        let key_sets = KeySets::new(settings.runtime.clone())
            .map_err(|error| GatewayError::Client(error.to_string()))?;
        let metrics = Metrics::new(settings.version)?;
        metrics.counters(&settings.quotas, &settings.runtime)?;
        let recorder = Recorder::start(
            &settings.records,
            settings.store.clone(),
            settings.node.clone(),
            settings.clock.clone(),
            metrics.records().clone(),
            &settings.runtime,
        );
        let packs = Packs::new(
            settings.store.clone(),
            settings.clock.clone(),
            metrics.rollouts().clone(),
            &settings.runtime,
        );
        let folders = PackFolders { cache: settings.packs.join("cache"), laid: settings.packs };
        let files = PackFiles::new(
            folders,
            settings.host,
            settings.store.clone(),
            settings.runtime.clone(),
        );
        let protection = Protection::start(
            settings.store.clone(),
            settings.node.clone(),
            settings.clock.clone(),
            metrics.protection().clone(),
            &settings.runtime,
        );
        let gateway = Arc::new(Self {
            started_at: settings.clock.now(),
            clock: settings.clock,
            live: Live::default(),
            metrics,
            quotas: settings.quotas,
            ledger: SealingLedger::new(settings.ledger, settings.keys.clone()),
            waiters: Waiters::default(),
            settling: Settling::new(&settings.runtime),
            salt: settings.salt,
            owner: settings.node.as_str().into(),
            node: settings.node,
            version: settings.version,
            memory: Memory::default(),
            budget: Budget::default(),
            recorder,
            protection,
            thresholds: Thresholds::start(settings.store.clone(), &settings.runtime),
            reach: settings.reach,
            events_kept: settings.events_kept,
            lookups: Lookups::new(settings.store.clone()),
            polls: Polls::new(settings.store.clone(), settings.keys.clone()),
            store: settings.store,
            packs: packs.clone(),
            sources: Sources {
                packs: files,
                live: packs,
                key_sets,
                backoffs: Known::default(),
                master_keys: settings.keys,
            },
            standing: watch::Sender::default(),
            was_ready: AtomicBool::new(false),
        });
        settings.runtime.spawn(sweep(Arc::downgrade(&gateway)));
        Ok(gateway)
    }

    /// Compiles a document, or says everything that is in the way. Changes nothing. Blocks: packs are compiled here.
    pub fn compile(&self, config: Arc<Config>) -> Result<Compiled, Vec<ConfigError>> {
        let snapshot = compile::compile(&config, &self.sources, &self.metrics)?;
        Ok(Compiled { snapshot, config })
    }

    /// Puts a compiled document in force, as the revision of this number. Whoever calls sees to it that numbers come in
    /// their order.
    pub fn put_in_force(&self, compiled: Compiled, number: u64) {
        let mut keyed =
            compiled.config.document().routes.iter().filter_map(|r| r.idempotency.as_ref());
        if keyed.any(|rules| rules.replicas > 0) {
            self.ledger.prepare_replicas();
        }
        self.live.publish(Snapshot { revision: number, ..compiled.snapshot });
        self.packs.in_force(compiled.config.document());
        self.metrics.revision(RevisionState::Active, number);
        self.standing.send_modify(|standing| standing.revision = number);
    }

    /// Shows that the revision in force is the one that is wanted.
    pub fn accepted(&self) {
        self.metrics.revision(RevisionState::Rejected, 0);
        self.standing.send_if_modified(|standing| standing.rejected.take().is_some());
    }

    /// Shows that a revision could not be put in force, and why. Whether that is news.
    pub fn rejected(&self, number: u64, errors: &[ConfigError]) -> bool {
        self.metrics.revision(RevisionState::Rejected, number);
        let errors = errors.iter().take(ERRORS_MAX).cloned().collect();
        let rejected = Some(Rejected { revision: number, errors });
        self.standing.send_if_modified(|standing| {
            let changed = standing.rejected != rejected;
            standing.rejected = rejected;
            changed
        })
    }

    /// Where it stands, and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The revision in force; 0 when there is none.
    pub fn revision(&self) -> u64 {
        self.standing.borrow().revision
    }

    /// Whether traffic can be served: a revision is in force, and every issuer's keys were there once. An issuer that
    /// can't be reached later is its tenants' trouble, not a reason to take the node out.
    pub fn is_ready(&self) -> Result<(), String> {
        let Some(snapshot) = self.live.pin() else {
            return Err("no revision is in force".to_owned());
        };
        if self.was_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let missing = snapshot.key_sets.iter().find(|(_, keys)| !keys.is_ready());
        if let Some((issuer, _)) = missing {
            return Err(format!("the keys of issuer `{issuer}` are not there yet"));
        }
        self.was_ready.store(true, Ordering::Release);
        Ok(())
    }

    /// What the pack files look like now; changes whenever one of them does.
    pub fn pack_files_state(&self, config: &Config) -> u64 {
        self.sources.packs.state(config)
    }
}

async fn sweep(gateway: std::sync::Weak<Gateway>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let now = gateway.clock.micros();
        gateway.quotas.sweep(now);
        gateway.protection.sweep(now);
        gateway.ledger.sweep(now);
        gateway.sources.backoffs.in_use().iter().for_each(|asked| asked.sweep(now));
    }
}
