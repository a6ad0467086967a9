//! What is remembered of the packs that operators lay.

use super::{Kept, Missing, PackFiles, PackFolders, TRIED_MAX};
use crate::tests::pack::{key, lay, quiet};
use crate::tests::{host, store};
use pack_host::Package;
use serde_json::json;
use std::collections::HashMap;

/// The pack is had, and let go of at once.
fn find(files: &PackFiles, package: &Package) -> Result<(), Missing> {
    let named = json!({ "id": package.name(), "version": package.version() });
    let named = serde_json::from_value(named).unwrap();
    let keys = [serde_json::from_value(key(&["*"])).unwrap()];
    files.find(&named, &keys, &Kept::These(HashMap::new())).map(drop)
}

#[tokio::test]
async fn what_passed_its_trial_is_not_tried_again() {
    let (store, folder) = store().await;
    let laid = folder.path().join("packs");
    std::fs::create_dir_all(&laid).unwrap();
    let folders = PackFolders { cache: laid.join("cache"), laid };
    let files = PackFiles::new(folders, host(), store, tokio::runtime::Handle::current());
    let denial = json!({ "expect": { "decision": "deny", "reason": "never" } });
    let goes_on = quiet("1.0.0", &[("any", json!({ "expect": { "decision": "continue" } }))]);
    let fails = quiet("2.0.0", &[("any", denial)]);
    lay(folder.path(), &goes_on);
    lay(folder.path(), &fails);

    find(&files, &goes_on).unwrap();
    assert_eq!(files.in_use().len(), 0);
    assert_eq!(files.tried(goes_on.digest()), Some(true));
    for _ in 0..2 {
        let Missing { message, .. } = find(&files, &fails).unwrap_err();
        assert!(message.contains("the vector `any`"), "{message}");
    }
    // A trial would fail again: where one is said to have passed, none takes place.
    files.passed(fails.digest(), false);
    find(&files, &fails).unwrap();

    for number in 0..TRIED_MAX {
        files.passed(&format!("sha256:{number}"), true);
    }
    assert!(files.tried.lock().unwrap().len() <= TRIED_MAX);
    let Missing { message, .. } = find(&files, &fails).unwrap_err();
    assert!(message.contains("the vector `any`"), "{message}");
}
