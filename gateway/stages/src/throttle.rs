//! Whether a caller's limits allow the request. Yields a [`Permit`], which is settled once, at the exchange's end.
//!
//! Invariant: all limits of a request are charged in one step or none is.

use crate::authenticate::Caller;
use model::port::StoreError;
use model::quota::{
    Counted, Counters, Demand, OnStoreError, PermitId, PermitRecord, Reading, Settlement, Verdict,
};
use model::{ErrorCode, Reject};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a slot is held when nobody gives it back.
const PERMIT_TTL_MAX: Duration = Duration::from_secs(3600);

/// What an admitted request was charged.
#[derive(Clone, Debug)]
pub struct Permit {
    record: Option<PermitRecord>,
    readings: Arc<[Reading]>,
    waived: bool,
}

impl Permit {
    /// What its limits read after it was charged.
    pub fn readings(&self) -> &Arc<[Reading]> {
        &self.readings
    }

    /// Whether the counters could not answer and the request goes on uncounted.
    pub const fn is_waived(&self) -> bool {
        self.waived
    }

    /// Commits or refunds what may be given back, and frees its slots.
    pub async fn settle<C: Counters>(
        self,
        counters: &C,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        match &self.record {
            Some(record) if !record.charges.is_empty() => {
                counters.settle(record, settlement, now).await
            }
            _ => Ok(()),
        }
    }
}

/// A refusal by limits, with what they read.
#[derive(Debug)]
pub struct Throttled {
    /// The answer.
    pub reject: Reject,
    /// What the limits read.
    pub readings: Arc<[Reading]>,
}

/// What a caller's limits ask of the counters for one request.
pub fn demand(caller: &Caller, client: IpAddr, cost: u32, permit: u128, hold: Duration) -> Demand {
    let identity = caller.identity();
    let ttl = hold.min(PERMIT_TTL_MAX).as_micros();
    Demand {
        permit: PermitId(permit),
        tenant: identity.tenant.clone(),
        zone: caller.tenant().timezone.clone(),
        cost,
        permit_ttl: i64::try_from(ttl).unwrap_or(i64::MAX),
        limits: caller
            .tenant()
            .limits
            .iter()
            .map(|limit| Counted::of(limit, identity, client))
            .collect(),
    }
}

/// Charges a demand, or says which limit is in the way.
pub async fn throttle<C: Counters>(
    counters: &C,
    demand: &Demand,
    now: i64,
) -> Result<Permit, Throttled> {
    if demand.limits.is_empty() {
        return Ok(Permit { record: None, readings: Arc::default(), waived: false });
    }
    match counters.reserve(demand, now).await {
        Ok(Verdict::Admitted { permit, readings }) => {
            Ok(Permit { record: Some(permit), readings: readings.into(), waived: false })
        }
        Ok(Verdict::Refused(refused)) => {
            let cause = refused.cause();
            let mut reject = Reject::new(refused.code())
                .detail("limit", cause.id.as_str())
                .detail("remaining", cause.remaining)
                .detail("cost", demand.cost);
            match refused.retry_after() {
                Some(seconds) => reject = reject.retry_after(seconds),
                None => {
                    reject = reject.message(
                        "One request of this route costs more than the limit ever admits.",
                    );
                }
            }
            Err(Throttled { reject, readings: refused.readings().into() })
        }
        Err(error) => degraded(demand, &error),
    }
}

/// The counters can't answer: any limit that is `closed` refuses; otherwise the request goes on uncounted.
fn degraded(demand: &Demand, error: &StoreError) -> Result<Permit, Throttled> {
    let closed =
        demand.limits.iter().find(|counted| counted.limit.on_store_error == OnStoreError::Closed);
    match closed {
        Some(counted) => {
            let reject = Reject::new(ErrorCode::DependencyUnavailable)
                .detail("limit", counted.limit.id.as_str())
                .retry_after(1)
                .because(error);
            Err(Throttled { reject, readings: Arc::default() })
        }
        None => {
            tracing::warn!(%error, tenant = %demand.tenant, "counters unavailable: admitted uncounted");
            Ok(Permit { record: None, readings: Arc::default(), waived: true })
        }
    }
}

#[cfg(test)]
mod tests;
