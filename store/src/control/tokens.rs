//! Tokens of the admin API.

use super::write::Undone;
use super::{WriteError, audit, write};
use crate::Store;
use crate::rows::{Columns as _, searched, text, unreadable};
use crate::search::Search;
use jiff::Timestamp;
use model::audit::Entry;
use model::id::{TenantId, TokenId};
use model::port::StoreError;
use model::role::Role;
use model::token::{Token, TokenHash};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

const LIST: &str = "SELECT id, name, role, tenant, created_at, expires_at, revoked_at \
    FROM tokens WHERE revoked_at IS NULL";

const OF_ID: &str = "SELECT id, name, role, tenant, created_at, expires_at, revoked_at \
    FROM tokens WHERE id = $1 AND revoked_at IS NULL";

const OF_HASH: &str = "SELECT id, name, role, tenant, created_at, expires_at, revoked_at \
    FROM tokens WHERE hash = $1";

const INSERT: &str = "INSERT INTO tokens \
        (id, hash, name, role, tenant, created_at, expires_at, revoked_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const REVOKE: &str = "UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";

const LIVE_ADMINS: &str = "SELECT count(*) AS live FROM tokens WHERE role = $1 AND tenant IS NULL \
    AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";

impl Store {
    /// The token of this hash, live or not.
    pub async fn token_of(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let find = sqlx::query(OF_HASH).bind(hash.to_vec());
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }

    /// The token of this id, unless it was revoked.
    pub async fn token(&self, id: &TokenId) -> Result<Option<Token>, StoreError> {
        let find = sqlx::query(OF_ID).bind(text(id.as_str()));
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.as_ref().map(read).transpose()
    }

    /// Tokens that were not revoked, newest first; those of one tenant where one is given.
    pub async fn tokens(
        &self,
        tenant: Option<&TenantId>,
        before: Option<&TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError> {
        let tenant = tenant.map(|tenant| searched(tenant.as_str()));
        let before = before.map(|id| text(id.as_str()));
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let list = Search::narrowed(LIST)
                    .filter("tenant = {}", tenant)?
                    .filter("id < {}", before)?;
                list.first(limit, "id DESC", connection).await
            })
        });
        rows.await?.iter().map(read).collect()
    }

    /// Makes this the first token, unless a live admin token of no tenant is there. Says whether it was.
    pub async fn first_token(
        &self,
        token: Token,
        hash: TokenHash,
        audit: Entry,
    ) -> Result<bool, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(write::whole(connection, move |connection| {
                Box::pin(async move { make_first(connection, &token, &hash, &audit).await })
            }))
        });
        match done.await? {
            Ok(made) => Ok(made),
            Err(WriteError::Store(error)) => Err(error),
            // It is refused for nothing else.
            Err(error) => Err(unreadable(error)),
        }
    }
}

async fn make_first(
    connection: &mut AnyConnection,
    token: &Token,
    hash: &TokenHash,
    audit: &Entry,
) -> Result<bool, Undone> {
    write::one_by_one(connection).await?;
    if live_admins(connection, audit.at).await? > 0 {
        return Ok(false);
    }
    // One that was revoked, or has ended, is no way back in.
    if sqlx::query(OF_HASH).bind(hash.to_vec()).fetch_optional(&mut *connection).await?.is_some() {
        return Ok(false);
    }
    insert(connection, token, hash).await?;
    audit::append(connection, audit).await?;
    Ok(true)
}

async fn live_admins(connection: &mut AnyConnection, now: Timestamp) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(LIVE_ADMINS)
        .bind(Role::Admin.as_str())
        .bind(now.as_microsecond())
        .fetch_one(connection)
        .await
}

pub(super) async fn insert(
    connection: &mut AnyConnection,
    token: &Token,
    hash: &TokenHash,
) -> Result<(), Undone> {
    sqlx::query(INSERT)
        .bind(text(token.id.as_str()))
        .bind(hash.to_vec())
        .bind(text(&token.name))
        .bind(token.role.as_str())
        .bind(token.tenant.as_ref().map(|tenant| searched(tenant.as_str())))
        .bind(token.created_at.as_microsecond())
        .bind(token.expires_at.map(|time| time.as_microsecond()))
        .bind(token.revoked_at.map(|time| time.as_microsecond()))
        .execute(connection)
        .await?;
    Ok(())
}

/// To be asked while the feed's row is held: two at a time could each leave the other's as the last.
pub(super) async fn revoke(
    connection: &mut AnyConnection,
    id: &TokenId,
    at: Timestamp,
) -> Result<(), Undone> {
    let before = live_admins(connection, at).await?;
    let revoke = sqlx::query(REVOKE).bind(text(id.as_str())).bind(at.as_microsecond());
    if revoke.execute(&mut *connection).await?.rows_affected() == 0 {
        return Err(WriteError::NotFound.into());
    }
    if before > 0 && live_admins(connection, at).await? == 0 {
        return Err(WriteError::LastToken.into());
    }
    Ok(())
}

fn read(row: &AnyRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.of::<&str>("id")?.into(),
        name: row.of("name")?,
        role: Role::parse(row.of("role")?).ok_or_else(|| unreadable("role"))?,
        tenant: row.of::<Option<&str>>("tenant")?.map(Into::into),
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}
