//! How many events each tenant sends, in this process.
//!
//! Invariant: the events of a request are charged all together or not at all, so that one that is refused takes nothing.

use crate::rules::{OfTenant, Rules};
use model::event::EVENTS_MAX;
use model::id::TenantId;
use model::quota::{Bucket, Rate, Wait};
use model::{ErrorCode, Reject};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// A bucket for each tenant that sends: never more than the document has tenants.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<TenantId, Bucket>>);

impl Rates {
    /// Takes so many events of each tenant's rate, or says when there will be room. `now`: µs since the epoch.
    pub(crate) fn charge(
        &self,
        counts: &BTreeMap<TenantId, (u32, &OfTenant)>,
        now: i64,
    ) -> Result<(), Reject> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, (count, tenant)) in counts {
            let rate = tenant.caps.rate;
            let Some(bucket) = buckets.get_mut(id) else { continue };
            bucket.bound(now);
            if let Some(wait) = bucket.refusal(rate, burst(rate), *count, now) {
                return Err(limited(id, wait));
            }
        }
        for (id, (count, tenant)) in counts {
            let rate = tenant.caps.rate;
            buckets.entry(id.clone()).or_insert_with(|| Bucket::at_rest(rate, burst(rate))).charge(
                rate,
                burst(rate),
                *count,
                now,
            );
        }
        Ok(())
    }

    /// Forgets tenants that are no longer in the document.
    pub(crate) fn keep_only(&self, rules: &Rules) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|id, _| rules.tenant(id.as_str()).is_some());
    }
}

/// How many events are taken at one instant: as many as the rate's number of units, and a whole batch at least.
fn burst(rate: Rate) -> u32 {
    rate.units().max(u32::try_from(EVENTS_MAX).unwrap_or(u32::MAX))
}

fn limited(tenant: &TenantId, wait: Wait) -> Reject {
    let micros = match wait {
        Wait::For(micros) => u64::try_from(micros).unwrap_or_default(),
        // No request has more events than the burst.
        Wait::Forever => u64::MAX,
    };
    Reject::new(ErrorCode::RateLimited)
        .message(format!("The tenant `{tenant}` sends more events than its plan allows."))
        .detail("limit", "events.rate")
        .detail("tenant", tenant.as_str())
        .retry_after(micros.div_ceil(1_000_000).max(1))
}
