//! ETags: who has not seen a resource does not change it.

use super::api::Api;
use serde_json::{Value, json};

const PLAN: &str = "/v1/plans/gold";

fn plan(burst: u32) -> Value {
    json!({ "id": "gold", "limits": [{ "id": "burst", "rate": "5/s", "burst": burst, "per": "tenant", "on_store_error": "local" }] })
}

#[tokio::test]
async fn a_change_needs_a_precondition_that_holds() {
    let api = Api::new().await;
    let (_, tag) = api.read(PLAN).await;
    let list = format!("\"other\", {tag}");
    let weak = format!("W/{tag}");
    let absent = "/v1/plans/absent";
    for (target, name, value, status) in [
        (PLAN, "accept", "*/*", 428),
        (PLAN, "if-match", "\"stale\"", 412),
        (PLAN, "if-match", weak.as_str(), 412),
        (PLAN, "if-match", "", 400),
        (PLAN, "if-match", "unquoted", 400),
        (PLAN, "if-match", "\"a,b\", \"c\"", 412),
        (PLAN, "if-match", "*, \"x\"", 400),
        (PLAN, "if-none-match", "*", 412),
        // Guards against one state only, and says nothing of having seen this one.
        (PLAN, "if-none-match", "\"stale\"", 400),
        (PLAN, "if-none-match", "unquoted", 400),
        (absent, "if-match", "*", 412),
        (absent, "if-match", "\"stale\"", 412),
        (absent, "accept", "*/*", 428),
        (PLAN, "if-match", list.as_str(), 200),
        (PLAN, "if-match", "*", 200),
        (absent, "if-none-match", "*", 201),
        (absent, "if-none-match", "*", 412),
    ] {
        let mut body = plan(u32::from(status));
        body.as_object_mut().unwrap().shift_remove("id");
        let told = api.ask("PUT", target).header(name, value).json(&body).send().await;
        if status == 400 {
            // A dry run says so, too.
            let dry = api.ask("PUT", &format!("{target}?dry_run=true")).header(name, value);
            dry.json(&body).send().await.refuses(400, "VALIDATION_FAILED");
        }
        match status {
            400 => drop(told.refuses(400, "VALIDATION_FAILED")),
            428 => drop(told.refuses(428, "PRECONDITION_REQUIRED")),
            412 => drop(told.refuses(412, "PRECONDITION_FAILED")),
            _ => drop(told.is(status)),
        }
    }
}

#[tokio::test]
async fn patch_and_delete_need_one_too() {
    let api = Api::new().await;
    let patch = json!({ "limits": [] });
    let target = "/v1/plans/free";
    for (name, value, status) in [("accept", "*/*", 428), ("if-match", "\"stale\"", 412)] {
        let ask = api.ask("PATCH", target).header(name, value).json(&patch);
        ask.send().await.is(status);
        api.ask("DELETE", target).header(name, value).send().await.is(status);
    }
    // A key is deleted by whoever has seen it.
    let key = "/v1/consumers/mobile/credentials/k1?tenant=acme";
    api.ask("DELETE", key).send().await.refuses(428, "PRECONDITION_REQUIRED");
    let (_, tag) = api.read(key).await;
    api.ask("DELETE", key).header("if-match", tag).send().await.is(200);
    api.ask("GET", key).send().await.refuses(404, "NOT_FOUND");
    for method in ["DELETE", "PATCH"] {
        let mut ask = api.ask(method, "/v1/plans/absent").header("if-match", "*");
        if method == "PATCH" {
            ask = ask.json(&patch);
        }
        ask.send().await.refuses(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn of_two_writers_one_wins() {
    let api = Api::new().await;
    let (_, tag) = api.read(PLAN).await;
    let writers = (1..=8).map(|burst| {
        let ask = api.ask("PUT", PLAN).header("if-match", &tag);
        tokio::spawn(ask.json(&plan(burst)).send())
    });
    let mut statuses = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        statuses.push(writer.await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
    assert_eq!(api.revision().await, 2);
}

#[tokio::test]
async fn the_tag_of_an_answer_is_that_of_the_next_read() {
    let api = Api::new().await;
    let told = api.ask("PUT", PLAN).header("if-match", "*").json(&plan(3)).send().await.is(200);
    let (read, tag) = api.read(PLAN).await;
    assert_eq!((told.header("etag"), &told.json()["resource"]), (tag.as_str(), &read));
    assert_eq!(format!("\"{}\"", told.json()["etag"].as_str().unwrap()), tag);
    // Another resource's change leaves it as it is.
    let ask = api.ask("PATCH", "/v1/tenants/acme").header("if-match", "*");
    ask.json(&json!({ "state": "suspended" })).send().await.is(200);
    assert_eq!(api.read(PLAN).await.1, tag);
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    let mut document = api.document().await;
    document["plans"][0]["limits"] = json!([]);
    let put = put.json(&document).send().await.is(200);
    assert_eq!(put.header("etag"), api.read("/v1/document").await.1);
}

#[tokio::test]
async fn who_has_it_already_gets_304() {
    let api = Api::new().await;
    for target in [PLAN, "/v1/document", "/v1/consumers/web/credentials"] {
        let told = api.ask("GET", target).send().await.is(200);
        let tag = told.header("etag").to_owned();
        if tag.is_empty() {
            continue;
        }
        for (value, status) in [
            (tag.clone(), 304),
            (format!("\"x\", W/{tag}"), 304),
            ("*".to_owned(), 304),
            (String::new(), 200),
            ("unquoted".to_owned(), 200),
            ("\"x\"".to_owned(), 200),
        ] {
            let again =
                api.ask("GET", target).header("if-none-match", value).send().await.is(status);
            assert_eq!(again.header("etag"), tag);
            assert_eq!(again.text.is_empty(), status == 304);
        }
    }
}
