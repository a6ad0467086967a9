//! Which endpoints have something due, how much of it may be taken, and whose turn it is: what a dispatcher keeps in memory.
//!
//! Invariant: all of it is a hint or a limit, none of it is truth. What is due stands in the store; a hint that is missing is
//! found by the next sweep, one that is wrong finds nothing. A tenant's deliveries never take up the room of others: each may
//! have at most as much of it as is left for everybody else.

mod claims;
mod in_hand;
mod lane;
#[cfg(test)]
mod tests;

pub(crate) use claims::{Due, Postponed};
pub(crate) use in_hand::{IN_HAND_MAX, Place};
pub(crate) use lane::{Ending, Started, Tells};

use crate::compile::{Book, Endpoint};
use in_hand::InHand;
use jiff::Timestamp;
use lane::{ChangedHands, InAll, Lane, Want};
use model::id::{EndpointId, TenantId};
use model::webhook::budget::{BudgetRules, RetryBudget};
use model::webhook::fairness::Rounds;
use model::webhook::{DueLane, Reason, Standing};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Retries of all endpoints together, as a share of first attempts.
const RETRIES_IN_ALL: BudgetRules =
    // At least as many at once as may be in hand: none of an endpoint that is well waits for them.
    BudgetRules { share: 0.5, per_second: 50.0, most: 4_096.0 };

/// The lanes of this process. Time is the store's, in microseconds since the epoch.
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    /// Somebody may have something to take.
    pub(crate) look: Notify,
    /// An endpoint is to be disabled.
    pub(crate) to_tell: Notify,
}

struct Inner {
    book: Option<Arc<Book>>,
    lanes: HashMap<EndpointId, Lane>,
    rounds: Rounds,
    /// When a lane is to be looked at again.
    alarms: BTreeSet<(i64, EndpointId)>,
    in_hand: InHand,
    budget: RetryBudget,
    /// How many dispatchers share the limits.
    live: u32,
    /// Why endpoints are to be disabled, until the store knows.
    to_disable: HashMap<EndpointId, Reason>,
}

/// What operators are shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) in_hand: u32,
    pub(crate) open: usize,
    pub(crate) disabled: usize,
}

impl Lanes {
    /// None yet.
    pub(crate) fn new(now: i64) -> Arc<Self> {
        let inner = Inner {
            book: None,
            lanes: HashMap::new(),
            rounds: Rounds::default(),
            alarms: BTreeSet::new(),
            in_hand: InHand::default(),
            budget: RetryBudget::full(&RETRIES_IN_ALL, now),
            live: 1,
            to_disable: HashMap::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), look: Notify::new(), to_tell: Notify::new() })
    }

    /// Goes by this book from now on.
    pub(crate) fn follow(&self, book: &Arc<Book>, now: i64) {
        let mut inner = self.inner();
        if inner.book.as_ref().is_some_and(|known| Arc::ptr_eq(known, book)) {
            return;
        }
        let is_new = inner.book.as_ref().is_none_or(|known| known.revision != book.revision);
        inner.book = Some(book.clone());
        let ids: Vec<EndpointId> = inner.lanes.keys().cloned().collect();
        for id in ids {
            let Some(lane) = inner.lanes.get_mut(&id) else { continue };
            let changed_hands = lane.serve(book.endpoint(&id).cloned());
            if is_new {
                lane.sure_at = None;
                lane.since = now;
            }
            if changed_hands == ChangedHands::Yes {
                inner.to_disable.remove(&id);
            }
            let Some(lane) = inner.lanes.get_mut(&id) else { continue };
            if lane.endpoint.is_none() && lane.is_idle() {
                let alarm = lane.alarm.map(|at| (at, id.clone()));
                inner.lanes.remove(&id);
                alarm.map(|alarm| inner.alarms.remove(&alarm));
            } else {
                inner.look_at(&id, now);
            }
        }
        self.look.notify_one();
    }

    /// So many dispatchers share the limits.
    pub(crate) fn live(&self, dispatchers: usize) {
        self.inner().live = u32::try_from(dispatchers).unwrap_or(u32::MAX).max(1);
    }

    /// These have something that is due at this time.
    pub(crate) fn due(
        &self,
        lanes: impl IntoIterator<Item = (TenantId, EndpointId, i64)>,
        now: i64,
    ) {
        let mut inner = self.inner();
        for (tenant, endpoint, at) in lanes {
            inner.lane(&tenant, &endpoint, now).due(at, now);
            inner.look_at(&endpoint, now);
        }
        self.look.notify_one();
    }

    /// What the store has to do, lane by lane. Yields whether something is parked once [that is sure](Self::is_sure).
    pub(crate) fn swept(&self, lanes: Vec<DueLane>, now: i64) -> Unsure {
        let mut inner = self.inner();
        let mut unsure = Unsure::None;
        for DueLane { tenant, endpoint, due_at } in lanes {
            let is_told = !inner.to_disable.contains_key(&endpoint);
            let lane = inner.lane(&tenant, &endpoint, now);
            lane.swept(due_at.as_microsecond(), now);
            if is_told && lane.is_to_be_sure(now) {
                unsure = Unsure::Some;
            }
            inner.look_at(&endpoint, now);
        }
        self.look.notify_one();
        unsure
    }

    /// At this time the document of this revision was the newest, and standings were as they are here: what was due by then at
    /// endpoints that are not served is parked.
    pub(crate) fn is_sure(&self, revision: u64, at: i64) {
        let mut inner = self.inner();
        if inner.book.as_ref().is_none_or(|book| book.revision != revision) {
            return;
        }
        // What the store does not know yet, a restart would forget.
        let Inner { lanes, to_disable, .. } = &mut *inner;
        let judged = lanes
            .iter_mut()
            .filter(|(id, lane)| lane.is_to_be_sure(at) && !to_disable.contains_key(*id));
        let judged: Vec<EndpointId> = judged
            .map(|(id, lane)| {
                lane.sure_at = Some(at);
                id.clone()
            })
            .collect();
        for id in judged {
            inner.look_at(&id, at);
        }
        self.look.notify_one();
    }

    /// When the next lane is to be looked at.
    pub(crate) fn next_alarm(&self) -> Option<i64> {
        self.inner().alarms.first().map(|(at, _)| *at)
    }

    /// An attempt at this endpoint has ended: its slot is free.
    pub(crate) fn ended(&self, endpoint: &Endpoint, started: Started, ending: &Ending) {
        let mut inner = self.inner();
        let Inner { lanes, budget, live, to_disable, .. } = &mut *inner;
        let Some(lane) = lanes.get_mut(&endpoint.id) else { return };
        // What became of an attempt says nothing of an endpoint that another tenant has under its id by now.
        let ending = match lane.tenant == endpoint.tenant {
            true => *ending,
            false => Ending { tells: Tells::Nothing, ..*ending },
        };
        let mut in_all = InAll { budget, rules: &RETRIES_IN_ALL, live: *live };
        if let Some(reason) = lane.end(started, &ending, &mut in_all) {
            lane.disable(reason, ending.at);
            to_disable.insert(endpoint.id.clone(), reason);
            self.to_tell.notify_one();
        }
        inner.look_at(&endpoint.id, ending.at);
        if !inner.rounds.is_empty() {
            self.look.notify_one();
        }
    }

    /// Takes what others wrote of endpoints.
    pub(crate) fn adopt(&self, standings: &[Standing], now: i64) {
        let mut inner = self.inner();
        for standing in standings {
            let is_told = !inner.to_disable.contains_key(&standing.endpoint);
            let lane = inner.lane(&standing.tenant, &standing.endpoint, now);
            // How an endpoint stood whose id another tenant has by now concerns nobody.
            if lane.tenant != standing.tenant {
                continue;
            }
            lane.adopt(standing);
            if is_told {
                lane.adopt_disabled(standing);
            }
            inner.look_at(&standing.endpoint, now);
        }
        self.look.notify_one();
    }

    /// What changed of endpoints and is to be kept.
    pub(crate) fn changed_standings(&self) -> Vec<Standing> {
        let mut inner = self.inner();
        inner.lanes.iter_mut().filter_map(|(id, lane)| lane.changed_standing(id)).collect()
    }

    /// These could not be kept.
    pub(crate) fn unkept(&self, standings: &[Standing]) {
        let mut inner = self.inner();
        for standing in standings {
            if let Some(lane) = inner.lanes.get_mut(&standing.endpoint) {
                lane.unkept();
            }
        }
    }

    /// Endpoints that are to be disabled in the store.
    pub(crate) fn to_disable(&self) -> Vec<Standing> {
        let inner = self.inner();
        let standing = |id| inner.lanes.get(id).map(|lane| lane.standing(id));
        inner.to_disable.keys().filter_map(standing).collect()
    }

    /// The store knows that this one is disabled.
    pub(crate) fn is_disabled(&self, endpoint: &EndpointId) {
        self.inner().to_disable.remove(endpoint);
    }

    /// What operators are shown.
    pub(crate) fn counts(&self) -> Counts {
        let inner = self.inner();
        let count = |of: fn(&Lane) -> bool| inner.lanes.values().filter(|lane| of(lane)).count();
        Counts {
            in_hand: inner.in_hand.all(),
            open: count(Lane::is_open),
            disabled: count(Lane::is_disabled),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something can't be judged by what is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsure {
    None,
    Some,
}

impl Inner {
    fn lane(&mut self, tenant: &TenantId, endpoint: &EndpointId, now: i64) -> &mut Lane {
        lane_of(&mut self.lanes, self.book.as_deref(), tenant, endpoint, now)
    }

    /// Puts a lane in turn that has something to take, or remembers when it will.
    fn look_at(&mut self, endpoint: &EndpointId, now: i64) {
        let Some(lane) = self.lanes.get(endpoint) else { return };
        match lane.want(self.live, now) {
            Want::Now(_) => self.rounds.enter(&lane.tenant, endpoint),
            Want::At(at) => self.wake_at(endpoint, at),
            Want::Nothing => {}
        }
    }

    /// A lane has one alarm: the earliest that was set, after which it is looked at anew.
    fn wake_at(&mut self, endpoint: &EndpointId, at: i64) {
        let Some(lane) = self.lanes.get_mut(endpoint) else { return };
        match lane.alarm {
            Some(known) if known <= at => return,
            Some(known) => drop(self.alarms.remove(&(known, endpoint.clone()))),
            None => {}
        }
        lane.alarm = Some(at);
        self.alarms.insert((at, endpoint.clone()));
    }

    fn alarms_until(&mut self, now: i64) {
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, endpoint)) = self.alarms.pop_first() else { break };
            if let Some(lane) = self.lanes.get_mut(&endpoint) {
                lane.alarm = None;
            }
            self.look_at(&endpoint, now);
        }
    }
}

/// The lane of an endpoint. It is whose the endpoint is, whoever has something due there.
fn lane_of<'a>(
    lanes: &'a mut HashMap<EndpointId, Lane>,
    book: Option<&Book>,
    tenant: &TenantId,
    endpoint: &EndpointId,
    now: i64,
) -> &'a mut Lane {
    lanes.entry(endpoint.clone()).or_insert_with(|| {
        let known = book.and_then(|book| book.endpoint(endpoint)).cloned();
        let tenant = known.as_ref().map_or(tenant, |known| &known.tenant).clone();
        Lane::new(tenant, known, now)
    })
}

/// A time as the store writes it.
pub(crate) fn timestamp(micros: i64) -> Timestamp {
    lane::timestamp(micros)
}
