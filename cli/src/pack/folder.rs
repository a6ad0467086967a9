//! A pack's folder: what it is called and asks for (`pack.yaml`), its settings' schema, its vectors.
//!
//! Invariant: what is wrong in it is told with the file that it is in.

use anyhow::{Context as _, bail};
use model::document::{PackLimits, PhaseName};
use model::units::Size;
use pack_host::{ABI, BodyOf, Capability, Manifest, NamedVector};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What describes the pack.
const DESCRIBED: &str = "pack.yaml";
const SCHEMA: &str = "settings.schema.json";
const VECTORS: &str = "vectors";

/// A pack's folder, as its author wrote it.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) described: Described,
}

/// `pack.yaml`: the manifest, and what only a build asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Described {
    name: String,
    version: String,
    /// When it speaks.
    phases: Vec<PhaseName>,
    /// Whose body it reads.
    #[serde(default)]
    body: Vec<BodyOf>,
    /// What it may ask the host for.
    #[serde(default)]
    capabilities: Vec<Capability>,
    /// What one call may use.
    #[serde(default)]
    limits: PackLimits,
    /// The size of its stack; what the linker is told.
    #[serde(default = "small_stack")]
    pub(super) stack: Size,
}

/// So small that a decision touches few pages of memory.
fn small_stack() -> Size {
    Size(32 << 10)
}

impl Described {
    /// Reads what stands in a `pack.yaml`.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        Ok(serde_saphyr::from_str(text)?)
    }

    /// The manifest that it makes.
    pub(crate) fn manifest(&self) -> Manifest {
        Manifest {
            name: self.name.as_str().into(),
            version: self.version.clone(),
            abi: ABI.to_owned(),
            phases: self.phases.clone(),
            body: self.body.clone(),
            capabilities: self.capabilities.clone(),
            limits: self.limits,
        }
    }
}

impl Folder {
    /// Reads its `pack.yaml`.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = path.join(DESCRIBED);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "{} is no pack's folder: there is no {DESCRIBED}; `tollgate pack new NAME` makes one",
                path.display()
            ),
            Err(error) => bail!("{} can't be read: {error}", file.display()),
        };
        let described =
            Described::read(&text).with_context(|| format!("{} is not valid", file.display()))?;
        Ok(Self { path: path.to_owned(), described })
    }

    /// The schema of the settings, if there is one.
    pub(super) fn schema(&self) -> anyhow::Result<Option<Value>> {
        let file = self.path.join(SCHEMA);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is no JSON", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => bail!("{} can't be read: {error}", file.display()),
        }
    }

    /// Writes the schema that the build made where another one stands. Says whether it did.
    pub(super) fn keep_schema(&self, schema: &Value) -> anyhow::Result<Option<PathBuf>> {
        let text = format!("{schema:#}\n");
        let file = self.path.join(SCHEMA);
        if fs::read_to_string(&file).is_ok_and(|kept| kept == text) {
            return Ok(None);
        }
        fs::write(&file, text).with_context(|| format!("{} can't be written", file.display()))?;
        Ok(Some(file))
    }

    /// The vectors, by the names of their files.
    pub(super) fn vectors(&self) -> anyhow::Result<Vec<NamedVector>> {
        let folder = self.path.join(VECTORS);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => bail!("{} can't be read: {error}", folder.display()),
        };
        let mut files =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files.iter().map(|file| vector(file)).collect()
    }
}

fn vector(file: &Path) -> anyhow::Result<NamedVector> {
    let name = file.file_stem().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{}: its name is not text", file.display()))?;
    let text = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    NamedVector::parse(name, &text).with_context(|| file.display().to_string())
}
