//! Pack files of the tests' own, signed by a key that everybody knows.

use demo::DemoPack;
use model::id::PackKeyId;
use pack_host::{ABI, Capability, Interface, Manifest, NamedVector, Package, SigningKey};
use serde_json::{Value, json};

/// What a pack file is made of.
pub(crate) struct Made {
    manifest: Manifest,
    module: Vec<u8>,
    schema: Option<Value>,
    vectors: Vec<NamedVector>,
}

/// The key, as a document names it.
pub(crate) fn key() -> Value {
    let public = SigningKey::from_pem(demo::PACK_KEY_PEM).unwrap().public();
    json!({ "id": demo::PACK_KEY, "public_key": public.to_string(), "tenants": ["*"] })
}

impl Made {
    /// A pack of the demo, whole.
    pub(crate) fn of(pack: &DemoPack) -> Self {
        let described: Value = serde_saphyr::from_str(pack.manifest).unwrap();
        let limits = described.get("limits").cloned().unwrap_or_else(|| json!({}));
        let vectors = pack.vectors.iter();
        let vectors = vectors.map(|(name, text)| NamedVector::parse(name, text.as_bytes()));
        Self {
            schema: pack.schema.map(|text| serde_json::from_str(text).unwrap()),
            vectors: vectors.collect::<Result<_, _>>().unwrap(),
            ..Self::named(pack.name, pack.version, pack.wasm).with("limits", limits)
        }
    }

    /// A pack that speaks when its module can, with every capability that it imports.
    pub(crate) fn named(name: &str, version: &str, module: &[u8]) -> Self {
        let Interface { imports, exports, body } = Interface::of(module).unwrap();
        let phases = ["cost", "request", "response"].into_iter().filter(|phase| {
            let export = if *phase == "cost" { "cost".to_owned() } else { format!("on-{phase}") };
            exports.contains(&export)
        });
        let imported = |capability: &&Capability| {
            let interface = format!("/{}@", capability.as_str());
            imports.iter().any(|import| import.contains(&interface))
        };
        let capabilities: Vec<_> = Capability::ALL.iter().filter(imported).collect();
        let manifest = json!({
            "name": name, "version": version, "abi": ABI, "phases": phases.collect::<Vec<_>>(), "body": body,
            "capabilities": capabilities,
        });
        Self {
            manifest: serde_json::from_value(manifest).unwrap(),
            module: module.to_vec(),
            schema: None,
            vectors: Vec::new(),
        }
    }

    /// With this in its manifest.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        let mut manifest = serde_json::to_value(&self.manifest).unwrap();
        manifest[field] = value;
        self.manifest = serde_json::from_value(manifest).unwrap();
        self
    }

    /// With this vector.
    pub(crate) fn vector(mut self, name: &str, vector: &Value) -> Self {
        self.vectors.push(NamedVector::parse(name, vector.to_string().as_bytes()).unwrap());
        self
    }

    /// The file, signed by the key that everybody knows.
    pub(crate) fn file(self) -> Vec<u8> {
        self.signed_by(demo::PACK_KEY, &SigningKey::from_pem(demo::PACK_KEY_PEM).unwrap())
    }

    /// The file, signed by this key.
    pub(crate) fn signed_by(self, id: &str, key: &SigningKey) -> Vec<u8> {
        let Self { manifest, module, schema, vectors } = self;
        let mut package = Package::build(manifest, module, schema, vectors).unwrap();
        package.sign(&PackKeyId::from(id), key);
        package.write()
    }
}

/// The bytes with a text replaced by another one of the same length: a module that decides otherwise.
pub(crate) fn patched(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let found: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert_eq!(found.len(), 1, "the module holds it once: {from}");
    let mut patched = bytes.to_vec();
    patched[found[0]..found[0] + to.len()].copy_from_slice(to.as_bytes());
    patched
}
