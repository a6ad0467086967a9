//! The reference packs of `policies/`, and a pack that asks everything of the C SDK: built from source, and run on the real
//! host by their vectors.

use crate::harness::process::tollgate;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folders of packs that decide by what an operator sets.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<_> = std::fs::read_dir(root().join("policies"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("settings.schema.json").is_file())
        .collect();
    folders.sort();
    assert!(folders.len() >= 9, "{folders:?}");
    folders
}

fn read(folder: &Path, name: &str) -> String {
    let file = folder.join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What `pack test` tells of a folder whose vectors all come out as expected, in fresh and in reused instances.
#[track_caller]
fn tried(folder: &Path) -> Value {
    let shown = folder.display();
    let tested = tollgate().args(["pack", "test", "--json"]).arg(folder).output().unwrap();
    let (told, complaint) =
        (String::from_utf8_lossy(&tested.stdout), String::from_utf8_lossy(&tested.stderr));
    assert_eq!(tested.status.code(), Some(0), "{shown}: {told}{complaint}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["passed"], true, "{told}");
    assert_eq!(told["trial"]["reusable"], true, "{told}");
    assert_eq!(told["trial"]["image"], true, "{shown}: no memory image can be taken");
    told
}

#[test]
fn every_reference_pack_decides_as_its_vectors_say() {
    for folder in folders() {
        let shown = folder.display();
        let kept = read(&folder, "settings.schema.json");
        let told = tried(&folder);
        assert!(told["trial"]["vectors"].as_array().unwrap().len() >= 5, "{shown} has few vectors");
        let built = read(&folder, "settings.schema.json");
        assert_eq!(
            built, kept,
            "{shown}: settings.schema.json did not fit the settings' type; now it does"
        );
    }
}

#[test]
fn the_c_sdk_asks_and_says_everything_that_there_is() {
    tried(&root().join("plugins/sdk/tests/c"));
}

#[test]
fn every_reference_pack_tells_all_its_settings_in_its_readme() {
    for folder in folders() {
        let schema: Value = serde_json::from_str(&read(&folder, "settings.schema.json")).unwrap();
        let told = read(&folder, "README.md");
        for setting in schema["properties"].as_object().unwrap().keys() {
            let row = format!("| `{setting}` |");
            assert!(told.contains(&row), "{}/README.md has no row {row}", folder.display());
        }
    }
}
