//! The outbox: what the gateway has to tell, written in the transaction of what it tells of, or that of its being told once.
//!
//! Invariant: numbers grow in the order of commits, so that whoever reads on from the last one that it saw misses nothing.
//! Ids can't do that: nodes make them, each by its own clock.

use super::WriteError;
use super::write::{Undone, whole};
use crate::Store;
use crate::rows::{Columns as _, stored, text, unreadable};
use crate::search::ROWS_MAX;
use jiff::Timestamp;
use model::event::Event;
use model::id::TenantId;
use model::port::StoreError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use std::collections::BTreeSet;

// The row's lock is held until the commit: nobody else gets a number before.
const NUMBER: &str = "UPDATE outbox_newest SET number = number + 1 RETURNING number";

const APPEND: &str = "INSERT INTO outbox (number, id, at, type, tenant, subject, data) \
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

const AFTER: &str = "SELECT number, id, at, type, tenant, subject, data FROM outbox \
    WHERE number > $1 ORDER BY number LIMIT $2";

// Who comes second waits for the commit of who came first.
const TOLD: &str =
    "INSERT INTO told (digest, until) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";

/// Under this name the outbox is [read on](Store::hold_reader), where its events become those of their tenants.
pub const OUTBOX_READER: &str = "outbox";

/// How far the outbox was read: what its reader keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRead {
    /// The number of the last event that was accepted.
    pub number: u64,
}

/// An event that is told once, whoever has it to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldOnce {
    /// What of: who tells the same gives it the same name.
    pub name: String,
    /// Until when the name is remembered.
    pub until: Timestamp,
    /// What happened.
    pub event: Event,
}

/// An event with its place in the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its number: from 1, in the order of commits.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// The events after this number, 0 for all, in the order of their commits. They are kept for 7 days, and for 90 while
    /// they wait for who reads them on.
    pub async fn outbox(&self, after: u64, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        let find = sqlx::query(AFTER).bind(stored(after)).bind(i64::from(limit.min(ROWS_MAX)));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(read).collect()
    }

    /// How far the outbox was read on; none where nobody ever did.
    pub(crate) async fn outbox_read(&self) -> Result<Option<OutboxRead>, StoreError> {
        let state = self.reader_state(OUTBOX_READER).await?;
        Ok(state.map(|state| serde_json::from_str(&state).unwrap_or_default()))
    }

    /// Puts into the outbox what was not told before under its name; all of it or nothing. Says how many events that were.
    pub async fn tell_once(&self, told: Vec<ToldOnce>) -> Result<usize, StoreError> {
        let done = self.db.write(0, |connection| {
            Box::pin(whole(connection, |connection| Box::pin(tell_new(connection, told))))
        });
        done.await?.map_err(|error| match error {
            WriteError::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        })
    }
}

async fn tell_new(connection: &mut AnyConnection, told: Vec<ToldOnce>) -> Result<usize, Undone> {
    let digest = |told: &ToldOnce| Sha256::digest(&told.name).to_vec();
    let mut names: Vec<_> =
        told.iter().enumerate().map(|(place, told)| (digest(told), told.until, place)).collect();
    // Everyone locks names in the same order, and before the outbox.
    names.sort();
    let mut new = BTreeSet::new();
    for (digest, until, place) in names {
        let name = sqlx::query(TOLD).bind(digest).bind(until.as_microsecond());
        if name.execute(&mut *connection).await?.rows_affected() > 0 {
            new.insert(place);
        }
    }
    let events = told.into_iter().enumerate().filter(|(place, _)| new.contains(place));
    append(connection, events.map(|(_, told)| told.event).collect()).await?;
    Ok(new.len())
}

pub(crate) async fn append(
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
