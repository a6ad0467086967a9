//! Documents for tests: one that has everything once, and ways to say what is different about it.

use super::sha256;
use jiff::tz::TimeZone;
use model::Clock;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Of `acme-mobile`, which may read and write.
pub(crate) const ACME: &str = "tg_test_acme1_8c1f5bd2a0e94e7fb7a1c55d7e3f9a60";
/// A second key of `acme-mobile`.
pub(crate) const ACME_SECOND: &str = "tg_test_acme2_51e07bd3f1c84d7a9a66f3f1b8a7c2d1";
/// Of `acme-batch`, another consumer of the same tenant.
pub(crate) const ACME_BATCH: &str = "tg_test_batch_0ab1c2d3e4f5061728394a5b6c7d8e9f";
/// Of `acme-mobile`; it expired long ago.
pub(crate) const ACME_EXPIRED: &str = "tg_test_acme0_2f6a7d8e9c0b1a2f3e4d5c6b7a8f9e0d";
/// Of `globex-web`, which may only read.
pub(crate) const GLOBEX: &str = "tg_test_globx_c3a1e5f7092b4d6f8a0c2e4f6a8b0c1d";
/// Of a tenant that is suspended.
pub(crate) const SUSPENDED: &str = "tg_test_susp1_d4b2f6a8193c5e7a9b1d3f5a7b9c1d2e";

/// Acme and globex, contacts in two versions, nothing limited.
pub(crate) fn standard(upstream: SocketAddr) -> Value {
    let any = json!({ "any_of": ["jwt", "api_key"] });
    let keyed = |mode: &str| json!({ "mode": mode, "retention": "1h", "on_store_error": "closed" });
    json!({
        "format": 1,
        "upstreams": [upstream_named("crm", upstream)],
        "services": [{
            "id": "contacts",
            "select": ["path", "header", "media_type", "tenant_pin", "default"],
            "versions": [
                { "name": "v1", "upstream": "crm", "state": "active" },
                { "name": "v2", "upstream": "crm", "state": "active", "default": true },
            ],
        }],
        "routes": [
            { "id": "contacts.list", "service": "contacts", "authenticate": any, "scopes": ["contacts:read"],
              "match": { "path": "/contacts", "methods": ["GET"] } },
            { "id": "contacts.create", "service": "contacts", "authenticate": any, "scopes": ["contacts:write"],
              "match": { "path": "/contacts", "methods": ["POST"] }, "idempotency": keyed("required"),
              "body": { "limit": "1MiB" } },
            { "id": "contacts.read", "service": "contacts", "authenticate": any, "scopes": ["contacts:read"],
              "match": { "path": "/contacts/{id}", "methods": ["GET"] } },
            { "id": "contacts.change", "service": "contacts", "authenticate": any, "scopes": ["contacts:write"],
              "match": { "path": "/contacts/{id}", "methods": ["PUT", "PATCH", "DELETE"] },
              "idempotency": keyed("optional"), "body": { "limit": "64MiB" } },
        ],
        "plans": [plan("unlimited", json!([]))],
        "tenants": [
            { "id": "acme", "plan": "unlimited", "state": "active", "consumers": [
                { "id": "acme-mobile", "scopes": ["contacts:read", "contacts:write"], "credentials": [
                    credential("k1", ACME), credential("k2", ACME_SECOND),
                    { "id": "k0", "api_key": { "hash": hash(ACME_EXPIRED), "prefix": &ACME_EXPIRED[..13],
                                               "expires": "2020-01-01T00:00:00Z" } },
                ] },
                { "id": "acme-batch", "scopes": ["contacts:read", "contacts:write"],
                  "credentials": [credential("k1", ACME_BATCH)] },
            ] },
            { "id": "globex", "plan": "unlimited", "state": "active", "consumers": [
                { "id": "globex-web", "scopes": ["contacts:read"], "credentials": [credential("k1", GLOBEX)] },
            ] },
            { "id": "initech", "plan": "unlimited", "state": "suspended", "consumers": [
                { "id": "initech-erp", "scopes": ["contacts:read"], "credentials": [credential("k1", SUSPENDED)] },
            ] },
        ],
    })
}

/// The same, whose tenants may send as many events as they like.
pub(crate) fn producing() -> Value {
    let nowhere = super::Upstream::address_of_none();
    standard(nowhere).changed(|document| {
        document.entry("plans", "unlimited")["events"] =
            json!({ "rate": "100000/s", "backlog": 10_000_000 });
    })
}

/// An endpoint of acme at this address, for events of these types. It may be tried again as often as its schedule says.
pub(crate) fn endpoint(id: &str, url: &str, events: &str) -> Value {
    json!({
        "id": id, "tenant": "acme", "url": url, "events": [events], "retry_budget": 10.0,
        "secret": { "env": super::sink::SECRET_NAME },
    })
}

/// A plan with these limits. Calls of packs take many times longer in a debug build: what they may use is not what most
/// tests are about.
pub(crate) fn plan(id: &str, limits: Value) -> Value {
    json!({ "id": id, "limits": limits, "packs": { "cpu_per_second": "10s" } })
}

/// An upstream with one target and short timeouts.
pub(crate) fn upstream_named(id: &str, address: SocketAddr) -> Value {
    json!({
        "id": id, "targets": [{ "address": address.to_string() }],
        "timeouts": { "connect": "1s", "read": "20s", "total": "30s" },
    })
}

/// A credential of this key; its first 13 characters are its prefix.
pub(crate) fn credential(id: &str, key: &str) -> Value {
    json!({ "id": id, "api_key": { "hash": hash(key), "prefix": &key[..13] } })
}

/// The key of a tenant that [`tenant`] makes.
pub(crate) fn key_of(tenant: &str) -> String {
    let hash = sha256(tenant);
    format!("tg_q{}_{}", &hash[..8], &hash[8..40])
}

/// A tenant with one consumer, which may read. No period of its calendar ends while a test runs.
pub(crate) fn tenant(id: &str, plan: &str) -> Value {
    json!({ "id": id, "plan": plan, "state": "active", "timezone": zone_of_noon(), "consumers": [
        { "id": format!("{id}-app"), "scopes": ["contacts:read"], "credentials": [credential("k1", &key_of(id))] },
    ] })
}

/// A time zone in which it is noon, more or less.
fn zone_of_noon() -> String {
    let hour = Clock::system().now().to_zoned(TimeZone::UTC).hour();
    // POSIX counts hours west of Greenwich.
    format!("Etc/GMT{:+}", hour - 12)
}

fn hash(key: &str) -> String {
    format!("sha256:{}", sha256(key))
}

/// Says what is different about a document.
pub(crate) trait Edit {
    /// The entry of a list that has this id.
    fn entry(&mut self, list: &str, id: &str) -> &mut Value;

    /// The same document with one more entry in this list.
    fn with(self, list: &str, entry: Value) -> Self;

    /// The same document with these limits for acme and globex.
    fn limited(self, limits: Value) -> Self;

    /// The same document with a tenant that has these limits.
    fn with_tenant(self, id: &str, limits: Value) -> Self;

    /// The same document with a pack attached to every route.
    fn attached(self, id: &str, pack: &str, settings: Value) -> Self;

    /// The same document with these timeouts of its upstream.
    fn timeouts(self, connect: &str, read: &str, total: &str) -> Self;

    /// The same document, changed.
    fn changed(self, change: impl FnOnce(&mut Value)) -> Self;
}

impl Edit for Value {
    #[track_caller]
    fn entry(&mut self, list: &str, id: &str) -> &mut Value {
        let entries = self[list].as_array_mut().unwrap();
        entries.iter_mut().find(|entry| entry["id"] == id || entry["name"] == id).unwrap()
    }

    fn with(mut self, list: &str, entry: Value) -> Self {
        let object = self.as_object_mut().unwrap();
        let entries = object.entry(list).or_insert_with(|| json!([]));
        entries.as_array_mut().unwrap().push(entry);
        self
    }

    fn limited(self, limits: Value) -> Self {
        let mut limited = self.with("plans", plan("limited", limits));
        for tenant in ["acme", "globex"] {
            limited.entry("tenants", tenant)["plan"] = json!("limited");
        }
        limited
    }

    fn with_tenant(self, id: &str, limits: Value) -> Self {
        self.with("plans", plan(id, limits)).with("tenants", tenant(id, id))
    }

    fn attached(self, id: &str, pack: &str, settings: Value) -> Self {
        let named = |packs: &Value| {
            let packs = packs.as_array().into_iter().flatten();
            packs.into_iter().any(|known| known["id"] == pack)
        };
        let known = named(&self["packs"]);
        let document = if known {
            self
        } else {
            self.with("packs", json!({ "id": pack, "version": "1.0.0" }))
        };
        let document = match document["pack_keys"].as_array() {
            Some(_) => document,
            None => document.with("pack_keys", super::pack::key()),
        };
        document.with(
            "attachments",
            json!({
                "id": id, "pack": format!("{pack}@1.0.0"), "phases": ["request"],
                "mode": "enforce", "on_failure": "closed", "settings": settings,
            }),
        )
    }

    fn timeouts(self, connect: &str, read: &str, total: &str) -> Self {
        self.changed(|document| {
            let timeouts = json!({ "connect": connect, "read": read, "total": total });
            document.entry("upstreams", "crm")["timeouts"] = timeouts;
        })
    }

    fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self);
        self
    }
}
