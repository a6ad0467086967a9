//! The outbox: what the gateway has to tell, written in the transaction of what it tells of.
//!
//! Invariant: numbers grow in the order of commits, so that whoever reads on from the last one that it saw misses nothing.
//! Ids can't do that: nodes make them, each by its own clock.

use super::WriteError;
use super::write::Undone;
use crate::Store;
use crate::rows::{Columns as _, stored, text, unreadable};
use crate::search::ROWS_MAX;
use model::event::Event;
use model::id::TenantId;
use model::port::StoreError;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

// The row's lock is held until the commit: nobody else gets a number before.
const NUMBER: &str = "UPDATE outbox_newest SET number = number + 1 RETURNING number";

const APPEND: &str = "INSERT INTO outbox (number, id, at, type, tenant, subject, data) \
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

const AFTER: &str = "SELECT number, id, at, type, tenant, subject, data FROM outbox \
    WHERE number > $1 ORDER BY number LIMIT $2";

/// An event with its place in the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its number: from 1, in the order of commits.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// The events after this number, 0 for all, in the order of their commits. They are kept for 7 days.
    pub async fn outbox(&self, after: u64, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        let find = sqlx::query(AFTER).bind(stored(after)).bind(i64::from(limit.min(ROWS_MAX)));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(read).collect()
    }
}

pub(super) async fn append(
    connection: &mut AnyConnection,
    events: Vec<Event>,
) -> Result<(), Undone> {
    for event in events {
        let number: i64 = sqlx::query_scalar(NUMBER).fetch_one(&mut *connection).await?;
        let data = serde_json::to_string(&event.data).map_err(unreadable);
        sqlx::query(APPEND)
            .bind(number)
            .bind(text(&event.id))
            .bind(event.at.as_microsecond())
            .bind(text(&event.r#type))
            .bind(event.tenant.map(|tenant| text(tenant.as_str())))
            .bind(text(&event.subject))
            .bind(data.map_err(WriteError::from)?)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn read(row: &AnyRow) -> Result<Outgoing, StoreError> {
    let event = Event {
        id: row.of("id")?,
        at: row.time("at")?,
        r#type: row.of("type")?,
        tenant: row.of::<Option<&str>>("tenant")?.map(TenantId::from),
        subject: row.of("subject")?,
        data: serde_json::from_str(row.of("data")?).map_err(unreadable)?,
    };
    Ok(Outgoing { number: row.number("number")?, event })
}
