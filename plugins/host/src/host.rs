//! The engine that every pack runs on, and the clock of its deadlines.
//!
//! Invariant: while anything that can run a pack is alive, so is the ticker, because packs hold their [`Host`].

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::abi;
use crate::call::Call;
use crate::limits::MAX_MEMORY;

/// How often the epoch moves on.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What stays mapped in a free slot, so that the next decision in it faults no pages in.
const MEMORY_KEPT_RESIDENT: usize = 64 << 10;
/// The same for tables.
const TABLE_KEPT_RESIDENT: usize = 16 << 10;
/// The native stack of a guest; well within the 2 MiB of a worker's thread.
const MAX_STACK: usize = 512 << 10;
/// Core instances within one component; a component made from one module has 3.
const CORE_INSTANCES_PER_PACK: u32 = 16;
/// Tables within one component; a component made from one module has 2.
const TABLES_PER_PACK: u32 = 4;
/// Linear memories within one component.
const MEMORIES_PER_PACK: u32 = 1;

/// What an operator may choose about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// Decisions that can be in progress at one time; a further one fails as saturated. Each takes about 4 GiB of
    /// address space, and memory only while it runs.
    pub instances: u32,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self { instances: 256 }
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
}

/// The engine that every pack runs on.
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Call>,
    _ticker: Ticker,
}

impl Host {
    /// Reserves the pool and starts the clock.
    pub fn new(settings: HostSettings) -> Result<Arc<Self>, HostError> {
        let engine = Engine::new(&config(settings)).map_err(HostError::Engine)?;
        let mut linker = Linker::new(&engine);
        abi::Pack::add_to_linker::<_, HasSelf<_>>(&mut linker, |call| call)
            .map_err(HostError::Engine)?;
        let ticker = Ticker::start(engine.clone())?;
        Ok(Arc::new(Self { engine, linker, _ticker: ticker }))
    }
}

fn config(settings: HostSettings) -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)))
        .memory_init_cow(true)
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

fn pool(settings: HostSettings) -> PoolingAllocationConfig {
    let total = settings.instances;
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
