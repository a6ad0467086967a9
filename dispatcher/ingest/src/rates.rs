//! How many events each tenant sends, in this process.
//!
//! Invariant: the events of a request are charged all together or not at all, so that one that is refused takes nothing.

use crate::rules::Rules;
use model::event::EVENTS_MAX;
use model::id::TenantId;
use model::quota::{Bucket, Rate, Wait};
use model::{ErrorCode, Reject};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// How many events of which tenant, with its rate.
pub(crate) type Counts = BTreeMap<TenantId, (u32, Rate)>;

/// A bucket for each tenant that sends: never more than the document has tenants.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<TenantId, Bucket>>);

impl Rates {
    /// Takes so many events of each tenant's rate, or says when there will be room. `now`: µs since the epoch.
    pub(crate) fn charge(&self, counts: &Counts, now: i64) -> Result<(), Reject> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, (count, rate)) in counts {
            if let Some(bucket) = buckets.get_mut(id) {
                room(id, bucket, *rate, *count, now)?;
            }
        }
        take(&mut buckets, counts, now);
        Ok(())
    }

    /// Whether there is room for one event at least, of each of these tenants.
    pub(crate) fn have_room(&self, counts: &Counts, now: i64) -> Result<(), Reject> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, (_, rate)) in counts {
            if let Some(bucket) = buckets.get_mut(id) {
                room(id, bucket, *rate, 1, now)?;
            }
        }
        Ok(())
    }

    /// Takes so many events of each tenant's rate, whether there is room for them or not.
    pub(crate) fn note(&self, counts: &Counts, now: i64) {
        take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), counts, now);
    }

    /// Forgets tenants that are no longer in the document.
    pub(crate) fn keep_only(&self, rules: &Rules) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|id, _| rules.tenant(id.as_str()).is_some());
    }
}

fn room(
    id: &TenantId,
    bucket: &mut Bucket,
    rate: Rate,
    count: u32,
    now: i64,
) -> Result<(), Reject> {
    bucket.bound(now);
    bucket.refusal(rate, burst(rate), count, now).map_or(Ok(()), |wait| Err(limited(id, wait)))
}

fn take(buckets: &mut HashMap<TenantId, Bucket>, counts: &Counts, now: i64) {
    for (id, (count, rate)) in counts {
        buckets.entry(id.clone()).or_insert_with(|| Bucket::at_rest(*rate, burst(*rate))).charge(
            *rate,
            burst(*rate),
            *count,
            now,
        );
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
