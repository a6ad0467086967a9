//! The port to whoever holds the records, for operators: looking them up, and releasing what nobody knows the outcome of.

use super::{Answer, Fence, Key, Outline, Record, RecordKey, Settled};
use crate::id::TenantId;
use crate::port::StoreError;
use async_trait::async_trait;

/// Why records can't be looked up or released.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Records are kept in other processes.
    #[error(
        "idempotency records are kept in each gateway's own process, and this one is no gateway"
    )]
    Elsewhere,
    /// The store can't answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store tells of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What time it is for the store, in microseconds since the epoch: by it, leases and retentions end.
    pub now: i64,
    /// The records, without their answers, newest first.
    pub records: Vec<Record<Outline>>,
}

/// Whoever holds the records.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// A tenant's records under this key, of all subjects and routes: at most 20, newest first
    /// ([`Ledger::find`](super::Ledger::find)).
    async fn find(&self, tenant: &TenantId, key: &Key) -> Result<Found, RecordsError>;

    /// The answer that was stored under this fence, as far as it is kept ([`Ledger::answer`](super::Ledger::answer)).
    async fn answer(&self, key: &RecordKey, fence: Fence) -> Result<Option<Answer>, RecordsError>;

    /// Frees a key whose outcome is unknown, and no other ([`Ledger::clear`](super::Ledger::clear)).
    async fn clear(&self, key: &RecordKey, fence: Fence) -> Result<Settled, RecordsError>;
}

/// Of a process that is no gateway while records are kept in process.
pub struct Elsewhere;

#[async_trait]
impl Records for Elsewhere {
    async fn find(&self, _: &TenantId, _: &Key) -> Result<Found, RecordsError> {
        Err(RecordsError::Elsewhere)
    }

    async fn answer(&self, _: &RecordKey, _: Fence) -> Result<Option<Answer>, RecordsError> {
        Err(RecordsError::Elsewhere)
    }

    async fn clear(&self, _: &RecordKey, _: Fence) -> Result<Settled, RecordsError> {
        Err(RecordsError::Elsewhere)
    }
}
