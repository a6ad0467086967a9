//! `/v1/packs`, as far as packs are more than entries of the document: their files, their way into service, and what they
//! read.
//!
//! Invariant: what the document says of a pack is changed as all of it is ([`Writing`](crate::write::Writing)); what
//! stands beside it in the store is never more than its entry.

mod check;
mod data;
mod history;
mod push;
mod shift;

use crate::Shared;
use crate::acting::Acting;
use crate::kind::Kind;
use crate::place::{KINDS, Place};
use crate::problem::Refused;
use crate::verbs::Methods;
use axum::Router;
use axum::routing;
use jiff::Timestamp;
use model::id::{AttachmentId, PackId, PackKeyId, is_id};
use model::role::Section;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::PackInfo;

pub(crate) use data::{BYTES, Datum};
pub(crate) use history::RolloutItem;
pub(crate) use push::{KIND as PACK_FILE_KIND, PUSHES_MAX, PushedPack};
pub(crate) use shift::{Shifted, Shifting};

/// The field of a shown entry that is not the document's. Whoever sends it back with the rest changes nothing by it.
pub(crate) const FILE: &str = "file";

/// What the store knows of a pack's file.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PackFile")]
pub(crate) struct FileShown {
    /// `sha256:` and the hex SHA-256 of its manifest, which names everything else in it.
    #[schemars(extend("format" = "sha256"))]
    digest: String,
    /// Its size in bytes.
    size: u64,
    /// The key that it is signed with.
    key: PackKeyId,
    /// When it was uploaded.
    uploaded_at: Timestamp,
    /// Who uploaded it.
    by: String,
    /// Whether an instance may make many decisions (`reuse`): its vectors came to the same in a fresh one and in a used one.
    reusable: bool,
    /// Whether decisions begin from a memory image, taken after `configure`.
    image: bool,
    /// How many vectors it passed.
    vectors: u64,
}

impl From<PackInfo> for FileShown {
    fn from(info: PackInfo) -> Self {
        let PackInfo { digest, key, size, uploaded_at, by, .. } = info;
        let PackInfo { reusable, image, vectors, .. } = info;
        Self { digest, size, key, uploaded_at, by, reusable, image, vectors }
    }
}

/// The routes beside those of entries.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/packs", routing::post(push::push))
        .route("/v1/packs/{id}/rollouts", routing::get(history::rollouts))
        .route("/v1/packs/{id}/differences", routing::get(history::differences))
        .route("/v1/packs/{id}/data", routing::get(data::list))
        .route(
            "/v1/packs/{id}/data/{key}",
            routing::get(data::get).put(data::put).delete(data::delete),
        )
}

/// What can be done with a version, beside what can be done with its entry.
pub(crate) fn verbs() -> Vec<(&'static str, Methods)> {
    shift::verbs()
}

/// Shows what the store knows of these entries' files.
pub(crate) async fn with_files(shared: &Shared, entries: &mut [Value]) -> Result<(), Refused> {
    let wanted = entries.iter().filter_map(|entry| {
        let (id, version) = (entry.get("id")?.as_str()?, entry.get("version")?.as_str()?);
        Some((PackId::from(id), version.to_owned()))
    });
    let infos = shared.store.pack_infos(wanted.collect()).await?;
    for info in infos {
        let is_its = |entry: &&mut Value| {
            entry.get("id").and_then(Value::as_str) == Some(info.name.as_str())
                && entry.get("version").and_then(Value::as_str) == Some(&*info.version)
        };
        if let Some(entry) = entries.iter_mut().find(is_its).and_then(Value::as_object_mut) {
            entry.insert(FILE.to_owned(), json!(FileShown::from(info)));
        }
    }
    Ok(())
}

/// Where a version's entry stands; 404 when these can't be names of one.
fn place(id: &str, version: &str) -> Result<Place, Refused> {
    let is_packs = |kind: &&Kind| kind.section == Section::Packs;
    let keys = [id, version].map(str::to_owned);
    let place = KINDS.iter().find(is_packs).and_then(|kind| Place::new(kind, keys));
    place.filter(|_| is_id(id)).ok_or(model::ErrorCode::NotFound.into())
}

fn entries<'a>(document: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    document.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(entry: &'a Value, pointer: &str) -> Option<&'a str> {
    entry.pointer(pointer).and_then(Value::as_str)
}

/// The attachments that are the tenant's of who asks; none for who sees all of them.
fn own_attachments(acting: &Acting, document: &Value) -> Option<Vec<AttachmentId>> {
    let own = acting.tenant()?;
    let attachments = entries(document, "attachments")
        .filter(|entry| text(entry, "/scope/tenant") == Some(own.as_str()))
        .filter_map(|entry| text(entry, "/id").map(AttachmentId::from));
    Some(attachments.collect())
}
