//! What holds for a demand while the shared counters can't answer: each limit's `on_store_error`.
//!
//! Invariants: nothing here waits; a limit that is `closed` refuses before anything is charged, and all that are `local` are
//! charged in one step or none is. Limits that only observe refuse nothing.

use super::NotGranted;
use super::groups::Group;
use crate::counters::MemoryCounters;
use model::port::StoreError;
use model::quota::{
    Counted, Counter, Demand, Limit, LimitMode, OnStoreError, PermitRecord, Reading, Refused,
    Verdict,
};
use std::sync::Arc;

/// One demand, decided by this node alone.
pub(super) struct Alone<'a> {
    /// The counters of this node's shares.
    pub(super) counters: &'a MemoryCounters,
    /// What is known of the shared ones.
    pub(super) group: Option<&'a Group>,
    /// Between how many nodes limits are shared.
    pub(super) nodes: u32,
    /// What is asked.
    pub(super) demand: &'a Demand,
    /// When.
    pub(super) now: i64,
}

impl Alone<'_> {
    /// Charges the shares of all limits that are `local`, or none. Yields what there is to settle here, and every limit.
    pub(super) fn decide(
        &self,
        error: StoreError,
    ) -> Result<(Option<PermitRecord>, Vec<Reading>), NotGranted> {
        if let Some(limit) = closed(&self.demand.limits) {
            let limit = limit.id.clone();
            let readings = self.peek().into_iter().map(Reading::admitted).collect();
            return Err(NotGranted::Closed { limit, error, readings });
        }
        let shares = self.shares();
        if shares.limits.is_empty() {
            return Ok((None, self.readings(Vec::new())));
        }
        let first = |counted: &Counted| self.first(counted);
        let charged = match self.counters.reserve_from(&shares, self.now, first) {
            Ok(Verdict::Admitted { permit, readings }) => Ok((Some(permit), readings)),
            Ok(Verdict::Refused(refused)) => Err(Box::new(refused)),
            Err(_) => {
                let part = self.counters.countable(&shares, self.now);
                charge_part(self.counters, &shares, &part, self.now)
            }
        };
        match charged {
            Ok((permit, readings)) => {
                let permit = permit.filter(|permit| !permit.charges.is_empty());
                Ok((permit, self.readings(readings)))
            }
            Err(refused) => {
                let readings = self.readings(refused.readings().to_vec());
                Err(NotGranted::Refused(Refused::of(&readings).map_or(refused, Box::new)))
            }
        }
    }

    /// Every limit as this node sees it.
    pub(super) fn peek(&self) -> Vec<Reading> {
        let first = |counted: &Counted| self.first(counted);
        self.readings(self.counters.peek_from(&self.shares(), self.now, first))
    }

    /// The demand's limits that are `local`, each with this node's share.
    fn shares(&self) -> Demand {
        let local = self.demand.limits.iter().filter(|counted| mode(&counted.limit) == Mode::Local);
        let share = |counted: &Counted| {
            let kind = counted.limit.kind.share(self.nodes);
            let limit = Arc::new(Limit { kind, ..Limit::clone(&counted.limit) });
            Counted { key: counted.key.clone(), limit }
        };
        let limits = local.map(share).collect();
        Demand {
            limits,
            calendar: self.demand.calendar.clone(),
            tenant: self.demand.tenant.clone(),
            ..*self.demand
        }
    }

    /// How a share begins: with its part of what remained when the store last said something.
    fn first(&self, share: &Counted) -> Option<Counter> {
        let whole = self.demand.limits.iter().find(|counted| counted.key == share.key)?;
        let known = self.group?.known(&share.key)?;
        known.share(whole.limit.kind, self.nodes, self.demand, self.now)
    }

    /// Every limit in the demand's order: the shares as they read, when they were counted, and the others as nobody counts
    /// them.
    fn readings(&self, shares: Vec<Reading>) -> Vec<Reading> {
        let mut shares = shares.into_iter();
        let reading = |counted: &Counted| {
            let limit = &counted.limit;
            let (counted, how) = match mode(limit) {
                Mode::Local => (shares.next(), OnStoreError::Local),
                Mode::Open => (None, OnStoreError::Open),
                Mode::Closed => (None, OnStoreError::Closed),
            };
            match counted {
                Some(reading) => Reading { degraded: reading.degraded.or(Some(how)), ..reading },
                None if how == OnStoreError::Closed => unused(limit, how, self.demand, self.now),
                None => unused(limit, OnStoreError::Open, self.demand, self.now),
            }
        };
        self.demand.limits.iter().map(reading).collect()
    }
}

/// A demand for which there is no room: what has a counter is charged by it, or none of that is, and each other limit does
/// what its `on_store_error` says. So one that is full leaves the others as they are.
pub(super) fn in_part(
    counters: &MemoryCounters,
    demand: &Demand,
    error: StoreError,
    now: i64,
) -> Result<(Option<PermitRecord>, Vec<Reading>), NotGranted> {
    let part = counters.countable(demand, now);
    let rest = demand.limits.iter().filter(|counted| !has(&part, counted));
    if let Some(limit) = closed(rest) {
        let limit = limit.id.clone();
        let unused = |counted: &Counted| unused(&counted.limit, OnStoreError::Open, demand, now);
        let readings = demand.limits.iter().map(unused).collect();
        return Err(NotGranted::Closed { limit, error, readings });
    }
    charge_part(counters, demand, &part, now).map_err(NotGranted::Refused)
}

/// Charges this part of a demand, or nothing; every limit of the demand, the others as nobody counts them.
fn charge_part(
    counters: &MemoryCounters,
    demand: &Demand,
    part: &Demand,
    now: i64,
) -> Result<(Option<PermitRecord>, Vec<Reading>), Box<Refused>> {
    let every = |readings: Vec<Reading>| -> Vec<Reading> {
        let mut readings = readings.into_iter();
        let reading = |counted: &Counted| {
            let counts = has(part, counted).then(|| readings.next()).flatten();
            counts.unwrap_or_else(|| unused(&counted.limit, OnStoreError::Open, demand, now))
        };
        demand.limits.iter().map(reading).collect()
    };
    match counters.reserve_from(part, now, |_| None) {
        Ok(Verdict::Admitted { permit, readings }) => Ok((Some(permit), every(readings))),
        Ok(Verdict::Refused(refused)) => {
            let readings = every(refused.readings().to_vec());
            Err(Box::new(Refused::of(&readings).unwrap_or(refused)))
        }
        // Others took the room meanwhile.
        Err(_) => Ok((None, every(Vec::new()))),
    }
}

fn has(part: &Demand, counted: &Counted) -> bool {
    part.limits.iter().any(|counts| counts.key == counted.key)
}

/// The first limit that refuses when it can't be counted.
fn closed<'a>(limits: impl IntoIterator<Item = &'a Counted>) -> Option<&'a Limit> {
    limits.into_iter().map(|counted| &*counted.limit).find(|limit| mode(limit) == Mode::Closed)
}

/// A limit of which nothing is known to be used.
fn unused(limit: &Limit, how: OnStoreError, demand: &Demand, now: i64) -> Reading {
    let reading = Counter::at_rest(limit.kind, demand, now).check(limit, demand, now).admitted();
    Reading { degraded: Some(how), ..reading }
}

/// What happens to a limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Local,
    Open,
    Closed,
}

fn mode(limit: &Limit) -> Mode {
    match (limit.on_store_error, limit.mode) {
        (OnStoreError::Local, _) => Mode::Local,
        (OnStoreError::Open, _) | (OnStoreError::Closed, LimitMode::Observe) => Mode::Open,
        (OnStoreError::Closed, LimitMode::Enforce) => Mode::Closed,
    }
}
