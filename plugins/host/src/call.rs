//! One call of a guest: what it may see, what it may still use, and the host functions it calls.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::Resource;
use wasmtime::{ResourceLimiter, Result, Store, StoreContextMut, UpdateDeadline};

use crate::abi::tollgate::policy::log::{self, Level};
use crate::abi::tollgate::policy::request_phase;
use crate::host::Host;
use crate::limits::Limits;
use crate::request::{Lent, PolicyRequest};

/// The longest log line in bytes; the rest is cut.
const MAX_LOG_LINE: usize = 1024;
/// Handles that a guest can hold; it is lent one.
const MAX_HANDLES: usize = 16;

/// The state of one call.
pub(crate) struct Call {
    label: Arc<str>,
    /// None while the pack is configured.
    request: Option<Arc<PolicyRequest>>,
    max_memory: usize,
    refused_memory: bool,
    host_calls_left: u32,
    log_lines_left: u32,
}

/// What happens when a call is past its deadline in wall time. A host that is busy with other threads is no fault of the
/// call's, so from then on its thread's own time counts: it ends when it has taken a quarter of the deadline of that.
fn net(limits: &Limits) -> impl FnMut(StoreContextMut<'_, Call>) -> Result<UpdateDeadline> + use<> {
    let (ticks, grace) = (limits.ticks().div_ceil(4), limits.deadline / 4);
    let mut since: Option<Duration> = None;
    move |_| {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let now = Duration::try_from(now).unwrap_or(Duration::MAX);
        let since = *since.get_or_insert(now);
        if now.saturating_sub(since) < grace {
            Ok(UpdateDeadline::Continue(ticks))
        } else {
            Ok(UpdateDeadline::Interrupt)
        }
    }
}

impl Call {
    /// A store for one call, under all limits.
    pub(crate) fn store(
        host: &Host,
        label: &Arc<str>,
        request: Option<&Arc<PolicyRequest>>,
        limits: &Limits,
    ) -> Store<Self> {
        let call = Self {
            label: Arc::clone(label),
            request: request.cloned(),
            max_memory: limits.memory,
            refused_memory: false,
            host_calls_left: limits.host_calls,
            log_lines_left: limits.log_lines,
        };
        let mut store = Store::new(&host.engine, call);
        store.limiter(|call| call);
        store.set_fuel(limits.fuel).expect("the engine consumes fuel");
        store.set_epoch_deadline(limits.ticks());
        store.epoch_deadline_callback(net(limits));
        store.set_hostcall_fuel(limits.output);
        store.set_max_component_handles(MAX_HANDLES);
        store
    }

    /// Whether the guest was refused memory.
    pub(crate) fn refused_memory(&self) -> bool {
        self.refused_memory
    }

    fn charge(&mut self) -> Result<(), HostCallsSpent> {
        self.host_calls_left = self.host_calls_left.checked_sub(1).ok_or(HostCallsSpent)?;
        Ok(())
    }

    /// The request, for one charged call.
    fn request(&mut self) -> Result<&PolicyRequest> {
        self.charge()?;
        Ok(self.request.as_ref().ok_or(NoRequest)?)
    }
}

/// The guest called the host more often than it may.
#[derive(Debug, thiserror::Error)]
#[error("the host was called too often")]
pub(crate) struct HostCallsSpent;

/// The guest made up a handle while it was configured.
#[derive(Debug, thiserror::Error)]
#[error("there is no request yet")]
struct NoRequest;

impl ResourceLimiter for Call {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let granted = desired <= self.max_memory;
        self.refused_memory |= !granted;
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> Result<bool> {
        // A slot of the pool bounds the size.
        Ok(true)
    }
}

impl request_phase::Host for Call {}

impl request_phase::HostRequest for Call {
    fn method(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.head.method.as_str().to_owned())
    }

    fn path(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.head.path.clone())
    }

    fn query(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        Ok(self.request()?.head.query.clone())
    }

    fn query_param(&mut self, _: Resource<Lent>, name: String) -> Result<Option<String>> {
        let query = self.request()?.head.query.as_deref().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        Ok(pairs.find(|(found, _)| *found == name).map(|(_, value)| value.into_owned()))
    }

    fn header(&mut self, _: Resource<Lent>, name: String) -> Result<Option<Vec<u8>>> {
        let head = &self.request()?.head;
        Ok(lent(&name).then(|| head.headers.get(name)?.as_bytes().to_vec().into()).flatten())
    }

    fn headers_all(&mut self, _: Resource<Lent>, name: String) -> Result<Vec<Vec<u8>>> {
        if !lent(&name) {
            return Ok(Vec::new());
        }
        let lines = self.request()?.head.headers.get_all(name);
        Ok(lines.iter().map(|value| value.as_bytes().to_vec()).collect())
    }

    fn header_names(&mut self, _: Resource<Lent>) -> Result<Vec<String>> {
        let names = self.request()?.head.headers.keys();
        Ok(names.map(|name| name.as_str().to_owned()).filter(|name| lent(name)).collect())
    }

    fn client_address(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.head.client.to_string())
    }

    fn route(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.route.as_str().to_owned())
    }

    fn version(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.version.as_str().to_owned())
    }

    fn tenant(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.identity.tenant.as_str().to_owned())
    }

    fn consumer(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.request()?.identity.consumer.as_str().to_owned())
    }

    fn scopes(&mut self, _: Resource<Lent>) -> Result<Vec<String>> {
        let scopes = &self.request()?.identity.scopes;
        Ok(scopes.iter().map(|scope| scope.as_ref().to_owned()).collect())
    }

    fn claim(&mut self, _: Resource<Lent>, name: String) -> Result<Option<String>> {
        Ok(self.request()?.identity.claims.get(&name).map(ToString::to_string))
    }

    fn drop(&mut self, _: Resource<Lent>) -> Result<()> {
        // Only a borrowed handle is ever lent, and those have nothing to free.
        Ok(())
    }
}

impl log::Host for Call {
    fn write(&mut self, level: Level, message: String) -> Result<()> {
        self.charge()?;
        let Some(left) = self.log_lines_left.checked_sub(1) else { return Ok(()) };
        self.log_lines_left = left;
        let cut = message.floor_char_boundary(MAX_LOG_LINE);
        // Escaped: a line of a pack stays one line and can't colour the operator's terminal.
        let line = message.get(..cut).unwrap_or_default().escape_debug();
        let pack = &*self.label;
        let request = self.request.as_ref().map(|request| &*request.request_id);
        match level {
            Level::Debug => tracing::debug!(target: "pack", pack, request, "{line}"),
            Level::Info => tracing::info!(target: "pack", pack, request, "{line}"),
            Level::Warn => tracing::warn!(target: "pack", pack, request, "{line}"),
            Level::Error => tracing::error!(target: "pack", pack, request, "{line}"),
        }
        Ok(())
    }
}

/// Whether packs see a header. Credentials they don't: who calls is told by typed getters.
fn lent(name: &str) -> bool {
    !["authorization", "proxy-authorization", "x-api-key"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}
