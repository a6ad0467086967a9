//! What every store of counters does, as claims: each takes a fresh store. [`counters_suite!`](crate::counters_suite)
//! makes a test of each. [`agrees_with_the_machine`] compares long random histories with [`Tally`].

use super::{
    Calendar, Counted, CounterKey, Counters, Demand, Kind, Limit, LimitMode, OnStoreError, Part,
    Per, PermitId, PermitRecord, Reading, Settlement, Tally, Verdict,
};
use crate::port::StoreError;
use crate::suite::Dice;
use std::sync::Arc;

/// When the claims begin: 2027-01-15T08:00Z, in microseconds since the epoch.
pub const START: i64 = 1_800_000_000_000_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// How long the suite's permits last, in microseconds.
const PERMIT_TTL: i64 = 40 * SECOND;

/// Makes a test of each claim. The expression is a future of a fresh store, and of what must live as long as it; tests
/// run on tokio.
#[macro_export]
macro_rules! counters_suite {
    ($fresh:expr) => {
        $crate::counters_suite!(@claims $fresh;
            a_refused_request_consumes_nothing,
            what_admits_says_what_is_left,
            a_permit_is_charged_once_and_settled_once,
            settling_keeps_rates_frees_slots_and_gives_quotas_back_only_on_refund,
            a_lost_permit_frees_its_slot_and_keeps_its_charge,
            what_was_used_comes_back_when_it_was_said_to,
            a_clock_that_steps_back_locks_for_no_longer_than_the_burst,
            a_refund_goes_to_the_window_that_paid,
            an_edit_keeps_what_was_used,
            tenants_and_parts_do_not_share,
            looking_charges_nothing,
            an_operator_resets_what_was_used_but_not_what_is_held,
            a_limit_that_only_observes_says_so_and_refuses_nothing,
            what_an_answer_cost_in_the_end_is_charged_once,
            billing_months_begin_on_the_tenants_day,
            agrees_with_the_machine,
        );

        #[::tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn a_hundred_at_once_get_exactly_ten() {
            for kind in $crate::quota::suite::ten_of_each_kind() {
                let (store, _keep) = $fresh.await;
                let store = ::std::sync::Arc::new(store);
                let mut tasks = ::tokio::task::JoinSet::new();
                for id in 0..100 {
                    let store = ::std::sync::Arc::clone(&store);
                    tasks.spawn(async move { $crate::quota::suite::one_of_many(&*store, id, kind).await });
                }
                let admitted = tasks.join_all().await.into_iter().filter(|admitted| *admitted).count();
                assert_eq!(admitted, 10, "{kind:?}");
            }
        }
    };
    (@claims $fresh:expr; $($claim:ident,)*) => { $(
        #[::tokio::test]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::quota::suite::$claim(&store).await;
        }
    )* };
}

/// Whichever limit refuses, wherever it stands, nothing is charged.
pub async fn a_refused_request_consumes_nothing(store: &impl Counters) {
    let small = [rate("1/s", 1), quota("1/day"), Kind::Concurrency(1)];
    for (refusing, name) in ["burst", "daily", "open"].into_iter().enumerate() {
        let mut limits =
            [("burst", rate("1/s", 5)), ("daily", quota("5/day")), ("open", Kind::Concurrency(5))];
        if let (Some(limit), Some(kind)) = (limits.get_mut(refusing), small.get(refusing)) {
            limit.1 = *kind;
        }
        let ask = |id, cost| Demand { tenant: name.into(), ..demand(id, cost, &limits) };
        admitted(store.reserve(&ask(1, 1), START).await);
        match store.reserve(&ask(2, 1), START).await.expect("the store answers") {
            Verdict::Refused(refused) => assert_eq!(refused.cause().id.as_str(), name),
            Verdict::Admitted { .. } => unreachable!("{name} admits two"),
        }
        assert_eq!(used(store, &ask(3, 1), START).await, [1, 1, 1], "{name}");
    }
}

/// The readings of an admitted request are those after its charge.
pub async fn what_admits_says_what_is_left(store: &impl Counters) {
    let limits =
        [("burst", rate("50/s", 100)), ("daily", quota("10/day")), ("open", Kind::Concurrency(3))];
    let verdict = store.reserve(&demand(1, 5, &limits), START).await.expect("the store answers");
    let seen: Vec<_> = verdict.readings().iter().map(numbers).collect();
    // Sixteen hours to midnight; 5 units at 50/s come back in 100 ms.
    let midnight = 16 * 3600 * SECOND;
    let left = [(100, 5, 95, Some(100_000)), (10, 5, 5, Some(midnight)), (3, 1, 2, None)];
    assert_eq!(seen, left);
    assert!(verdict.readings().iter().all(|reading| reading.refusal.is_none()));
}

/// Reserving and settling again under the same permit changes nothing.
pub async fn a_permit_is_charged_once_and_settled_once(store: &impl Counters) {
    let limits =
        [("burst", rate("1/h", 9)), ("daily", quota("9/day")), ("open", Kind::Concurrency(9))];
    let ask = |id, cost| demand(id, cost, &limits);
    let first = admitted(store.reserve(&ask(1, 3), START).await);
    assert_eq!(admitted(store.reserve(&ask(1, 3), START).await), first);
    assert_eq!(used(store, &ask(1, 3), START).await, [3, 3, 1]);
    let second = admitted(store.reserve(&ask(2, 4), START).await);
    for _ in 0..2 {
        settle(store, &first, Settlement::Refund, START).await;
        assert_eq!(used(store, &ask(1, 3), START).await, [7, 4, 1]);
    }
    settle(store, &second, Settlement::Commit, START).await;
    settle(store, &second, Settlement::Refund, START).await;
    assert_eq!(used(store, &ask(1, 3), START).await, [7, 4, 0]);
}

/// The charging table, as a store carries it out.
pub async fn settling_keeps_rates_frees_slots_and_gives_quotas_back_only_on_refund(
    store: &impl Counters,
) {
    let limits =
        [("burst", rate("1/h", 9)), ("daily", quota("9/day")), ("open", Kind::Concurrency(9))];
    for (tenant, settlement, after) in
        [("a", Settlement::Commit, [3, 3, 0]), ("b", Settlement::Refund, [3, 0, 0])]
    {
        let ask = Demand { tenant: tenant.into(), ..demand(1, 3, &limits) };
        let permit = admitted(store.reserve(&ask, START).await);
        assert_eq!(used(store, &ask, START).await, [3, 3, 1]);
        settle(store, &permit, settlement, START).await;
        assert_eq!(used(store, &ask, START).await, after, "{settlement:?}");
    }
}

/// A permit that was never settled.
pub async fn a_lost_permit_frees_its_slot_and_keeps_its_charge(store: &impl Counters) {
    let limits = [("daily", quota("9/day")), ("open", Kind::Concurrency(1))];
    let end = START + PERMIT_TTL;
    // Whoever settles it late changes nothing, also when nobody looked at it meanwhile.
    let alone = Demand { tenant: "alone".into(), ..demand(1, 3, &limits) };
    let late = admitted(store.reserve(&alone, START).await);
    settle(store, &late, Settlement::Refund, end).await;
    assert_eq!(used(store, &alone, end).await, [3, 0]);

    let lost = admitted(store.reserve(&demand(1, 3, &limits), START).await);
    let refused = store.reserve(&demand(2, 3, &limits), end - 1).await.expect("the store answers");
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    admitted(store.reserve(&demand(2, 3, &limits), end).await);
    settle(store, &lost, Settlement::Refund, end).await;
    assert_eq!(used(store, &demand(3, 1, &limits), end).await, [6, 1]);
}

/// `reset_after` and the wait of a refusal are exact to the microsecond.
pub async fn what_was_used_comes_back_when_it_was_said_to(store: &impl Counters) {
    for (tenant, kind, back) in [
        ("a", rate("7/s", 3), 142_858),
        ("b", rate("50/s", 3), 20_000),
        ("c", quota("3/day"), 16 * 3600 * SECOND),
    ] {
        let limits = [("x", kind)];
        let ask = |id, cost| Demand { tenant: tenant.into(), ..demand(id, cost, &limits) };
        admitted(store.reserve(&ask(1, 3), START).await);
        let early = store.reserve(&ask(2, 1), START + back - 1).await.expect("the store answers");
        assert!(matches!(early, Verdict::Refused(_)), "{tenant}: {early:?}");
        admitted(store.reserve(&ask(2, 1), START + back).await);
    }
}

/// Redis after a failover, or a machine whose clock was wrong.
pub async fn a_clock_that_steps_back_locks_for_no_longer_than_the_burst(store: &impl Counters) {
    let limits = [("burst", rate("1/s", 5))];
    let ask = |id, cost| demand(id, cost, &limits);
    admitted(store.reserve(&ask(1, 1), START).await);
    let back = START - 3600 * SECOND;
    let refused = store.reserve(&ask(2, 5), back).await.expect("the store answers");
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    let early = store.reserve(&ask(3, 5), back + 5 * SECOND - 1).await.expect("the store answers");
    assert!(matches!(early, Verdict::Refused(_)), "{early:?}");
    admitted(store.reserve(&ask(4, 5), back + 5 * SECOND).await);
}

/// Giving back after midnight does not enlarge the new day.
pub async fn a_refund_goes_to_the_window_that_paid(store: &impl Counters) {
    let limits = [("daily", quota("9/day"))];
    let ask = |id, cost| Demand { permit_ttl: 2 * DAY, ..demand(id, cost, &limits) };
    let yesterday = admitted(store.reserve(&ask(1, 4), START).await);
    admitted(store.reserve(&ask(2, 5), START + DAY).await);
    settle(store, &yesterday, Settlement::Refund, START + DAY).await;
    assert_eq!(used(store, &ask(3, 1), START + DAY).await, [5]);
}

/// A plan that is edited while counters are in use.
pub async fn an_edit_keeps_what_was_used(store: &impl Counters) {
    let before =
        [("burst", rate("1/h", 9)), ("daily", quota("9/day")), ("open", Kind::Concurrency(9))];
    admitted(store.reserve(&demand(1, 6, &before), START).await);
    for (after, remaining) in [
        ([rate("1/h", 20), quota("20/day"), Kind::Concurrency(20)], [14, 14, 19]),
        ([rate("1/h", 2), quota("2/day"), Kind::Concurrency(1)], [0, 0, 0]),
        ([rate("9/s", 9), quota("9/month"), Kind::Concurrency(9)], [3, 3, 8]),
    ] {
        let [burst, daily, open] = after;
        let ask = demand(2, 1, &[("burst", burst), ("daily", daily), ("open", open)]);
        assert_eq!(used(store, &ask, START).await, [6, 6, 1], "{after:?}");
        let readings = store.peek(&ask, START).await.expect("the store answers");
        let left: Vec<_> = readings.iter().map(|reading| reading.remaining).collect();
        assert_eq!(left, remaining, "{after:?}");
    }
}

/// A counter belongs to one tenant and one part of it.
pub async fn tenants_and_parts_do_not_share(store: &impl Counters) {
    let ask = |tenant: &str, part| {
        let mut demand = demand(1, 1, &[("daily", quota("1/day"))]);
        demand.tenant = tenant.into();
        for counted in &mut demand.limits {
            counted.key.part = Part::clone(&part);
        }
        demand
    };
    let parts = [
        Part::Tenant,
        Part::Consumer("a".into()),
        Part::Consumer("b".into()),
        Part::Credential("a".into(), "b".into()),
        Part::Ip([192, 0, 2, 1].into()),
    ];
    for (id, part) in parts.into_iter().enumerate() {
        for tenant in ["acme", "globex"] {
            let permit = PermitId(id as u128);
            admitted(store.reserve(&Demand { permit, ..ask(tenant, part.clone()) }, START).await);
        }
    }
}

/// Looking, however often, is free.
pub async fn looking_charges_nothing(store: &impl Counters) {
    let ask = demand(1, 1, &[("daily", quota("1/day")), ("open", Kind::Concurrency(1))]);
    for _ in 0..3 {
        assert_eq!(used(store, &ask, START).await, [0, 0]);
    }
    admitted(store.reserve(&ask, START).await);
}

/// `POST /v1/usage/{tenant}:reset`.
pub async fn an_operator_resets_what_was_used_but_not_what_is_held(store: &impl Counters) {
    let limits =
        [("burst", rate("1/h", 9)), ("daily", quota("9/day")), ("open", Kind::Concurrency(2))];
    let permit = admitted(store.reserve(&demand(1, 9, &limits), START).await);
    store.reset(&demand(2, 0, &limits), START).await.expect("the store answers");
    assert_eq!(used(store, &demand(3, 1, &limits), START).await, [0, 0, 1]);
    // What was paid before is gone: giving it back takes nothing below nothing, and leaves room for no more.
    settle(store, &permit, Settlement::Refund, START).await;
    assert_eq!(used(store, &demand(3, 1, &limits), START).await, [0, 0, 0]);
    admitted(store.reserve(&demand(4, 9, &limits), START).await);
    let refused = store.reserve(&demand(5, 1, &limits), START).await.expect("the store answers");
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
}

/// A limit that is tried out: it counts what it would have admitted, as if it refused the rest.
pub async fn a_limit_that_only_observes_says_so_and_refuses_nothing(store: &impl Counters) {
    let limits =
        [("burst", rate("1/h", 2)), ("daily", quota("9/day")), ("open", Kind::Concurrency(2))];
    let ask = |id| observing(demand(id, 1, &limits), &["burst", "open"]);
    for (id, used, refused) in [
        (1, [1, 1, 1], [false, false, false]),
        (2, [2, 2, 2], [false, false, false]),
        (3, [2, 3, 2], [true, false, true]),
    ] {
        let verdict = store.reserve(&ask(id), START).await.expect("the store answers");
        let seen = |reading: &Reading| (reading.used, reading.refusal.is_some());
        let seen: Vec<_> = verdict.readings().iter().map(seen).collect();
        assert_eq!(seen, used.into_iter().zip(refused).collect::<Vec<_>>(), "{id}");
        let permit = admitted(Ok::<_, StoreError>(verdict));
        let names = permit.charges.iter().map(|charge| charge.key.limit.as_str());
        let slot = if refused.contains(&true) { None } else { Some("open") };
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["daily"].into_iter().chain(slot).collect::<Vec<_>>()
        );
    }
    // One that enforces refuses for all.
    let ask = observing(demand(4, 7, &limits), &["burst", "open"]);
    let refused = store.reserve(&ask, START).await.expect("the store answers");
    match &refused {
        Verdict::Refused(refused) => assert_eq!(refused.cause().id.as_str(), "daily"),
        Verdict::Admitted { .. } => unreachable!("3 and 7 are more than 9"),
    }
    assert_eq!(used(store, &ask, START).await, [2, 3, 2]);
}

/// `cost_from_response_header`.
pub async fn what_an_answer_cost_in_the_end_is_charged_once(store: &impl Counters) {
    let limits =
        [("burst", rate("1/h", 9)), ("daily", quota("20/day")), ("open", Kind::Concurrency(2))];
    for (tenant, actual, after) in [
        ("less", 1, [3, 1, 0]),
        ("equal", 3, [3, 3, 0]),
        ("more", 5, [5, 5, 0]),
        ("most", 90, [9, 90, 0]),
    ] {
        let ask = Demand { tenant: tenant.into(), costs_later: true, ..demand(1, 3, &limits) };
        let permit = admitted(store.reserve(&ask, START).await);
        for _ in 0..2 {
            settle(store, &permit, Settlement::Cost(actual), START).await;
            assert_eq!(used(store, &ask, START).await, after, "{tenant}");
        }
        // No more is owed than the burst.
        let whole = Demand { limits: ask.limits.get(..1).unwrap_or_default().to_vec(), ..ask };
        assert_eq!(used(store, &whole, START + 9 * 3600 * SECOND).await, [0], "{tenant}");
    }
}

/// From the 31st, or the last day of a shorter month, in the tenant's time zone.
pub async fn billing_months_begin_on_the_tenants_day(store: &impl Counters) {
    let limits = [("bill", quota("9/billing_month"))];
    // START is 15 January 2027, 08:00 UTC; the 31st is sixteen days on, minus the eight hours.
    let begins = START + 16 * DAY - 8 * 3600 * SECOND;
    let calendar = Calendar { billing_day: 31, ..Calendar::UTC };
    let ask = |id| Demand { calendar: calendar.clone(), ..demand(id, 5, &limits) };
    admitted(store.reserve(&ask(1), START).await);
    let refused = store.reserve(&ask(2), begins - 1).await.expect("the store answers");
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    admitted(store.reserve(&ask(2), begins).await);
    // The next one begins on 28 February.
    let refused = store.reserve(&ask(3), begins + 28 * DAY - 1).await.expect("the store answers");
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    admitted(store.reserve(&ask(3), begins + 28 * DAY).await);
}

/// Long random histories of reserving, settling, resetting, looking and editing; every answer is that of [`Tally`].
pub async fn agrees_with_the_machine(store: &impl Counters) {
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let tenant = format!("history-{seed}");
        let mut tally = Tally::default();
        let mut now = START;
        let mut permits = Vec::new();
        for step in 0..STEPS {
            now += dice.pick(&[0, 1, 999, 50_000, SECOND, 7 * SECOND, PERMIT_TTL, DAY / 3]);
            let limits = random_limits(&mut dice);
            let id = u128::from(dice.below(STEPS));
            let cost = dice.pick(&[0, 1, 1, 1, 2, 5]);
            let ask = Demand { tenant: tenant.as_str().into(), ..demand(id, cost, &limits) };
            let watched: &[&str] = dice.pick(&[&[], &[], &["daily"], &["burst", "open"]]);
            let costs_later = dice.below(4) == 0;
            let ask = Demand { costs_later, ..observing(ask, watched) };
            let place = format!("seed {seed}, step {step}, {ask:?}");
            match dice.below(9) {
                0..4 => {
                    let verdict = store.reserve(&ask, now).await.expect("the store answers");
                    assert_eq!(verdict, tally.reserve(&ask, now), "{place}");
                    if let Verdict::Admitted { permit, .. } = verdict {
                        permits.push(permit);
                    }
                }
                4 | 5 => {
                    let settlement = dice.pick(&[
                        Settlement::Commit,
                        Settlement::Refund,
                        Settlement::Cost(0),
                        Settlement::Cost(4),
                    ]);
                    let Some(permit) = dice.one_of(&permits) else { continue };
                    settle(store, permit, settlement, now).await;
                    tally.settle(permit, settlement, now);
                }
                6 => {
                    store.reset(&ask, now).await.expect("the store answers");
                    tally.reset(&ask, now);
                }
                _ => {
                    let readings = store.peek(&ask, now).await.expect("the store answers");
                    assert_eq!(readings, tally.peek(&ask, now), "{place}");
                }
            }
        }
    }
}

/// How many histories are compared, and how long each is.
const HISTORIES: u64 = 100;
const STEPS: u64 = 60;

/// A limit of each kind that has ten.
pub fn ten_of_each_kind() -> [Kind; 3] {
    [rate("1/h", 10), quota("10/day"), Kind::Concurrency(10)]
}

/// One of many requests that ask at the same moment; whether it was admitted.
pub async fn one_of_many(store: &impl Counters, id: u128, kind: Kind) -> bool {
    // A second limit behind the one that refuses: it must not be charged by those who are refused.
    let limits = [("x", kind), ("y", quota("10/day"))];
    let verdict = store.reserve(&demand(id, 1, &limits), START).await.expect("the store answers");
    matches!(verdict, Verdict::Admitted { .. })
}

fn random_limits(dice: &mut Dice) -> Vec<(&'static str, Kind)> {
    let sizes = [
        ("burst", dice.pick(&["1/s", "7/s", "11/min", "3/h"]), dice.pick(&[1, 2, 5, 9])),
        ("slow", "90/h", dice.pick(&[3, 30])),
    ];
    let mut limits: Vec<_> =
        sizes.into_iter().map(|(id, text, burst)| (id, rate(text, burst))).collect();
    limits.push(("daily", quota(dice.pick(&["3/day", "20/day", "20/day", "50/week", "9/hour"]))));
    limits.push(("open", Kind::Concurrency(dice.pick(&[1, 2, 3]))));
    limits.retain(|_| dice.below(3) > 0);
    limits
}

fn demand(id: u128, cost: u32, limits: &[(&str, Kind)]) -> Demand {
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
        permit: PermitId(id),
        tenant: "acme".into(),
        calendar: Calendar::UTC,
        costs_later: false,
        cost,
        permit_ttl: PERMIT_TTL,
        limits: limits.iter().map(counted).collect(),
    }
}

/// The same demand with these limits only observing.
fn observing(mut demand: Demand, ids: &[&str]) -> Demand {
    for counted in &mut demand.limits {
        if ids.contains(&counted.limit.id.as_str()) {
            let limit = Limit { mode: LimitMode::Observe, ..Limit::clone(&counted.limit) };
            counted.limit = Arc::new(limit);
        }
    }
    demand
}

fn rate(text: &str, burst: u32) -> Kind {
    Kind::Rate { rate: text.parse().expect("a rate of the suite"), burst }
}

fn quota(text: &str) -> Kind {
    Kind::Quota(text.parse().expect("a quota of the suite"))
}

fn numbers(reading: &Reading) -> (u64, u64, u64, Option<i64>) {
    (reading.limit, reading.used, reading.remaining, reading.reset_after)
}

fn admitted<E: std::fmt::Debug>(verdict: Result<Verdict, E>) -> PermitRecord {
    match verdict.expect("the store answers") {
        Verdict::Admitted { permit, .. } => permit,
        Verdict::Refused(refused) => unreachable!("refused: {refused:?}"),
    }
}

async fn used(store: &impl Counters, demand: &Demand, now: i64) -> Vec<u64> {
    let readings = store.peek(demand, now).await.expect("the store answers");
    readings.iter().map(|reading| reading.used).collect()
}

async fn settle(store: &impl Counters, permit: &PermitRecord, settlement: Settlement, now: i64) {
    store.settle(permit, settlement, now).await.expect("the store answers");
}
