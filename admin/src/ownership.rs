//! Whose the parts of a document are, and who may change them.
//!
//! Invariant: a change is judged by what differs between two documents, so that no way of asking gets around it. A token of
//! a tenant changes entries of its tenant only, and they stay its tenant's.

use crate::acting::Acting;
use crate::problem::{Refused, rest};
use model::config::ConfigError;
use model::document::SECRET_FIELDS;
use model::id::{TenantId, is_id};
use model::role::{Permission, Section};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Whose an entry of a section is: a tenant's, or everybody's.
pub(crate) fn owner(section: Section, entry: &Value) -> Option<&str> {
    match section {
        Section::Tenants => entry.get("id")?.as_str(),
        Section::Issuers => entry.get("tenant")?.as_str(),
        Section::Attachments => entry.pointer("/scope/tenant")?.as_str(),
        Section::Sources | Section::Endpoints => entry.get("tenant")?.as_str(),
        Section::Upstreams
        | Section::Services
        | Section::Routes
        | Section::Plans
        | Section::PackKeys
        | Section::Packs
        | Section::EventTypes => None,
    }
}

/// Whether a section has entries of tenants.
pub(crate) fn is_shared(section: Section) -> bool {
    matches!(
        section,
        Section::Tenants
            | Section::Issuers
            | Section::Attachments
            | Section::Sources
            | Section::Endpoints
    )
}

/// Refuses a change that goes beyond the token's role or tenant. Says whose the change is, when all of it is one tenant's.
pub(crate) fn judge(
    acting: &Acting,
    before: &Value,
    after: &Value,
) -> Result<Option<TenantId>, Refused> {
    let mut owners = BTreeSet::new();
    for section in Section::ALL {
        let (old, new) = (before.get(section.as_str()), after.get(section.as_str()));
        if old == new {
            continue;
        }
        let differing = differing(old, new);
        // Whoever keeps traffic in order may take a version out of service, and not bring it back.
        let quarantines =
            section == Section::Packs && !differing.is_empty() && differing.iter().all(quarantines);
        if !quarantines || acting.may(Permission::Operate).is_err() {
            acting.may(Permission::Change(section))?;
        }
        for (old, new) in differing {
            if let Some(tenant) = acting.tenant() {
                keeps_within(section, tenant.as_str(), old, new)?;
            }
            owners.extend(old.into_iter().chain(new).map(|entry| owner(section, entry)));
        }
    }
    let mut owners = owners.into_iter();
    Ok(match (owners.next().flatten(), owners.next()) {
        (Some(only), None) if is_id(only) => Some(only.into()),
        _ => None,
    })
}

/// The errors of a document that who acts may see: all of them; to a token of a tenant those in what it sent, which stands
/// at `at`. When none lies there, it learns that there are some, and not where: that may be another tenant's.
pub(crate) fn visible(
    acting: &Acting,
    mut errors: Vec<ConfigError>,
    at: Option<&str>,
) -> Vec<ConfigError> {
    if acting.tenant().is_none() || errors.is_empty() {
        return errors;
    }
    errors.retain(|error| at.is_some_and(|at| rest(&error.pointer, at).is_some()));
    if errors.is_empty() {
        let message = "does not go with what stands elsewhere in the document";
        errors.push(ConfigError::new(at.unwrap_or_default(), message));
    }
    errors
}

/// The entries that differ, as they were and as they are.
fn differing<'a>(
    old: Option<&'a Value>,
    new: Option<&'a Value>,
) -> Vec<(Option<&'a Value>, Option<&'a Value>)> {
    let (old, new) = (by_id(old), by_id(new));
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let pairs = ids.into_iter().map(|id| (old.get(&id).copied(), new.get(&id).copied()));
    pairs.filter(|(old, new)| old != new).collect()
}

/// Entries by what tells them apart: the id or name, and of packs the version.
fn by_id(list: Option<&Value>) -> BTreeMap<[&str; 3], &Value> {
    let entries = list.and_then(Value::as_array).into_iter().flatten();
    entries
        .map(|entry| (["id", "name", "version"].map(|field| text(entry, field)), entry))
        .collect()
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a change of a pack's version is that it is quarantined, and nothing else.
fn quarantines((old, new): &(Option<&Value>, Option<&Value>)) -> bool {
    let fields = |entry: &Option<&Value>| entry.and_then(Value::as_object).cloned();
    let (Some(old), Some(mut new)) = (fields(old), fields(new)) else { return false };
    new.shift_remove("quarantined").is_some() && old == new
}

fn keeps_within(
    section: Section,
    tenant: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), Refused> {
    let foreign = |entry: &Value| owner(section, entry) != Some(tenant);
    if old.into_iter().chain(new).any(foreign) {
        let message = format!("This token changes what is of the tenant `{tenant}` alone.");
        return Err(Refused::forbidden(message));
    }
    let held = old.map(references).unwrap_or_default();
    let wanted = new.map(references).unwrap_or_default();
    if wanted.is_subset(&held) {
        return Ok(());
    }
    // What stands in a node's files and environment may be another tenant's, and what a node can reach, nobody else may.
    Err(Refused::forbidden(
        "A token of a tenant names no file, variable or address for nodes to read: it gives secrets as \
         `{\"value\": …}`, and where an issuer's keys are, the operator says.",
    ))
}

/// The files, environment variables and addresses that an entry names for nodes to read.
fn references(entry: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    gather(entry, "", &mut found);
    found
}

fn gather(value: &Value, within: &str, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Array(list) => list.iter().for_each(|entry| gather(entry, within, found)),
        Value::Object(object) => {
            for (field, value) in object.iter().filter(|(field, _)| *field != "settings") {
                let named = match (within, field.as_str()) {
                    ("jwks", "file" | "uri") => value.as_str(),
                    (within, "env" | "file") if SECRET_FIELDS.contains(&within) => value.as_str(),
                    _ => None,
                };
                match named {
                    Some(text) => {
                        found.insert((field.clone(), text.to_owned()));
                    }
                    None => gather(value, field, found),
                }
            }
        }
        _ => {}
    }
}
