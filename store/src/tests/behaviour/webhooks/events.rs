//! Accepting events, and fanning them out.

use super::*;
use crate::control::Effect;
use crate::tests::samples::{done, published, staged, write};
use model::webhook::Acceptance::{Accepted, Conflict, Full, Repeat};

/// Another event of the same id.
fn other(tenant: &str, id: &str) -> NewEvent {
    NewEvent { digest: [8; 32], content: "{}".into(), ..event(tenant, id) }
}

async fn kept(store: &Store) -> Vec<(u64, String)> {
    let events = store.events_after(0, 2_000).await.unwrap();
    events.into_iter().map(|event| (event.number, event.id)).collect()
}

pub(in crate::tests) async fn a_request_is_kept_whole_or_not_at_all(store: &Store) {
    accept(store, "acme", &["a"]).await;
    let all = |ids: &[&str]| arriving(ids.iter().map(|id| event("acme", id)).collect());
    let mut bad = all(&["b", "c"]);
    bad.events.insert(1, other("acme", "a"));
    let told =
        store.accept_events(vec![all(&["d"]), bad, all(&["e", "b"]), arriving(vec![])]).await;
    let told = told.unwrap();
    assert_eq!(told[0], [Accepted]);
    assert_eq!(told[1][1], Conflict);
    assert_eq!(told[2], [Accepted, Accepted]);
    assert_eq!(told[3], []);
    let names = |kept: Vec<(u64, String)>| kept.into_iter().map(|(_, id)| id).collect::<Vec<_>>();
    assert_eq!(names(kept(store).await), ["a", "d", "e", "b"]);
    let told = store.event(&event("acme", "c").webhook_id).await.unwrap();
    assert_eq!(told, None);
    let found = store.event(&event("acme", "b").webhook_id).await.unwrap().unwrap();
    assert_eq!((found.number, &found.content), (4, &event("acme", "b").content));
    sound(store).await;
}

pub(in crate::tests) async fn the_same_event_again_is_no_event(store: &Store) {
    let twice = || arriving(vec![event("acme", "a"), event("acme", "a"), event("globex", "a")]);
    let told = store.accept_events(vec![twice(), twice()]).await.unwrap();
    assert_eq!(told, [[Accepted, Repeat, Accepted], [Repeat, Repeat, Repeat]]);
    let told = store.accept_events(vec![twice()]).await.unwrap();
    assert_eq!(told, [[Repeat, Repeat, Repeat]]);
    let both = vec![event("acme", "b"), other("acme", "b")];
    let told = store.accept_events(vec![arriving(both)]).await.unwrap();
    assert_eq!(told[0][1], Conflict, "within a request, too");
    let told = store.accept_events(vec![arriving(vec![other("acme", "a")])]).await.unwrap();
    assert_eq!(told, [[Conflict]]);
    assert_eq!(kept(store).await, [(1, "a".to_owned()), (2, "a".to_owned())]);
    sound(store).await;
}

pub(in crate::tests) async fn what_waits_is_bounded_by_tenant(store: &Store) {
    let bounded = |tenant: &str, ids: &[&str], most| Arriving {
        events: ids.iter().map(|id| event(tenant, id)).collect(),
        backlog: BTreeMap::from([(tenant.into(), most)]),
    };
    let told = store
        .accept_events(vec![
            bounded("acme", &["a", "b"], 3),
            bounded("acme", &["c", "d"], 3),
            bounded("acme", &["e"], 3),
            bounded("globex", &["c", "d"], 3),
        ])
        .await;
    let expected = [vec![Accepted; 2], vec![Full; 2], vec![Accepted], vec![Accepted; 2]];
    assert_eq!(told.unwrap(), expected);
    let next = store.backlog().await.unwrap().next_event;
    assert_eq!(next.map(|(number, _)| number), Some(1));
    // Each event waits as so many deliveries.
    fan_out(store, &to(&["e1", "e2"])).await;
    sound(store).await;
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.waiting, backlog.next_event), (10, None));
    for (ids, most, expected) in [
        (["f"], 6, vec![Full]),
        (["a"], 6, vec![Repeat]),
        (["f"], 7, vec![Accepted]),
        (["g"], 7, vec![Full]),
    ] {
        let told = store.accept_events(vec![bounded("acme", &ids, most)]).await.unwrap();
        assert_eq!(told, [expected], "{ids:?} {most}");
    }
    // What is done with makes room.
    let held = hold(store, "e1", 100).await;
    settle(store, &held, Next::Delivered).await;
    let told = store.accept_events(vec![bounded("acme", &["g"], 7)]).await.unwrap();
    assert_eq!(told, [[Accepted]]);
    sound(store).await;
}

/// Many accept, each several requests, while somebody reads on from the last event that they saw.
pub(in crate::tests) async fn many_accept(store: Store) {
    const TASKS: usize = 8;
    const EACH: usize = 25;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            for count in 0..EACH {
                let (mine, shared) = (format!("{task}-{count}"), format!("shared-{count}"));
                let two = vec![
                    arriving(vec![event("acme", &mine)]),
                    arriving(vec![event("acme", &shared)]),
                ];
                let told = store.accept_events(two).await.unwrap();
                assert_eq!(told[0], [Accepted]);
                assert!(matches!(told[1][0], Accepted | Repeat), "{told:?}");
            }
        });
    }
    let mut seen: Vec<u64> = Vec::new();
    let all = TASKS * EACH + EACH;
    let begun = std::time::Instant::now();
    while seen.len() < all {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {all}", seen.len());
        let after = seen.last().copied().unwrap_or_default();
        let events = store.events_after(after, 10).await.unwrap();
        seen.extend(events.iter().map(|event| event.number));
        if events.is_empty() {
            rest().await;
        }
    }
    tasks.join_all().await;
    assert_eq!(seen, (1..=all as u64).collect::<Vec<_>>(), "none is missed, and none comes late");
    let times = store.events_after(0, 2_000).await.unwrap();
    assert!(times.is_sorted_by_key(|event| event.accepted_at), "times don't go back");
    sound(&store).await;
}

pub(in crate::tests) async fn an_event_becomes_one_delivery_for_each_endpoint(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    assert_eq!(store.fan_out(to(&[]), None, 1).await.unwrap().events, 1);
    let told = store.fan_out(to(&["e2", "e1"]), None, 10).await.unwrap();
    let lane = |endpoint: &str| ("acme".into(), endpoint.into());
    assert_eq!((told.events, told.lanes), (1, vec![lane("e1"), lane("e2")]));
    assert_eq!(store.fan_out(to(&["e1"]), None, 10).await.unwrap(), Default::default());
    let parked: Plan = Arc::new(|_: &StoredEvent| {
        let parked = Some(model::webhook::Reason::Disabled);
        vec![Planned { endpoint: "e1".into(), order_key: None, parked }]
    });
    accept(store, "acme", &["c"]).await;
    assert_eq!(store.fan_out(parked, None, 10).await.unwrap().lanes, []);
    let polled = store.endpoint_events(&"acme".into(), &"e1".into(), 0, 10).await.unwrap();
    assert_eq!(polled.iter().map(|polled| polled.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(polled[0].webhook_id, event("acme", "b").webhook_id);
    assert_eq!(polled[0].content, event("acme", "b").content);
    let next = store.endpoint_events(&"acme".into(), &"e1".into(), 2, 10).await.unwrap();
    assert_eq!(next, polled[1..]);
    assert_eq!(store.endpoint_events(&"globex".into(), &"e1".into(), 0, 10).await.unwrap(), []);
    assert_eq!(store.newest_delivery().await.unwrap(), 3);
    sound(store).await;
}

/// Several fan out at once, while events arrive.
pub(in crate::tests) async fn many_fan_out(store: Store) {
    const EVENTS: usize = 120;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            let begun = std::time::Instant::now();
            while store.newest_delivery().await.unwrap() < 3 * EVENTS as u64 {
                assert!(begun.elapsed() < Duration::from_secs(60));
                if store.fan_out(to(&["e1", "e2", "e3"]), None, 7).await.unwrap().events == 0 {
                    rest().await;
                }
            }
        });
    }
    for count in 0..EVENTS {
        accept(&store, "acme", &[&count.to_string()]).await;
    }
    tasks.join_all().await;
    for endpoint in ["e1", "e2", "e3"] {
        let polled =
            store.endpoint_events(&"acme".into(), &endpoint.into(), 0, 2_000).await.unwrap();
        let expected: Vec<_> =
            (0..EVENTS).map(|count| event("acme", &count.to_string()).webhook_id).collect();
        let polled: Vec<_> = polled.into_iter().map(|polled| polled.webhook_id).collect();
        assert_eq!(polled, expected, "each once, in the order of events");
    }
    sound(&store).await;
}

pub(in crate::tests) async fn what_there_is_to_do_ends_the_wait(store: &Store) {
    const PAUSE: Duration = Duration::from_millis(300);
    // Hints at the beginning are over once a wait comes to its end.
    let quiet = async || {
        while {
            let begun = std::time::Instant::now();
            store.webhooks_changed(PAUSE).await;
            begun.elapsed() < PAUSE
        } {}
    };
    let begun = std::time::Instant::now();
    quiet().await;
    accept(store, "acme", &["a"]).await;
    store.webhooks_changed(Duration::from_secs(30)).await;
    fan_out(store, &to(&["e1"])).await;
    store.webhooks_changed(Duration::from_secs(30)).await;
    quiet().await;
    accept(store, "acme", &["b"]).await;
    let waiter = store.clone();
    let waits = tokio::spawn(async move { waiter.webhooks_changed(Duration::from_secs(30)).await });
    waits.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "nobody waited in vain");
}

pub(in crate::tests) async fn a_transaction_makes_a_bounded_number_of_deliveries(store: &Store) {
    accept(store, "acme", &["a", "b", "c", "d", "e"]).await;
    for (events, more) in [(1, true), (2, true), (2, false), (0, false)] {
        let told = store.fan_out(to_many(700), None, 100).await.unwrap();
        assert_eq!((told.events, told.more), (events, more));
        assert_eq!(told.lanes.len(), if events > 0 { 700 } else { 0 });
        sound(store).await;
    }
    // One event is done with, however many want it.
    accept(store, "acme", &["f", "g"]).await;
    for more in [true, false] {
        let told = store.fan_out(to_many(2_100), None, 100).await.unwrap();
        assert_eq!((told.events, told.more), (1, more));
    }
    assert_eq!(store.newest_delivery().await.unwrap(), 5 * 700 + 2 * 2_100);
    // As many as were asked for: there may be more.
    accept(store, "acme", &["h", "i"]).await;
    assert!(store.fan_out(to(&["e1"]), None, 2).await.unwrap().more);
    sound(store).await;
}

/// Accepts so many events of a tenant, in few requests.
async fn accept_many(store: &Store, tenant: &str, prefix: &str, count: usize) {
    let events = (0..count).map(|id| event(tenant, &format!("{prefix}{id}"))).collect();
    store.accept_events(vec![arriving(events)]).await.unwrap();
}

/// The ids of the events that an endpoint has deliveries of, in the order of these.
async fn polled(store: &Store, tenant: &str, endpoint: &str) -> Vec<WebhookId> {
    let (tenant, endpoint) = (tenant.into(), endpoint.into());
    let polled = store.endpoint_events(&tenant, &endpoint, 0, 2_000).await.unwrap();
    polled.into_iter().map(|polled| polled.webhook_id).collect()
}

/// The ids of so many events.
fn named(tenant: &str, prefix: &str, count: usize) -> Vec<WebhookId> {
    (0..count).map(|id| event(tenant, &format!("{prefix}{id}")).webhook_id).collect()
}

pub(in crate::tests) async fn nobody_waits_for_who_is_wide_or_sends_much(store: &Store) {
    const WIDE: &[(&str, u32)] = &[("acme", 200)];
    for (round, wide, events, all) in [("w", WIDE, 120, 3), ("m", &[], 900, 6)] {
        accept_many(store, "acme", round, events).await;
        accept_many(store, "globex", round, 3).await;
        let before = store.newest_delivery().await.unwrap();
        for _ in 0..2 {
            assert!(store.fan_out(by_tenant(wide), None, 100).await.unwrap().more);
            sound(store).await;
        }
        assert_eq!(polled(store, "globex", "globex-0").await.len(), all, "{round}");
        let made = store.newest_delivery().await.unwrap() - before;
        assert!(made < 3_000, "{round}: {made} deliveries were made before");
        let backlog = store.backlog().await.unwrap();
        assert_eq!(backlog.aside, 1, "{round}");
        let (next, _) = backlog.next_event.unwrap();
        let next = store.events_after(next - 1, 1).await.unwrap();
        assert_eq!(next[0].tenant.as_str(), "acme", "its next event is the oldest that waits");
        // What comes meanwhile stays behind it.
        accept_many(store, "acme", &format!("{round}-later"), 2).await;
        while store.fan_out(by_tenant(wide), None, 100).await.unwrap().more {}
        sound(store).await;
        let backlog = store.backlog().await.unwrap();
        assert_eq!((backlog.aside, backlog.next_event), (0, None));
    }
    let wide = [named("acme", "w", 120), named("acme", "w-later", 2)].concat();
    assert_eq!(polled(store, "acme", "acme-199").await, wide, "each once, in order");
    let all = [wide, named("acme", "m", 900), named("acme", "m-later", 2)].concat();
    assert_eq!(polled(store, "acme", "acme-0").await, all);
}

pub(in crate::tests) async fn those_aside_take_turns(store: &Store) {
    const WIDE: &[(&str, u32)] = &[("acme", 400), ("beta", 400), ("gamma", 400), ("delta", 400)];
    for (tenant, _) in WIDE {
        accept_many(store, tenant, "x", 20).await;
    }
    let mut seen = Vec::new();
    while store.fan_out(by_tenant(WIDE), None, 100).await.unwrap().more {
        let mut counts = Vec::new();
        for (tenant, _) in WIDE {
            counts.push(polled(store, tenant, &format!("{tenant}-0")).await.len());
        }
        seen.push(counts);
    }
    for counts in &seen {
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 2, "{seen:?}");
    }
    assert!(seen.len() < 22, "all of them in each turn: {seen:?}");
    for (tenant, _) in WIDE {
        assert_eq!(polled(store, tenant, &format!("{tenant}-399")).await, named(tenant, "x", 20));
    }
    sound(store).await;
}

pub(in crate::tests) async fn a_turn_plans_a_bounded_number_of_events(store: &Store) {
    const TENANTS: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    const WIDE: &[(&str, u32)] = &[
        (TENANTS[0], 600),
        (TENANTS[1], 600),
        (TENANTS[2], 600),
        (TENANTS[3], 600),
        (TENANTS[4], 600),
        (TENANTS[5], 600),
        (TENANTS[6], 600),
        (TENANTS[7], 600),
    ];
    for tenant in TENANTS {
        accept_many(store, tenant, "x", 30).await;
    }
    while store.backlog().await.unwrap().aside < 8 {
        store.fan_out(by_tenant(WIDE), None, 100).await.unwrap();
    }
    // However many are aside, and however few deliveries their events have.
    let mut turns = 0;
    loop {
        let told = store.fan_out(to(&[]), None, 10).await.unwrap();
        assert!(told.events <= 40, "{told:?}");
        sound(store).await;
        turns += 1;
        if !told.more {
            break;
        }
    }
    assert!(turns >= 5, "{turns} turns");
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.aside, backlog.next_event), (0, None));
}

/// Accepts so many events of 1 MiB each.
async fn accept_large(store: &Store, tenant: &str, count: usize) {
    let content = bytes::Bytes::from(vec![b' '; 1 << 20]);
    for id in 0..count {
        let event = event(tenant, &format!("l{id}"));
        let event = NewEvent { content: content.clone(), ..event };
        store.accept_events(vec![arriving(vec![event])]).await.unwrap();
    }
}

pub(in crate::tests) async fn a_turn_reads_a_bounded_number_of_bytes(store: &Store) {
    const WIDE: &[(&str, u32)] = &[("acme", 600), ("beta", 600)];
    // In a page of all, and of those that are aside.
    for (wide, endpoint) in [(&[][..], "e1"), (WIDE, "e2")] {
        let before = store.newest_delivery().await.unwrap();
        accept_large(store, "globex", if wide.is_empty() { 40 } else { 0 }).await;
        for (tenant, _) in wide {
            accept_large(store, tenant, 20).await;
        }
        while store.backlog().await.unwrap().aside < wide.len() as u64 {
            store.fan_out(by_tenant(WIDE), None, 100).await.unwrap();
        }
        let plan = if wide.is_empty() { to(&["e1"]) } else { to(&["e2"]) };
        let mut turns = 0;
        loop {
            let told = store.fan_out(Arc::clone(&plan), None, 100).await.unwrap();
            assert!(told.events <= 34, "{endpoint}: {told:?}");
            sound(store).await;
            turns += 1;
            if !told.more {
                break;
            }
        }
        assert!(turns >= 2, "{endpoint}: {turns} turns");
        assert!(store.newest_delivery().await.unwrap() >= before + 36, "{endpoint}");
    }
    let polled = polled(store, "globex", "e1").await;
    assert_eq!(polled, named("globex", "l", 40), "each once, in the order of events");
}

/// Several fan out at once what is wide and what is not, while events arrive.
pub(in crate::tests) async fn many_fan_out_what_is_wide(store: Store) {
    const EVENTS: usize = 60;
    let plan = || by_tenant(&[("acme", 60), ("beta", 30)]);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            let begun = std::time::Instant::now();
            while store.newest_delivery().await.unwrap() < EVENTS as u64 * (60 + 30 + 1) {
                assert!(begun.elapsed() < Duration::from_secs(60));
                if store.fan_out(plan(), None, 7).await.unwrap().events == 0 {
                    rest().await;
                }
            }
        });
    }
    for count in 0..EVENTS {
        for tenant in ["acme", "beta", "globex"] {
            accept(&store, tenant, &[&format!("x{count}")]).await;
        }
    }
    tasks.join_all().await;
    for (tenant, last) in [("acme", 59), ("beta", 29), ("globex", 0)] {
        for endpoint in [0, last] {
            let polled = polled(&store, tenant, &format!("{tenant}-{endpoint}")).await;
            assert_eq!(polled, named(tenant, "x", EVENTS), "each once, in the order of events");
        }
    }
    sound(&store).await;
}

pub(in crate::tests) async fn a_plan_of_an_older_document_does_nothing(store: &Store) {
    let plan = || to(&["e1"]);
    let fan_out = async |revision, is_outdated| {
        let told = store.fan_out(plan(), revision, 1).await.unwrap();
        let expected = if is_outdated { (0, true) } else { (1, false) };
        assert_eq!((told.events, told.outdated), expected, "{revision:?}");
        sound(store).await;
    };
    accept(store, "acme", &["a", "b", "c", "d", "e", "f"]).await;
    // Of what the store knows nothing of, it says nothing.
    fan_out(Some(3), false).await;
    published(store, "one", 0).await;
    fan_out(Some(1), false).await;
    // One that is on some nodes only is not everybody's: nobody plans by it, and the others need not follow.
    done(store.write(staged("two", 1, &["n1"])).await);
    fan_out(Some(1), false).await;
    fan_out(Some(2), true).await;
    done(store.write(write(Effect::Release(2))).await);
    fan_out(Some(1), true).await;
    fan_out(Some(2), false).await;
    // A document in a file is none of the store's.
    fan_out(None, false).await;
}
