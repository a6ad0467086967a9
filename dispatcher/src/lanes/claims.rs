//! What the store is asked for, and what is done with what it gives.
//!
//! Invariant: what was granted is in hand until it was given back, not given, or its place is dropped.

use super::in_hand::Place;
use super::lane::{InAll, Started, Want};
use super::{Inner, Lanes, RETRIES_IN_ALL, lane_of, timestamp};
use crate::compile::Endpoint;
use model::id::{EndpointId, TenantId};
use model::webhook::fairness::Grant;
use model::webhook::{HeldDelivery, Next, Settlement, Take};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a delivery waits whose endpoint is another tenant's, where a newer document may say otherwise, in microseconds.
pub(super) const STRANGER_PAUSE: i64 = 5_000_000;
/// How many deliveries are claimed at once.
const CLAIM_MAX: u32 = 256;
/// How long what is not sent is held: until it is settled.
const SPAN_MIN: Duration = Duration::from_secs(30);

/// What the store is asked for.
pub(crate) struct Claim {
    grants: Vec<Grant>,
    pub(crate) takes: Vec<Take>,
    /// For how long: longer than any of the endpoints' timeouts.
    pub(crate) span: Duration,
    began: i64,
}

/// What is to be done with a held delivery.
pub(crate) enum Due {
    /// It is sent.
    Send {
        /// What.
        held: Box<HeldDelivery>,
        /// Where to.
        endpoint: Arc<Endpoint>,
        /// What its lane remembers it by.
        started: Started,
        /// Its place.
        place: Place,
    },
    /// It is given back untried.
    GiveBack {
        /// How.
        settlement: Settlement,
        /// Whose it is.
        tenant: TenantId,
        /// Which lane it is of.
        endpoint: EndpointId,
        /// Why.
        why: Postponed,
        /// Its place.
        place: Place,
    },
}

/// Why a delivery is given back untried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Postponed {
    /// The retry budget is spent.
    ByBudget,
    /// Nothing is sent from here.
    Parked,
    /// Its endpoint is another tenant's, by the book of this revision: it is parked where that is the newest one.
    Stranger(u64),
}

impl Lanes {
    /// What to ask the store for; none when there is nothing.
    pub(crate) fn claim(&self, now: i64) -> Option<Claim> {
        let mut inner = self.inner();
        inner.alarms_until(now);
        let grants = inner.grant(now);
        if grants.is_empty() {
            return None;
        }
        let mut takes = Vec::with_capacity(grants.len());
        let mut span = SPAN_MIN;
        for Grant { tenant, endpoint, most } in &grants {
            inner.in_hand.take(tenant, *most);
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.granted += most;
                span = span.max(lane.endpoint.as_ref().map_or(SPAN_MIN, |it| it.hold_span()));
                let (endpoint, low_water) = (endpoint.clone(), lane.low_water());
                takes.push(Take { endpoint, most: *most, low_water });
            }
        }
        Some(Claim { grants, takes, span, began: now })
    }

    /// The store gave these for a claim.
    pub(crate) fn taken(
        self: &Arc<Self>,
        claim: Claim,
        held: Vec<HeldDelivery>,
        now: i64,
    ) -> Vec<Due> {
        let mut inner = self.inner();
        let mut got: HashMap<EndpointId, (u32, i64)> = HashMap::new();
        for delivery in &held {
            let (count, last) = got.entry(delivery.endpoint.clone()).or_insert((0, i64::MIN));
            *count += 1;
            *last = (*last).max(delivery.due_at.as_microsecond());
        }
        for Grant { tenant, endpoint, most } in &claim.grants {
            let (got, last) = got.get(endpoint).copied().unwrap_or((0, i64::MIN));
            inner.in_hand.give_back(tenant, most.saturating_sub(got), 0);
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.took(*most, got, (got > 0).then_some(last), claim.began);
            }
        }
        let of: HashMap<&EndpointId, &TenantId> =
            claim.grants.iter().map(|grant| (&grant.endpoint, &grant.tenant)).collect();
        let due = held.into_iter().map(|delivery| {
            let tenant = of.get(&delivery.endpoint).copied().unwrap_or(&delivery.tenant).clone();
            let bytes = delivery.content.len() as u64;
            let place = Place::of(self, &mut inner.in_hand, tenant, bytes);
            inner.what_to_do(delivery, place, now)
        });
        // No place is given up under the lock, which it takes itself.
        let due: Vec<Due> = due.collect();
        for Grant { endpoint, .. } in &claim.grants {
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.sure_at = None;
            }
            inner.look_at(endpoint, now);
        }
        due
    }

    /// The store could not be asked.
    pub(crate) fn not_taken(&self, claim: Claim, now: i64) {
        let mut inner = self.inner();
        for Grant { tenant, endpoint, most } in &claim.grants {
            inner.in_hand.give_back(tenant, *most, 0);
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.took_nothing(*most);
            }
            inner.look_at(endpoint, now);
        }
    }
}

impl Inner {
    /// Shares what room there is: a tenant gets what it [may have](super::in_hand::InHand::room), a lane at most half of what
    /// its tenant has left beyond what is under way of it.
    fn grant(&mut self, now: i64) -> Vec<Grant> {
        let Self { rounds, lanes, in_hand, live, .. } = self;
        let mut later = Vec::new();
        let grants = rounds.grant(
            in_hand.free().min(CLAIM_MAX),
            |tenant| in_hand.room(tenant),
            |tenant, endpoint| match lanes.get(endpoint).map(|lane| (lane, lane.want(*live, now))) {
                Some((lane, Want::Now(want))) => {
                    let beyond = in_hand.beyond(tenant).saturating_sub(lane.under_way);
                    want.min(beyond.div_ceil(2).max(1))
                }
                Some((_, Want::At(at))) => {
                    later.push((at, endpoint.clone()));
                    0
                }
                Some((_, Want::Nothing)) | None => 0,
            },
        );
        for (at, endpoint) in later {
            self.wake_at(&endpoint, at);
        }
        grants
    }

    fn what_to_do(&mut self, held: HeldDelivery, place: Place, now: i64) -> Due {
        let revision = self.book.as_ref().map_or(0, |book| book.revision);
        let (budget, live) = (&mut self.budget, self.live);
        let mut in_all = InAll { budget, rules: &RETRIES_IN_ALL, live };
        let lane =
            lane_of(&mut self.lanes, self.book.as_deref(), &held.tenant, &held.endpoint, now);
        let later = |wait: i64| Next::Due(timestamp(now.saturating_add(wait)));
        let (next, why) = match (lane.parks(), lane.endpoint.clone()) {
            (_, Some(endpoint)) if endpoint.tenant != held.tenant => {
                (later(STRANGER_PAUSE), Postponed::Stranger(revision))
            }
            (Some(reason), _) => (lane.instead(reason, held.due_at), Postponed::Parked),
            (None, None) => (Next::Due(held.due_at), Postponed::Parked),
            (None, Some(endpoint)) => match lane.start(&held, &mut in_all, now) {
                Ok(started) => {
                    return Due::Send { held: Box::new(held), endpoint, started, place };
                }
                Err(wait) => (later(wait), Postponed::ByBudget),
            },
        };
        let HeldDelivery { number, fence, tenant, endpoint, .. } = held;
        let settlement = Settlement { number, fence, attempt: None, next };
        Due::GiveBack { settlement, tenant, endpoint, why, place }
    }
}
