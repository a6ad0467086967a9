//! What attachments ran before, out of older revisions.

use crate::Store;
use crate::tests::samples::{done, published, staged};
use serde_json::{Value, json};

/// A document in which attachment `a` runs this version of three.
fn document(running: &str) -> Value {
    let packs = ["1.0.0", "1.1.0", "2.0.0"].map(|version| json!({ "id": "p", "version": version }));
    json!({ "format": 1, "packs": packs, "attachments": [{ "id": "a", "pack": running }] })
}

pub(in crate::tests) async fn what_ran_before_is_found_in_older_revisions(store: &Store) {
    let text = |running: &str| document(running).to_string();
    let before = async |running: &str| {
        let found = store.ran_before(&document(running), running).await.unwrap();
        found.get(&"a".into())
    };
    assert_eq!(before("p@2.0.0").await, None, "there are no revisions");
    published(store, &text("p@1.0.0"), 0).await;
    published(store, &text("p@2.0.0"), 1).await;
    assert_eq!(before("p@2.0.0").await.as_deref(), Some("p@1.0.0"));
    assert_eq!(before("p@1.0.0").await.as_deref(), Some("p@2.0.0"));
    // The same document again, a text that is no document: nothing is told by them.
    published(store, &text("p@2.0.0"), 2).await;
    published(store, "{", 3).await;
    published(store, &text("p@2.0.0"), 4).await;
    assert_eq!(before("p@2.0.0").await.as_deref(), Some("p@1.0.0"));
    // What is on some nodes only was never in service.
    done(store.write(staged(&text("p@1.1.0"), 5, &["n1"])).await);
    assert_eq!(before("p@2.0.0").await.as_deref(), Some("p@1.0.0"));
}
