//! Candidates on their way into service: one rollout each, from the revision that brought it to its end, with what all
//! processes saw of it.
//!
//! Invariant: for an attachment, a running version and a candidate there is at most one open rollout, and its id is the same
//! on every node. Rollouts follow the newest revision that anyone opened them of, never an older one.

mod samples;

pub use samples::SampleReport;

use crate::Store;
use crate::rows::{Columns as _, searched, searched_ids, stored, text, unreadable};
use crate::search::Search;
use jiff::Timestamp;
use model::id::{AttachmentId, PackId};
use model::port::StoreError;
use model::rollout::{RolloutInfo, RolloutState};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

// Whoever comes second waits at this row, and then sees what the first one did. What a revision names is opened once: what
// ended since stays ended.
const TURN: &str = "UPDATE rollouts_opened SET revision = $1 WHERE revision < $1";

const OPEN: &str = "INSERT INTO rollouts \
    (id, attachment, pack, running, candidate, started_at, state) \
    VALUES ($1, $2, $3, $4, $5, $6, 'open')";

const ALL_OPEN: &str = "SELECT id, attachment, pack, running, candidate, started_at \
    FROM rollouts WHERE state = 'open' ORDER BY id";

// What was withdrawn meanwhile, as the document no longer has it, is told why.
const END: &str = "UPDATE rollouts SET state = $2, ended_at = $3, reason = $4 \
    WHERE id = $1 AND state IN ('open', 'withdrawn')";

const WITHDRAW: &str = "UPDATE rollouts SET state = 'withdrawn', ended_at = $2 \
    WHERE id = $1 AND state = 'open'";

const LIST: &str = "SELECT id, attachment, pack, running, candidate, started_at, state, ended_at, \
    reason, samples FROM rollouts";

/// An open rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRollout {
    /// UUIDv7; sorts by time.
    pub id: String,
    /// Where the pack is attached.
    pub attachment: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// The running version, like `1.0.0`.
    pub running: String,
    /// The candidate's version.
    pub candidate: String,
    /// When it began.
    pub started_at: Timestamp,
}

impl OpenRollout {
    fn is_same_as(&self, other: &Self) -> bool {
        (&self.attachment, &self.pack, &self.running, &self.candidate)
            == (&other.attachment, &other.pack, &other.running, &other.candidate)
    }
}

/// Which rollouts are wanted. Newest first.
#[derive(Clone, Debug, Default)]
pub struct RolloutQuery {
    /// Of this pack.
    pub pack: Option<PackId>,
    /// On one of these attachments.
    pub attachments: Option<Vec<AttachmentId>>,
    /// Older than the rollout of this id.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Store {
    /// Opens what a revision names and was not open, withdraws what it does not name, and says what is open then. Of what is
    /// `named`, ids and times are those that a new one gets. When this revision or a later one was seen already, nothing
    /// changes.
    pub async fn sync_rollouts(
        &self,
        revision: u64,
        named: Vec<OpenRollout>,
        now: Timestamp,
    ) -> Result<Vec<OpenRollout>, StoreError> {
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let turn = sqlx::query(TURN).bind(stored(revision));
                if turn.execute(&mut *connection).await?.rows_affected() == 0 {
                    return all_open(connection).await;
                }
                let open = match all_open(connection).await? {
                    Ok(open) => open,
                    Err(error) => return Ok(Err(error)),
                };
                for gone in open.iter().filter(|open| !named.iter().any(|n| n.is_same_as(open))) {
                    let withdraw = sqlx::query(WITHDRAW).bind(gone.id.clone());
                    withdraw.bind(now.as_microsecond()).execute(&mut *connection).await?;
                    samples::close(connection, &gone.id).await?;
                }
                for new in named.iter().filter(|named| !open.iter().any(|o| o.is_same_as(named))) {
                    insert(connection, new).await?;
                }
                all_open(connection).await
            })
        });
        done.await?
    }

    /// Ends a rollout, and says whether it was this call that did. One that was withdrawn meanwhile gets the state and the
    /// reason that are given here.
    pub async fn end_rollout(
        &self,
        id: &str,
        state: RolloutState,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let (id, reason) = (text(id), text(reason));
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let end = sqlx::query(END)
                    .bind(id.clone())
                    .bind(state.as_str())
                    .bind(at.as_microsecond())
                    .bind(reason);
                let ended = end.execute(&mut *connection).await?.rows_affected() > 0;
                if ended {
                    samples::close(connection, &id).await?;
                }
                Ok(ended)
            })
        });
        done.await
    }

    /// Rollouts, newest first, with what was seen of them.
    pub async fn rollouts(&self, query: &RolloutQuery) -> Result<Vec<RolloutInfo>, StoreError> {
        let query = query.clone();
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let list = Search::new(LIST)
                    .filter("pack = {}", query.pack.map(|id| searched(id.as_str())))?
                    .one_of("attachment", query.attachments.map(searched_ids))?
                    .filter("id < {}", query.before.as_deref().map(text))?;
                let rows = list.first(query.limit, "id DESC", &mut *connection).await?;
                with_samples(connection, rows).await
            })
        });
        rows.await?.iter().map(read_info).collect()
    }

    /// One rollout, with what was seen of it.
    pub async fn rollout(&self, id: &str) -> Result<Option<RolloutInfo>, StoreError> {
        let id = text(id);
        let rows = self.db.read(move |connection| {
            Box::pin(async move {
                let one = Search::new(LIST).filter("id = {}", Some(id))?;
                let rows = one.first(1, "id", &mut *connection).await?;
                with_samples(connection, rows).await
            })
        });
        rows.await?.first().map(read_info).transpose()
    }
}

async fn insert(connection: &mut AnyConnection, new: &OpenRollout) -> Result<(), sqlx::Error> {
    let insert = sqlx::query(OPEN)
        .bind(text(&new.id))
        .bind(searched(new.attachment.as_str()))
        .bind(searched(new.pack.as_str()))
        .bind(text(&new.running))
        .bind(text(&new.candidate))
        .bind(new.started_at.as_microsecond());
    insert.execute(connection).await.map(drop)
}

async fn all_open(
    connection: &mut AnyConnection,
) -> Result<Result<Vec<OpenRollout>, StoreError>, sqlx::Error> {
    let rows = sqlx::query(ALL_OPEN).fetch_all(connection).await?;
    Ok(rows.iter().map(read_open).collect())
}

fn read_open(row: &AnyRow) -> Result<OpenRollout, StoreError> {
    Ok(OpenRollout {
        id: row.of("id")?,
        attachment: row.of::<&str>("attachment")?.into(),
        pack: row.of::<&str>("pack")?.into(),
        running: row.of("running")?,
        candidate: row.of("candidate")?,
        started_at: row.time("started_at")?,
    })
}

/// A rollout's row, and the rows of what is seen of it while it is open.
type Seen = (AnyRow, Vec<AnyRow>);

async fn with_samples(
    connection: &mut AnyConnection,
    rows: Vec<AnyRow>,
) -> Result<Vec<Seen>, sqlx::Error> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let id: String = sqlx::Row::try_get(&row, "id")?;
        let seen = samples::newest(connection, &id).await?;
        all.push((row, seen));
    }
    Ok(all)
}

fn read_info((row, seen): &Seen) -> Result<RolloutInfo, StoreError> {
    let OpenRollout { id, attachment, pack, running, candidate, started_at } = read_open(row)?;
    let state: &str = row.of("state")?;
    let kept: Option<&str> = row.of("samples")?;
    let samples = match kept {
        Some(kept) => serde_json::from_str(kept).map_err(unreadable)?,
        None => samples::merged(seen)?,
    };
    Ok(RolloutInfo {
        id,
        attachment,
        pack,
        running,
        candidate,
        started_at,
        state: RolloutState::parse(state).ok_or_else(|| unreadable("state"))?,
        ended_at: row.maybe_time("ended_at")?,
        reason: row.of("reason")?,
        samples,
    })
}
