//! `tollgate pack keygen` and `sign`: who vouches for a pack.
//!
//! Invariant: a private key is in one file that only its owner can read, and never printed.

use crate::remote::Form;
use crate::{Ending, misused, print, say};
use anyhow::{Context as _, bail};
use clap::Args;
use gateway::watch::{Readers, replace};
use model::id::{PackKeyId, is_id};
use pack_host::{Package, SigningKey};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Makes a key that packs are signed with: writes NAME.key, and prints the public key as a document that `apply` takes.
///
/// Example: tollgate pack keygen platform --tenant '*' > platform.yaml
#[derive(Args)]
pub(super) struct Keygen {
    /// The key's id in the document; its private part is written to NAME.key.
    name: String,
    /// A tenant that the key may ship for; may stand several times. `*`: all of them, and attachments without a tenant.
    #[arg(long = "tenant", required = true)]
    tenants: Vec<String>,
    /// Prints `{"id", "public_key", "tenants", "file"}`.
    #[arg(long)]
    json: bool,
}

impl Keygen {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        if !is_id(&self.name) {
            return Err(misused(format!(
                "`{}` is no id of a key: write 1 to 64 letters, digits, `.`, `_`, `-`",
                self.name
            )));
        }
        let file = PathBuf::from(format!("{}.key", self.name));
        let key = SigningKey::generate()?;
        write_new(&file, &key.to_pem()?)?;
        let public = key.public().to_string();
        match Form::json_if(self.json) {
            Form::Json => {
                let told = json!({ "id": self.name, "public_key": public, "tenants": self.tenants, "file": file });
                print(&told.to_string());
            }
            Form::Text => {
                // JSON's texts are YAML's, also those that look like numbers.
                let (id, tenants) = (json!(self.name), json!(self.tenants));
                print("pack_keys:");
                print(&format!("  - {{ id: {id}, public_key: \"{public}\", tenants: {tenants} }}"));
                say(&format!(
                    "{} is written: keep it secret. What is printed says whom it belongs to: an admin applies it (tollgate apply)",
                    file.display()
                ));
            }
        }
        Ok(Ending::Done)
    }
}

/// Never over another key, and never readable by others.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = match made {
        Ok(made) => made,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} is there already and stays: choose another name", file.display())
        }
        Err(error) => bail!("{} can't be made: {error}", file.display()),
    };
    made.write_all(text.as_bytes())?;
    Ok(made.sync_all()?)
}

/// Signs a pack file, in place: a signature that it had is replaced.
///
/// Example: tollgate pack sign page-limit-1.0.0.tgpack --key platform.key --key-id platform
#[derive(Args)]
pub(super) struct Sign {
    /// The pack file.
    file: PathBuf,
    /// The private key's file, as `keygen` wrote it.
    #[arg(long)]
    key: PathBuf,
    /// The key's id in the document's `pack_keys`; the name of the key's file when absent.
    #[arg(long)]
    key_id: Option<String>,
    /// Prints `{"file", "digest", "key"}`.
    #[arg(long)]
    json: bool,
}

impl Sign {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let stem = self.key.file_stem().and_then(|name| name.to_str());
        let id = self.key_id.as_deref().or(stem).unwrap_or_default();
        if !is_id(id) {
            return Err(misused(format!("`{id}` is no id of a key: name it with --key-id")));
        }
        let pem = fs::read_to_string(&self.key)
            .with_context(|| format!("{} can't be read", self.key.display()))?;
        let key = SigningKey::from_pem(&pem).with_context(|| self.key.display().to_string())?;
        let mut package = read(&self.file)?;
        package.sign(&PackKeyId::from(id), &key);
        replace(&self.file, &package.write(), Readers::Everybody)
            .with_context(|| format!("{} can't be written", self.file.display()))?;
        let digest = package.digest();
        match Form::json_if(self.json) {
            Form::Json => {
                print(&json!({ "file": self.file, "digest": digest, "key": id }).to_string());
            }
            Form::Text => print(&format!("{} is signed by {id} ({digest})", self.file.display())),
        }
        Ok(Ending::Done)
    }
}

/// A pack file, whole and unchanged.
pub(super) fn read(file: &Path) -> anyhow::Result<Package> {
    let bytes = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    Package::read(&bytes).with_context(|| file.display().to_string())
}
