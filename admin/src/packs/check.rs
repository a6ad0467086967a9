//! What is asked of a pack file before it is kept: that it is whole, signed by a key of the document, that its module is what
//! its manifest says, that it decides as its vectors say, and that its name and version don't stand for another one.
//!
//! Invariant: every refusal says how to mend it, and points at what is wrong in the pack.

use super::{entries, place, text};
use crate::Shared;
use crate::difference::escape;
use crate::newest::blocking;
use crate::place::Place;
use crate::problem::Refused;
use axum::body::Bytes;
use model::config::ConfigError;
use model::document::PackKey;
use model::id::{PackId, PackKeyId};
use model::{ErrorCode, Reject};
use pack_host::{PackError, Package, PackageError, Trial};
use serde_json::Value;
use std::sync::Arc;

/// A pack that may be kept.
pub(super) struct Checked {
    pub(super) package: Arc<Package>,
    pub(super) place: Place,
    pub(super) key: PackKeyId,
    pub(super) trial: Trial,
    pub(super) kept: Kept,
}

/// What the store has of a pack already.
pub(super) enum Kept {
    Nothing,
    /// The very same file.
    Same,
    /// The same pack, signed by this key, which it need not be any more.
    Signed(PackKeyId),
}

/// Why a pack is not kept.
pub(super) enum Unkept {
    /// It isn't as packs are; how to mend it.
    Errors(Vec<ConfigError>),
    Refused(Refused),
}

impl<R: Into<Refused>> From<R> for Unkept {
    fn from(refused: R) -> Self {
        Self::Refused(refused.into())
    }
}

impl Checked {
    /// Everything that is asked of a pack before it is kept.
    pub(super) async fn of(shared: &Shared, bytes: &Bytes) -> Result<Self, Unkept> {
        let (reading, newest) = (bytes.clone(), shared.newest().await?);
        let package = blocking(move || Package::read(&reading)).await?;
        let package =
            Arc::new(package.map_err(|error| Unkept::Errors(vec![package_error(&error)]))?);
        let key =
            signer(&newest.document, &package).map_err(|error| Unkept::Errors(vec![error]))?;
        let place = place(package.name().as_str(), package.version())?;
        entry(&newest.document, &place, &package)?;
        let file = shared.store.pack_file(package.name(), package.version()).await?;
        let (kept, known) = match file {
            None => (Kept::Nothing, None),
            Some(file) if file.info.digest != package.digest() => {
                return Err(taken(&package, &file.info.digest).into());
            }
            Some(file) if file.bytes == *bytes => (Kept::Same, Some(file.trial)),
            Some(file) => (Kept::Signed(file.info.key), Some(file.trial)),
        };
        let mut holders = holders(shared, &newest.document, package.name()).await?;
        if let Kept::Signed(old) = &kept {
            holders.push(old.clone());
        }
        may_take(&newest.document, package.name(), &holders, &key)?;
        // One that an older release wrote in another way is made again.
        let trial = match known.and_then(|known| serde_json::from_value(known).ok()) {
            Some(known) => known,
            None => trial(shared, &package).await?,
        };
        Ok(Self { package, place, key: key.id, trial, kept })
    }
}

/// Runs the pack's vectors, in the worker.
async fn trial(shared: &Shared, package: &Arc<Package>) -> Result<Trial, Unkept> {
    let (host, trying) = (shared.host.clone(), package.clone());
    let trial = blocking(move || host.try_out(&trying)).await?;
    let trial = trial.map_err(|error| match error {
        PackError::Busy | PackError::Worker { .. } => {
            let busy = Reject::new(ErrorCode::Overloaded);
            let busy = busy.message("The pack can't be tried now.").retry_after(1);
            Unkept::from(busy.because(error))
        }
        error => Unkept::Errors(vec![pack_error(&error)]),
    })?;
    if trial.passed() { Ok(trial) } else { Err(Unkept::Errors(failures(&trial))) }
}

/// Where the document names the pack, if it does. 409 when it is another content that it names.
pub(super) fn entry(
    document: &Value,
    place: &Place,
    package: &Package,
) -> Result<Option<String>, Refused> {
    let Some(found) = place.find(document) else { return Ok(None) };
    match text(found.value, "/digest") {
        Some(digest) if digest != package.digest() => Err(taken(package, digest)),
        _ => Ok(Some(found.pointer)),
    }
}

fn taken(package: &Package, digest: &str) -> Refused {
    let (name, version) = (package.name(), package.version());
    Reject::new(ErrorCode::Conflict)
        .message(format!(
            "`{name}@{version}` is another pack's already: what a version stands for never changes. Give this one another \
             `version` in its manifest."
        ))
        .detail("digest", digest)
        .into()
}

fn keys(document: &Value) -> Vec<PackKey> {
    let keys = document.get("pack_keys").cloned();
    keys.and_then(|keys| serde_json::from_value(keys).ok()).unwrap_or_default()
}

/// The key of the document that signed the pack.
pub(super) fn signer(document: &Value, package: &Package) -> Result<PackKey, ConfigError> {
    package.signer(&keys(document)).cloned().map_err(|error| package_error(&error))
}

/// Who signed the versions of a pack that the document names, as far as their files are kept.
async fn holders(
    shared: &Shared,
    document: &Value,
    pack: &PackId,
) -> Result<Vec<PackKeyId>, Refused> {
    let versions = entries(document, "packs")
        .filter(|entry| text(entry, "/id") == Some(pack.as_str()))
        .filter_map(|entry| Some((pack.clone(), text(entry, "/version")?.to_owned())));
    let infos = shared.store.pack_infos(versions.collect()).await?;
    Ok(infos.into_iter().map(|info| info.key).collect())
}

/// Refuses a pack's name to a key that may not ship for everybody for whom those who hold it may. Its data would be read by
/// others than it was put there for; and attachments would fail whose version is signed anew.
fn may_take(
    document: &Value,
    pack: &PackId,
    holders: &[PackKeyId],
    new: &PackKey,
) -> Result<(), Refused> {
    let covers = |tenant: &String| new.tenants.iter().any(|own| own == "*" || own == tenant);
    let keys = keys(document);
    let mut held = keys.iter().filter(|key| holders.contains(&key.id));
    let Some(wider) = held.find(|key| !key.tenants.iter().all(covers)) else { return Ok(()) };
    let message = format!(
        "The name `{pack}` is held by the key `{}`, which may ship for tenants for which `{}` may not: choose another name, \
         sign the pack by a key that may, or change what they may in `pack_keys`.",
        wider.id, new.id
    );
    Err(Reject::new(ErrorCode::Conflict).message(message).into())
}

/// What is wrong with a file, and where in the pack.
fn package_error(error: &PackageError) -> ConfigError {
    let pointer = match error {
        PackageError::Manifest { .. } => "/manifest".to_owned(),
        PackageError::UnknownAbi { .. } | PackageError::ProxyWasm { .. } => {
            "/manifest/abi".to_owned()
        }
        PackageError::Vector { name, .. } => vector(name),
        PackageError::Module(error) => return pack_error(error),
        _ => String::new(),
    };
    ConfigError::new(pointer, error.to_string())
}

/// What is wrong with a module, and where in the pack.
fn pack_error(error: &PackError) -> ConfigError {
    let pointer = match error {
        PackError::MissingCapability { .. } => "/manifest/capabilities",
        PackError::UndeclaredBody { .. } => "/manifest/body",
        PackError::MissingExport { .. } => "/manifest/phases",
        PackError::Limits { .. } => "/manifest/limits",
        _ => "",
    };
    ConfigError::new(pointer, error.to_string())
}

/// The vectors that the pack does not pass.
fn failures(trial: &Trial) -> Vec<ConfigError> {
    let failing = trial.vectors.iter().filter_map(|tried| {
        let difference = tried.difference.as_ref()?;
        let message =
            format!("{difference}: mend the policy or the vector, and build the pack again");
        Some(ConfigError::new(vector(&tried.name), message))
    });
    failing.collect()
}

fn vector(name: &str) -> String {
    format!("/vectors/{}", escape(name))
}
