//! The data folder: what a process makes once and keeps.
//!
//! Invariant: one process has a folder at a time, and what only the owner may read is never readable by others, not even
//! while it is written.

use crate::parts::Parts;
use anyhow::{Context as _, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use gateway::watch::{Readers, replace};
use model::id::{NodeName, is_id};
use model::port::StoreError;
use model::token;
use rand::Rng as _;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::Store;

/// How long a start waits for the store to tell what a deployment shares.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// The longest part of a node's name that comes from its host's.
const HOST_MAX: usize = 59;
/// Under what name the store keeps the salt.
const SALT: &str = "idempotency.salt";

/// Takes a data folder for this process, or says that another one has it.
pub(crate) fn hold(data: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data).with_context(|| format!("{} can't be made", data.display()))?;
    let path = data.join("lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("{} can't be made", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => bail!("{} is in use by another tollgate; choose another folder", data.display()),
    }
}

/// Where the last good revision is kept.
pub(crate) fn last_good(data: &Path) -> PathBuf {
    data.join("last-good.json")
}

/// Where what is revoked is kept.
pub(crate) fn revoked(data: &Path) -> PathBuf {
    data.join("revoked.json")
}

/// Where pack files lie.
pub(crate) fn packs(data: &Path) -> anyhow::Result<PathBuf> {
    let packs = data.join("packs");
    std::fs::create_dir_all(&packs)
        .with_context(|| format!("{} can't be made", packs.display()))?;
    Ok(packs)
}

/// Where artefacts of packs that this node compiled are kept.
pub(crate) fn compiled(data: &Path) -> PathBuf {
    data.join("aot")
}

/// What this node is called when its settings don't say: made at the first start.
pub(crate) fn node_name(data: &Path) -> anyhow::Result<NodeName> {
    let path = data.join("node.name");
    let Kept { text, .. } = kept(&path, || format!("{}-{}", host(), hex(&random::<2>())))?;
    if !is_id(&text) {
        bail!("{} holds no name of a node: write one, or delete it", path.display());
    }
    Ok(text.as_str().into())
}

/// The first admin token, as it stands in its file.
pub(crate) struct FirstToken {
    pub(crate) token: String,
    path: PathBuf,
    fresh: bool,
}

impl FirstToken {
    /// The token in the folder, made if there is none.
    pub(crate) fn of(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("admin.token");
        let Kept { text, fresh } = kept(&path, admin::new_token)?;
        Ok(Self { token: text, path, fresh })
    }

    /// Makes it the first token of the store, if that has none. Says whether it is accepted: a store that knows others may
    /// not know this one, and then a file that was made just now is removed again, as it would only mislead.
    pub(crate) async fn bring(&self, parts: &Parts) -> Result<bool, StoreError> {
        let Parts { store, clock, node, .. } = parts;
        if admin::first_token(store, clock, node, &self.token).await? {
            return Ok(true);
        }
        let known = store.token_of(&token::hash(&self.token)).await?;
        let accepted = known.is_some_and(|known| known.is_live(clock.now()));
        if !accepted
            && self.fresh
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a token that is not accepted could not be removed");
        }
        Ok(accepted)
    }
}

/// What keeps this deployment's derived idempotency keys apart from others'. The store's, which all nodes share; the file
/// is a copy of it, for a start without the store.
pub(crate) async fn salt(data: &Path, store: &Store) -> anyhow::Result<[u8; 32]> {
    let path = data.join(SALT);
    let copy = match std::fs::read_to_string(&path) {
        Ok(text) => Some(salt_of(text.trim()).context("idempotency.salt is not 64 hex digits")?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => bail!("{} can't be read: {error}", path.display()),
    };
    let proposed = copy.unwrap_or_else(random);
    let asked = store.kept(SALT, proposed.to_vec());
    let kept = match tokio::time::timeout(STORE_PATIENCE, asked).await {
        Ok(Ok(kept)) => {
            <[u8; 32]>::try_from(kept).ok().context("the store's salt is not 32 bytes")?
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store can't tell the salt of idempotency keys");
            return Ok(without_store(copy, proposed));
        }
        Err(_) => {
            tracing::warn!("the store does not tell the salt of idempotency keys in time");
            return Ok(without_store(copy, proposed));
        }
    };
    if copy != Some(kept) {
        replace(&path, format!("{}\n", hex(&kept)).as_bytes(), Readers::Owner)
            .with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(kept)
}

fn without_store(copy: Option<[u8; 32]>, proposed: [u8; 32]) -> [u8; 32] {
    if copy.is_none() {
        tracing::warn!(
            "upstreams see other derived idempotency keys from this process than from others, until it starts again"
        );
    }
    proposed
}

fn salt_of(text: &str) -> Option<[u8; 32]> {
    let mut salt = [0; 32];
    for (index, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    (text.len() == 64).then_some(salt)
}

/// The secret in a file that only the owner can read, made if there is none.
pub(crate) fn secret(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    Ok(kept(path, make)?.text)
}

/// 32 random bytes in hex.
pub(crate) fn random_hex() -> String {
    hex(&random::<32>())
}

/// A secret of Standard Webhooks.
pub(crate) fn random_webhook_secret() -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(random::<32>()))
}

/// What a file holds, and whether it was made just now.
struct Kept {
    text: String,
    fresh: bool,
}

/// The content of a file that is made once and only the owner can read.
fn kept(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<Kept> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let text = make();
            writeln!(file, "{text}")?;
            file.sync_all()?;
            Ok(Kept { text, fresh: true })
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{} can't be read", path.display()))?;
            Ok(Kept { text: text.trim().to_owned(), fresh: false })
        }
        Err(error) => Err(error).with_context(|| format!("{} can't be made", path.display())),
    }
}

/// The name of this machine, as far as it can stand in an id.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' })
        .take(HOST_MAX)
        .collect();
    if is_id(&name) { name } else { "node".to_owned() }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = node_name(folder.path()).expect("a name");
        assert!(is_id(name.as_str()), "{name}");
        assert_eq!(node_name(folder.path()).expect("a name"), name);
        let other = tempfile::tempdir().expect("a folder");
        assert_ne!(node_name(other.path()).expect("a name"), name);
        std::fs::write(folder.path().join("node.name"), "two words\n").expect("written");
        assert!(node_name(folder.path()).is_err());
    }

    #[tokio::test]
    async fn the_stores_salt_wins_and_its_copy_serves_without_the_store() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = async |name: &str| {
            let url = format!("sqlite://{}", folder.path().join(name).display());
            Store::open(&url).await.expect("a store")
        };
        let (first, other) = (open("first.db").await, open("other.db").await);
        let made = salt(folder.path(), &first).await.expect("a salt");
        assert_eq!(salt(folder.path(), &first).await.expect("a salt"), made);
        // Another node of the same deployment.
        let elsewhere = tempfile::tempdir().expect("a folder");
        assert_eq!(salt(elsewhere.path(), &first).await.expect("a salt"), made);
        // A folder that moves to another store brings its salt along, unless that one has its own.
        let own = tempfile::tempdir().expect("a folder");
        let its = salt(own.path(), &other).await.expect("a salt");
        assert_ne!(its, made);
        assert_eq!(salt(own.path(), &first).await.expect("a salt"), made);
        assert_eq!(salt(folder.path(), &other).await.expect("a salt"), its);
        first.close().await;
        assert_eq!(salt(folder.path(), &first).await.expect("a salt"), its);
    }
}
