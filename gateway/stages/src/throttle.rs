//! Whether a caller's limits allow the request. Yields a [`Permit`], which is settled once, at the exchange's end.
//!
//! Invariant: all limits of a request are charged in one step or none is.

mod limits;

pub use crate::quotas::Permit;
pub use limits::{LimitSet, PlanLimits, Scoped};

use crate::authenticate::Caller;
use crate::quotas::{NotGranted, Quotas};
use model::id::RouteId;
use model::quota::{Counted, Demand, PermitId, Reading, Refused};
use model::{ErrorCode, Reject};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a slot is held when nobody gives it back.
const PERMIT_TTL_MAX: Duration = Duration::from_secs(3600);

/// A refusal by limits, with what they read.
#[derive(Debug)]
pub struct Throttled {
    /// The answer.
    pub reject: Reject,
    /// What the limits read.
    pub readings: Arc<[Reading]>,
}

/// One request, as its limits see it.
pub struct Asked<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The route that was found; none for the gateway's own endpoints.
    pub route: Option<&'a RouteId>,
    /// The address that it came from.
    pub client: IpAddr,
    /// What it is charged, in units.
    pub cost: u32,
    /// Whether its answer says what it cost in the end.
    pub costs_later: bool,
}

impl Asked<'_> {
    /// What it asks of the counters, under a permit that holds its slots for so long at most.
    pub fn demand(&self, permit: u128, hold: Duration) -> Demand {
        let (identity, tenant) = (self.caller.identity(), self.caller.tenant());
        let limits = match self.route {
            Some(route) => &tenant.limits.of_route(route).limits,
            None => tenant.limits.all(),
        };
        let ttl = hold.min(PERMIT_TTL_MAX).as_micros();
        Demand {
            permit: PermitId(permit),
            tenant: identity.tenant.clone(),
            calendar: tenant.calendar.clone(),
            cost: self.cost,
            costs_later: self.costs_later,
            permit_ttl: i64::try_from(ttl).unwrap_or(i64::MAX),
            limits: limits.iter().map(|limit| Counted::of(limit, identity, self.client)).collect(),
        }
    }
}

/// Charges a demand, or says which limit is in the way.
pub async fn throttle(quotas: &Quotas, demand: &Demand, now: i64) -> Result<Permit, Throttled> {
    if demand.limits.is_empty() {
        return Ok(Permit::unlimited());
    }
    quotas.reserve(demand, now).await.map_err(|reason| match reason {
        NotGranted::Refused(refused) => {
            let reject = refusal(&refused, demand.cost);
            Throttled { reject, readings: refused.readings().into() }
        }
        NotGranted::Closed { limit, error, readings } => {
            let reject = Reject::new(ErrorCode::DependencyUnavailable)
                .detail("limit", limit.as_str())
                .retry_after(1)
                .because(&error);
            Throttled { reject, readings: readings.into() }
        }
    })
}

fn refusal(refused: &Refused, cost: u32) -> Reject {
    let cause = refused.cause();
    let reject = Reject::new(refused.code())
        .detail("limit", cause.id.as_str())
        .detail("remaining", cause.remaining)
        .detail("cost", cost);
    match refused.retry_after() {
        Some(seconds) => reject.retry_after(seconds),
        None => reject.message("One request of this route costs more than the limit ever admits."),
    }
}

#[cfg(test)]
mod tests;
