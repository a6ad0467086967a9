//! Idempotency records, for operators: looked up and released in whatever store this deployment keeps them.

use crate::gateway::Gateway;
use async_trait::async_trait;
use model::id::TenantId;
use model::idempotency::{
    Answer, Fence, Found, Key, Ledger as _, RecordKey, Records, RecordsError, Settled,
};

#[async_trait]
impl Records for Gateway {
    async fn find(&self, tenant: &TenantId, key: &Key) -> Result<Found, RecordsError> {
        Ok(self.ledger.find(tenant, key, self.clock.micros()).await?)
    }

    async fn answer(&self, key: &RecordKey, fence: Fence) -> Result<Option<Answer>, RecordsError> {
        Ok(self.ledger.answer(key, fence, self.clock.micros()).await?)
    }

    async fn clear(&self, key: &RecordKey, fence: Fence) -> Result<Settled, RecordsError> {
        Ok(self.ledger.clear(key, fence, self.clock.micros()).await?)
    }
}
