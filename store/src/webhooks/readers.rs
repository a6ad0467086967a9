//! Those who read on from where they ended, one at a time under each name: what hands the outbox over, pollers of systems
//! without webhooks.
//!
//! Invariant: who was taken over from keeps nothing any more.

use super::hold::micros;
use super::sql::Sql;
use crate::Store;
use crate::rows::{Columns as _, stored, text};
use model::id::SourceId;
use model::port::StoreError;
use std::time::Duration;

/// How large a reader's state may be, in bytes.
pub const READER_BYTES_MAX: usize = 64 << 10;

pub(super) static HOLD: Sql = Sql::new(
    "INSERT INTO webhook_readers AS kept (name, holder, fence, hold_until, state) VALUES ($1, $2, 1, {now} + $3, '') \
     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = kept.fence + 1, hold_until = excluded.hold_until \
     WHERE kept.holder = excluded.holder OR kept.hold_until <= {now} \
     RETURNING fence, state",
);

pub(super) static KEEP: Sql = Sql::new(
    "UPDATE webhook_readers SET hold_until = {now} + $3, state = COALESCE($4, state) WHERE name = $1 AND fence = $2",
);

pub(super) static LEAVE_READERS: Sql = Sql::new(
    "UPDATE webhook_readers SET hold_until = {now} WHERE holder = $1 AND hold_until > {now}",
);

pub(super) static LEAVE_REPLAYS: Sql = Sql::new(
    "UPDATE webhook_replays SET hold_until = {now} WHERE holder = $1 AND state = 'running' AND hold_until > {now}",
);

const HELD: &str = "SELECT state FROM webhook_readers WHERE name = $1";

/// The name under which a source is read on, from one question to the next.
pub fn source_reader(source: &SourceId) -> String {
    format!("poll/{source}")
}

/// A reader's place, held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The fence: without it nothing is kept.
    pub fence: u64,
    /// What was kept last; empty at first.
    pub state: String,
}

impl Store {
    /// Holds a reader's place for so long; none while another one holds it. Who holds it already gets a new fence.
    pub async fn hold_reader(
        &self,
        name: &str,
        holder: &str,
        span: Duration,
    ) -> Result<Option<Reader>, StoreError> {
        let (name, holder, span) = (text(name), text(holder), micros(span));
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let hold = HOLD.query(connection).bind(name).bind(holder).bind(span);
                hold.fetch_optional(connection).await
            })
        });
        let Some(row) = done.await? else { return Ok(None) };
        Ok(Some(Reader { fence: row.number("fence")?, state: row.of("state")? }))
    }

    /// Keeps a reader's state, if there is a new one, and goes on holding its place for so long; zero gives it back. False
    /// when it was taken over: nothing is kept.
    pub async fn keep_reader(
        &self,
        name: &str,
        fence: u64,
        span: Duration,
        state: Option<String>,
    ) -> Result<bool, StoreError> {
        if state.as_ref().is_some_and(|state| state.len() > READER_BYTES_MAX) {
            return Err(StoreError::Full("bytes of a reader's state"));
        }
        let (name, state, span) = (text(name), state.as_deref().map(text), micros(span));
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let keep =
                    KEEP.query(connection).bind(name).bind(stored(fence)).bind(span).bind(state);
                Ok(keep.execute(connection).await?.rows_affected() > 0)
            })
        });
        done.await
    }

    /// Gives back every place, and every replay, that somebody holds who ends: others need not wait until the holds are over.
    pub async fn leave(&self, holder: &str) -> Result<(), StoreError> {
        let holder = text(holder);
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                for leave in [&LEAVE_READERS, &LEAVE_REPLAYS] {
                    leave.query(connection).bind(holder.clone()).execute(&mut *connection).await?;
                }
                Ok(())
            })
        });
        done.await
    }

    /// What a reader kept last, whoever holds its place.
    pub async fn reader_state(&self, name: &str) -> Result<Option<String>, StoreError> {
        let find = sqlx::query(HELD).bind(text(name));
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        row.map(|row| row.of("state")).transpose()
    }
}
