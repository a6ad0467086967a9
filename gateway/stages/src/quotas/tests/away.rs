//! What holds while the store is away, and when it is back.

use super::super::breaker::FAILURES;
use super::super::settling::WAITING_MAX;
use super::super::standing::Standing;
use super::*;
use OnStoreError::{Closed, Local, Open};

/// A node whose store no longer answers, and knows it.
async fn away(limits: &[(&str, Kind, OnStoreError)], nodes: u32) -> Node {
    let node = Node::new(&Frail::new(nodes), &clock());
    lose(&node, limits).await;
    node
}

/// Lets requests of another tenant find out that the store is gone.
async fn lose(node: &Node, limits: &[(&str, Kind, OnStoreError)]) {
    node.store.becomes(Mood::Gone);
    for permit in 0..FAILURES {
        let other = Demand { tenant: "globex".into(), ..demand(permit.into(), 0, limits) };
        let _ = node.reserve(&other).await;
    }
    assert!(matches!(*node.quotas.standing().borrow(), Standing::Degraded { .. }));
}

/// What became of a request: the code of a refusal, or how each limit was decided.
fn told(decided: &Result<Permit, NotGranted>) -> String {
    match decided {
        Ok(permit) => {
            let how = |reading: &Reading| match reading.degraded {
                Some(how) => format!("{}:{}/{}", how.as_str(), reading.used, reading.limit),
                None => format!("{}/{}", reading.used, reading.limit),
            };
            permit.readings().iter().map(how).collect::<Vec<_>>().join(" ")
        }
        Err(NotGranted::Refused(refused)) => format!("refused by {}", refused.cause().id),
        Err(NotGranted::Closed { limit, .. }) => format!("closed by {limit}"),
    }
}

#[tokio::test]
async fn each_limit_says_what_holds_without_the_store() {
    let burst = rate("1/h", 40);
    for (limits, nodes, outcomes) in [
        (vec![("a", burst, Open)], 4, vec!["open:0/40"; 3]),
        (vec![("a", burst, Closed)], 4, vec!["closed by a"; 3]),
        // 40 between 4 nodes: 10 each; two requests of 4 fit, a third does not.
        (vec![("a", burst, Local)], 4, vec!["local:4/10", "local:8/10", "refused by a"]),
        (vec![("a", quota("40/day"), Local)], 4, vec!["local:4/10", "local:8/10", "refused by a"]),
        (
            vec![("a", Kind::Concurrency(9), Local)],
            4,
            vec!["local:1/2", "local:2/2", "refused by a"],
        ),
        // At least 1, however many nodes there are.
        (vec![("a", Kind::Concurrency(3), Local)], 9, vec!["local:1/1", "refused by a"]),
        // One that is closed refuses whatever the others say, and wherever it stands.
        (
            vec![("a", burst, Local), ("b", burst, Open), ("c", burst, Closed)],
            4,
            vec!["closed by c"],
        ),
        (
            vec![("a", burst, Open), ("b", quota("40/day"), Local), ("c", burst, Local)],
            4,
            vec![
                "open:0/40 local:4/10 local:4/10",
                "open:0/40 local:8/10 local:8/10",
                "refused by b",
            ],
        ),
    ] {
        let node = away(&limits, nodes).await;
        for (permit, outcome) in outcomes.into_iter().enumerate() {
            let decided = node.reserve(&demand(permit as u128 + 9, 4, &limits)).await;
            assert_eq!(told(&decided), outcome, "{limits:?}, {permit}");
        }
        assert_eq!(node.store.asked(), FAILURES as usize, "nobody waits for a store that is away");
    }
}

#[tokio::test]
async fn a_refused_request_consumes_nothing_of_any_share() {
    let limits = [("small", rate("1/h", 4), Local), ("large", quota("40/day"), Local)];
    let node = away(&limits, 2).await;
    assert_eq!(told(&node.reserve(&demand(10, 2, &limits)).await), "local:2/2 local:2/20");
    for permit in 11..20 {
        assert_eq!(told(&node.reserve(&demand(permit, 2, &limits)).await), "refused by small");
    }
    let readings = node.quotas.peek(&demand(0, 1, &limits), START).await;
    let used: Vec<_> = readings.iter().map(|reading| (reading.used, reading.degraded)).collect();
    assert_eq!(used, [(2, Some(Local)), (2, Some(Local))]);
}

#[tokio::test]
async fn a_limit_that_only_observes_refuses_nothing() {
    let limits = [("a", rate("1/h", 4), Closed), ("b", rate("1/h", 4), Local)];
    let node = away(&limits, 4).await;
    let observing = |permit| {
        let mut demand = demand(permit, 1, &limits);
        for counted in &mut demand.limits {
            let limit = Limit { mode: LimitMode::Observe, ..Limit::clone(&counted.limit) };
            counted.limit = Arc::new(limit);
        }
        demand
    };
    assert_eq!(told(&node.reserve(&observing(10)).await), "open:0/4 local:1/1");
    let permit = node.reserve(&observing(11)).await.unwrap();
    let would: Vec<_> = permit.readings().iter().map(|reading| reading.refusal.is_some()).collect();
    assert_eq!(would, [false, true], "it says what it would have done");
}

#[tokio::test]
async fn a_share_begins_with_what_remained_and_not_with_nothing() {
    for (kind, used, share) in [
        // 90 of 100 are used: 10 remain, 5 for each of two nodes.
        (quota("100/day"), 90, "local:46/50"),
        (rate("1/h", 100), 90, "local:46/50"),
        (quota("100/day"), 0, "local:1/50"),
        // The last unit may be taken by each.
        (quota("100/day"), 99, "local:50/50"),
        (quota("100/day"), 100, "refused by a"),
        (rate("1/h", 100), 100, "refused by a"),
    ] {
        let limits = [("a", kind, Local)];
        let node = Node::new(&Frail::new(2), &clock());
        node.reserve(&demand(1, used, &limits)).await.unwrap();
        lose(&node, &limits).await;
        assert_eq!(told(&node.reserve(&demand(2, 1, &limits)).await), share, "{kind:?} {used}");
    }
    // What was used has come back since: 90 units at 90/h take an hour, and half of it is over.
    let limits = [("a", rate("90/h", 100), Local)];
    let node = Node::new(&Frail::new(2), &clock());
    node.reserve(&demand(1, 90, &limits)).await.unwrap();
    node.clock.advance(Duration::from_secs(1800));
    lose(&node, &limits).await;
    let decided = node.reserve(&demand(2, 1, &limits)).await;
    assert_eq!(told(&decided), "local:24/50", "55 remain, 27 for each");
}

#[tokio::test]
async fn nobody_waits_once_the_breaker_is_open_and_a_probe_closes_it() {
    let limits = [("a", rate("1/s", 1_000), Local)];
    let node = Node::new(&Frail::new(1), &clock());
    let standing = node.quotas.standing();
    assert_eq!(*standing.borrow(), Standing::Shared { nodes: 1 });
    node.store.becomes(Mood::Deaf);
    // Many at once: those that are on their way wait for the deadline, none that comes later does.
    let mut waiting = tokio::task::JoinSet::new();
    for permit in 0..20 {
        let (quotas, demand) = (Arc::clone(&node.quotas), demand(permit, 1, &limits));
        waiting.spawn(async move { quotas.reserve(&demand, START).await.is_ok() });
    }
    assert!(waiting.join_all().await.into_iter().all(|admitted| admitted), "by its share");
    assert_eq!(*standing.borrow(), Standing::Degraded { since: START, nodes: 1 });
    let asked = node.store.asked();
    for permit in 20..100 {
        node.reserve(&demand(permit, 1, &limits)).await.unwrap();
    }
    assert_eq!(node.store.asked(), asked);
    assert!(!node.quotas.probe(0).await, "it is still away");
    node.store.becomes(Mood::Full);
    assert!(!node.quotas.probe(0).await, "it answers, but it can't count");
    node.store.becomes(Mood::Well);
    assert!(node.quotas.probe(0).await);
    assert_eq!(*standing.borrow(), Standing::Shared { nodes: 1 });
    assert_eq!(told(&node.reserve(&demand(100, 1, &limits)).await), "1/1000");
}

#[tokio::test]
async fn without_a_connection_one_request_is_enough_to_know() {
    let limits = [("a", rate("1/s", 10), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut standing = node.quotas.standing();
    node.store.becomes(Mood::Lost);
    for permit in 0..2 {
        assert_eq!(told(&node.reserve(&demand(permit, 1, &limits)).await), "closed by a");
    }
    assert_eq!(*standing.borrow_and_update(), Standing::Degraded { since: START, nodes: 1 });
    assert_eq!(node.store.asked(), 1);
    node.store.becomes(Mood::Well);
    standing.changed().await.unwrap();
    assert_eq!(told(&node.reserve(&demand(9, 1, &limits)).await), "1/10");
}

#[tokio::test]
async fn a_lost_connection_is_shown_also_while_nobody_asks() {
    let node = Node::new(&Frail::new(1), &clock());
    for (mood, standing) in [
        (Mood::Lost, Standing::Degraded { since: START, nodes: 1 }),
        (Mood::Well, Standing::Shared { nodes: 1 }),
    ] {
        node.store.becomes(mood);
        node.quotas.sweep(START);
        assert_eq!(*node.quotas.standing().borrow(), standing);
    }
}

#[tokio::test]
async fn it_finds_back_by_itself() {
    let limits = [("a", rate("1/s", 10), Closed)];
    let node = away(&limits, 1).await;
    let mut standing = node.quotas.standing();
    node.store.becomes(Mood::Well);
    standing.changed().await.unwrap();
    assert_eq!(*standing.borrow(), Standing::Shared { nodes: 1 });
    assert_eq!(told(&node.reserve(&demand(9, 1, &limits)).await), "1/10");
}

#[tokio::test]
async fn a_part_of_a_cluster_fails_alone() {
    let limits = [("a", rate("1/s", 10), Closed)];
    let node = away(&limits, 1).await;
    node.store.becomes(Mood::Well);
    let elsewhere = Demand { tenant: "elsewhere".into(), ..demand(9, 1, &limits) };
    assert_eq!(told(&node.reserve(&elsewhere).await), "1/10");
    assert_eq!(told(&node.reserve(&demand(10, 1, &limits)).await), "closed by a");
}

#[tokio::test]
async fn counters_that_cant_be_read_are_one_tenants_trouble() {
    let limits = [("a", rate("1/s", 10), Closed)];
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Garbled);
    for permit in 0..20 {
        assert_eq!(told(&node.reserve(&demand(permit, 1, &limits)).await), "closed by a");
    }
    assert_eq!(*node.quotas.standing().borrow(), Standing::Shared { nodes: 1 });
    // Everybody's: what there is does not speak as a store of counters should.
    for permit in 0..FAILURES {
        let tenant = format!("t{permit}").as_str().into();
        let ask = Demand { tenant, ..demand(permit.into(), 1, &limits) };
        assert_eq!(told(&node.reserve(&ask).await), "closed by a");
    }
    assert!(matches!(*node.quotas.standing().borrow(), Standing::Degraded { .. }));
    assert!(!node.quotas.probe(0).await);
}

#[tokio::test]
async fn a_share_is_had_once_also_while_others_are_answered() {
    let limits = [("daily", quota("10/day"), Local)];
    let node = Node::new(&Frail::new(1), &clock());
    *node.store.ill.lock().unwrap() = Some("acme".into());
    let mut admitted = 0;
    for permit in 0..60 {
        let other = Demand { tenant: "globex".into(), ..demand(permit, 0, &limits) };
        node.reserve(&other).await.unwrap();
        admitted += usize::from(node.reserve(&demand(permit, 1, &limits)).await.is_ok());
        if permit % 10 == 0 {
            node.quotas.sweep(node.clock.micros());
        }
    }
    assert_eq!(admitted, 10);
    assert_eq!(*node.quotas.standing().borrow(), Standing::Shared { nodes: 1 });
}

#[tokio::test]
async fn who_only_looks_does_not_take_the_store_for_lost() {
    let limits = [("daily", quota("10/day"), Local)];
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Gone);
    for _ in 0..20 {
        node.quotas.peek(&demand(0, 1, &limits), START).await;
    }
    assert_eq!(*node.quotas.standing().borrow(), Standing::Shared { nodes: 1 });
}

#[tokio::test]
async fn one_counter_too_many_leaves_the_others_as_they_are() {
    use super::super::{Quotas, Where};
    let capacity = Capacity { counters: 100, counters_per_tenant: 5, permits_per_tenant: 100 };
    let quotas = Quotas(Where::InProcess(Box::new(MemoryCounters::new(capacity))));
    let ask = |permit: usize, address: u32, on_store_error| {
        let limits = [("daily", quota("10/day"), Local), ("each", quota("9/day"), on_store_error)];
        let mut demand = demand(permit as u128, 1, &limits);
        demand.limits[1].key.part = Part::Ip(std::net::Ipv4Addr::from(address).into());
        demand
    };
    // From the fifth address on there is no room for another counter.
    for (permit, (address, on_store_error, outcome)) in [
        (0, Local, "1/10 1/9"),
        (1, Local, "2/10 1/9"),
        (2, Local, "3/10 1/9"),
        (3, Local, "4/10 1/9"),
        (4, Local, "5/10 open:0/9"),
        (5, Open, "6/10 open:0/9"),
        (6, Closed, "closed by each"),
        (7, Local, "7/10 open:0/9"),
        (0, Local, "8/10 2/9"),
        (8, Local, "9/10 open:0/9"),
        (10, Local, "10/10 open:0/9"),
        (11, Local, "refused by daily"),
    ]
    .into_iter()
    .enumerate()
    {
        let decided = quotas.reserve(&ask(permit, address, on_store_error), START).await;
        assert_eq!(told(&decided), outcome, "{address}");
    }
}

#[tokio::test]
async fn what_the_store_charged_without_saying_so_is_settled_by_its_outcome_once() {
    let limits = [
        ("rate", rate("1/h", 90), Local),
        ("daily", quota("90/day"), Local),
        ("open", Kind::Concurrency(9), Local),
    ];
    for (settlement, costs_later, used) in [
        (Settlement::Commit, false, [3, 3, 0]),
        (Settlement::Refund, false, [3, 0, 0]),
        (Settlement::Cost(5), true, [5, 5, 0]),
    ] {
        let node = Node::new(&Frail::new(1), &clock());
        let ask = Demand { costs_later, ..demand(1, 3, &limits) };
        node.store.becomes(Mood::Mute);
        let permit = node.reserve(&ask).await.unwrap();
        assert_eq!(permit.readings()[1].degraded, Some(Local), "the share decided");
        assert_eq!(node.used(&ask), [3, 3, 1], "and the store had charged it too");
        // Still away when the exchange ends: it is remembered.
        node.store.becomes(Mood::Deaf);
        node.settle(permit, settlement);
        tokio::task::yield_now().await;
        assert_eq!(node.used(&ask), [3, 3, 1]);
        node.store.becomes(Mood::Well);
        node.settled().await;
        assert_eq!(node.used(&ask), used, "{settlement:?}");
    }
}

#[tokio::test]
async fn what_nobody_was_given_is_given_back() {
    let limits = [("daily", quota("90/day"), Closed), ("open", Kind::Concurrency(9), Closed)];
    let ask = demand(1, 3, &limits);
    // Refused here, because the store did not answer in time.
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Mute);
    assert_eq!(told(&node.reserve(&ask).await), "closed by daily");
    assert_eq!(node.used(&ask), [3, 1]);
    node.store.becomes(Mood::Well);
    node.settled().await;
    assert_eq!(node.used(&ask), [0, 0]);
    // The connection broke: the same.
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Broken);
    assert_eq!(told(&node.reserve(&ask).await), "closed by daily");
    assert_eq!(node.used(&ask), [3, 1]);
    node.store.becomes(Mood::Well);
    node.settled().await;
    assert_eq!(node.used(&ask), [0, 0]);
    // Cut off: the client went away while the store was asked.
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Mute);
    let cut = tokio::time::timeout(DEADLINE / 4, node.reserve(&ask)).await;
    assert!(cut.is_err());
    assert_eq!(node.used(&ask), [3, 1]);
    node.store.becomes(Mood::Well);
    node.settled().await;
    assert_eq!(node.used(&ask), [0, 0]);
}

#[tokio::test]
async fn shares_are_forgotten_when_the_store_is_back_and_their_permits_with_them() {
    let limits = [("daily", quota("90/day"), Local), ("open", Kind::Concurrency(9), Local)];
    let node = away(&limits, 1).await;
    let held = node.reserve(&demand(9, 3, &limits)).await.unwrap();
    node.store.becomes(Mood::Well);
    assert!(node.quotas.probe(0).await);
    assert_eq!(node.used(&demand(0, 0, &limits)), [0, 0], "nothing is charged afterwards");
    let next = node.reserve(&demand(10, 3, &limits)).await;
    assert_eq!(told(&next), "3/90 1/9");
    node.settle(held, Settlement::Refund);
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits)), [3, 1]);
    // The next outage begins with what remains then, not with what was used of a share before.
    lose(&node, &limits).await;
    let ask = demand(11, 1, &limits);
    assert_eq!(told(&node.reserve(&ask).await), "local:4/90 local:1/9");
}

#[tokio::test]
async fn one_lost_answer_leaves_no_old_share_behind() {
    let limits = [("daily", quota("90/day"), Local)];
    let node = Node::new(&Frail::new(1), &clock());
    node.store.becomes(Mood::Gone);
    assert_eq!(told(&node.reserve(&demand(1, 1, &limits)).await), "local:1/90");
    node.store.becomes(Mood::Well);
    node.reserve(&demand(2, 80, &limits)).await.unwrap();
    node.quotas.sweep(node.clock.micros());
    lose(&node, &limits).await;
    assert_eq!(told(&node.reserve(&demand(3, 1, &limits)).await), "local:81/90");
}

#[tokio::test]
async fn what_waits_to_be_settled_is_bounded_and_settled_when_the_store_is_back() {
    let limits = [("open", Kind::Concurrency(10_000), Open)];
    let node = Node::new(&Frail::new(1), &clock());
    let mut permits = Vec::new();
    for permit in 0..WAITING_MAX + 10 {
        permits.push(node.reserve(&demand(permit as u128, 1, &limits)).await.unwrap());
    }
    lose(&node, &limits).await;
    permits.into_iter().for_each(|permit| node.settle(permit, Settlement::Commit));
    assert_eq!(node.quotas.counts().dropped.get(), 10);
    node.store.becomes(Mood::Well);
    assert!(node.quotas.probe(0).await);
    node.settled().await;
    assert_eq!(node.used(&demand(0, 0, &limits)), [10], "slots that expire by themselves");
}

#[tokio::test]
async fn what_can_no_longer_be_settled_waits_no_more() {
    let limits = [("open", Kind::Concurrency(10), Open)];
    let node = Node::new(&Frail::new(1), &clock());
    let permit = node.reserve(&demand(1, 1, &limits)).await.unwrap();
    lose(&node, &limits).await;
    node.settle(permit, Settlement::Commit);
    node.clock.advance(Duration::from_secs(40));
    node.store.becomes(Mood::Well);
    assert!(node.quotas.probe(0).await);
    node.settled().await;
    assert_eq!(node.quotas.counts().dropped.get(), 1);
}

#[tokio::test]
async fn an_operator_can_reset_nothing_while_the_store_is_away() {
    let limits = [("daily", quota("90/day"), Local)];
    let node = away(&limits, 1).await;
    let reset = node.quotas.reset(&demand(0, 0, &limits), START).await;
    assert!(matches!(reset, Err(StoreError::Unavailable(_))), "{reset:?}");
}
