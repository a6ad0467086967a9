//! One endpoint's lane, as this process sees it: how much of it may be taken now, or when.
//!
//! Invariant: what is granted and what is under way together never exceed the lane's share of the endpoint's concurrency, and
//! no more attempts begin than its rate, its breaker and what the endpoint asked for allow. None of these burns an attempt.

use crate::compile::Endpoint;
use jiff::Timestamp;
use model::id::{EndpointId, TenantId};
use model::quota::{Bucket, Rate, Wait};
use model::webhook::breaker::{Begun, Breaker, Room, Sign, Turn};
use model::webhook::budget::RetryBudget;
use model::webhook::policy::Class;
use model::webhook::schedule::RETRY_AFTER_MAX;
use model::webhook::{Disabled, HeldDelivery, Next, Reason, Standing};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How many due times of a lane are remembered; a sweep of the store finds the rest.
const DUES_MAX: usize = 64;
/// How much later than it is due something is asked for, in microseconds, so that it is not asked for too early.
const DUE_SLACK: i64 = 3_000;
/// How much of a lane is parked at once.
const PARK_BATCH: u32 = 256;
/// How long an endpoint must be unknown, or disabled by the document, before what it has is parked, in microseconds: a
/// revision may still be on its way.
pub(super) const REMOVED_PATIENCE: i64 = 10_000_000;
/// How far reading begins before what is known to be gone, in microseconds: a transaction may commit later than its time.
const LOW_WATER_MARGIN: i64 = 5_000_000;

/// A lane. Time is the store's, in microseconds since the epoch.
pub(super) struct Lane {
    pub(super) tenant: TenantId,
    /// The endpoint; none where the document has no such.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// When it was known for sure that what is due here is parked: what became due since may not be.
    pub(super) sure_at: Option<i64>,
    /// Since when it is here.
    pub(super) since: i64,
    /// When it is looked at again.
    pub(super) alarm: Option<i64>,
    /// When something is known to be due.
    dues: BTreeSet<i64>,
    low_water: i64,
    /// Granted; the store is being asked for it.
    pub(super) granted: u32,
    pub(super) under_way: u32,
    bucket: Option<Bucket>,
    breaker: Breaker,
    budget: Option<RetryBudget>,
    /// Until when the endpoint asked to be left alone.
    left_alone_until: i64,
    health: Health,
}

/// What is kept of a lane in the store.
#[derive(Default)]
struct Health {
    failing_since: Option<i64>,
    disabled: Option<Disabled>,
    /// When it last changed.
    at: i64,
    is_dirty: bool,
}

/// How much of a lane may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// So many, now.
    Now(u32),
    /// Something, at this time.
    At(i64),
    /// Nothing, until something happens.
    Nothing,
}

/// Whether an endpoint's id is another tenant's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangedHands {
    Yes,
    No,
}

/// An attempt that is about to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    begun: Begun,
    is_retry: bool,
}

/// What came of an attempt, as far as it concerns its lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) class: Class,
    pub(crate) next: Next,
    /// `Retry-After`.
    pub(crate) asked: Option<Duration>,
    /// Whether it says anything of the endpoint: one that was cut off does not.
    pub(crate) tells: Tells,
    pub(crate) at: i64,
}

/// Whether an attempt says anything of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    Something,
    Nothing,
}

impl Lane {
    pub(super) fn new(tenant: TenantId, endpoint: Option<Arc<Endpoint>>, now: i64) -> Self {
        Self {
            tenant,
            endpoint,
            sure_at: None,
            since: now,
            alarm: None,
            dues: BTreeSet::new(),
            low_water: i64::MIN,
            granted: 0,
            under_way: 0,
            bucket: None,
            breaker: Breaker::default(),
            budget: None,
            left_alone_until: i64::MIN,
            health: Health::default(),
        }
    }

    /// From now on this is the endpoint. Of one that another tenant has by now, nothing is known of how it stands.
    pub(super) fn serve(&mut self, endpoint: Option<Arc<Endpoint>>) -> ChangedHands {
        let mut changed_hands = ChangedHands::No;
        if let Some(endpoint) = &endpoint
            && endpoint.tenant != self.tenant
        {
            self.tenant = endpoint.tenant.clone();
            self.breaker.adopt(None, 0);
            self.budget = None;
            self.left_alone_until = i64::MIN;
            self.health = Health::default();
            changed_hands = ChangedHands::Yes;
        }
        self.endpoint = endpoint;
        changed_hands
    }

    /// Something is due at this time.
    pub(super) fn due(&mut self, at: i64, now: i64) {
        if at <= now {
            // Of what is due by now, the latest says all there is to know.
            self.dues = self.dues.split_off(&at);
            self.dues.insert(at);
        } else {
            // The store's clock may be read in milliseconds, and is known to a millisecond or so.
            self.dues.insert(at.saturating_add(DUE_SLACK));
        }
        if self.dues.len() > DUES_MAX {
            self.dues.pop_last();
        }
    }

    /// The earliest that the store has is due at this time.
    pub(super) fn swept(&mut self, at: i64, now: i64) {
        self.low_water = self.low_water.min(at);
        self.due(at, now);
    }

    /// Why what is due here is parked; none where it is sent.
    pub(super) fn parks(&self) -> Option<Reason> {
        match &self.endpoint {
            None => Some(Reason::Removed),
            Some(endpoint) => self.refuses(endpoint),
        }
    }

    /// Why this endpoint takes nothing.
    pub(super) fn refuses(&self, endpoint: &Endpoint) -> Option<Reason> {
        match &self.health.disabled {
            Some(Disabled { reason: Reason::Gone, .. }) => Some(Reason::Gone),
            Some(_) => Some(Reason::Disabled),
            None => (!endpoint.is_enabled).then_some(Reason::Disabled),
        }
    }

    /// How much may be taken now, where one of so many dispatchers asks.
    pub(super) fn want(&self, live: u32, now: i64) -> Want {
        match self.dues.first() {
            Some(due) if *due > now => return Want::At(*due),
            Some(_) if self.granted == 0 => {}
            // It is looked at again when what was granted is taken.
            Some(_) | None => return Want::Nothing,
        }
        if self.parks().is_some() {
            return if self.sure_at.is_some() { Want::Now(PARK_BATCH) } else { Want::Nothing };
        }
        let Some(endpoint) = &self.endpoint else { return Want::Nothing };
        if self.left_alone_until > now {
            return Want::At(self.left_alone_until);
        }
        let slots = (endpoint.concurrency / live.max(1)).max(1);
        let free = slots.saturating_sub(self.under_way);
        let free = match self.breaker.room(now) {
            Room::Any => free,
            Room::One => free.min(1),
            Room::Probing => 0,
            Room::Until(until) => return Want::At(until),
        };
        match (free, endpoint.rate.map(|rate| self.rate_left(rate.share(live.max(1)), now))) {
            (0, _) => Want::Nothing,
            (_, Some(Err(at))) => Want::At(at),
            (free, Some(Ok(left))) => Want::Now(free.min(left)),
            (free, None) => Want::Now(free),
        }
    }

    /// How many attempts may begin by the rate, or when one may.
    fn rate_left(&self, rate: Rate, now: i64) -> Result<u32, i64> {
        let burst = Endpoint::burst(rate);
        let Some(bucket) = &self.bucket else { return Ok(burst) };
        match bucket.refusal(rate, burst, 1, now) {
            Some(Wait::For(micros)) => Err(now.saturating_add(micros)),
            // A burst is at least one.
            Some(Wait::Forever) => Err(i64::MAX),
            None => {
                let left = bucket.level(rate, burst, now).remaining;
                Ok(u32::try_from(left).unwrap_or(u32::MAX).max(1))
            }
        }
    }

    /// Where reading begins.
    pub(super) fn low_water(&self) -> Timestamp {
        timestamp(self.low_water)
    }

    /// Whether what is due here can be judged: by the store's word at once, by the document's once it was in force for long
    /// enough that no newer one is on its way.
    pub(super) fn is_to_be_sure(&self, now: i64) -> bool {
        let waited = now.saturating_sub(self.since) >= REMOVED_PATIENCE;
        self.parks().is_some() && (self.health.disabled.is_some() || waited)
    }

    /// What becomes of a delivery that was taken though nothing is sent from here.
    pub(super) fn instead(&self, reason: Reason, due_at: Timestamp) -> Next {
        let sure = self.sure_at.map(|at| at.saturating_sub(DUE_SLACK));
        match sure.is_some_and(|sure| due_at.as_microsecond() <= sure) {
            true => Next::Parked(reason),
            false => Next::Due(due_at),
        }
    }

    /// The store was asked for so many at this time, and gave so many, of which the last was due at `last`.
    pub(super) fn took(&mut self, asked: u32, got: u32, last: Option<i64>, began: i64) {
        self.granted = self.granted.saturating_sub(asked);
        if got < asked {
            self.dues = self.dues.split_off(&began.saturating_add(1));
            self.low_water = self.low_water.max(began.saturating_sub(LOW_WATER_MARGIN));
        } else if let Some(last) = last {
            self.low_water = self.low_water.max(last.saturating_sub(LOW_WATER_MARGIN));
        }
    }

    /// The store could not be asked.
    pub(super) fn took_nothing(&mut self, asked: u32) {
        self.granted = self.granted.saturating_sub(asked);
    }

    /// An attempt is to begin: it does, or is postponed for so many microseconds since the retry budgets are spent. After one
    /// that was lost, for no fault of the endpoint, it takes nothing from them.
    pub(super) fn start(
        &mut self,
        held: &HeldDelivery,
        in_all: &mut InAll<'_>,
        now: i64,
    ) -> Result<Started, i64> {
        let Some(endpoint) = self.endpoint.clone() else { return Err(0) };
        let is_retry = held.attempt > 1 && !held.is_lost;
        let budget = self.budget.get_or_insert_with(|| RetryBudget::full(&endpoint.budget, now));
        let is_probe = self.breaker.room(now) == Room::One;
        match (is_retry, is_probe) {
            (false, _) if held.is_lost => {}
            (false, _) => {
                budget.first(&endpoint.budget);
                in_all.budget.first(in_all.rules);
            }
            // What tells whether the endpoint is back is not held up.
            (true, true) => {}
            (true, false) => {
                budget.retry(&endpoint.budget, now)?;
                if let Err(wait) = in_all.budget.retry(in_all.rules, now) {
                    budget.unspent(&endpoint.budget);
                    return Err(wait);
                }
            }
        }
        if let Some(rate) = endpoint.rate.map(|rate| rate.share(in_all.live.max(1))) {
            let burst = Endpoint::burst(rate);
            let bucket = self.bucket.get_or_insert_with(|| Bucket::at_rest(rate, burst));
            bucket.charge(rate, burst, 1, now);
        }
        self.under_way += 1;
        Ok(Started { begun: self.breaker.begin(now), is_retry })
    }

    /// An attempt has ended. Yields why the endpoint is to be disabled, if it is.
    pub(super) fn end(
        &mut self,
        started: Started,
        ending: &Ending,
        in_all: &mut InAll<'_>,
    ) -> Option<Reason> {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(endpoint) = self.endpoint.clone() else {
            // Nobody would hear what became of a probe.
            self.breaker.adopt(None, 0);
            return None;
        };
        let now = ending.at;
        let sign = match (ending.tells, ending.class) {
            (Tells::Nothing, _) | (_, Class::Gone) => Sign::None,
            (_, Class::Delivered | Class::Permanent) => Sign::Well,
            (_, Class::Transient | Class::Throttled) => Sign::Unwell,
        };
        if let Some(turn) = self.breaker.end(&endpoint.breaker, started.begun, sign, now) {
            self.turned(&endpoint.id, turn, now);
        }
        if ending.tells == Tells::Nothing {
            return None;
        }
        if ending.class == Class::Delivered {
            if started.is_retry
                && let Some(budget) = &mut self.budget
            {
                budget.succeeded(&endpoint.budget);
                in_all.budget.succeeded(in_all.rules);
            }
            if self.health.failing_since.take().is_some() {
                self.changed(now);
            }
            return None;
        }
        if self.health.failing_since.is_none() {
            self.health.failing_since = Some(now);
            self.changed(now);
        }
        if let (Class::Throttled, Some(asked)) = (ending.class, ending.asked) {
            let asked = micros(asked.min(RETRY_AFTER_MAX));
            self.left_alone_until = self.left_alone_until.max(now.saturating_add(asked));
        }
        self.is_to_be_disabled(&endpoint, ending)
    }

    fn is_to_be_disabled(&self, endpoint: &Endpoint, ending: &Ending) -> Option<Reason> {
        let since = self.health.failing_since.unwrap_or(ending.at);
        let failed_for = ending.at.saturating_sub(since);
        match (ending.class, ending.next) {
            _ if self.health.disabled.is_some() => None,
            (Class::Gone, _) => Some(Reason::Gone),
            (_, Next::Dead { reason: Reason::Exhausted, .. })
                if failed_for >= micros(endpoint.disable_after) =>
            {
                Some(Reason::Exhausted)
            }
            _ => None,
        }
    }

    fn turned(&mut self, endpoint: &EndpointId, turn: Turn, now: i64) {
        match turn {
            Turn::Opened(until) => {
                let seconds = until.saturating_sub(now) / 1_000_000;
                tracing::warn!(%endpoint, seconds, "an endpoint is left alone: too many attempts failed");
            }
            Turn::Closed => tracing::info!(%endpoint, "an endpoint is well again"),
        }
        self.changed(now);
    }

    fn changed(&mut self, now: i64) {
        // Of two changes the later one holds, also within a microsecond.
        self.health.at = now.max(self.health.at.saturating_add(1));
        self.health.is_dirty = true;
    }

    /// It is disabled from now on.
    pub(super) fn disable(&mut self, reason: Reason, now: i64) {
        self.changed(now);
        let since = timestamp(now);
        self.health.disabled = Some(Disabled { reason, since });
    }

    /// Takes what another dispatcher or an operator wrote, where it is newer.
    pub(super) fn adopt(&mut self, standing: &Standing) {
        let at = standing.at.as_microsecond();
        if at <= self.health.at {
            return;
        }
        self.health.failing_since = standing.failing_since.map(Timestamp::as_microsecond);
        self.health.at = at;
        self.health.is_dirty = false;
        self.breaker.adopt(standing.open_until.map(Timestamp::as_microsecond), standing.opened);
    }

    /// Whether it is disabled is the store's to say, whatever else is newer here.
    pub(super) fn adopt_disabled(&mut self, standing: &Standing) {
        self.health.disabled.clone_from(&standing.disabled);
    }

    /// What is to be kept, where it changed since this was last asked.
    pub(super) fn changed_standing(&mut self, id: &EndpointId) -> Option<Standing> {
        std::mem::take(&mut self.health.is_dirty).then(|| self.standing(id))
    }

    /// What could not be kept is asked for again.
    pub(super) fn unkept(&mut self) {
        self.health.is_dirty = true;
    }

    /// How it stands.
    pub(super) fn standing(&self, id: &EndpointId) -> Standing {
        Standing {
            endpoint: id.clone(),
            tenant: self.tenant.clone(),
            failing_since: self.health.failing_since.map(timestamp),
            open_until: self.breaker.open_until().map(timestamp),
            opened: self.breaker.opened(),
            disabled: self.health.disabled.clone(),
            at: timestamp(self.health.at),
        }
    }

    /// Whether its breaker is not closed.
    pub(super) fn is_open(&self) -> bool {
        self.breaker.opened() > 0
    }

    /// Whether it is disabled, by the store's word.
    pub(super) fn is_disabled(&self) -> bool {
        self.health.disabled.is_some()
    }

    /// Whether nothing of it needs to be remembered.
    pub(super) fn is_idle(&self) -> bool {
        self.dues.is_empty() && self.granted == 0 && self.under_way == 0 && !self.health.is_dirty
    }
}

/// What all lanes share.
pub(super) struct InAll<'a> {
    pub(super) budget: &'a mut RetryBudget,
    pub(super) rules: &'a model::webhook::budget::BudgetRules,
    pub(super) live: u32,
}

/// A time within what can be written.
pub(super) fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
