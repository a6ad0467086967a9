//! What changed between two documents, as a JSON Patch (RFC 6902) without secrets.
//!
//! Invariant: applied to the one document it gives the other, but for what is redacted. Lists of resources are compared by
//! their ids: deleting the first of ten thousand tenants is one operation.

use model::document::SECRET_FIELDS;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// The longest prefix of an API key, which is no secret.
const PREFIX_MAX: usize = 32;

/// The longest difference that is shown or kept, in bytes; of a longer one only what was touched is told.
const DIFFERENCE_BYTES_MAX: usize = 256 << 10;
/// How many pointers of a longer one are told.
const ABRIDGED_POINTERS_MAX: usize = 200;

/// The difference, as answers and the audit show it.
pub(crate) fn between(before: &Value, after: &Value) -> Value {
    let mut operations = Vec::new();
    compare(before, after, "", &mut operations);
    let shown = Value::Array(operations);
    if shown.to_string().len() <= DIFFERENCE_BYTES_MAX { shown } else { abridged(&shown) }
}

/// Operations without their values.
fn abridged(operations: &Value) -> Value {
    let all = operations.as_array().map(Vec::as_slice).unwrap_or_default();
    let touched = all
        .iter()
        .take(ABRIDGED_POINTERS_MAX)
        .map(|operation| json!({ "op": operation["op"], "path": operation["path"] }));
    json!({ "abridged": true, "operations": all.len(), "touched": touched.collect::<Value>() })
}

fn compare(before: &Value, after: &Value, at: &str, operations: &mut Vec<Value>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => objects(before, after, at, operations),
        (Value::Array(old), Value::Array(new)) => match (names(old), names(new)) {
            (Some(old_names), Some(new_names)) if same_order(&old_names, &new_names) => {
                lists((old, &old_names), (new, &new_names), at, operations);
            }
            _ => operations.push(replaced(at, &redacted(after))),
        },
        _ => operations.push(replaced(at, &redacted(after))),
    }
}

fn replaced(at: &str, value: &Value) -> Value {
    json!({ "op": "replace", "path": at, "value": value })
}

fn objects(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    at: &str,
    operations: &mut Vec<Value>,
) {
    for field in before.keys().filter(|field| !after.contains_key(*field)) {
        operations.push(json!({ "op": "remove", "path": format!("{at}/{}", escape(field)) }));
    }
    for (field, value) in after {
        let path = format!("{at}/{}", escape(field));
        match (before.get(field), secretive(field)) {
            (Some(old), None) => compare(old, value, &path, operations),
            (Some(old), Some(shown)) => compare(&shown(old), &shown(value), &path, operations),
            (None, _) => {
                let value = secretive(field).map_or_else(|| redacted(value), |shown| shown(value));
                operations.push(json!({ "op": "add", "path": path, "value": value }));
            }
        }
    }
}

/// Removes from the end, so that indexes hold; then what is left stands at its new place, or is added there.
fn lists(
    (before, old): (&[Value], &[String]),
    (after, new): (&[Value], &[String]),
    at: &str,
    operations: &mut Vec<Value>,
) {
    let known: HashMap<&str, &Value> = old.iter().map(String::as_str).zip(before).collect();
    let kept: HashMap<&str, ()> = new.iter().map(|name| (name.as_str(), ())).collect();
    for (index, name) in old.iter().enumerate().rev() {
        if !kept.contains_key(name.as_str()) {
            operations.push(json!({ "op": "remove", "path": format!("{at}/{index}") }));
        }
    }
    for (index, (name, entry)) in new.iter().zip(after).enumerate() {
        let path = format!("{at}/{index}");
        match known.get(name.as_str()) {
            Some(old) => compare(old, entry, &path, operations),
            None => operations.push(json!({ "op": "add", "path": path, "value": redacted(entry) })),
        }
    }
}

/// The ids of a list of resources; none when it is no such list.
fn names(list: &[Value]) -> Option<Vec<String>> {
    let name = |entry: &Value| {
        let id = entry.get("id").or_else(|| entry.get("name"))?.as_str()?;
        match entry.get("version").and_then(Value::as_str) {
            Some(version) => Some(format!("{id}@{version}")),
            None => Some(id.to_owned()),
        }
    };
    let names: Vec<String> = list.iter().map(name).collect::<Option<_>>()?;
    let distinct: HashMap<&str, ()> = names.iter().map(|name| (name.as_str(), ())).collect();
    (distinct.len() == names.len()).then_some(names)
}

/// Whether those that stand in both stand in the same order.
fn same_order(old: &[String], new: &[String]) -> bool {
    let places: HashMap<&str, usize> =
        new.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let mut both = old.iter().filter_map(|name| places.get(name.as_str()));
    both.by_ref().is_sorted()
}

/// Escapes one token of a pointer (RFC 6901 §3).
pub(crate) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// A value without what could be a secret: one that was written plainly, or in the place of a hash.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(redacted).collect(),
        Value::Object(object) => {
            let fields = object.iter().map(|(field, value)| {
                let shown = secretive(field).map_or_else(|| redacted(value), |shown| shown(value));
                (field.clone(), shown)
            });
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// How a field is shown in whose place a secret may stand.
fn secretive(field: &str) -> Option<fn(&Value) -> Value> {
    match field {
        _ if SECRET_FIELDS.contains(&field) => Some(|value| {
            only(value, |field, text| match field {
                "env" => text.starts_with("TOLLGATE_SECRET_"),
                "sealed" => text.starts_with("tg1."),
                _ => field == "file",
            })
        }),
        // Whoever mistakes the fields of an API key must not find the key in an answer.
        "api_key" => Some(|value| {
            only(value, |field, text| match field {
                "hash" => text.starts_with("sha256:") && text.len() == 71,
                "prefix" => {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                    text.len() <= PREFIX_MAX && text.bytes().all(plain)
                }
                _ => field == "expires",
            })
        }),
        _ => None,
    }
}

/// An object with those of its fields that are sound text.
fn only(value: &Value, sound: fn(&str, &str) -> bool) -> Value {
    let Value::Object(object) = value else { return REDACTED.into() };
    let fields = object.iter().map(|(field, value)| {
        let shown = value.as_str().is_some_and(|text| sound(field, text));
        (field.clone(), if shown { value.clone() } else { REDACTED.into() })
    });
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applied_to_the_one_it_gives_the_other() {
        let plan = |id: &str, burst: u32| json!({ "id": id, "limits": [{ "id": "burst", "burst": burst }] });
        let lists = [
            json!([]),
            json!([plan("a", 1)]),
            json!([plan("a", 2), plan("b", 1)]),
            json!([plan("b", 1)]),
            json!([plan("b", 1), plan("a", 2)]),
            json!([plan("c", 1), plan("b", 3), plan("d", 1), plan("a", 2)]),
            json!([{ "id": "a", "version": "1" }, { "id": "a", "version": "2" }]),
            json!([{ "name": "a/b" }, { "name": "~" }]),
            json!(["x", 1, null]),
            json!(null),
        ];
        for before in &lists {
            for after in &lists {
                let (before, after) =
                    (json!({ "x": before, "a/b": 1 }), json!({ "x": after, "~c": 2 }));
                let patch = between(&before, &after);
                let mut applied = before.clone();
                json_patch::patch(
                    &mut applied,
                    &serde_json::from_value::<json_patch::Patch>(patch.clone()).unwrap(),
                )
                .unwrap();
                assert_eq!(applied, after, "{before}: {patch}");
                assert_eq!(between(&after, &after), json!([]));
            }
        }
    }

    #[test]
    fn deleting_the_first_of_many_is_one_operation() {
        let many =
            |from: u32| (from..500).map(|n| json!({ "id": format!("t{n}") })).collect::<Value>();
        let (before, after) = (json!({ "tenants": many(0) }), json!({ "tenants": many(1) }));
        assert_eq!(between(&before, &after), json!([{ "op": "remove", "path": "/tenants/0" }]));
    }

    #[test]
    fn a_long_one_tells_what_was_touched_only() {
        let many = |limit: u32| {
            (0..5_000)
                .map(|n| json!({ "id": format!("t{n}"), "limit": limit, "text": "x".repeat(40) }))
                .collect::<Value>()
        };
        let shown = between(&json!({ "tenants": many(1) }), &json!({ "tenants": many(2) }));
        assert_eq!((&shown["abridged"], &shown["operations"]), (&json!(true), &json!(5_000)));
        assert_eq!(shown["touched"][0], json!({ "op": "replace", "path": "/tenants/0/limit" }));
        assert!(shown.to_string().len() < DIFFERENCE_BYTES_MAX);
    }
}
