//! Revisions: numbers, texts, stages, and many who publish.

use crate::Store;
use crate::control::{Effect, WriteError};
use crate::tests::samples::{at, done, publish, published, rollback, staged, write};
use model::id::NodeName;
use model::port::StoreError;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(in crate::tests) async fn revisions_are_numbered_from_one_and_keep_their_texts(store: &Store) {
    assert!(store.newest().await.unwrap().is_none());
    assert!(store.newest_for(&"a".into()).await.unwrap().is_none());
    // The third is the first again, byte for byte: a rollback.
    for (base, text) in [(0, "one: ä\n"), (1, "two"), (2, "one: ä\n")] {
        assert_eq!(published(store, text, base).await, base + 1);
    }
    let newest = store.newest().await.unwrap().unwrap();
    assert_eq!((newest.info.number, &*newest.text, newest.info.size), (3, "one: ä\n", 8));
    assert_eq!((newest.info.at, newest.info.nodes), (at(0), None));
    assert_eq!((&*newest.info.author, &*newest.info.action), ("ann", "document.put"));
    let first = store.revision(1).await.unwrap().unwrap();
    assert_eq!(first.info.digest, newest.info.digest);
    assert!(first.info.digest.starts_with("sha256:") && first.info.digest.len() == 71);
    assert!(store.revision(4).await.unwrap().is_none());
    assert!(store.revision(u64::MAX).await.unwrap().is_none());
    for (before, limit, numbers) in
        [(None, 2, vec![3, 2]), (Some(2), 9, vec![1]), (Some(u64::MAX), 9, vec![3, 2, 1])]
    {
        let listed = store.revisions(before, limit).await.unwrap();
        assert_eq!(listed.iter().map(|info| info.number).collect::<Vec<_>>(), numbers);
    }
}

pub(in crate::tests) async fn a_change_of_what_is_no_longer_newest_is_stale(store: &Store) {
    let told = store.write(publish("x", 1)).await;
    assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
    published(store, "one", 0).await;
    for base in [0, 2, u64::MAX] {
        let told = store.write(publish("x", base)).await;
        assert!(matches!(told, Err(WriteError::Stale)), "{base}: {told:?}");
    }
    assert_eq!(store.newest().await.unwrap().unwrap().info.number, 1);
}

pub(in crate::tests) async fn a_staged_revision_is_its_nodes_until_it_is_released(store: &Store) {
    let number_for = async |node: &str| {
        store.newest_for(&node.into()).await.unwrap().map(|found| found.info.number)
    };
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["a", "b"])).await);
    assert_eq!(number_for("a").await, Some(2));
    assert_eq!(number_for("c").await, Some(1));
    assert_eq!(store.newest().await.unwrap().unwrap().info.number, 2);
    let told = store.write(publish("three", 2)).await;
    let Err(WriteError::Staged { number: 2, nodes }) = told else { panic!("{told:?}") };
    assert_eq!(nodes, ["a", "b"].map(NodeName::from));
    assert_eq!(done(store.write(write(Effect::Release(2))).await).revision, Some(2));
    assert_eq!(number_for("c").await, Some(2));
    assert_eq!(store.revision(2).await.unwrap().unwrap().info.nodes, None);
    // A rollback takes the place of one that is not everybody's, which then is nobody's newest any more.
    done(store.write(staged("three", 2, &["a"])).await);
    assert_eq!(done(store.write(rollback("one", 3)).await).revision, Some(4));
    assert_eq!((number_for("a").await, number_for("c").await), (Some(4), Some(4)));
}

pub(in crate::tests) async fn only_the_newest_staged_revision_is_released(store: &Store) {
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["a"])).await);
    done(store.write(rollback("three", 2)).await);
    for (number, why) in
        [(1, "everybody's"), (2, "not the newest"), (3, "everybody's"), (4, "absent")]
    {
        let told = store.write(write(Effect::Release(number))).await;
        assert!(matches!(told, Err(WriteError::NotFound)), "{number} is {why}: {told:?}");
    }
}

pub(in crate::tests) async fn a_nodes_name_is_matched_whole(store: &Store) {
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["node_1", "B"])).await);
    for (node, number) in [
        ("node_1", 2),
        ("B", 2),
        ("node_", 1),
        ("ode_1", 1),
        ("node_10", 1),
        ("nodeX1", 1),
        ("b", 1),
        ("", 1),
        ("%", 1),
        ("node_1\",\"B", 1),
    ] {
        let found = store.newest_for(&node.into()).await.unwrap().unwrap();
        assert_eq!(found.info.number, number, "{node}");
    }
}

pub(in crate::tests) async fn many_publish(store: Store) {
    const TASKS: usize = 16;
    const EACH: usize = 12;
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut mine = Vec::new();
            while mine.len() < EACH {
                let newest = store.newest().await.unwrap();
                let base = newest.map_or(0, |newest| newest.info.number);
                let text = format!("{task} {}", mine.len());
                match store.write(publish(&text, base)).await {
                    Ok(written) => mine.push((written.revision.unwrap(), text)),
                    Err(WriteError::Stale) => {}
                    Err(WriteError::Store(StoreError::Unavailable(error))) => panic!("{error}"),
                    Err(error) => panic!("{error:?}"),
                }
            }
            mine
        });
    }
    let acknowledged: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let numbers: BTreeSet<_> = acknowledged.iter().map(|(number, _)| *number).collect();
    let all = (TASKS * EACH) as u64;
    assert_eq!(numbers, (1..=all).collect());
    for (number, text) in acknowledged {
        assert_eq!(*store.revision(number).await.unwrap().unwrap().text, *text);
    }
    assert_eq!(store.feed().await.unwrap(), all);
}
