//! A write to the control plane: checks, the effect, the audit entry and the kept answer, in one transaction.
//!
//! Invariant: whoever concerns the feed raises its version first. That row's lock orders everyone who publishes, so that
//! what is checked afterwards still holds at the commit.

use super::{
    Effect, Write, WriteError, Written, audit, outbox, pack_data, packs, revisions, revocations,
    tokens,
};
use crate::db::{notify, unavailable};
use crate::records;
use crate::webhooks;
use jiff::Timestamp;
use model::revision::KeptAnswer;
use sqlx::{AnyConnection, Connection as _};
use std::pin::Pin;

const RAISE_FEED: &str = "UPDATE feed SET version = version + 1";

// Changes nothing: who comes second waits at this row, and then sees what the first one did.
const ONE_BY_ONE: &str = "UPDATE feed SET version = version";

// An answer that expired is replaced.
const KEEP_ANSWER: &str = "INSERT INTO answers (digest, fingerprint, status, sealed, until) \
    VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (digest) DO UPDATE SET fingerprint = excluded.fingerprint, \
        status = excluded.status, sealed = excluded.sealed, until = excluded.until \
    WHERE answers.until <= $6";

/// Why an attempt is undone.
#[derive(Debug)]
pub(crate) enum Undone {
    Refused(WriteError),
    Failed(sqlx::Error),
}

impl From<WriteError> for Undone {
    fn from(error: WriteError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Undone {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// What is attempted.
pub(crate) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, Undone>> + Send + 'a>>;

/// Does a write, or nothing.
pub(super) async fn write(
    connection: &mut AnyConnection,
    write: Write,
) -> Result<Result<Written, WriteError>, sqlx::Error> {
    whole(connection, |connection| Box::pin(attempt(connection, write))).await
}

/// Does all of it, or nothing, within a savepoint: in SQLite others may share the transaction.
pub(crate) async fn whole<T>(
    connection: &mut AnyConnection,
    attempt: impl for<'a> FnOnce(&'a mut AnyConnection) -> Attempt<'a, T> + Send,
) -> Result<Result<T, WriteError>, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    let refused = match attempt(&mut savepoint).await {
        Ok(done) => {
            savepoint.commit().await?;
            return Ok(Ok(done));
        }
        Err(Undone::Refused(error)) => error,
        // What the database refuses of this write, it does not refuse of others.
        Err(Undone::Failed(error @ sqlx::Error::Database(_))) => unavailable(&error).into(),
        Err(Undone::Failed(error)) => return Err(error),
    };
    savepoint.rollback().await?;
    Ok(Err(refused))
}

async fn attempt(connection: &mut AnyConnection, write: Write) -> Result<Written, Undone> {
    let Write { effect, mut audit, answer } = write;
    if effect.is_in_feed() {
        sqlx::query(RAISE_FEED).execute(&mut *connection).await?;
        notify(connection).await?;
    } else if let Effect::RevokeToken(..) = effect {
        one_by_one(connection).await?;
    }
    if let Some(answer) = answer {
        keep(connection, answer, audit.at).await?;
    }
    let mut written = Written::default();
    match effect {
        Effect::Note => {}
        Effect::Publish { text, base, nodes, replaces_staged, events } => {
            revisions::follows(connection, base, replaces_staged).await?;
            revisions::insert(connection, base + 1, &text, nodes, &audit).await?;
            outbox::append(connection, events).await?;
            written.revision = Some(base + 1);
        }
        Effect::Release(number) => {
            revisions::release(connection, number).await?;
            written.revision = Some(number);
        }
        Effect::CreateToken(token, hash) => tokens::insert(connection, &token, &hash).await?,
        Effect::RevokeToken(id, at) => tokens::revoke(connection, &id, at).await?,
        Effect::Revoke(revocation) => revocations::put(connection, &revocation).await?,
        Effect::Lift(id) => revocations::lift(connection, &id).await?,
        Effect::KeepPack { file, resigns } => {
            written.rows = packs::keep(connection, *file, resigns).await?;
        }
        Effect::PutPackData(datum, over) => pack_data::put(connection, *datum, over).await?,
        Effect::DeletePackData { pack, key, over } => {
            pack_data::delete(connection, &pack, &key, over).await?;
        }
        Effect::RetryDelivery { number } => webhooks::retry(connection, number).await?,
        Effect::DiscardDelivery { number } => webhooks::discard(connection, number).await?,
        Effect::EnableEndpoint { endpoint, tenant, recover } => {
            written.rows = webhooks::enable(connection, &endpoint, &tenant, recover).await?;
        }
        Effect::Ping { event, endpoint } => {
            written.delivery = Some(webhooks::ping(connection, *event, endpoint).await?);
        }
        Effect::CreateReplay(replay) => webhooks::create_replay(connection, *replay).await?,
        Effect::CancelReplay(id, at) => webhooks::cancel_replay(connection, &id, at).await?,
        Effect::EraseRecords(tenant, until) => {
            written.rows = records::erase_some(connection, &tenant, until).await?;
        }
    }
    audit.revision = written.revision.or(audit.revision);
    audit::append(connection, &audit).await?;
    Ok(written)
}

/// Lets nobody else pass until the transaction ends. To be called before any other row is locked.
pub(super) async fn one_by_one(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    sqlx::query(ONE_BY_ONE).execute(connection).await.map(drop)
}

async fn keep(
    connection: &mut AnyConnection,
    answer: KeptAnswer,
    now: Timestamp,
) -> Result<(), Undone> {
    let kept = sqlx::query(KEEP_ANSWER)
        .bind(answer.digest.to_vec())
        .bind(answer.fingerprint.to_vec())
        .bind(i64::from(answer.status))
        .bind(answer.sealed)
        .bind(answer.until.as_microsecond())
        .bind(now.as_microsecond());
    match kept.execute(connection).await?.rows_affected() {
        0 => Err(WriteError::Repeat.into()),
        _ => Ok(()),
    }
}
