//! Idempotency records in the database. What becomes of a record, [`record`] says; here is how it is kept.

use crate::db::{Db, is_postgres, serialize};
use crate::rows::text;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use model::id::TenantId;
use model::idempotency::record::{self, Change};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Fingerprint, Key, Ledger, Owner, Record,
    RecordKey, SealedResponse, Settled, State, StoredResponse,
};
use model::port::StoreError;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

/// How many records an operator is shown.
const FOUND_MAX: i64 = 20;

// Columns are named: a later release may add some while this one serves.
const LOAD: &str = "SELECT digest, tenant, lookup, route, fingerprint, fence, owner, claimed_at, \
        retention, expires_at, state, state_time, status, location, headers, body, in_doubt, \
        sealed \
    FROM idempotency WHERE digest = $1";

const FIND: &str = "SELECT digest, tenant, lookup, route, fingerprint, fence, owner, claimed_at, \
        retention, expires_at, state, state_time, status, location, headers, body, in_doubt, \
        sealed \
    FROM idempotency WHERE lookup = $1 AND tenant = $2 AND expires_at > $3 \
    ORDER BY fence DESC LIMIT $4";

const NEXT_FENCE: &str = "UPDATE idempotency_fence SET newest = newest + 1 RETURNING newest";
// In PostgreSQL claims of different keys would wait for each other at that row.
const NEXT_FENCE_POSTGRES: &str = "SELECT nextval('idempotency_fences')";

const PUT: &str = "INSERT INTO idempotency (digest, tenant, lookup, route, fingerprint, fence, owner, \
        claimed_at, retention, expires_at, state, state_time, status, location, headers, body, \
        in_doubt, sealed) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
    ON CONFLICT (digest) DO UPDATE SET tenant = excluded.tenant, lookup = excluded.lookup, \
        route = excluded.route, fingerprint = excluded.fingerprint, fence = excluded.fence, \
        owner = excluded.owner, claimed_at = excluded.claimed_at, retention = excluded.retention, \
        expires_at = excluded.expires_at, state = excluded.state, state_time = excluded.state_time, \
        status = excluded.status, location = excluded.location, headers = excluded.headers, \
        body = excluded.body, in_doubt = excluded.in_doubt, sealed = excluded.sealed";

const DELETE: &str = "DELETE FROM idempotency WHERE digest = $1";

// Those that are written just now are not in it: so much more may be kept.
const TENANT_BYTES: &str =
    "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM idempotency_bytes WHERE tenant = $1";

/// Idempotency records that outlive the process.
#[derive(Clone, Debug)]
pub struct SqlLedger {
    db: Db,
    tenant_bytes: usize,
}

/// What came of a step: a record that can't be read concerns its own request, not the others of a transaction.
type Told<T> = Result<T, StoreError>;

impl SqlLedger {
    pub(crate) fn new(db: Db, tenant_bytes: usize) -> Self {
        Self { db, tenant_bytes }
    }

    async fn settle(
        &self,
        key: &RecordKey,
        size: usize,
        step: impl FnOnce(Option<&Record>) -> (Settled, Change) + Send + 'static,
    ) -> Result<Settled, StoreError> {
        let digest = key.digest;
        self.db.write(size, move |connection| Box::pin(settle(connection, digest, step))).await?
    }
}

/// A claim on its way from the writer to whoever asked. If it never arrives, nothing will be sent: the key is freed.
struct Delivery {
    told: Option<Claimed>,
    key: RecordKey,
    now: i64,
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
        let (digest, now) = (self.key.digest, self.now);
        self.db.write_later(move |connection| {
            Box::pin(async move {
                let release = move |current: Option<&Record>| record::release(current, fence, now);
                if let Err(error) = settle(connection, digest, release).await? {
                    tracing::warn!(%error, "a key could not be freed");
                }
                Ok(())
            })
        });
    }
}

impl Ledger for SqlLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        let (request, db) = (request.clone(), self.db.clone());
        let delivery: Told<Delivery> = self
            .db
            .write(0, move |connection| {
                Box::pin(async move {
                    let told = claim(connection, &request, now).await?;
                    let key = request.key;
                    Ok(told.map(|told| Delivery { told: Some(told), key, now, db }))
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
        self.settle(key, 0, move |current| record::renew(current, fence, lease, now)).await
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        _: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let (size, bound) = (answer.size(), self.tenant_bytes);
        let RecordKey { tenant, digest } = key.clone();
        let work = self.db.write(size, move |connection| {
            Box::pin(async move {
                let answer = fit(connection, &tenant, answer, bound).await?;
                settle(connection, digest, |current| record::complete(current, fence, answer, now))
                    .await
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
        self.settle(key, 0, move |current| record::release(current, fence, now)).await
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.settle(key, 0, move |current| record::mark_unknown(current, fence, now)).await
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        self.settle(key, 0, move |current| record::clear(current, fence, now)).await
    }

    async fn find(
        &self,
        tenant: &TenantId,
        key: &Key,
        now: i64,
    ) -> Result<Vec<Record>, StoreError> {
        let find = sqlx::query(FIND)
            .bind(Digest::of_lookup(tenant, key).0.to_vec())
            .bind(text(tenant.as_str()))
            .bind(now)
            .bind(FOUND_MAX);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(read).collect()
    }
}

async fn claim(
    connection: &mut AnyConnection,
    request: &ClaimRequest,
    now: i64,
) -> Result<Told<Claimed>, sqlx::Error> {
    let current = match load(connection, request.key.digest).await? {
        Ok(current) => current,
        Err(error) => return Ok(Err(error)),
    };
    let next = match &current {
        // Not needed: the key is taken.
        Some(record) if !record::is_free(current.as_ref(), request, now) => record.fence,
        _ => Fence(next_fence(connection).await?),
    };
    let (told, change) = record::claim(current.as_ref(), request, next, now);
    apply(connection, request.key.digest, change).await?;
    Ok(Ok(told))
}

/// Grows with every call, also when the transaction is undone.
async fn next_fence(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    let next = if is_postgres(connection) { NEXT_FENCE_POSTGRES } else { NEXT_FENCE };
    sqlx::query_scalar(next).fetch_one(connection).await
}

async fn settle(
    connection: &mut AnyConnection,
    digest: Digest,
    step: impl FnOnce(Option<&Record>) -> (Settled, Change) + Send,
) -> Result<Told<Settled>, sqlx::Error> {
    let current = match load(connection, digest).await? {
        Ok(current) => current,
        Err(error) => return Ok(Err(error)),
    };
    let (told, change) = step(current.as_ref());
    apply(connection, digest, change).await?;
    Ok(Ok(told))
}

/// The answer, or what there is room for. Triggers count what is kept.
async fn fit(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    answer: Answer,
    bound: usize,
) -> Result<Answer, sqlx::Error> {
    if matches!(answer, Answer::NotRetained { .. }) {
        return Ok(answer);
    }
    let kept = sqlx::query_scalar(TENANT_BYTES).bind(text(tenant.as_str()));
    let kept: i64 = kept.fetch_one(connection).await?;
    let kept = usize::try_from(kept).unwrap_or(0);
    Ok(if kept.saturating_add(answer.size()) <= bound { answer } else { answer.without_body() })
}

async fn load(
    connection: &mut AnyConnection,
    digest: Digest,
) -> Result<Told<Option<Record>>, sqlx::Error> {
    // Whoever steps on the same key waits here, so that what is loaded is what is changed.
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    serialize(connection, i64::from_be_bytes([a, b, c, d, e, f, g, h])).await?;
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

/// The columns that depend on the state.
#[derive(Default)]
struct StateColumns {
    state: &'static str,
    time: i64,
    status: Option<i64>,
    location: Option<Vec<u8>>,
    headers: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
}

impl From<State> for StateColumns {
    fn from(state: State) -> Self {
        match state {
            State::Dispatched { lease_until } => {
                Self { state: "dispatched", time: lease_until, ..Self::default() }
            }
            State::Unknown { since } => Self { state: "unknown", time: since, ..Self::default() },
            State::Done { stored_at, answer: Answer::Retained(response) } => Self {
                state: "done",
                time: stored_at,
                status: Some(response.status.as_u16().into()),
                headers: Some(response.headers_to_bytes()),
                body: Some(response.body.into()),
                ..Self::default()
            },
            // A release that knows nothing of seals reads an answer that was not retained.
            State::Done { stored_at, answer: Answer::Sealed(response) } => Self {
                state: "not_retained",
                time: stored_at,
                status: Some(response.status.as_u16().into()),
                sealed: Some(response.bytes.into()),
                ..Self::default()
            },
            State::Done { stored_at, answer: Answer::NotRetained { status, location } } => Self {
                state: "not_retained",
                time: stored_at,
                status: Some(status.as_u16().into()),
                location: location.map(|location| location.as_bytes().to_vec()),
                ..Self::default()
            },
        }
    }
}

async fn put(connection: &mut AnyConnection, record: Record) -> Result<(), sqlx::Error> {
    let columns = StateColumns::from(record.state);
    sqlx::query(PUT)
        .bind(record.key.digest.0.to_vec())
        .bind(text(record.key.tenant.as_str()))
        .bind(record.lookup.0.to_vec())
        .bind(text(record.route.as_str()))
        .bind(record.fingerprint.0.0.to_vec())
        .bind(record.fence.0)
        .bind(text(record.owner.as_str()))
        .bind(record.claimed_at)
        .bind(record.retention)
        .bind(record.expires_at)
        .bind(columns.state)
        .bind(columns.time)
        .bind(columns.status)
        .bind(columns.location)
        .bind(columns.headers)
        .bind(columns.body)
        .bind(i64::from(record.in_doubt))
        .bind(columns.sealed)
        .execute(connection)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Record, StoreError> {
    let read = || -> Result<Option<Record>, sqlx::Error> {
        let Some(state) = read_state(row)? else { return Ok(None) };
        let digests = (digest(row, "digest")?, digest(row, "lookup")?, digest(row, "fingerprint")?);
        let (Some(digest), Some(lookup), Some(fingerprint)) = digests else { return Ok(None) };
        Ok(Some(Record {
            key: RecordKey { tenant: row.try_get::<&str, _>("tenant")?.into(), digest },
            lookup,
            route: row.try_get::<&str, _>("route")?.into(),
            fingerprint: Fingerprint(fingerprint),
            fence: Fence(row.try_get("fence")?),
            owner: Owner::from(row.try_get::<&str, _>("owner")?),
            claimed_at: row.try_get("claimed_at")?,
            retention: row.try_get("retention")?,
            expires_at: row.try_get("expires_at")?,
            in_doubt: row.try_get::<i64, _>("in_doubt")? != 0,
            state,
        }))
    };
    read()
        .map_err(|error| StoreError::Unreadable(error.to_string()))?
        .ok_or_else(|| StoreError::Unreadable("an idempotency record".to_owned()))
}

fn digest(row: &AnyRow, column: &str) -> Result<Option<Digest>, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    Ok(bytes.try_into().ok().map(Digest))
}

/// The state, unless its columns don't fit together.
fn read_state(row: &AnyRow) -> Result<Option<State>, sqlx::Error> {
    let time: i64 = row.try_get("state_time")?;
    let state = row.try_get::<&str, _>("state")?;
    let answer = match state {
        "dispatched" => return Ok(Some(State::Dispatched { lease_until: time })),
        "unknown" => return Ok(Some(State::Unknown { since: time })),
        "done" => read_response(row)?.map(Answer::Retained),
        "not_retained" => {
            let location: Option<&[u8]> = row.try_get("location")?;
            let location = location.and_then(|value| HeaderValue::from_bytes(value).ok());
            let sealed: Option<Vec<u8>> = row.try_get("sealed")?;
            read_status(row)?.map(|status| match sealed.map(Bytes::from) {
                Some(bytes) => Answer::Sealed(SealedResponse { status, bytes }),
                None => Answer::NotRetained { status, location },
            })
        }
        _ => None,
    };
    Ok(answer.map(|answer| State::Done { stored_at: time, answer }))
}

fn read_response(row: &AnyRow) -> Result<Option<StoredResponse>, sqlx::Error> {
    let Some(status) = read_status(row)? else { return Ok(None) };
    let headers: &[u8] = row.try_get("headers")?;
    let Some(headers) = StoredResponse::headers_from_bytes(headers) else { return Ok(None) };
    let body = Bytes::from(row.try_get::<Vec<u8>, _>("body")?);
    Ok(Some(StoredResponse { status, headers, body }))
}

fn read_status(row: &AnyRow) -> Result<Option<StatusCode>, sqlx::Error> {
    let status: i64 = row.try_get("status")?;
    Ok(u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()))
}
