//! The port to whoever holds counters: what tenants have used, and setting that back.

use crate::document::LimitScope;
use crate::id::{ConsumerId, LimitId, TenantId};
use crate::port::StoreError;
use crate::quota::LimitMode;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;

/// One limit of a tenant as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    /// The limit.
    pub id: LimitId,
    /// Whose share it is, where each consumer has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerId>,
    /// What it counts, where that is not every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<LimitScope>,
    /// Whether it refuses.
    pub mode: LimitMode,
    /// How much is used.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
    /// How much is left.
    pub remaining: u64,
    /// Whole seconds until all of it is left again; none where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<u64>,
}

/// Why usage can't be told or set back.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// There is no such tenant.
    #[error("there is no such tenant")]
    UnknownTenant,
    /// The plan has no such limit.
    #[error("the tenant's plan has no such limit")]
    UnknownLimit,
    /// The limit is counted per credential or address: such counters are not listed, so none is set back.
    #[error("the limit is counted per credential or address, which is neither listed nor set back")]
    Unlisted,
    /// Counters are kept in other processes.
    #[error("counters are kept in each gateway's own process, and this one is no gateway")]
    Elsewhere,
    /// The counters can't answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whoever holds the counters.
#[async_trait]
pub trait UsageOf: Send + Sync + 'static {
    /// Every limit of a tenant: shared ones, and each consumer's own. Limits per credential or address are not listed.
    async fn usage(&self, tenant: &TenantId) -> Result<Vec<Usage>, UsageError>;

    /// Sets the counters of a tenant back to nothing used: those of one limit, or all. Says how it was before.
    async fn reset(
        &self,
        tenant: &TenantId,
        limit: Option<&LimitId>,
    ) -> Result<Vec<Usage>, UsageError>;
}

/// Of a process that is no gateway while counters are kept in process.
pub struct Elsewhere;

#[async_trait]
impl UsageOf for Elsewhere {
    async fn usage(&self, _: &TenantId) -> Result<Vec<Usage>, UsageError> {
        Err(UsageError::Elsewhere)
    }

    async fn reset(&self, _: &TenantId, _: Option<&LimitId>) -> Result<Vec<Usage>, UsageError> {
        Err(UsageError::Elsewhere)
    }
}
