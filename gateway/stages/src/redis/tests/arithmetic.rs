//! What Lua calculates in 53 bits is what the machine calculates in 128, to the last tick.

use super::*;
use model::quota::suite::START;
use model::quota::{Settlement, Tally};
use model::suite::Dice;

const HOUR: i64 = 3_600_000_000;
/// The longest that a full burst may take to come back (a rule of the document).
const DRAIN_MAX: i64 = 366 * 24 * HOUR;
/// How many histories are compared, and how long each is.
const HISTORIES: u64 = 60;
const STEPS: u64 = 50;

/// From the slowest to the fastest, and some that divide nothing.
const RATES: &[&str] = &[
    "1/h",
    "3/h",
    "7/min",
    "11/h",
    "50/s",
    "999999937/s",
    "1000000000/s",
    "1000000000/h",
    "999999937/h",
    "536870912/min",
    "1/s",
    "1/min",
];

/// A burst that this rate may have: any size, but the largest and the smallest often.
fn burst(dice: &mut Dice, text: &str) -> u32 {
    let rate: model::quota::Rate = text.parse().unwrap();
    let (day, _) = rate.time_of(1);
    let most = u64::try_from(DRAIN_MAX / day.max(1)).unwrap().min(u64::from(u32::MAX));
    let any = dice.below(most) + 1;
    u32::try_from(dice.pick(&[1, 2, most, most - most / 3, any, any])).unwrap()
}

#[tokio::test]
async fn histories_at_the_extremes_are_those_of_the_machine() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let tenant = format!("extreme-{seed}");
        let mut tally = Tally::default();
        let mut now = START;
        let mut permits = Vec::new();
        // Few rates per history, so that some steps edit and most don't.
        let rates = [dice.pick(RATES), dice.pick(RATES)];
        let bursts = rates.map(|rate| burst(&mut dice, rate));
        for step in 0..STEPS {
            now += dice.pick(&[
                0,
                1,
                2,
                999_999,
                1_000_003,
                HOUR + 1,
                31 * 24 * HOUR + 7,
                -1,
                -HOUR - 13,
            ]);
            let kinds = [0, 1].map(|_| {
                let place = dice.pick(&[0, 0, 0, 1]);
                rate(
                    rates[place],
                    dice.pick(&[bursts[place], bursts[place], bursts[0].min(bursts[1])]),
                )
            });
            let limits = [("a", kinds[0]), ("b", kinds[1]), ("q", quota("999999999999999/month"))];
            let most = bursts[0].min(bursts[1]);
            let cost = dice.pick(&[0, 1, 2, most, most / 2, most - most / 7, u32::MAX]);
            let id = u128::from(dice.below(STEPS));
            let costs_later = dice.below(2) == 0;
            let ask = Demand {
                costs_later,
                // So that none expires, and comes back with the clock.
                permit_ttl: 100 * DRAIN_MAX,
                ..demand(&tenant, id, cost, &limits)
            };
            let place = format!("seed {seed}, step {step}, now {now}, {ask:?}");
            match dice.below(6) {
                0..4 => {
                    let verdict = store.reserve(&ask, now).await.unwrap();
                    assert_eq!(verdict, tally.reserve(&ask, now), "{place}");
                    if let Verdict::Admitted { permit, .. } = verdict {
                        permits.push(permit);
                    }
                }
                4 => {
                    let settlement = Settlement::Cost(dice.pick(&[0, most / 3, most]));
                    let Some(permit) = dice.one_of(&permits) else { continue };
                    store.settle(permit, settlement, now).await.unwrap();
                    tally.settle(permit, settlement, now);
                }
                _ => {
                    let readings = store.peek(&ask, now).await.unwrap();
                    assert_eq!(readings, tally.peek(&ask, now), "{place}");
                }
            }
        }
    }
}

#[tokio::test]
async fn every_rate_keeps_its_units_when_it_becomes_any_other() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    for (from, old) in RATES.iter().enumerate() {
        for (to, new) in RATES.iter().enumerate() {
            let mut dice = Dice::new((from * 100 + to) as u64);
            let (before, after) = (burst(&mut dice, old), burst(&mut dice, new));
            let tenant = format!("edit-{from}-{to}");
            let taken = before - before / 3;
            let first = demand(&tenant, 1, taken, &[("x", rate(old, before))]);
            let second = demand(&tenant, 2, 1, &[("x", rate(new, after))]);
            let mut tally = Tally::default();
            assert_eq!(store.reserve(&first, START).await.unwrap(), tally.reserve(&first, START));
            for later in [0, 1, 999, 1_000_000] {
                let now = START + later;
                let verdict = store.reserve(&second, now).await.unwrap();
                let expected = tally.reserve(&second, now);
                assert_eq!(verdict, expected, "{old} {before} to {new} {after} after {later}");
            }
        }
    }
}

#[tokio::test]
async fn numbers_are_written_whole() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    // 16 digits: Lua's own way of writing them keeps 14.
    let now = 1_800_000_000_123_457;
    let limits = [("a", rate("7/s", 3)), ("q", quota("999999999999999/day"))];
    let ask = Demand { costs_later: true, ..demand("acme", 1, 1, &limits) };
    admit(&store, &ask, now).await;
    let state: String = database.ask(&["GET", "q:{acme}:a:t"]);
    assert_eq!(state, "r 1800000000266314 1 3 7/s");
    let state: String = database.ask(&["GET", "q:{acme}:q:t"]);
    assert_eq!(state, "q 1799971200000000 1800057600000000 1 day");
    let permit: String = database.ask(&["GET", &format!("qp:{{acme}}:{}", PermitId(1))]);
    assert_eq!(
        permit,
        "1800000040123457 3 r 1 3 7/s;a:t 3 q 1 1799971200000000 1800057600000000;q:t"
    );
}
