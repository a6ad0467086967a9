//! The pack file, signed by the key that everybody knows.

use super::PACK;
use crate::Outcome;
use model::document::PhaseName;
use model::id::PackKeyId;
use pack_host::{ABI, Manifest, Package, SigningKey};
use serde_json::{Value, json};
use std::path::Path;

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
    let manifest = Manifest {
        name: PACK.into(),
        version: version.to_owned(),
        abi: ABI.to_owned(),
        phases: vec![PhaseName::Request],
        body: Vec::new(),
        capabilities: Vec::new(),
        limits: model::document::PackLimits::default(),
    };
    let mut package = Package::build(manifest, pack.wasm.to_vec(), None, Vec::new())?;
    package.sign(&PackKeyId::from(demo::PACK_KEY), &SigningKey::from_pem(demo::PACK_KEY_PEM)?);
    Ok(package)
}

/// Lays both versions where gateways look for them.
pub(crate) fn lay(folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    for version in [FIRST, SECOND] {
        let package = package(version)?;
        std::fs::write(folder.join(package.file_name()), package.write())?;
    }
    Ok(())
}
