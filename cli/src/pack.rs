//! `tollgate pack`: what platform teams do with packs.

use crate::{Ending, print};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use gateway::watch::Readers;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds policy packs.
#[derive(Args)]
pub(crate) struct Pack {
    #[command(subcommand)]
    command: PackCommand,
}

#[derive(Subcommand)]
enum PackCommand {
    Build(Build),
}

/// Builds a pack written in Rust: compiles the crate for wasm32 and makes a component NAME-VERSION.wasm of it.
///
/// Example: tollgate pack build policies/require-header --out target/packs
#[derive(Args)]
struct Build {
    /// The pack's folder, with its Cargo.toml.
    folder: PathBuf,
    /// Where the pack's file goes.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

impl Pack {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        match self.command {
            PackCommand::Build(build) => build.run(),
        }
    }
}

impl Build {
    fn run(self) -> anyhow::Result<Ending> {
        let module = compile(&self.folder)?;
        let bytes = std::fs::read(&module.file)
            .with_context(|| format!("cargo made no {}", module.file.display()))?;
        let component = pack_host::componentize(&bytes)?;
        std::fs::create_dir_all(&self.out)?;
        let file = self.out.join(format!("{}-{}.wasm", module.name, module.version));
        gateway::watch::replace(&file, &component, Readers::Everybody)
            .with_context(|| format!("{} can't be written", file.display()))?;
        print(&format!("{} ({} bytes)", file.display(), component.len()));
        Ok(Ending::Done)
    }
}

/// What cargo made.
struct Module {
    name: String,
    version: String,
    file: PathBuf,
}

fn compile(folder: &Path) -> anyhow::Result<Module> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = folder.join("Cargo.toml");
    let built = Command::new(&cargo)
        .args(["build", "--release", "--target", "wasm32-unknown-unknown", "--manifest-path"])
        .arg(&manifest)
        .status()
        .context("cargo can't be run")?;
    if !built.success() {
        bail!("{} did not compile", folder.display());
    }
    let told = Command::new(&cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(&manifest)
        .output()
        .context("cargo can't be run")?;
    let metadata: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let manifest = manifest.canonicalize()?;
    let packages = metadata.get("packages").and_then(|packages| packages.as_array());
    let text = |value: &serde_json::Value, field: &str| {
        value.get(field).and_then(|found| found.as_str()).unwrap_or_default().to_owned()
    };
    let package = packages
        .into_iter()
        .flatten()
        .find(|package| Path::new(&text(package, "manifest_path")) == manifest)
        .context("cargo metadata does not know the folder's package")?;
    let name = text(package, "name");
    let target = PathBuf::from(text(&metadata, "target_directory"));
    let file = target
        .join("wasm32-unknown-unknown/release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    Ok(Module { version: text(package, "version"), name, file })
}
