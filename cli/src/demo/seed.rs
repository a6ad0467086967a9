//! What the demo begins with: packs, and a document as the first revision. What is there already stays, but for where the
//! demo's own CRM and secrets are.

use super::packs::signed;
use super::{Secrets, written_for};
use crate::folder::FirstToken;
use crate::parts::{Parts, system_entry};
use anyhow::{Context as _, bail};
use demo::DemoPack;
use gateway::watch::{Readers, replace};
use model::id::PackKeyId;
use model::revision::{Change, PublishError, Staged};
use pack_host::Package;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use store::control::{Effect, PackFile, PackInfo, Write};

/// Publishes the demo's packs and document where there is no document, and where CRM and secrets are, when they moved.
pub(super) async fn document(
    parts: &Parts,
    data: &Path,
    crm: SocketAddr,
    secrets: &Secrets,
) -> anyhow::Result<()> {
    let places = [
        Place::of(data, "crm.address", demo::CRM_ADDRESS, crm.to_string()),
        Place::of(
            data,
            "secrets.folder",
            demo::SECRETS_FOLDER,
            secrets.folder.display().to_string(),
        ),
    ];
    let revisions = parts.revisions();
    let newest = revisions.newest().await.context(NO_DATABASE)?;
    let (text, base) = match &newest {
        None => {
            let text = written_for(demo::DOCUMENT, crm, secrets);
            (pinned(text, &packs(parts).await?), 0)
        }
        Some(newest) => {
            let moved = |text: String, place: &Place| text.replace(&place.before, &place.now);
            (places.iter().fold(newest.text.to_string(), moved), newest.number)
        }
    };
    if newest.is_none_or(|newest| *newest.text != *text) {
        let difference = json!({ "crm": crm });
        let audit = entry(parts, "demo.seed", "/v1/document", difference);
        let (nodes, answer, events) = (None, None, Vec::new());
        let change = Change { text, base, nodes, staged: Staged::Keep, audit, answer, events };
        match revisions.publish(change).await {
            Ok(_) => {}
            Err(PublishError::Invalid(errors)) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                bail!("the demo's document can't be put in force:\n{}", lines.join("\n"));
            }
            Err(error) => return Err(error).context("the demo's document can't be published"),
        }
    }
    places.iter().try_for_each(Place::keep)
}

/// Something that the document says of where the demo is.
struct Place {
    /// Where it is kept what the document says.
    file: PathBuf,
    before: String,
    now: String,
}

impl Place {
    fn of(data: &Path, file: &str, written: &str, now: String) -> Self {
        let file = data.join(file);
        let kept = std::fs::read_to_string(&file).unwrap_or_else(|_| written.to_owned());
        Self { file, before: kept.trim().to_owned(), now }
    }

    fn keep(&self) -> anyhow::Result<()> {
        Ok(replace(&self.file, self.now.as_bytes(), Readers::Everybody)?)
    }
}

const NO_DATABASE: &str = "the demo needs its database to start";

/// The packs that the demo's document names, kept in the store as an upload keeps them. What is kept already stays.
async fn packs(parts: &Parts) -> anyhow::Result<Vec<Package>> {
    let mut kept = Vec::new();
    for pack in
        demo::PACKS.iter().filter(|pack| demo::DOCUMENT.contains(&named(pack.name, pack.version)))
    {
        let file = parts.store.pack_file(&pack.name.into(), pack.version).await;
        kept.push(match file.context(NO_DATABASE)? {
            Some(file) => Package::read(&file.bytes)?,
            None => keep(parts, pack).await?,
        });
    }
    Ok(kept)
}

async fn keep(parts: &Parts, pack: &DemoPack) -> anyhow::Result<Package> {
    let package = signed(pack)?;
    let (host, tried) = (parts.host.clone(), package.clone());
    let trial = tokio::task::spawn_blocking(move || host.try_out(&tried)).await??;
    if !trial.passed() {
        bail!("{}: {}", package.label(), trial.failures().collect::<Vec<_>>().join("; "));
    }
    let bytes = package.write();
    let info = PackInfo {
        name: package.name().clone(),
        version: package.version().to_owned(),
        digest: package.digest().to_owned(),
        key: PackKeyId::from(demo::PACK_KEY),
        size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        manifest: serde_json::to_value(package.manifest())?,
        reusable: trial.reusable,
        image: trial.image,
        vectors: u64::try_from(trial.vectors.len()).unwrap_or(u64::MAX),
        uploaded_at: parts.clock.now(),
        by: parts.node.to_string(),
    };
    let difference = json!({ "digest": info.digest });
    let resource = format!("/v1/packs/{}/versions/{}", info.name, info.version);
    let audit = entry(parts, "packs.create", &resource, difference);
    let trial = serde_json::to_value(&trial)?;
    let file = Box::new(PackFile { info, trial, bytes: bytes.into() });
    let effect = Effect::KeepPack { file, resigns: None };
    parts.store.write(Write { effect, audit, answer: None }).await?;
    Ok(package)
}

/// How the demo's document names a pack.
fn named(name: &str, version: &str) -> String {
    format!("{{ id: {name}, version: \"{version}\" }}")
}

/// The document with each pack that it names pinned to what was kept.
fn pinned(text: String, packs: &[Package]) -> String {
    packs.iter().fold(text, |text, package| {
        let (name, version, digest) = (package.name(), package.version(), package.digest());
        let entry = format!("{{ id: {name}, version: \"{version}\", digest: \"{digest}\" }}");
        text.replace(&named(name.as_str(), version), &entry)
    })
}

fn entry(
    parts: &Parts,
    action: &str,
    resource: &str,
    difference: serde_json::Value,
) -> model::audit::Entry {
    system_entry(&parts.node, parts.clock.now(), action, resource.to_owned(), difference)
}

/// The admin token of the demo; what `demo.env` says must be accepted.
pub(super) async fn token(parts: &Parts, data: &Path) -> anyhow::Result<String> {
    let first = FirstToken::of(data)?;
    if !first.bring(parts).await.context(NO_DATABASE)? {
        bail!(
            "the database has another admin token than {}: take the data folder that it belongs to, or an empty database",
            data.join("admin.token").display()
        );
    }
    Ok(first.token)
}
