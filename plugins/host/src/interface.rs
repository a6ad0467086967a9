//! What a module asks of the host and gives to it: a core module made a component of `plugins/wit`, and a component compared
//! with what its manifest says.
//!
//! Invariant: what passes here imports only what its manifest names, and exports what its phases need. All of it works on
//! bytes that anybody may have made; where their module can't be trusted, it happens in a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use model::document::PhaseName;
use serde::Serialize;
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::pack::{PackError, shown};
use crate::package::{BodyOf, Capability, MAX_MODULE_BYTES, Manifest};

/// The contract, which components are made of.
const WIT: &str = include_str!("../../wit/policy.wit");
const WORLD: &str = "pack";
/// How every WebAssembly file starts.
const MAGIC: &[u8] = b"\0asm";
/// What follows in a core module, and in a component.
const MODULE: &[u8] = &[1, 0, 0, 0];
const COMPONENT: &[u8] = &[13, 0, 1, 0];

/// What a component's imports start with that are of our contract.
const PACKAGE: &str = "tollgate:policy/";
/// The version that follows. Later ones of the same major version only add.
const VERSION: &str = "1.0.0";
const MAJOR: &str = "@1.";
/// Interfaces that every pack has.
const ALWAYS: &[&str] = &["exchange", "decisions"];
const CONFIGURE: &str = "configure";
const REQUEST_BODY: &str = "[method]request.body";
const RESPONSE_BODY: &str = "[method]response.body";

/// What a module imports and exports, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Interfaces that it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// The bodies that it can ask for.
    pub body: Vec<BodyOf>,
}

impl Interface {
    /// Reads it from a component, or from a core module as from the component that is made of it.
    pub fn of(module: &[u8]) -> Result<Self, PackError> {
        match kind(module)? {
            Kind::Component => Self::of_component(module),
            Kind::Module => Self::of_component(&componentize(module)?),
        }
    }

    fn of_component(component: &[u8]) -> Result<Self, PackError> {
        let decoded = unpanicked(|| wit_component::decode(component));
        let (resolve, world) = match decoded {
            Some(Ok(DecodedWasm::Component(resolve, world))) => (resolve, world),
            Some(Ok(DecodedWasm::WitPackage(..))) => return Err(PackError::NotWasm),
            Some(Err(error)) => return Err(PackError::invalid(&error)),
            None => return Err(PackError::invalid(&"its interface can't be read")),
        };
        let world = resolve.worlds.get(world).ok_or(PackError::NotWasm)?;
        let name = |key: &WorldKey| resolve.name_world_key(key);
        let imported = |function: &str| {
            world.imports.values().any(|item| match item {
                WorldItem::Interface { id, .. } => resolve
                    .interfaces
                    .get(*id)
                    .is_some_and(|interface| interface.functions.contains_key(function)),
                WorldItem::Function(_) | WorldItem::Type { .. } => false,
            })
        };
        let bodies = [(BodyOf::Request, REQUEST_BODY), (BodyOf::Response, RESPONSE_BODY)];
        let read = bodies.into_iter().filter(|(_, function)| imported(function));
        // Types that the world takes over from an interface are listed beside it.
        let needs = |(_, item): &(&WorldKey, &WorldItem)| !matches!(item, WorldItem::Type { .. });
        let imports = world.imports.iter().filter(needs);
        Ok(Self {
            imports: imports.map(|(key, _)| name(key)).collect(),
            exports: world.exports.keys().map(name).collect(),
            body: read.map(|(body, _)| body).collect(),
        })
    }

    /// Compares it with what the manifest says.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), PackError> {
        for import in &self.imports {
            let ours = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once(MAJOR));
            let (interface, _) = ours.ok_or_else(|| unknown(import))?;
            if ALWAYS.contains(&interface) {
                continue;
            }
            let capability = Capability::ALL.iter().find(|known| known.as_str() == interface);
            let capability = *capability.ok_or_else(|| unknown(import))?;
            if !manifest.capabilities.contains(&capability) {
                return Err(PackError::MissingCapability { capability });
            }
        }
        if let Some(body) = self.body.iter().find(|body| !manifest.reads(**body)) {
            return Err(PackError::UndeclaredBody { body: *body });
        }
        let needed = exports(manifest);
        match needed.into_iter().find(|export| !self.exports.iter().any(|has| has == export)) {
            Some(export) => Err(PackError::MissingExport { export: export.to_owned() }),
            None => Ok(()),
        }
    }
}

/// What a pack of this manifest exports.
pub(crate) fn exports(manifest: &Manifest) -> Vec<&'static str> {
    let phases = manifest.phases.iter().map(|phase| export_of(*phase));
    [CONFIGURE].into_iter().chain(phases).collect()
}

/// The interfaces that a pack of this manifest may import.
pub(crate) fn imports(manifest: &Manifest) -> Vec<String> {
    let capabilities = manifest.capabilities.iter().map(|capability| capability.as_str());
    let named = ALWAYS.iter().copied().chain(capabilities);
    named.map(|interface| format!("{PACKAGE}{interface}@{VERSION}")).collect()
}

/// What a pack exports to speak in a phase.
pub(crate) const fn export_of(phase: PhaseName) -> &'static str {
    match phase {
        PhaseName::Cost => "cost",
        PhaseName::Request => "on-request",
        PhaseName::Response => "on-response",
    }
}

/// Makes a component of a core module: it implements what it exports of the world `pack`. What it may say itself about its
/// interface (`component-type` sections) is left aside.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, PackError> {
    if kind(module)? != Kind::Module {
        return Err(PackError::invalid(&"it is a component already"));
    }
    // The steps after this one panic at some modules that are not valid.
    wasmparser::validate(module).map_err(|error| PackError::invalid(&error))?;
    let (imported, exported) = names(module)?;
    let (mut resolve, world) = contract()?;
    for name in imported {
        if resolve.worlds.get(world).is_none_or(|world| !imports_of(&resolve, world, &name)) {
            return Err(unknown(&name));
        }
    }
    if !exported.iter().any(|name| name == CONFIGURE) {
        return Err(PackError::MissingExport { export: CONFIGURE.to_owned() });
    }
    if let Some(world) = resolve.worlds.get_mut(world) {
        world.exports.retain(|key, _| match key {
            WorldKey::Name(name) => exported.contains(name),
            WorldKey::Interface(_) => true,
        });
    }
    let made = unpanicked(|| {
        let (stripped, _) = wit_component::metadata::decode(module)?;
        let mut module = stripped.unwrap_or_else(|| module.to_vec());
        let encoding = StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)?;
        ComponentEncoder::default().validate(true).module(&module)?.encode()
    });
    match made {
        Some(made) => made.map_err(|error| PackError::invalid(&error)),
        None => Err(PackError::invalid(&"its interface can't be read")),
    }
}

/// The component of a pack's module, which may be one already.
pub(crate) fn component(module: &[u8]) -> Result<Vec<u8>, PackError> {
    match kind(module)? {
        Kind::Component => Ok(module.to_vec()),
        Kind::Module => componentize(module),
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
    if wasm.len() > MAX_MODULE_BYTES {
        return Err(PackError::TooLarge { bytes: wasm.len() });
    }
    match wasm.strip_prefix(MAGIC) {
        Some(rest) if rest.starts_with(MODULE) => Ok(Kind::Module),
        Some(rest) if rest.starts_with(COMPONENT) => Ok(Kind::Component),
        Some(_) | None => Err(PackError::NotWasm),
    }
}

fn unknown(import: &str) -> PackError {
    PackError::UnknownImport { name: shown(import.to_owned()) }
}

/// The names of the modules that a core module imports from, and of its exports.
fn names(module: &[u8]) -> Result<(Vec<String>, Vec<String>), PackError> {
    let (mut imported, mut exported) = (Vec::new(), Vec::new());
    let invalid = |error: wasmparser::BinaryReaderError| PackError::invalid(&error);
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    imported.push(import.map_err(invalid)?.module.to_owned());
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    exported.push(export.map_err(invalid)?.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imported, exported))
}

/// `plugins/wit`, and its world.
fn contract() -> Result<(Resolve, wit_parser::WorldId), PackError> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("policy.wit", WIT);
    let world = package.and_then(|package| resolve.select_world(&[package], Some(WORLD)));
    Ok((resolve, world.map_err(|error| PackError::invalid(&error))?))
}

fn imports_of(resolve: &Resolve, world: &wit_parser::World, name: &str) -> bool {
    world.imports.keys().any(|key| resolve.name_world_key(key) == name)
}
