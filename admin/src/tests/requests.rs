//! What surrounds every request: ids, bodies, media types, what isn't there.

use super::api::Api;
use crate::document::DOCUMENTS_MAX;
use crate::request::REQUESTS_MAX;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn every_answer_names_its_request() {
    let api = Api::new().await;
    let kept = "order-12345";
    for (target, status) in [("/v1/plans", 200), ("/v1/nothing", 404), ("/openapi.json", 200)] {
        let told = api.ask("GET", target).header("x-request-id", kept).send().await.is(status);
        assert_eq!(told.header("x-request-id"), kept);
    }
    for bad in ["short", "has space in it", &"x".repeat(129)] {
        let told = api.ask("GET", "/v1/nothing").header("x-request-id", bad).send().await;
        assert_ne!(told.header("x-request-id"), bad);
        assert_eq!(told.header("x-request-id").len(), 36);
        told.refuses(404, "NOT_FOUND");
    }
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let ask = api.ask("GET", "/v1/nothing");
    let told = ask.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01")).send().await;
    assert_eq!(told.json()["trace_id"], trace);
    let again = api.ask("GET", "/v1/nothing").send().await;
    assert_ne!(again.json()["trace_id"], trace);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_done_have_the_error_body() {
    let api = Api::new().await;
    for target in [
        "/v1/nothing",
        "/nothing",
        "/v1/plans/none",
        "/v1/plans/a%2Fb",
        "/v1/plans/%FF",
        "/v1/packs/x",
    ] {
        api.ask("GET", target).send().await.refuses(404, "NOT_FOUND");
    }
    for (method, target, allowed) in [
        ("DELETE", "/v1/document", "GET,HEAD,PUT"),
        ("POST", "/v1/plans", "GET,HEAD"),
        ("POST", "/v1/plans/gold", "GET,HEAD,PUT,PATCH,DELETE"),
        ("GET", "/v1/secrets:rekey", "POST"),
        ("PUT", "/openapi.json", "GET,HEAD"),
        ("GET", "/v1/consumers/web/credentials/k1:rotate", "POST"),
    ] {
        let told = api.ask(method, target).send().await;
        assert_eq!(told.header("allow"), allowed, "{method} {target}");
        told.refuses(405, "METHOD_NOT_ALLOWED");
    }
    let head = api.ask("HEAD", "/v1/plans/none").send().await.is(404);
    assert_eq!(head.text, "");
}

#[tokio::test]
async fn a_body_must_be_json_of_a_size_and_a_depth() {
    let api = Api::new().await;
    let put = |body: String| {
        api.ask("PUT", "/v1/plans/gold")
            .header("if-match", "*")
            .header("content-type", "application/json")
            .body(body)
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let secret = "{\"limits\": \"hush-hush\" \"";
    for body in ["", "{", "nonsense", "{\"limits\": [}", secret, &deep, "{}{}", "{\"a\": 1e999}"] {
        let told = put(body.to_owned()).send().await;
        assert!(!told.text.contains("hush"), "{}", told.text);
        told.refuses(400, "VALIDATION_FAILED");
    }
    let large = format!("{{\"limits\": [], \"id\": \"{}\"}}", "x".repeat(1 << 20));
    let details = put(large.clone()).send().await.refuses(413, "BODY_TOO_LARGE");
    assert_eq!(details["limit"], 1 << 20);
    // A whole document may be larger.
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    put.body(large).send().await.refuses(422, "CONFIG_INVALID");
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    put.body(vec![b' '; (16 << 20) + 1]).send().await.refuses(413, "BODY_TOO_LARGE");
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let api = Api::new().await;
    let body = json!({ "limits": [] }).to_string();
    for (method, target, kind, status) in [
        ("PUT", "/v1/plans/gold", "application/json", 200),
        ("PUT", "/v1/plans/gold", "application/JSON; charset=utf-8", 200),
        ("PUT", "/v1/plans/gold", "application/merge-patch+json", 400),
        ("PUT", "/v1/plans/gold", "text/html", 400),
        ("PUT", "/v1/plans/gold", "", 400),
        ("PATCH", "/v1/plans/gold", "application/merge-patch+json", 200),
        ("PATCH", "/v1/plans/gold", "application/json", 200),
        ("PATCH", "/v1/plans/gold", "application/json-patch+json", 400),
        ("PATCH", "/v1/plans/gold", "application/x-www-form-urlencoded", 400),
    ] {
        let ask = api.ask(method, target).header("if-match", "*").header("content-type", kind);
        ask.body(body.clone()).send().await.is(status);
    }
    for (kind, status) in [("application/yaml", 200), ("text/plain", 200), ("image/png", 400)] {
        let ask = api.ask("PUT", "/v1/document?dry_run=true").header("content-type", kind);
        ask.body("format: 1").send().await.is(status);
    }
}

/// Waits until so many requests ask for the newest document, which they don't get yet.
async fn waiting(api: &Api, count: usize) {
    let all_wait = async {
        while api.revisions.waiting.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_wait).await.unwrap();
}

#[tokio::test]
async fn no_more_requests_than_there_are_places_are_served_at_once() {
    let api = Api::new().await;
    let closed = api.revisions.gate.write().await;
    let ask = || tokio::spawn(api.ask("GET", "/v1/plans").send());
    let served: Vec<_> = (0..REQUESTS_MAX).map(|_| ask()).collect();
    waiting(&api, REQUESTS_MAX).await;
    let told = api.ask("GET", "/v1/plans").send().await;
    assert_eq!(told.header("retry-after"), "1");
    told.refuses(503, "OVERLOADED");
    // Who watches the process is answered all the same.
    api.stranger("GET", "/openapi.json").send().await.is(200);
    drop(closed);
    for told in served {
        told.await.unwrap().is(200);
    }
    ask().await.unwrap().is(200);
}

#[tokio::test]
async fn whole_documents_wait_for_those_before_them() {
    let api = Api::new().await;
    let closed = api.revisions.gate.write().await;
    let put = || api.ask("PUT", "/v1/document?dry_run=true").json(&super::api::standard());
    let all: Vec<_> = (0..3 * DOCUMENTS_MAX).map(|_| tokio::spawn(put().send())).collect();
    waiting(&api, 1).await;
    drop(closed);
    for told in all {
        told.await.unwrap().is(200);
    }
}

#[tokio::test]
async fn a_change_that_was_begun_is_made_even_when_its_client_has_left() {
    let api = Api::new().await;
    let closed = api.revisions.gate.write().await;
    let patch = api.ask("PATCH", "/v1/tenants/acme").header("if-match", "*");
    let client = tokio::spawn(patch.json(&json!({ "state": "suspended" })).send());
    waiting(&api, 1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    drop(closed);
    let made = async {
        while api.revision().await < 2 {
            // Nobody tells of it: the client has left.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), made).await.unwrap();
    assert_eq!(api.document().await["tenants"][0]["state"], "suspended");
}

#[tokio::test]
async fn a_fault_of_ours_has_the_error_body_and_says_nothing_of_it() {
    let api = Api::new().await;
    *api.revisions.faulty.lock().unwrap() = true;
    let told = api.ask("GET", "/v1/plans").send().await;
    assert!(!told.text.contains("on purpose"), "{}", told.text);
    told.refuses(500, "INTERNAL");
    *api.revisions.faulty.lock().unwrap() = false;
    api.ask("GET", "/v1/plans").send().await.is(200);
}
