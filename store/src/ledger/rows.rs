//! How idempotency records lie in the database: the statements that name columns, and rows read back.
//!
//! Columns are named everywhere: a later release may add some while this one serves. What an earlier one leaves in columns
//! that it doesn't know, a trigger clears (0009).

use crate::rows::text;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use model::idempotency::{
    Answer, Digest, Fence, Fingerprint, Outline, Owner, Record, RecordKey, SealedResponse, State,
    StoredResponse,
};
use model::port::StoreError;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

pub(super) const LOAD: &str = "SELECT digest, tenant, lookup, route, fingerprint, fence, owner, \
        claimed_at, retention, expires_at, state, state_time, status, location, headers, body, \
        in_doubt, sealed, sealed_location \
    FROM idempotency WHERE digest = $1";

/// Without answers: those may be large.
pub(super) const FIND: &str = "SELECT digest, tenant, lookup, route, fingerprint, fence, owner, \
        claimed_at, retention, expires_at, state, state_time, status, in_doubt, \
        CAST(CASE WHEN sealed IS NULL THEN 0 ELSE 1 END AS BIGINT) AS is_sealed, \
        CAST(COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) \
            + COALESCE(LENGTH(location), 0) + COALESCE(LENGTH(sealed), 0) \
            + COALESCE(LENGTH(sealed_location), 0) AS BIGINT) AS size \
    FROM idempotency WHERE lookup = $1 AND tenant = $2 AND expires_at > $3 \
    ORDER BY fence DESC LIMIT $4";

const PUT: &str = "INSERT INTO idempotency (digest, tenant, lookup, route, fingerprint, fence, owner, \
        claimed_at, retention, expires_at, state, state_time, status, location, headers, body, \
        in_doubt, sealed, sealed_location) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) \
    ON CONFLICT (digest) DO UPDATE SET tenant = excluded.tenant, lookup = excluded.lookup, \
        route = excluded.route, fingerprint = excluded.fingerprint, fence = excluded.fence, \
        owner = excluded.owner, claimed_at = excluded.claimed_at, retention = excluded.retention, \
        expires_at = excluded.expires_at, state = excluded.state, state_time = excluded.state_time, \
        status = excluded.status, location = excluded.location, headers = excluded.headers, \
        body = excluded.body, in_doubt = excluded.in_doubt, sealed = excluded.sealed, \
        sealed_location = excluded.sealed_location";

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
    sealed_location: Option<Vec<u8>>,
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
                sealed: response.bytes.map(Vec::from),
                sealed_location: response.location.map(Vec::from),
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

pub(super) async fn put(connection: &mut AnyConnection, record: Record) -> Result<(), sqlx::Error> {
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
        .bind(columns.sealed_location)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn read(row: &AnyRow) -> Result<Record, StoreError> {
    read_with(row, read_answer)
}

/// The record without its answer, of a row of [`FIND`].
pub(super) fn outline(row: &AnyRow) -> Result<Record<Outline>, StoreError> {
    read_with(row, read_outline)
}

fn read_with<A>(
    row: &AnyRow,
    answer: impl Fn(&AnyRow, &str) -> Result<Option<A>, sqlx::Error>,
) -> Result<Record<A>, StoreError> {
    let read = || -> Result<Option<Record<A>>, sqlx::Error> {
        let Some(state) = read_state(row, answer)? else { return Ok(None) };
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
fn read_state<A>(
    row: &AnyRow,
    answer: impl Fn(&AnyRow, &str) -> Result<Option<A>, sqlx::Error>,
) -> Result<Option<State<A>>, sqlx::Error> {
    let time: i64 = row.try_get("state_time")?;
    match row.try_get::<&str, _>("state")? {
        "dispatched" => Ok(Some(State::Dispatched { lease_until: time })),
        "unknown" => Ok(Some(State::Unknown { since: time })),
        answered => {
            let answer = answer(row, answered)?;
            Ok(answer.map(|answer| State::Done { stored_at: time, answer }))
        }
    }
}

fn read_answer(row: &AnyRow, state: &str) -> Result<Option<Answer>, sqlx::Error> {
    match state {
        "done" => Ok(read_response(row)?.map(Answer::Retained)),
        "not_retained" => {
            let bytes: Option<Vec<u8>> = row.try_get("sealed")?;
            let place: Option<Vec<u8>> = row.try_get("sealed_location")?;
            let location: Option<&[u8]> = row.try_get("location")?;
            let location = location.and_then(|value| HeaderValue::from_bytes(value).ok());
            Ok(read_status(row)?.map(|status| match (bytes, place) {
                (None, None) => Answer::NotRetained { status, location },
                (bytes, place) => Answer::Sealed(SealedResponse {
                    status,
                    bytes: bytes.map(Bytes::from),
                    location: place.map(Bytes::from),
                }),
            }))
        }
        _ => Ok(None),
    }
}

fn read_outline(row: &AnyRow, state: &str) -> Result<Option<Outline>, sqlx::Error> {
    let is_retained = match state {
        "done" => true,
        "not_retained" => row.try_get::<i64, _>("is_sealed")? != 0,
        _ => return Ok(None),
    };
    let size = usize::try_from(row.try_get::<i64, _>("size")?).unwrap_or(0);
    Ok(read_status(row)?.map(|status| Outline { status, is_retained, size }))
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
