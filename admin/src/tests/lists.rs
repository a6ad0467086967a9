//! Lists: whole, in order, in pages of any size.

use super::api::Api;
use serde_json::{Value, json};

/// Every item of a list, asked for in pages of this size, by their ids.
async fn paged(api: &Api, list: &str, limit: usize) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let told = api.ask("GET", &format!("{list}?limit={limit}{cursor}")).send().await.is(200);
        let page = told.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        let id = |item: &Value| item["id"].as_str().unwrap().to_owned();
        ids.extend(items.iter().map(id));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_make_up_the_list() {
    let api = Api::new().await;
    let mut document = api.document().await;
    let plans: Vec<_> =
        (0..23).map(|n| json!({ "id": format!("p{:02}", n * 7 % 23), "limits": [] })).collect();
    let all: Vec<Value> =
        document["plans"].as_array().unwrap().iter().cloned().chain(plans).collect();
    document["plans"] = json!(all);
    let put = api.ask("PUT", "/v1/document").header("if-match", "*").json(&document);
    put.send().await.is(200);
    let mut expected: Vec<String> =
        all.iter().map(|plan| plan["id"].as_str().unwrap().to_owned()).collect();
    expected.sort();
    for limit in [1, 2, 24, 25, 26, 500] {
        assert_eq!(paged(&api, "/v1/plans", limit).await, expected, "{limit}");
    }
    for (list, ids) in [
        ("/v1/tenants", &["acme", "globex"] as &[_]),
        ("/v1/tenants/globex/consumers", &["mobile", "web"]),
        ("/v1/consumers/web/credentials", &[]),
        ("/v1/packs", &["require-header"]),
        ("/v1/attachments", &["acme-header", "globex-header", "header"]),
    ] {
        assert_eq!(paged(&api, list, 1).await, ids, "{list}");
    }
    let names = api.ask("GET", "/v1/services/contacts/versions").send().await.is(200).json();
    let names: Vec<_> = names["items"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    assert_eq!(names, ["v1", "v2"]);
    for absent in [
        "/v1/tenants/nobody/consumers",
        "/v1/services/none/versions",
        "/v1/consumers/none/credentials",
    ] {
        api.ask("GET", absent).send().await.refuses(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_page_that_can_not_be_is_400() {
    let api = Api::new().await;
    let told = api.ask("GET", "/v1/plans?limit=1").send().await.is(200).json();
    let cursor = told["next_cursor"].as_str().unwrap().to_owned();
    // The cursor of one list is none of another's.
    for target in [
        "/v1/plans?limit=0",
        "/v1/plans?limit=501",
        "/v1/plans?limit=-1",
        "/v1/plans?limit=many",
        "/v1/plans?cursor=",
        "/v1/plans?cursor=%00",
        "/v1/plans?cursor=AAAA",
        "/v1/plans?page=2",
        &format!("/v1/tenants?cursor={cursor}"),
        &format!("/v1/plans?cursor={}", "A".repeat(2_000)),
    ] {
        api.ask("GET", target).send().await.refuses(400, "VALIDATION_FAILED");
    }
    let next = api.ask("GET", &format!("/v1/plans?cursor={cursor}")).send().await.is(200).json();
    assert_eq!((&next["items"][0]["id"], &next["next_cursor"]), (&json!("gold"), &json!(null)));
}
