//! Examples: one small document, of which each resource's is a part, and what answers hold beside.

use crate::endpoints::STANDING;
use crate::kind::Kind;
use crate::packs::FILE;
use model::config;
use model::role::Section;
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

/// The name of an idempotency record.
pub(super) const RECORD_ID: &str =
    "66906971607dd8ab1a7a14895d4874ea0953943b949b734030509e5e6226ab8e";

/// A digest.
const DIGEST: &str = "sha256:66906971607dd8ab1a7a14895d4874ea0953943b949b734030509e5e6226ab8e";

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

/// A resource of a kind as answers show it.
pub(super) fn shown(kind: &Kind, resource: &Value) -> Value {
    let mut shown = resource.clone();
    if let (Section::Endpoints, Some(fields)) = (kind.section, shown.as_object_mut()) {
        let standing = json!({ "failing_since": AT, "opened": 0, "at": AT });
        fields.insert(STANDING.to_owned(), standing);
    }
    if let (Section::Packs, Some(fields)) = (kind.section, shown.as_object_mut()) {
        let file = json!({
            "digest": DIGEST,
            "size": 41_984,
            "key": "test-only",
            "uploaded_at": AT,
            "by": "ci",
            "reusable": true,
            "image": true,
            "vectors": 3,
        });
        fields.insert(FILE.to_owned(), file);
    }
    shown
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
        "digest": DIGEST,
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
    json!({
        "id": "daily",
        "mode": "enforce",
        "used": used,
        "limit": 1_000_000,
        "remaining": 1_000_000 - used,
        "reset": 52_200,
    })
}

/// An idempotency record whose outcome is unknown.
pub(super) fn idempotency_record() -> Value {
    json!({
        "id": RECORD_ID,
        "route": "contacts.create",
        "state": "unknown",
        "in_doubt": false,
        "fence": 4711,
        "owner": "gateway-1",
        "claimed_at": AT,
        "since": AT,
        "expires_at": LATER,
    })
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

/// A pack that was uploaded.
pub(super) fn pushed() -> Value {
    let spent = |micros: f64| json!({ "micros": micros, "fuel": 4_180, "memory": 65_536 });
    let vector = json!({ "name": "without-the-header", "outcome": "deny 403 header_missing", "fresh": spent(9.4), "reused": spent(2.7) });
    json!({
        "id": "require-header",
        "version": "1.1.0",
        "digest": DIGEST,
        "key": "test-only",
        "size": 41_984,
        "named": true,
        "revision": 8,
        "trial": { "reusable": true, "image": true, "vectors": [vector] },
    })
}

/// What came of a version that came into service or went out of it.
pub(super) fn shifted(became: &str) -> Value {
    let pack = if became == "promoted" { "require-header@1.1.0" } else { "require-header@1.0.0" };
    json!({
        "revision": 8,
        "difference": [{ "op": "remove", "path": "/attachments/0/rollout" }],
        "attachments": [{ "id": "acme-correlation", "tenant": "acme", "pack": pack, "became": became }],
    })
}

/// A rollout.
pub(super) fn rollout() -> Value {
    json!({
        "id": ID,
        "attachment": "acme-correlation",
        "pack": "require-header",
        "running": "1.0.0",
        "candidate": "1.1.0",
        "started_at": AT,
        "state": "open",
        "samples": { "calls": 2_000, "faults": 0, "compared": 2_000, "differences": 10 },
        "rates": { "fault": 0.0, "difference": 0.005, "p50_us": 9, "p99_us": 21 },
    })
}

/// A request on which two versions differ.
pub(super) fn difference() -> Value {
    json!({
        "id": ID,
        "at": AT,
        "attachment": "acme-correlation",
        "pack": "require-header",
        "running": "1.0.0",
        "candidate": "1.1.0",
        "request_id": REQUEST,
        "trace_id": TRACE,
        "tenant": "acme",
        "consumer": "acme-mobile",
        "route": "contacts.create",
        "phase": "request",
        "running_decision": "continue",
        "candidate_decision": "deny 403 header_missing",
        "why": "decision: continue and deny",
        "acted": "running",
    })
}

/// What there is under a key of a pack's data.
pub(super) fn datum() -> Value {
    json!({ "key": "blocked", "size": 13, "etag": ETAG.trim_matches('"'), "updated_at": AT, "by": "deploy" })
}

/// The `webhook-id` of an event.
pub(super) const WEBHOOK_ID: &str = "evt_66906971607dd8ab1a7a14895d4874ea";

/// A delivery that came to nothing.
pub(super) fn delivery() -> Value {
    json!({
        "id": "dlv_4711",
        "state": "dead",
        "reason": "exhausted",
        "tenant": "acme",
        "endpoint": "acme-projection",
        "webhook_id": WEBHOOK_ID,
        "type": "contact.created",
        "source": "/crm",
        "event_id": "4711",
        "accepted_at": AT,
        "attempts": 10,
        "settled_at": AT,
    })
}

/// A delivery with what became of it.
pub(super) fn delivery_whole() -> Value {
    let mut whole = delivery();
    if let Some(fields) = whole.as_object_mut() {
        let attempt = json!({
            "attempt": 10,
            "at": AT,
            "took_us": 15_000_214,
            "outcome": "timed_out",
            "node": "dispatcher-1",
        });
        fields.insert("history".to_owned(), json!([attempt]));
    }
    whole
}

/// What a replay is asked for.
pub(super) fn replay_request() -> Value {
    json!({
        "tenant": "acme",
        "endpoint": "acme-projection",
        "since": "2026-11-02T00:00:00Z",
        "until": "2026-11-03T00:00:00Z",
        "types": ["contact.*"],
        "dedupe": "skip_delivered",
        "rate": 100,
    })
}

/// A replay on its way.
pub(super) fn replay() -> Value {
    let mut replay = replay_request();
    let standing = json!({
        "id": ID,
        "state": "running",
        "created_at": AT,
        "by": "deploy",
        "counted": 42,
        "queued": 12,
        "skipped": 3,
        "cursor": 815,
    });
    if let (Some(fields), Value::Object(standing)) = (replay.as_object_mut(), standing) {
        fields.extend(standing);
    }
    replay
}
