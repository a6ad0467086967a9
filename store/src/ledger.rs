//! Idempotency records in the database. What becomes of a record, [`record`] says; here is how it is kept.
//!
//! Invariant: of the records on a server that several nodes share, the server's clock decides ([`ClockOf::Store`]), read once
//! whoever stepped on the same key before is done. Nodes whose clocks differ agree about every lease and retention.

mod rows;

use self::rows::{FIND, LOAD, outline, put, read};
use crate::db::{Db, is_postgres, serialize, server_time};
use crate::rows::text;
use model::id::TenantId;
use model::idempotency::record::{self, Change};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Found, Key, Ledger, Record, RecordKey, Settled,
    TenantRoom,
};
use model::port::StoreError;
use sqlx::{AnyConnection, Row};

/// How many records an operator is shown.
const FOUND_MAX: i64 = 20;

// In its process' own time: fences grow also where a backup was put back.
const NEXT_FENCE: &str =
    "UPDATE idempotency_fence SET newest = MAX(newest + 1, $1) RETURNING newest";
// By the server's clock, and without a row for which claims of different keys would wait.
const NEXT_FENCE_POSTGRES: &str = "SELECT idempotency_next_fence()";

const DELETE: &str = "DELETE FROM idempotency WHERE digest = $1";

// Those that are written just now are not in it: so much more may be kept. `Location`s of answers that are not retained are
// counted with the records.
const TAKEN: &str = "SELECT \
        CAST(COALESCE(SUM(records), 0) AS BIGINT) AS records, \
        CAST(COALESCE(SUM(bytes), 0) + COALESCE((SELECT SUM(bytes) FROM idempotency_bytes \
            WHERE tenant = $1), 0) AS BIGINT) AS bytes \
    FROM idempotency_records WHERE tenant = $1";

/// Whose clock decides about idempotency records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockOf {
    /// The store's: PostgreSQL's own, the same for all nodes. SQLite has none but the process', which the caller tells.
    Store,
    /// The caller's, for tests that move it.
    Caller,
}

/// Idempotency records that outlive the process.
#[derive(Clone, Debug)]
pub struct SqlLedger {
    db: Db,
    room: TenantRoom,
    clock: ClockOf,
}

/// What came of a step: a record that can't be read concerns its own request, not the others of a transaction.
type Told<T> = Result<T, StoreError>;

impl SqlLedger {
    pub(crate) fn new(db: Db, room: TenantRoom, clock: ClockOf) -> Self {
        Self { db, room, clock }
    }

    async fn settle(
        &self,
        key: &RecordKey,
        at: Time,
        step: impl FnOnce(Option<&Record>, i64) -> (Settled, Change) + Send + 'static,
    ) -> Result<Settled, StoreError> {
        let digest = key.digest;
        self.db.write(0, move |connection| Box::pin(settle(connection, digest, at, step))).await?
    }

    const fn at(&self, now: i64) -> Time {
        Time { clock: self.clock, now }
    }
}

/// When a step is taken: now, as the caller has it, unless the server's clock decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) clock: ClockOf,
    pub(crate) now: i64,
}

impl Time {
    /// The time that decides, where the server says this.
    fn there(self, server: Option<i64>) -> i64 {
        match (self.clock, server) {
            (ClockOf::Store, Some(server)) => server,
            (ClockOf::Store, None) | (ClockOf::Caller, _) => self.now,
        }
    }

    /// The time that decides, asked of the server where that has a clock.
    pub(crate) async fn read(self, connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
        match self.clock {
            ClockOf::Store => Ok(self.there(server_time(connection).await?)),
            ClockOf::Caller => Ok(self.now),
        }
    }
}

/// A claim on its way from the writer to whoever asked. If it never arrives, nothing will be sent: the key is freed.
struct Delivery {
    told: Option<Claimed>,
    key: RecordKey,
    at: Time,
    db: Db,
}

impl Delivery {
    fn arrive(mut self) -> Option<Claimed> {
        self.told.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let (Some(Claimed::Held { fence, .. }) | Some(Claimed::Redriven { fence, .. })) = self.told
        else {
            return;
        };
        let (digest, at) = (self.key.digest, self.at);
        self.db.write_later(move |connection| {
            Box::pin(async move {
                let release =
                    move |current: Option<&Record>, now| record::release(current, fence, now);
                if let Err(error) = settle(connection, digest, at, release).await? {
                    tracing::warn!(%error, "a key could not be freed");
                }
                Ok(())
            })
        });
    }
}

impl Ledger for SqlLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        let (request, db, room, at) = (request.clone(), self.db.clone(), self.room, self.at(now));
        let delivery: Told<Delivery> = self
            .db
            .write(0, move |connection| {
                Box::pin(async move {
                    let told = claim(connection, &request, room, at).await?;
                    let key = request.key;
                    Ok(told.map(|told| Delivery { told: Some(told), key, at, db }))
                })
            })
            .await?;
        delivery?.arrive().ok_or_else(|| StoreError::Unavailable("no answer".to_owned()))
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let renew = move |current: Option<&Record>, now| record::renew(current, fence, lease, now);
        self.settle(key, self.at(now), renew).await
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        _: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let (size, room, at) = (answer.size(), self.room, self.at(now));
        let RecordKey { tenant, digest } = key.clone();
        let work = self.db.write(size, move |connection| {
            Box::pin(async move {
                let (_, answers) = taken(connection, &tenant).await?;
                let answer = room.fit(answer, answers);
                let complete =
                    |current: Option<&Record>, now| record::complete(current, fence, answer, now);
                settle(connection, digest, at, complete).await
            })
        });
        work.await?
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let release = move |current: Option<&Record>, now| record::release(current, fence, now);
        self.settle(key, self.at(now), release).await
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let mark = move |current: Option<&Record>, now| record::mark_unknown(current, fence, now);
        self.settle(key, self.at(now), mark).await
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        let clear = move |current: Option<&Record>, now| record::clear(current, fence, now);
        self.settle(key, self.at(now), clear).await
    }

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        let (lookup, tenant, at) = (Digest::of_lookup(tenant, key), tenant.clone(), self.at(now));
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let now = at.read(connection).await?;
                let find = sqlx::query(FIND)
                    .bind(lookup.0.to_vec())
                    .bind(text(tenant.as_str()))
                    .bind(now)
                    .bind(FOUND_MAX);
                Ok((now, find.fetch_all(connection).await?))
            })
        });
        let (now, rows) = read.await?;
        Ok(Found { now, records: rows.iter().map(outline).collect::<Result<_, _>>()? })
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        let (digest, at) = (key.digest, self.at(now));
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let now = at.read(connection).await?;
                Ok((now, fetch(connection, digest).await?))
            })
        });
        let (now, record) = read.await?;
        Ok(record::answer(record?.as_ref(), fence, now).cloned())
    }
}

async fn claim(
    connection: &mut AnyConnection,
    request: &ClaimRequest,
    room: TenantRoom,
    at: Time,
) -> Result<Told<Claimed>, sqlx::Error> {
    let (current, now) = match load(connection, request.key.digest, at).await? {
        (Ok(current), now) => (current, now),
        (Err(error), _) => return Ok(Err(error)),
    };
    if current.is_none() {
        let (records, answers) = taken(connection, &request.key.tenant).await?;
        if !room.has_room(records, answers) {
            return Ok(Err(StoreError::Full("idempotency records of a tenant")));
        }
    }
    let next = match &current {
        // Not needed: the key is taken.
        Some(record) if !record::is_free(current.as_ref(), request, now) => record.fence,
        _ => Fence(next_fence(connection, now).await?),
    };
    let (told, change) = record::claim(current.as_ref(), request, next, now);
    apply(connection, request.key.digest, change).await?;
    // By the clock of whoever asks, and since before they asked.
    let until = at.now.saturating_add(request.lease);
    Ok(Ok(match told {
        Claimed::Held { fence, is_replicated, .. } => {
            Claimed::Held { fence, lease_until: until, is_replicated }
        }
        Claimed::Redriven { fence, is_replicated, .. } => {
            Claimed::Redriven { fence, lease_until: until, is_replicated }
        }
        told => told,
    }))
}

/// Grows with every call, also when the transaction is undone, and also where the database forgot the newest ones.
async fn next_fence(connection: &mut AnyConnection, now: i64) -> Result<i64, sqlx::Error> {
    if is_postgres(connection) {
        return sqlx::query_scalar(NEXT_FENCE_POSTGRES).fetch_one(connection).await;
    }
    sqlx::query_scalar(NEXT_FENCE).bind(now).fetch_one(connection).await
}

async fn settle(
    connection: &mut AnyConnection,
    digest: Digest,
    at: Time,
    step: impl FnOnce(Option<&Record>, i64) -> (Settled, Change) + Send,
) -> Result<Told<Settled>, sqlx::Error> {
    let (current, now) = match load(connection, digest, at).await? {
        (Ok(current), now) => (current, now),
        (Err(error), _) => return Ok(Err(error)),
    };
    let (told, change) = step(current.as_ref(), now);
    apply(connection, digest, change).await?;
    Ok(Ok(told))
}

/// How many records a tenant has, and how many bytes of answers. Triggers count them.
async fn taken(
    connection: &mut AnyConnection,
    tenant: &TenantId,
) -> Result<(usize, usize), sqlx::Error> {
    let taken = sqlx::query(TAKEN).bind(text(tenant.as_str())).fetch_one(connection).await?;
    let number = |column| -> Result<usize, sqlx::Error> {
        Ok(usize::try_from(taken.try_get::<i64, _>(column)?).unwrap_or(0))
    };
    Ok((number("records")?, number("bytes")?))
}

/// The record, and the time that decides about it.
async fn load(
    connection: &mut AnyConnection,
    digest: Digest,
    at: Time,
) -> Result<(Told<Option<Record>>, i64), sqlx::Error> {
    // Whoever steps on the same key waits here, so that what is loaded is what is changed.
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    let server = serialize(connection, i64::from_be_bytes([a, b, c, d, e, f, g, h])).await?;
    Ok((fetch(connection, digest).await?, at.there(server)))
}

async fn fetch(
    connection: &mut AnyConnection,
    digest: Digest,
) -> Result<Told<Option<Record>>, sqlx::Error> {
    let row = sqlx::query(LOAD).bind(digest.0.to_vec()).fetch_optional(connection).await?;
    Ok(row.as_ref().map(read).transpose())
}

async fn apply(
    connection: &mut AnyConnection,
    digest: Digest,
    change: Change,
) -> Result<(), sqlx::Error> {
    match change {
        Change::Nothing => {}
        Change::Put(record) => put(connection, *record).await?,
        Change::Delete => {
            sqlx::query(DELETE).bind(digest.0.to_vec()).execute(connection).await?;
        }
    }
    Ok(())
}
