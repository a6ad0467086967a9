//! The audit: searched, paged, exported.

use super::api::{Api, Told};
use model::role::Role;
use serde_json::{Value, json};
use std::time::Duration;

/// The API after some changes: of acme, then of globex, then a refusal.
async fn changed() -> Api {
    let api = Api::new().await;
    for tenant in ["acme", "globex"] {
        let target = format!("/v1/tenants/{tenant}");
        let ask = api.ask("PATCH", &target).header("if-match", "*");
        ask.json(&json!({ "timezone": "Asia/Tokyo" })).send().await.is(200);
        api.clock.advance(Duration::from_secs(10));
    }
    let viewer = api.token(Role::Viewer, None).await;
    api.ask("DELETE", "/v1/plans/gold").bearer(&viewer).send().await.refuses(403, "FORBIDDEN");
    api
}

async fn found(api: &Api, query: &str) -> Vec<String> {
    let told = api.ask("GET", &format!("/v1/audit{query}")).send().await.is(200).json();
    let items = told["items"].as_array().unwrap().iter();
    let ours = items.filter(|entry| entry["request_id"] != "test-request");
    ours.map(|entry| {
        format!("{} {}", entry["action"].as_str().unwrap(), entry["resource"].as_str().unwrap())
    })
    .collect()
}

#[tokio::test]
async fn entries_are_found_by_who_what_where_and_when() {
    let api = changed().await;
    let (acme, globex, refused) = (
        "tenants.patch /v1/tenants/acme",
        "tenants.patch /v1/tenants/globex",
        "plans.delete /v1/plans/gold",
    );
    for (query, expected) in [
        ("", vec![refused, globex, acme]),
        ("?tenant=acme", vec![acme]),
        ("?actor=admin-of-all", vec![globex, acme]),
        ("?actor=viewer-of-all", vec![refused]),
        ("?actor=nobody", vec![]),
        ("?action=plans.delete", vec![refused]),
        ("?resource=/v1/tenants", vec![globex, acme]),
        ("?resource=/v1/tenants/globex", vec![globex]),
        ("?resource=/v1/ten", vec![]),
        ("?since=2026-11-21T12:00:10Z", vec![refused, globex]),
        ("?until=2026-11-21T12:00:10Z", vec![acme]),
        ("?since=2026-11-21T12:00:10Z&until=2026-11-21T12:00:20Z", vec![globex]),
        ("?since=2026-11-22T00:00:00Z&until=2026-11-21T00:00:00Z", vec![]),
        ("?tenant=acme&action=plans.delete", vec![]),
    ] {
        assert_eq!(found(&api, query).await, expected, "{query}");
    }
    let refusal = &api.ask("GET", "/v1/audit?action=plans.delete").send().await.json()["items"][0];
    assert_eq!(refusal["refused"], "FORBIDDEN");
    assert_eq!(refusal["actor"]["role"], "viewer");
    assert_eq!(refusal["actor"]["source"], super::api::FROM);
}

#[tokio::test]
async fn pages_make_up_the_whole() {
    let api = changed().await;
    let all = api.ask("GET", "/v1/audit").send().await.is(200).json();
    let all = all["items"].as_array().unwrap();
    let mut paged: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page =
            api.ask("GET", &format!("/v1/audit?limit=2{cursor}")).send().await.is(200).json();
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(&paged, all);
    let before = format!("/v1/audit?before={}", all[1]["id"].as_str().unwrap());
    let rest = api.ask("GET", &before).send().await.is(200).json();
    assert_eq!(rest["items"].as_array().unwrap(), &all[2..]);
}

#[tokio::test]
async fn what_can_not_be_searched_for_is_400() {
    let api = Api::new().await;
    let long = "x".repeat(513);
    for query in [
        "?tenant=a%20b".to_owned(),
        "?actor=".to_owned(),
        format!("?actor={}", "x".repeat(65)),
        format!("?action={}", "x".repeat(65)),
        format!("?resource={long}"),
        "?since=yesterday".to_owned(),
        "?limit=0".to_owned(),
        "?limit=100001".to_owned(),
        "?limit=x".to_owned(),
        "?cursor=x".to_owned(),
        "?before=%00".to_owned(),
        "?colour=red".to_owned(),
        "?limit=1&limit=2".to_owned(),
    ] {
        let told = api.ask("GET", &format!("/v1/audit{query}")).send().await;
        told.refuses(400, "VALIDATION_FAILED");
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_sees_what_concerns_it_alone() {
    let api = changed().await;
    let bound = api.token(Role::Viewer, Some("acme")).await;
    let ask = async |query: &str| {
        let told =
            api.ask("GET", &format!("/v1/audit{query}")).bearer(&bound).send().await.is(200).json();
        told["items"].as_array().unwrap().len()
    };
    assert_eq!(ask("").await, 1);
    assert_eq!(ask("?tenant=acme").await, 1);
    assert_eq!(ask("?tenant=globex").await, 0);
    // Of others it learns who they are and what they did, not which token they have and from where they came.
    let own = api.token(Role::Operator, Some("acme")).await;
    let patch = api.ask("PATCH", "/v1/tenants/acme").bearer(&own).header("if-match", "*");
    patch.json(&json!({ "timezone": "UTC" })).send().await.is(200);
    let page = api.ask("GET", "/v1/audit").bearer(&bound).send().await.is(200).json();
    let lines = api.ask("GET", "/v1/audit").bearer(&bound).header("accept", "application/x-ndjson");
    let lines = lines.send().await.is(200).text;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(page["items"].as_array().unwrap(), &lines);
    let shown = |actor: &Value| {
        (actor["name"].clone(), actor["source"].clone(), actor["token"].is_string())
    };
    assert_eq!(
        shown(&lines[0]["actor"]),
        (json!("operator-of-acme"), json!(super::api::FROM), true)
    );
    assert_eq!(shown(&lines[1]["actor"]), (json!("admin-of-all"), json!("withheld"), false));
    let lines = api
        .ask("GET", "/v1/audit?tenant=globex")
        .bearer(&bound)
        .header("accept", "application/x-ndjson");
    assert_eq!(lines.send().await.is(200).text, "");
}

async fn export(api: &Api, query: &str) -> (Told, Vec<Value>) {
    let ask = api.ask("GET", &format!("/v1/audit{query}")).header("accept", "application/x-ndjson");
    let told = ask.send().await.is(200);
    assert_eq!(told.header("content-type"), "application/x-ndjson");
    let lines = told.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (told, lines)
}

#[tokio::test]
async fn an_export_is_the_same_entries_as_lines() {
    let api = changed().await;
    let page = api.ask("GET", "/v1/audit").send().await.json();
    let all = page["items"].as_array().unwrap().clone();
    let (told, lines) = export(&api, "").await;
    assert_eq!(lines, all);
    assert!(told.text.ends_with('\n'));
    assert_eq!(export(&api, "?resource=/v1/tenants").await.1.len(), 2);
    // In parts: the next begins at the last line's id.
    let (_, first) = export(&api, "?limit=2").await;
    let next = format!("?before={}", first[1]["id"].as_str().unwrap());
    assert_eq!([first, export(&api, &next).await.1].concat(), all);
}

/// Writes so many entries.
async fn note(api: &Api, count: usize) {
    let write = || store::control::Write {
        effect: store::control::Effect::Note,
        audit: super::api::entry("note"),
        answer: None,
    };
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..count {
        if writes.len() == 200 {
            writes.join_next().await;
        }
        let (store, write) = (api.store.clone(), write());
        writes.spawn(async move { store.write(write).await.unwrap() });
    }
    writes.join_all().await;
}

#[tokio::test]
async fn an_export_goes_beyond_a_page() {
    let api = Api::new().await;
    note(&api, 1_203).await;
    let (_, lines) = export(&api, "?action=note").await;
    assert_eq!(lines.len(), 1_203);
    assert!(lines.is_sorted_by(|a, b| a["id"].as_str() > b["id"].as_str()));
    let (_, lines) = export(&api, "?action=note&limit=700").await;
    assert_eq!(lines.len(), 700);
    let page = api.ask("GET", "/v1/audit?action=note&limit=700").send().await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 500, "a page is no export");
}

#[tokio::test]
async fn lines_are_for_who_asks_for_them() {
    let api = Api::new().await;
    for (accept, lines) in [
        ("*/*", false),
        ("application/json", false),
        ("application/*", false),
        ("application/x-ndjson;q=0", false),
        ("application/x-ndjson;q=0.5, application/json", true),
        ("Application/X-NDJSON", true),
    ] {
        let told = api.ask("GET", "/v1/audit").header("accept", accept).send().await.is(200);
        let kind = if lines { "application/x-ndjson" } else { "application/json" };
        assert_eq!(told.header("content-type"), kind, "{accept}");
    }
}

#[tokio::test]
async fn exports_at_once_are_bounded() {
    let api = Api::new().await;
    note(&api, 1_203).await;
    // Answers whose bodies nobody reads hold their places.
    let mut unread = Vec::new();
    for _ in 0..crate::audit::EXPORTS_MAX {
        let ask = api.ask("GET", "/v1/audit").header("accept", "application/x-ndjson");
        unread.push(ask.response().await);
    }
    let ask = || api.ask("GET", "/v1/audit").header("accept", "application/x-ndjson");
    ask().send().await.refuses(503, "OVERLOADED");
    drop(unread);
    // Those who write are told when they go on.
    let again = async {
        while ask().send().await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
}
