//! What one document changes in another, as people read it: resources by their names, secrets never.

use model::document::SECRET_FIELDS;
use model::upsert::label;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// How much of a value one line shows, in characters.
const VALUE_SHOWN: usize = 100;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    /// What happens.
    pub(crate) op: Op,
    /// Where: a pointer with names instead of numbers where entries have names, like `/plans/gold/limits/burst/rate`.
    pub(crate) path: String,
    /// What stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Value>,
    /// What will stand there.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Value>,
}

/// What happens to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    Add,
    Change,
    /// The same entries in another order.
    Reorder,
    Remove,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<Value>| value.as_ref().map(cut).unwrap_or_default();
        let path = &self.path;
        match self.op {
            Op::Add => write!(f, "+ {path} {}", value(&self.to)),
            Op::Change => write!(f, "~ {path} {} → {}", value(&self.from), value(&self.to)),
            Op::Reorder => write!(f, "~ {path} (another order)"),
            Op::Remove => write!(f, "- {path} {}", value(&self.from)),
        }
    }
}

/// Every change from one document to the other.
pub(crate) fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare(&Place::default(), from, to, &mut found);
    found
}

/// Where in the file an error of the merged document is, as a pointer; by names where the file doesn't have that place.
pub(crate) fn place(pointer: &str, merged: &Value, file: &Value) -> String {
    let (mut merged, mut in_file, mut name) = (Some(merged), Some(file), "");
    let (mut numbers, mut names, mut is_in_file) = (String::new(), String::new(), true);
    for token in pointer.split('/').skip(1) {
        let position = token.parse::<usize>().ok();
        let entries = merged.and_then(Value::as_array);
        if let (Some(entries), Some(position)) = (entries, position) {
            let entry = entries.get(position);
            let label = entry.and_then(|entry| label(name, entry));
            let counterpart = in_file
                .and_then(Value::as_array)
                .and_then(|said| counterpart(name, position, entry?, said));
            is_in_file &= counterpart.is_some();
            numbers.push_str(&format!("/{}", counterpart.unwrap_or(position)));
            names.push_str(&format!("/{}", label.unwrap_or_else(|| token.to_owned())));
            in_file = in_file.and_then(|said| said.get(counterpart?));
            merged = entry;
        } else {
            let key = token.replace("~1", "/").replace("~0", "~");
            // The last one may be missing in both, which is then the error.
            is_in_file &= in_file.is_some();
            numbers.push_str(&format!("/{token}"));
            names.push_str(&format!("/{token}"));
            merged = merged.and_then(|value| value.get(&key));
            in_file = in_file.and_then(|value| value.get(&key));
            name = token;
        }
    }
    if is_in_file { numbers } else { names }
}

/// Where in the file's list an entry of the merged list is.
fn counterpart(list: &str, position: usize, entry: &Value, said: &[Value]) -> Option<usize> {
    if said.get(position) == Some(entry) {
        return Some(position);
    }
    let name = label(list, entry);
    match name {
        Some(_) => said.iter().position(|other| label(list, other) == name),
        None => said.iter().position(|other| other == entry),
    }
}

/// A place in both documents.
#[derive(Default)]
struct Place<'a> {
    path: String,
    /// The key under which it stands.
    key: &'a str,
}

impl<'a> Place<'a> {
    fn within(&self, token: &str, key: &'a str) -> Self {
        let token = token.replace('~', "~0").replace('/', "~1");
        Self { path: format!("{}/{token}", self.path), key }
    }

    fn change(&self, op: Op, from: Option<&Value>, to: Option<&Value>) -> Change {
        let shown = |value: Option<&Value>| value.map(|value| without_secrets(self.key, value));
        Change { op, path: self.path.clone(), from: shown(from), to: shown(to) }
    }
}

fn compare(place: &Place<'_>, from: &Value, to: &Value, found: &mut Vec<Change>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(was), Value::Object(will)) if !SECRET_FIELDS.contains(&place.key) => {
            fields(place, was, will, found);
        }
        (Value::Array(was), Value::Array(will)) => {
            match (names(place.key, was), names(place.key, will)) {
                (Some(old), Some(new)) => entries(place, (was, &old), (will, &new), found),
                _ if was.len() == will.len() && was.iter().chain(will).all(Value::is_object) => {
                    for (position, (was, will)) in was.iter().zip(will).enumerate() {
                        compare(&place.within(&position.to_string(), ""), was, will, found);
                    }
                }
                _ => found.push(place.change(Op::Change, Some(from), Some(to))),
            }
        }
        _ => found.push(place.change(Op::Change, Some(from), Some(to))),
    }
}

fn fields(
    place: &Place<'_>,
    was: &Map<String, Value>,
    will: &Map<String, Value>,
    found: &mut Vec<Change>,
) {
    for (key, was) in was {
        let place = place.within(key, key);
        match will.get(key) {
            Some(will) => compare(&place, was, will, found),
            None => each(&place, Op::Remove, was, found),
        }
    }
    for (key, will) in will.iter().filter(|(key, _)| !was.contains_key(*key)) {
        each(&place.within(key, key), Op::Add, will, found);
    }
}

/// What comes or goes as a whole; of a list with names, each of its entries.
fn each(place: &Place<'_>, op: Op, value: &Value, found: &mut Vec<Change>) {
    let change = |place: &Place<'_>, value| match op {
        Op::Remove => place.change(op, Some(value), None),
        Op::Add | Op::Change | Op::Reorder => place.change(op, None, Some(value)),
    };
    let entries = value.as_array().map_or(&[][..], Vec::as_slice);
    match names(place.key, entries) {
        Some(names) => {
            let entries = names.iter().zip(entries);
            found.extend(entries.map(|(name, entry)| change(&place.within(name, ""), entry)));
        }
        None => found.push(change(place, value)),
    }
}

/// Two lists whose entries have names, and these names.
fn entries(
    place: &Place<'_>,
    (was, old): (&[Value], &[String]),
    (will, new): (&[Value], &[String]),
    found: &mut Vec<Change>,
) {
    let places: HashMap<&String, &Value> = new.iter().zip(will).collect();
    let known: HashSet<&String> = old.iter().collect();
    for (name, was) in old.iter().zip(was) {
        let place = place.within(name, "");
        match places.get(name) {
            Some(will) => compare(&place, was, will, found),
            None => found.push(place.change(Op::Remove, Some(was), None)),
        }
    }
    for (name, will) in new.iter().zip(will).filter(|(name, _)| !known.contains(name)) {
        found.push(place.within(name, "").change(Op::Add, None, Some(will)));
    }
    let stay = old.iter().filter(|name| places.contains_key(name));
    if stay.ne(new.iter().filter(|name| known.contains(name))) {
        found.push(place.change(Op::Reorder, None, None));
    }
}

/// The names of a list's entries, if each has one of its own.
fn names(list: &str, entries: &[Value]) -> Option<Vec<String>> {
    let names: Vec<String> =
        entries.iter().map(|entry| label(list, entry)).collect::<Option<_>>()?;
    let distinct = names.iter().collect::<HashSet<_>>().len() == names.len();
    (distinct && !names.is_empty()).then_some(names)
}

/// A value in which secrets are references, or nothing that can be read.
fn without_secrets(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(fields) if SECRET_FIELDS.contains(&key) => {
            let hidden = |(name, value): (&String, &Value)| match name.as_str() {
                "env" | "file" => (name.clone(), value.clone()),
                _ => (name.clone(), json!("…")),
            };
            Value::Object(fields.iter().map(hidden).collect())
        }
        _ if SECRET_FIELDS.contains(&key) => json!("…"),
        Value::Object(fields) => {
            let each =
                |(name, value): (&String, &Value)| (name.clone(), without_secrets(name, value));
            Value::Object(fields.iter().map(each).collect())
        }
        Value::Array(entries) => entries.iter().map(|entry| without_secrets("", entry)).collect(),
        other => other.clone(),
    }
}

/// A value on one line, cut where it is long.
fn cut(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests;
