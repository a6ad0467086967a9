//! One call of a guest: what it was asked, and what it may still use.

use std::sync::Arc;
use std::time::Duration;

use model::document::PhaseName;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{
    AsContextMut, ResourceLimiter, Result, Store, StoreContextMut, Trap, UpdateDeadline,
};

use crate::counters::Count;
use crate::grants::{Grants, LogGate, PackData};
use crate::host::Host;
use crate::limits::{HOST_CALL_FUEL, Limits};
use crate::pack::About;
use crate::package::BodyOf;
use crate::random::Random;
use crate::request::{PolicyRequest, PolicyResponse};

/// Handles that a guest can hold; it is lent two at most.
const MAX_HANDLES: usize = 16;

/// The state of one call.
pub(crate) struct Call {
    pub(crate) label: Arc<str>,
    /// None while the pack is configured.
    asked: Option<Asked>,
    limits: Limits,
    /// Bytes of linear memory now; it never shrinks.
    memory: usize,
    grew: bool,
    refused_memory: bool,
    host_calls_left: u32,
    log_lines_left: u32,
    /// The thread's own time when the call had passed its deadline.
    late_since: Option<Duration>,
}

/// What is asked, and what the call was given to answer it.
pub(crate) struct Asked {
    pub(crate) about: Arc<About>,
    pub(crate) phase: PhaseName,
    pub(crate) request: Arc<PolicyRequest>,
    pub(crate) response: Option<Arc<PolicyResponse>>,
    pub(crate) data: Arc<PackData>,
    pub(crate) count: Count,
    pub(crate) log: Arc<LogGate>,
    pub(crate) random: Option<Random>,
}

impl Asked {
    pub(crate) fn new(
        about: &Arc<About>,
        phase: PhaseName,
        request: &Arc<PolicyRequest>,
        response: Option<&Arc<PolicyResponse>>,
        grants: &Grants<'_>,
    ) -> Self {
        Self {
            about: Arc::clone(about),
            phase,
            request: Arc::clone(request),
            response: response.cloned(),
            data: Arc::clone(grants.data),
            count: grants.counters.into(),
            log: Arc::clone(grants.log),
            random: None,
        }
    }

    /// The size of the body that the pack may change now.
    fn changeable(&self) -> usize {
        let (of, body) = match self.phase {
            PhaseName::Cost => return 0,
            PhaseName::Request => (BodyOf::Request, self.request.body.as_ref()),
            PhaseName::Response => {
                (BodyOf::Response, self.response.as_ref().and_then(|answer| answer.body.as_ref()))
            }
        };
        let size = body.map_or(0, bytes::Bytes::len);
        if self.about.manifest.body.contains(&of) { size } else { 0 }
    }
}

impl Call {
    /// A store in which a pack is configured.
    pub(crate) fn configuring(host: &Host, label: &Arc<str>, limits: &Limits) -> Store<Self> {
        let mut store = Self::store(host, label);
        Self::begin(&mut store, None, limits);
        store
    }

    /// A store without anything to do yet.
    pub(crate) fn store(host: &Host, label: &Arc<str>) -> Store<Self> {
        let call = Self {
            label: Arc::clone(label),
            asked: None,
            limits: Limits::default(),
            memory: 0,
            grew: false,
            refused_memory: false,
            host_calls_left: 0,
            log_lines_left: 0,
            late_since: None,
        };
        let mut store = Store::new(&host.engine, call);
        store.limiter(|call| call);
        store.epoch_deadline_callback(late);
        store.set_max_component_handles(MAX_HANDLES);
        store
    }

    /// Puts a store under all limits, for one call.
    pub(crate) fn begin(store: &mut Store<Self>, asked: Option<Asked>, limits: &Limits) {
        let body = asked.as_ref().map_or(0, Asked::changeable);
        let call = store.data_mut();
        call.asked = asked;
        call.limits = *limits;
        call.grew = false;
        call.host_calls_left = limits.host_calls;
        call.log_lines_left = limits.log_lines;
        call.late_since = None;
        store.set_fuel(limits.fuel).expect("the engine consumes fuel");
        store.set_epoch_deadline(limits.ticks());
        store.set_hostcall_fuel(limits.output_beside(body));
    }

    /// Lets go of what was asked.
    pub(crate) fn end(&mut self) -> Option<Asked> {
        self.asked.take()
    }

    /// What is asked.
    pub(crate) fn asked(&self) -> Result<&Asked, NothingAsked> {
        self.asked.as_ref().ok_or(NothingAsked)
    }

    /// The same, to be changed.
    pub(crate) fn asked_mut(&mut self) -> Result<&mut Asked, NothingAsked> {
        self.asked.as_mut().ok_or(NothingAsked)
    }

    /// Whether the guest was refused memory.
    pub(crate) fn refused_memory(&self) -> bool {
        self.refused_memory
    }

    /// The instance has started: what it grows by from now on is its decision's.
    pub(crate) fn started(&mut self) {
        self.grew = false;
    }

    /// Whether the guest got more memory since it started.
    pub(crate) fn grew(&self) -> bool {
        self.grew
    }

    /// Bytes of linear memory now.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Takes one of the lines that the call may log; none is left when `None`.
    pub(crate) fn take_log_line(&mut self) -> Option<()> {
        self.log_lines_left = self.log_lines_left.checked_sub(1)?;
        Some(())
    }
}

/// Charges a call of the host: before anything is done for it.
pub(crate) fn charge_call(store: &mut StoreContextMut<'_, Call>) -> Result<()> {
    let call = store.data_mut();
    call.host_calls_left = call.host_calls_left.checked_sub(1).ok_or(HostCallsSpent)?;
    charge(store, HOST_CALL_FUEL)
}

/// Charges work of the host for a call, in fuel: a unit for each byte that is read or changes hands.
pub(crate) fn charge(store: &mut StoreContextMut<'_, Call>, work: usize) -> Result<()> {
    let price = u64::try_from(work).unwrap_or(u64::MAX);
    let left = store.get_fuel()?.checked_sub(price);
    store.set_fuel(left.unwrap_or(0))?;
    left.map(drop).ok_or_else(|| Trap::OutOfFuel.into())
}

/// What happens when a call is past its deadline in wall time. A host that is busy with other threads is no fault of the
/// call's, so from then on its thread's own time counts: it ends when it has taken a quarter of the deadline of that.
fn late(mut store: StoreContextMut<'_, Call>) -> Result<UpdateDeadline> {
    let mut store = store.as_context_mut();
    let call = store.data_mut();
    let (ticks, grace) = (call.limits.ticks().div_ceil(4), call.limits.deadline / 4);
    let now = thread_cpu();
    let since = *call.late_since.get_or_insert(now);
    if now.saturating_sub(since) < grace {
        Ok(UpdateDeadline::Continue(ticks))
    } else {
        Ok(UpdateDeadline::Interrupt)
    }
}

/// How long the calling thread has run on a processor.
pub fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or(Duration::MAX)
}

/// The guest called the host more often than it may.
#[derive(Debug, thiserror::Error)]
#[error("the host was called too often")]
pub(crate) struct HostCallsSpent;

/// The guest asked for an exchange while it was configured, or for a response while there is none.
#[derive(Debug, thiserror::Error)]
#[error("there is no exchange yet")]
pub(crate) struct NothingAsked;

impl ResourceLimiter for Call {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let granted = desired <= self.limits.memory;
        if granted {
            self.memory = self.memory.max(desired);
            self.grew = true;
        }
        self.refused_memory |= !granted;
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> Result<bool> {
        // A slot of the pool bounds the size.
        Ok(true)
    }
}
