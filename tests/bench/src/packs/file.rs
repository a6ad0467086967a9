//! The pack file, signed by the key that everybody knows.

use super::PACK;
use crate::Outcome;
use model::document::PhaseName;
use model::id::PackKeyId;
use pack_host::{ABI, BodyOf, Capability, Manifest, Package, SigningKey};
use serde_json::{Value, json};
use std::path::Path;

/// A pack that misbehaves as it is told.
pub(crate) const MISBEHAVING: &str = "misbehave";
/// The version that runs.
pub(crate) const FIRST: &str = "1.0.0";
/// The version that comes.
pub(crate) const SECOND: &str = "1.0.1";

/// The key, as documents name it.
pub(crate) fn key() -> Outcome<Value> {
    let public = SigningKey::from_pem(demo::PACK_KEY_PEM)?.public().to_string();
    Ok(json!({ "id": demo::PACK_KEY, "public_key": public, "tenants": ["*"] }))
}

/// The pack under this version.
pub(crate) fn package(version: &str) -> Outcome<Package> {
    let pack =
        demo::PACKS.iter().find(|pack| pack.name == PACK).ok_or("the demo lacks the pack")?;
    let phases = vec![PhaseName::Request];
    let (body, capabilities) = (Vec::new(), Vec::new());
    signed(Manifest { phases, body, capabilities, ..manifest(PACK, version) }, pack.wasm)
}

/// Lays all of them where gateways look for them.
pub(crate) fn lay(folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    let misbehaving = signed(manifest(MISBEHAVING, FIRST), demo::MISBEHAVE)?;
    for package in [package(FIRST)?, package(SECOND)?, misbehaving] {
        std::fs::write(folder.join(package.file_name()), package.write())?;
    }
    Ok(())
}

/// Of a pack that decides about requests, with everything that there is.
fn manifest(name: &str, version: &str) -> Manifest {
    Manifest {
        name: name.into(),
        version: version.to_owned(),
        abi: ABI.to_owned(),
        phases: vec![PhaseName::Request, PhaseName::Response],
        body: vec![BodyOf::Request, BodyOf::Response],
        capabilities: Capability::ALL.to_vec(),
        limits: model::document::PackLimits::default(),
    }
}

fn signed(manifest: Manifest, module: &[u8]) -> Outcome<Package> {
    let mut package = Package::build(manifest, module.to_vec(), None, Vec::new())?;
    package.sign(&PackKeyId::from(demo::PACK_KEY), &SigningKey::from_pem(demo::PACK_KEY_PEM)?);
    Ok(package)
}
