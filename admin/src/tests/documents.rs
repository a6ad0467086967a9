//! The whole document.

use super::api::{Api, Setup, pointers, standard};
use serde_json::json;

#[tokio::test]
async fn a_document_is_kept_as_it_was_sent() {
    let api = Api::new().await;
    let yaml = "# Ours.\nformat: 1\nplans:\n  - { id: gold, limits: [] }\n";
    let ask = api.ask("PUT", "/v1/document").header("if-match", "*");
    let told = ask.header("content-type", "application/yaml").body(yaml).send().await.is(200);
    assert_eq!((told.revision(), told.json()["revision"].as_u64()), (2, Some(2)));
    assert_eq!(&*api.store.newest().await.unwrap().unwrap().text, yaml);
    assert_eq!(
        api.document().await,
        json!({ "format": 1, "plans": [{ "id": "gold", "limits": [] }] })
    );
    // The same again is no revision; another comment is one, and changes nothing else.
    let put =
        |text: &'static str| api.ask("PUT", "/v1/document").header("if-match", "*").body(text);
    assert_eq!(put(yaml).send().await.is(200).revision(), 2);
    let other = "# Theirs.\nformat: 1\nplans:\n  - { id: gold, limits: [] }\n";
    let told = put(other).send().await.is(200);
    assert_eq!((told.revision(), &told.json()["difference"]), (3, &json!([])));
}

#[tokio::test]
async fn a_document_is_replaced_only_by_who_has_seen_it() {
    let api = Api::new().await;
    let (document, tag) = api.read("/v1/document").await;
    assert_eq!(document, standard());
    let mut changed = document.clone();
    changed["plans"][0]["limits"] = json!([]);
    changed["tenants"][0]["state"] = json!("suspended");
    let put = || api.ask("PUT", "/v1/document").json(&changed);
    put().send().await.refuses(428, "PRECONDITION_REQUIRED");
    put().header("if-match", "\"stale\"").send().await.refuses(412, "PRECONDITION_FAILED");
    put().header("if-none-match", "*").send().await.refuses(412, "PRECONDITION_FAILED");
    let told = put().header("if-match", format!("\"x\", {tag}")).send().await.is(200);
    assert_eq!(told.json()["difference"][0]["path"], "/tenants/0/state");
    put().header("if-match", tag).send().await.refuses(412, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn the_first_document_is_made_from_nothing() {
    let api = Api::with(Setup::default()).await;
    api.ask("GET", "/v1/document").send().await.refuses(404, "NOT_FOUND");
    let put = || api.ask("PUT", "/v1/document").json(&standard());
    put().header("if-match", "*").send().await.refuses(412, "PRECONDITION_FAILED");
    let told = put().header("if-none-match", "*").send().await.is(200);
    assert_eq!(told.revision(), 1);
    // So is the first resource.
    let api = Api::with(Setup::default()).await;
    assert_eq!(api.ask("GET", "/v1/plans").send().await.is(200).json()["items"], json!([]));
    let plan = api.ask("PUT", "/v1/plans/gold").header("if-none-match", "*");
    plan.json(&json!({ "limits": [] })).send().await.is(201);
    assert_eq!(
        api.document().await,
        json!({ "format": 1, "plans": [{ "id": "gold", "limits": [] }] })
    );
}

#[tokio::test]
async fn every_error_comes_with_its_pointer() {
    let api = Api::new().await;
    let put =
        |text: &'static str| api.ask("PUT", "/v1/document").header("if-match", "*").body(text);
    let wrong =
        r#"{"format":1,"colour":"red","tenants":[{"id":"acme","plan":"gold","state":"active"}]}"#;
    let details = put(wrong).send().await.refuses(422, "CONFIG_INVALID");
    assert_eq!(
        pointers(&details),
        [("/colour", "/colour"), ("/tenants/0/plan", "/tenants/0/plan")]
    );
    for garbage in ["", "{", "[]", "format: [", "\0"] {
        put(garbage).send().await.refuses(422, "CONFIG_INVALID");
    }
    assert_eq!(api.revision().await, 1);
    let binary = api.ask("PUT", "/v1/document").header("if-match", "*").body(vec![0xff, 0xfe]);
    binary.send().await.refuses(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let api = Api::new().await;
    let dry = |text: String| api.ask("PUT", "/v1/document?dry_run=true").body(text);
    let mut proposed = standard();
    proposed["plans"] = json!([{ "id": "gold", "limits": [{ "id": "x" }] }]);
    let told = dry(proposed.to_string()).send().await.is(200).json();
    assert_eq!(told["valid"], false);
    let found = pointers(&told).into_iter().map(|(pointer, _)| pointer).collect::<Vec<_>>();
    assert_eq!(found, ["/plans/0/limits/0", "/plans/0/limits/0", "/tenants/1/plan"]);
    assert_eq!(told["difference"][0], json!({ "op": "remove", "path": "/plans/1" }));
    let told = dry("{".to_owned()).send().await.is(200).json();
    assert_eq!((&told["valid"], &told["difference"]), (&json!(false), &json!([])));
    let mut sound = standard();
    sound["tenants"][0]["plan"] = json!("free");
    let told = dry(sound.to_string()).send().await.is(200).json();
    assert_eq!((&told["valid"], &told["errors"]), (&json!(true), &json!([])));
    assert_eq!((api.revision().await, api.document().await), (1, standard()));
    // A precondition that is given is kept all the same.
    let stale = dry(sound.to_string()).header("if-match", "\"stale\"");
    stale.send().await.refuses(412, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn a_document_of_the_operators_is_read_and_tried_but_not_written() {
    let setup = Setup { document: Some(standard()), read_only: true, ..Setup::default() };
    let api = Api::with(setup).await;
    let mut changed = standard();
    changed["tenants"][0]["plan"] = json!("free");
    let patch = json!({ "plan": "free" });
    for (method, target, body) in
        [("PUT", "/v1/document", &changed), ("PATCH", "/v1/tenants/acme", &patch)]
    {
        let dry = api.ask(method, &format!("{target}?dry_run=true")).json(body).send().await;
        assert_eq!(dry.is(200).json()["valid"], true);
        let ask = api.ask(method, target).header("if-match", "*").json(body);
        ask.send().await.refuses(409, "CONFLICT");
    }
    assert_eq!(api.document().await, standard());
}
