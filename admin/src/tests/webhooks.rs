//! Deliveries, dead letters, replays, and what is done with endpoints.

use super::api::{Api, Setup, standard};
use jiff::{SignedDuration, Timestamp};
use model::Clock;
use model::event::{CloudEvent, ENDPOINT_DISABLED, Event, New, VERSION_CHANGED};
use model::role::Role;
use model::webhook::{
    Attempt, DeliveryState, Disabled, Next, Outcome, PING, Planned, Reason, Settlement, Standing,
    StoredEvent, Take, WebhookId, delivery_id,
};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::webhooks::{Arriving, DeliveryQuery};

fn endpoint(id: &str, tenant: &str) -> Value {
    json!({ "id": id, "tenant": tenant, "url": format!("https://hooks.{tenant}.example/crm"), "events": ["contact.*"],
        "secret": { "env": "TOLLGATE_SECRET_HOOK" } })
}

/// With an endpoint of each tenant, and four events: of acme one that was delivered, a dead letter and one that is due, and
/// one of globex that is due.
async fn webhooks() -> Api {
    let mut document = standard();
    document["endpoints"] =
        json!([endpoint("acme-hook", "acme"), endpoint("globex-hook", "globex")]);
    let setup = Setup { document: Some(document), keys: vec!['1'], ..Setup::default() };
    let api = Api::with(setup).await;
    // The store takes the process' time.
    let behind = Clock::system().now().duration_since(api.clock.now());
    api.clock.advance(Duration::try_from(behind).unwrap_or_default());
    for (id, tenant) in [("1", "acme"), ("2", "acme"), ("3", "acme"), ("4", "globex")] {
        accept(&api, id, tenant).await;
    }
    fan_out(&api).await;
    settle(&api, "1", Outcome::Delivered, Next::Delivered).await;
    let dead = Next::Dead { reason: Reason::Exhausted, blocks: false };
    settle(&api, "2", Outcome::ServerError, dead).await;
    api
}

async fn accept(api: &Api, id: &str, tenant: &str) {
    let data = to_raw_value(&json!({ "name": format!("of {tenant}") })).unwrap();
    let new = New {
        id,
        source: "/crm",
        r#type: "contact.created",
        tenant,
        data: Some(&data),
        ..New::default()
    };
    let event = CloudEvent::new(&new).unwrap().to_keep().unwrap();
    let arriving = Arriving { events: vec![event], backlog: BTreeMap::new() };
    api.store.accept_events(vec![arriving]).await.unwrap();
}

/// One delivery of each event, to the endpoint of its tenant.
async fn fan_out(api: &Api) {
    let plan = |event: &StoredEvent| {
        let endpoint = format!("{}-hook", event.tenant);
        vec![Planned { endpoint: endpoint.as_str().into(), order_key: None, parked: None }]
    };
    api.store.fan_out(Arc::new(plan), None, 100).await.unwrap();
}

/// The number of the delivery of this event of acme.
async fn number(api: &Api, id: &str) -> u64 {
    let webhook_id = WebhookId::of(&"acme".into(), "/crm", id);
    let query = DeliveryQuery { webhook_id: Some(webhook_id), limit: 1, ..Default::default() };
    let found = api.store.deliveries(&query).await.unwrap();
    model::webhook::delivery_number(&found.first().unwrap().id).unwrap()
}

/// Holds what is due at acme's endpoint, settles the one of this event, and gives the others back.
async fn settle(api: &Api, id: &str, outcome: Outcome, next: Next) {
    let number = number(api, id).await;
    let take = Take { endpoint: "acme-hook".into(), most: 100, low_water: Timestamp::MIN };
    let held = api.store.hold(vec![take], "d/1", Duration::from_secs(60)).await.unwrap();
    let settlements = held.iter().map(|held| {
        let attempt = Attempt {
            attempt: 1,
            at: Clock::system().now(),
            took: 1_234,
            outcome,
            status: match outcome {
                Outcome::Delivered => Some(200),
                Outcome::ServerError => Some(500),
                _ => None,
            },
            excerpt: Some("hello".to_owned()),
            node: "dispatcher-1".to_owned(),
        };
        let is_it = held.number == number;
        Settlement {
            number: held.number,
            fence: held.fence,
            attempt: is_it.then_some(attempt),
            next: if is_it { next } else { Next::Due(Clock::system().now()) },
        }
    });
    let settled = api.store.settle(settlements.collect()).await.unwrap();
    assert!(settled.stale.is_empty());
}

async fn disable(api: &Api) {
    let now = Clock::system().now();
    let standing = Standing {
        endpoint: "acme-hook".into(),
        tenant: "acme".into(),
        failing_since: Some(now),
        open_until: None,
        opened: 0,
        disabled: Some(Disabled { reason: Reason::Gone, since: now }),
        at: now,
    };
    let event = Event {
        id: uuid::Uuid::now_v7().to_string(),
        at: now,
        r#type: ENDPOINT_DISABLED.to_owned(),
        tenant: Some("acme".into()),
        subject: "/v1/endpoints/acme-hook".to_owned(),
        data: json!({}),
    };
    assert!(api.store.disable_endpoint(standing, event).await.unwrap());
}

fn events(told: &Value) -> String {
    let items = told["items"].as_array().unwrap().iter();
    items.map(|item| item["event_id"].as_str().unwrap()).collect()
}

async fn state(api: &Api, id: &str) -> (DeliveryState, Option<Reason>) {
    let (found, _) = api.store.delivery(number(api, id).await).await.unwrap().unwrap();
    (found.state, found.reason)
}

#[tokio::test]
async fn deliveries_are_found_by_what_is_known_of_them() {
    let api = webhooks().await;
    let evt = WebhookId::of(&"acme".into(), "/crm", "2");
    for (query, expected) in [
        ("", "4321"),
        ("?tenant=acme", "321"),
        ("?tenant=nobody", ""),
        ("?endpoint=globex-hook", "4"),
        ("?state=delivered", "1"),
        ("?state=dead", "2"),
        ("?state=parked", ""),
        (&*format!("?webhook_id={evt}"), "2"),
        ("?type=contact.created", "4321"),
        ("?type=contact.deleted", ""),
        ("?since=2020-01-01T00:00:00Z", "4321"),
        ("?until=2020-01-01T00:00:00Z", ""),
        ("?limit=2", "43"),
    ] {
        let told = api.ask("GET", &format!("/v1/deliveries{query}")).send().await.is(200);
        assert_eq!(events(&told.json()), expected, "{query}");
    }
    let mut seen = String::new();
    let mut target = "/v1/deliveries?limit=3".to_owned();
    loop {
        let told = api.ask("GET", &target).send().await.is(200).json();
        seen += &events(&told);
        let Some(cursor) = told["next_cursor"].as_str() else { break };
        target = format!("/v1/deliveries?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, "4321");
    for query in ["?state=lost", "?tenant=a/b", "?since=then", "?cursor=x", "?limit=0", "?x=1"] {
        let told = api.ask("GET", &format!("/v1/deliveries{query}")).send().await;
        told.refuses(400, "VALIDATION_FAILED");
    }
}

#[tokio::test]
async fn a_delivery_is_told_with_its_attempts_and_the_event_to_who_operates() {
    let api = webhooks().await;
    let target = format!("/v1/deliveries/{}", delivery_id(number(&api, "2").await));
    let told = api.ask("GET", &target).send().await.is(200).json();
    assert_eq!((&told["state"], &told["reason"]), (&json!("dead"), &json!("exhausted")));
    let attempt = &told["history"][0];
    assert_eq!(
        (&attempt["outcome"], &attempt["took_us"], &attempt["status"], &attempt["node"]),
        (&json!("server_error"), &json!(1_234), &json!(500), &json!("dispatcher-1"))
    );
    assert!(told.get("event").is_none());
    let whole = format!("{target}?body=true");
    let viewer = api.token(Role::Viewer, None).await;
    api.ask("GET", &whole).bearer(&viewer).send().await.refuses(403, "FORBIDDEN");
    let operator = api.token(Role::Operator, None).await;
    let before = api.audit().await.len();
    let told = api.ask("GET", &whole).bearer(&operator).send().await.is(200).json();
    assert_eq!(told["event"]["data"], json!({ "name": "of acme" }));
    let audit = api.audit().await;
    assert_eq!(audit.len(), before + 1, "who looked is in the audit");
    assert_eq!(audit[0].action, "deliveries.get");
    assert_eq!(audit[0].tenant, Some("acme".into()));
    for id in ["dlv_999", "dlv_", "4711", "dlv_-1"] {
        let told = api.ask("GET", &format!("/v1/deliveries/{id}")).send().await;
        told.refuses(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn what_receivers_answered_is_told_to_who_operates_as_they_may_repeat_the_event() {
    let api = webhooks().await;
    let unreached = Next::Due(Clock::system().now());
    settle(&api, "3", Outcome::Unreachable, unreached).await;
    for (role, tenant, answered) in [
        (Role::Viewer, None, false),
        (Role::Viewer, Some("acme"), false),
        (Role::Publisher, None, false),
        (Role::Operator, None, true),
        (Role::Operator, Some("acme"), true),
        (Role::Admin, None, true),
    ] {
        let token = api.token(role, tenant).await;
        // What is said where there was no answer is the gateway's own.
        for (id, is_told) in [("2", answered), ("3", true)] {
            let target = format!("/v1/deliveries/{}", delivery_id(number(&api, id).await));
            let told = api.ask("GET", &target).bearer(&token).send().await.is(200).json();
            let excerpt = told["history"][0].get("excerpt");
            assert_eq!(excerpt.is_some(), is_told, "{id} to {role:?} of {tenant:?}: {told}");
        }
    }
}

#[tokio::test]
async fn a_dead_letter_is_retried_or_discarded_and_both_are_audited() {
    let api = webhooks().await;
    let letters = async || {
        let told = api.ask("GET", "/v1/dead_letters").send().await.is(200).json();
        events(&told)
    };
    assert_eq!(letters().await, "2");
    let id = delivery_id(number(&api, "2").await);
    let retry = async |key: &str| {
        let ask = api.ask("POST", &format!("/v1/deliveries/{id}:retry"));
        ask.header("idempotency-key", key).json(&json!({})).send().await
    };
    let told = retry("one").await.is(200);
    assert_eq!(told.json()["state"], "pending");
    assert_eq!(state(&api, "2").await, (DeliveryState::Pending, None));
    assert_eq!(letters().await, "");
    let entry = &api.audit().await[0];
    assert_eq!((&*entry.action, &entry.difference["delivery"]), ("deliveries.retry", &json!(id)));
    assert_eq!(entry.difference["before"]["reason"], "exhausted");
    // A repeat is not done again, whatever became of it meanwhile.
    let dead = Next::Dead { reason: Reason::Exhausted, blocks: false };
    settle(&api, "2", Outcome::ServerError, dead).await;
    let again = retry("one").await.is(200);
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &told.text));
    assert_eq!(letters().await, "2");
    let discard = async || {
        let ask = api.ask("POST", &format!("/v1/deliveries/{id}:discard"));
        ask.json(&json!({})).send().await
    };
    assert_eq!(discard().await.is(200).json()["reason"], "discarded");
    assert_eq!(state(&api, "2").await, (DeliveryState::Dead, Some(Reason::Discarded)));
    assert_eq!(letters().await, "", "what was discarded is closed");
    assert_eq!(api.audit().await[0].action, "deliveries.discard");
    assert_eq!(discard().await.refuses(409, "CONFLICT"), json!({ "state": "dead" }));
    retry("two").await.is(200);
    let delivered = delivery_id(number(&api, "1").await);
    for verb in ["retry", "discard"] {
        let ask = api.ask("POST", &format!("/v1/deliveries/{delivered}:{verb}"));
        ask.json(&json!({})).send().await.refuses(409, "CONFLICT");
    }
}

#[tokio::test]
async fn what_would_only_be_parked_is_not_retried() {
    let api = webhooks().await;
    let id = delivery_id(number(&api, "2").await);
    let retry = async || {
        let ask = api.ask("POST", &format!("/v1/deliveries/{id}:retry"));
        ask.json(&json!({})).send().await
    };
    let ping = async || {
        let ask = api.ask("POST", "/v1/endpoints/acme-hook:ping");
        ask.json(&json!({})).send().await
    };
    let patch = async |body: Value| {
        let ask = api.ask("PATCH", "/v1/endpoints/acme-hook").header("if-match", "*");
        ask.json(&body).send().await.is(200);
    };
    let enable = async || {
        let ask = api.ask("POST", "/v1/endpoints/acme-hook:enable");
        ask.json(&json!({})).send().await
    };
    disable(&api).await;
    for told in [retry().await, ping().await] {
        assert!(told.text.contains(":enable"), "{}", told.text);
        told.refuses(409, "CONFLICT");
    }
    enable().await.is(200);
    patch(json!({ "state": "disabled" })).await;
    for told in [retry().await, ping().await, enable().await] {
        assert!(told.text.contains("document"), "{}", told.text);
        told.refuses(409, "CONFLICT");
    }
    patch(json!({ "state": "enabled" })).await;
    retry().await.is(200);
    let delete = api.ask("DELETE", "/v1/endpoints/acme-hook").header("if-match", "*");
    delete.send().await.is(200);
    settle(&api, "2", Outcome::Gone, Next::Parked(Reason::Removed)).await;
    assert!(retry().await.text.contains("no longer in the document"));
    ping().await.refuses(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_ping_is_an_event_for_its_endpoint_alone() {
    let api = webhooks().await;
    let ping = async |key: &str| {
        let ask = api.ask("POST", "/v1/endpoints/acme-hook:ping");
        ask.header("idempotency-key", key).json(&json!({})).send().await.is(200)
    };
    let told = ping("one").await.json();
    let again = ping("one").await;
    assert_eq!((again.header("idempotency-replayed"), again.json()), ("true", told.clone()));
    assert_ne!(ping("two").await.json(), told);
    let target = format!("/v1/deliveries/{}?body=true", told["delivery"].as_str().unwrap());
    let delivery = api.ask("GET", &target).send().await.is(200).json();
    assert_eq!(delivery["webhook_id"], told["webhook_id"]);
    assert_eq!(delivery["type"], PING);
    assert_eq!(
        (&delivery["endpoint"], &delivery["state"]),
        (&json!("acme-hook"), &json!("pending"))
    );
    let event = &delivery["event"];
    assert_eq!((&event["tenant"], &event["specversion"]), (&json!("acme"), &json!("1.0")));
    let audit = api.audit().await;
    let entry = audit.iter().find(|entry| entry.action == "endpoints.ping").unwrap();
    assert_eq!(entry.tenant, Some("acme".into()));
    let told = api.ask("POST", "/v1/endpoints/nobody:ping").json(&json!({})).send().await;
    told.refuses(404, "NOT_FOUND");
}

#[tokio::test]
async fn how_an_endpoint_stands_is_shown_beside_what_the_document_says() {
    let api = webhooks().await;
    let (before, tag) = api.read("/v1/endpoints/acme-hook").await;
    assert!(before.get("standing").is_none(), "{before}");
    disable(&api).await;
    let (shown, same) = api.read("/v1/endpoints/acme-hook").await;
    assert_eq!(shown["standing"]["disabled"]["reason"], "gone");
    assert_eq!(tag, same, "the tag is of what the document says");
    let listed = api.ask("GET", "/v1/endpoints").send().await.is(200).json();
    assert_eq!(listed["items"][0]["standing"], shown["standing"]);
    assert!(listed["items"][1].get("standing").is_none());
    // What was read may be put again as it is.
    let put = api.ask("PUT", "/v1/endpoints/acme-hook").header("if-match", tag).json(&shown);
    assert_eq!(put.send().await.is(200).json()["revision"], 1);
}

#[tokio::test]
async fn an_endpoint_is_enabled_and_what_was_parked_is_taken_up_unless_it_is_left() {
    for (query, expected) in
        [("", DeliveryState::Pending), ("?recover=false", DeliveryState::Parked)]
    {
        let api = webhooks().await;
        disable(&api).await;
        assert_eq!(state(&api, "3").await, (DeliveryState::Parked, Some(Reason::Gone)));
        let ask = api.ask("POST", &format!("/v1/endpoints/acme-hook:enable{query}"));
        let told = ask.json(&json!({})).send().await.is(200).json();
        assert_eq!(told, json!({ "endpoint": "acme-hook", "recovers": query.is_empty() }));
        assert_eq!(state(&api, "3").await.0, expected, "{query}");
        let (shown, _) = api.read("/v1/endpoints/acme-hook").await;
        assert!(shown["standing"].get("disabled").is_none(), "{shown}");
        let entry = &api.audit().await[0];
        assert_eq!(
            (&*entry.action, &entry.difference),
            ("endpoints.enable", &json!({ "recovers": query.is_empty() }))
        );
    }
}

#[tokio::test]
async fn a_secret_is_rotated_shown_once_and_the_old_one_signs_until_its_end() {
    let api = webhooks().await;
    let rotate = async |key: &str, body: Value| {
        let ask = api.ask("POST", "/v1/endpoints/acme-hook:rotate-secret");
        ask.header("idempotency-key", key).json(&body).send().await
    };
    let told = rotate("one", json!({ "grace": "1h" })).await.is(200);
    let (first, until) = (told.json()["secret"].clone(), told.json()["previous_until"].clone());
    assert!(first.as_str().unwrap().starts_with("whsec_"));
    assert_eq!(told.json()["revision"], 2);
    let again = rotate("one", json!({ "grace": "1h" })).await.is(200);
    assert_eq!(again.json()["secret"], first, "a repeat gets the same");
    let (endpoint, _) = api.read("/v1/endpoints/acme-hook").await;
    assert_eq!(
        endpoint["previous_secrets"],
        json!([{ "secret": { "env": "TOLLGATE_SECRET_HOOK" }, "until": until }])
    );
    assert!(endpoint["secret"]["sealed"].as_str().unwrap().starts_with("tg1."));
    rotate("two", json!({ "grace": "200h" })).await.refuses(422, "CONFIG_INVALID");
    rotate("three", json!({ "grace": "0s" })).await.is(200);
    let (endpoint, _) = api.read("/v1/endpoints/acme-hook").await;
    assert_eq!(endpoint["previous_secrets"].as_array().unwrap().len(), 1, "the second is over");
    // Those that are over go.
    api.clock.advance(Duration::from_secs(2 * 3600));
    rotate("four", json!({})).await.is(200);
    let (endpoint, _) = api.read("/v1/endpoints/acme-hook").await;
    let previous = endpoint["previous_secrets"].as_array().unwrap();
    assert_eq!(previous.len(), 1);
    assert!(previous[0]["secret"].get("sealed").is_some());
    for many in 0..9 {
        rotate(&format!("many-{many}"), json!({})).await.is(200);
    }
    rotate("eleven", json!({})).await.refuses(409, "CONFLICT");
    let audit = serde_json::to_string(&api.audit().await).unwrap();
    assert!(!audit.contains("whsec_"), "no secret is in the audit");
    let tried = api.ask("POST", "/v1/endpoints/globex-hook:rotate-secret?dry_run=true");
    let tried = tried.json(&json!({})).send().await.is(200);
    assert!(!tried.text.contains("whsec_"), "a try shows no secret: {}", tried.text);
}

#[tokio::test]
async fn every_secret_of_an_endpoint_and_a_source_is_sealed() {
    const CANARY: &str = "canary-9f1c66-do-not-show";
    let api = webhooks().await;
    let plain = || json!({ "value": CANARY });
    let until = "2027-01-01T00:00:00Z";
    let mut hook = endpoint("e", "acme");
    hook["secret"] = plain();
    hook["previous_secrets"] = json!([{ "secret": plain(), "until": until }]);
    hook["signing_key"] = plain();
    hook["authorization"] = json!({ "oauth2": { "token_url": "https://idp.acme.example/token",
        "client_id": "c", "client_secret": plain() } });
    let put = api.ask("PUT", "/v1/endpoints/e").header("if-none-match", "*").json(&hook);
    let mut answers = vec![put.send().await.is(201).text];
    hook["authorization"] = json!({ "header": { "name": "X-Key", "secret": plain() } });
    let put = api.ask("PUT", "/v1/endpoints/e").header("if-match", "*").json(&hook);
    answers.push(put.send().await.is(200).text);
    let source = json!({ "id": "s", "tenant": "acme", "verify": "acme_hmac", "secret": plain(),
        "previous_secret": plain() });
    let put = api.ask("PUT", "/v1/sources/s").header("if-none-match", "*").json(&source);
    answers.push(put.send().await.is(201).text);
    let bare = json!({ "signing_key": CANARY, "previous_secrets": [{ "secret": CANARY, "until": until }] });
    let patch = api.ask("PATCH", "/v1/endpoints/e").header("if-match", "*").json(&bare);
    answers.push(patch.send().await.is(422).text);
    answers.push(api.document().await.to_string());
    answers.push(serde_json::to_string(&api.audit().await).unwrap());
    for answer in answers {
        assert!(!answer.contains(CANARY), "{answer}");
    }
    let sealed = api.document().await.to_string().matches("tg1.").count();
    assert_eq!(sealed, 6);
    let api = api.restarted(&['2', '1']);
    let rekey = api.ask("POST", "/v1/secrets:rekey").json(&json!({})).send().await.is(200);
    assert_eq!(rekey.json()["resealed"], 6, "all of them are found again");
    // What a schema calls a secret is none.
    let schema = json!({ "type": "object", "properties": { "secret": { "type": "string" } } });
    let body = json!({ "schema": schema });
    let put = api.ask("PUT", "/v1/event_types/contact.created").header("if-none-match", "*");
    put.json(&body).send().await.is(201);
}

fn window(api: &Api) -> Value {
    let hour = SignedDuration::from_hours(1);
    let now = api.clock.now();
    json!({ "tenant": "acme", "since": now - hour, "until": now + hour })
}

#[tokio::test]
async fn a_replay_is_counted_started_told_and_cancelled() {
    let api = webhooks().await;
    let post = async |path: &str, body: &Value| {
        let key = format!("\"{path}\"");
        api.ask("POST", path).header("idempotency-key", key).json(body).send().await
    };
    let counted = post("/v1/webhook_replays?dry_run=true", &window(&api)).await.is(200);
    assert_eq!(counted.json(), json!({ "events": 3, "queue": 1, "skip": 2 }));
    let mut forced = window(&api);
    forced["dedupe"] = json!("force");
    let counted = api.ask("POST", "/v1/webhook_replays?dry_run=true").json(&forced).send().await;
    assert_eq!(counted.is(200).json(), json!({ "events": 3, "queue": 2, "skip": 1 }));
    assert_eq!(api.ask("GET", "/v1/webhook_replays").send().await.json()["items"], json!([]));
    let window = window(&api);
    let made = post("/v1/webhook_replays", &window).await.is(201);
    let replay = made.json();
    let target = format!("/v1/webhook_replays/{}", replay["id"].as_str().unwrap());
    assert_eq!(made.header("location"), target);
    assert_eq!((&replay["state"], &replay["counted"]), (&json!("running"), &json!(1)));
    let again = post("/v1/webhook_replays", &window).await.is(201);
    assert_eq!(again.json(), replay, "a repeat starts no other one");
    let listed = api.ask("GET", "/v1/webhook_replays").send().await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.audit().await[0].action, "webhook_replays.create");
    let cancel = format!("{target}:cancel");
    assert_eq!(post(&cancel, &json!({})).await.is(200).json()["state"], "cancelled");
    let told = api.ask("GET", &target).send().await.is(200).json();
    assert_eq!(told["state"], "cancelled");
    assert_eq!(api.audit().await[0].action, "webhook_replays.cancel");
    let ask = api.ask("POST", &cancel).json(&json!({}));
    assert_eq!(ask.send().await.refuses(409, "CONFLICT"), json!({ "state": "cancelled" }));
    api.ask("GET", "/v1/webhook_replays/nothing").send().await.refuses(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_replay_that_makes_no_sense_is_refused_with_every_pointer() {
    let api = webhooks().await;
    let (since, until) = (window(&api)["since"].clone(), window(&api)["until"].clone());
    let far = api.clock.now() + SignedDuration::from_hours(32 * 24);
    for (field, value, pointer) in [
        ("tenant", json!("nobody"), "/tenant"),
        ("endpoint", json!("globex-hook"), "/endpoint"),
        ("endpoint", json!("nothing"), "/endpoint"),
        ("until", since.clone(), "/until"),
        ("until", json!(far), "/until"),
        ("since", until.clone(), "/since"),
        ("types", json!([""]), "/types/0"),
        ("rate", json!(0), "/rate"),
        ("dedupe", json!("maybe"), "/dedupe"),
        ("since", json!("yesterday"), "/since"),
        ("more", json!(1), "/more"),
    ] {
        let mut body = window(&api);
        body[field] = value;
        let told = api.ask("POST", "/v1/webhook_replays").json(&body).send().await;
        let details = told.refuses(422, "CONFIG_INVALID");
        let found = details["errors"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|error| error["pointer"].as_str().unwrap()).collect();
        assert!(found.contains(&pointer), "{field}: {found:?}");
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_sees_and_changes_what_is_its_own() {
    let api = webhooks().await;
    let token = api.token(Role::Operator, Some("globex")).await;
    let get = async |target: &str| api.ask("GET", target).bearer(&token).send().await;
    let post = async |target: &str, body: &Value| {
        api.ask("POST", target).bearer(&token).json(body).send().await
    };
    assert_eq!(events(&get("/v1/deliveries").await.is(200).json()), "4");
    assert_eq!(events(&get("/v1/deliveries?tenant=acme").await.is(200).json()), "");
    assert_eq!(events(&get("/v1/dead_letters").await.is(200).json()), "");
    let acmes = delivery_id(number(&api, "2").await);
    get(&format!("/v1/deliveries/{acmes}")).await.refuses(404, "NOT_FOUND");
    let empty = json!({});
    for target in [
        format!("/v1/deliveries/{acmes}:retry"),
        format!("/v1/deliveries/{acmes}:discard"),
        "/v1/endpoints/acme-hook:ping".to_owned(),
        "/v1/endpoints/acme-hook:enable".to_owned(),
        "/v1/endpoints/acme-hook:rotate-secret".to_owned(),
    ] {
        post(&target, &empty).await.refuses(404, "NOT_FOUND");
        assert!(api.audit().await[0].refused.is_some(), "{target} is audited as a refusal");
    }
    let told = post("/v1/webhook_replays", &window(&api)).await;
    told.refuses(422, "CONFIG_INVALID");
    let made = api.ask("POST", "/v1/webhook_replays").json(&window(&api)).send().await.is(201);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    get(&format!("/v1/webhook_replays/{id}")).await.refuses(404, "NOT_FOUND");
    let told = post(&format!("/v1/webhook_replays/{id}:cancel"), &empty).await;
    told.refuses(404, "NOT_FOUND");
    assert_eq!(get("/v1/webhook_replays").await.is(200).json()["items"], json!([]));
    // Its own.
    post("/v1/endpoints/globex-hook:ping", &empty).await.is(200);
    post("/v1/endpoints/globex-hook:rotate-secret", &empty).await.is(200);
    let mut own = window(&api);
    own["tenant"] = json!("globex");
    post("/v1/webhook_replays", &own).await.is(201);
    let of_globex = get("/v1/deliveries").await.json();
    let first = of_globex["items"][0]["id"].as_str().unwrap().to_owned();
    let shown = get(&format!("/v1/deliveries/{first}")).await.is(200);
    assert!(!shown.text.contains("dispatcher-1"), "no node is named to it");
}

#[tokio::test]
async fn each_role_may_what_its_row_says() {
    let api = webhooks().await;
    let dead = delivery_id(number(&api, "2").await);
    let targets = [
        ("GET", "/v1/deliveries".to_owned()),
        ("GET", "/v1/dead_letters".to_owned()),
        ("GET", "/v1/webhook_replays".to_owned()),
        ("POST", format!("/v1/deliveries/{dead}:retry")),
        ("POST", format!("/v1/deliveries/{dead}:discard")),
        ("POST", "/v1/webhook_replays?dry_run=true".to_owned()),
        ("POST", "/v1/endpoints/acme-hook:ping".to_owned()),
        ("POST", "/v1/endpoints/acme-hook:enable".to_owned()),
        ("POST", "/v1/endpoints/acme-hook:rotate-secret?dry_run=true".to_owned()),
    ];
    for (role, row) in [
        (Role::Viewer, "yyy......"),
        (Role::Operator, "yyyyyyyyy"),
        (Role::Publisher, "yyy......"),
        (Role::Producer, "........."),
        (Role::Admin, "yyyyyyyyy"),
    ] {
        let token = api.token(role, None).await;
        for ((method, target), cell) in targets.iter().zip(row.chars()) {
            let body = if target.contains("replays") { window(&api) } else { json!({}) };
            let ask = api.ask(method, target).bearer(&token);
            let ask = if *method == "POST" { ask.json(&body) } else { ask };
            let told = ask.send().await;
            let refused = told.status == 403;
            assert_eq!(!refused, cell == 'y', "{role:?} {method} {target}: {}", told.text);
        }
    }
}

#[tokio::test]
async fn tenants_with_endpoints_are_told_when_the_document_says_something_else_of_a_version() {
    let api = webhooks().await;
    let change =
        |target: &str, body: Value| api.ask("PATCH", target).header("if-match", "*").json(&body);
    let version = "/v1/services/contacts/versions/v1";
    // No version is in it.
    change("/v1/tenants/acme", json!({ "billing_day": 2 })).send().await.is(200);
    let when = json!({ "state": "deprecated", "deprecated_at": "2026-12-01T00:00:00Z" });
    change(version, when.clone()).send().await.is(200);
    let told = api.store.outbox(0, 100).await.unwrap();
    let told: Vec<Event> = told.into_iter().map(|told| told.event).collect();
    let whom: Vec<_> = told.iter().map(|event| event.tenant.clone().unwrap()).collect();
    assert_eq!(whom, ["acme".into(), "globex".into()]);
    for event in told {
        assert_eq!((event.r#type.as_str(), event.subject.as_str()), (VERSION_CHANGED, version));
        assert_eq!(event.data["after"]["deprecated_at"], when["deprecated_at"]);
        assert_eq!(event.data["before"]["deprecated_at"], "2026-06-01T00:00:00Z");
    }
}
