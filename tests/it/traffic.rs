//! Mixed traffic, good and bad: everybody gets what is due, and everything is counted once.

use crate::harness::call::{Call, Client};
use crate::harness::document::{
    self, ACME, ACME_EXPIRED, ACME_SECOND, Edit as _, GLOBEX, SUSPENDED,
};
use crate::harness::node::Setup;
use crate::harness::token::{self, Key, but, claims, issuer, key_server, served_by};
use crate::harness::{Answer, Node, Random, Upstream};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

const SEED: u64 = 20_261_121;
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 16;
/// What the tenant `hooli` may send in a month.
const QUOTA: usize = 100;
const HOOLI: &str = "tg_test_hooli_9a8b7c6d5e4f30211203f4e5d6c7b8a9";
/// What the routes of this test take, in bytes.
const BODY_LIMIT: usize = 16 * 1024;

/// What a request must come to.
enum Due {
    Served(u16),
    Refused(u16, &'static str),
    /// Served with this status, or refused so where others came first.
    Either(u16, (u16, &'static str)),
}

/// A kind of request.
struct Kind {
    name: &'static str,
    due: Due,
    make: fn(&World, usize) -> Call,
}

/// What requests are made of.
struct World {
    client: Client,
    good: String,
    fresh: Key,
    expired: String,
    forged: String,
    unsigned: String,
    other_audience: String,
    other_issuer: String,
}

impl World {
    fn get(&self, path: &str) -> Call {
        self.client.get(path)
    }

    fn post(&self, number: usize) -> Call {
        self.client.post("/v1/contacts").json(&json!({ "first_name": format!("Ada {number}") }))
    }

    fn keyed(&self, number: usize) -> Call {
        self.post(number).idempotency_key(&format!("traffic-{number}"))
    }
}

/// Each kind is as likely as any other.
#[rustfmt::skip]
const KINDS: &[Kind] = &[
    Kind { name: "list by key", due: Due::Served(200), make: |w, n| w.get(&format!("/v1/contacts?limit={n}")).key(ACME) },
    Kind { name: "list by header version", due: Due::Served(200), make: |w, _| w.get("/contacts").header("api-version", "v1").key(ACME_SECOND) },
    Kind { name: "list by default version", due: Due::Served(200), make: |w, _| w.get("/contacts").key(GLOBEX) },
    Kind { name: "read by token", due: Due::Served(200), make: |w, n| w.get(&format!("/v2/contacts/{n}")).bearer(&w.good) },
    Kind { name: "read by fresh token", due: Due::Served(200), make: |w, _| w.get("/v2/contacts/7").bearer(&w.fresh.signs(&claims())) },
    Kind { name: "read by globex", due: Due::Served(200), make: |w, _| w.get("/v1/contacts/7").key(GLOBEX) },
    Kind { name: "create by key", due: Due::Served(201), make: |w, n| w.keyed(n).key(ACME) },
    Kind { name: "create by token", due: Due::Served(201), make: |w, n| w.keyed(n).bearer(&w.good) },
    Kind { name: "change with its header", due: Due::Served(200), make: |w, n| w.client.put("/v1/contacts/7").key(ACME).header("x-correlation-id", n.to_string()).body("{}") },
    Kind { name: "repeat", due: Due::Either(201, (409, "IDEMPOTENCY_IN_PROGRESS")), make: |w, n| w.post(n % 10).idempotency_key(&format!("repeat-{}", n % 10)).key(ACME) },
    Kind { name: "within a quota, or not", due: Due::Either(200, (429, "QUOTA_EXCEEDED")), make: |w, _| w.get("/v1/contacts").key(HOOLI) },
    Kind { name: "no credential", due: Due::Refused(401, "CREDENTIAL_MISSING"), make: |w, _| w.get("/v1/contacts") },
    Kind { name: "wrong key", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, n| w.get("/v1/contacts").key(&format!("{}{n}", &ACME[..20])) },
    Kind { name: "unknown key", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, n| w.get("/v1/contacts").key(&format!("tg_test_nobody_{n}")) },
    Kind { name: "expired key", due: Due::Refused(401, "CREDENTIAL_EXPIRED"), make: |w, _| w.get("/v1/contacts").key(ACME_EXPIRED) },
    Kind { name: "expired token", due: Due::Refused(401, "CREDENTIAL_EXPIRED"), make: |w, _| w.get("/v1/contacts").bearer(&w.expired) },
    Kind { name: "forged token", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, _| w.get("/v1/contacts").bearer(&w.forged) },
    Kind { name: "unsigned token", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, _| w.get("/v1/contacts").bearer(&w.unsigned) },
    Kind { name: "token for others", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, _| w.get("/v1/contacts").bearer(&w.other_audience) },
    Kind { name: "token of others", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, _| w.get("/v1/contacts").bearer(&w.other_issuer) },
    Kind { name: "no token at all", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, n| w.get("/v1/contacts").bearer(&format!("{n}")) },
    Kind { name: "two credentials", due: Due::Refused(401, "CREDENTIAL_INVALID"), make: |w, _| w.get("/v1/contacts").bearer(&w.good).key(ACME) },
    Kind { name: "globex writes", due: Due::Refused(403, "SCOPE_DENIED"), make: |w, n| w.keyed(n).key(GLOBEX) },
    Kind { name: "suspended", due: Due::Refused(403, "TENANT_SUSPENDED"), make: |w, _| w.get("/v1/contacts").key(SUSPENDED) },
    Kind { name: "denied by a pack", due: Due::Refused(403, "POLICY_DENIED"), make: |w, _| w.client.put("/v1/contacts/7").key(ACME).body("{}") },
    Kind { name: "unknown route", due: Due::Refused(404, "ROUTE_NOT_FOUND"), make: |w, n| w.get(&format!("/v1/invoices/{n}")).key(ACME) },
    Kind { name: "wrong method", due: Due::Refused(405, "METHOD_NOT_ALLOWED"), make: |w, _| w.client.call(Method::DELETE, "/v1/contacts").key(ACME) },
    Kind { name: "unknown version", due: Due::Refused(400, "VERSION_UNKNOWN"), make: |w, n| w.get(&format!("/v{}/contacts", n + 3)).key(ACME) },
    Kind { name: "no idempotency key", due: Due::Refused(400, "IDEMPOTENCY_KEY_MISSING"), make: |w, n| w.post(n).key(ACME) },
    Kind { name: "malformed idempotency key", due: Due::Refused(400, "IDEMPOTENCY_KEY_INVALID"), make: |w, n| w.post(n).idempotency_key("a key, bare").key(ACME) },
    Kind { name: "reused idempotency key", due: Due::Refused(422, "IDEMPOTENCY_KEY_REUSED"), make: |w, n| w.post(n).idempotency_key("taken").key(ACME) },
    Kind { name: "too large", due: Due::Refused(413, "BODY_TOO_LARGE"), make: |w, n| w.keyed(n).key(ACME).body(vec![b'x'; BODY_LIMIT + 1]) },
    Kind { name: "malformed header", due: Due::Refused(400, "VALIDATION_FAILED"), make: |w, _| w.get("/v1/contacts").key(ACME).header("expect", "miracles") },
    Kind { name: "ambiguous path", due: Due::Refused(400, "VALIDATION_FAILED"), make: |w, n| w.get(&format!("/v1/contacts/{n}%2f..")).key(ACME) },
];

fn document(upstream: &Upstream, keys: &Upstream) -> Value {
    let hooli = json!({ "id": "hooli", "plan": "trial", "state": "active", "consumers": [
        { "id": "hooli-app", "scopes": ["contacts:read"], "credentials": [document::credential("k1", HOOLI)] },
    ] });
    let quota = json!({ "id": "monthly", "quota": format!("{QUOTA}/month"), "per": "tenant", "on_store_error": "closed" });
    document::standard(upstream.address)
        .with("issuers", issuer(&["EdDSA"], served_by(keys)))
        .with("plans", document::plan("trial", json!([quota])))
        .with("tenants", hooli)
        .attached("hygiene", "header-hygiene", json!({ "set": { "x-edge": "tollgate" } }))
        .attached("correlation", "require-header", json!({ "header": "x-correlation-id" }))
        .changed(|document| {
            document.entry("attachments", "correlation")["scope"] =
                json!({ "route": "contacts.change" });
            document.entry("routes", "contacts.create")["body"] =
                json!({ "limit": format!("{BODY_LIMIT}B") });
        })
}

fn world(node: &Node, key: &Key) -> World {
    let stranger = Key::eddsa("k1");
    let unsigned = json!({ "alg": "none", "typ": "at+jwt", "kid": "k1" });
    World {
        client: node.new_client(),
        good: key.signs(&claims()),
        fresh: key.clone(),
        expired: key.signs(&but(claims(), "exp", json!(token::now() - 3600))),
        forged: stranger.signs(&claims()),
        unsigned: format!("{}.{}.", token::encoded(&unsigned), token::encoded(&claims())),
        other_audience: key.signs(&but(claims(), "aud", json!("billing-api"))),
        other_issuer: key.signs(&but(claims(), "iss", json!("https://idp.elsewhere.example"))),
    }
}

/// Sends the `number`th request of a kind and judges the answer. True when it must have reached the upstream.
async fn send(world: &World, kind: &Kind, number: usize) -> (Answer, bool) {
    let forbidden = matches!(kind.due, Due::Refused(..));
    let marked =
        (kind.make)(world, number).header("x-forbidden", if forbidden { "yes" } else { "no" });
    let answer = marked.send().await;
    let served = match kind.due {
        Due::Served(status) => Some(status),
        Due::Either(status, (other, code)) => {
            if answer.status == other {
                answer.refuses(other, code);
                None
            } else {
                Some(status)
            }
        }
        Due::Refused(status, code) => {
            assert_eq!(
                (answer.status, &*answer.code()),
                (status, code),
                "{}: {answer:?}",
                kind.name
            );
            answer.has_error_body();
            None
        }
    };
    if let Some(status) = served {
        assert_eq!(answer.status, status, "{}: {answer:?}", kind.name);
    }
    let arrived = served.is_some() && !answer.is_replay();
    (answer, arrived)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_mixed_requests_get_what_is_due_and_are_counted_once() {
    let upstream = Upstream::start().await;
    let key = Key::eddsa("k1");
    let keys = key_server(&[&key]).await;
    let node = Setup::of(&document(&upstream, &keys)).packs().start().await;
    node.keyed("taken").json(&json!({ "first_name": "first" })).send().await.is(201);
    let before = node.has_reported(1).await;

    let mut random = Random::seeded(SEED);
    let chosen: Arc<Vec<usize>> =
        Arc::new((0..REQUESTS).map(|_| random.below(KINDS.len())).collect());
    let mut clients = JoinSet::new();
    for offset in 0..CLIENTS {
        let (world, chosen) = (world(&node, &key), chosen.clone());
        clients.spawn(async move {
            let mut seen: BTreeMap<(String, u16), usize> = BTreeMap::new();
            let mut arrived = 0;
            for number in (offset..REQUESTS).step_by(CLIENTS) {
                let (answer, reached) = send(&world, &KINDS[chosen[number]], number).await;
                arrived += usize::from(reached);
                *seen.entry((answer.code(), answer.status)).or_default() += 1;
            }
            (seen, arrived)
        });
    }
    let mut seen: BTreeMap<(String, u16), usize> = BTreeMap::new();
    let mut arrived = 1;
    for (part, reached) in clients.join_all().await {
        arrived += reached;
        for (outcome, count) in part {
            *seen.entry(outcome).or_default() += count;
        }
    }
    println!("{seen:#?}");

    assert_eq!(seen.values().sum::<usize>(), REQUESTS);
    let arrivals = upstream.arrivals();
    let forbidden: Vec<_> =
        arrivals.iter().filter(|arrival| arrival.header("x-forbidden") == "yes").collect();
    assert!(forbidden.is_empty(), "{forbidden:#?}");
    assert_eq!(arrivals.len(), arrived, "every request that was served arrived once");
    let of_hooli =
        arrivals.iter().filter(|arrival| arrival.header("x-tenant-id") == "hooli").count();
    let sent_by_hooli =
        chosen.iter().filter(|kind| KINDS[**kind].name == "within a quota, or not").count();
    assert_eq!(of_hooli, QUOTA.min(sent_by_hooli));

    let after = node.has_reported(1 + u64::try_from(REQUESTS).unwrap()).await;
    let counted = |labels: &[(&str, &str)]| {
        let name = "tollgate_requests_total";
        let difference = after.sum(name, labels) - before.sum(name, labels);
        format!("{difference}")
    };
    for ((code, status), count) in &seen {
        if !code.is_empty() {
            assert_eq!(counted(&[("error", code)]), count.to_string(), "{code} {status}");
        }
    }
    assert_eq!(counted(&[("status_class", "5xx")]), "0");
    assert_eq!(counted(&[("status_class", "none")]), "0");
    assert_eq!(format!("{}", after.sum("tollgate_in_flight", &[])), "0");
}
