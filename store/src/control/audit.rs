//! The audit: only ever appended to. Triggers refuse everything else.

use super::AuditQuery;
use super::write::Undone;
use crate::Store;
use crate::rows::{Columns as _, searched, text, unreadable};
use crate::search::Search;
use model::audit::Entry;
use model::port::StoreError;
use sqlx::AnyConnection;

const INSERT: &str = "INSERT INTO audit (id, at, tenant, actor, action, resource, entry) \
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

const LIST: &str = "SELECT entry FROM audit";

impl Store {
    /// Audit entries, newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<Entry>, StoreError> {
        let _place = self.search_place().await?;
        let query = query.clone();
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let resource = query.resource.as_deref();
                let list = Search::new(LIST)
                    .filter("tenant = {}", query.tenant.map(|tenant| searched(tenant.as_str())))?
                    .filter("actor = {}", query.actor.as_deref().map(searched))?
                    .filter("action = {}", query.action.as_deref().map(searched))?
                    // What lies beneath a path is between `/` and the character after it.
                    .filter(
                        "(resource = {} OR (resource > {} || '/' AND resource < {} || '0'))",
                        resource.map(|path| searched(path.trim_end_matches('/'))),
                    )?
                    .filter("at >= {}", query.since.map(|time| time.as_microsecond()))?
                    .filter("at < {}", query.until.map(|time| time.as_microsecond()))?
                    .filter("id < {}", query.before.as_deref().map(text))?;
                list.first(query.limit, "id DESC", connection).await
            })
        });
        let rows = rows.await?;
        rows.iter().map(|row| serde_json::from_str(row.of("entry")?).map_err(unreadable)).collect()
    }
}

pub(super) async fn append(connection: &mut AnyConnection, entry: &Entry) -> Result<(), Undone> {
    let whole = serde_json::to_string(entry).map_err(|error| {
        // Its keys are texts, and nothing in it can't be written.
        super::WriteError::from(unreadable(error))
    })?;
    sqlx::query(INSERT)
        .bind(text(&entry.id))
        .bind(entry.at.as_microsecond())
        .bind(entry.tenant.as_ref().map(|tenant| searched(tenant.as_str())))
        .bind(searched(&entry.actor.name))
        .bind(searched(&entry.action))
        .bind(searched(&entry.resource))
        .bind(whole)
        .execute(connection)
        .await?;
    Ok(())
}
