//! Units taken in advance, and refusals that are remembered.

use super::super::batch::LIFETIME;
use super::super::known::most_ahead;
use super::*;
use OnStoreError::Closed;
use model::quota::{Bucket, Rate};
use model::suite::Dice;

const MILLI: i64 = 1_000;

fn after(clock: &Clock, micros: i64) {
    clock.advance(Duration::from_micros(micros.unsigned_abs()));
}

/// A node that was asked often enough to take units in advance: the next request is decided by a batch.
async fn hot(limits: &[(&str, Kind, OnStoreError)]) -> (Node, u128) {
    let node = Node::new(&Frail::new(1), &clock());
    for permit in 1..1_000 {
        after(&node.clock, MILLI);
        let permit_of = node.reserve(&demand(permit, 1, limits)).await.unwrap();
        node.settle(permit_of, Settlement::Commit);
        if node.quotas.counts().batches.get() > 2 {
            return (node, permit + 1);
        }
    }
    panic!("no batch was taken");
}

#[test]
fn how_much_may_be_taken_in_advance() {
    for (kind, exact, nodes, most) in [
        // 50 ms at the rate, and a twentieth of the burst between the nodes.
        (rate("1000/s", 2_000), false, 1, 50),
        (rate("1000/s", 2_000), false, 2, 50),
        (rate("1000/s", 2_000), false, 4, 25),
        (rate("100000/s", 2_000), false, 1, 100),
        (rate("60000/min", 2_000), false, 1, 50),
        (quota("100000/day"), false, 1, 5_000),
        (quota("100000/day"), false, 10, 500),
        // Small ones are exact, and those that say so.
        (rate("1000/s", 99), false, 1, 0),
        (quota("99/day"), false, 1, 0),
        (rate("10/s", 2_000), false, 1, 0),
        (quota("100000/day"), true, 1, 0),
        (Kind::Concurrency(100_000), false, 1, 0),
    ] {
        let limit = Limit {
            id: "x".into(),
            kind,
            per: Per::Tenant,
            exact,
            mode: LimitMode::Enforce,
            on_store_error: Closed,
        };
        assert_eq!(most_ahead(&limit, nodes), most, "{kind:?} {exact} {nodes}");
    }
}

#[tokio::test]
async fn a_busy_tenant_costs_few_commands_and_reads_what_is_plausible() {
    let limits = [("burst", rate("1000/s", 2_000), Closed), ("daily", quota("100000/day"), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut left = 100_000;
    for permit in 0..1_000 {
        after(&node.clock, MILLI);
        let permit = node.reserve(&demand(permit, 1, &limits)).await.unwrap();
        let daily = &permit.readings()[1];
        // Each unit that is spent is one less, whoever took it.
        assert_eq!((daily.remaining, daily.used), (left - 1, 100_001 - left));
        left = daily.remaining;
        assert!(permit.readings()[0].remaining <= 2_000);
        node.settle(permit, Settlement::Commit);
    }
    let asked = node.store.asked();
    assert!(asked < 60, "{asked} commands for 1,000 requests");
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits))[1], 1_000, "what was left over went back");
}

#[tokio::test]
async fn who_asks_seldom_takes_nothing_in_advance() {
    let limits = [("burst", rate("1000/s", 2_000), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    for permit in 0..100 {
        after(&node.clock, 60 * MILLI);
        node.reserve(&demand(permit, 1, &limits)).await.unwrap();
    }
    assert_eq!((node.store.asked(), node.quotas.counts().batches.get()), (100, 0));
}

#[tokio::test]
async fn near_its_edge_and_for_what_must_be_exact_the_store_decides_about_each() {
    let exact = |mut demand: Demand| {
        let limit = Limit { exact: true, ..Limit::clone(&demand.limits[0].limit) };
        demand.limits[0].limit = Arc::new(limit);
        demand
    };
    let later = |demand: Demand| Demand { costs_later: true, ..demand };
    let plain = |demand: Demand| demand;
    let daily = [("daily", quota("100000/day"), Closed)];
    let slots =
        [("daily", quota("100000/day"), Closed), ("open", Kind::Concurrency(1_000), Closed)];
    for (limits, used, change) in [
        (&daily[..], 0, &exact as &dyn Fn(Demand) -> Demand),
        (&daily[..], 0, &later),
        (&slots[..], 0, &plain),
        (&daily[..], 99_900, &plain),
    ] {
        let node = Node::new(&Frail::new(20), &clock());
        node.reserve(&change(demand(1, used, limits))).await.unwrap();
        for permit in 2..100 {
            after(&node.clock, MILLI);
            node.reserve(&change(demand(permit, 1, limits))).await.unwrap();
        }
        assert_eq!(node.quotas.counts().batches.get(), 0, "{limits:?} {used}");
        assert_eq!(node.store.asked(), 99);
    }
}

#[tokio::test]
async fn what_is_not_charged_goes_back_whenever_its_request_ends() {
    let limits = [("burst", rate("1000/s", 2_000), Closed), ("daily", quota("100000/day"), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut open = Vec::new();
    for permit in 0..200 {
        after(&node.clock, MILLI);
        open.push(node.reserve(&demand(permit, 1, &limits)).await.unwrap());
    }
    assert!(node.quotas.counts().decided_by_batch.get() > 100);
    // Long after the batches are over, a quarter of the requests turns out to be free.
    after(&node.clock, 20_000 * MILLI);
    node.quotas.sweep(node.clock.micros());
    for (place, permit) in open.into_iter().enumerate() {
        let settlement = if place % 4 == 0 { Settlement::Refund } else { Settlement::Commit };
        node.settle(permit, settlement);
    }
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits))[1], 150);
}

#[tokio::test]
async fn units_are_not_spent_after_their_time_nor_in_the_next_window() {
    let limits = [("daily", quota("100000/day"), Closed)];
    let (node, permit) = hot(&limits).await;
    let by_batch = || node.quotas.counts().decided_by_batch.get();
    let before = by_batch();
    node.reserve(&demand(permit, 1, &limits)).await.unwrap();
    assert_eq!(by_batch(), before + 1);
    after(&node.clock, LIFETIME);
    node.reserve(&demand(permit + 1, 1, &limits)).await.unwrap();
    assert_eq!(by_batch(), before + 1, "half a second later");
    // 1/minute windows: START is the first instant of one.
    let limits = [("m", quota("100000/minute"), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    after(&node.clock, 59_900 * MILLI);
    for permit in 0..300 {
        after(&node.clock, MILLI);
        let permit = node.reserve(&demand(permit, 1, &limits)).await.unwrap();
        node.settle(permit, Settlement::Commit);
    }
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits)), [201], "those since the minute began");
}

#[tokio::test]
async fn a_reset_forgets_what_was_taken_in_advance_and_what_was_refused() {
    let limits = [("daily", quota("100000/day"), Closed)];
    let (node, permit) = hot(&limits).await;
    let held = node.reserve(&demand(permit, 1, &limits)).await.unwrap();
    node.quotas.reset(&demand(0, 0, &limits), node.clock.micros()).await.unwrap();
    node.reserve(&demand(permit + 1, 7, &limits)).await.unwrap();
    node.settle(held, Settlement::Refund);
    node.settled().await;
    assert_eq!(
        node.used(&demand(0, 0, &limits)),
        [7],
        "nothing that was paid before is given back"
    );

    let limits = [("small", quota("5/day"), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    node.reserve(&demand(1, 5, &limits)).await.unwrap();
    assert!(node.reserve(&demand(2, 1, &limits)).await.is_err());
    node.quotas.reset(&demand(0, 0, &limits), node.clock.micros()).await.unwrap();
    assert!(node.reserve(&demand(3, 1, &limits)).await.is_ok());
}

#[tokio::test]
async fn a_lost_batch_is_paid_back_but_for_the_request_that_went_on() {
    let limits = [("daily", quota("100000/day"), OnStoreError::Local)];
    let (node, permit) = hot(&limits).await;
    after(&node.clock, LIFETIME);
    node.quotas.sweep(node.clock.micros());
    node.settled().await;
    let before = node.used(&demand(0, 0, &limits))[0];
    // One that is large sets the pace again; then the store charges a batch and says nothing.
    node.reserve(&demand(permit, 20, &limits)).await.unwrap();
    node.store.becomes(Mood::Mute);
    let permit = node.reserve(&demand(permit + 1, 1, &limits)).await.unwrap();
    assert_eq!(node.used(&demand(0, 0, &limits)), [before + 41], "charged for more than one");
    node.settle(permit, Settlement::Commit);
    node.store.becomes(Mood::Well);
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits)), [before + 21]);
}

#[tokio::test]
async fn groups_that_share_a_counter_hold_no_more_of_it_together() {
    // The tenant's own quota, and one of each of many consumers.
    let node = Node::new(&Frail::new(1), &clock());
    let ask = |permit: u128, consumer: &str| {
        let limits = [("all", quota("2000/day"), Closed), ("each", quota("100000/day"), Closed)];
        let mut demand = demand(permit, 1, &limits);
        demand.limits[1].key.part = Part::Consumer(consumer.into());
        demand
    };
    for permit in 0..900_u128 {
        if permit % 9 == 0 {
            after(&node.clock, MILLI);
        }
        let consumer = format!("c{}", permit % 9);
        let granted = node.reserve(&ask(permit, &consumer)).await.unwrap();
        node.settle(granted, Settlement::Commit);
        let held = node.used(&ask(0, "c0"))[0] - (u64::try_from(permit).unwrap() + 1);
        assert!(held <= 100, "{held} units are held in advance: more than a twentieth");
    }
    assert!(node.quotas.counts().decided_by_batch.get() > 100);
}

#[tokio::test]
async fn long_requests_keep_little_from_others() {
    // Bursts of 20 every half a second, of which each lasts for half a minute.
    let limits = [("daily", quota("2000/day"), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut running = Vec::new();
    for burst in 0..50 {
        for step in 0..20 {
            running.push(node.reserve(&demand(burst * 100 + step, 1, &limits)).await.unwrap());
            let kept = node.used(&demand(0, 0, &limits))[0] - running.len() as u64;
            assert!(kept <= 100, "{kept} units are paid for and not spent: more than a twentieth");
        }
        after(&node.clock, LIFETIME);
        node.quotas.sweep(node.clock.micros());
    }
    running.into_iter().for_each(|permit| node.settle(permit, Settlement::Commit));
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits)), [1_000]);
    assert!(node.quotas.counts().batches.get() > 5);
}

#[tokio::test]
async fn a_spent_limit_is_refused_without_a_command_for_a_moment() {
    let limits = [("burst", rate("10/s", 5), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    node.reserve(&demand(1, 5, &limits)).await.unwrap();
    for permit in 2..50 {
        let Err(NotGranted::Refused(refused)) = node.reserve(&demand(permit, 1, &limits)).await
        else {
            panic!("{permit} was admitted");
        };
        assert_eq!(refused.retry_after(), Some(1));
        after(&node.clock, MILLI);
    }
    assert_eq!(node.store.asked(), 2, "one that was admitted, one that was refused");
    assert!(node.reserve(&demand(60, 0, &limits)).await.is_ok(), "what costs less is asked for");
    // 100 ms after the first refusal a unit is back.
    after(&node.clock, 52 * MILLI);
    assert!(node.reserve(&demand(61, 1, &limits)).await.is_ok());
    // An edited limit is another one.
    assert!(node.reserve(&demand(62, 1, &limits)).await.is_err());
    let edited = [("burst", rate("10/s", 50), Closed)];
    assert!(node.reserve(&demand(63, 1, &edited)).await.is_ok());
}

#[tokio::test]
async fn slots_are_asked_for_each_time() {
    let limits = [("open", Kind::Concurrency(1), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let held = node.reserve(&demand(1, 1, &limits)).await.unwrap();
    assert!(node.reserve(&demand(2, 1, &limits)).await.is_err());
    node.settle(held, Settlement::Commit);
    node.settled().await;
    assert!(node.reserve(&demand(3, 1, &limits)).await.is_ok());
}

/// Whatever is remembered, `Retry-After` is never earlier than true.
#[tokio::test]
async fn what_is_remembered_never_invites_too_early() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let limits = [
            ("burst", rate(dice.pick(&["1/s", "7/s", "90/min"]), dice.pick(&[3, 9])), Closed),
            ("daily", quota(dice.pick(&["20/minute", "30/hour"])), Closed),
        ];
        let node = Node::new(&Frail::new(1), &clock());
        for step in 0..60_u128 {
            after(&node.clock, dice.pick(&[0, 1, 700, 30_000, 99_999, 400_000]));
            let ask = demand(step, dice.pick(&[1, 1, 2, 3, 8]), &limits);
            let Err(NotGranted::Refused(refused)) = node.reserve(&ask).await else { continue };
            let place = format!("seed {seed}, step {step}");
            let now = node.clock.micros();
            for (told, counted) in refused.readings().iter().zip(&ask.limits) {
                let one = Demand { limits: vec![counted.clone()], ..ask.clone() };
                let truth = &node.store.counters.peek_from(&one, now, |_| None)[0];
                assert!(told.refusal >= truth.refusal, "{place}: {told:?} {truth:?}");
                assert!(told.remaining <= truth.remaining, "{place}: {told:?} {truth:?}");
            }
        }
    }
}

/// Real threads on one node: nothing is admitted twice, nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_exactly_what_there_is() {
    let limits = [("daily", quota("3000/day"), Closed), ("burst", rate("1000/s", 100_000), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let node = Node {
            quotas: Arc::clone(&node.quotas),
            store: node.store.clone(),
            clock: node.clock.clone(),
        };
        tasks.spawn(async move {
            let mut committed = 0;
            for step in 0..500 {
                let Ok(permit) = node.reserve(&demand(task * 1_000 + step, 1, &limits)).await
                else {
                    continue;
                };
                if step % 5 == 0 {
                    node.settle(permit, Settlement::Refund);
                } else {
                    node.settle(permit, Settlement::Commit);
                    committed += 1;
                }
            }
            committed
        });
    }
    let committed: u64 = tasks.join_all().await.into_iter().sum();
    assert!(node.quotas.counts().decided_by_batch.get() > 500);
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits))[0], committed);
    assert!((2_000..=3_000).contains(&committed), "{committed}");
}

/// Several nodes on one store, offered more than there is: the bound of the documentation holds, quotas are never
/// overspent, and what was committed is what the store has counted in the end.
#[tokio::test]
async fn nodes_together_admit_no_more_than_the_limit_and_what_they_may_hold_in_advance() {
    let mut by_batch = 0;
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let count = dice.pick(&[1, 2, 4]);
        let per_second: Rate = dice.pick(&["1000/s", "5000/s"]).parse().unwrap();
        let burst = dice.pick(&[400, 1_000]);
        let amount = dice.pick(&["3000/day", "900/day", "100000/day"]);
        let limits = [
            ("burst", Kind::Rate { rate: per_second, burst }, Closed),
            ("daily", quota(amount), Closed),
        ];
        let (store, clock) = (Frail::new(count), clock());
        let nodes: Vec<_> = (0..count).map(|_| Node::new(&store, &clock)).collect();
        let most: u64 = {
            let demand = demand(0, 0, &limits);
            most_ahead(&demand.limits[0].limit, count) * u64::from(count)
        };
        // The machine of the limit, with a burst that is larger by the bound: it must admit whatever was admitted.
        let allowed = burst + u32::try_from(most).unwrap();
        let mut bound = Bucket::at_rest(per_second, allowed);
        let (mut spent, mut held) = (0, Vec::new());
        for step in 0..3_000_u32 {
            after(&clock, dice.pick(&[0, 50, 100, 200, 200, 900, 20_000]));
            if dice.below(400) == 0 {
                after(&clock, 700_000);
            }
            let node = &nodes[usize::try_from(dice.below(count.into())).unwrap()];
            let now = clock.micros();
            let cost = dice.pick(&[1, 1, 1, 1, 2, 5]);
            if let Ok(permit) = node.reserve(&demand(step.into(), cost, &limits)).await {
                let refusal = bound.refusal(per_second, allowed, cost, now);
                assert_eq!(
                    refusal, None,
                    "seed {seed}, step {step}: more than burst + rate·T + N·L"
                );
                bound.charge(per_second, allowed, cost, now);
                spent += u64::from(cost);
                held.push((permit, node, cost));
            }
            assert!(
                spent <= limits[1].1.size(),
                "seed {seed}, step {step}: the quota is overspent"
            );
            if dice.below(3) == 0
                && let Some((permit, node, cost)) = held.pop()
            {
                let settlement = dice.pick(&[Settlement::Commit, Settlement::Refund]);
                if settlement == Settlement::Refund {
                    spent -= u64::from(cost);
                }
                node.settle(permit, settlement);
            }
            if step % 500 == 0 {
                tokio::task::yield_now().await;
                nodes.iter().for_each(|node| node.quotas.sweep(now));
            }
        }
        for (permit, node, _) in held {
            node.settle(permit, Settlement::Commit);
        }
        for node in &nodes {
            node.settled().await;
            by_batch += node.quotas.counts().decided_by_batch.get();
        }
        assert_eq!(nodes[0].used(&demand(0, 0, &limits))[1], spent, "seed {seed}: nothing is lost");
    }
    assert!(by_batch > 5_000, "{by_batch} decisions by batches prove little");
}
