//! Tables of merges, and what holds of every merge.

use super::{Prune, label, upsert};
use proptest::prelude::*;
use serde_json::{Value, json};

#[track_caller]
fn merges(current: Value, file: Value, expected: Value) {
    let merged = upsert(&current, &file, Prune::Keep);
    assert_eq!(merged, expected, "{current} + {file}");
    assert_eq!(merged.to_string(), expected.to_string(), "the order of things");
}

#[test]
fn an_entry_that_the_file_names_is_as_the_file_says() {
    merges(
        json!({ "format": 1, "plans": [{ "id": "a", "limits": [1] }, { "id": "b", "limits": [] }] }),
        json!({ "plans": [{ "id": "a", "limits": [2] }] }),
        json!({ "format": 1, "plans": [{ "id": "a", "limits": [2] }, { "id": "b", "limits": [] }] }),
    );
    // A field that it doesn't mention is back at its default.
    merges(
        json!({ "routes": [{ "id": "r", "cost": 5, "scopes": ["x"] }] }),
        json!({ "routes": [{ "id": "r", "scopes": ["y"] }] }),
        json!({ "routes": [{ "id": "r", "scopes": ["y"] }] }),
    );
}

#[test]
fn entries_keep_their_places_and_new_ones_come_last() {
    merges(
        json!({ "plans": [{ "id": "a" }, { "id": "b" }], "format": 1 }),
        json!({ "plans": [{ "id": "n" }, { "id": "b", "x": 1 }, { "id": "a", "x": 2 }] }),
        json!({ "plans": [{ "id": "a", "x": 2 }, { "id": "b", "x": 1 }, { "id": "n" }], "format": 1 }),
    );
    merges(
        json!({ "format": 1 }),
        json!({ "plans": [{ "id": "a" }] }),
        json!({ "format": 1, "plans": [{ "id": "a" }] }),
    );
}

#[test]
fn resources_within_an_entry_are_merged_too() {
    let current = json!({ "tenants": [{ "id": "acme", "plan": "free", "pins": { "s": "v1" }, "consumers": [
        { "id": "web", "scopes": ["r"], "credentials": [{ "id": "k1", "x": 1 }, { "id": "k2" }] },
        { "id": "batch" },
    ] }] });
    for (said, expected) in [
        (
            json!({ "id": "acme", "plan": "gold" }),
            json!({ "id": "acme", "plan": "gold", "consumers": current["tenants"][0]["consumers"] }),
        ),
        (
            json!({ "id": "acme", "consumers": [] }),
            json!({ "id": "acme", "consumers": current["tenants"][0]["consumers"] }),
        ),
        (
            json!({ "id": "acme", "consumers": [{ "id": "web", "credentials": [{ "id": "k3" }, { "id": "k1" }] }] }),
            json!({ "id": "acme", "consumers": [
                { "id": "web", "credentials": [{ "id": "k1" }, { "id": "k2" }, { "id": "k3" }] },
                { "id": "batch" },
            ] }),
        ),
    ] {
        merges(current.clone(), json!({ "tenants": [said] }), json!({ "tenants": [expected] }));
    }
    merges(
        json!({ "services": [{ "id": "s", "versions": [{ "name": "v1" }, { "name": "v2" }] }] }),
        json!({ "services": [{ "id": "s", "versions": [{ "name": "v2", "state": "active" }] }] }),
        json!({ "services": [{ "id": "s", "versions": [{ "name": "v1" }, { "name": "v2", "state": "active" }] }] }),
    );
}

#[test]
fn a_file_of_old_does_not_bring_back_what_is_quarantined() {
    let held = json!({ "id": "p", "version": "1.0.0", "quarantined": { "reason": "faults" } });
    let kept = |said: Value| upsert(&json!({ "packs": [held] }), &said, Prune::Keep);
    let silent = json!({ "packs": [{ "id": "p", "version": "1.0.0" }] });
    assert_eq!(kept(silent.clone())["packs"][0]["quarantined"], held["quarantined"]);
    let other =
        json!({ "packs": [{ "id": "p", "version": "1.0.0", "quarantined": { "reason": "x" } }] });
    assert_eq!(kept(other.clone()), other);
    let pruned = upsert(&json!({ "packs": [held] }), &silent, Prune::Delete);
    assert_eq!(pruned, silent, "the result is the file's document");
}

#[test]
fn a_pack_is_known_by_name_and_version() {
    merges(
        json!({ "packs": [{ "id": "p", "version": "1.0.0" }] }),
        json!({ "packs": [{ "id": "p", "version": "1.0.0", "digest": "d" }, { "id": "p", "version": "2.0.0" }] }),
        json!({ "packs": [{ "id": "p", "version": "1.0.0", "digest": "d" }, { "id": "p", "version": "2.0.0" }] }),
    );
    assert_eq!(
        label("packs", &json!({ "id": "p", "version": "1.0.0" })).as_deref(),
        Some("p@1.0.0")
    );
    assert_eq!(label("versions", &json!({ "name": "v1" })).as_deref(), Some("v1"));
    assert_eq!(label("targets", &json!({ "address": "x:1" })), None);
}

#[test]
fn what_is_malformed_is_left_to_the_check() {
    for (file, expected) in [
        (json!([]), json!([])),
        (json!({ "plans": 7 }), json!({ "plans": 7 })),
        (json!({ "plans": null }), json!({ "plans": null })),
        (json!({ "bogus": 1 }), json!({ "plans": [{ "id": "a" }], "bogus": 1 })),
        (
            json!({ "plans": [{ "limits": [] }] }),
            json!({ "plans": [{ "id": "a" }, { "limits": [] }] }),
        ),
        (
            json!({ "plans": [{ "id": 3 }, "x"] }),
            json!({ "plans": [{ "id": "a" }, { "id": 3 }, "x"] }),
        ),
        // A double entry stays double, so that it is refused.
        (
            json!({ "plans": [{ "id": "a", "x": 1 }, { "id": "a", "x": 2 }] }),
            json!({ "plans": [{ "id": "a", "x": 1 }, { "id": "a", "x": 2 }] }),
        ),
    ] {
        merges(json!({ "plans": [{ "id": "a" }] }), file, expected);
    }
}

/// A few names, so that documents share some.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

/// A list of distinct entries of this shape.
fn list(entry: impl Strategy<Value = Value>) -> impl Strategy<Value = Option<Value>> {
    let distinct = |entries: Vec<Value>| {
        let mut kept: Vec<Value> = Vec::new();
        for entry in entries {
            let same = |other: &Value| {
                ["id", "name", "version"].iter().all(|field| other.get(field) == entry.get(field))
            };
            if !kept.iter().any(same) {
                kept.push(entry);
            }
        }
        Value::Array(kept)
    };
    prop::option::of(prop::collection::vec(entry, 0..5).prop_map(distinct))
}

fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    let present = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect())
}

fn document() -> impl Strategy<Value = Value> {
    let some = |value: Value| Some(value);
    let credential = (name(), 0..3_u8)
        .prop_map(move |(id, x)| object(vec![("id", some(id.into())), ("x", some(x.into()))]));
    let consumer = (name(), list(credential)).prop_map(move |(id, within)| {
        object(vec![("id", some(id.into())), ("credentials", within)])
    });
    let tenant =
        (name(), prop::option::of(0..3_u8), list(consumer)).prop_map(move |(id, plan, within)| {
            object(vec![
                ("id", some(id.into())),
                ("plan", plan.map(Value::from)),
                ("consumers", within),
            ])
        });
    let version = (name(), 0..3_u8)
        .prop_map(move |(id, x)| object(vec![("name", some(id.into())), ("x", some(x.into()))]));
    let service = (name(), list(version))
        .prop_map(move |(id, within)| object(vec![("id", some(id.into())), ("versions", within)]));
    let pack = (name(), name()).prop_map(move |(id, version)| {
        object(vec![("id", some(id.into())), ("version", some(version.into()))])
    });
    (list(tenant), list(service), list(pack)).prop_map(move |(tenants, services, packs)| {
        object(vec![
            ("format", some(1.into())),
            ("tenants", tenants),
            ("services", services),
            ("packs", packs),
        ])
    })
}

/// The paths of all resources, like `tenants/a/consumers/b`.
fn resources(value: &Value, path: &str, found: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (key, value) in fields {
        for entry in value.as_array().into_iter().flatten() {
            let place = format!("{path}{key}/{}", label(key, entry).unwrap());
            resources(entry, &format!("{place}/"), found);
            found.push(place);
        }
    }
}

proptest! {
    #[test]
    fn merging_again_changes_nothing(current in document(), file in document()) {
        let once = upsert(&current, &file, Prune::Keep);
        prop_assert_eq!(upsert(&once, &file, Prune::Keep), once);
    }

    #[test]
    fn a_document_merged_into_itself_is_itself(document in document()) {
        prop_assert_eq!(upsert(&document, &document, Prune::Keep), document);
    }

    #[test]
    fn pruning_gives_the_file(current in document(), file in document()) {
        prop_assert_eq!(upsert(&current, &file, Prune::Delete), file);
    }

    #[test]
    fn without_pruning_nothing_is_gone_and_nothing_comes_from_elsewhere(
        current in document(), file in document(),
    ) {
        let merged = upsert(&current, &file, Prune::Keep);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        resources(&current, "", &mut before);
        resources(&file, "", &mut before);
        resources(&merged, "", &mut after);
        before.sort();
        before.dedup();
        after.sort();
        prop_assert_eq!(after, before);
    }

    #[test]
    fn what_the_file_says_of_an_entry_holds(current in document(), file in document()) {
        let merged = upsert(&current, &file, Prune::Keep);
        for said in file["tenants"].as_array().into_iter().flatten() {
            let merged = merged["tenants"].as_array().unwrap();
            let found = merged.iter().find(|entry| entry["id"] == said["id"]).unwrap();
            prop_assert_eq!(found.get("plan"), said.get("plan"));
        }
    }
}
