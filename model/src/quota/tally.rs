//! The machine: all counters of one tenant and the permits that are open on them.
//!
//! Invariants: every limit of a demand is charged or none is, but those that only observe; reserving again under an open permit charges nothing more;
//! settling takes effect once. A permit that has nothing to settle (rates only) is not kept open: nobody has to end it.
//! A store in this process keeps tallies under locks; another must decide as they do.

use super::{
    Charge, Counter, CounterKey, Demand, PermitRecord, Reading, Refused, Settlement, Spent,
    Verdict, slots::Held,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// How long after a look at a counter that is in use the next one pays, in microseconds.
const LOOK_AGAIN: i64 = 1_000_000;

/// What a tenant uses.
#[derive(Debug, Default)]
pub struct Tally {
    counters: HashMap<CounterKey, Counter>,
    open: Held<PermitRecord>,
}

impl Tally {
    /// Charges all limits of the demand, or none.
    pub fn reserve(&mut self, demand: &Demand, now: i64) -> Verdict {
        let mut readings = self.peek(demand, now);
        if let Some(permit) = self.open.get(demand.permit, now) {
            let readings = readings.into_iter().map(Reading::admitted).collect();
            return Verdict::Admitted { permit: permit.clone(), readings };
        }
        if let Some(refused) = Refused::of(&readings) {
            for counted in &demand.limits {
                if let Some(Counter::Bucket(bucket)) = self.counters.get_mut(&counted.key) {
                    bucket.bound(now);
                }
            }
            return Verdict::Refused(refused);
        }
        let mut charges = Vec::new();
        for (counted, reading) in demand.limits.iter().zip(&mut readings) {
            // One that only observes: it counts as if it had refused.
            if reading.refusal.is_some() {
                continue;
            }
            let limit = &counted.limit;
            let counter = self
                .counters
                .entry(counted.key.clone())
                .or_insert_with(|| Counter::at_rest(limit.kind, demand, now));
            if let Some(taken) = counter.charge(limit, demand, now) {
                charges.push(Charge { key: counted.key.clone(), taken });
            }
            *reading = counter.check(limit, demand, now).admitted();
        }
        let tenant = demand.tenant.clone();
        let permit = PermitRecord { id: demand.permit, tenant, charges: charges.into() };
        if !permit.charges.is_empty() {
            self.open.insert(demand.permit, permit.clone(), demand.until(now), now);
        }
        Verdict::Admitted { permit, readings }
    }

    /// Ends a permit. Nothing when it was settled before or counts as lost.
    pub fn settle(&mut self, permit: &PermitRecord, settlement: Settlement, now: i64) {
        let Some((until, record)) = self.open.remove(permit.id) else { return };
        if until <= now {
            return;
        }
        for charge in &*record.charges {
            if let Some(counter) = self.counters.get_mut(&charge.key) {
                counter.settle(record.id, charge.taken, settlement, now);
            }
        }
    }

    /// What a request of this demand would find. Changes nothing.
    pub fn peek(&self, demand: &Demand, now: i64) -> Vec<Reading> {
        demand
            .limits
            .iter()
            .map(|counted| match self.counters.get(&counted.key) {
                Some(counter) => counter.check(&counted.limit, demand, now),
                None => Counter::at_rest(counted.limit.kind, demand, now).check(
                    &counted.limit,
                    demand,
                    now,
                ),
            })
            .collect()
    }

    /// Sets the demand's rates and quotas to unused. Slots stay with those who hold them.
    pub fn reset(&mut self, demand: &Demand, now: i64) {
        for counted in &demand.limits {
            match self.counters.get_mut(&counted.key) {
                Some(counter @ (Counter::Bucket(_) | Counter::Spent(_))) => {
                    *counter = Counter::at_rest(counted.limit.kind, demand, now);
                }
                Some(Counter::Slots(_)) | None => {}
            }
        }
    }

    /// Takes up a counter that was kept elsewhere. Where the same quota was counted since, both are added; anything else
    /// that was counted since stays as it is.
    pub fn restore(&mut self, key: CounterKey, kept: Counter) {
        match self.counters.entry(key) {
            Entry::Vacant(place) => {
                place.insert(kept);
            }
            Entry::Occupied(mut since) => {
                if let (Counter::Spent(since), Counter::Spent(kept)) = (since.get_mut(), kept) {
                    since.add(kept);
                }
            }
        }
    }

    /// What was used of a quota, to be kept elsewhere; `None` when there is no such counter.
    pub fn spent(&self, key: &CounterKey) -> Option<Spent> {
        match self.counters.get(key)? {
            Counter::Spent(spent) => Some(*spent),
            Counter::Bucket(_) | Counter::Slots(_) => None,
        }
    }

    /// Forgets the counter if nothing of it is used; otherwise says when to look again, in microseconds since the epoch.
    pub fn evict(&mut self, key: &CounterKey, now: i64) -> Option<i64> {
        let counter = self.counters.get(key)?;
        if counter.is_at_rest(now) {
            self.counters.remove(key);
            return None;
        }
        Some(counter.rests_at().max(now.saturating_add(LOOK_AGAIN)))
    }

    /// When to look whether the counter may be forgotten; `None` when there is no such counter.
    pub fn rests_at(&self, key: &CounterKey) -> Option<i64> {
        self.counters.get(key).map(Counter::rests_at)
    }

    /// How many counters are kept.
    pub fn counters(&self) -> usize {
        self.counters.len()
    }

    /// Whether this counter is kept.
    pub fn has(&self, key: &CounterKey) -> bool {
        self.counters.contains_key(key)
    }

    /// How many permits are open.
    pub fn open(&self, now: i64) -> usize {
        self.open.live(now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Calendar, Counted, Kind, Limit, LimitMode, OnStoreError, Part, Per, PermitId, Wait,
    };
    use super::*;
    use crate::error::ErrorCode;
    use std::sync::Arc;

    const NOW: i64 = 1_800_000_000_000_000;
    const SECOND: i64 = 1_000_000;

    fn rate(text: &str, burst: u32) -> Kind {
        Kind::Rate { rate: text.parse().unwrap(), burst }
    }

    fn quota(text: &str) -> Kind {
        Kind::Quota(text.parse().unwrap())
    }

    fn demand(permit: u128, cost: u32, limits: &[(&str, Kind)]) -> Demand {
        let counted = |(id, kind): &(&str, Kind)| Counted {
            key: CounterKey { limit: (*id).into(), part: Part::Tenant },
            limit: Arc::new(Limit {
                id: (*id).into(),
                kind: *kind,
                per: Per::Tenant,
                exact: false,
                mode: LimitMode::Enforce,
                on_store_error: OnStoreError::Closed,
            }),
        };
        Demand {
            permit: PermitId(permit),
            tenant: "acme".into(),
            calendar: Calendar::UTC,
            costs_later: false,
            cost,
            permit_ttl: 40 * SECOND,
            limits: limits.iter().map(counted).collect(),
        }
    }

    fn used(tally: &Tally, demand: &Demand, now: i64) -> Vec<u64> {
        tally.peek(demand, now).iter().map(|reading| reading.used).collect()
    }

    fn permit(verdict: Verdict) -> PermitRecord {
        match verdict {
            Verdict::Admitted { permit, .. } => permit,
            Verdict::Refused(refused) => panic!("refused: {refused:?}"),
        }
    }

    #[test]
    fn a_refused_request_consumes_nothing() {
        // Whichever limit refuses, and wherever it stands in the plan.
        let all =
            [("burst", rate("1/s", 5)), ("daily", quota("5/day")), ("open", Kind::Concurrency(5))];
        for refusing in 0..3 {
            let mut limits = all;
            limits[refusing].1 = [rate("1/s", 1), quota("1/day"), Kind::Concurrency(1)][refusing];
            let mut tally = Tally::default();
            permit(tally.reserve(&demand(1, 1, &limits), NOW));
            let Verdict::Refused(refused) = tally.reserve(&demand(2, 1, &limits), NOW) else {
                panic!("{refusing}: admitted")
            };
            assert_eq!(refused.cause().id.as_str(), all[refusing].0);
            assert_eq!(used(&tally, &demand(3, 1, &limits), NOW), [1, 1, 1], "{refusing}");
            assert_eq!(refused.readings().len(), 3);
            assert_eq!(tally.open(NOW), 1);
        }
    }

    #[test]
    fn what_was_kept_is_added_to_what_was_counted_since_in_the_same_window() {
        let limits = [("daily", quota("100/day")), ("weekly", quota("100/week"))];
        let charged = |cost, now| {
            let mut tally = Tally::default();
            permit(tally.reserve(&demand(1, cost, &limits), now));
            tally
        };
        let day = 24 * 3600 * SECOND;
        for (kept_at, since, expected) in [
            // Nothing was counted since.
            (NOW, None, [7, 7]),
            (NOW, Some(NOW + SECOND), [10, 10]),
            // The day is over; the week is not.
            (NOW, Some(NOW + day), [3, 10]),
            (NOW, Some(NOW + 14 * day), [3, 3]),
        ] {
            let kept = charged(7, kept_at);
            let mut tally = since.map_or_else(Tally::default, |at| charged(3, at));
            for counted in demand(2, 1, &limits).limits {
                let spent = kept.spent(&counted.key).unwrap();
                tally.restore(counted.key, Counter::Spent(spent));
            }
            let now = since.unwrap_or(kept_at);
            assert_eq!(used(&tally, &demand(2, 1, &limits), now), expected, "{since:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_limit_that_admits_last() {
        let limits = [
            ("burst", rate("1/s", 1)),
            ("slow", rate("1/min", 1)),
            ("daily", quota("1/day")),
            ("open", Kind::Concurrency(1)),
        ];
        let mut tally = Tally::default();
        permit(tally.reserve(&demand(1, 1, &limits), NOW));
        for (limits, code, cause, seconds) in [
            (&limits[..1], ErrorCode::RateLimited, "burst", Some(1)),
            (&limits[..2], ErrorCode::RateLimited, "slow", Some(60)),
            // 2027-01-15T08:00Z: sixteen hours until midnight.
            (&limits[..], ErrorCode::QuotaExceeded, "daily", Some(16 * 3600)),
            (&limits[3..], ErrorCode::ConcurrencyLimited, "open", Some(1)),
        ] {
            let Verdict::Refused(refused) = tally.reserve(&demand(2, 1, limits), NOW) else {
                panic!("admitted")
            };
            assert_eq!(refused.code(), code);
            assert_eq!(refused.cause().id.as_str(), cause);
            assert_eq!(refused.retry_after(), seconds);
        }
        let Verdict::Refused(refused) = tally.reserve(&demand(2, 2, &limits), NOW) else {
            panic!("admitted")
        };
        assert_eq!(refused.retry_after(), None, "a cost above a limit never fits");
        assert_eq!(refused.cause().refusal, Some(Wait::Forever));
    }

    #[test]
    fn cost_weighs_rates_and_quotas_and_takes_one_slot() {
        let limits = [
            ("burst", rate("1/s", 10)),
            ("daily", quota("10/day")),
            ("open", Kind::Concurrency(10)),
        ];
        let mut tally = Tally::default();
        permit(tally.reserve(&demand(1, 5, &limits), NOW));
        assert_eq!(used(&tally, &demand(2, 1, &limits), NOW), [5, 5, 1]);
        permit(tally.reserve(&demand(2, 0, &limits), NOW));
        assert_eq!(used(&tally, &demand(3, 1, &limits), NOW), [5, 5, 2]);
    }

    #[test]
    fn settling_keeps_rates_frees_slots_and_gives_quotas_back_only_on_refund() {
        let limits = [
            ("burst", rate("1/h", 10)),
            ("daily", quota("10/day")),
            ("open", Kind::Concurrency(10)),
        ];
        for (settlement, after) in
            [(Settlement::Commit, [3, 3, 0]), (Settlement::Refund, [3, 0, 0])]
        {
            let mut tally = Tally::default();
            let asked = demand(1, 3, &limits);
            let permit = permit(tally.reserve(&asked, NOW));
            assert_eq!(used(&tally, &asked, NOW), [3, 3, 1]);
            for _ in 0..2 {
                tally.settle(&permit, settlement, NOW);
                assert_eq!(used(&tally, &asked, NOW), after, "{settlement:?}");
            }
        }
    }

    #[test]
    fn a_permit_is_charged_once_and_settled_once() {
        let limits = [("daily", quota("10/day")), ("burst", rate("1/h", 10))];
        let mut tally = Tally::default();
        let asked = demand(1, 3, &limits);
        let first = permit(tally.reserve(&asked, NOW));
        assert_eq!(permit(tally.reserve(&asked, NOW)), first);
        assert_eq!(used(&tally, &asked, NOW), [3, 3]);
        let other = permit(tally.reserve(&demand(2, 4, &limits), NOW));
        tally.settle(&first, Settlement::Refund, NOW);
        tally.settle(&first, Settlement::Refund, NOW);
        assert_eq!(used(&tally, &asked, NOW), [4, 7]);
        tally.settle(&other, Settlement::Commit, NOW);
        tally.settle(&other, Settlement::Refund, NOW);
        assert_eq!(used(&tally, &asked, NOW), [4, 7]);
    }

    #[test]
    fn a_lost_permit_frees_its_slot_and_keeps_its_charge() {
        let limits = [("daily", quota("10/day")), ("open", Kind::Concurrency(1))];
        let mut tally = Tally::default();
        let lost = permit(tally.reserve(&demand(1, 3, &limits), NOW));
        let later = NOW + 40 * SECOND;
        // Whoever settles it late changes nothing, also when nobody looked at it meanwhile.
        let mut late = Tally::default();
        let alone = permit(late.reserve(&demand(1, 3, &limits), NOW));
        late.settle(&alone, Settlement::Refund, later);
        assert_eq!(used(&late, &demand(3, 1, &limits), later), [3, 0]);
        assert!(matches!(tally.reserve(&demand(2, 3, &limits), later - 1), Verdict::Refused(_)));
        permit(tally.reserve(&demand(2, 3, &limits), later));
        tally.settle(&lost, Settlement::Refund, later);
        assert_eq!(used(&tally, &demand(3, 1, &limits), later), [6, 1]);
    }

    #[test]
    fn a_limit_of_another_kind_under_the_same_id_starts_anew() {
        let mut tally = Tally::default();
        let held = permit(tally.reserve(&demand(1, 5, &[("x", quota("10/day"))]), NOW));
        let edited = demand(2, 1, &[("x", rate("1/s", 10))]);
        assert_eq!(used(&tally, &edited, NOW), [0]);
        permit(tally.reserve(&edited, NOW));
        tally.settle(&held, Settlement::Refund, NOW);
        assert_eq!(used(&tally, &edited, NOW), [1]);
    }

    #[test]
    fn what_is_at_rest_can_be_forgotten_and_what_is_in_use_can_not() {
        for (kind, rests) in [
            (rate("1/s", 10), 3 * SECOND + 1),
            (quota("10/day"), 16 * 3600 * SECOND),
            (Kind::Concurrency(1), 40 * SECOND),
        ] {
            let mut tally = Tally::default();
            let asked = demand(1, 3, &[("x", kind)]);
            permit(tally.reserve(&asked, NOW));
            let key = &asked.limits[0].key;
            assert!(tally.evict(key, NOW + rests - 1).is_some(), "{kind:?}");
            assert!(tally.has(key));
            assert_eq!(tally.evict(key, NOW + rests), None);
            assert!(!tally.has(key), "{kind:?}");
        }
    }

    #[test]
    fn an_operator_resets_what_was_used_but_not_what_is_held() {
        let limits = [
            ("burst", rate("1/h", 10)),
            ("daily", quota("10/day")),
            ("open", Kind::Concurrency(2)),
        ];
        let mut tally = Tally::default();
        permit(tally.reserve(&demand(1, 10, &limits), NOW));
        tally.reset(&demand(2, 1, &limits), NOW);
        assert_eq!(used(&tally, &demand(3, 1, &limits), NOW), [0, 0, 1]);
    }
}
