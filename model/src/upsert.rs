//! One document merged into another, entry by entry: what `tollgate apply` publishes.
//!
//! Invariant: without [`Prune::Delete`] nothing that was there is gone, and merging the same file again changes nothing.

use crate::role::Section;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// What becomes of entries that the file does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// They stay.
    Keep,
    /// They are deleted: the result is the file's document.
    Delete,
}

/// A list whose entries are resources. An entry has at most one such list within.
struct List {
    name: &'static str,
    within: Option<&'static Self>,
    /// A field that stays when the file does not mention it.
    stays: Option<&'static str>,
}

const CREDENTIALS: List = List { name: "credentials", within: None, stays: None };
const CONSUMERS: List = List { name: "consumers", within: Some(&CREDENTIALS), stays: None };
const VERSIONS: List = List { name: "versions", within: None, stays: None };

impl List {
    const fn of(section: Section) -> Self {
        let within = match section {
            Section::Tenants => Some(&CONSUMERS),
            Section::Services => Some(&VERSIONS),
            Section::Issuers
            | Section::Upstreams
            | Section::Routes
            | Section::Plans
            | Section::PackKeys
            | Section::Packs
            | Section::Attachments
            | Section::Sources
            | Section::Endpoints
            | Section::EventTypes => None,
        };
        // The system took it out of service after the file was written: a file of old must not bring it back.
        let stays = match section {
            Section::Packs => Some("quarantined"),
            _ => None,
        };
        Self { name: section.as_str(), within, stays }
    }

    /// The list within an entry, after the file.
    fn merged(&self, was: Option<&Value>, said: Option<&Value>) -> Option<Value> {
        match said {
            Some(said) => Some(entries(was, said, self)),
            None => was.cloned(),
        }
    }
}

/// Merges a file into the current document. An entry that the file names is as the file says, but for the resources within
/// it (consumers, credentials, versions), which are merged in the same way, and for a pack's quarantine, which stays unless
/// the file mentions it. Entries keep their places; new ones come last.
///
/// What is malformed is taken over as it stands, so that checking the result finds it.
pub fn upsert(current: &Value, file: &Value, prune: Prune) -> Value {
    let (Value::Object(was), Value::Object(said), Prune::Keep) = (current, file, prune) else {
        return file.clone();
    };
    let mut merged = was.clone();
    for (key, value) in said {
        let section = Section::ALL.into_iter().find(|section| section.as_str() == key);
        let value = match section.map(List::of) {
            Some(list) => entries(was.get(key), value, &list),
            None => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

/// What people call an entry of a list of this name: its id; a version's name; a pack's `id@version`. None where the
/// entries of the list have no names.
pub fn label(list: &str, entry: &Value) -> Option<String> {
    let text = |field: &str| entry.get(field).and_then(Value::as_str);
    match list {
        "versions" => text("name").map(str::to_owned),
        "packs" => Some(format!("{}@{}", text("id")?, text("version")?)),
        _ => text("id").map(str::to_owned),
    }
}

/// An entry's label, and how many before it in its list have the same: a double entry stays one, and is found by checking.
type Identity = (String, usize);

fn entries(current: Option<&Value>, file: &Value, list: &List) -> Value {
    let (Some(Value::Array(was)), Value::Array(said)) = (current, file) else {
        return file.clone();
    };
    let mut merged = was.clone();
    let mut counts = HashMap::new();
    let places: HashMap<Identity, usize> = was
        .iter()
        .enumerate()
        .filter_map(|(place, entry)| Some((identity(list, entry, &mut counts)?, place)))
        .collect();
    let mut counts = HashMap::new();
    for entry in said {
        let known = identity(list, entry, &mut counts)
            .and_then(|identity| places.get(&identity))
            .and_then(|place| merged.get_mut(*place));
        match known {
            Some(known) => *known = whole(known, entry, list),
            // Without a name there is nothing to know it by but all of it.
            None if was.contains(entry) => {}
            None => merged.push(entry.clone()),
        }
    }
    Value::Array(merged)
}

/// An entry as the file says, with what stays of it: the resources within that the file doesn't name, and the field that it
/// doesn't mention.
fn whole(was: &Value, said: &Value, list: &List) -> Value {
    let (Value::Object(was), Value::Object(said)) = (was, said) else { return said.clone() };
    let mut merged: Map<String, Value> = said.clone();
    if let Some(field) = list.stays
        && let (Some(was), None) = (was.get(field), said.get(field))
    {
        merged.insert(field.to_owned(), was.clone());
    }
    if let Some(within) = list.within
        && let Some(entries) = within.merged(was.get(within.name), said.get(within.name))
    {
        merged.insert(within.name.to_owned(), entries);
    }
    Value::Object(merged)
}

fn identity(list: &List, entry: &Value, counts: &mut HashMap<String, usize>) -> Option<Identity> {
    let label = label(list.name, entry)?;
    let count = counts.entry(label.clone()).or_default();
    *count += 1;
    Some((label, *count))
}

#[cfg(test)]
mod tests;
