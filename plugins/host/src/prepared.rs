//! The second age of a pack, linked and configured; and the third, its instances.
//!
//! Invariant: a decision waits for no other and is under all limits. Its instance starts from what `configure` left and is
//! dropped whatever happens; only where the attachment asks for reuse may it decide again, if it did well and is no larger.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use model::Decision;
use model::FailureReason;
use model::document::PhaseName;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Lower, Resource,
    TypedFunc,
};
use wasmtime::{PoolConcurrencyLimitError, Store};

use crate::abi::wit;
use crate::call::{Asked, Call, thread_cpu};
use crate::decision;
use crate::failure::Failure;
use crate::grants::{Caps, Grants};
use crate::host::Host;
use crate::idle::Shelf;
use crate::imports::{TheRequest, TheResponse};
use crate::limits::Limits;
use crate::pack::{About, PackError};
use crate::package::BodyOf;
use crate::request::{PolicyRequest, PolicyResponse};
use crate::snapshot::{self, Made};

/// A pack with the settings of one attachment, ready to decide on many threads at once.
pub struct Prepared {
    host: Arc<Host>,
    about: Arc<About>,
    limits: Limits,
    linked: InstancePre<Call>,
    exports: Exports,
    /// What each instance is configured with, where no memory image could be taken.
    settings: Option<Arc<str>>,
    /// Linear memory of an instance before it decides, in bytes.
    floor: usize,
    shelf: Option<Shelf>,
}

/// What was decided and what it took.
#[derive(Debug)]
pub struct Measured<T> {
    /// As the call without measure gives it.
    pub outcome: Result<T, Failure>,
    /// The fuel that was burnt: in a fresh instance the same for the same request.
    pub fuel: u64,
    /// Linear memory of the instance in bytes, when it was done.
    pub memory: usize,
    /// Time of the thread.
    pub took: Duration,
}

/// Where the functions of the pack's phases are.
struct Exports {
    cost: Option<ComponentExportIndex>,
    request: Option<ComponentExportIndex>,
    response: Option<ComponentExportIndex>,
}

/// An instance, its memory and its state.
pub(crate) struct Guest {
    store: Store<Call>,
    instance: Instance,
    functions: Functions,
    decisions_left: u32,
}

type OfRequest = (Resource<TheRequest>,);
type OfBoth = (Resource<TheRequest>, Resource<TheResponse>);
/// An export, once it was looked up.
type Function<P, R> = Option<TypedFunc<P, (R,)>>;

/// The exports of an instance that it was asked for before.
#[derive(Default)]
struct Functions {
    cost: Function<OfRequest, u32>,
    request: Function<OfRequest, wit::Decision>,
    response: Function<OfBoth, wit::Decision>,
}

impl Prepared {
    pub(crate) fn new(
        host: &Arc<Host>,
        about: &Arc<About>,
        made: Made,
        limits: Limits,
        reuse: Option<NonZeroU32>,
    ) -> Result<Self, PackError> {
        limits.check()?;
        let linked = host.linker.instantiate_pre(&made.component);
        let linked = linked.map_err(|error| PackError::Import { message: format!("{error:#}") })?;
        let exports = Exports {
            cost: export(&linked, about, PhaseName::Cost)?,
            request: export(&linked, about, PhaseName::Request)?,
            response: export(&linked, about, PhaseName::Response)?,
        };
        let mut prepared = Self {
            host: Arc::clone(host),
            about: Arc::clone(about),
            limits,
            linked,
            exports,
            settings: made.settings,
            floor: 0,
            shelf: reuse.map(|decisions| Shelf::new(host, decisions)),
        };
        prepared.try_out()?;
        Ok(prepared)
    }

    /// What can't start, refuses its settings or lacks a function must not be published.
    fn try_out(&mut self) -> Result<(), PackError> {
        let mut store = Call::configuring(&self.host, &self.about.label, &self.limits);
        let started = self.start(&mut store);
        let instance = started.map_err(|error| configure_error(&error, store.data()))??;
        let Exports { cost, request, response } = &self.exports;
        typed::<OfRequest, u32>(&mut store, &instance, cost.as_ref())?;
        typed::<OfRequest, wit::Decision>(&mut store, &instance, request.as_ref())?;
        typed::<OfBoth, wit::Decision>(&mut store, &instance, response.as_ref())?;
        self.floor = store.data().memory();
        Ok(())
    }

    /// What one call may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether decisions start from a memory image that was taken after `configure`.
    pub fn has_image(&self) -> bool {
        self.settings.is_none()
    }

    /// Asks the pack what a request costs. Runs on the calling thread for as long as [`Limits`] say.
    pub fn cost(&self, request: &Arc<PolicyRequest>, grants: &Grants<'_>) -> Result<u32, Failure> {
        self.ask_cost(request, grants).outcome
    }

    /// Asks the pack about a request. Runs on the calling thread for as long as [`Limits`] say.
    pub fn on_request(
        &self,
        request: &Arc<PolicyRequest>,
        grants: &Grants<'_>,
    ) -> Result<Decision, Failure> {
        self.ask_request(request, grants).outcome
    }

    /// Asks the pack about a response. Runs on the calling thread for as long as [`Limits`] say.
    pub fn on_response(
        &self,
        request: &Arc<PolicyRequest>,
        response: &Arc<PolicyResponse>,
        grants: &Grants<'_>,
    ) -> Result<Decision, Failure> {
        self.ask_response(request, response, grants).outcome
    }

    /// As [`Prepared::cost`], and what it took.
    pub fn cost_measured(
        &self,
        request: &Arc<PolicyRequest>,
        grants: &Grants<'_>,
    ) -> Measured<u32> {
        timed(|| self.ask_cost(request, grants))
    }

    /// As [`Prepared::on_request`], and what it took.
    pub fn on_request_measured(
        &self,
        request: &Arc<PolicyRequest>,
        grants: &Grants<'_>,
    ) -> Measured<Decision> {
        timed(|| self.ask_request(request, grants))
    }

    /// As [`Prepared::on_response`], and what it took.
    pub fn on_response_measured(
        &self,
        request: &Arc<PolicyRequest>,
        response: &Arc<PolicyResponse>,
        grants: &Grants<'_>,
    ) -> Measured<Decision> {
        timed(|| self.ask_response(request, response, grants))
    }

    fn ask_cost(&self, request: &Arc<PolicyRequest>, grants: &Grants<'_>) -> Measured<u32> {
        let asked = Asked::new(&self.about, PhaseName::Cost, request, None, grants);
        self.ask(asked, grants.caps, |guest| {
            let export = self.exports.cost.as_ref();
            guest.call(|functions| &mut functions.cost, export, (Resource::new_borrow(0),))
        })
    }

    fn ask_request(&self, request: &Arc<PolicyRequest>, grants: &Grants<'_>) -> Measured<Decision> {
        let asked = Asked::new(&self.about, PhaseName::Request, request, None, grants);
        self.ask(asked, grants.caps, |guest| {
            let export = self.exports.request.as_ref();
            let handles = (Resource::new_borrow(0),);
            let said = guest.call(|functions| &mut functions.request, export, handles)?;
            decision::check(said, BodyOf::Request, &self.about.manifest)
        })
    }

    fn ask_response(
        &self,
        request: &Arc<PolicyRequest>,
        response: &Arc<PolicyResponse>,
        grants: &Grants<'_>,
    ) -> Measured<Decision> {
        let asked = Asked::new(&self.about, PhaseName::Response, request, Some(response), grants);
        self.ask(asked, grants.caps, |guest| {
            let export = self.exports.response.as_ref();
            let handles = (Resource::new_borrow(0), Resource::new_borrow(0));
            let said = guest.call(|functions| &mut functions.response, export, handles)?;
            decision::check(said, BodyOf::Response, &self.about.manifest)
        })
    }

    /// Has an instance answer, under the attachment's limits and the caller's caps.
    fn ask<T>(
        &self,
        asked: Asked,
        caps: Caps,
        answer: impl FnOnce(&mut Guest) -> Result<T, Failure>,
    ) -> Measured<T> {
        let limits = self.limits.capped(caps);
        let blamed = |failure: Failure| {
            let limit = self.limits.whose(&limits, failure.reason);
            Failure { limit, ..failure }
        };
        let mut measured = Measured {
            outcome: Err(blamed(self.too_large())),
            fuel: 0,
            memory: 0,
            took: Duration::ZERO,
        };
        // An instance that waits has its memory already, and would not ask for it.
        if limits.memory < self.floor {
            return measured;
        }
        let mut guest = match self.wake(asked, &limits) {
            Ok(guest) => guest,
            Err(failure) => return Measured { outcome: Err(blamed(failure)), ..measured },
        };
        measured.outcome = answer(&mut guest).map_err(blamed);
        measured.fuel = limits.fuel.saturating_sub(guest.fuel_left());
        measured.memory = guest.store.data().memory();
        if let (Some(shelf), Ok(_)) = (&self.shelf, &measured.outcome) {
            guest.rest(shelf);
        }
        measured
    }

    fn too_large(&self) -> Failure {
        let detail = format!("an instance has {} bytes of memory before it decides", self.floor);
        Failure::new(FailureReason::Memory, detail)
    }

    /// An instance that is ready to answer: one that waits, or a fresh one.
    fn wake(&self, asked: Asked, limits: &Limits) -> Result<Guest, Failure> {
        if let Some(mut guest) = self.shelf.as_ref().and_then(Shelf::take) {
            Call::begin(&mut guest.store, Some(asked), limits);
            return Ok(guest);
        }
        let mut asked = Some(asked);
        loop {
            let mut store = Call::store(&self.host, &self.about.label);
            Call::begin(&mut store, asked.take(), limits);
            match self.start(&mut store).and_then(|started| Ok(started?)) {
                Ok(instance) => {
                    store.data_mut().started();
                    let decisions_left = self.shelf.as_ref().map_or(1, Shelf::decisions);
                    let functions = Functions::default();
                    return Ok(Guest { store, instance, functions, decisions_left });
                }
                // The pool is full: an instance that waits gives way. Each turn ends one, so there is an end.
                Err(error)
                    if error.is::<PoolConcurrencyLimitError>()
                        && self.host.idle.give_up().is_some() =>
                {
                    asked = store.data_mut().end();
                }
                Err(error) => return Err(Failure::of(&error, store.data())),
            }
        }
    }

    /// Makes an instance, configured. The inner error is the pack's refusal of its settings.
    fn start(&self, store: &mut Store<Call>) -> wasmtime::Result<Result<Instance, PackError>> {
        let instance = self.linked.instantiate(&mut *store)?;
        if let Some(settings) = &self.settings
            && let Err(message) = snapshot::configure(store, &instance, settings)?
        {
            return Ok(Err(PackError::settings(message)));
        }
        Ok(Ok(instance))
    }
}

impl Guest {
    /// Calls an export. Its slot keeps what was found of it.
    fn call<P, R>(
        &mut self,
        slot: fn(&mut Functions) -> &mut Function<P, R>,
        export: Option<&ComponentExportIndex>,
        handles: P,
    ) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower,
        R: Lift + 'static,
    {
        let Some(export) = export else {
            return Err(Failure::output("the pack does not speak in this phase"));
        };
        let slot = slot(&mut self.functions);
        let function = match slot {
            Some(function) => Ok(*function),
            None => self.instance.get_typed_func(&mut self.store, export),
        };
        let said = function.and_then(|function| {
            *slot = Some(function);
            function.call(&mut self.store, handles)
        });
        said.map(|(said,)| said).map_err(|error| Failure::of(&error, self.store.data()))
    }

    fn fuel_left(&self) -> u64 {
        self.store.get_fuel().expect("the engine consumes fuel")
    }

    /// Waits for its next decision, if it may make one and is as large as it was.
    fn rest(mut self, shelf: &Shelf) {
        self.decisions_left -= 1;
        if self.decisions_left > 0 && !self.store.data().grew() {
            self.store.data_mut().end();
            shelf.keep(self);
        }
    }
}

fn timed<T>(ask: impl FnOnce() -> Measured<T>) -> Measured<T> {
    let before = thread_cpu();
    let measured = ask();
    Measured { took: thread_cpu().saturating_sub(before), ..measured }
}

/// Where the function of a phase is; none when the manifest doesn't name the phase.
fn export(
    linked: &InstancePre<Call>,
    about: &About,
    phase: PhaseName,
) -> Result<Option<ComponentExportIndex>, PackError> {
    if !about.manifest.phases.contains(&phase) {
        return Ok(None);
    }
    let name = match phase {
        PhaseName::Cost => "cost",
        PhaseName::Request => "on-request",
        PhaseName::Response => "on-response",
    };
    let found = linked.component().get_export_index(None, name);
    found.map(Some).ok_or_else(|| PackError::MissingExport { export: name.to_owned() })
}

/// Checks the type of an export.
fn typed<P, R>(
    store: &mut Store<Call>,
    instance: &Instance,
    export: Option<&ComponentExportIndex>,
) -> Result<(), PackError>
where
    P: ComponentNamedList + Lower,
    R: Lift + 'static,
{
    let Some(export) = export else { return Ok(()) };
    let found = instance.get_typed_func::<P, (R,)>(store, export);
    found.map(drop).map_err(|error| PackError::Export { message: format!("{error:#}") })
}

/// What an error of the engine means before there is a request.
pub(crate) fn configure_error(error: &wasmtime::Error, call: &Call) -> PackError {
    let Failure { reason, detail, .. } = Failure::of(error, call);
    PackError::Configure { reason, detail }
}
