//! Revisions: numbered without gaps; their texts are kept once each.

use super::write::Undone;
use super::{Revision, WriteError};
use crate::Store;
use crate::rows::{Columns as _, stored, text, unreadable};
use crate::search::Search;
use model::audit::Entry;
use model::id::NodeName;
use model::port::StoreError;
use model::revision::RevisionInfo;
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use sqlx::query::Query;
use std::sync::Arc;

const LIST: &str = "SELECT number, at, digest, size, author, action, nodes FROM revisions";

const NEWEST: &str = "SELECT r.number, r.at, r.digest, r.size, r.author, r.action, r.nodes, d.text \
    FROM revisions r JOIN documents d ON d.digest = r.digest ORDER BY r.number DESC LIMIT 1";

// `replace` finds a quoted name as it stands: LIKE would take `_` for any character, and in SQLite A for a. The inner query
// goes from the newest backward and ends at the first that fits, before any text is loaded.
const NEWEST_FOR: &str = "SELECT r.number, r.at, r.digest, r.size, r.author, r.action, r.nodes, d.text \
    FROM (SELECT number, at, digest, size, author, action, nodes FROM revisions \
        WHERE nodes IS NULL OR replace(nodes, $1, '') <> nodes ORDER BY number DESC LIMIT 1) r \
    JOIN documents d ON d.digest = r.digest";

const ONE: &str = "SELECT r.number, r.at, r.digest, r.size, r.author, r.action, r.nodes, d.text \
    FROM revisions r JOIN documents d ON d.digest = r.digest WHERE r.number = $1";

const HEAD: &str = "SELECT number, nodes FROM revisions ORDER BY number DESC LIMIT 1";

const INSERT_TEXT: &str =
    "INSERT INTO documents (digest, text) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";

const INSERT: &str = "INSERT INTO revisions (number, at, digest, size, author, action, nodes) \
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

const RELEASE: &str = "UPDATE revisions SET nodes = NULL WHERE number = $1 AND nodes IS NOT NULL \
    AND number = (SELECT max(number) FROM revisions)";

const EVERYBODYS: &str =
    "SELECT number FROM revisions WHERE nodes IS NULL ORDER BY number DESC LIMIT 1";

impl Store {
    /// The newest revision.
    pub async fn newest(&self) -> Result<Option<Revision>, StoreError> {
        self.revision_of(sqlx::query(NEWEST)).await
    }

    /// The newest revision that is this node's: everybody's, or one that went to it first.
    pub async fn newest_for(&self, node: &NodeName) -> Result<Option<Revision>, StoreError> {
        let quoted = serde_json::Value::from(node.as_str()).to_string();
        self.revision_of(sqlx::query(NEWEST_FOR).bind(quoted)).await
    }

    /// The number of the newest revision that is everybody's.
    pub async fn everybodys(&self) -> Result<Option<u64>, StoreError> {
        let find = sqlx::query(EVERYBODYS);
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.map(|row| row.number("number")).transpose()
    }

    /// One revision.
    pub async fn revision(&self, number: u64) -> Result<Option<Revision>, StoreError> {
        // Beyond what is counted, there is none.
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        self.revision_of(sqlx::query(ONE).bind(number)).await
    }

    /// Revisions older than `before`, newest first.
    pub async fn revisions(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<RevisionInfo>, StoreError> {
        let before = before.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let list = Search::new(LIST).filter("number < {}", before)?;
                list.first(limit, "number DESC", connection).await
            })
        });
        rows.await?.iter().map(read_info).collect()
    }

    async fn revision_of(
        &self,
        query: Query<'static, sqlx::Any, sqlx::any::AnyArguments>,
    ) -> Result<Option<Revision>, StoreError> {
        let row = self.db.read(|connection| Box::pin(query.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }
}

/// Whether another revision than this one is the newest of everybody's.
pub(crate) async fn is_outdated(
    connection: &mut AnyConnection,
    revision: u64,
) -> Result<bool, sqlx::Error> {
    let newest = sqlx::query_scalar(EVERYBODYS).fetch_optional(connection).await?;
    Ok(newest.is_some_and(|newest: i64| newest != stored(revision)))
}

/// Whether a revision made from `base` may follow. To be asked while the feed's row is held.
pub(super) async fn follows(
    connection: &mut AnyConnection,
    base: u64,
    replaces_staged: bool,
) -> Result<(), Undone> {
    let head = sqlx::query(HEAD).fetch_optional(connection).await?;
    let Some(head) = head else {
        return if base == 0 { Ok(()) } else { Err(WriteError::Stale.into()) };
    };
    let number = head.number("number").map_err(WriteError::from)?;
    if number != base {
        return Err(WriteError::Stale.into());
    }
    match read_nodes(&head).map_err(WriteError::from)? {
        Some(nodes) if !replaces_staged => Err(WriteError::Staged { number, nodes }.into()),
        Some(_) | None => Ok(()),
    }
}

pub(super) async fn insert(
    connection: &mut AnyConnection,
    number: u64,
    document: &str,
    nodes: Option<Vec<NodeName>>,
    audit: &Entry,
) -> Result<(), Undone> {
    let number = i64::try_from(number).map_err(|_| unreadable("the number of a revision"));
    let digest = format!("sha256:{:x}", Sha256::digest(document));
    let put = sqlx::query(INSERT_TEXT).bind(digest.clone()).bind(document.to_owned());
    put.execute(&mut *connection).await?;
    sqlx::query(INSERT)
        .bind(number.map_err(WriteError::from)?)
        .bind(audit.at.as_microsecond())
        .bind(digest)
        .bind(i64::try_from(document.len()).unwrap_or(i64::MAX))
        .bind(text(&audit.actor.name))
        .bind(text(&audit.action))
        .bind(nodes.map(|nodes| serde_json::json!(nodes).to_string()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn release(connection: &mut AnyConnection, number: u64) -> Result<(), Undone> {
    let number = i64::try_from(number).map_err(|_| WriteError::NotFound)?;
    match sqlx::query(RELEASE).bind(number).execute(connection).await?.rows_affected() {
        0 => Err(WriteError::NotFound.into()),
        _ => Ok(()),
    }
}

fn read(row: &AnyRow) -> Result<Revision, StoreError> {
    Ok(Revision { info: read_info(row)?, text: Arc::from(row.of::<&str>("text")?) })
}

fn read_info(row: &AnyRow) -> Result<RevisionInfo, StoreError> {
    Ok(RevisionInfo {
        number: row.number("number")?,
        at: row.time("at")?,
        digest: row.of("digest")?,
        size: row.number("size")?,
        author: row.of("author")?,
        action: row.of("action")?,
        nodes: read_nodes(row)?,
    })
}

fn read_nodes(row: &AnyRow) -> Result<Option<Vec<NodeName>>, StoreError> {
    let nodes: Option<&str> = row.of("nodes")?;
    nodes.map(serde_json::from_str).transpose().map_err(unreadable)
}
