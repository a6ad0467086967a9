//! What attachments ran before, as the documents of older revisions tell: where a rollback goes.
//!
//! Invariant: nothing is gone back to that the present document would refuse: another pack, a version that is no longer
//! there, one that is quarantined.

use crate::id::AttachmentId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The version that each attachment ran before the one that runs there now, as far as it was found. The default knows
/// of none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    running: String,
    /// What may be gone back to.
    may: BTreeSet<String>,
    /// Attachments whose history was not followed to its end.
    open: BTreeSet<AttachmentId>,
    found: BTreeMap<AttachmentId, String>,
}

impl Before {
    /// Begins at the present document: of the attachments that run `name@version`.
    pub fn of(document: &Value, running: &str) -> Self {
        let name = running.split_once('@').map_or(running, |(name, _)| name);
        let may = entries(document, "packs").filter_map(|pack| {
            let version = text(pack, "version")?;
            let fits = text(pack, "id")? == name && pack.get("quarantined").is_none();
            Some(format!("{name}@{version}")).filter(|reference| fits && reference != running)
        });
        let open = entries(document, "attachments")
            .filter(|entry| text(entry, "pack") == Some(running))
            .filter_map(|entry| text(entry, "id").map(AttachmentId::from));
        Self {
            running: running.to_owned(),
            may: may.collect(),
            open: open.collect(),
            found: BTreeMap::new(),
        }
    }

    /// Looks into the next older document.
    pub fn look(&mut self, older: &Value) {
        let ran: BTreeMap<&str, &str> = entries(older, "attachments")
            .filter_map(|entry| Some((text(entry, "id")?, text(entry, "pack")?)))
            .collect();
        let Self { running, may, open, found } = self;
        let name = running.split_once('@').map(|(name, _)| name);
        open.retain(|id| match ran.get(id.as_str()) {
            Some(pack) if may.contains(*pack) => {
                found.insert(id.clone(), (*pack).to_owned());
                false
            }
            // Of this pack, but now gone or quarantined: what came before that may do.
            Some(pack) => pack.split_once('@').map(|(name, _)| name) == name,
            // It was not there: what had its id earlier was another one.
            None => false,
        });
    }

    /// Whether an older document could tell more.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty() && !self.may.is_empty()
    }

    /// What this attachment ran before, as `name@version`.
    pub fn get(&self, id: &AttachmentId) -> Option<String> {
        self.found.get(id).cloned()
    }
}

fn entries<'a>(document: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    document.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    entry.get(field).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(packs: &[(&str, bool)], ran: &[(&str, &str)]) -> Value {
        let pack = |(reference, quarantined): &(&str, bool)| {
            let (id, version) = reference.split_once('@').unwrap();
            let mut pack = json!({ "id": id, "version": version });
            if *quarantined {
                pack["quarantined"] = json!({ "at": "2026-11-21T12:00:00Z", "reason": "faults" });
            }
            pack
        };
        let packs: Vec<_> = packs.iter().map(pack).collect();
        let ran: Vec<_> = ran.iter().map(|(id, pack)| json!({ "id": id, "pack": pack })).collect();
        json!({ "format": 1, "packs": packs, "attachments": ran })
    }

    #[test]
    fn an_attachment_goes_back_to_the_newest_version_that_it_ran_and_may_run() {
        let now = [("p@1.0.0", false), ("p@1.1.0", false), ("p@2.0.0", false), ("q@1.0.0", false)];
        let held = [("p@1.0.0", false), ("p@1.1.0", true), ("p@2.0.0", false)];
        let gone = [("p@1.0.0", false), ("p@2.0.0", false)];
        for (packs, history, expected) in [
            (&now[..], &["p@1.1.0", "p@1.0.0"][..], Some("p@1.1.0")),
            (&now[..], &["p@2.0.0", "p@2.0.0", "p@1.0.0"], Some("p@1.0.0")),
            (&held[..], &["p@1.1.0", "p@1.0.0"], Some("p@1.0.0")),
            (&gone[..], &["p@1.1.0", "p@1.0.0"], Some("p@1.0.0")),
            (&held[..], &["p@1.1.0"], None),
            (&now[..], &["q@1.0.0", "p@1.0.0"], None),
            (&now[..], &["", "p@1.0.0"], None),
            (&now[..], &[], None),
        ] {
            let mut before = Before::of(&document(packs, &[("a", "p@2.0.0")]), "p@2.0.0");
            for ran in history {
                let entries = [("a", *ran)];
                let ran = if ran.is_empty() { &[][..] } else { &entries[..] };
                before.look(&document(&[], ran));
            }
            let found = before.get(&"a".into());
            assert_eq!(found.as_deref(), expected, "{packs:?} {history:?}");
        }
    }

    #[test]
    fn each_attachment_has_a_history_of_its_own() {
        let packs = [("p@1.0.0", false), ("p@1.1.0", false), ("p@2.0.0", false)];
        let now = [("a", "p@2.0.0"), ("b", "p@2.0.0"), ("c", "p@1.0.0")];
        let mut before = Before::of(&document(&packs, &now), "p@2.0.0");
        assert!(before.is_open());
        before.look(&document(&[], &[("a", "p@1.1.0"), ("b", "p@2.0.0"), ("c", "p@1.1.0")]));
        assert!(before.is_open());
        before.look(&document(&[], &[("a", "p@1.0.0"), ("b", "p@1.0.0")]));
        assert!(!before.is_open());
        let found = ["a", "b", "c"].map(|id| before.get(&id.into()));
        assert_eq!(found, [Some("p@1.1.0".to_owned()), Some("p@1.0.0".to_owned()), None]);
    }
}
