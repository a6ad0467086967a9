//! The demo's packs as files, signed by a key that everybody knows.

use crate::pack::Described;
use anyhow::Context as _;
use demo::DemoPack;
use gateway::watch::{Readers, replace};
use model::id::PackKeyId;
use pack_host::{NamedVector, Package, SigningKey};
use std::path::Path;

/// Lays the demo's packs into a folder, for a document that is kept in a file.
pub(crate) fn lay(folder: &Path) -> anyhow::Result<()> {
    for pack in demo::PACKS {
        let package = signed(pack)?;
        replace(&folder.join(package.file_name()), &package.write(), Readers::Everybody)?;
    }
    Ok(())
}

/// A pack of the demo as it would be uploaded.
pub(super) fn signed(pack: &DemoPack) -> anyhow::Result<Package> {
    let make = || {
        let schema = pack.schema.map(serde_json::from_str).transpose()?;
        let vectors = pack
            .vectors
            .iter()
            .map(|(name, text)| NamedVector::parse(name, text.as_bytes()))
            .collect::<Result<_, _>>()?;
        let manifest = Described::read(pack.manifest)?.manifest();
        let module = pack_host::componentize(pack.wasm)?;
        let mut package = Package::build(manifest, module, schema, vectors)?;
        let key = SigningKey::from_pem(demo::PACK_KEY_PEM)?;
        package.sign(&PackKeyId::from(demo::PACK_KEY), &key);
        anyhow::Ok(package)
    };
    make().with_context(|| format!("the demo's pack {}", pack.name))
}
