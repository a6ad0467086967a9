//! What packs may read: put, read and taken away, under preconditions and bounds, by whoever may.

use super::api::{Api, FROM, Told};
use model::role::Role;
use serde_json::json;
use store::control::{DATA_BYTES_MAX, DATUM_KEY_MAX, DATUM_VALUE_MAX};

const LIST: &str = "/v1/packs/require-header/data";
const ONE: &str = "/v1/packs/require-header/data/blocked";

async fn put(api: &Api, target: &str, (name, value): (&str, &str), body: &str) -> Told {
    api.ask("PUT", target).header(name, value).body(body.to_owned()).send().await
}

const NEW: (&str, &str) = ("if-none-match", "*");

#[tokio::test]
async fn a_value_is_put_read_changed_and_deleted() {
    let api = Api::new().await;
    let told = put(&api, ONE, NEW, "192.0.2.0/24").await.is(201);
    let made = told.json();
    assert_eq!((&made["key"], &made["size"]), (&json!("blocked"), &json!(12)));
    assert_eq!(made["by"], "admin-of-all");
    let tag = told.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", made["etag"].as_str().unwrap()));
    let read = api.ask("GET", ONE).send().await.is(200);
    assert_eq!((read.text.as_str(), read.header("etag")), ("192.0.2.0/24", &*tag));
    assert_eq!(read.header("content-type"), "application/octet-stream");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    api.ask("GET", ONE).header("if-none-match", &tag).send().await.is(304);
    api.ask("HEAD", ONE).send().await.is(200);
    let listed = api.ask("GET", LIST).send().await.is(200).json();
    assert_eq!(listed, json!({ "items": [made], "next_cursor": null }));
    let changed = put(&api, ONE, ("if-match", &tag), "").await.is(200);
    assert_eq!(changed.json()["size"], 0);
    let gone = api.ask("DELETE", ONE).header("if-match", changed.header("etag")).send().await;
    assert_eq!(gone.is(200).json(), changed.json());
    api.ask("GET", ONE).send().await.refuses(404, "NOT_FOUND");
    assert_eq!(api.ask("GET", LIST).send().await.is(200).json()["items"], json!([]));
    assert_eq!(api.revision().await, 1, "none of it is a revision");
}

#[tokio::test]
async fn a_value_is_changed_by_who_has_seen_it() {
    let api = Api::new().await;
    let first = put(&api, ONE, NEW, "1").await.is(201).header("etag").to_owned();
    put(&api, ONE, NEW, "2").await.refuses(412, "PRECONDITION_FAILED");
    let second = put(&api, ONE, ("if-match", &first), "2").await.is(200);
    put(&api, ONE, ("if-match", &first), "3").await.refuses(412, "PRECONDITION_FAILED");
    for method in ["PUT", "DELETE"] {
        let told = api.ask(method, ONE).send().await;
        told.refuses(428, "PRECONDITION_REQUIRED");
        let told = api.ask(method, ONE).header("if-match", &first).send().await;
        told.refuses(412, "PRECONDITION_FAILED");
    }
    let absent = format!("{LIST}/none");
    put(&api, &absent, ("if-match", "*"), "1").await.refuses(412, "PRECONDITION_FAILED");
    api.ask("DELETE", &absent).header("if-match", "*").send().await.refuses(404, "NOT_FOUND");
    assert_eq!(api.ask("GET", ONE).send().await.header("etag"), second.header("etag"));
}

#[tokio::test]
async fn of_changes_at_the_same_time_one_is_made() {
    let api = Api::new().await;
    let tag = put(&api, ONE, NEW, "0").await.is(201).header("etag").to_owned();
    let change = ("if-match", &*tag);
    let told = tokio::join!(
        put(&api, ONE, change, "1"),
        put(&api, ONE, change, "2"),
        put(&api, ONE, change, "3"),
    );
    let mut statuses = [told.0.status, told.1.status, told.2.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412]);
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let api = Api::new().await;
    let long = "k".repeat(DATUM_KEY_MAX + 1);
    for key in [&*long, "%2Ehidden", "a%20b", "%C3%A4", "a%0Ab", "a%00"] {
        let target = format!("{LIST}/{key}");
        put(&api, &target, NEW, "1").await.refuses(400, "VALIDATION_FAILED");
    }
    for key in ["::1", "a%2Fb", "a:promote", "%25", &long[1..]] {
        put(&api, &format!("{LIST}/{key}"), NEW, "1").await.is(201);
    }
    assert_eq!(api.ask("GET", &format!("{LIST}/a%2Fb")).send().await.is(200).text, "1");
    let largest = "v".repeat(DATUM_VALUE_MAX);
    let details = put(&api, ONE, NEW, &format!("{largest}v")).await.refuses(413, "BODY_TOO_LARGE");
    assert_eq!(details["limit"], DATUM_VALUE_MAX);
    for number in 0..DATA_BYTES_MAX / DATUM_VALUE_MAX - 1 {
        put(&api, &format!("{LIST}/{number}"), NEW, &largest).await.is(201);
    }
    put(&api, ONE, NEW, &largest).await.refuses(409, "CONFLICT");
    for target in ["/v1/packs/unknown/data", "/v1/packs/not%20an%20id/data"] {
        let target = format!("{target}/blocked");
        put(&api, &target, NEW, "1").await.refuses(404, "NOT_FOUND");
        api.ask("GET", &target).send().await.refuses(404, "NOT_FOUND");
    }
    api.ask("GET", "/v1/packs/unknown/data").send().await.refuses(404, "NOT_FOUND");
}

#[tokio::test]
async fn the_audit_has_each_change_and_no_value() {
    let api = Api::new().await;
    let tag = put(&api, ONE, NEW, "a-secret-list").await.is(201).header("etag").to_owned();
    api.ask("DELETE", ONE).header("if-match", tag).send().await.is(200);
    let entries = api.audit().await;
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.resource.as_str(), entry.difference.clone()))
        .collect();
    let size =
        |before, after| json!({ "key": "blocked", "size": { "before": before, "after": after } });
    assert_eq!(
        told,
        [
            ("packs.data.delete", ONE, size(json!(13), json!(null))),
            ("packs.data.put", ONE, size(json!(null), json!(13))),
        ]
    );
    assert_eq!(entries[0].actor.source, FROM);
    assert!(!format!("{entries:?}").contains("a-secret-list"));
}

#[tokio::test]
async fn whoever_attaches_packs_says_what_they_read_and_no_tenants_token_does() {
    let api = Api::new().await;
    put(&api, ONE, NEW, "1").await.is(201);
    for (role, tenant, reads, changes) in [
        (Role::Viewer, None, 200, 403),
        (Role::Operator, None, 200, 200),
        (Role::Publisher, None, 200, 200),
        (Role::Producer, None, 403, 403),
        (Role::Admin, Some("acme"), 403, 403),
    ] {
        let token = api.token(role, tenant).await;
        for target in [LIST, ONE] {
            api.ask("GET", target).bearer(&token).send().await.is(reads);
        }
        let ask = api.ask("PUT", ONE).bearer(&token).header("if-match", "*");
        ask.body("2").send().await.is(changes);
        if changes == 403 {
            let ask = api.ask("DELETE", ONE).bearer(&token).header("if-match", "*");
            ask.send().await.is(403);
        }
    }
}
