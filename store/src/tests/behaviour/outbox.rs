//! The outbox: with the write that it tells of, or not at all; in the order of commits.

use crate::Store;
use crate::control::{Effect, Write, WriteError};
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
