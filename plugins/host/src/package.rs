//! A pack as a file: what it says of itself, its module, the schema of its settings, its vectors, and who signed it.
//!
//! Invariant: a [`Package`] is a file that was read whole and is well formed: the digest names all of its content, and it is
//! written again byte for byte. Whether its module is any good is for [`crate::Host::try_out`] to say.

mod error;
mod key;
mod layout;
mod manifest;

pub use error::PackageError;
pub use key::{PublicKey, SigningKey};
pub use manifest::{ABI, BodyOf, Capability, Manifest};

use std::sync::Arc;

use model::document::PackKey;
use model::id::{PackId, PackKeyId, TenantId, is_id};
use serde::Serialize;
use serde_json::Value;

use crate::interface::{self, Interface};
use crate::settings::SettingsSchema;
use crate::vector::NamedVector;
use layout::{Layer, Parts, Signature};

/// The largest pack file that is taken, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// The largest module that is taken, in bytes.
pub const MAX_MODULE_BYTES: usize = 8 << 20;
/// The largest settings schema, manifest or vector, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// All vectors together, in bytes.
const MAX_VECTORS_BYTES: usize = 4 << 20;
/// The most vectors of a pack.
const MAX_VECTORS: usize = 256;

const MODULE_TYPE: &str = "application/wasm";
const MANIFEST_TYPE: &str = "application/vnd.tollgate.pack.manifest.v1+json";
const SCHEMA_TYPE: &str = "application/vnd.tollgate.pack.settings-schema.v1+json";
const VECTOR_TYPE: &str = "application/vnd.tollgate.pack.vector.v1+json";
const MODULE_TITLE: &str = "module.wasm";
const MANIFEST_TITLE: &str = "manifest.json";
const SCHEMA_TITLE: &str = "settings.schema.json";
const VECTORS_TITLE: &str = "vectors/";

/// How every component starts.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A pack file's content.
#[derive(Clone)]
pub struct Package {
    parts: Parts,
    digest: Arc<str>,
    manifest: Manifest,
    schema: Option<Value>,
    vectors: Vec<NamedVector>,
}

impl Package {
    /// Puts a pack together, unsigned; its module is compared with its manifest, and its schema checked. The module is a
    /// component, or a core module that a component can be made of.
    pub fn build(
        manifest: Manifest,
        module: Vec<u8>,
        schema: Option<Value>,
        mut vectors: Vec<NamedVector>,
    ) -> Result<Self, PackageError> {
        manifest.check()?;
        Interface::of(&module)?.check(&manifest)?;
        schema.as_ref().map(SettingsSchema::new).transpose()?;
        vectors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut layers = vec![
            layer(MODULE_TYPE, MODULE_TITLE, module),
            layer(MANIFEST_TYPE, MANIFEST_TITLE, json(&manifest)),
        ];
        layers.extend(schema.as_ref().map(|schema| layer(SCHEMA_TYPE, SCHEMA_TITLE, json(schema))));
        layers.extend(vectors.iter().map(|named| {
            layer(VECTOR_TYPE, &format!("{VECTORS_TITLE}{}.json", named.name), json(&named.vector))
        }));
        let tag = manifest.version.clone();
        let package = Self::of(Parts {
            tag,
            config: config(&manifest, &layers).into(),
            layers,
            signature: None,
        })?;
        at_most("the pack file", package.parts.write().len(), MAX_FILE_BYTES)?;
        Ok(package)
    }

    /// Reads a pack file. Who signed it is for [`Package::signer`] to judge.
    pub fn read(file: &[u8]) -> Result<Self, PackageError> {
        at_most("the pack file", file.len(), MAX_FILE_BYTES)?;
        if file.starts_with(b"\0asm") {
            return Err(PackageError::no_pack("it is a bare WebAssembly module"));
        }
        Self::of(Parts::read(file)?)
    }

    fn of(parts: Parts) -> Result<Self, PackageError> {
        let mut layers = parts.layers.iter().peekable();
        let mut next = |media_type: &str| layers.next_if(|layer| layer.media_type == media_type);
        let missing = |what: &str| PackageError::no_pack(format!("it has no {what}"));
        let module = next(MODULE_TYPE).ok_or_else(|| missing("module"))?;
        let manifest_layer = next(MANIFEST_TYPE).ok_or_else(|| missing("manifest"))?;
        let schema_layer = next(SCHEMA_TYPE);
        let vector_layers: Vec<_> = std::iter::from_fn(|| next(VECTOR_TYPE)).collect();
        if layers.next().is_some() {
            return Err(PackageError::NotCanonical);
        }

        at_most("the module", module.blob.bytes.len(), MAX_MODULE_BYTES)?;
        let manifest = |message| PackageError::Manifest { message };
        let manifest: Manifest = text("the manifest", &manifest_layer.blob.bytes, manifest)?;
        manifest.check()?;
        let unreadable = |message| PackageError::no_pack(format!("`{SCHEMA_TITLE}`: {message}"));
        let schema = schema_layer
            .map(|layer| text("the settings schema", &layer.blob.bytes, unreadable))
            .transpose()?;
        let vectors = vectors(&vector_layers, &manifest)?;

        let titled = [
            (Some(module), MODULE_TITLE),
            (Some(manifest_layer), MANIFEST_TITLE),
            (schema_layer, SCHEMA_TITLE),
        ];
        let titles = titled.iter().all(|(layer, title)| layer.is_none_or(|l| l.title == *title));
        if !titles || parts.tag != manifest.version {
            return Err(PackageError::NotCanonical);
        }
        Ok(Self { digest: parts.digest(), manifest, schema, vectors, parts })
    }

    /// The file's bytes.
    pub fn write(&self) -> Vec<u8> {
        self.parts.write()
    }

    /// `NAME-VERSION.tgpack`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.tgpack", self.name(), self.version())
    }

    /// The pack's name.
    pub fn name(&self) -> &PackId {
        &self.manifest.name
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// `name@version`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name(), self.version())
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A component, or a core module.
    pub fn module(&self) -> &[u8] {
        self.parts.layers.first().map_or(&[], |layer| &layer.blob.bytes)
    }

    /// What its settings must be like: a JSON Schema.
    pub fn settings_schema(&self) -> Option<&Value> {
        self.schema.as_ref()
    }

    /// What it decides about examples, by name.
    pub fn vectors(&self) -> &[NamedVector] {
        &self.vectors
    }

    /// `sha256:` and the hexadecimal hash of the OCI manifest, which names everything but the signature.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// By which key it is signed, as it says.
    pub fn signed_by(&self) -> Option<&PackKeyId> {
        self.parts.signature.as_ref().map(|signature| &signature.key)
    }

    /// Signs it, in place of who did before. What is signed is the text of the digest.
    pub fn sign(&mut self, id: &PackKeyId, key: &SigningKey) {
        let bytes = key.sign(self.digest.as_bytes());
        self.parts.signature = Some(Signature { key: id.clone(), bytes });
    }

    /// Checks that it is signed, and by this key.
    pub fn verify(&self, key: &PublicKey) -> Result<(), PackageError> {
        let signature = self.parts.signature.as_ref().ok_or(PackageError::Unsigned)?;
        key.verify(self.digest.as_bytes(), &signature.bytes)
    }

    /// Whose signature it carries, of these keys; checked.
    pub fn signer<'k>(&self, keys: &'k [PackKey]) -> Result<&'k PackKey, PackageError> {
        let id = self.signed_by().ok_or(PackageError::Unsigned)?;
        let key = keys.iter().find(|key| key.id == *id);
        let key = key.ok_or_else(|| PackageError::UnknownKey { key: id.clone() })?;
        self.verify(&key.public_key.parse()?)?;
        Ok(key)
    }
}

/// Whether what this key signed may be attached for a tenant, or, without one, for all of them.
pub fn key_covers(key: &PackKey, tenant: Option<&TenantId>) -> bool {
    let covers = |listed: &String| listed == "*" || tenant.is_some_and(|id| id.as_str() == listed);
    key.tenants.iter().any(covers)
}

fn vectors(layers: &[&Layer], manifest: &Manifest) -> Result<Vec<NamedVector>, PackageError> {
    if layers.len() > MAX_VECTORS {
        let (what, has) = ("the pack", layers.len());
        return Err(PackageError::TooLarge { what, has, max: MAX_VECTORS, unit: "vectors" });
    }
    let bytes = layers.iter().map(|layer| layer.blob.bytes.len()).sum();
    at_most("the list of vectors", bytes, MAX_VECTORS_BYTES)?;
    let mut vectors: Vec<NamedVector> = Vec::with_capacity(layers.len());
    for layer in layers {
        let name = layer.title.strip_prefix(VECTORS_TITLE);
        let name = name.and_then(|file| file.strip_suffix(".json")).unwrap_or(&layer.title);
        let refuse = |message: String| PackageError::Vector { name: name.to_owned(), message };
        if !is_id(name) {
            return Err(refuse(
                "call its file by 1 to 64 letters, digits, `.`, `_` or `-`".to_owned(),
            ));
        }
        if vectors.last().is_some_and(|last| *last.name >= *name) {
            return Err(refuse("there are two of this name".to_owned()));
        }
        at_most("a vector", layer.blob.bytes.len(), MAX_TEXT_BYTES)?;
        let named = NamedVector::parse(name, &layer.blob.bytes)?;
        let phase = named.vector.phase;
        if !manifest.phases.contains(&phase) {
            let phase = phase.as_str();
            return Err(refuse(format!("its phase `{phase}` is not in the manifest's `phases`")));
        }
        vectors.push(named);
    }
    Ok(vectors)
}

fn layer(media_type: &str, title: &str, bytes: Vec<u8>) -> Layer {
    Layer { media_type: media_type.to_owned(), title: title.to_owned(), blob: bytes.into() }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is made of JSON's types")
}

fn text<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    refuse: impl FnOnce(String) -> PackageError,
) -> Result<T, PackageError> {
    at_most(what, bytes.len(), MAX_TEXT_BYTES)?;
    serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))
}

fn at_most(what: &'static str, has: usize, max: usize) -> Result<(), PackageError> {
    if has <= max {
        return Ok(());
    }
    Err(PackageError::TooLarge { what, has, max, unit: "bytes" })
}

/// What registries want to know of WebAssembly (the media type `application/vnd.wasm.config.v0+json`).
fn config(manifest: &Manifest, layers: &[Layer]) -> Vec<u8> {
    let is_component =
        layers.first().is_some_and(|module| module.blob.bytes.starts_with(COMPONENT));
    json(&WasmConfig {
        // The same pack is the same file.
        created: "1970-01-01T00:00:00Z",
        architecture: "wasm",
        // There is no name for what needs no system at all.
        os: if is_component { "wasip2" } else { "wasip1" },
        layer_digests: layers.iter().map(|layer| layer.blob.digest.to_string()).collect(),
        component: is_component.then(|| WasmComponent {
            exports: interface::exports(manifest),
            imports: interface::imports(manifest),
        }),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<WasmComponent>,
}

#[derive(Serialize)]
struct WasmComponent {
    exports: Vec<&'static str>,
    imports: Vec<String>,
}
