//! Sources on real sockets, asked as dispatchers ask them.

use super::*;
use crate::tests::entrance::Entrance;
use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A system without webhooks: answers as it is told, in order, and keeps what it was asked.
struct Legacy {
    url: String,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Asked>>,
    /// Answers wait for this, while it is to be waited for.
    gate: Mutex<Option<Arc<Notify>>>,
    came: Notify,
}

type Answer = (u16, Vec<(&'static str, &'static str)>, String);

/// A question: its query, and what it knew.
#[derive(Clone, Debug)]
struct Asked {
    query: String,
    headers: HeaderMap,
}

impl Legacy {
    async fn start() -> Self {
        let told = Arc::new(Told::default());
        let router = Router::new().fallback(answer).with_state(told.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/changes?all=1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, told }
    }

    /// What comes next.
    fn answers(&self, status: u16, headers: &[(&'static str, &'static str)], body: &Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.told.answers.lock().unwrap().push_back((status, headers.to_vec(), body));
    }

    /// The queries since it was last asked for them, without what is always there.
    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.told.asked.lock().unwrap());
        let query = |asked: Asked| asked.query.replace("all=1", "").trim_matches('&').to_owned();
        asked.into_iter().map(query).collect()
    }

    /// The last question.
    fn last(&self) -> Asked {
        self.told.asked.lock().unwrap().last().unwrap().clone()
    }
}

async fn answer(Shared(told): Shared<Arc<Told>>, request: Request<Body>) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let headers = request.headers().clone();
    told.asked.lock().unwrap().push(Asked { query, headers });
    told.came.notify_one();
    let gate = told.gate.lock().unwrap().clone();
    if let Some(gate) = gate {
        gate.notified().await;
    }
    let next = told.answers.lock().unwrap().pop_front();
    let (status, headers, body) = next.unwrap_or((304, Vec::new(), String::new()));
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

/// A source that is asked there every 30 s, and what else is to be said of it.
fn source(legacy: &Legacy, poll: Value) -> Value {
    let mut asked = json!({ "url": legacy.url, "items": "/items" });
    asked.as_object_mut().unwrap().extend(poll.as_object().unwrap().clone());
    json!([{ "id": "legacy", "tenant": "acme", "poll": asked,
        "event": { "id": "/id", "default_type": "changed", "data": "" } }])
}

fn page(ids: &[&str], more: Value) -> Value {
    let items: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    let mut page = json!({ "items": items });
    page.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    page
}

/// The source of the document in force.
async fn described(dispatcher: &Dispatcher) -> Source {
    let book = dispatcher.fresh_book().await.unwrap();
    book.config.document().sources[0].clone()
}

/// A turn of a dispatcher: after how many seconds it would look again.
async fn turn(dispatcher: &Arc<Dispatcher>) -> Result<u64, Trouble> {
    let source = described(dispatcher).await;
    Ok(turn_if_due(dispatcher, &source, &Semaphore::new(1)).await?.as_secs())
}

async fn state(entrance: &Entrance) -> State {
    let source = described(&entrance.dispatcher).await;
    Bookmark::look::<State>(&entrance.store, "poll/legacy").await.unwrap().of(&source)
}

async fn ready(poll: Value) -> (Legacy, Entrance) {
    let legacy = Legacy::start().await;
    let entrance = Entrance::with(source(&legacy, poll)).await;
    (legacy, entrance)
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again_whoever_asks() {
    let (legacy, entrance) = ready(json!({})).await;
    let tags = [("etag", "\"v1\""), ("last-modified", "Sat, 21 Nov 2026 11:00:00 GMT")];
    legacy.answers(200, &tags, &page(&["1", "2"], json!({})));
    assert_eq!(turn(&entrance.dispatcher).await.unwrap(), 30);
    let first = legacy.last().headers;
    assert!(first.get("if-none-match").is_none() && first.get("if-modified-since").is_none());
    let kept = entrance.kept().await;
    assert_eq!(kept.len(), 2);
    assert_eq!(
        (kept[0].source.as_str(), kept[0].r#type.as_str()),
        ("/v1/sources/legacy", "changed")
    );
    // Not before it is due, also by another dispatcher.
    let another = entrance.another();
    assert_eq!(turn(&another).await.unwrap(), 30);
    assert_eq!(legacy.asked().len(), 1);
    entrance.clock.advance(Duration::from_secs(30));
    legacy.answers(304, &[], &Value::Null);
    assert_eq!(turn(&another).await.unwrap(), 30);
    let known = legacy.last().headers;
    assert_eq!(known.get("if-none-match").unwrap(), "\"v1\"");
    assert_eq!(known.get("if-modified-since").unwrap(), tags[1].1);
    // What is there again is a repeat; what is new is not.
    entrance.clock.advance(Duration::from_secs(30));
    legacy.answers(200, &[], &page(&["2", "3"], json!({})));
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(entrance.ids().await, ["1", "2", "3"]);
}

#[tokio::test]
async fn pages_are_followed_at_once_and_the_next_turn_goes_on_from_there() {
    let cursor = json!({ "cursor": { "parameter": "after", "from": "/next" },
        "wait": { "parameter": "wait", "time": "20s" }, "timeout": "30s" });
    let (legacy, entrance) = ready(cursor).await;
    legacy.answers(200, &[], &page(&["1", "2"], json!({ "next": "a&b" })));
    legacy.answers(200, &[], &page(&["3"], json!({ "next": "c" })));
    legacy.answers(200, &[("etag", "\"c\"")], &page(&[], json!({ "next": "c" })));
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(legacy.asked(), ["wait=20", "after=a%26b&wait=20", "after=c&wait=20"]);
    assert_eq!(entrance.ids().await, ["1", "2", "3"]);
    entrance.clock.advance(Duration::from_secs(30));
    legacy.answers(200, &[], &page(&["4"], json!({ "next": "d" })));
    legacy.answers(204, &[], &Value::Null);
    turn(&entrance.another()).await.unwrap();
    assert_eq!(legacy.asked(), ["after=c&wait=20", "after=d&wait=20"]);
    assert_eq!(entrance.ids().await, ["1", "2", "3", "4"]);
    assert_eq!(state(&entrance).await.cursor.as_deref(), Some("d"));
}

#[tokio::test]
async fn entries_that_appear_late_are_found_where_questions_reach_back() {
    let poll = json!({ "cursor": { "parameter": "since", "newest": "/at", "overlap": "60s" } });
    let (legacy, entrance) = ready(poll).await;
    let at = |id: &str, at: u64| json!({ "id": id, "at": at });
    let items = |items: &[Value]| json!({ "items": items });
    legacy.answers(200, &[], &items(&[at("1", 1_000), at("2", 1_100)]));
    legacy.answers(200, &[], &items(&[at("2", 1_100)]));
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(legacy.asked(), ["", "since=1100"]);
    // The first page is full of what is known: what follows it is asked for all the same.
    entrance.clock.advance(Duration::from_secs(30));
    legacy.answers(200, &[], &items(&[at("late", 1_050), at("2", 1_100)]));
    legacy.answers(200, &[], &items(&[at("2", 1_100), at("3", 1_200)]));
    legacy.answers(200, &[], &items(&[at("3", 1_200)]));
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(legacy.asked(), ["since=1040", "since=1100", "since=1200"]);
    assert_eq!(entrance.ids().await, ["1", "2", "late", "3"]);
}

#[tokio::test]
async fn a_source_that_no_longer_knows_its_cursor_is_read_from_the_start() {
    let cursor = json!({ "cursor": { "parameter": "after", "from": "/next" } });
    let (legacy, entrance) = ready(cursor).await;
    legacy.answers(200, &[], &page(&["1"], json!({ "next": "a" })));
    legacy.answers(200, &[], &page(&[], json!({})));
    turn(&entrance.dispatcher).await.unwrap();
    for status in [410, 400] {
        legacy.asked();
        entrance.clock.advance(Duration::from_secs(30));
        legacy.answers(status, &[], &Value::Null);
        let id = status.to_string();
        legacy.answers(200, &[], &page(&["1", &id], json!({ "next": id })));
        legacy.answers(200, &[], &page(&[], json!({})));
        turn(&entrance.dispatcher).await.unwrap();
        let asked = legacy.asked();
        assert_eq!((asked[0].starts_with("after="), &*asked[1]), (true, ""), "{asked:?}");
    }
    assert_eq!(entrance.ids().await, ["1", "410", "400"]);
    let told: Vec<_> = entrance.notices().await;
    let restarted = |status: u16| {
        let data = json!({ "source": "legacy", "status": status });
        ("tollgate.source.restarted".to_owned(), data)
    };
    assert_eq!(told, [restarted(410), restarted(400)]);
    // One that knows none of its own cursors is asked no more than any that fails.
    entrance.clock.advance(Duration::from_secs(30));
    legacy.asked();
    legacy.answers(410, &[], &Value::Null);
    legacy.answers(200, &[], &page(&["1"], json!({ "next": "b" })));
    legacy.answers(410, &[], &Value::Null);
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(legacy.asked(), ["after=400", "", "after=b"]);
    assert_eq!(state(&entrance).await.failures, 1);
    // Without a cursor, 400 is a failure like another.
    entrance.publish(source(&legacy, json!({})));
    legacy.answers(400, &[], &Value::Null);
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(state(&entrance).await.failures, 1);
}

#[tokio::test]
async fn a_source_that_fails_is_left_alone_longer_and_longer_and_as_long_as_it_asks() {
    let (legacy, entrance) = ready(json!({ "interval": "10s" })).await;
    let none = Value::Null;
    let unread = json!({ "entries": [] });
    for (status, headers, body, pause) in [
        (500, vec![], &none, 8..=12),
        (302, vec![("location", "/elsewhere")], &none, 16..=24),
        (200, vec![], &unread, 32..=48),
        (429, vec![("retry-after", "120")], &none, 120..=120),
        (503, vec![("retry-after", "86400")], &none, 3_600..=3_600),
    ] {
        legacy.answers(status, &headers, body);
        let told = turn(&entrance.dispatcher).await.unwrap();
        assert!(pause.contains(&told), "{status}: {told}");
        entrance.clock.advance(Duration::from_secs(told.saturating_sub(1)));
        turn(&entrance.dispatcher).await.unwrap();
        assert_eq!(legacy.asked().len(), 1, "{status}: it was asked too early");
        entrance.clock.advance(Duration::from_secs(2));
    }
    assert_eq!(state(&entrance).await.failures, 5);
    legacy.answers(200, &[], &page(&["1"], json!({})));
    assert_eq!(turn(&entrance.dispatcher).await.unwrap(), 10);
    assert_eq!(state(&entrance).await.failures, 0);
}

#[tokio::test]
async fn an_entry_that_can_not_be_accepted_is_told_and_stops_nothing() {
    let cursor = json!({ "cursor": { "parameter": "after", "from": "/next" } });
    let (legacy, entrance) = ready(cursor).await;
    legacy.answers(200, &[], &page(&["1"], json!({ "next": "a" })));
    let mixed = json!({ "items": [{ "id": {} }, { "id": "1", "changed": true }, { "id": "2" }], "next": "b" });
    for _ in 0..2 {
        legacy.answers(200, &[], &mixed);
        legacy.answers(200, &[], &page(&[], json!({})));
        turn(&entrance.dispatcher).await.unwrap();
        entrance.clock.advance(Duration::from_secs(30));
    }
    assert_eq!(entrance.ids().await, ["1", "2"]);
    assert_eq!(state(&entrance).await.cursor.as_deref(), Some("b"));
    let notices = entrance.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    let (kind, data) = &notices[0];
    assert_eq!((kind.as_str(), &data["count"]), ("tollgate.source.skipped", &json!(2)));
    assert_eq!(data["entries"][0]["errors"][0]["pointer"], "/id");
    assert_eq!(
        (&data["entries"][1]["id"], &data["entries"][1]["code"]),
        (&json!("1"), &json!("CONFLICT"))
    );
}

#[tokio::test]
async fn what_is_not_accepted_for_now_is_asked_for_again() {
    let cursor = json!({ "cursor": { "parameter": "after", "from": "/next" }, "interval": "10s" });
    let (legacy, entrance) = ready(cursor.clone()).await;
    entrance.publish_with("suspended", source(&legacy, cursor.clone()));
    legacy.answers(200, &[], &page(&["1"], json!({ "next": "a" })));
    turn(&entrance.dispatcher).await.unwrap();
    let kept = state(&entrance).await;
    assert_eq!((kept.cursor, kept.failures), (None, 1));
    entrance.publish(source(&legacy, cursor));
    entrance.clock.advance(Duration::from_secs(12));
    legacy.answers(200, &[], &page(&["1"], json!({ "next": "a" })));
    legacy.answers(200, &[], &page(&[], json!({})));
    turn(&entrance.dispatcher).await.unwrap();
    assert_eq!(entrance.ids().await, ["1"]);
    assert!(entrance.notices().await.is_empty());
}

#[tokio::test]
async fn a_list_that_is_longer_than_its_tenants_rate_is_read_to_its_end() {
    const ENTRIES: usize = 600;
    let legacy = Legacy::start().await;
    let mut described = source(&legacy, json!({ "interval": "1s" }));
    described[0]["tenant"] = json!("slow");
    let entrance = Entrance::with(described).await;
    let ids: Vec<String> = (0..ENTRIES).map(|id| id.to_string()).collect();
    let list = page(&ids.iter().map(String::as_str).collect::<Vec<_>>(), json!({}));
    for (kept, looked_at) in [(256, 1), (512, 1), (600, 1), (600, 1)] {
        legacy.answers(200, &[], &list);
        assert_eq!(turn(&entrance.dispatcher).await.unwrap(), looked_at);
        assert_eq!((entrance.ids().await.len(), state(&entrance).await.failures), (kept, 0));
        entrance.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(entrance.ids().await, ids);
    assert!(entrance.notices().await.is_empty());
}

#[tokio::test]
async fn one_dispatcher_asks_at_a_time() {
    let (legacy, entrance) = ready(json!({})).await;
    let gate = Arc::new(Notify::new());
    *legacy.told.gate.lock().unwrap() = Some(gate.clone());
    legacy.answers(200, &[], &page(&["1"], json!({})));
    let dispatcher = entrance.dispatcher.clone();
    let first = tokio::spawn(async move { turn(&dispatcher).await.unwrap() });
    timeout(PATIENCE, legacy.told.came.notified()).await.unwrap();
    assert_eq!(turn(&entrance.another()).await.unwrap(), TAKEN_TIME.as_secs());
    assert_eq!(legacy.asked().len(), 1);
    gate.notify_one();
    assert_eq!(timeout(PATIENCE, first).await.unwrap().unwrap(), 30);
    assert_eq!(entrance.ids().await, ["1"]);
}

#[tokio::test]
async fn sources_are_asked_as_the_document_in_force_says() {
    let (legacy, entrance) = ready(json!({ "interval": "1s" })).await;
    entrance.dispatcher.fresh_book().await.unwrap();
    let running = tokio::spawn(run(entrance.dispatcher.clone()));
    let reads = async |answer: &Value, expected: &[&str]| {
        let all_read = async {
            while entrance.ids().await != expected {
                let waits = legacy.told.answers.lock().unwrap().len();
                if waits == 0 {
                    legacy.answers(200, &[], answer);
                }
                entrance.clock.advance(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, all_read).await.unwrap();
    };
    reads(&page(&["1"], json!({})), &["1"]).await;
    reads(&page(&["2"], json!({})), &["1", "2"]).await;
    // Another description is read by a task of its own.
    entrance.publish(source(&legacy, json!({ "interval": "1s", "items": "/other" })));
    entrance.dispatcher.fresh_book().await.unwrap();
    reads(&json!({ "items": [], "other": [{ "id": "3" }] }), &["1", "2", "3"]).await;
    running.abort();
}
