//! What packs may read: values under keys, bounded for each pack.
//!
//! Invariant: a pack's version rises with every change of its data, in the same transaction, so that nodes load again what
//! changed and nothing else.

use super::write::Undone;
use super::{Over, WriteError};
use crate::Store;
use crate::rows::{Columns as _, stored, text};
use bytes::Bytes;
use jiff::Timestamp;
use model::id::PackId;
use model::port::StoreError;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// How long a key may be, in bytes.
pub const DATUM_KEY_MAX: usize = 256;
/// How large a value may be, in bytes.
pub const DATUM_VALUE_MAX: usize = 64 << 10;
/// How many keys a pack may have.
pub const DATA_KEYS_MAX: usize = 1_000;
/// How large all values of a pack may be, in bytes.
pub const DATA_BYTES_MAX: usize = 4 << 20;
/// How many packs may have data.
const PACKS_WITH_DATA_MAX: i64 = 10_000;

const PUT: &str = "INSERT INTO pack_data (pack, name, put_at, put_by, size, value) \
    VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (pack, name) DO UPDATE SET put_at = excluded.put_at, put_by = excluded.put_by, \
        size = excluded.size, value = excluded.value";

const SUM: &str = "SELECT count(*) AS keys, CAST(coalesce(sum(size), 0) AS BIGINT) AS bytes \
    FROM pack_data WHERE pack = $1";

const DELETE: &str = "DELETE FROM pack_data WHERE pack = $1 AND name = $2";

// The feed's row is held: its version is this write's own.
const RAISE: &str = "INSERT INTO pack_data_versions (pack, version) \
    SELECT $1, version FROM feed WHERE true \
    ON CONFLICT (pack) DO UPDATE SET version = excluded.version";

const PACKS: &str = "SELECT count(*) FROM pack_data_versions";

const VERSION: &str = "SELECT version FROM pack_data_versions WHERE pack = $1";

const VERSIONS: &str = "SELECT pack, version FROM pack_data_versions";

const ALL: &str = "SELECT pack, name, put_at, put_by, value FROM pack_data \
    WHERE pack = $1 ORDER BY name";

const ONE: &str = "SELECT pack, name, put_at, put_by, value FROM pack_data \
    WHERE pack = $1 AND name = $2";

/// A value that a pack may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDatum {
    /// The pack.
    pub pack: PackId,
    /// The key: not empty, at most [`DATUM_KEY_MAX`] bytes.
    pub key: String,
    /// The value: at most [`DATUM_VALUE_MAX`] bytes.
    pub value: Bytes,
    /// Since when.
    pub at: Timestamp,
    /// Who put it there: the actor's name.
    pub by: String,
}

/// What a pack may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackData {
    /// Rises with every change; 0 when there never was any.
    pub version: u64,
    /// In the order of their keys.
    pub entries: Vec<PackDatum>,
}

impl Store {
    /// What a pack may read. What changes while it is read may be in it already; its version is never too high.
    pub async fn pack_data(&self, pack: &PackId) -> Result<PackData, StoreError> {
        let pack = text(pack.as_str());
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let find = sqlx::query(VERSION).bind(pack.clone());
                let version = find.fetch_optional(&mut *connection).await?;
                let entries = sqlx::query(ALL).bind(pack).fetch_all(connection).await?;
                Ok((version, entries))
            })
        });
        let (version, entries) = rows.await?;
        let version = version.map(|row| row.number("version")).transpose()?.unwrap_or_default();
        let entries = entries.iter().map(read).collect::<Result<_, _>>()?;
        Ok(PackData { version, entries })
    }

    /// What a pack may read under this key.
    pub async fn pack_datum(
        &self,
        pack: &PackId,
        key: &str,
    ) -> Result<Option<PackDatum>, StoreError> {
        let find = sqlx::query(ONE).bind(text(pack.as_str())).bind(text(key));
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }

    /// The versions of all packs' data, of those that have or had any.
    pub async fn pack_data_versions(&self) -> Result<BTreeMap<PackId, u64>, StoreError> {
        let find = sqlx::query(VERSIONS);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        let versions = rows.iter().map(|row| {
            let pack = PackId::from(row.of::<&str>("pack")?);
            Ok((pack, row.number("version")?))
        });
        versions.collect()
    }
}

pub(super) async fn put(
    connection: &mut AnyConnection,
    datum: PackDatum,
    over: Over,
) -> Result<(), Undone> {
    for (what, size, max) in [
        ("the key of a pack's data", datum.key.len(), DATUM_KEY_MAX),
        ("a value of a pack's data", datum.value.len(), DATUM_VALUE_MAX),
    ] {
        if size > max {
            return Err(WriteError::TooLarge { what, max }.into());
        }
    }
    let (pack, key) = (text(datum.pack.as_str()), text(&datum.key));
    check(connection, &pack, &key, over).await?;
    sqlx::query(PUT)
        .bind(pack.clone())
        .bind(key)
        .bind(datum.at.as_microsecond())
        .bind(text(&datum.by))
        .bind(stored(datum.value.len() as u64))
        .bind(datum.value.to_vec())
        .execute(&mut *connection)
        .await?;
    let sum = sqlx::query(SUM).bind(pack.clone()).fetch_one(&mut *connection).await?;
    if sum.number("keys").map_err(WriteError::from)? > DATA_KEYS_MAX as u64 {
        return Err(WriteError::TooMany("keys of a pack's data").into());
    }
    if sum.number("bytes").map_err(WriteError::from)? > DATA_BYTES_MAX as u64 {
        let what = "all of a pack's data";
        return Err(WriteError::TooLarge { what, max: DATA_BYTES_MAX }.into());
    }
    sqlx::query(RAISE).bind(pack).execute(&mut *connection).await?;
    let packs: i64 = sqlx::query_scalar(PACKS).fetch_one(connection).await?;
    if packs > PACKS_WITH_DATA_MAX {
        return Err(WriteError::TooMany("packs with data").into());
    }
    Ok(())
}

pub(super) async fn delete(
    connection: &mut AnyConnection,
    pack: &PackId,
    key: &str,
    over: Over,
) -> Result<(), Undone> {
    let (pack, key) = (text(pack.as_str()), text(key));
    check(connection, &pack, &key, over).await?;
    let delete = sqlx::query(DELETE).bind(pack.clone()).bind(key);
    if delete.execute(&mut *connection).await?.rows_affected() == 0 {
        return Err(WriteError::NotFound.into());
    }
    sqlx::query(RAISE).bind(pack).execute(connection).await?;
    Ok(())
}

/// Whether what is there is what was expected. The feed's row is held: nobody changes it meanwhile.
async fn check(
    connection: &mut AnyConnection,
    pack: &str,
    key: &str,
    over: Over,
) -> Result<(), Undone> {
    if over == Over::Anything {
        return Ok(());
    }
    let find = sqlx::query(ONE).bind(pack.to_owned()).bind(key.to_owned());
    let there = find.fetch_optional(connection).await?;
    let there = there.as_ref().map(read).transpose().map_err(WriteError::from)?;
    let is_expected = match (over, there) {
        (Over::Anything, _) | (Over::Nothing, None) => true,
        (Over::Value(expected), Some(there)) => expected == there.value,
        (Over::Nothing, Some(_)) | (Over::Value(_), None) => false,
    };
    if is_expected { Ok(()) } else { Err(WriteError::Stale.into()) }
}

fn read(row: &AnyRow) -> Result<PackDatum, StoreError> {
    Ok(PackDatum {
        pack: row.of::<&str>("pack")?.into(),
        key: row.of("name")?,
        value: Bytes::from(row.of::<Vec<u8>>("value")?),
        at: row.time("put_at")?,
        by: row.of("put_by")?,
    })
}
