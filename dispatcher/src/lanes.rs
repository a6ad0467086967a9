//! Which endpoints have something due, how much of it may be taken, and whose turn it is: what a dispatcher keeps in memory.
//!
//! Invariant: all of it is a hint or a limit, none of it is truth. What is due stands in the store; a hint that is missing is
//! found by the next sweep, one that is wrong finds nothing. A tenant's deliveries never take up the room of others: each may
//! have at most as much of it as is left for everybody else.

mod lane;
#[cfg(test)]
mod tests;

pub(crate) use lane::{Ending, Started, Tells};

use crate::compile::{Book, Endpoint};
use jiff::Timestamp;
use lane::{ChangedHands, InAll, Lane, Want};
use model::id::{EndpointId, TenantId};
use model::webhook::budget::{BudgetRules, RetryBudget};
use model::webhook::fairness::{Grant, Rounds};
use model::webhook::{DueLane, HeldDelivery, Next, Reason, Settlement, Standing, Take};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How many deliveries a process has in hand at once: held, and not yet settled.
pub(crate) const IN_HAND_MAX: u32 = 4_096;
/// How many bytes of events these hold at most, give or take what one claim takes.
const IN_HAND_BYTES_MAX: u64 = 256 << 20;
/// How large an event may be: what is claimed is taken to be so large until it is known.
const EVENT_BYTES_MAX: u64 = 1 << 20;
/// How long a delivery waits whose endpoint is another tenant's, where a newer document may say otherwise, in microseconds.
const STRANGER_PAUSE: i64 = 5_000_000;
/// How many deliveries are claimed at once.
const CLAIM_MAX: u32 = 256;
/// How long what is not sent is held: until it is settled.
const SPAN_MIN: Duration = Duration::from_secs(30);
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

#[derive(Default)]
struct InHand {
    all: u32,
    bytes: u64,
    by_tenant: HashMap<TenantId, Had>,
}

/// What of a tenant is in hand.
#[derive(Clone, Copy, Default)]
struct Had {
    count: u32,
    bytes: u64,
}

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

/// The place of a delivery that is in hand, until it is settled.
pub(crate) struct Place {
    lanes: Arc<Lanes>,
    /// Whom it counts for: whose the endpoint is.
    tenant: TenantId,
    bytes: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.lanes.inner();
        inner.in_hand.all = inner.in_hand.all.saturating_sub(1);
        inner.in_hand.bytes = inner.in_hand.bytes.saturating_sub(self.bytes);
        if let Some(had) = inner.in_hand.by_tenant.get_mut(&self.tenant) {
            had.count = had.count.saturating_sub(1);
            had.bytes = had.bytes.saturating_sub(self.bytes);
            if had.count == 0 {
                inner.in_hand.by_tenant.remove(&self.tenant);
            }
        }
        if !inner.rounds.is_empty() {
            self.lanes.look.notify_one();
        }
    }
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
            inner.in_hand.all += most;
            inner.in_hand.by_tenant.entry(tenant.clone()).or_default().count += most;
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
            inner.give_back(tenant, most.saturating_sub(got));
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.took(*most, got, (got > 0).then_some(last), claim.began);
            }
        }
        let of: HashMap<&EndpointId, &TenantId> =
            claim.grants.iter().map(|grant| (&grant.endpoint, &grant.tenant)).collect();
        let due = held.into_iter().map(|delivery| {
            let tenant = of.get(&delivery.endpoint).copied().unwrap_or(&delivery.tenant).clone();
            let bytes = delivery.content.len() as u64;
            inner.in_hand.bytes += bytes;
            inner.in_hand.by_tenant.entry(tenant.clone()).or_default().bytes += bytes;
            let place = Place { lanes: self.clone(), tenant, bytes };
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
            inner.give_back(tenant, *most);
            if let Some(lane) = inner.lanes.get_mut(endpoint) {
                lane.took_nothing(*most);
            }
            inner.look_at(endpoint, now);
        }
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
            in_hand: inner.in_hand.all,
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

    /// Shares what room there is. A tenant gets at most half of what the others leave beyond what it has, so that some room is
    /// always free for whoever comes next; so does a lane within its tenant. The same holds for bytes, where what is claimed
    /// counts as the largest there may be.
    fn grant(&mut self, now: i64) -> Vec<Grant> {
        let Self { rounds, lanes, in_hand, live, .. } = self;
        let free = IN_HAND_MAX.saturating_sub(in_hand.all);
        let free_bytes = IN_HAND_BYTES_MAX.saturating_sub(in_hand.bytes);
        let had = |tenant: &TenantId| in_hand.by_tenant.get(tenant).copied().unwrap_or_default();
        let beyond = |tenant: &TenantId| free.saturating_sub(had(tenant).count);
        let within_bytes = |tenant: &TenantId| {
            let beyond = free_bytes.saturating_sub(had(tenant).bytes);
            u32::try_from(beyond.div_ceil(2 * EVENT_BYTES_MAX)).unwrap_or(u32::MAX)
        };
        let mut later = Vec::new();
        let grants = rounds.grant(
            free.min(CLAIM_MAX),
            |tenant| beyond(tenant).div_ceil(2).min(within_bytes(tenant)),
            |tenant, endpoint| match lanes.get(endpoint).map(|lane| (lane, lane.want(*live, now))) {
                Some((lane, Want::Now(want))) => {
                    want.min(beyond(tenant).saturating_sub(lane.under_way).div_ceil(2).max(1))
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

    /// So much of a tenant's room was not needed.
    fn give_back(&mut self, tenant: &TenantId, unused: u32) {
        self.in_hand.all = self.in_hand.all.saturating_sub(unused);
        if let Some(had) = self.in_hand.by_tenant.get_mut(tenant) {
            had.count = had.count.saturating_sub(unused);
            if had.count == 0 {
                self.in_hand.by_tenant.remove(tenant);
            }
        }
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
