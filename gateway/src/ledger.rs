//! The store of idempotency records that a deployment chose, and the seal on what it keeps.

mod sealing;

pub use sealing::SealingLedger;

use model::id::TenantId;
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Fence, Found, Key, Ledger, RecordKey, Settled, TenantRoom,
};
use model::port::StoreError;
use stages::ledger::{Capacity, MemoryLedger};
use stages::redis::{COMMAND_DEADLINE, ClockOf, Link, LinkState, RedisLedger, RedisUrl};
use std::sync::Arc;
use store::SqlLedger;
use tokio::runtime::Handle;

/// The store of idempotency records.
#[allow(clippy::large_enum_variant, reason = "a process has one, behind a pointer that it shares")]
pub enum AnyLedger {
    /// In process: gone with it.
    Memory(MemoryLedger),
    /// In the database: durable.
    Sql(SqlLedger),
    /// On Redis: as durable as that is.
    Redis(RedisLedger),
}

/// Where records are kept, and how that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerStanding {
    /// In process.
    InProcess,
    /// In the database.
    Database,
    /// On Redis.
    Redis {
        /// Which keys it forgets when its memory is full, where that is any: then what was promised may be forgotten.
        evicts: Option<Arc<str>>,
    },
    /// On a Redis to which there is no connection.
    Away,
}

impl AnyLedger {
    /// A store in process, of the default capacity.
    pub fn in_process() -> Self {
        Self::Memory(MemoryLedger::new(Capacity::default()))
    }

    /// A store on this Redis, whose clock decides, with connections of its own that are kept on this runtime.
    pub fn on_redis(url: RedisUrl, room: TenantRoom, runtime: &Handle) -> Self {
        let link = Link::new(url, COMMAND_DEADLINE, runtime);
        Self::Redis(RedisLedger::new(link, ClockOf::Redis, room, runtime))
    }

    /// Where records are kept, and how that is.
    pub fn standing(&self) -> LedgerStanding {
        match self {
            Self::Memory(_) => LedgerStanding::InProcess,
            Self::Sql(_) => LedgerStanding::Database,
            Self::Redis(ledger) => match ledger.link().state() {
                LinkState::Connected => LedgerStanding::Redis { evicts: ledger.link().evicts() },
                LinkState::Away => LedgerStanding::Away,
            },
        }
    }

    /// Makes ready what routes that want replicas need: no request should wait for a connection.
    pub fn prepare_replicas(&self) {
        match self {
            Self::Redis(ledger) => ledger.prepare_replicas(),
            Self::Memory(_) | Self::Sql(_) => {}
        }
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

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        delegate!(self, find(tenant, key, now))
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        delegate!(self, answer(key, fence, now))
    }
}
