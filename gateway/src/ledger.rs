//! The store of idempotency records that a deployment chose.

use model::id::TenantId;
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Fence, Key, Ledger, Record, RecordKey, Settled,
};
use model::port::StoreError;
use stages::ledger::{Capacity, MemoryLedger};
use stages::redis::RedisLedger;
use store::SqlLedger;

/// The store of idempotency records.
pub enum AnyLedger {
    /// In process: gone with it.
    Memory(MemoryLedger),
    /// In the database: durable.
    Sql(SqlLedger),
    /// On Redis: as durable as that is.
    Redis(RedisLedger),
}

impl AnyLedger {
    /// A store in process, of the default capacity.
    pub fn in_process() -> Self {
        Self::Memory(MemoryLedger::new(Capacity::default()))
    }

    /// Forgets what expired in process; the others do that by themselves.
    pub fn sweep(&self, now: i64) {
        match self {
            Self::Memory(ledger) => ledger.sweep(now),
            Self::Sql(_) | Self::Redis(_) => {}
        }
    }
}

macro_rules! delegate {
    ($self:ident, $call:ident($($argument:expr),*)) => {
        match $self {
            AnyLedger::Memory(ledger) => ledger.$call($($argument),*).await,
            AnyLedger::Sql(ledger) => ledger.$call($($argument),*).await,
            AnyLedger::Redis(ledger) => ledger.$call($($argument),*).await,
        }
    };
}

impl Ledger for AnyLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        delegate!(self, claim(request, now))
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        delegate!(self, renew(key, fence, lease, now))
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        replicas: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        delegate!(self, complete(key, fence, answer, replicas, now))
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        delegate!(self, release(key, fence, now))
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        delegate!(self, mark_unknown(key, fence, now))
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        delegate!(self, clear(key, fence, now))
    }

    async fn find(
        &self,
        tenant: &TenantId,
        key: &Key,
        now: i64,
    ) -> Result<Vec<Record>, StoreError> {
        delegate!(self, find(tenant, key, now))
    }
}
