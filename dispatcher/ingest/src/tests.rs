use super::*;
use async_trait::async_trait;
use http::HeaderValue;
use model::audit::Entry;
use model::config::{Config, ConfigError};
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

/// A document that is in force, and nothing else.
#[derive(Default)]
struct Shelf(Mutex<Option<Published>>);

impl Shelf {
    fn put(&self, number: u64, document: &Value) {
        let (text, etag) = (document.to_string().into(), format!("etag-{number}"));
        *self.0.lock().unwrap() = Some(Published { number, text, etag, nodes: None });
    }
}

#[async_trait]
impl Revisions for Shelf {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        Ok(self.in_force())
    }

    fn in_force(&self) -> Option<Published> {
        self.0.lock().unwrap().clone()
    }

    async fn check(&self, _: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        unreachable!("nothing is published here")
    }

    async fn publish(&self, _: Change) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
    }

    async fn release(
        &self,
        _: u64,
        _: Entry,
        _: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
    }
}

struct Door {
    ingest: Ingest,
    store: Store,
    shelf: Arc<Shelf>,
    clock: Clock,
    _folder: TempDir,
}

/// Tenants that may send 10 events a second, of which some wait, with one type that has a schema.
fn document() -> Value {
    let tenant =
        |id: &str, plan: &str, state: &str| json!({ "id": id, "plan": plan, "state": state });
    json!({
        "format": 1,
        "plans": [
            { "id": "gold", "limits": [], "events": { "size": "4KiB" } },
            { "id": "slow", "limits": [], "events": { "rate": "10/s" } },
            { "id": "small", "limits": [], "events": { "backlog": 3 } },
        ],
        "tenants": [
            tenant("acme", "gold", "active"),
            tenant("globex", "gold", "active"),
            tenant("initech", "gold", "suspended"),
            tenant("slow", "slow", "active"),
            tenant("small", "small", "active"),
        ],
        "event_types": [{ "name": "contact.created", "schema": {
            "type": "object",
            "required": ["email"],
            "properties": { "email": { "type": "string" }, "age": { "type": "integer" } },
        } }],
    })
}

impl Door {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
        let shelf = Arc::new(Shelf::default());
        shelf.put(1, &document());
        let settings =
            Settings { store: store.clone(), revisions: shelf.clone(), clock: clock.clone() };
        Self { ingest: Ingest::start(settings), store, shelf, clock, _folder: folder }
    }

    async fn send(
        &self,
        bound: Option<&str>,
        headers: &[(&'static str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Accepted, Reject> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let bound = bound.map(TenantId::from);
        self.ingest.accept(bound.as_ref(), &map, Bytes::copy_from_slice(body.as_ref())).await
    }

    async fn one(&self, event: &Value) -> Result<Accepted, Reject> {
        let kind = ("content-type", "application/cloudevents+json; charset=UTF-8");
        self.send(None, &[kind], event.to_string()).await
    }

    async fn batch(&self, events: &[Value]) -> Result<Accepted, Reject> {
        let kind = ("content-type", "application/cloudevents-batch+json");
        self.send(None, &[kind], Value::from(events).to_string()).await
    }

    /// What is kept: tenant, id.
    async fn kept(&self) -> Vec<(String, String)> {
        let events = self.store.events_after(0, 1_000).await.unwrap();
        events.into_iter().map(|event| (event.tenant.to_string(), event.id)).collect()
    }
}

fn event(tenant: &str, id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/crm", "type": "thing.done", "tenant": tenant })
}

fn with(mut event: Value, name: &str, value: Value) -> Value {
    event.as_object_mut().unwrap().insert(name.to_owned(), value);
    event
}

/// A refusal as its sender sees it: code, and places or limit.
fn told(outcome: Result<Accepted, Reject>) -> String {
    match outcome {
        Ok(accepted) => format!("accepted {}", accepted.accepted.len()),
        Err(reject) => {
            let errors = reject.details.get("errors").and_then(Value::as_array);
            let places =
                errors.into_iter().flatten().map(|error| error["pointer"].as_str().unwrap());
            let one = ["pointer", "limit"].iter().find_map(|name| reject.details.get(*name));
            let one = one.map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
            let told = [reject.code.to_string()].into_iter().chain(places.map(str::to_owned));
            told.chain(one).collect::<Vec<_>>().join(" ")
        }
    }
}

#[tokio::test]
async fn an_event_is_accepted_in_every_form_and_kept_in_one() {
    let door = Door::new().await;
    let sent = with(event("acme", "1"), "data", json!({ "a": 1 }));
    let accepted = door.one(&sent).await.unwrap();
    let webhook_id = WebhookId::of(&"acme".into(), "/crm", "1");
    let expected = AcceptedEvent { source: "/crm".to_owned(), id: "1".to_owned(), webhook_id };
    assert_eq!(accepted.accepted, vec![expected.clone()]);
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/crm"),
        ("ce-type", "thing.done"),
        ("ce-tenant", "acme"),
        ("content-type", "application/json"),
    ];
    let again = door.send(None, &binary, r#"{ "a": 1 }"#).await.unwrap();
    assert_eq!(again.accepted, vec![expected.clone()]);
    let batch = door.batch(&[sent.clone(), event("globex", "1")]).await.unwrap();
    assert_eq!(batch.accepted[0], expected);
    assert_eq!(batch.accepted.len(), 2);
    let events = door.store.events_after(0, 10).await.unwrap();
    let kept: Vec<_> = events.iter().map(|event| (event.number, event.tenant.as_str())).collect();
    assert_eq!(kept, [(1, "acme"), (2, "globex")]);
    assert_eq!(
        events[0].content,
        r#"{"specversion":"1.0","id":"1","source":"/crm","type":"thing.done","datacontenttype":"application/json","tenant":"acme","data":{"a":1}}"#
    );
}

#[tokio::test]
async fn another_event_under_the_same_id_is_a_conflict_and_nothing_of_its_request_is_kept() {
    let door = Door::new().await;
    door.one(&event("acme", "1")).await.unwrap();
    let other = with(event("acme", "1"), "subject", json!("x"));
    assert_eq!(told(door.one(&other).await), "CONFLICT /id");
    let batch = [event("acme", "2"), other.clone(), event("acme", "3"), other];
    assert_eq!(told(door.batch(&batch).await), "CONFLICT /1/id /3/id");
    assert_eq!(door.kept().await, [("acme".to_owned(), "1".to_owned())]);
    // Within one request it is the same.
    let twice = [event("acme", "4"), with(event("acme", "4"), "subject", json!("x"))];
    assert_eq!(told(door.batch(&twice).await), "CONFLICT /1/id");
    let same = [event("acme", "4"), event("acme", "4")];
    assert_eq!(told(door.batch(&same).await), "accepted 2");
    assert_eq!(door.kept().await.len(), 2);
    // Another tenant's event has an id of its own, and so has another source's.
    assert_eq!(
        told(door.one(&with(event("globex", "1"), "subject", json!("x"))).await),
        "accepted 1"
    );
    let elsewhere = with(with(event("acme", "1"), "source", json!("/erp")), "subject", json!("x"));
    assert_eq!(told(door.one(&elsewhere).await), "accepted 1");
}

#[tokio::test]
async fn an_event_is_its_tenants_and_nobody_elses() {
    let door = Door::new().await;
    let kind = ("content-type", "application/cloudevents+json");
    let anonymous =
        json!({ "specversion": "1.0", "id": "x", "source": "/crm", "type": "thing.done" });
    for (bound, sent, expected) in [
        (Some("acme"), anonymous.clone(), "accepted 1"),
        (Some("acme"), event("acme", "x"), "accepted 1"),
        (Some("acme"), event("globex", "x"), "FORBIDDEN /tenant"),
        (Some("acme"), event("nobody", "x"), "FORBIDDEN /tenant"),
        (None, event("globex", "x"), "accepted 1"),
        (None, anonymous, "VALIDATION_FAILED /tenant"),
        (None, event("nobody", "x"), "VALIDATION_FAILED /tenant"),
        (None, event("initech", "x"), "TENANT_SUSPENDED"),
        (Some("initech"), event("initech", "x"), "TENANT_SUSPENDED"),
        (Some("gone"), event("gone", "x"), "VALIDATION_FAILED /tenant"),
    ] {
        let outcome = door.send(bound, &[kind], sent.to_string()).await;
        assert_eq!(told(outcome), expected, "{bound:?} {sent}");
    }
    // What a bound token left out is the same event as with it.
    let kept = door.kept().await;
    assert_eq!(kept, [("acme".into(), "x".into()), ("globex".into(), "x".into())]);
    let mixed = [event("acme", "y"), event("nobody", "y"), event("globex", "y")];
    assert_eq!(told(door.batch(&mixed).await), "VALIDATION_FAILED /1/tenant");
    assert_eq!(door.kept().await.len(), 2);
}

#[tokio::test]
async fn what_is_the_gateways_own_comes_from_nobody_else() {
    let door = Door::new().await;
    for (name, value) in [
        ("type", "tollgate.endpoint.disabled"),
        ("type", "tollgate.ping"),
        ("source", "/tollgate"),
        ("source", "/v1/inbound/acme-crm"),
        ("source", "/v1/sources/legacy"),
    ] {
        let sent = with(event("acme", value), name, json!(value));
        assert_eq!(told(door.one(&sent).await), format!("VALIDATION_FAILED /{name}"), "{value}");
        let read = || CloudEvent::structured(sent.to_string().as_bytes()).unwrap();
        let source = door.ingest.keep(Origin::Source, read()).await;
        assert_eq!(told(source).starts_with("accepted"), name == "source", "{value}");
        let own = door.ingest.keep(Origin::Gateway, read()).await;
        assert_eq!(told(own), "accepted 1", "{value}");
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_refused_with_its_places() {
    let door = Door::new().await;
    let bad = with(with(event("acme", ""), "time", json!("now")), "BAD", json!(1));
    assert_eq!(told(door.one(&bad).await), "VALIDATION_FAILED /id /time /BAD");
    let batch = [event("acme", "1"), bad];
    assert_eq!(told(door.batch(&batch).await), "VALIDATION_FAILED /1/id /1/time /1/BAD");
    assert!(door.kept().await.is_empty());
    let text = event("acme", "1").to_string();
    let ce = ("ce-specversion", "1.0");
    for headers in [
        vec![],
        vec![("content-type", "application/json")],
        vec![("content-type", "application/cloudevents+avro"), ce],
        vec![("content-type", "application/cloudevents+json+x"), ce],
    ] {
        let outcome = door.send(None, &headers, &text).await;
        let message = outcome.unwrap_err().public_message().to_owned();
        assert!(message.starts_with("Send a CloudEvent as"), "{headers:?}: {message}");
    }
    let twice = ("content-type", "application/cloudevents+json");
    let outcome = door.send(None, &[twice, twice], &text).await.unwrap_err();
    assert_eq!(outcome.public_message(), "`Content-Type` is given more than once.");
    let large = door.send(None, &[], vec![b' '; BODY_BYTES_MAX + 1]).await;
    assert_eq!(told(large), format!("BODY_TOO_LARGE {BODY_BYTES_MAX}"));
    assert_eq!(told(door.batch(&[]).await), "accepted 0");
}

#[tokio::test]
async fn an_event_fits_the_schema_of_its_type() {
    let door = Door::new().await;
    let of = |id: &str, more: Value| {
        let mut event = with(event("acme", id), "type", json!("contact.created"));
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let data = |data: Value| of("1", json!({ "data": data }));
    for (sent, expected) in [
        (data(json!({ "email": "a@b" })), "accepted 1"),
        (data(json!({ "email": 7, "age": "x" })), "VALIDATION_FAILED /data/email /data/age"),
        (data(json!({})), "VALIDATION_FAILED /data"),
        (data(json!([])), "VALIDATION_FAILED /data"),
        (of("2", json!({})), "VALIDATION_FAILED /data"),
        (
            of("3", json!({ "datacontenttype": "text/plain", "data": "x" })),
            "VALIDATION_FAILED /data",
        ),
        (of("4", json!({ "data_base64": "AAAA" })), "VALIDATION_FAILED /data"),
    ] {
        assert_eq!(told(door.one(&sent).await), expected, "{sent}");
    }
    let batch = [event("acme", "5"), data(json!({ "email": 7 }))];
    assert_eq!(told(door.batch(&batch).await), "VALIDATION_FAILED /1/data/email");
    // What was sent is not repeated.
    let secret = data(json!({ "email": ["hunter2"] }));
    let reject = door.one(&secret).await.unwrap_err();
    let shown = Value::Object(reject.details.clone()).to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
    let mut many: Vec<Value> = Vec::new();
    many.resize_with(EVENTS_MAX, || data(json!({ "email": 7, "age": "x" })));
    let reject = door.batch(&many).await.unwrap_err();
    assert_eq!(reject.details["errors"].as_array().unwrap().len(), 32);
    // A new revision is in force at once.
    let mut open = document();
    open["event_types"][0]["schema"] = json!({});
    door.shelf.put(2, &open);
    assert_eq!(told(door.one(&of("6", json!({}))).await), "accepted 1");
}

#[tokio::test]
async fn a_rate_is_each_tenants_own_and_a_refused_request_takes_nothing_of_it() {
    let door = Door::new().await;
    let slow = |id: usize| event("slow", &format!("e-{id}"));
    // A whole batch is taken at once, however slow the rate.
    let first: Vec<Value> = (0..EVENTS_MAX).map(slow).collect();
    assert_eq!(told(door.batch(&first).await), "accepted 256");
    let refused = door.one(&slow(256)).await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::RateLimited, Some(1)));
    assert_eq!(refused.details["limit"], "events.rate");
    // Another tenant is not held back; with the slow one, nothing of it is taken.
    assert_eq!(told(door.one(&event("acme", "1")).await), "accepted 1");
    let mixed = [event("globex", "1"), slow(256)];
    assert_eq!(told(door.batch(&mixed).await), "RATE_LIMITED events.rate");
    assert!(!door.kept().await.contains(&("globex".to_owned(), "1".to_owned())));
    let ten: Vec<Value> = (256..266).map(slow).collect();
    let told_wait = door.batch(&ten).await.unwrap_err();
    assert_eq!(told_wait.retry_after, Some(1));
    door.clock.advance(Duration::from_secs(1));
    assert_eq!(told(door.batch(&ten).await), "accepted 10");
    assert_eq!(told(door.one(&slow(266)).await), "RATE_LIMITED events.rate");
    // The gateway's own are not counted.
    let own = CloudEvent::structured(slow(300).to_string().as_bytes()).unwrap();
    assert_eq!(told(door.ingest.keep(Origin::Gateway, own).await), "accepted 1");
}

#[tokio::test]
async fn who_reads_a_list_again_and_again_gets_on_however_slow_its_rate() {
    let door = Door::new().await;
    let list = |places: std::ops::Range<usize>| -> Vec<CloudEvent> {
        let events = places.map(|place| event("slow", &format!("e-{place}")));
        events.map(|event| CloudEvent::structured(event.to_string().as_bytes()).unwrap()).collect()
    };
    let keep = async |places| door.ingest.keep_each(Origin::Source, list(places)).await.unwrap();
    let kept = |outcomes: &[Result<Acceptance, Reject>]| outcomes.iter().flatten().count();
    assert_eq!(kept(&keep(0..256).await), 256);
    let refused = keep(256..300).await;
    assert_eq!((kept(&refused), refused.len()), (0, 1));
    let refused = refused[0].as_ref().unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::RateLimited, Some(1)));
    // What it has read before takes nothing.
    door.clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        assert!(keep(0..256).await.iter().all(|told| matches!(told, Ok(Acceptance::Repeat))));
    }
    assert_eq!(kept(&keep(256..300).await), 44);
    assert_eq!(kept(&keep(300..301).await), 0);
    assert_eq!(door.kept().await.len(), 300);
}

#[tokio::test]
async fn what_is_refused_for_what_it_says_takes_nothing_of_a_rate() {
    let door = Door::new().await;
    let wrong: Vec<Value> = (0..EVENTS_MAX)
        .map(|id| with(event("slow", &id.to_string()), "type", json!("contact.created")))
        .collect();
    assert!(told(door.batch(&wrong).await).starts_with("VALIDATION_FAILED"));
    let sound: Vec<Value> = (0..EVENTS_MAX).map(|id| event("slow", &id.to_string())).collect();
    assert_eq!(told(door.batch(&sound).await), "accepted 256");
}

#[tokio::test]
async fn as_much_waits_as_may_and_no_more() {
    let door = Door::new().await;
    let small = |id: &str| event("small", id);
    assert_eq!(told(door.batch(&[small("1"), small("2")]).await), "accepted 2");
    let two_more = [small("3"), small("4")];
    let full = door.batch(&two_more).await.unwrap_err();
    assert_eq!((full.code, full.retry_after), (ErrorCode::RateLimited, Some(BACKLOG_RETRY_S)));
    assert_eq!(full.details["limit"], "events.backlog");
    assert_eq!(told(door.one(&small("3")).await), "accepted 1");
    assert_eq!(told(door.one(&small("4")).await), "RATE_LIMITED events.backlog");
    // A repeat adds nothing, and others are not held back.
    assert_eq!(told(door.one(&small("3")).await), "accepted 1");
    assert_eq!(told(door.one(&event("acme", "1")).await), "accepted 1");
    let own = CloudEvent::structured(small("5").to_string().as_bytes()).unwrap();
    assert_eq!(told(door.ingest.keep(Origin::Gateway, own).await), "accepted 1");
}

#[tokio::test]
async fn an_event_has_at_most_its_tenants_size() {
    let door = Door::new().await;
    let data = |bytes: usize| with(event("acme", "1"), "data", json!("x".repeat(bytes)));
    assert_eq!(told(door.one(&data(4_096)).await), "BODY_TOO_LARGE ");
    let batch = [event("acme", "2"), data(4_096)];
    assert_eq!(told(door.batch(&batch).await), "BODY_TOO_LARGE /1");
    assert_eq!(told(door.one(&data(3_900)).await), "accepted 1");
    // One that is judged apart from the threads that serve is judged alike.
    let large = with(event("globex", "1"), "data", json!("x".repeat(JUDGED_APART_FROM)));
    assert_eq!(told(door.one(&large).await), "BODY_TOO_LARGE ");
}

#[tokio::test]
async fn many_at_once_share_commits_and_all_of_them_are_kept() {
    const REQUESTS: usize = 400;
    let door = Door::new().await;
    let before = door.store.commits();
    let mut sends = tokio::task::JoinSet::new();
    for id in 0..REQUESTS {
        let ingest = door.ingest.clone();
        let text = event("acme", &format!("e-{id}")).to_string();
        sends.spawn(async move {
            let read = CloudEvent::structured(text.as_bytes()).unwrap();
            ingest.keep(Origin::Producer, read).await.unwrap().accepted[0].webhook_id.clone()
        });
    }
    let mut answered = sends.join_all().await;
    let commits = door.store.commits() - before;
    assert!(commits <= REQUESTS as u64 / 10, "{commits} commits");
    let events = door.store.events_after(0, 1_000).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=REQUESTS as u64).collect::<Vec<_>>());
    let mut kept: Vec<WebhookId> = events.into_iter().map(|event| event.webhook_id).collect();
    kept.sort();
    answered.sort();
    assert_eq!(answered, kept);
}

#[tokio::test]
async fn each_event_of_a_list_is_accepted_for_itself_and_in_its_order() {
    let door = Door::new().await;
    door.one(&event("acme", "2")).await.unwrap();
    let list: Vec<CloudEvent> = [
        event("acme", "1"),
        with(event("acme", "2"), "subject", json!("other")),
        event("nobody", "3"),
        event("acme", "4"),
        event("acme", "1"),
    ]
    .iter()
    .map(|event| CloudEvent::structured(event.to_string().as_bytes()).unwrap())
    .collect();
    let outcomes = door.ingest.keep_each(Origin::Source, list).await.unwrap();
    let shown: Vec<String> = outcomes
        .into_iter()
        .map(|outcome| outcome.map_or_else(|r| r.code.to_string(), |told| format!("{told:?}")))
        .collect();
    assert_eq!(shown, ["Accepted", "Conflict", "VALIDATION_FAILED", "Accepted", "Repeat"]);
    let ids = async || -> Vec<String> { door.kept().await.into_iter().map(|(_, id)| id).collect() };
    assert_eq!(ids().await, ["2", "1", "4"]);
    // What can't be accepted for now is overtaken by nothing.
    for (tenants, expected) in [
        (
            ["small", "acme", "small", "small", "small", "acme"],
            "Accepted Accepted Accepted Accepted Full",
        ),
        (["acme", "initech", "acme", "acme", "acme", "acme"], "Accepted TENANT_SUSPENDED"),
    ] {
        let before = ids().await.len();
        let list = tenants.iter().enumerate().map(|(place, tenant)| {
            let event = event(tenant, &format!("{expected} {place}"));
            CloudEvent::structured(event.to_string().as_bytes()).unwrap()
        });
        let outcomes = door.ingest.keep_each(Origin::Source, list.collect()).await.unwrap();
        let shown: Vec<String> = outcomes
            .into_iter()
            .map(|outcome| outcome.map_or_else(|r| r.code.to_string(), |told| format!("{told:?}")))
            .collect();
        assert_eq!(shown.join(" "), expected);
        assert_eq!(ids().await.len() - before, shown.len() - 1);
    }
}

#[tokio::test]
async fn nothing_is_accepted_without_a_store_or_a_document() {
    let door = Door::new().await;
    *door.shelf.0.lock().unwrap() = None;
    let outcome = door.one(&event("acme", "1")).await.unwrap_err();
    assert_eq!((outcome.code, outcome.retry_after), (ErrorCode::DependencyUnavailable, Some(1)));
    door.shelf.put(1, &document());
    door.store.close().await;
    let outcome = door.one(&event("acme", "1")).await.unwrap_err();
    assert_eq!((outcome.code, outcome.retry_after), (ErrorCode::DependencyUnavailable, Some(1)));
}
