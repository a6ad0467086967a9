//! Revocations: rows, not revisions. What is revoked again replaces what was said before; what is lifted is gone.

use super::WriteError;
use super::write::Undone;
use crate::Store;
use crate::rows::{Columns as _, text, unreadable};
use jiff::Timestamp;
use model::port::StoreError;
use model::revocation::{REVOCATIONS_MAX, Revocation, Revoked};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

const IN_FORCE: &str = "SELECT id, at, until, what FROM revocations \
    WHERE until IS NULL OR until > $1 ORDER BY at, id LIMIT $2";

const ONE: &str = "SELECT id, at, until, what FROM revocations \
    WHERE id = $1 AND (until IS NULL OR until > $2)";

const OF: &str = "SELECT id, at, until, what FROM revocations \
    WHERE digest = $1 AND (until IS NULL OR until > $2)";

// Counts no further than it must.
const OTHERS: &str = "SELECT count(*) AS others FROM (SELECT 1 AS one FROM revocations \
    WHERE digest <> $1 AND (until IS NULL OR until > $2) LIMIT $3) counted";

const PUT: &str = "INSERT INTO revocations (digest, id, at, until, what) \
    VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (digest) DO UPDATE SET id = excluded.id, at = excluded.at, until = excluded.until";

const LIFT: &str = "DELETE FROM revocations WHERE id = $1";

const MAX: i64 = REVOCATIONS_MAX as i64;

impl Store {
    /// Every revocation that is in force, oldest first.
    pub async fn revocations(&self, now: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        let find = sqlx::query(IN_FORCE).bind(now.as_microsecond()).bind(MAX);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(read).collect()
    }

    /// The revocation of this id, if it is in force.
    pub async fn revocation(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Revocation>, StoreError> {
        let find = sqlx::query(ONE).bind(text(id)).bind(now.as_microsecond());
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }

    /// The revocation of just that, if one is in force.
    pub async fn revocation_of(
        &self,
        what: &Revoked,
        now: Timestamp,
    ) -> Result<Option<Revocation>, StoreError> {
        let find = sqlx::query(OF).bind(digest(&written(what)?)).bind(now.as_microsecond());
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }
}

fn written(what: &Revoked) -> Result<String, StoreError> {
    serde_json::to_string(what).map_err(unreadable)
}

fn digest(what: &str) -> Vec<u8> {
    Sha256::digest(what).to_vec()
}

pub(super) async fn put(
    connection: &mut AnyConnection,
    revocation: &Revocation,
) -> Result<(), Undone> {
    let what = written(&revocation.what).map_err(WriteError::from)?;
    let digest = digest(&what);
    let others: i64 = sqlx::query_scalar(OTHERS)
        .bind(digest.clone())
        .bind(revocation.at.as_microsecond())
        .bind(MAX)
        .fetch_one(&mut *connection)
        .await?;
    if others >= MAX {
        return Err(WriteError::TooMany("revocations in force").into());
    }
    sqlx::query(PUT)
        .bind(digest)
        .bind(text(&revocation.id))
        .bind(revocation.at.as_microsecond())
        .bind(revocation.until.map(|time| time.as_microsecond()))
        .bind(what)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn lift(connection: &mut AnyConnection, id: &str) -> Result<(), Undone> {
    match sqlx::query(LIFT).bind(text(id)).execute(connection).await?.rows_affected() {
        0 => Err(WriteError::NotFound.into()),
        _ => Ok(()),
    }
}

fn read(row: &AnyRow) -> Result<Revocation, StoreError> {
    Ok(Revocation {
        id: row.of("id")?,
        at: row.time("at")?,
        until: row.maybe_time("until")?,
        what: serde_json::from_str(row.of("what")?).map_err(unreadable)?,
    })
}
