//! `tollgate pack build`: from a folder to an unsigned pack file.

use super::compile::compile;
use super::folder::Folder;
use crate::remote::Form;
use crate::{Ending, print, say};
use anyhow::Context as _;
use clap::Args;
use gateway::watch::{Readers, replace};
use pack_host::Package;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Builds a pack's folder into NAME-VERSION.tgpack: compiles it, makes a component of the module, takes its settings' schema
/// and its vectors along, and compares the module with what pack.yaml says. The file is not signed yet.
///
/// Example: tollgate pack build page-limit --out packs
#[derive(Args)]
pub(super) struct Build {
    /// The pack's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the pack file goes.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// Prints `{"pack", "file", "bytes", "digest"}`.
    #[arg(long)]
    json: bool,
}

impl Build {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let package = package(&self.dir)?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("{} can't be made", self.out.display()))?;
        let file = self.out.join(package.file_name());
        let bytes = package.write();
        replace(&file, &bytes, Readers::Everybody)
            .with_context(|| format!("{} can't be written", file.display()))?;
        let (label, digest) = (package.label(), package.digest());
        match Form::json_if(self.json) {
            Form::Json => {
                let told =
                    json!({ "pack": label, "file": file, "bytes": bytes.len(), "digest": digest });
                print(&told.to_string());
            }
            Form::Text => print(&format!("{} ({} bytes, {digest})", file.display(), bytes.len())),
        }
        Ok(Ending::Done)
    }
}

/// The pack that a folder makes.
pub(super) fn package(folder: &Path) -> anyhow::Result<Package> {
    let folder = Folder::read(folder)?;
    let compiled = compile(&folder.path, folder.described.stack)?;
    if let Some(module) = &compiled.schema {
        let schema = pack_host::settings_schema(module).context("the schema of the settings")?;
        if let Some(file) = folder.keep_schema(&schema)? {
            say(&format!("{} is written, as the settings' type says", file.display()));
        }
    }
    let module = pack_host::componentize(&compiled.module)?;
    let package =
        Package::build(folder.described.manifest(), module, folder.schema()?, folder.vectors()?);
    package.with_context(|| folder.path.display().to_string())
}
