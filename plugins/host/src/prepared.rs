//! The second age of a pack, linked and configured; and the third, one instance for one decision.
//!
//! Invariant: a decision takes no lock of ours and leaves nothing behind. Its instance starts from what `configure` left
//! and is dropped whatever happens.

use std::sync::Arc;

use model::Decision;
use serde_json::Value;
use wasmtime::Store;
use wasmtime::component::Resource;

use crate::abi::PackPre;
use crate::abi::tollgate::policy::request_phase as wit;
use crate::call::Call;
use crate::decision;
use crate::failure::Failure;
use crate::host::Host;
use crate::limits::Limits;
use crate::pack::{Pack, PackError};
use crate::request::PolicyRequest;
use crate::snapshot;

/// A pack with the settings of one attachment, ready to decide on many threads at once.
pub struct Prepared {
    host: Arc<Host>,
    label: Arc<str>,
    limits: Limits,
    linked: PackPre<Call>,
    /// What each instance is configured with, where no memory image could be taken.
    settings: Option<String>,
}

/// A decision and what it took.
#[derive(Debug)]
pub struct Measured {
    /// As [`Prepared::on_request`] gives it.
    pub outcome: Result<Decision, Failure>,
    /// The fuel that was burnt: the same for the same request.
    pub fuel: u64,
}

impl Prepared {
    pub(crate) fn new(pack: &Pack, settings: &Value, limits: Limits) -> Result<Self, PackError> {
        limits.check()?;
        let text = settings.to_string();
        let image = snapshot::take(pack, &text, &limits)?;
        let settings = image.is_none().then_some(text);
        let prepared = Self {
            host: Arc::clone(&pack.host),
            label: Arc::clone(&pack.label),
            limits,
            linked: pack.link(image.as_ref().unwrap_or(&pack.component))?,
            settings,
        };
        // What can't start or refuses its settings must not be published.
        let mut store = Call::store(&prepared.host, &prepared.label, None, &limits);
        prepared.start(&mut store).map_err(|error| configure_error(&error, store.data()))??;
        Ok(prepared)
    }

    /// Asks the pack about one request, in a fresh instance. Runs on the calling thread for as long as [`Limits`] say.
    pub fn on_request(&self, request: &Arc<PolicyRequest>) -> Result<Decision, Failure> {
        self.on_request_measured(request).outcome
    }

    /// The same, and the fuel it took.
    pub fn on_request_measured(&self, request: &Arc<PolicyRequest>) -> Measured {
        let mut store = Call::store(&self.host, &self.label, Some(request), &self.limits);
        let outcome = match self.call(&mut store) {
            Ok(decision) => decision::check(decision),
            Err(error) => Err(Failure::of(&error, store.data())),
        };
        let left = store.get_fuel().expect("the engine consumes fuel");
        Measured { outcome, fuel: self.limits.fuel.saturating_sub(left) }
    }

    /// Whether decisions start from a memory image that was taken after `configure`.
    pub fn has_image(&self) -> bool {
        self.settings.is_none()
    }

    fn call(&self, store: &mut Store<Call>) -> wasmtime::Result<wit::Decision> {
        let instance = self.start(store)??;
        instance.call_on_request(store, Resource::new_borrow(0))
    }

    /// Makes an instance, configured. The inner error is the pack's refusal of its settings.
    fn start(
        &self,
        store: &mut Store<Call>,
    ) -> wasmtime::Result<Result<crate::abi::Pack, PackError>> {
        let instance = self.linked.instantiate(&mut *store)?;
        if let Some(settings) = &self.settings
            && let Err(message) = instance.call_configure(store, settings)?
        {
            return Ok(Err(PackError::Settings { message }));
        }
        Ok(Ok(instance))
    }
}

/// What an error of the engine means before there is a request.
pub(crate) fn configure_error(error: &wasmtime::Error, call: &Call) -> PackError {
    let Failure { reason, detail } = Failure::of(error, call);
    PackError::Configure { reason, detail }
}
