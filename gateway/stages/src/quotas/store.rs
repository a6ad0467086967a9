//! What the facade needs of a store that nodes share, beyond the port of counters.

use crate::redis::{LinkState, Presence, RedisCounters};
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{Counters, Demand, PermitRecord, Reading, Settlement, Verdict};

/// Counters that other nodes use too. What settles answers within a bounded time; for the rest the facade has a deadline.
pub(crate) trait Store: Counters + 'static {
    /// How many nodes use them, this one included: at least 1. The last known number while they can't answer.
    fn nodes(&self) -> u32;

    /// Whether there is no connection to them, so that nobody need be asked to know that they can't answer.
    fn is_away(&self) -> bool;

    /// When there is a connection.
    fn connected(&self) -> impl Future<Output = ()> + Send;

    /// Into how many parts tenants are sorted that fail apart from each other: hash slots of a cluster. At least 1.
    fn parts(&self) -> usize;

    /// The part that a tenant's counters are in.
    fn part(&self, tenant: &TenantId) -> usize;

    /// Settles permits, each at most once however often it is asked for; says of each, in their order, how it went.
    fn settle_all(
        &self,
        endings: &[(PermitRecord, Settlement)],
        now: i64,
    ) -> impl Future<Output = Vec<Result<(), StoreError>>> + Send;

    /// Settles the permit of a demand that was not answered in time, if it was charged or ever will be.
    fn settle_unknown(
        &self,
        demand: &Demand,
        settlement: Settlement,
        now: i64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// This node uses them no more.
    fn leave(&self) -> impl Future<Output = ()> + Send;
}

/// Counters on Redis, and who else uses them.
#[derive(Debug)]
pub(crate) struct Redis {
    /// The counters.
    pub(crate) counters: RedisCounters,
    /// The nodes.
    pub(crate) presence: Presence,
}

impl Counters for Redis {
    async fn reserve(&self, demand: &Demand, now: i64) -> Result<Verdict, StoreError> {
        self.counters.reserve(demand, now).await
    }

    async fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        self.counters.settle(permit, settlement, now).await
    }

    async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        self.counters.peek(demand, now).await
    }

    async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        self.counters.reset(demand, now).await
    }
}

impl Store for Redis {
    fn nodes(&self) -> u32 {
        self.presence.nodes()
    }

    fn is_away(&self) -> bool {
        self.counters.link().state() == LinkState::Away
    }

    async fn connected(&self) {
        self.counters.link().connected().await;
    }

    fn parts(&self) -> usize {
        self.counters.parts()
    }

    fn part(&self, tenant: &TenantId) -> usize {
        self.counters.part(tenant)
    }

    async fn settle_all(
        &self,
        endings: &[(PermitRecord, Settlement)],
        now: i64,
    ) -> Vec<Result<(), StoreError>> {
        self.counters.settle_all(endings, now).await
    }

    async fn settle_unknown(
        &self,
        demand: &Demand,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        self.counters.settle_unknown(demand, settlement, now).await
    }

    async fn leave(&self) {
        self.presence.leave().await;
    }
}
