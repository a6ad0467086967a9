//! What a worker does for [`crate::Pack::prepare`]: from a module and settings to native code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use wasmtime::component::{Component, InstancePre};

use crate::artefact::Artefact;
use crate::call::Call;
use crate::host::Host;
use crate::interface::{self, Interface};
use crate::limits::Limits;
use crate::pack::PackError;
use crate::package::Package;
use crate::settings::SettingsSchema;
use crate::snapshot::{self, Instrumented};
use crate::worker::MAX_ARTEFACT_BYTES;

/// The most that one job hands over, all its artefacts together, in bytes.
const MAX_ARTEFACTS_BYTES: usize = 64 << 20;
/// How long a job goes on taking settings; the rest is for the next one.
const MAX_JOB_TIME: Duration = Duration::from_secs(5);

/// A pack that was checked and compiled, without settings.
pub(crate) struct Compiler<'a> {
    host: &'a Host,
    label: Arc<str>,
    schema: Option<SettingsSchema>,
    wasm: &'a [u8],
    instrumented: Option<Instrumented<'a>>,
    component: Component,
    linked: InstancePre<Call>,
}

impl<'a> Compiler<'a> {
    /// Checks and compiles. `wasm` is the pack's component.
    pub(crate) fn new(
        host: &'a Host,
        package: &Package,
        wasm: &'a [u8],
    ) -> Result<Self, PackError> {
        Interface::of(wasm)?.check(package.manifest())?;
        let schema = package.settings_schema().map(SettingsSchema::new).transpose()?;
        let instrumented = Instrumented::of(wasm);
        let code = instrumented.as_ref().map_or(wasm, |instrumented| &instrumented.code);
        let component =
            Component::new(&host.engine, code).map_err(|error| PackError::invalid(&error))?;
        let linked = host.linker.instantiate_pre(&component);
        let linked = linked.map_err(|error| PackError::Import { message: format!("{error:#}") })?;
        let label = package.label().into();
        Ok(Self { host, label, schema, wasm, instrumented, component, linked })
    }

    /// Whether memory images can be taken of it, as far as can be told without settings.
    pub(crate) fn takes_images(&self) -> bool {
        self.instrumented.is_some()
    }

    /// Applies settings and compiles what the pack has become.
    pub(crate) fn artefact(&self, settings: &Value, memory: usize) -> Result<Artefact, PackError> {
        if let Some(schema) = &self.schema {
            schema.check(settings)?;
        }
        let limits = Limits { memory, ..Limits::default() };
        let text = settings.to_string();
        let about = (&self.label, &*text);
        let image = match &self.instrumented {
            Some(instrumented) => instrumented.image(self.host, &self.linked, about, &limits)?,
            None => {
                snapshot::configured(self.host, &self.linked, about, &limits)?;
                None
            }
        };
        let code = match &image {
            Some(image) => self.host.engine.precompile_component(image),
            // Without what was added to it.
            None if self.instrumented.is_some() => self.host.engine.precompile_component(self.wasm),
            None => self.component.serialize(),
        };
        let code = code.map_err(|error| PackError::invalid(&error))?;
        if code.len() > MAX_ARTEFACT_BYTES {
            return Err(PackError::TooLargeCompiled { bytes: code.len() });
        }
        Ok(Artefact { image: image.is_some(), code })
    }
}

/// What comes of each of these settings, or of as many of the first of them as fit into one job.
pub(crate) fn prepare(
    host: &Host,
    package: &Package,
    settings: &[Value],
    memory: usize,
) -> Vec<Result<Artefact, PackError>> {
    let began = Instant::now();
    let wasm = interface::component(package.module());
    let compiler = wasm.as_ref().map_err(PackError::clone);
    let compiler = compiler.and_then(|wasm| Compiler::new(host, package, wasm));
    let compiler = match compiler {
        Ok(compiler) => compiler,
        // None of them can be had.
        Err(error) => return settings.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut made = Vec::new();
    let mut bytes = 0;
    for settings in settings {
        // One at least, however long compiling the pack itself has taken.
        let is_full = bytes > MAX_ARTEFACTS_BYTES - MAX_ARTEFACT_BYTES;
        if !made.is_empty() && (is_full || began.elapsed() > MAX_JOB_TIME) {
            break;
        }
        let artefact = compiler.artefact(settings, memory);
        bytes += artefact.as_ref().map_or(0, |artefact| artefact.code.len());
        made.push(artefact);
    }
    made
}
