//! The outbox: with the write that it tells of, or not at all; in the order of commits.

use crate::Store;
use crate::control::{Effect, OUTBOX_READER, OutboxRead, ToldOnce, Write, WriteError};
use crate::tests::behaviour::SPAN;
use crate::tests::samples::{at, done, id, published, write};
use model::event::Event;
use serde_json::json;
use std::sync::Arc;

fn event(number: u64) -> Event {
    Event {
        id: id(number),
        at: at(0),
        r#type: "tollgate.pack.promoted".to_owned(),
        tenant: number.is_multiple_of(2).then(|| "acme".into()),
        subject: format!("/v1/attachments/{number}"),
        data: json!({ "number": number, "text": "ä" }),
    }
}

fn telling(text: &str, base: u64, events: Vec<Event>) -> Write {
    let effect =
        Effect::Publish { text: text.into(), base, nodes: None, replaces_staged: false, events };
    write(effect)
}

pub(in crate::tests) async fn events_are_told_with_the_revision_that_they_tell_of(store: &Store) {
    assert_eq!(store.outbox(0, 10).await.unwrap(), []);
    // Ids say nothing of the order: nodes make them, each by its own clock.
    done(store.write(telling("one", 0, vec![event(7), event(3)])).await);
    published(store, "two", 1).await;
    done(store.write(telling("three", 2, vec![event(5)])).await);
    let told = store.write(telling("late", 2, vec![event(9)])).await;
    assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
    for (after, limit, expected) in [
        (0, 10, vec![(1, 7), (2, 3), (3, 5)]),
        (0, 2, vec![(1, 7), (2, 3)]),
        (2, 10, vec![(3, 5)]),
        (3, 10, vec![]),
        (u64::MAX, 10, vec![]),
    ] {
        let found = store.outbox(after, limit).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|told| (told.number, told.event)).collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(at, number)| (at, event(number))).collect();
        assert_eq!(found, expected, "{after} {limit}");
    }
    // After a week they go, and numbers go on all the same.
    const WEEK: i64 = 7 * 24 * 3_600;
    assert_eq!(store.purge(at(WEEK - 1).as_microsecond()).await.unwrap(), 0);
    assert_eq!(store.purge(at(WEEK).as_microsecond()).await.unwrap(), 3);
    done(store.write(telling("four", 3, vec![event(1)])).await);
    let left: Vec<_> = store.outbox(0, 10).await.unwrap().iter().map(|told| told.number).collect();
    assert_eq!(left, [4]);
}

pub(in crate::tests) async fn what_waits_for_who_reads_the_outbox_is_kept_for_longer(
    store: &Store,
) {
    const DAY: i64 = 24 * 3_600;
    let left = async |days: i64| {
        store.purge(at(days * DAY).as_microsecond()).await.unwrap();
        let left = store.outbox(0, 10).await.unwrap();
        left.into_iter().map(|told| told.number).collect::<Vec<_>>()
    };
    done(store.write(telling("one", 0, vec![event(1), event(2), event(3)])).await);
    let reader = store.hold_reader(OUTBOX_READER, "d1", SPAN).await.unwrap().unwrap();
    assert_eq!(left(8).await, [1, 2, 3], "it has read nothing yet");
    let read = serde_json::to_string(&OutboxRead { number: 2 }).unwrap();
    assert!(store.keep_reader(OUTBOX_READER, reader.fence, SPAN, Some(read)).await.unwrap());
    assert_eq!(left(6).await, [1, 2, 3]);
    assert_eq!(left(8).await, [3]);
    assert_eq!(left(89).await, [3]);
    assert_eq!(left(90).await, [0; 0], "should it never come back");
}

/// Many publish and tell, while somebody reads on from the last event that they saw.
pub(in crate::tests) async fn many_tell(store: Store) {
    const TASKS: u64 = 6;
    const EACH: u64 = 15;
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut count = 0;
            while count < EACH {
                let newest = store.newest().await.unwrap().map_or(0, |newest| newest.info.number);
                // The later task has the smaller ids.
                let event = event((TASKS - task) * 1_000 + count);
                let text = format!("{task} {count}");
                match store.write(telling(&text, newest, vec![event])).await {
                    Ok(_) => count += 1,
                    Err(WriteError::Stale) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(TASKS * EACH).unwrap() {
        let after = seen.last().copied().unwrap_or_default();
        let more = store.outbox(after, 7).await.unwrap();
        seen.extend(more.into_iter().map(|told| told.number));
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    assert_eq!(seen, (1..=TASKS * EACH).collect::<Vec<_>>(), "none is missed");
}

/// An event that is told once under a name, remembered for a minute.
fn once(name: &str, number: u64) -> ToldOnce {
    ToldOnce { name: name.to_owned(), until: at(60), event: event(number) }
}

pub(in crate::tests) async fn what_was_told_under_a_name_is_not_told_again(store: &Store) {
    let ids = async || {
        let told = store.outbox(0, 100).await.unwrap();
        told.into_iter().map(|told| told.event.id).collect::<Vec<_>>()
    };
    let long = "x".repeat(10_000);
    for (told, count, expected) in [
        (vec![], 0, &[][..]),
        // In the order in which they are given, whatever their names.
        (vec![once("c", 4), once("a", 3), once("b", 2), once("a", 1)], 3, &[4, 3, 2]),
        (vec![once("a", 5), once(&long, 6), once("b", 7)], 1, &[4, 3, 2, 6]),
        (vec![once(&long, 8)], 0, &[4, 3, 2, 6]),
    ] {
        assert_eq!(store.tell_once(told).await.unwrap(), count);
        assert_eq!(ids().await, expected.iter().copied().map(id).collect::<Vec<_>>());
    }
    // An event that can't be written takes its name back.
    store.tell_once(vec![once("d", 9), once("e", 4)]).await.unwrap_err();
    assert_eq!(store.tell_once(vec![once("d", 9)]).await.unwrap(), 1);
    // Names are forgotten after their time; the events stay for theirs.
    assert_eq!(store.purge(at(59).as_microsecond()).await.unwrap(), 0);
    assert_eq!(store.purge(at(60).as_microsecond()).await.unwrap(), 5);
    assert_eq!(store.tell_once(vec![once("a", 10)]).await.unwrap(), 1);
    assert_eq!(ids().await.len(), 6);
}

/// Many nodes tell of the same, each in an order of its own, while others publish.
pub(in crate::tests) async fn many_tell_the_same(store: Store) {
    const NODES: u64 = 8;
    const NAMES: u64 = 40;
    let mut nodes = tokio::task::JoinSet::new();
    for node in 0..NODES {
        let store = store.clone();
        nodes.spawn(async move {
            let told =
                |number: u64| once(&(number % NAMES).to_string(), 1_000 * (node + 1) + number);
            // Every node begins elsewhere.
            let told: Vec<_> = (node * 5..node * 5 + NAMES).map(told).collect();
            let mut first = 0;
            for told in told.chunks(10) {
                first += store.tell_once(told.to_vec()).await.unwrap();
            }
            first
        });
    }
    for base in 0..5 {
        let number = base + 1;
        done(store.write(telling("text", base, vec![event(number)])).await);
    }
    let first: usize = nodes.join_all().await.into_iter().sum();
    assert_eq!(first as u64, NAMES);
    assert_eq!(store.outbox(0, 1_000).await.unwrap().len() as u64, NAMES + 5);
}
