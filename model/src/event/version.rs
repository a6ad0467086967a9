//! What is told of versions of APIs: where a document changes what partners may rely on, each tenant that receives events
//! hears it.

use crate::id::TenantId;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is said of a version, beside the tenant's own time with it.
const FIELDS: [&str; 5] = ["state", "deprecated_at", "sunset_at", "successor", "docs"];

/// Something to tell of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionChange {
    /// Whom it concerns.
    pub tenant: TenantId,
    /// The version's path, like `/v1/services/contacts/versions/v1`.
    pub subject: String,
    /// `service`, `version`, and `before` and `after`, as far as they are there: what the document says of it, and `until`
    /// when the tenant may use it beyond its sunset.
    pub data: Value,
}

/// What differs between two documents, for every tenant of the later one with an endpoint. Of a service that is new nothing
/// is told: nobody relied on it.
pub fn version_changes(before: &Value, after: &Value) -> Vec<VersionChange> {
    let (old, new) = (versions(before), versions(after));
    let services: BTreeSet<_> = old.keys().map(|(service, _)| *service).collect();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let mut changes = Vec::new();
    for tenant in receivers(after) {
        for &(service, version) in names.iter().filter(|name| services.contains(name.0)) {
            let said = |versions: &Versions<'_>| {
                versions.get(&(service, version)).map(|entry| said(entry, tenant))
            };
            let (before, after) = (said(&old), said(&new));
            if before != after {
                changes.push(VersionChange {
                    tenant: tenant.into(),
                    subject: format!("/v1/services/{service}/versions/{version}"),
                    data: json!({ "service": service, "version": version, "before": before, "after": after }),
                });
            }
        }
    }
    changes
}

type Versions<'a> = BTreeMap<(&'a str, &'a str), &'a Value>;

fn versions(document: &Value) -> Versions<'_> {
    let mut known = Versions::new();
    for service in list(document, "services") {
        for version in list(service, "versions") {
            if let (Some(id), Some(name)) = (text(service, "id"), text(version, "name")) {
                known.insert((id, name), version);
            }
        }
    }
    known
}

/// Tenants with an endpoint: nobody else would get it.
fn receivers(document: &Value) -> BTreeSet<&str> {
    list(document, "endpoints").filter_map(|endpoint| text(endpoint, "tenant")).collect()
}

fn said(version: &Value, tenant: &str) -> Map<String, Value> {
    let mut said = Map::new();
    for field in FIELDS {
        if let Some(value) = version.get(field) {
            said.insert(field.to_owned(), value.clone());
        }
    }
    let own = list(version, "extensions").find(|entry| text(entry, "tenant") == Some(tenant));
    if let Some(until) = own.and_then(|entry| entry.get("until")) {
        said.insert("until".to_owned(), until.clone());
    }
    said
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(version: Value) -> Value {
        json!({
            "services": [{ "id": "contacts", "versions": [version, { "name": "v2", "state": "active" }] }],
            "endpoints": [{ "tenant": "acme" }, { "tenant": "acme" }, { "tenant": "globex" }],
        })
    }

    #[test]
    fn every_tenant_that_receives_events_hears_of_a_change() {
        let before = document(json!({ "name": "v1", "state": "active", "upstream": "a" }));
        let after = document(
            json!({ "name": "v1", "state": "deprecated", "deprecated_at": "2026-12-01T00:00:00Z", "upstream": "b" }),
        );
        let told = version_changes(&before, &after);
        let tenants: Vec<_> = told.iter().map(|change| change.tenant.as_str()).collect();
        assert_eq!(tenants, ["acme", "globex"]);
        assert_eq!(told[0].subject, "/v1/services/contacts/versions/v1");
        assert_eq!(told[0].data["before"], json!({ "state": "active" }));
        assert_eq!(told[0].data["after"]["state"], "deprecated");
    }

    #[test]
    fn what_partners_do_not_see_is_not_told() {
        let before = document(json!({ "name": "v1", "state": "active", "upstream": "a" }));
        let after = document(json!({ "name": "v1", "state": "active", "upstream": "b" }));
        assert_eq!(version_changes(&before, &after), []);
    }

    #[test]
    fn a_tenants_own_time_is_told_to_it_alone() {
        let version = |until: Value| {
            document(json!({ "name": "v1", "state": "sunset", "extensions": until }))
        };
        let after = version(json!([{ "tenant": "globex", "until": "2027-01-01T00:00:00Z" }]));
        let told = version_changes(&version(json!([])), &after);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].tenant.as_str(), "globex");
        assert_eq!(told[0].data["after"]["until"], "2027-01-01T00:00:00Z");
    }

    #[test]
    fn versions_that_come_and_go_are_told() {
        let with = document(json!({ "name": "v3", "state": "active" }));
        let without = document(json!({ "name": "v2", "state": "active" }));
        let gone = version_changes(&with, &without);
        assert_eq!(gone[0].data["after"], Value::Null);
        assert_eq!(version_changes(&without, &with)[0].data["before"], Value::Null);
    }

    #[test]
    fn of_a_service_that_is_new_nothing_is_told() {
        let after = document(json!({ "name": "v1", "state": "active" }));
        assert_eq!(version_changes(&json!({}), &after), []);
        assert_eq!(version_changes(&Value::Null, &after), []);
    }
}
