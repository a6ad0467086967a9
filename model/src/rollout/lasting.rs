//! A quarantine outlasts a rollback of the document: an older text knows nothing of it, and lifting it is a change of its own.

use serde_json::{Map, Value};

/// Carries the quarantines of the newest document into an older one that is brought back. An attachment that would run such
/// a version runs what it runs now, or is halted; a candidate of such a version is left out. Says whether anything was to
/// carry.
pub fn keep_quarantines(newest: &Value, older: &mut Value) -> bool {
    let mut carried = false;
    for pack in entries_mut(older, "packs") {
        let known = entries(newest, "packs")
            .find(|entry| ["id", "version"].iter().all(|key| entry.get(key) == pack.get(*key)));
        let mark = known.and_then(|entry| entry.get("quarantined"));
        if let (Some(mark), false) = (mark, pack.contains_key("quarantined")) {
            pack.insert("quarantined".to_owned(), mark.clone());
            carried = true;
        }
    }
    if carried {
        let barred = barred(older);
        for attachment in entries_mut(older, "attachments") {
            bar(attachment, newest, &barred);
        }
    }
    carried
}

/// Takes quarantined versions out of an attachment.
fn bar(attachment: &mut Map<String, Value>, newest: &Value, barred: &[String]) {
    let is_barred = |reference: Option<&Value>| {
        let reference = reference.and_then(Value::as_str);
        reference.is_some_and(|reference| barred.iter().any(|barred| barred == reference))
    };
    if is_barred(attachment.get("rollout").and_then(|rollout| rollout.get("candidate"))) {
        attachment.shift_remove("rollout");
    }
    if !is_barred(attachment.get("pack")) {
        return;
    }
    attachment.shift_remove("rollout");
    let now = entries(newest, "attachments").find(|now| now.get("id") == attachment.get("id"));
    let runs = now.and_then(|now| now.get("pack"));
    match runs
        .filter(|runs| name(Some(runs)) == name(attachment.get("pack")) && !is_barred(Some(runs)))
    {
        Some(runs) => attachment.insert("pack".to_owned(), runs.clone()),
        None => attachment.insert("halted".to_owned(), true.into()),
    };
}

/// The quarantined versions of a document, as attachments name them.
fn barred(document: &Value) -> Vec<String> {
    let marked = entries(document, "packs").filter(|entry| entry.get("quarantined").is_some());
    let named = marked.filter_map(|entry| {
        Some(format!("{}@{}", entry.get("id")?.as_str()?, entry.get("version")?.as_str()?))
    });
    named.collect()
}

fn name(reference: Option<&Value>) -> Option<&str> {
    Some(reference?.as_str()?.split_once('@')?.0)
}

fn entries<'a>(document: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    document.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn entries_mut<'a>(
    document: &'a mut Value,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let entries = document.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
    entries.filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_brought_back_runs_nothing_that_is_quarantined() {
        let mark = json!({ "at": "2026-11-21T12:00:00Z", "reason": "faults" });
        let older = json!({
            "packs": [{ "id": "p", "version": "1.0.0" }, { "id": "p", "version": "1.1.0" }, { "id": "q", "version": "1.1.0" }],
            "attachments": [
                { "id": "a", "pack": "p@1.1.0", "rollout": { "candidate": "p@1.0.0" } },
                { "id": "b", "pack": "p@1.1.0" },
                { "id": "c", "pack": "p@1.0.0", "rollout": { "candidate": "p@1.1.0" } },
                { "id": "d", "pack": "q@1.1.0" },
            ],
        });
        let mut newest = older.clone();
        assert!(!keep_quarantines(&newest, &mut older.clone()), "there is nothing to carry");
        newest["packs"][1]["quarantined"] = mark.clone();
        newest["attachments"] = json!([{ "id": "a", "pack": "p@1.0.0" }, { "id": "b", "pack": "p@1.1.0", "halted": true }]);
        let mut brought = older.clone();
        assert!(keep_quarantines(&newest, &mut brought));
        let mut expected = older;
        expected["packs"][1]["quarantined"] = mark.clone();
        expected["attachments"] = json!([
            { "id": "a", "pack": "p@1.0.0" },
            { "id": "b", "pack": "p@1.1.0", "halted": true },
            { "id": "c", "pack": "p@1.0.0" },
            { "id": "d", "pack": "q@1.1.0" },
        ]);
        assert_eq!(brought, expected);
        // A mark of its own stays.
        expected["packs"][1]["quarantined"] =
            json!({ "at": "2026-01-01T00:00:00Z", "reason": "earlier" });
        let before = expected.clone();
        assert!(!keep_quarantines(&newest, &mut expected));
        assert_eq!(expected, before);
    }
}
