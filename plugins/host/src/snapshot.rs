//! The memory image that a pack leaves behind after `configure`, so that decisions start from it.
//!
//! It is taken with wasmtime-wizer: the pack gets additional exports that tell its memory and globals, runs `configure`,
//! and is rewritten so that it starts with what they told. Guests for which that can't be done (several modules that
//! change tables, nested components) are configured in each fresh instance instead: dearer, with the same outcome.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::Store;
use wasmtime::component::{Component, Instance, InstancePre, Lift, WasmList};
use wasmtime_wizer::{ComponentContext, ComponentInstanceState, Wizer};

use crate::call::Call;
use crate::host::Host;
use crate::interface::unpanicked;
use crate::limits::Limits;
use crate::pack::PackError;
use crate::prepared::configure_error;

/// A pack with settings, ready to be linked.
pub(crate) struct Made {
    /// Its code.
    pub(crate) component: Component,
    /// What each instance is configured with, where no memory image could be taken.
    pub(crate) settings: Option<Arc<str>>,
}

/// A component with additions through which its state can be read.
pub(crate) struct Instrumented<'a> {
    parsed: ComponentContext<'a>,
    /// The component to compile. The additions change nothing that it does.
    pub(crate) code: Vec<u8>,
}

impl<'a> Instrumented<'a> {
    /// Adds to a component; `None` where that can't be done.
    pub(crate) fn of(wasm: &'a [u8]) -> Option<Self> {
        let made = unpanicked(|| Wizer::new().instrument_component(wasm));
        let (parsed, code) = made?.ok()?;
        Some(Self { parsed, code })
    }

    /// Configures an instance and gives the component that it has become; `None` where no image can be taken.
    pub(crate) fn image(
        &self,
        host: &Host,
        linked: &InstancePre<Call>,
        about: (&Arc<str>, &str),
        limits: &Limits,
    ) -> Result<Option<Vec<u8>>, PackError> {
        let (mut store, instance) = configured(host, linked, about, limits)?;
        // Its whole memory is about to be read.
        store.set_hostcall_fuel(limits.memory);
        Ok(read(&self.parsed, State { store: &mut store, instance, fault: None }))
    }
}

/// A fresh instance that took its settings. `about` is the pack's label, and the settings.
pub(crate) fn configured(
    host: &Host,
    linked: &InstancePre<Call>,
    about: (&Arc<str>, &str),
    limits: &Limits,
) -> Result<(Store<Call>, Instance), PackError> {
    let (label, settings) = about;
    let mut store = Call::configuring(host, label, &limits.of_configuration());
    let started = linked.instantiate(&mut store).and_then(|instance| {
        let taken = configure(&mut store, &instance, settings)?;
        Ok((instance, taken))
    });
    match started {
        Ok((instance, Ok(()))) => Ok((store, instance)),
        Ok((_, Err(message))) => Err(PackError::settings(message)),
        Err(error) => Err(configure_error(&error, store.data())),
    }
}

/// Gives an instance its settings. The inner error is the pack's refusal of them.
pub(crate) fn configure(
    store: &mut Store<Call>,
    instance: &Instance,
    settings: &str,
) -> wasmtime::Result<Result<(), String>> {
    let function =
        instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut *store, "configure")?;
    Ok(function.call(store, (settings,))?.0)
}

/// The component as it is now.
fn read(parsed: &ComponentContext<'_>, mut state: State<'_>) -> Option<Vec<u8>> {
    let read = || {
        let wizer = Wizer::new();
        let mut reading = pin!(wizer.snapshot_component(parsed, &mut state));
        // Nothing in it waits: the state is read by synchronous calls.
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read.ok(),
            Poll::Pending => None,
        }
    };
    let image = unpanicked(read)??;
    state.fault.is_none().then_some(image)
}

/// Reads the state of a configured instance. The interface has no way to fail: the first fault is kept.
struct State<'a> {
    store: &'a mut Store<Call>,
    instance: Instance,
    fault: Option<wasmtime::Error>,
}

impl State<'_> {
    fn call<R, U: Default>(
        &mut self,
        instance: &str,
        function: &str,
        then: impl FnOnce(&Store<Call>, R) -> U,
    ) -> U
    where
        R: Lift + 'static,
    {
        match self.try_call(instance, function) {
            Ok(told) => then(self.store, told),
            Err(error) => {
                self.fault.get_or_insert(error);
                U::default()
            }
        }
    }

    fn try_call<R: Lift + 'static>(
        &mut self,
        instance: &str,
        function: &str,
    ) -> wasmtime::Result<R> {
        let missing = || wasmtime::format_err!("`{instance}` has no `{function}`");
        let within = self.instance.get_export_index(&mut *self.store, None, instance);
        let within = within.ok_or_else(missing)?;
        let index = self.instance.get_export_index(&mut *self.store, Some(&within), function);
        let function = self
            .instance
            .get_typed_func::<(), (R,)>(&mut *self.store, index.ok_or_else(missing)?)?;
        Ok(function.call(&mut *self.store, ())?.0)
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        self.call(instance, func, |store, list: WasmList<u8>| contents(list.as_le_slice(store)));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func, |_, value| value)
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func, |_, value| value)
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call(instance, func, |_, value: f32| value.to_bits())
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call(instance, func, |_, value: f64| value.to_bits())
    }
}
