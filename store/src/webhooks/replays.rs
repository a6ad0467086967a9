//! Replays: jobs that queue the events of a window again, a page at a time.
//!
//! Invariant: a page is queued once: the job's cursor moves in the same transaction, from where the page was read, and only
//! for who holds the job. Only what was fanned out of its tenant is queued, so that fan-out does not send it as well.

use super::accept::{ACCEPTING, NEWEST};
use super::aside::{self, PLACE};
use super::fan_out::{New, insert};
use super::hold::micros;
use super::order::released;
use super::planning::{BYTES_MAX, MADE_MAX, Page, Place, Placed, Plan, Room, Window};
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
use model::webhook::{Dedupe, Replay, ReplayState};
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

pub(super) static REST: Sql =
    Sql::new("UPDATE webhook_replays SET holder = NULL, hold_until = {now} + $2 WHERE id = $1");

pub(super) static MOVE: Sql = Sql::new(
    "UPDATE webhook_replays SET cursor = $3, cursor_at = $4, hold_until = {now} + $5, \
         state = CASE $6 WHEN 1 THEN 'done' ELSE state END, ended_at = CASE $6 WHEN 1 THEN {now} END \
     WHERE id = $1 AND fence = $2 AND cursor = $7 AND state = 'running'",
);

const COUNT: &str =
    "UPDATE webhook_replays SET queued = queued + $2, skipped = skipped + $3 WHERE id = $1";

// What waits behind one that is parked or dead goes in its turn: it is on its way.
pub(super) static MADE: Sql = Sql::of_rows(
    "event BIGINT",
    "SELECT number, event, endpoint, CASE WHEN reason = 'blocked' THEN 'pending' ELSE state END AS state FROM webhook_deliveries \
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
    /// Whether it is held no longer, for now: its window has no more events yet, or what it queued has its time by the rate.
    /// When that is over, whoever comes first takes it up again.
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
        let place = self.fanned_out(&job.replay.request.tenant).await?;
        let page = self.replay_page(&job, place, &plan, events_most.clamp(1, ROWS_MAX)).await?;
        let done = self.db.write(0, move |connection| {
            Box::pin(async move {
                if let Some(revision) = revision
                    && is_outdated(connection, revision).await?
                {
                    return Ok(ReplayStep { outdated: true, ..ReplayStep::NONE });
                }
                let until = job.replay.request.until.as_microsecond();
                let is_last = page.is_last && is_over(connection, until, place).await?;
                let is_short = page.events.is_empty() && !is_last;
                let cursor = Place { number: stored(job.replay.cursor), at: job.cursor_at };
                let next = page.events.last().map_or(cursor, |last| last.place);
                let moved = MOVE
                    .query(connection)
                    .bind(job.replay.id.clone())
                    .bind(stored(fence))
                    .bind(next.number)
                    .bind(next.at)
                    .bind(micros(span))
                    .bind(i64::from(is_last))
                    .bind(stored(job.replay.cursor));
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(stale);
                }
                let (queued, skipped) = queue(connection, &job.replay, page.events).await?;
                let count = sqlx::query(COUNT).bind(job.replay.id.clone());
                count.bind(stored(queued)).bind(stored(skipped)).execute(&mut *connection).await?;
                // Longer than it would be held: nobody has it meanwhile, so that the rate holds whoever comes and goes.
                let taking = job.replay.request.time_of(queued);
                let rest =
                    if is_short { Some(WAIT) } else { Some(taking).filter(|it| *it > span / 2) };
                if let Some(rest) = rest {
                    let rest =
                        REST.query(connection).bind(job.replay.id.clone()).bind(micros(rest));
                    rest.execute(&mut *connection).await?;
                }
                let waits = rest.is_some();
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

    /// How far the events of a tenant were fanned out.
    async fn fanned_out(&self, tenant: &TenantId) -> Result<Place, StoreError> {
        let find = sqlx::query(PLACE).bind(text(tenant.as_str()));
        let read = self.db.read(|connection| {
            Box::pin(async move { aside::place(&find.fetch_one(connection).await?) })
        });
        read.await
    }

    /// Plans the next events of a replay's window, as far as they were fanned out.
    async fn replay_page(
        &self,
        job: &Job,
        fanned_out: Place,
        plan: &Plan,
        most: u32,
    ) -> Result<Page, StoreError> {
        let request = &job.replay.request;
        let window = Window {
            tenant: request.tenant.clone(),
            since: request.since.as_microsecond().max(job.cursor_at),
            until: request.until.as_microsecond(),
            after: stored(job.replay.cursor),
            to: fanned_out.number,
        };
        let room = Room { events: most as usize, deliveries: MADE_MAX, bytes: BYTES_MAX };
        self.plan_window(window, plan, room).await
    }
}

/// Whether no event from before then is to come, behind those that were fanned out.
async fn is_over(
    connection: &mut AnyConnection,
    until: i64,
    fanned_out: Place,
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
    page: Vec<Placed>,
) -> Result<(u64, u64), sqlx::Error> {
    let asked: Vec<_> = page.iter().map(|placed| OfEvent { event: placed.place.number }).collect();
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
    for Placed { place, tenant, planned } in page {
        for planned in planned {
            let state = states.get(&(place.number, planned.endpoint.as_str()));
            match (state, replay.request.dedupe) {
                (None, _) | (Some((_, "delivered")), Dedupe::Force) => {
                    new.push(New::of(place, &tenant, planned, Some(&replay.id)));
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
        let keys = keys.collect::<Result<BTreeSet<_>, _>>()?;
        released(connection, keys, &mut waiting).await?;
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
