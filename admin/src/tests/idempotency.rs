//! Idempotency keys: looked up, told as far as one may see them, released with their trace in the audit.

use super::api::{Api, Setup, Told, standard};
use async_trait::async_trait;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode};
use model::Clock;
use model::document::{OnLedgerError, OnUnknown};
use model::id::{RouteId, TenantId};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Elsewhere, Fence, Fingerprint, Found, Key, Ledger as _,
    RecordKey, Records, RecordsError, Scope, Settled,
};
use model::port::StoreError;
use model::role::Role;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::SqlLedger;

const SECOND: i64 = 1_000_000;
const LEASE: Duration = Duration::from_secs(40);
const BODY: &[u8] = b"{\"id\":\"7\"}\xff";

/// The records of a store.
pub(crate) struct InStore {
    pub(crate) ledger: SqlLedger,
    pub(crate) clock: Clock,
}

#[async_trait]
impl Records for InStore {
    async fn find(&self, tenant: &TenantId, key: &Key) -> Result<Found, RecordsError> {
        Ok(self.ledger.find(tenant, key, self.clock.micros()).await?)
    }

    async fn answer(&self, key: &RecordKey, fence: Fence) -> Result<Option<Answer>, RecordsError> {
        Ok(self.ledger.answer(key, fence, self.clock.micros()).await?)
    }

    async fn clear(&self, key: &RecordKey, fence: Fence) -> Result<Settled, RecordsError> {
        Ok(self.ledger.clear(key, fence, self.clock.micros()).await?)
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Dispatched,
    Unknown,
    Done,
    NotRetained,
}

fn answer(outcome: Outcome) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("location", HeaderValue::from_static("/v1/contacts/7"));
    headers.append("x-bytes", HeaderValue::from_bytes(b"a\xff").unwrap());
    let body = (outcome == Outcome::Done).then(|| Bytes::from_static(BODY));
    Answer::of(StatusCode::CREATED, &headers, body)
}

/// A request of a subject under a key, spelt as in the header.
async fn sent(api: &Api, tenant: &str, subject: &str, key: &str, outcome: Outcome) -> Fence {
    let (tenant, route) = (TenantId::from(tenant), RouteId::from("contacts.create"));
    let key = Key::parse(key.as_bytes()).unwrap();
    let scope = Scope { tenant: &tenant, subject, route: &route, key: &key };
    let request = ClaimRequest {
        key: scope.record_key(),
        lookup: Digest::of_lookup(&tenant, &key),
        route: route.clone(),
        fingerprint: Fingerprint(Digest([7; 32])),
        owner: "gateway-1".into(),
        lease: i64::try_from(LEASE.as_micros()).unwrap(),
        retention: 3_600 * SECOND,
        on_unknown: OnUnknown::Reject,
        replicas: 0,
        on_store_error: OnLedgerError::Closed,
    };
    let (ledger, now) = (api.store.ledger(), api.clock.micros());
    let Claimed::Held { fence, .. } = ledger.claim(&request, now).await.unwrap() else {
        panic!("the key is taken")
    };
    let settled = match outcome {
        Outcome::Dispatched => Settled::Applied,
        Outcome::Unknown => ledger.mark_unknown(&request.key, fence, now).await.unwrap(),
        Outcome::Done | Outcome::NotRetained => {
            ledger.complete(&request.key, fence, answer(outcome), 0, now).await.unwrap()
        }
    };
    assert_eq!(settled, Settled::Applied);
    fence
}

/// The only record of a key of acme.
async fn only(api: &Api, key: &str) -> Value {
    let told = api.ask("GET", &format!("/v1/idempotency/acme/{key}")).send().await.is(200).json();
    let records = told["records"].as_array().unwrap();
    assert_eq!(records.len(), 1, "{told}");
    records[0].clone()
}

async fn release(api: &Api, key: &str, record: &Value) -> Told {
    let body = json!({ "record": record["id"], "fence": record["fence"] });
    api.ask("POST", &format!("/v1/idempotency/acme/{key}:release")).json(&body).send().await
}

/// What the audit tells of keys, oldest first: the action and its facts.
async fn told(api: &Api) -> Vec<(String, Value)> {
    let entries = api.audit().await.into_iter().rev();
    let keys =
        entries.filter(|entry| entry.action.starts_with("idempotency.") && entry.refused.is_none());
    keys.map(|entry| {
        assert_eq!(entry.tenant.unwrap().as_str(), "acme");
        assert_eq!(entry.resource, "/v1/idempotency/acme", "no key");
        (entry.action, entry.difference)
    })
    .collect()
}

#[tokio::test]
async fn a_record_tells_how_far_it_is_and_not_what_was_answered() {
    let api = Api::new().await;
    for outcome in [Outcome::Dispatched, Outcome::Unknown, Outcome::Done, Outcome::NotRetained] {
        sent(&api, "acme", "mobile", &format!("{outcome:?}"), outcome).await;
    }
    let lasting = json!({ "route": "contacts.create", "in_doubt": false, "owner": "gateway-1", "claimed_at": "2026-11-21T12:00:00Z" });
    let (now, lease) = ("2026-11-21T12:00:00Z", "2026-11-21T12:00:40Z");
    let (kept, after_lease) = ("2026-11-21T13:00:00Z", "2026-11-21T13:00:40Z");
    for (key, state) in [
        (
            "Dispatched",
            json!({ "state": "dispatched", "lease_until": lease, "expires_at": after_lease }),
        ),
        ("Unknown", json!({ "state": "unknown", "since": now, "expires_at": kept })),
        (
            "Done",
            json!({ "state": "done", "since": now, "expires_at": kept, "status": 201, "size": 58 }),
        ),
        (
            "NotRetained",
            json!({ "state": "not_retained", "since": now, "expires_at": kept, "status": 201, "size": 14 }),
        ),
    ] {
        let mut record = only(&api, key).await;
        let fields = record.as_object_mut().unwrap();
        let id = fields.remove("id").unwrap();
        assert_eq!(id.as_str().unwrap().len(), 64);
        assert!(fields.remove("fence").unwrap().as_i64().unwrap() > 0);
        let mut expected = lasting.clone();
        expected.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        assert_eq!(record, expected, "{key}");
    }
    assert_eq!(told(&api).await, []);
    // After its lease nobody knows, and after its retention there is nothing.
    api.clock.advance(LEASE);
    let lapsed = only(&api, "Dispatched").await;
    assert_eq!((&lapsed["state"], &lapsed["since"]), (&json!("unknown"), &json!(lease)));
    api.clock.advance(Duration::from_secs(3_600));
    api.ask("GET", "/v1/idempotency/acme/Dispatched").send().await.refuses(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_key_is_looked_up_over_all_subjects_of_one_tenant() {
    let api = Api::new().await;
    for (tenant, subject) in [("acme", "mobile"), ("globex", "mobile"), ("acme", "batch")] {
        sent(&api, tenant, subject, "order-1", Outcome::Unknown).await;
    }
    let ask = async |target: &str| api.ask("GET", target).send().await.is(200).json();
    let of_acme = ask("/v1/idempotency/acme/order-1").await;
    assert_eq!(of_acme["tenant"], "acme");
    let records = of_acme["records"].as_array().unwrap();
    let fence = |record: &Value| record["fence"].as_i64().unwrap();
    assert_eq!(records.len(), 2);
    assert!(fence(&records[0]) > fence(&records[1]), "newest first");
    let one = records[1]["id"].as_str().unwrap();
    let named = ask(&format!("/v1/idempotency/acme/order-1?record={one}")).await;
    assert_eq!(named["records"], json!([records[1]]));
    for target in [
        "/v1/idempotency/acme/order-2",
        "/v1/idempotency/initech/order-1",
        "/v1/idempotency/a%20b/order-1",
        "/v1/idempotency/acme/order-1?record=none",
        "/v1/idempotency/acme/",
        "/v1/idempotency/acme/order/1",
    ] {
        api.ask("GET", target).send().await.refuses(404, "NOT_FOUND");
    }
    let wrong = api.ask("GET", "/v1/idempotency/acme/order-1?subject=mobile").send().await;
    wrong.refuses(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn every_key_has_a_path() {
    let api = Api::new().await;
    // As in the header, and as in the path.
    for (key, path) in [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("\"spelt\"", "spelt"),
        ("spelt-too", "%22spelt-too%22"),
        ("a/b+c==", "a%2Fb+c=="),
        ("order:7", "order:7"),
        ("order:8", "order%3A8"),
        ("order:release", "order%3Arelease"),
        ("release", "release"),
        (":", ":"),
        ("..", "%22..%22"),
        ("\"two words\"", "%22two%20words%22"),
        ("\"a \\\" and \\\\\"", "%22a%20%5C%22%20and%20%5C%5C%22"),
    ] {
        sent(&api, "acme", "mobile", key, Outcome::Unknown).await;
        let record = only(&api, path).await;
        release(&api, path, &record).await.is(200);
        let gone = api.ask("GET", &format!("/v1/idempotency/acme/{path}")).send().await;
        gone.refuses(404, "NOT_FOUND");
    }
    for path in
        [".", "..", ".hidden", "two%20words", "%22open", "%22%22", "%C3%A4", &"a".repeat(256)]
    {
        let path = path.replace("..", "%2E%2E");
        let looked = api.ask("GET", &format!("/v1/idempotency/acme/{path}")).send().await;
        looked.refuses(400, "VALIDATION_FAILED");
    }
    // What ends in the verb is not looked up, and what does not is not released.
    let looked = api.ask("GET", "/v1/idempotency/acme/order:release").send().await;
    assert_eq!(looked.header("allow"), "POST");
    looked.refuses(405, "METHOD_NOT_ALLOWED");
    for path in ["order", "order:7", "order%3Arelease"] {
        let asked = api.ask("POST", &format!("/v1/idempotency/acme/{path}")).send().await;
        assert_eq!(asked.header("allow"), "GET,HEAD");
        asked.refuses(405, "METHOD_NOT_ALLOWED");
    }
    assert!(told(&api).await.iter().all(|(action, _)| action == "idempotency.release"));
}

#[tokio::test]
async fn an_answer_is_told_to_administrators_and_the_audit_has_it() {
    let api = Api::new().await;
    let fence = sent(&api, "acme", "mobile", "done", Outcome::Done).await;
    sent(&api, "acme", "mobile", "large", Outcome::NotRetained).await;
    sent(&api, "acme", "mobile", "open", Outcome::Dispatched).await;
    let ask = async |key: &str, body: bool| {
        api.ask("GET", &format!("/v1/idempotency/acme/{key}?body={body}")).send().await
    };
    let header = |name: &str, value: &str| json!({ "name": name, "value": value });
    let record = ask("done", true).await.is(200).json()["records"][0].clone();
    assert_eq!(
        record["answer"],
        json!({
            "headers": [header("location", "/v1/contacts/7"), header("x-bytes", "a\u{fffd}")],
            "body": STANDARD.encode(BODY),
        })
    );
    let facts = json!({ "told": "answer", "record": record["id"], "fence": fence.0 });
    assert_eq!(told(&api).await, [("idempotency.get".to_owned(), facts)]);
    let record = ask("large", true).await.is(200).json()["records"][0].clone();
    assert_eq!(record["answer"], json!({ "headers": [header("location", "/v1/contacts/7")] }));
    assert_eq!(told(&api).await.len(), 2);
    // Where nothing of an answer is told, there is nothing to note.
    for (key, body) in [("open", true), ("done", false)] {
        let record = ask(key, body).await.is(200).json()["records"][0].clone();
        assert_eq!(record["answer"], Value::Null, "{key}");
    }
    assert_eq!(told(&api).await.len(), 2);
    // One look, one answer.
    sent(&api, "acme", "batch", "done", Outcome::Done).await;
    ask("done", true).await.refuses(400, "VALIDATION_FAILED");
    assert_eq!(told(&api).await.len(), 2);
    let both = ask("done", false).await.is(200).json();
    let one = both["records"][0]["id"].as_str().unwrap();
    let target = format!("/v1/idempotency/acme/done?body=true&record={one}");
    let named = api.ask("GET", &target).send().await.is(200).json();
    assert!(named["records"][0]["answer"]["body"].is_string());
    assert_eq!(told(&api).await[2].1["record"], one);
}

#[tokio::test]
async fn each_role_may_what_it_needs() {
    for (role, looks, reads, releases) in [
        (Role::Viewer, 200, 403, 403),
        (Role::Operator, 200, 403, 200),
        (Role::Publisher, 200, 403, 403),
        (Role::Producer, 403, 403, 403),
        (Role::Admin, 200, 200, 200),
    ] {
        let api = Api::new().await;
        sent(&api, "acme", "mobile", "done", Outcome::Done).await;
        sent(&api, "acme", "mobile", "lost", Outcome::Unknown).await;
        let record = only(&api, "lost").await;
        let token = api.token(role, None).await;
        let get = async |target: &str| api.ask("GET", target).bearer(&token).send().await;
        get("/v1/idempotency/acme/done").await.is(looks);
        get("/v1/idempotency/acme/done?body=true").await.is(reads);
        let body = json!({ "record": record["id"], "fence": record["fence"] });
        let release = api.ask("POST", "/v1/idempotency/acme/lost:release").bearer(&token);
        release.json(&body).send().await.is(releases);
        let refused = api.audit().await.iter().filter(|entry| entry.refused.is_some()).count();
        let expected = [looks, reads, releases].iter().filter(|status| **status == 403).count();
        assert_eq!(refused, expected, "{role:?}");
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_finds_its_own_keys_without_the_node() {
    let api = Api::new().await;
    sent(&api, "acme", "mobile", "order-1", Outcome::Unknown).await;
    sent(&api, "globex", "mobile", "order-1", Outcome::Unknown).await;
    let token = api.token(Role::Admin, Some("acme")).await;
    let ask = |method: &str, target: &str| api.ask(method, target).bearer(&token);
    let own = ask("GET", "/v1/idempotency/acme/order-1").send().await.is(200).json();
    assert_eq!(own["records"][0].get("owner"), None);
    let body = json!({ "record": own["records"][0]["id"], "fence": own["records"][0]["fence"] });
    for (method, target) in [
        ("GET", "/v1/idempotency/globex/order-1"),
        ("GET", "/v1/idempotency/globex/order-1?body=true"),
        ("POST", "/v1/idempotency/globex/order-1:release"),
    ] {
        ask(method, target).json(&body).send().await.refuses(404, "NOT_FOUND");
        let entry = api.audit().await.remove(0);
        assert_eq!(entry.refused.map(|code| code.as_str()), Some("FORBIDDEN"), "{target}");
    }
    let released = ask("POST", "/v1/idempotency/acme/order-1:release").json(&body).send().await;
    assert_eq!(released.is(200).json()["record"].get("owner"), None);
}

#[tokio::test]
async fn what_nobody_knows_is_released_once_and_audited_as_begun_and_done() {
    let api = Api::new().await;
    sent(&api, "acme", "mobile", "lost", Outcome::Unknown).await;
    let record = only(&api, "lost").await;
    let body = json!({ "record": record["id"], "fence": record["fence"] });
    let once = async || {
        let ask = api.ask("POST", "/v1/idempotency/acme/lost:release").json(&body);
        ask.header("idempotency-key", "release-1").send().await
    };
    let released = once().await.is(200).json();
    assert_eq!(released, json!({ "tenant": "acme", "record": record }));
    let entry = |state: &str| {
        ("idempotency.release".to_owned(), json!({ "state": state, "record": record }))
    };
    assert_eq!(told(&api).await, [entry("begun"), entry("done")]);
    let repeat = once().await;
    assert_eq!(repeat.header("idempotency-replayed"), "true");
    assert_eq!(repeat.is(200).json(), released);
    release(&api, "lost", &record).await.refuses(404, "NOT_FOUND");
    assert_eq!(told(&api).await.len(), 2);
    // The key is free, and whoever has it next is not released by what was seen before.
    sent(&api, "acme", "mobile", "lost", Outcome::Unknown).await;
    release(&api, "lost", &record).await.refuses(409, "CONFLICT");
    release(&api, "lost", &only(&api, "lost").await).await.is(200);
}

#[tokio::test]
async fn what_is_on_its_way_or_answered_is_not_released() {
    let api = Api::new().await;
    for outcome in [Outcome::Dispatched, Outcome::Done, Outcome::NotRetained] {
        let key = format!("{outcome:?}");
        sent(&api, "acme", "mobile", &key, outcome).await;
        let record = only(&api, &key).await;
        release(&api, &key, &record).await.refuses(409, "CONFLICT");
        assert_eq!(only(&api, &key).await, record);
    }
    sent(&api, "acme", "mobile", "lost", Outcome::Unknown).await;
    let record = only(&api, "lost").await;
    let of = |record: &Value, fence: &Value| json!({ "record": record, "fence": fence });
    for (body, status, code) in [
        (json!({}), 422, "CONFIG_INVALID"),
        (of(&record["id"], &json!("1")), 422, "CONFIG_INVALID"),
        (json!({ "record": record["id"], "fence": 1, "route": "r" }), 422, "CONFIG_INVALID"),
        (of(&json!("another"), &record["fence"]), 404, "NOT_FOUND"),
        (of(&record["id"], &json!(1_000_000)), 409, "CONFLICT"),
    ] {
        let ask = api.ask("POST", "/v1/idempotency/acme/lost:release").json(&body);
        ask.send().await.refuses(status, code);
    }
    assert_eq!(only(&api, "lost").await, record);
    assert_eq!(told(&api).await, [], "what is refused is not begun");
}

/// Records that are there, and a store that does otherwise when they are released.
struct Fickle {
    records: Mutex<Option<Arc<InStore>>>,
    cleared: Result<Settled, StoreError>,
    /// By how much its clock is ahead of ours, in microseconds.
    ahead: i64,
}

#[async_trait]
impl Records for Fickle {
    async fn find(&self, tenant: &TenantId, key: &Key) -> Result<Found, RecordsError> {
        let records = self.records.lock().unwrap().clone().unwrap();
        let found = records.find(tenant, key).await?;
        Ok(Found { now: found.now + self.ahead, ..found })
    }

    async fn answer(&self, _: &RecordKey, _: Fence) -> Result<Option<Answer>, RecordsError> {
        Ok(None)
    }

    async fn clear(&self, _: &RecordKey, _: Fence) -> Result<Settled, RecordsError> {
        Ok(self.cleared.clone()?)
    }
}

#[tokio::test]
async fn a_release_that_did_not_happen_is_not_told_as_done() {
    let away = StoreError::Unavailable("away".to_owned());
    for (cleared, state, status, code) in [
        (Ok(Settled::Stale), "stale", 409, "CONFLICT"),
        (Err(away), "failed", 503, "DEPENDENCY_UNAVAILABLE"),
    ] {
        let fickle = Arc::new(Fickle { records: Mutex::default(), cleared, ahead: 0 });
        let records: Arc<dyn Records> = fickle.clone();
        let setup =
            Setup { document: Some(standard()), records: Some(records), ..Setup::default() };
        let api = Api::with(setup).await;
        let (ledger, clock) = (api.store.ledger(), api.clock.clone());
        *fickle.records.lock().unwrap() = Some(Arc::new(InStore { ledger, clock }));
        sent(&api, "acme", "mobile", "lost", Outcome::Unknown).await;
        let record = only(&api, "lost").await;
        release(&api, "lost", &record).await.refuses(status, code);
        let states: Vec<Value> =
            told(&api).await.into_iter().map(|(_, facts)| facts["state"].clone()).collect();
        assert_eq!(states, ["begun", state]);
    }
}

#[tokio::test]
async fn the_stores_clock_says_whether_a_lease_ended() {
    let lease = i64::try_from(LEASE.as_micros()).unwrap();
    for (ahead, state) in [(lease - 1, "dispatched"), (lease, "unknown")] {
        let cleared = Ok(Settled::Applied);
        let fickle = Arc::new(Fickle { records: Mutex::default(), cleared, ahead });
        let records: Arc<dyn Records> = fickle.clone();
        let setup =
            Setup { document: Some(standard()), records: Some(records), ..Setup::default() };
        let api = Api::with(setup).await;
        let (ledger, clock) = (api.store.ledger(), api.clock.clone());
        *fickle.records.lock().unwrap() = Some(Arc::new(InStore { ledger, clock }));
        sent(&api, "acme", "mobile", "k", Outcome::Dispatched).await;
        let record = only(&api, "k").await;
        assert_eq!(record["state"], state, "{ahead}");
        let told = release(&api, "k", &record).await;
        match state {
            "unknown" => drop(told.is(200)),
            _ => drop(told.refuses(409, "CONFLICT")),
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_gone_meanwhile_is_not_told_nor_audited() {
    let fickle = Fickle { records: Mutex::default(), cleared: Ok(Settled::Stale), ahead: 0 };
    let fickle = Arc::new(fickle);
    let records: Arc<dyn Records> = fickle.clone();
    let setup = Setup { document: Some(standard()), records: Some(records), ..Setup::default() };
    let api = Api::with(setup).await;
    let (ledger, clock) = (api.store.ledger(), api.clock.clone());
    *fickle.records.lock().unwrap() = Some(Arc::new(InStore { ledger, clock }));
    sent(&api, "acme", "mobile", "k", Outcome::Done).await;
    let ask = api.ask("GET", "/v1/idempotency/acme/k?body=true");
    ask.send().await.refuses(409, "CONFLICT");
    assert_eq!(told(&api).await, []);
}

#[tokio::test]
async fn a_process_that_has_no_records_says_who_has() {
    let records: Arc<dyn Records> = Arc::new(Elsewhere);
    let setup = Setup { document: Some(standard()), records: Some(records), ..Setup::default() };
    let api = Api::with(setup).await;
    api.ask("GET", "/v1/idempotency/acme/order-1").send().await.refuses(409, "CONFLICT");
    let body = json!({ "record": "r", "fence": 1 });
    let release = api.ask("POST", "/v1/idempotency/acme/order-1:release").json(&body);
    release.send().await.refuses(409, "CONFLICT");
    assert_eq!(told(&api).await, []);
}
