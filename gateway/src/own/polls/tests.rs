use super::*;
use http::{HeaderName, HeaderValue};
use model::event::New;
use model::webhook::{Planned, StoredEvent};
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;
use store::webhooks::Arriving;
use webhook_signature::Verifier;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

const NONE: [u64; 0] = [];

struct Polled {
    polls: Polls,
    folder: tempfile::TempDir,
}

async fn polled() -> Polled {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/tollgate.db", folder.path().display());
    let store = Store::open(&url).await.unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    std::fs::write(folder.path().join("old"), OLD).unwrap();
    Polled { polls: Polls::new(store, MasterKeys::default()), folder }
}

impl Polled {
    /// Events of these tenants, each with a delivery to the tenant's endpoint.
    async fn accept(&self, tenants: &[&str], data: &str) {
        let events = tenants.iter().enumerate().map(|(index, tenant)| {
            let data = to_raw_value(&json!({ "text": data })).unwrap();
            let id = format!("{index}-{}", uuid::Uuid::now_v7());
            let new = New {
                id: &id,
                source: "/crm",
                r#type: "contact.created",
                tenant,
                data: Some(&data),
                ..New::default()
            };
            CloudEvent::new(&new).unwrap().to_keep().unwrap()
        });
        let arriving = Arriving { events: events.collect(), backlog: BTreeMap::new() };
        self.polls.store.accept_events(vec![arriving]).await.unwrap();
        let plan = |event: &StoredEvent| {
            let endpoint = event.tenant.as_str().into();
            vec![Planned { endpoint, order_key: None, parked: None }]
        };
        self.polls.store.fan_out(Arc::new(plan), None, 1_000).await.unwrap();
    }

    /// The endpoint of a tenant, with further fields.
    fn endpoint(&self, tenant: &str, further: &Value) -> Arc<Endpoint> {
        let file = |name: &str| json!({ "file": self.folder.path().join(name) });
        let mut endpoint = json!({ "id": tenant, "tenant": tenant, "url": "https://hooks.example/",
            "events": ["*"], "secret": file("secret"),
            "previous_secrets": [{ "secret": file("old"), "until": "2099-01-01T00:00:00Z" }] });
        let further = further.as_object().into_iter().flatten();
        endpoint
            .as_object_mut()
            .unwrap()
            .extend(further.map(|(name, value)| (name.clone(), value.clone())));
        Arc::new(serde_json::from_value(endpoint).unwrap())
    }

    async fn ask(&self, tenant: &str, query: &str) -> Value {
        self.asked(&self.endpoint(tenant, &json!({})), query).await.unwrap()
    }

    async fn asked(&self, endpoint: &Arc<Endpoint>, query: &str) -> Result<Value, Reject> {
        self.polls.ask(endpoint, Question::of(Some(query))?, &Clock::system()).await
    }
}

fn cursors(told: &Value) -> Vec<u64> {
    let items = told["items"].as_array().unwrap().iter();
    items.map(|item| item["cursor"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_question_is_read_and_what_is_none_is_refused() {
    let question =
        |cursor, limit, wait| Question { cursor, limit, wait: Duration::from_secs(wait) };
    for (query, expected) in [
        (None, Some(question(Cursor::After(0), 50, 0))),
        (Some("cursor=7&limit=100&wait=20"), Some(question(Cursor::After(7), 100, 20))),
        (Some("cursor=latest"), Some(question(Cursor::Latest, 50, 0))),
        (Some("cursor=-1"), None),
        (Some("cursor=first"), None),
        (Some("limit=0"), None),
        (Some("limit=101"), None),
        (Some("wait=21"), None),
        (Some("wait=1s"), None),
        (Some("x=1"), None),
    ] {
        assert_eq!(Question::of(query).ok(), expected, "{query:?}");
    }
}

#[tokio::test]
async fn a_reader_goes_on_behind_its_cursor_and_sees_its_own_endpoint_alone() {
    let polled = polled().await;
    polled.accept(&["acme", "globex", "acme", "acme", "globex"], "x").await;
    let all = cursors(&polled.ask("acme", "").await);
    assert_eq!(all.len(), 3);
    let first = polled.ask("acme", "limit=2").await;
    assert_eq!(cursors(&first), all[..2]);
    let next = format!("cursor={}", first["next_cursor"].as_str().unwrap());
    let second = polled.ask("acme", &next).await;
    assert_eq!(cursors(&second), all[2..]);
    // Nothing behind it: the cursor stays.
    let end = format!("cursor={}", all[2]);
    let none = polled.ask("acme", &end).await;
    assert_eq!((cursors(&none), &none["next_cursor"]), (NONE.to_vec(), &json!(all[2].to_string())));
    assert_eq!(cursors(&polled.ask("globex", "").await).len(), 2);
    // An endpoint of this id that was another tenant's before.
    let moved = polled.endpoint("acme", &json!({ "tenant": "globex" }));
    assert_eq!(cursors(&polled.asked(&moved, "").await.unwrap()), NONE);
    let latest = polled.ask("acme", "cursor=latest").await;
    assert_eq!(cursors(&latest), NONE);
    polled.accept(&["acme"], "x").await;
    let next = format!("cursor={}", latest["next_cursor"].as_str().unwrap());
    assert_eq!(cursors(&polled.ask("acme", &next).await).len(), 1);
}

#[tokio::test]
async fn each_event_is_signed_as_it_would_be_sent() {
    let polled = polled().await;
    polled.accept(&["acme"], "grüße").await;
    for (format, kind) in
        [("structured", "application/cloudevents+json"), ("binary", "application/json")]
    {
        let endpoint = polled.endpoint("acme", &json!({ "format": format }));
        let told = polled.asked(&endpoint, "").await.unwrap();
        let item = &told["items"][0];
        let headers = item["headers"].as_object().unwrap().iter();
        let headers: HeaderMap = headers
            .map(|(name, value)| {
                let value = HeaderValue::try_from(value.as_str().unwrap()).unwrap();
                (HeaderName::try_from(name).unwrap(), value)
            })
            .collect();
        assert_eq!(headers["content-type"], kind);
        let body = item["body"].as_str().unwrap();
        let data: Value = serde_json::from_str(body).unwrap();
        let data = if format == "binary" { &data } else { &data["data"] };
        assert_eq!(data["text"], "grüße");
        assert_eq!(headers.contains_key("ce-type"), format == "binary");
        let now = Clock::system().now().as_second();
        for secret in [SECRET, OLD] {
            let secret = signature::Secret::parse(secret).unwrap();
            let verifier = Verifier::new(Duration::from_secs(60)).secret(secret);
            assert!(verifier.verify(&headers, body.as_bytes(), now).is_ok(), "{format}");
            assert!(verifier.verify(&headers, b"{}", now).is_err(), "{format}");
        }
    }
}

#[tokio::test]
async fn without_its_secret_nothing_is_told_and_the_secret_least() {
    let polled = polled().await;
    polled.accept(&["acme"], "x").await;
    for (field, value) in [
        ("secret", json!({ "file": "/nowhere/hunter2" })),
        ("secret", json!({ "env": "TOLLGATE_SECRET_NOT_SET" })),
        ("secret", json!({ "file": polled.folder.path().join("tollgate.db") })),
        ("signing_key", json!({ "file": polled.folder.path().join("secret") })),
    ] {
        let endpoint = polled.endpoint("acme", &json!({ field: value }));
        let refused = polled.asked(&endpoint, "").await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::DependencyUnavailable, "{value}");
        assert!(!refused.cause.as_ref().unwrap().contains("MfKQ9r8"));
    }
}

#[tokio::test]
async fn an_answer_ends_after_some_mebibytes() {
    let polled = polled().await;
    polled.accept(&["acme"; 24], &"x".repeat(400 << 10)).await;
    let first = polled.ask("acme", "limit=100").await;
    // Eight at a time: the second eight go beyond 4 MiB.
    assert_eq!(cursors(&first).len(), 16);
    let next = format!("limit=100&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(cursors(&polled.ask("acme", &next).await).len(), 8, "and nothing is passed over");
}

#[tokio::test]
async fn a_question_waits_for_what_comes() {
    let polled = Arc::new(polled().await);
    let asking = polled.clone();
    let waiting = tokio::spawn(async move { asking.ask("acme", "wait=20").await });
    // It waits: whoever has no place yet has not asked.
    while polled.polls.asking.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    polled.accept(&["globex", "acme"], "x").await;
    let told = timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(cursors(&told).len(), 1);
    assert_eq!(cursors(&polled.ask("acme", "cursor=999&wait=1").await), NONE, "and not for ever");
    assert!(polled.polls.asking.lock().unwrap().is_empty(), "places are given back");
}

#[tokio::test]
async fn a_tenant_has_some_places_and_leaves_the_others_theirs() {
    let polled = polled().await;
    let acme = TenantId::from("acme");
    let places: Vec<_> =
        (0..AT_ONCE_OF_TENANT).map(|_| polled.polls.place(&acme).unwrap()).collect();
    let refused = polled.asked(&polled.endpoint("acme", &json!({})), "").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Overloaded);
    assert_eq!(cursors(&polled.ask("globex", "").await), NONE);
    drop(places);
    assert_eq!(cursors(&polled.ask("acme", "").await), NONE);
}

#[tokio::test]
async fn without_the_store_nobody_is_told_that_nothing_is_there() {
    let polled = polled().await;
    polled.polls.store.close().await;
    let refused = polled.asked(&polled.endpoint("acme", &json!({})), "").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DependencyUnavailable);
}
