//! What an upstream may be sent: within limits of its own, which all tenants share, and not before a backoff that it asked
//! for is over. Yields a [`Clearance`], which is settled once, at the exchange's end.
//!
//! Invariants: what is refused here was charged nothing and is sent nowhere. Where an upstream has no limits and asked for
//! nothing, this takes no lock and allocates nothing.

mod backoffs;

pub use backoffs::Backoffs;

use crate::body::BODY_DEADLINE;
use crate::upstream::Upstream;
use backoffs::Whose;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use model::document::{self, Backoff, BackoffPer};
use model::id::{TenantId, UpstreamId};
use model::quota::fields::whole_seconds;
use model::quota::{
    Calendar, Counted, CounterKey, Demand, Kind, Limit, LimitMode, Part, Per, PermitId, Refused,
    Settlement,
};
use model::{ErrorCode, Reject, retry_after};
use rand::RngExt as _;
use stages::quotas::{NotGranted, Permit, Quotas};
use std::sync::Arc;
use std::time::Duration;

/// What one upstream may be sent, as one revision says.
pub struct Outbound {
    /// Under whose name its counters are kept. No tenant's id has a colon.
    counted_as: TenantId,
    limits: Vec<Counted>,
    backoff: Backoff,
    asked: Arc<Backoffs>,
}

/// That a request may go to this upstream now.
pub struct Clearance {
    upstream: Arc<Upstream>,
    permit: Option<Permit>,
    is_given_back: bool,
}

/// A request that may not go to its upstream now.
#[derive(Debug)]
pub struct HeldBack {
    /// What holds it back.
    pub by: Limited,
    /// The answer.
    pub reject: Reject,
}

/// What holds a request back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// A rate of the upstream.
    Rate,
    /// So many are on their way to the upstream already.
    Concurrency,
    /// The upstream asked for a backoff.
    Backoff,
    /// The store of counters can't answer, and a limit refuses then.
    Store,
}

impl Limited {
    /// The name used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Backoff => "backoff",
            Self::Store => "store",
        }
    }
}

impl Clearance {
    fn of(upstream: &Arc<Upstream>, permit: Option<Permit>) -> Self {
        Self { upstream: Arc::clone(upstream), permit, is_given_back: false }
    }

    /// Where it may go.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Gives back what may be: slots. Never waits. Nothing may be sent any more.
    pub fn give_back(&mut self, quotas: &Quotas, now: i64) {
        self.is_given_back = true;
        if let Some(permit) = self.permit.take() {
            quotas.settle(permit, Settlement::Commit, now);
        }
    }

    /// Whether it is of no more use.
    pub const fn is_given_back(&self) -> bool {
        self.is_given_back
    }
}

/// Clears a request where there is nothing to ask: the upstream has no limits, and asked nobody to wait.
pub fn clear_at_once(upstream: &Arc<Upstream>) -> Option<Clearance> {
    let outbound = &upstream.outbound;
    let is_clear = outbound.limits.is_empty() && outbound.asked.is_empty();
    is_clear.then(|| Clearance::of(upstream, None))
}

/// Clears a request of this tenant, or says what holds it back.
pub async fn clear(
    upstream: &Arc<Upstream>,
    tenant: &TenantId,
    quotas: &Quotas,
    now: i64,
) -> Result<Clearance, HeldBack> {
    let outbound = &upstream.outbound;
    if let Some(left) = outbound.backoff_left(tenant, now) {
        return Err(HeldBack::by_backoff(&upstream.id, left));
    }
    let mut permit = None;
    if !outbound.limits.is_empty() {
        // The body may still have to come.
        let demand = outbound.demand(rand::rng().random(), upstream.hold() + BODY_DEADLINE);
        let granted = quotas.reserve(&demand, now).await;
        permit = Some(granted.map_err(|reason| HeldBack::by_limit(&upstream.id, reason))?);
    }
    Ok(Clearance::of(upstream, permit))
}

impl Outbound {
    /// What the document says of an upstream, and the backoffs that it asked for so far.
    pub fn new(upstream: &document::Upstream, asked: Arc<Backoffs>) -> Self {
        let limits = upstream.limits.iter().filter_map(counted).collect();
        let counted_as = format!("upstream:{}", upstream.id).as_str().into();
        Self { counted_as, limits, backoff: upstream.backoff.clone(), asked }
    }

    /// Takes note of an answer to this tenant that asks for a backoff.
    pub fn heard(&self, tenant: &TenantId, status: StatusCode, answer: &HeaderMap, now: Timestamp) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let Some(whose) = self.whose(tenant) else { return };
        let value = answer.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        if let Some(wait) = value.and_then(|value| retry_after::parse(value, now)) {
            self.asked.ask(whose, micros(wait.min(self.backoff.max.0)), now.as_microsecond());
        }
    }

    /// How many microseconds this tenant's requests are still held back; none where they may go.
    fn backoff_left(&self, tenant: &TenantId, now: i64) -> Option<i64> {
        if self.asked.is_empty() {
            return None;
        }
        self.asked.left(self.whose(tenant)?, micros(self.backoff.max.0), now)
    }

    /// Whose requests an answer to this tenant holds back; nobody's where that is off.
    fn whose<'a>(&self, tenant: &'a TenantId) -> Option<Whose<'a>> {
        match self.backoff.per {
            BackoffPer::Tenant => Some(Whose::Tenant(tenant)),
            BackoffPer::Upstream => Some(Whose::Everybody),
            BackoffPer::Off => None,
        }
    }

    fn demand(&self, permit: u128, hold: Duration) -> Demand {
        Demand {
            permit: PermitId(permit),
            tenant: self.counted_as.clone(),
            calendar: Calendar::UTC,
            cost: 1,
            costs_later: false,
            permit_ttl: micros(hold),
            limits: self.limits.clone(),
        }
    }
}

impl HeldBack {
    fn by_backoff(upstream: &UpstreamId, left: i64) -> Self {
        let reject = Reject::new(ErrorCode::UpstreamUnavailable)
            .message("The service behind the gateway asked not to be sent requests for a while.")
            .detail("upstream", upstream.as_str())
            .detail("reason", Limited::Backoff.as_str())
            .retry_after(whole_seconds(left).max(1))
            .because(format_args!("the upstream `{upstream}` asked for a backoff"));
        Self { by: Limited::Backoff, reject }
    }

    fn by_limit(upstream: &UpstreamId, reason: NotGranted) -> Self {
        match reason {
            NotGranted::Refused(refused) => Self::by_refusal(upstream, &refused),
            NotGranted::Closed { limit, error, .. } => {
                let reject = Reject::new(ErrorCode::DependencyUnavailable)
                    .detail("upstream", upstream.as_str())
                    .detail("limit", limit.as_str())
                    .retry_after(1)
                    .because(error);
                Self { by: Limited::Store, reject }
            }
        }
    }

    fn by_refusal(upstream: &UpstreamId, refused: &Refused) -> Self {
        let cause = refused.cause();
        let by = match cause.kind {
            Kind::Concurrency(_) => Limited::Concurrency,
            Kind::Rate { .. } | Kind::Quota(_) => Limited::Rate,
        };
        let limit = &cause.id;
        let reject = Reject::new(ErrorCode::UpstreamUnavailable)
            .message("The service behind the gateway is not sent more requests at the moment.")
            .detail("upstream", upstream.as_str())
            .detail("limit", limit.as_str())
            // A request counts as one, which every limit admits at some time.
            .retry_after(refused.retry_after().unwrap_or(1))
            .because(format_args!("the limit `{limit}` towards the upstream `{upstream}`"));
        Self { by, reject }
    }
}

/// A limit of the document and its counter.
fn counted(limit: &document::UpstreamLimit) -> Option<Counted> {
    let kind = match (limit.rate, limit.concurrency) {
        (Some(rate), None) => Kind::Rate { rate, burst: limit.burst.unwrap_or(rate.units()) },
        (None, Some(slots)) => Kind::Concurrency(slots),
        // A checked document has neither.
        (Some(_), Some(_)) | (None, None) => return None,
    };
    let id = limit.id.clone();
    let limit = Limit {
        id: id.clone(),
        kind,
        per: Per::Tenant,
        exact: false,
        mode: LimitMode::Enforce,
        on_store_error: limit.on_store_error,
    };
    let key = CounterKey { limit: id, part: Part::Tenant };
    Some(Counted { key, limit: Arc::new(limit) })
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Outbound {
    /// Of an upstream that nothing limits.
    pub(crate) fn unlimited() -> Self {
        let document = r#"{ "id": "crm", "targets": [{ "address": "127.0.0.1:1" }] }"#;
        let upstream: document::Upstream = serde_json::from_str(document).unwrap();
        Self::new(&upstream, Arc::new(tests::backoffs()))
    }
}

#[cfg(test)]
mod tests;
