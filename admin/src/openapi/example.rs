//! Examples: one small document, of which each resource's is a part, and what answers hold beside.

use crate::kind::Kind;
use model::config;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// A request id.
pub(super) const REQUEST: &str = "0191d6c0-7f6e-7c3a-9d5e-2f4b8c1a6e30";
/// A trace id.
pub(super) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// An id of the store's own making.
pub(super) const ID: &str = "0191d6c0-8a10-7b52-b1c4-6d0e9f3a2b71";
/// A time.
pub(super) const AT: &str = "2026-11-02T09:30:00Z";
/// A later time.
pub(super) const LATER: &str = "2099-01-01T00:00:00Z";
/// A tag, as the header has it.
pub(super) const ETAG: &str = "\"5f0c1d2e3a4b59687786957463524130\"";

/// The document.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| config::parse(include_str!("example.yaml")).unwrap_or_default());
    &DOCUMENT
}

/// The first resource of a kind, and the keys of its path.
pub(super) fn resource(kind: &Kind) -> (Value, Vec<String>) {
    let mut found = document();
    let mut keys = Vec::new();
    for (list, fields) in kind.steps {
        found = found.get(list).and_then(|list| list.get(0)).unwrap_or(&Value::Null);
        keys.extend(fields.iter().filter_map(|field| Some(found.get(field)?.as_str()?.to_owned())));
    }
    (found.clone(), keys)
}

/// The keys of a resource of this kind that none of the others needs: the last of several, or one that is not there.
pub(super) fn spare(kind: &Kind) -> Vec<String> {
    let (_, mut keys) = resource(kind);
    let (mut list, mut fields) = (document(), &[][..]);
    for (name, known_by) in kind.steps {
        list = list.get(0).unwrap_or(list).get(name).unwrap_or(&Value::Null);
        fields = known_by;
    }
    let last = list.as_array().filter(|list| list.len() > 1).and_then(|list| list.last());
    keys.truncate(keys.len() - fields.len());
    keys.extend(fields.iter().map(|field| {
        let key = last.and_then(|entry| entry.get(field)?.as_str());
        let absent = if *field == "version" { "0.9.0" } else { "unused" };
        key.unwrap_or(absent).to_owned()
    }));
    keys
}

/// A page with one item.
pub(super) fn page(item: Value) -> Value {
    json!({ "items": [item], "next_cursor": null })
}

/// What a change of the document answers.
pub(super) fn changed() -> Value {
    json!({
        "revision": 8,
        "etag": ETAG.trim_matches('"'),
        "difference": [{ "op": "replace", "path": "/tenants/0/state", "value": "suspended" }],
    })
}

/// A revision.
pub(super) fn revision() -> Value {
    json!({
        "revision": 7,
        "at": AT,
        "author": "deploy",
        "action": "plans.put",
        "digest": "sha256:66906971607dd8ab1a7a14895d4874ea0953943b949b734030509e5e6226ab8e",
        "size": 4096,
        "nodes": null,
    })
}

/// An audit entry.
pub(super) fn entry() -> Value {
    json!({
        "id": ID,
        "at": AT,
        "actor": { "token": ID, "name": "deploy", "role": "operator", "source": "192.0.2.7" },
        "action": "tenants.put",
        "resource": "/v1/tenants/acme",
        "tenant": "acme",
        "request_id": REQUEST,
        "revision": 8,
        "difference": [{ "op": "replace", "path": "/tenants/0/state", "value": "suspended" }],
    })
}

/// A token.
pub(super) fn token() -> Value {
    json!({ "id": ID, "name": "ci", "role": "publisher", "created_at": AT, "expires_at": LATER })
}

/// A limit as it stands.
pub(super) fn usage(used: u64) -> Value {
    json!({ "id": "daily", "used": used, "limit": 1_000_000, "remaining": 1_000_000 - used, "reset": 52_200 })
}

/// A decision record.
pub(super) fn record() -> Value {
    json!({
        "id": ID,
        "request_id": REQUEST,
        "trace_id": TRACE,
        "at": AT,
        "took_us": 1_840,
        "node": "gateway-1",
        "revision": 8,
        "method": "POST",
        "path": "/v1/contacts",
        "route": "contacts.create",
        "tenant": "acme",
        "consumer": "acme-mobile",
        "version": "v1",
        "status": 429,
        "error": "QUOTA_EXCEEDED",
        "stages": [
            { "stage": "authenticate", "verdict": "passed", "took_us": 41 },
            { "stage": "throttle", "verdict": "refused", "took_us": 12 },
        ],
        "limits": [{ "id": "daily", "limit": 1_000_000, "remaining": 0, "refused": true }],
    })
}

/// A credential, as it is shown.
pub(super) fn credential(id: &str) -> Value {
    json!({ "id": id, "api_key": { "prefix": "tg_live_k3JmQx7b" }, "tenant": "acme", "consumer": "acme-mobile" })
}
