//! Replays: jobs that queue the events of a window again, a page at a time.
//!
//! Invariant: a page is queued once: the job's cursor moves in the same transaction, from where the page was read, and only
//! for who holds the job. Only what was fanned out is queued, so that fan-out does not send it as well.

use super::accept::{ACCEPTING, NEWEST};
use super::fan_out::{New, Plan, insert, planned};
use super::hold::micros;
use super::order::released;
use super::reading;
use super::sql::Sql;
use super::taking_up::order_key;
use super::waiting::Waiting;
use crate::Store;
use crate::control::{Undone, WriteError, is_outdated};
use crate::db::serialize;
use crate::rows::{Columns as _, stored, text, unreadable};
use crate::search::{ROWS_MAX, Search};
use jiff::Timestamp;
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::{Dedupe, Planned, Replay, ReplayState, StoredEvent};
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How long nobody works at a replay that waits for events.
const WAIT: Duration = Duration::from_secs(1);

const INSERT: &str = "INSERT INTO webhook_replays (id, tenant, request, state, created_at, created_by, counted, queued, \
     skipped, cursor_at, cursor, fence, hold_until) VALUES ($1, $2, $3, 'running', $4, $5, $6, 0, 0, 0, 0, 0, 0)";

const STATE: &str = "SELECT state FROM webhook_replays WHERE id = $1";

const CANCEL: &str = "UPDATE webhook_replays SET state = 'cancelled', ended_at = $2 WHERE id = $1 AND state = 'running'";

const LIST: &str = "SELECT id, request, state, created_at, created_by, counted, queued, skipped, cursor, cursor_at, ended_at, \
     fence FROM webhook_replays";

pub(super) static HOLD: Sql = Sql::new(
    "UPDATE webhook_replays SET holder = $1, fence = fence + 1, hold_until = {now} + $2 \
     WHERE id IN (SELECT id FROM webhook_replays WHERE state = 'running' AND hold_until < {now} \
         ORDER BY hold_until LIMIT 1 {skip}) \
     RETURNING id, request, state, created_at, created_by, counted, queued, skipped, cursor, cursor_at, ended_at, fence",
);

pub(super) static MOVE: Sql = Sql::new(
    "UPDATE webhook_replays SET cursor = $3, cursor_at = $4, hold_until = {now} + $5, \
         state = CASE $6 WHEN 1 THEN 'done' ELSE state END, ended_at = CASE $6 WHEN 1 THEN {now} END \
     WHERE id = $1 AND fence = $2 AND cursor = $7 AND state = 'running'",
);

const COUNT: &str =
    "UPDATE webhook_replays SET queued = queued + $2, skipped = skipped + $3 WHERE id = $1";

pub(super) const WINDOW: &str = "SELECT number, accepted_at, webhook_id, tenant, source, id, type, content FROM webhook_events \
     WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 AND number > $4 AND number <= $5 \
     ORDER BY accepted_at, number LIMIT $6";

const FANNED_OUT: &str = "SELECT number, at FROM webhook_numbers WHERE name = 'fan_out'";

pub(super) static MADE: Sql = Sql::of_rows(
    "event BIGINT",
    "SELECT number, event, endpoint, state FROM webhook_deliveries \
     WHERE event IN (SELECT event FROM {rows} AS asked)",
);

pub(super) static AGAIN: Sql = Sql::of_rows(
    "number BIGINT",
    "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, replay = $2, \
         due_at = CASE WHEN blocks = 0 THEN {now} END \
     WHERE number IN (SELECT d.number FROM webhook_deliveries d WHERE d.state IN ('dead', 'parked') \
         AND d.number IN (SELECT number FROM {rows} AS asked) {skip}) \
     RETURNING tenant, endpoint, order_key",
);

/// What one page of a replay came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayStep {
    /// How many deliveries it queued.
    pub queued: u64,
    /// How many it skipped.
    pub skipped: u64,
    /// Where the replay stands.
    pub state: ReplayState,
    /// Whether somebody else holds or ended it: nothing was done.
    pub stale: bool,
    /// Whether a later revision than the plan's is everybody's: nothing was done.
    pub outdated: bool,
    /// Whether its window has no more events for now: it is held no longer, and to be taken up again after a second.
    pub waits: bool,
}

impl ReplayStep {
    /// Nothing was done.
    pub(crate) const NONE: Self = Self {
        queued: 0,
        skipped: 0,
        state: ReplayState::Running,
        stale: false,
        outdated: false,
        waits: false,
    };
}

/// How far fan-out has come.
#[derive(Clone, Copy)]
struct FannedOut {
    number: i64,
    at: i64,
}

/// What is known of a replay, with its cursor's time.
struct Job {
    replay: Replay,
    cursor_at: i64,
    fence: u64,
}

#[derive(Serialize)]
struct OfEvent {
    event: i64,
}

#[derive(Serialize)]
struct Number {
    number: i64,
}

/// Makes a replay that nobody works at yet.
pub(crate) async fn create(connection: &mut AnyConnection, replay: Replay) -> Result<(), Undone> {
    let request = serde_json::to_string(&replay.request);
    sqlx::query(INSERT)
        .bind(text(&replay.id))
        .bind(text(replay.request.tenant.as_str()))
        .bind(request.map_err(|error| WriteError::from(unreadable(error)))?)
        .bind(replay.created_at.as_microsecond())
        .bind(text(&replay.by))
        .bind(stored(replay.counted))
        .execute(connection)
        .await?;
    Ok(())
}

/// Ends a replay that runs. What it queued stays.
pub(crate) async fn cancel(
    connection: &mut AnyConnection,
    id: &str,
    at: Timestamp,
) -> Result<(), Undone> {
    let cancel = sqlx::query(CANCEL).bind(text(id)).bind(at.as_microsecond());
    if cancel.execute(&mut *connection).await?.rows_affected() > 0 {
        return Ok(());
    }
    match sqlx::query(STATE).bind(text(id)).fetch_optional(connection).await? {
        Some(_) => Err(WriteError::Stale.into()),
        None => Err(WriteError::NotFound.into()),
    }
}

impl Store {
    /// The replay of this id.
    pub async fn replay(&self, id: &str) -> Result<Option<Replay>, StoreError> {
        Ok(self.job(id).await?.map(|job| job.replay))
    }

    /// Replays, newest first.
    pub async fn replays(
        &self,
        tenant: Option<&TenantId>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Replay>, StoreError> {
        let (tenant, before) = (tenant.map(|tenant| text(tenant.as_str())), before.map(text));
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let list =
                    Search::new(LIST).filter("tenant = {}", tenant)?.filter("id < {}", before)?;
                list.first(limit, "id DESC", connection).await
            })
        });
        read.await?.iter().map(|row| Ok(read_job(row)?.replay)).collect()
    }

    /// Holds the replay for so long that nobody works at, and that has waited longest; with its fence.
    pub async fn hold_replay(
        &self,
        holder: &str,
        span: Duration,
    ) -> Result<Option<(Replay, u64)>, StoreError> {
        let (holder, span) = (text(holder), micros(span));
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                HOLD.query(connection).bind(holder).bind(span).fetch_optional(connection).await
            })
        });
        let Some(row) = done.await? else { return Ok(None) };
        let job = read_job(&row)?;
        Ok(Some((job.replay, job.fence)))
    }

    /// Queues the next page of a replay, of at most so many events, and goes on holding it for so long. The plan says where
    /// an event goes by the replay's types and endpoint. `revision`: as in [`fan_out`](Self::fan_out).
    pub async fn replay_step(
        &self,
        id: &str,
        fence: u64,
        plan: Plan,
        revision: Option<u64>,
        events_most: u32,
        span: Duration,
    ) -> Result<ReplayStep, StoreError> {
        let stale = ReplayStep { stale: true, ..ReplayStep::NONE };
        let Some(job) = self.job(id).await? else { return Ok(stale) };
        if job.fence != fence || job.replay.state != ReplayState::Running {
            return Ok(ReplayStep { state: job.replay.state, ..stale });
        }
        let most = events_most.min(ROWS_MAX);
        let (events, fanned_out) = self.page(&job, most).await?;
        let read = events.len();
        let planned = planned(events, &plan);
        let is_end = planned.len() == read && u32::try_from(read).is_ok_and(|events| events < most);
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                if let Some(revision) = revision
                    && is_outdated(connection, revision).await?
                {
                    return Ok(ReplayStep { outdated: true, ..ReplayStep::NONE });
                }
                let until = job.replay.request.until.as_microsecond();
                let is_last = is_end && is_over(connection, until, fanned_out).await?;
                let waits = planned.is_empty() && !is_last;
                let span = micros(if waits { WAIT } else { span });
                let last = planned.last().map(|(event, _)| event);
                let moved = MOVE
                    .query(connection)
                    .bind(job.replay.id.clone())
                    .bind(stored(fence))
                    .bind(stored(last.map_or(job.replay.cursor, |event| event.number)))
                    .bind(last.map_or(job.cursor_at, |event| event.accepted_at.as_microsecond()))
                    .bind(span)
                    .bind(i64::from(is_last))
                    .bind(stored(job.replay.cursor));
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(stale);
                }
                let (queued, skipped) = queue(connection, &job.replay, planned).await?;
                let count = sqlx::query(COUNT).bind(job.replay.id.clone());
                count.bind(stored(queued)).bind(stored(skipped)).execute(connection).await?;
                let state = if is_last { ReplayState::Done } else { ReplayState::Running };
                Ok(ReplayStep { queued, skipped, state, waits, ..ReplayStep::NONE })
            })
        });
        let step = done.await?;
        if step.queued > 0 {
            self.tell_webhooks();
        }
        Ok(step)
    }

    async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let id = text(id);
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                Search::new(LIST).filter("id = {}", Some(id))?.first(1, "id", connection).await
            })
        });
        read.await?.first().map(read_job).transpose()
    }

    /// The next events of a replay's window, as far as fan-out has come.
    async fn page(
        &self,
        job: &Job,
        most: u32,
    ) -> Result<(Vec<StoredEvent>, FannedOut), StoreError> {
        let request = &job.replay.request;
        let cursor = sqlx::query(FANNED_OUT);
        let cursor = self.db.read(|connection| Box::pin(cursor.fetch_one(connection))).await?;
        let fanned_out = FannedOut { number: cursor.of("number")?, at: cursor.of("at")? };
        let find = sqlx::query(WINDOW)
            .bind(text(request.tenant.as_str()))
            .bind(request.since.as_microsecond().max(job.cursor_at))
            .bind(request.until.as_microsecond())
            .bind(stored(job.replay.cursor))
            .bind(fanned_out.number)
            .bind(i64::from(most));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        let events = rows.iter().map(reading::event).collect::<Result<_, _>>()?;
        Ok((events, fanned_out))
    }
}

/// Whether no event from before then is to come, behind those that were fanned out.
async fn is_over(
    connection: &mut AnyConnection,
    until: i64,
    fanned_out: FannedOut,
) -> Result<bool, sqlx::Error> {
    if fanned_out.at >= until {
        return Ok(true);
    }
    // Whoever accepts after this one does so later than now.
    let now = serialize(connection, ACCEPTING).await?;
    let now = now.unwrap_or_else(|| Clock::system().micros());
    let newest: i64 = sqlx::query(NEWEST).fetch_one(connection).await?.try_get("number")?;
    Ok(now >= until && newest == fanned_out.number)
}

/// Queues what is to be queued of a page; says how much, and how much it skipped.
async fn queue(
    connection: &mut AnyConnection,
    replay: &Replay,
    page: Vec<(StoredEvent, Vec<Planned>)>,
) -> Result<(u64, u64), sqlx::Error> {
    let asked: Vec<_> =
        page.iter().map(|(event, _)| OfEvent { event: stored(event.number) }).collect();
    let made = if asked.is_empty() {
        Vec::new()
    } else {
        MADE.with(connection, &asked)?.fetch_all(&mut *connection).await?
    };
    // Of the states of an event's deliveries to an endpoint the furthest counts, and of those the newest.
    let mut states: HashMap<(i64, &str), (i64, &str)> = HashMap::new();
    for row in &made {
        let (number, state) = (row.try_get("number")?, row.try_get("state")?);
        let slot = states.entry((row.try_get("event")?, row.try_get("endpoint")?));
        let slot = slot.or_insert((number, state));
        if (furthest(state), number) >= (furthest(slot.1), slot.0) {
            *slot = (number, state);
        }
    }
    let (mut new, mut again, mut skipped) = (Vec::new(), Vec::new(), 0);
    for (event, planned) in page {
        for planned in planned {
            let state = states.get(&(stored(event.number), planned.endpoint.as_str()));
            match (state, replay.request.dedupe) {
                (None, _) | (Some((_, "delivered")), Dedupe::Force) => {
                    new.push(New::of(&event, planned, Some(&replay.id)));
                }
                (Some((number, "dead" | "parked")), _) if planned.parked.is_none() => {
                    again.push(Number { number: *number });
                }
                (Some(_), _) => skipped += 1,
            }
        }
    }
    let mut waiting = Waiting::default();
    let mut queued = new.len() as u64;
    // First: whoever makes deliveries waits for others before it has any row that others wait for.
    insert(connection, new, &mut waiting).await?;
    if !again.is_empty() {
        let rows = AGAIN.with(connection, &again)?.bind(replay.id.clone());
        let rows = rows.fetch_all(&mut *connection).await?;
        for row in &rows {
            waiting.add(row.try_get("tenant")?, 1);
        }
        let keys = rows.iter().filter_map(|row| order_key(row).transpose());
        released(connection, keys.collect::<Result<BTreeSet<_>, _>>()?).await?;
        queued += rows.len() as u64;
        skipped += (again.len() - rows.len()) as u64;
    }
    waiting.count(connection).await?;
    Ok((queued, skipped))
}

/// How far a delivery in this state has come.
fn furthest(state: &str) -> u8 {
    match state {
        "delivered" => 2,
        "pending" | "held" => 1,
        _ => 0,
    }
}

fn read_job(row: &AnyRow) -> Result<Job, StoreError> {
    let replay = Replay {
        id: row.of("id")?,
        request: serde_json::from_str(row.of("request")?).map_err(unreadable)?,
        state: ReplayState::parse(row.of("state")?).ok_or_else(|| unreadable("state"))?,
        created_at: row.time("created_at")?,
        by: row.of("created_by")?,
        counted: row.number("counted")?,
        queued: row.number("queued")?,
        skipped: row.number("skipped")?,
        cursor: row.number("cursor")?,
        ended_at: row.maybe_time("ended_at")?,
    };
    Ok(Job { replay, cursor_at: row.of("cursor_at")?, fence: row.number("fence")? })
}
