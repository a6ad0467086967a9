//! Pack files of this crate's tests, signed by a key of their own.

use crate::watch;
use model::id::PackKeyId;
use pack_host::{ABI, NamedVector, Package, SigningKey};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;

/// The key's id.
pub(crate) const KEY_ID: &str = "tests";
static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

/// The key, as a document names it.
pub(crate) fn key(tenants: &[&str]) -> Value {
    json!({ "id": KEY_ID, "public_key": KEY.public().to_string(), "tenants": tenants })
}

/// A pack that does what its settings say, in every phase.
pub(crate) fn misbehave(version: &str) -> Package {
    misbehave_with(version, &[])
}

/// The same with these vectors.
pub(crate) fn misbehave_with(version: &str, vectors: &[(&str, Value)]) -> Package {
    let manifest = json!({
        "name": "misbehave", "version": version, "abi": ABI, "phases": ["cost", "request", "response"],
        "body": ["request", "response"], "capabilities": ["log", "clock", "random", "data", "counters"],
    });
    signed(&manifest, demo::MISBEHAVE.to_vec(), vectors)
}

/// A pack of one phase that goes on, whatever it is asked.
pub(crate) fn quiet(version: &str, vectors: &[(&str, Value)]) -> Package {
    let module = wat::parse_str(
        r#"(module
            (import "tollgate:policy/exchange@1.0.0" "[resource-drop]request" (func $drop (param i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
            (func (export "configure") (param i32 i32) (result i32) (i32.const 1024))
            (func (export "on-request") (param i32) (result i32) (call $drop (local.get 0)) (i32.const 1024)))"#,
    );
    let manifest = json!({
        "name": "quiet", "version": version, "abi": ABI, "phases": ["request"], "limits": { "instances": 7 },
    });
    signed(&manifest, module.unwrap(), vectors)
}

fn signed(manifest: &Value, module: Vec<u8>, vectors: &[(&str, Value)]) -> Package {
    let manifest = serde_json::from_value(manifest.clone()).unwrap();
    let vectors = vectors
        .iter()
        .map(|(name, vector)| NamedVector::parse(name, vector.to_string().as_bytes()).unwrap());
    let mut package = Package::build(manifest, module, None, vectors.collect()).unwrap();
    package.sign(&PackKeyId::from(KEY_ID), &KEY);
    package
}

/// Lays a pack's file where a gateway of this folder looks for it.
pub(crate) fn lay(folder: &Path, package: &Package) {
    let file = folder.join("packs").join(package.file_name());
    watch::replace(&file, &package.write(), watch::Readers::Everybody).unwrap();
}
