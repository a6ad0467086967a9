//! Pack files: kept for good under their name and version, with what was seen when they were tried.
//!
//! Invariant: what a name and a version stand for never changes. The same file again is no change, another pack is refused;
//! only the signature of the same content may be replaced by another one, as keys are.

use super::WriteError;
use super::write::Undone;
use crate::Store;
use crate::rows::{Columns as _, places, stored, text, unreadable};
use bytes::Bytes;
use jiff::Timestamp;
use model::id::{PackId, PackKeyId};
use model::port::StoreError;
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};
use std::collections::HashMap;

/// How large a pack file may be, in bytes.
pub const PACK_BYTES_MAX: usize = 16 << 20;
/// How many pack files may be kept: each is for good, as revisions of old name it.
pub const PACKS_MAX: usize = 10_000;

/// How many packs one statement looks up.
const INFO_ROWS: usize = 200;

const KEEP: &str = "INSERT INTO pack_files \
    (name, version, digest, key_id, size, manifest, reusable, image, vectors, trial, \
     uploaded_at, uploaded_by, bytes) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (name, version) DO NOTHING";

const THERE: &str = "SELECT digest, CASE WHEN bytes = $3 THEN 1 ELSE 0 END AS same FROM pack_files \
    WHERE name = $1 AND version = $2";

const RESIGN: &str = "UPDATE pack_files \
    SET key_id = $3, size = $4, uploaded_at = $5, uploaded_by = $6, bytes = $7 \
    WHERE name = $1 AND version = $2 AND key_id = $8";

const COUNT: &str = "SELECT count(*) FROM pack_files";

const INFOS: &str = "SELECT name, version, digest, key_id, size, manifest, reusable, image, vectors, \
    uploaded_at, uploaded_by FROM pack_files WHERE (name, version) IN (VALUES ";

const FILE: &str = "SELECT name, version, digest, key_id, size, manifest, reusable, image, vectors, \
    uploaded_at, uploaded_by, trial, bytes FROM pack_files WHERE name = $1 AND version = $2";

/// A pack file, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct PackFile {
    /// What is known of it.
    pub info: PackInfo,
    /// What its vectors came to when it was uploaded, as JSON.
    pub trial: Value,
    /// The file.
    pub bytes: Bytes,
}

/// What is known of a pack file.
#[derive(Clone, Debug, PartialEq)]
pub struct PackInfo {
    /// The pack.
    pub name: PackId,
    /// Its version, like `1.0.0`.
    pub version: String,
    /// `sha256:` and the hex SHA-256 of its OCI manifest.
    pub digest: String,
    /// The key that it is signed with.
    pub key: PackKeyId,
    /// Size of the file in bytes.
    pub size: u64,
    /// Its manifest, as JSON.
    pub manifest: Value,
    /// Whether an instance may make many decisions: its vectors told no difference.
    pub reusable: bool,
    /// Whether decisions begin from a memory image.
    pub image: bool,
    /// How many vectors it passed.
    pub vectors: u64,
    /// When it was uploaded.
    pub uploaded_at: Timestamp,
    /// Who uploaded it: the actor's name.
    pub by: String,
}

impl Store {
    /// The pack file that is kept under this name and version.
    pub async fn pack_file(
        &self,
        name: &PackId,
        version: &str,
    ) -> Result<Option<PackFile>, StoreError> {
        let find = sqlx::query(FILE).bind(text(name.as_str())).bind(text(version));
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        let Some(row) = row else { return Ok(None) };
        let bytes = Bytes::from(row.of::<Vec<u8>>("bytes")?);
        let trial = serde_json::from_str(row.of("trial")?).map_err(unreadable)?;
        Ok(Some(PackFile { info: read(&row)?, trial, bytes }))
    }

    /// What is known of those of these packs that are kept, in the same order.
    pub async fn pack_infos(
        &self,
        wanted: Vec<(PackId, String)>,
    ) -> Result<Vec<PackInfo>, StoreError> {
        let mut found = HashMap::with_capacity(wanted.len());
        for batch in wanted.chunks(INFO_ROWS) {
            let sql = format!("{INFOS}{})", places(batch.len(), 2));
            let mut find = sqlx::query(AssertSqlSafe(sql)).persistent(batch.len() == INFO_ROWS);
            for (name, version) in batch {
                find = find.bind(text(name.as_str())).bind(text(version));
            }
            let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
            for row in &rows {
                let info = read(row)?;
                found.insert((info.name.clone(), info.version.clone()), info);
            }
        }
        Ok(wanted.iter().filter_map(|pack| found.remove(pack)).collect())
    }
}

/// Keeps a file. Says how many are new: none when the pack is there already.
pub(super) async fn keep(
    connection: &mut AnyConnection,
    file: PackFile,
    resigns: Option<PackKeyId>,
) -> Result<u64, Undone> {
    if file.bytes.len() > PACK_BYTES_MAX {
        return Err(WriteError::TooLarge { what: "a pack file", max: PACK_BYTES_MAX }.into());
    }
    if insert(connection, &file).await? == 0 {
        return again(connection, file, resigns).await.map(|()| 0);
    }
    let all: i64 = sqlx::query_scalar(COUNT).fetch_one(connection).await?;
    if all > stored(PACKS_MAX as u64) {
        return Err(WriteError::TooMany("pack files").into());
    }
    Ok(1)
}

async fn insert(connection: &mut AnyConnection, file: &PackFile) -> Result<u64, sqlx::Error> {
    let PackFile { info, trial, bytes } = file;
    let insert = sqlx::query(KEEP)
        .bind(text(info.name.as_str()))
        .bind(text(&info.version))
        .bind(info.digest.clone())
        .bind(text(info.key.as_str()))
        .bind(stored(bytes.len() as u64))
        .bind(info.manifest.to_string())
        .bind(i64::from(info.reusable))
        .bind(i64::from(info.image))
        .bind(stored(info.vectors))
        .bind(trial.to_string())
        .bind(info.uploaded_at.as_microsecond())
        .bind(text(&info.by))
        .bind(bytes.to_vec());
    Ok(insert.execute(connection).await?.rows_affected())
}

/// A file under a name and version that are taken.
async fn again(
    connection: &mut AnyConnection,
    file: PackFile,
    resigns: Option<PackKeyId>,
) -> Result<(), Undone> {
    let PackFile { info, bytes, .. } = file;
    let (name, version) = (text(info.name.as_str()), text(&info.version));
    let there = sqlx::query(THERE).bind(name.clone()).bind(version.clone()).bind(bytes.to_vec());
    let there = there.fetch_one(&mut *connection).await?;
    let (digest, same): (&str, i64) = (
        there.of("digest").map_err(WriteError::from)?,
        there.of("same").map_err(WriteError::from)?,
    );
    if same == 1 {
        return Ok(());
    }
    let Some(signer) = resigns.filter(|_| digest == info.digest) else {
        return Err(WriteError::OtherPack.into());
    };
    let resign = sqlx::query(RESIGN)
        .bind(name)
        .bind(version)
        .bind(text(info.key.as_str()))
        .bind(stored(bytes.len() as u64))
        .bind(info.uploaded_at.as_microsecond())
        .bind(text(&info.by))
        .bind(bytes.to_vec())
        .bind(text(signer.as_str()));
    match resign.execute(connection).await?.rows_affected() {
        0 => Err(WriteError::Stale.into()),
        _ => Ok(()),
    }
}

fn read(row: &AnyRow) -> Result<PackInfo, StoreError> {
    Ok(PackInfo {
        name: row.of::<&str>("name")?.into(),
        version: row.of("version")?,
        digest: row.of("digest")?,
        key: row.of::<&str>("key_id")?.into(),
        size: row.number("size")?,
        manifest: serde_json::from_str(row.of("manifest")?).map_err(unreadable)?,
        reusable: row.number("reusable")? > 0,
        image: row.number("image")? > 0,
        vectors: row.number("vectors")?,
        uploaded_at: row.time("uploaded_at")?,
        by: row.of("uploaded_by")?,
    })
}
