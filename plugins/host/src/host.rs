//! The engine that every pack runs on, and the clock of its deadlines.
//!
//! Invariant: while anything that can run a pack is alive, so is the ticker, because packs hold their [`Host`].

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::cache::{Cache, CacheError};
use crate::call::Call;
use crate::idle::Idle;
use crate::imports;
use crate::incremental::Functions;
use crate::limits::MAX_MEMORY;
use crate::worker::{JobLimits, Worker, Workers};

/// How often the epoch moves on.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What stays mapped in a free slot, so that the next decision in it faults no pages in.
const MEMORY_KEPT_RESIDENT: usize = 64 << 10;
/// The same for tables.
const TABLE_KEPT_RESIDENT: usize = 16 << 10;
/// What lies unmapped behind a memory: no access of a guest is meant to reach it.
const MEMORY_GUARD: u64 = 64 << 10;
/// The native stack of a guest; well within the 2 MiB of a worker's thread.
const MAX_STACK: usize = 512 << 10;
/// Core instances within one component; a component made from one module has 3.
const CORE_INSTANCES_PER_PACK: u32 = 16;
/// Tables within one component; a component made from one module has 2.
const TABLES_PER_PACK: u32 = 4;
/// Linear memories within one component.
const MEMORIES_PER_PACK: u32 = 1;

/// Decisions at one time where packs are only tried out.
const FEW_INSTANCES: u32 = 4;

/// What an operator may choose about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// Decisions that can be in progress at one time; a further one fails as saturated. Each takes 64 MiB of address space,
    /// and memory only while it runs.
    pub instances: u32,
    /// Where packs are compiled.
    pub worker: Worker,
    /// What compiling one may take.
    pub jobs: JobLimits,
    /// The folder in which compiled packs are kept; without one, each start compiles them again.
    pub cache: Option<PathBuf>,
}

impl HostSettings {
    /// For a gateway, with room for so many decisions at one time.
    pub fn new(instances: u32, worker: Worker) -> Self {
        Self { instances, worker, jobs: JobLimits::default(), cache: None }
    }

    /// For what tries packs out, one decision after the other.
    pub fn small(worker: Worker) -> Self {
        Self::new(FEW_INSTANCES, worker)
    }
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine can't be had on this machine.
    #[error("the WebAssembly engine can't start: {0:#}")]
    Engine(wasmtime::Error),
    /// The thread of the deadlines' clock can't be started.
    #[error("the pack host's clock can't start: {0}")]
    Clock(#[from] std::io::Error),
    /// The folder of compiled packs can't be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// The engine that every pack runs on.
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Call>,
    pub(crate) idle: Idle,
    pub(crate) workers: Workers,
    pub(crate) cache: Option<Cache>,
    _ticker: Ticker,
}

impl Host {
    /// Reserves the pool and starts the clock.
    pub fn new(settings: HostSettings) -> Result<Arc<Self>, HostError> {
        let mut config = config(settings.instances);
        if settings.worker == Worker::Here {
            // Who compiles here does so more than once.
            config
                .enable_incremental_compilation(Arc::new(Functions::default()))
                .map_err(HostError::Engine)?;
        }
        let engine = Engine::new(&config).map_err(HostError::Engine)?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(HostError::Engine)?;
        let ticker = Ticker::start(engine.clone())?;
        let idle = Idle::new(usize::try_from(settings.instances / 2).unwrap_or(usize::MAX));
        let workers = Workers::new(settings.worker, settings.jobs);
        let cache = settings.cache.map(|folder| Cache::open(&folder, &engine)).transpose()?;
        Ok(Arc::new(Self { engine, linker, idle, workers, cache, _ticker: ticker }))
    }

    /// How many instances wait for their next decision, of all attachments that ask for reuse.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }
}

fn config(instances: u32) -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)))
        .memory_init_cow(true)
        // Slots no larger than what they may hold: 16 GiB of address space for 256 instances. With 4 GiB each, guests' code
        // needs no bounds checks, which makes loops over memory 3 % faster, a short decision in a fresh instance 5 % slower,
        // and the pool a terabyte.
        .memory_reservation(MAX_MEMORY as u64)
        .memory_guard_size(MEMORY_GUARD)
        .max_wasm_stack(MAX_STACK)
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        // The same request gets the same decision on every processor.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        // One frame: whether there is one tells a fault of the guest's code from one of what it returned.
        .wasm_backtrace_max_frames(NonZeroUsize::new(1))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false);
    config
}

fn pool(total: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(total)
        .total_core_instances(total.saturating_mul(CORE_INSTANCES_PER_PACK))
        .total_memories(total.saturating_mul(MEMORIES_PER_PACK))
        .total_tables(total.saturating_mul(TABLES_PER_PACK))
        .max_core_instances_per_component(CORE_INSTANCES_PER_PACK)
        .max_memories_per_component(MEMORIES_PER_PACK)
        .max_tables_per_component(TABLES_PER_PACK)
        .max_memory_size(MAX_MEMORY)
        .linear_memory_keep_resident(MEMORY_KEPT_RESIDENT)
        .table_keep_resident(TABLE_KEPT_RESIDENT)
        // Resets only the pages that were touched (Linux 6.7); without it the resident part is always rewritten.
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The thread that moves the epoch on. Dropping it ends and joins the thread.
struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name("pack-epoch".to_owned()).spawn(tick)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // The thread ends when its channel closes.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}
