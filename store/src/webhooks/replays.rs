//! Replays: jobs that queue the events of a window again, a page at a time.
//!
//! Invariant: a page is queued once: the job's cursor moves in the same transaction, from where the page was read, and only
//! for who holds the job.

use super::fan_out::{New, Plan, insert};
use super::hold::micros;
use super::order::released;
use super::reading;
use super::sql::Sql;
use super::taking_up::order_key;
use super::waiting::Waiting;
use crate::Store;
use crate::control::{Undone, WriteError};
use crate::rows::{Columns as _, stored, text, unreadable};
use crate::search::{ROWS_MAX, Search};
use jiff::Timestamp;
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::{Dedupe, Planned, Replay, ReplayRequest, ReplayState, StoredEvent};
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use wildmatch::WildMatchPattern;

/// How many events of a window are counted at most.
pub const COUNTED_MAX: u32 = 100_000;

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
     WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 AND number > $4 ORDER BY accepted_at, number LIMIT $5";

pub(super) static MADE: Sql = Sql::of_rows(
    "event BIGINT",
    "SELECT number, event, endpoint, state FROM webhook_deliveries \
     WHERE event IN (SELECT event FROM {rows} AS asked) ORDER BY number",
);

pub(super) static AGAIN: Sql = Sql::of_rows(
    "number BIGINT",
    "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, replay = $2, \
         due_at = CASE WHEN blocks = 0 THEN {now} END \
     WHERE number IN (SELECT d.number FROM webhook_deliveries d WHERE d.state IN ('dead', 'parked') \
         AND d.number IN (SELECT number FROM {rows} AS asked) {skip}) \
     RETURNING tenant, endpoint, order_key",
);

pub(super) const COUNTED: &str = "SELECT e.type, d.state, count(*) AS rows FROM \
         (SELECT number, type FROM webhook_events WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 \
          ORDER BY accepted_at, number LIMIT $4) e \
     LEFT JOIN webhook_deliveries d ON d.event = e.number AND ($5 = '' OR d.endpoint = $5) GROUP BY e.type, d.state";

pub(super) const COUNTED_EVENTS: &str = "SELECT type, count(*) AS rows FROM \
         (SELECT type FROM webhook_events WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 \
          ORDER BY accepted_at, number LIMIT $4) e GROUP BY type";

/// What a replay would do, by the deliveries that there are. Of the first [`COUNTED_MAX`] events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCount {
    /// Events of the window.
    pub events: u64,
    /// Deliveries that would be queued.
    pub queue: u64,
    /// Deliveries that would be skipped.
    pub skip: u64,
}

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
    /// What a replay would do, of the first 100,000 events of its window; missing deliveries are not foreseen.
    pub async fn replay_count(&self, request: &ReplayRequest) -> Result<ReplayCount, StoreError> {
        let _place = self.search_place().await?;
        let request = request.clone();
        let patterns = patterns(&request.types);
        let (tenant, dedupe) = (text(request.tenant.as_str()), request.dedupe);
        let endpoint = request.endpoint.map(|id| text(id.as_str())).unwrap_or_default();
        let (since, until) = (request.since.as_microsecond(), request.until.as_microsecond());
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let of_window = |sql| {
                    let query = sqlx::query(sql).bind(tenant.clone()).bind(since).bind(until);
                    query.bind(i64::from(COUNTED_MAX))
                };
                let events = of_window(COUNTED_EVENTS).fetch_all(&mut *connection).await?;
                Ok((events, of_window(COUNTED).bind(endpoint).fetch_all(connection).await?))
            })
        });
        let (events, deliveries) = read.await?;
        let mut count = ReplayCount::default();
        for row in events.iter().filter(|row| is_of(&patterns, row)) {
            count.events += row.number("rows")?;
        }
        for row in deliveries.iter().filter(|row| is_of(&patterns, row)) {
            match (row.of::<Option<&str>>("state")?, dedupe) {
                (None, _) => {}
                (Some("dead" | "parked"), _) | (Some("delivered"), Dedupe::Force) => {
                    count.queue += row.number("rows")?;
                }
                (Some(_), _) => count.skip += row.number("rows")?,
            }
        }
        Ok(count)
    }

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
    /// an event goes by the replay's types and endpoint.
    pub async fn replay_step(
        &self,
        id: &str,
        fence: u64,
        plan: Plan,
        events_most: u32,
        span: Duration,
    ) -> Result<ReplayStep, StoreError> {
        let stale = ReplayStep { queued: 0, skipped: 0, state: ReplayState::Running, stale: true };
        let Some(job) = self.job(id).await? else { return Ok(stale) };
        if job.fence != fence || job.replay.state != ReplayState::Running {
            return Ok(ReplayStep { state: job.replay.state, ..stale });
        }
        let events = self.page(&job, events_most.min(ROWS_MAX)).await?;
        let is_last =
            u32::try_from(events.len()).is_ok_and(|count| count < events_most.min(ROWS_MAX));
        let planned: Vec<_> = events.iter().map(|event| (event.clone(), plan(event))).collect();
        let span = micros(span);
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                let last = events.last();
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
                Ok(ReplayStep { queued, skipped, state, stale: false })
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

    /// The next events of a replay's window.
    async fn page(&self, job: &Job, most: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let request = &job.replay.request;
        let find = sqlx::query(WINDOW)
            .bind(text(request.tenant.as_str()))
            .bind(request.since.as_microsecond().max(job.cursor_at))
            .bind(request.until.as_microsecond())
            .bind(stored(job.replay.cursor))
            .bind(i64::from(most));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(reading::event).collect()
    }
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
        if furthest(state) >= furthest(slot.1) {
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
    insert(connection, new, &mut waiting).await?;
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

fn patterns(types: &[String]) -> Vec<WildMatchPattern<'*', '\0'>> {
    types.iter().map(|pattern| WildMatchPattern::new(pattern)).collect()
}

/// Whether a row is of one of these types.
fn is_of(patterns: &[WildMatchPattern<'*', '\0'>], row: &AnyRow) -> bool {
    let name: &str = row.try_get("type").unwrap_or_default();
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
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
