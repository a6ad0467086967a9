//! `tollgate webhooks`, and the gateway's `/.tollgate/endpoints/{id}/events`, as operators and receivers use them.

use crate::harness::events::{Producer, event, event_of};
use crate::harness::process::tollgate;
use crate::harness::sink::{SECRET, SECRET_NAME, Sink, Told};
use crate::harness::{Demo, eventually, hoped};
use http::Method;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

/// A demo with an endpoint of acme's beside its own, which is pushed to `pushed` of a sink.
async fn demo() -> (Demo, Sink) {
    let demo = Demo::start_with(&[(SECRET_NAME, SECRET)]).await;
    let sink = Sink::start().await;
    let hook = json!({ "tenant": "acme", "url": sink.url("pushed"), "events": ["order.*"],
        "secret": { "env": SECRET_NAME }, "schedule": ["1h"] });
    let put = demo.administers(Method::PUT, "/v1/endpoints/hook").header("if-none-match", "*");
    put.json(&hook).send().await.is(201);
    (demo, sink)
}

fn producer(demo: &Demo) -> Producer {
    Producer { to: demo.admin.clone(), token: demo.value("ADMIN_TOKEN").to_owned() }
}

/// The command as an operator gives it.
fn operates(demo: &Demo, arguments: &[&str]) -> Output {
    let mut command = tollgate();
    command.arg("webhooks").args(arguments);
    for name in ["TOLLGATE_ADMIN_URL", "TOLLGATE_ADMIN_TOKEN"] {
        command.env(name, demo.value(name));
    }
    command.output().unwrap()
}

/// The command as a receiver gives it.
fn listens(gateway: &str, credential: &str, secret: &str, arguments: &[&str]) -> Command {
    let mut command = tollgate();
    command.args(["webhooks", "listen", "hook", "--gateway-url", gateway]).args(arguments);
    command.env("TOLLGATE_CREDENTIAL", credential).env("TOLLGATE_WEBHOOK_SECRET", secret);
    command
}

#[track_caller]
fn ends_with(output: &Output, code: i32) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{printed}");
    printed
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_can_be_pulled_and_forwarded_with_the_same_id_and_a_signature_that_holds() {
    let (demo, sink) = demo().await;
    let sent = [
        event("1", "order.paid", "a"),
        event("2", "invoice.paid", "b"),
        event("3", "order.sent", "a"),
        event_of("globex", "4", "order.paid", "c"),
    ];
    producer(&demo).sends(&sent).await;
    sink.has("pushed", 2).await;
    let (gateway, forward) = (demo.value("GATEWAY_URL").to_owned(), sink.url("forwarded"));
    let arguments = ["--from", "0", "--count", "2", "--json", "--forward-to", &forward];
    for credential in ["ACME_KEY", "ACME_JWT"] {
        let output = listens(&gateway, demo.value(credential), SECRET, &arguments).output();
        let output = output.unwrap();
        ends_with(&output, 0);
        let told = lines(&output);
        let ids: Vec<_> = told.iter().map(|told| &told["body"]["id"]).collect();
        assert_eq!(ids, ["1", "3"]);
        assert!(told.iter().all(|told| told["verified"] == true), "{told:?}");
        assert_eq!(told[0]["forwarded"]["status"], 204);
    }
    assert_eq!(sink.count("forwarded"), 4);
    sink.every_arrival_is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_its_signature_is_shown_and_not_forwarded() {
    let (demo, sink) = demo().await;
    producer(&demo).sends(&[event("1", "order.paid", "a")]).await;
    sink.has("pushed", 1).await;
    let gateway = demo.value("GATEWAY_URL").to_owned();
    let forward = sink.url("forwarded");
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let arguments = ["--from", "0", "--count", "1", "--forward-to", &forward];
    let output = listens(&gateway, demo.value("ACME_KEY"), other, &arguments).output().unwrap();
    assert!(ends_with(&output, 1).contains("NOT VERIFIED"));
    assert_eq!(sink.count("forwarded"), 0);
    // A receiver that refuses ends it so, too.
    sink.at("forwarded", |_| Told::answers(500));
    let output = listens(&gateway, demo.value("ACME_KEY"), SECRET, &arguments).output().unwrap();
    let printed = ends_with(&output, 1);
    assert!(printed.contains("order.paid  verified") && printed.contains("→ 500"), "{printed}");
    for (credential, secret, code, said) in [
        (demo.value("GLOBEX_KEY"), SECRET, 1, "NOT_FOUND"),
        ("tg_live_nobody", SECRET, 1, "CREDENTIAL_INVALID"),
        (demo.value("ACME_KEY"), "hunter2", 2, "whsec_"),
        ("", SECRET, 2, "--credential-file"),
    ] {
        let output = listens(&gateway, credential, secret, &arguments).output().unwrap();
        let printed = ends_with(&output, code);
        assert!(printed.contains(said), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_polled_by_their_tenant_alone_and_not_charged() {
    let (demo, sink) = demo().await;
    producer(&demo).sends(&[event("1", "order.paid", "a"), event("2", "order.paid", "a")]).await;
    sink.has("pushed", 2).await;
    let events = "/.tollgate/endpoints/hook/events";
    let usage =
        async || demo.get("/.tollgate/usage").key(demo.value("ACME_KEY")).send().await.json();
    let before = usage().await;
    let first = demo.get(&format!("{events}?limit=1")).key(demo.value("ACME_KEY")).send().await;
    assert_eq!(first.header("cache-control"), "no-store");
    let first = first.is(200).json();
    assert_eq!(first["items"].as_array().unwrap().len(), 1);
    let next = first["next_cursor"].as_str().unwrap();
    let path = format!("{events}?cursor={next}");
    let second = demo.get(&path).bearer(demo.value("ACME_JWT")).send().await.is(200).json();
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(usage().await, before);
    demo.get(events).send().await.is(401);
    for path in [events, "/.tollgate/endpoints/nobody/events"] {
        demo.get(path).key(demo.value("GLOBEX_KEY")).send().await.is(404);
    }
    let odd = demo.get(&format!("{events}?limit=0")).key(demo.value("ACME_KEY")).send().await;
    assert_eq!(odd.is(400).json()["code"], "VALIDATION_FAILED");
    // A question that waits is answered by what comes.
    let end = second["next_cursor"].as_str().unwrap();
    let path = format!("{events}?cursor={end}&wait=20");
    let question = demo.get(&path).key(demo.value("ACME_KEY"));
    let waiting = tokio::spawn(async move { question.send().await });
    producer(&demo).sends(&[event("3", "order.paid", "a")]).await;
    let told = waiting.await.unwrap().is(200).json();
    assert_eq!(told["items"].as_array().unwrap().len(), 1, "{told}");
}

/// A gateway as bad as they come: each connection gets the next of these answers, or none.
fn flapping(answers: Vec<Option<String>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let asked = answers.into_iter().map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            lines.read_line(&mut first).unwrap();
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            first
        });
        asked.collect()
    });
    (url, serving)
}

fn answer(status: u16, body: &Value) -> Option<String> {
    let body = body.to_string();
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status} Told\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

#[test]
fn an_outage_ends_nothing_and_loses_nothing() {
    let item = json!({ "cursor": "8", "headers": { "webhook-id": "evt_1" }, "body": "{\"type\":\"a.b\"}" });
    let (url, serving) = flapping(vec![
        None,
        answer(503, &json!({ "code": "OVERLOADED", "message": "Later." })),
        answer(200, &json!({ "items": [], "next_cursor": "7" })),
        answer(502, &json!(null)),
        answer(200, &json!({ "items": [item], "next_cursor": "8" })),
    ]);
    let mut command = listens(&url, "tg_live_x", "", &["--count", "1"]);
    let output = command.output().unwrap();
    let printed = ends_with(&output, 0);
    assert!(printed.contains("8  evt_1  a.b  not verified"), "{printed}");
    assert!(printed.contains("OVERLOADED: Later.; trying again"), "{printed}");
    let asked = serving.join().unwrap();
    let asked = asked.iter().map(|line| {
        let query = line.split(['?', ' ']).nth(2).unwrap().to_owned();
        query.replace("&limit=50", "")
    });
    let expected = [
        "cursor=latest&wait=0",
        "cursor=latest&wait=0",
        "cursor=latest&wait=0",
        "cursor=7&wait=20",
        "cursor=7&wait=20",
    ];
    assert_eq!(asked.collect::<Vec<_>>(), expected);
}

/// The deliveries to acme's endpoint in a state, as the command tells them.
fn deliveries(demo: &Demo, state: &str) -> Vec<Value> {
    let arguments = ["deliveries", "--endpoint", "hook", "--state", state, "--json"];
    let output = operates(demo, &arguments);
    ends_with(&output, 0);
    lines(&output)[0].as_array().unwrap().clone()
}

/// The id of the delivery whose first attempt failed; the next one is an hour away.
async fn failed(demo: &Demo) -> String {
    let failed = eventually("the attempt is in the ledger", async || {
        let pending = deliveries(demo, "pending");
        let failed = pending.iter().find(|delivery| delivery["attempts"] == 1).cloned();
        failed.ok_or(pending)
    });
    failed.await["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_lists_shows_retries_and_discards_deliveries() {
    let (demo, sink) = demo().await;
    let listed = ends_with(&operates(&demo, &["endpoints"]), 0);
    assert!(listed.contains("hook") && listed.contains("enabled"), "{listed}");
    sink.at("pushed", |_| Told::answers(500));
    producer(&demo).sends(&[event("1", "order.paid", "a")]).await;
    sink.has("pushed", 1).await;
    let id = failed(&demo).await;
    let shown = ends_with(&operates(&demo, &["show", &id, "--body"]), 0);
    assert!(shown.contains("server_error") && shown.contains("\"of\": \"a\""), "{shown}");
    sink.at("pushed", |_| Told::takes());
    ends_with(&operates(&demo, &["retry", &id]), 0);
    sink.has("pushed", 2).await;
    eventually("it is delivered", async || hoped(deliveries(&demo, "delivered").len(), &1)).await;
    assert!(ends_with(&operates(&demo, &["retry", &id]), 1).contains("CONFLICT"));
    ends_with(&operates(&demo, &["show", "4711"]), 2);
    // What nobody needs any more is discarded, and is no dead letter then.
    sink.at("pushed", |_| Told::answers(500));
    producer(&demo).sends(&[event("2", "order.lost", "b")]).await;
    sink.has("pushed", 3).await;
    ends_with(&operates(&demo, &["discard", &failed(&demo).await]), 0);
    assert_eq!(deliveries(&demo, "dead").len(), 1);
    let letters = ends_with(&operates(&demo, &["deliveries", "--dead-letters"]), 0);
    assert!(letters.contains("there are no such deliveries"), "{letters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_skips_what_was_delivered_unless_it_is_forced_and_plans_what_was_never_planned() {
    let (demo, sink) = demo().await;
    producer(&demo).sends(&[event("1", "order.paid", "a")]).await;
    sink.has("pushed", 1).await;
    eventually("it is delivered", async || hoped(deliveries(&demo, "delivered").len(), &1)).await;
    let since = (model::Clock::system().now() - Duration::from_secs(3600)).to_string();
    let until = model::Clock::system().now().to_string();
    let replay = |endpoint: &str, further: &[&str]| {
        let mut arguments = vec!["replay", "--tenant", "acme", "--endpoint", endpoint];
        arguments.extend(["--since", &since, "--until", &until].iter().chain(further));
        operates(&demo, &arguments)
    };
    let counted = ends_with(&replay("hook", &["--dry-run"]), 0);
    assert!(counted.contains("0 deliveries to queue, 1 to skip"), "{counted}");
    ends_with(&replay("hook", &[]), 2);
    let done = ends_with(&replay("hook", &["--yes", "--follow"]), 0);
    assert!(done.contains("is done: 0 of 0 queued, 1 skipped"), "{done}");
    assert_eq!(sink.count("pushed"), 1);
    let done = ends_with(&replay("hook", &["--yes", "--follow", "--force"]), 0);
    assert!(done.contains("is done: 1 of 1 queued, 0 skipped"), "{done}");
    let arrived = sink.has("pushed", 2).await;
    assert_eq!(arrived[1].webhook_id, arrived[0].webhook_id, "under the same id");
    let done = ends_with(&replay("hook", &["--yes", "--follow", "--force", "--type", "b.*"]), 0);
    assert!(done.contains("is done: 0 of 0 queued, 0 skipped"), "{done}");
    let late = json!({ "tenant": "acme", "url": sink.url("late"), "events": ["*"],
        "secret": { "env": SECRET_NAME } });
    let put = demo.administers(Method::PUT, "/v1/endpoints/late").header("if-none-match", "*");
    put.json(&late).send().await.is(201);
    ends_with(&replay("late", &["--yes", "--follow"]), 0);
    assert_eq!(sink.has("late", 1).await[0].webhook_id, arrived[0].webhook_id);
    ends_with(&replay("nobody", &["--yes"]), 1);
    sink.every_arrival_is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_reaches_its_endpoint_alone_and_says_what_became_of_it() {
    let (demo, sink) = demo().await;
    let told = ends_with(&operates(&demo, &["ping", "hook"]), 0);
    assert!(told.contains("tollgate.ping") && told.contains("delivered"), "{told}");
    assert_eq!(sink.count("pushed"), 1);
    sink.at("pushed", |_| Told::answers(500));
    let told = ends_with(&operates(&demo, &["ping", "hook"]), 1);
    assert!(told.contains("server_error"), "{told}");
    assert!(ends_with(&operates(&demo, &["ping", "nobody"]), 1).contains("NOT_FOUND"));
    ends_with(&operates(&demo, &["ping", "no/body"]), 2);
    let deliveries =
        demo.administers(Method::GET, "/v1/deliveries?type=tollgate.ping").send().await;
    let deliveries = deliveries.is(200).json();
    let endpoints = deliveries["items"].as_array().unwrap().iter();
    let endpoints: Vec<_> = endpoints.map(|delivery| &delivery["endpoint"]).collect();
    assert_eq!(endpoints, ["hook", "hook"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_nothing_may_be_sent_to_is_refused_where_it_stands() {
    let (demo, _sink) = demo().await;
    for (url, status) in [
        ("https://hooks.example.com/crm", 201),
        ("https://10.0.0.1/crm", 422),
        ("https://169.254.169.254/latest", 422),
        ("https://[::ffff:10.0.0.1]/crm", 422),
        ("https://0x0a.1/crm", 422),
        ("http://192.0.66.1/crm", 422),
    ] {
        let hook = json!({ "tenant": "acme", "url": url, "events": ["*"], "secret": { "env": SECRET_NAME } });
        let put = demo.administers(Method::PUT, "/v1/endpoints/other").header("if-none-match", "*");
        let told = put.json(&hook).send().await;
        told.is(status);
        if status == 422 {
            assert_eq!(told.json()["details"]["errors"][0]["pointer"], "/url", "{url}");
        }
        if status == 201 {
            let delete = demo.administers(Method::DELETE, "/v1/endpoints/other");
            delete.header("if-match", "*").send().await.is(200);
        }
    }
}
