//! The first age of a pack: its bytes, checked against the interface and compiled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use model::FailureReason;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use crate::abi::PackPre;
use crate::host::Host;
use crate::limits::Limits;
use crate::prepared::Prepared;
use crate::snapshot::Instrumented;

/// The largest pack that is taken, in bytes.
pub const MAX_PACK_BYTES: usize = 8 << 20;

/// The world that a pack is built against, as errors name it.
const WORLD: &str = "tollgate:policy/pack@1";
/// How every WebAssembly file starts.
const MAGIC: &[u8] = b"\0asm";
/// What follows in a core module, and in a component.
const MODULE: &[u8] = &[1, 0, 0, 0];
const COMPONENT: &[u8] = &[13, 0, 1, 0];

/// A pack that fits the interface, compiled.
pub struct Pack {
    pub(crate) host: Arc<Host>,
    /// What log lines call it, such as `require-header@1.0.0`.
    pub(crate) label: Arc<str>,
    /// The component as it was given, or as made from the module that was given.
    pub(crate) wasm: Vec<u8>,
    pub(crate) component: Component,
    /// Whether `component` has the additions through which a memory image can be taken.
    pub(crate) instrumented: bool,
    digest: String,
}

/// Why bytes are no pack, or a pack can't be prepared. The text says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Larger than [`MAX_PACK_BYTES`].
    #[error("the pack has {bytes} bytes; at most {MAX_PACK_BYTES} are taken")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// Neither a component nor a core module.
    #[error("this is not WebAssembly: give the .wasm file that the build made")]
    NotWasm,
    /// A core module that doesn't say which world it is for.
    #[error(
        "the module does not say which interface it implements: depend on `tollgate-pack` and call its `pack!` \
         macro, or give a component of the world `{WORLD}`"
    )]
    NoWorld,
    /// WebAssembly that isn't valid, or uses features that packs don't have.
    #[error("the pack can't be compiled: {message}")]
    Invalid {
        /// What the compiler says.
        message: String,
    },
    /// It needs something that the host doesn't give.
    #[error(
        "{message}; a pack can import only what the world `{WORLD}` has: build it for wasm32-unknown-unknown, \
         without WASI"
    )]
    Import {
        /// Names the import.
        message: String,
    },
    /// It lacks what the host calls.
    #[error("{message}; a pack exports what the world `{WORLD}` says")]
    Export {
        /// Names the export.
        message: String,
    },
    /// It refused its settings.
    #[error("{message}")]
    Settings {
        /// The pack's own words.
        message: String,
    },
    /// It failed while it was configured, or could not be started with its settings.
    #[error("the pack failed while it was configured ({}): {detail}", reason.as_str())]
    Configure {
        /// In which way.
        reason: FailureReason,
        /// The engine's words.
        detail: String,
    },
    /// The limits ask for what no limit can grant.
    #[error("limits: {message}")]
    Limits {
        /// Which one.
        message: String,
    },
}

impl PackError {
    pub(crate) fn invalid(error: &wasmtime::Error) -> Self {
        Self::Invalid { message: format!("{error:#}") }
    }
}

impl Host {
    /// Checks and compiles a pack: a component, or a core module as `cargo build --target wasm32-unknown-unknown` makes
    /// it. Takes up to seconds. `label` is what the pack's log lines carry.
    pub fn compile(self: &Arc<Self>, label: &str, wasm: &[u8]) -> Result<Pack, PackError> {
        let digest = format!("sha256:{:x}", Sha256::digest(wasm));
        let wasm = match kind(wasm)? {
            Kind::Component => wasm.to_vec(),
            Kind::Module => componentize(wasm)?,
        };
        // The additions change nothing that the pack does, so that one compilation serves both ways of preparing it.
        let instrumented = Instrumented::of(&wasm);
        let code = instrumented.as_ref().map_or(&*wasm, |instrumented| &instrumented.code);
        let component =
            Component::new(&self.engine, code).map_err(|error| PackError::invalid(&error))?;
        let instrumented = instrumented.is_some();
        let pack = Pack {
            host: Arc::clone(self),
            label: label.into(),
            wasm,
            component,
            instrumented,
            digest,
        };
        pack.link(&pack.component)?;
        Ok(pack)
    }
}

impl Pack {
    /// `sha256:` and the hexadecimal hash of the bytes that were given.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Applies the settings of one attachment, once: where the pack refuses them, this fails with its message. Takes up
    /// to seconds.
    pub fn prepare(&self, settings: &Value, limits: Limits) -> Result<Prepared, PackError> {
        Prepared::new(self, settings, limits)
    }

    /// Resolves imports and exports.
    pub(crate) fn link(
        &self,
        component: &Component,
    ) -> Result<PackPre<crate::call::Call>, PackError> {
        let linked = self.host.linker.instantiate_pre(component);
        let linked = linked.map_err(|error| PackError::Import { message: format!("{error:#}") })?;
        PackPre::new(linked).map_err(|error| PackError::Export { message: format!("{error:#}") })
    }
}

/// Makes a component of a core module that says which world it is for, as the SDK's `pack!` has it say.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, PackError> {
    let invalid =
        |error: &dyn std::fmt::Display| PackError::Invalid { message: format!("{error:#}") };
    if kind(module)? != Kind::Module {
        return Err(PackError::Invalid { message: "it is a component already".to_owned() });
    }
    // The steps after this one panic at some modules that are not valid.
    wasmparser::validate(module).map_err(|error| invalid(&error))?;
    let made = unpanicked(|| {
        let (said, _) = wit_component::metadata::decode(module)?;
        let Some(_) = said else { return Ok(None) };
        let encoder = ComponentEncoder::default().validate(true).module(module);
        encoder.and_then(|mut encoder| encoder.encode()).map(Some)
    });
    match made {
        Some(Ok(Some(component))) => Ok(component),
        Some(Ok(None)) => Err(PackError::NoWorld),
        Some(Err(error)) => Err(invalid(&error)),
        None => Err(PackError::Invalid { message: "its interface can't be read".to_owned() }),
    }
}

/// What comes of a step over a pack's bytes in a library that may panic at what it doesn't know; `None` where it did.
pub(crate) fn unpanicked<T>(step: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Component,
}

fn kind(wasm: &[u8]) -> Result<Kind, PackError> {
    if wasm.len() > MAX_PACK_BYTES {
        return Err(PackError::TooLarge { bytes: wasm.len() });
    }
    match wasm.strip_prefix(MAGIC) {
        Some(rest) if rest.starts_with(MODULE) => Ok(Kind::Module),
        Some(rest) if rest.starts_with(COMPONENT) => Ok(Kind::Component),
        Some(_) | None => Err(PackError::NotWasm),
    }
}
