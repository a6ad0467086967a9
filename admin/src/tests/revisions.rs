//! Revisions: listed, compared, brought back, released.

use super::api::{Api, Setup, standard};
use model::role::Role;
use serde_json::{Value, json};

/// Suspends a tenant, or makes it active: one more revision.
async fn set(api: &Api, tenant: &str, state: &str) -> u64 {
    let target = format!("/v1/tenants/{tenant}");
    let ask = api.ask("PATCH", &target).header("if-match", "*");
    ask.json(&json!({ "state": state })).send().await.is(200).revision()
}

/// Gives a change to the node `a` first.
async fn stage(api: &Api, body: &Value) -> u64 {
    api.node("a").await;
    let ask = api.ask("PATCH", "/v1/tenants/acme?nodes=a").header("if-match", "*");
    ask.json(body).send().await.is(200).revision()
}

#[tokio::test]
async fn revisions_are_listed_newest_first_page_by_page() {
    let api = Api::new().await;
    for round in 0..5 {
        set(&api, "acme", if round % 2 == 0 { "suspended" } else { "active" }).await;
    }
    let mut numbers = Vec::new();
    let mut cursor = String::new();
    loop {
        let page =
            api.ask("GET", &format!("/v1/revisions?limit=4{cursor}")).send().await.is(200).json();
        let items = page["items"].as_array().unwrap();
        numbers.extend(items.iter().map(|item| item["revision"].as_u64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1]);
    let newest = &api.ask("GET", "/v1/revisions?limit=1").send().await.is(200).json()["items"][0];
    let entry = api.audit().await.swap_remove(0);
    assert_eq!(newest["author"], entry.actor.name);
    assert_eq!((&newest["action"], &newest["nodes"]), (&json!("tenants.patch"), &Value::Null));
}

#[tokio::test]
async fn a_revision_is_told_with_its_text_as_it_was_written() {
    let api = Api::new().await;
    let yaml = "# Hand-written.\nformat: 1\nplans:\n  - { id: gold, limits: [] }\n";
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    put.header("content-type", "application/yaml").body(yaml).send().await.is(200);
    let told = api.ask("GET", "/v1/revisions/2").send().await.is(200);
    assert_eq!(told.revision(), 2);
    let told = told.json();
    assert_eq!(told["text"], yaml);
    assert_eq!(told["size"], yaml.len());
    assert_eq!(told["document"], json!({ "format": 1, "plans": [{ "id": "gold", "limits": [] }] }));
    let first = api.ask("GET", "/v1/revisions/1").send().await.is(200).json();
    assert_eq!(first["document"], standard());
    for unknown in
        ["3", "0", "01", "+1", "x", "99999999999999999999", "18446744073709551615", "1:x"]
    {
        api.ask("GET", &format!("/v1/revisions/{unknown}")).send().await.refuses(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn two_revisions_differ_by_a_patch_of_the_one_into_the_other() {
    let api = Api::new().await;
    set(&api, "acme", "suspended").await;
    set(&api, "globex", "suspended").await;
    let operation = |index: usize, state: &str| json!({ "op": "replace", "path": format!("/tenants/{index}/state"), "value": state });
    for (target, from, to, difference) in [
        ("1/diff", 1, 3, json!([operation(0, "suspended"), operation(1, "suspended")])),
        ("1/diff?to=2", 1, 2, json!([operation(0, "suspended")])),
        ("3/diff?to=2", 3, 2, json!([operation(1, "active")])),
        ("2/diff?to=2", 2, 2, json!([])),
    ] {
        let told = api.ask("GET", &format!("/v1/revisions/{target}")).send().await.is(200).json();
        assert_eq!(told, json!({ "from": from, "to": to, "difference": difference }), "{target}");
    }
    for (target, status, code) in [
        ("4/diff", 404, "NOT_FOUND"),
        ("1/diff?to=4", 404, "NOT_FOUND"),
        ("1/diff?to=x", 400, "VALIDATION_FAILED"),
        ("1/diff?since=1", 400, "VALIDATION_FAILED"),
    ] {
        api.ask("GET", &format!("/v1/revisions/{target}")).send().await.refuses(status, code);
    }
}

#[tokio::test]
async fn a_rollback_publishes_the_same_bytes_as_a_new_revision() {
    let api = Api::new().await;
    let text = "format: 1   # with a remark\n";
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    put.header("content-type", "application/yaml").body(text).send().await.is(200);
    let put = api.ask("PUT", "/v1/document").header("if-match", "*");
    put.json(&standard()).send().await.is(200);
    let told = api.ask("POST", "/v1/revisions/2:rollback").send().await.is(200);
    assert_eq!((told.revision(), &told.json()["revision"]), (4, &json!(4)));
    let kept = api.store.revision(4).await.unwrap().unwrap();
    assert_eq!((&*kept.text, kept.info.action.as_str()), (text, "revisions.rollback"));
    assert_eq!(kept.info.digest, api.store.revision(2).await.unwrap().unwrap().info.digest);
    let entry = api.audit().await.swap_remove(0);
    assert_eq!((entry.action.as_str(), entry.revision), ("revisions.rollback", Some(4)));
    assert_eq!(entry.difference, told.json()["difference"]);
    // What is the newest already is not published again.
    let told = api.ask("POST", "/v1/revisions/2:rollback").send().await.is(200);
    assert_eq!((told.revision(), &told.json()["difference"]), (4, &json!([])));
    api.ask("POST", "/v1/revisions/9:rollback").send().await.refuses(404, "NOT_FOUND");
    api.ask("POST", "/v1/revisions/2:rollback")
        .json(&json!({ "x": 1 }))
        .send()
        .await
        .refuses(422, "CONFIG_INVALID");
    assert_eq!(api.revision().await, 4);
}

#[tokio::test]
async fn a_rollback_may_be_tried_first() {
    let api = Api::new().await;
    set(&api, "acme", "suspended").await;
    let told = api.ask("POST", "/v1/revisions/1:rollback?dry_run=true").send().await.is(200).json();
    let active = json!([{ "op": "replace", "path": "/tenants/0/state", "value": "active" }]);
    assert_eq!(told, json!({ "valid": true, "errors": [], "difference": active }));
    assert_eq!(api.revision().await, 2);
}

#[tokio::test]
async fn a_repeated_rollback_is_done_once() {
    let api = Api::new().await;
    set(&api, "acme", "suspended").await;
    let rollback = || api.ask("POST", "/v1/revisions/1:rollback").header("idempotency-key", "once");
    let first = rollback().send().await.is(200);
    set(&api, "acme", "suspended").await;
    let again = rollback().send().await.is(200);
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&first.text, "true"));
    assert_eq!(api.revision().await, 4);
}

#[tokio::test]
async fn a_rollback_is_judged_by_what_it_changes() {
    let api = Api::new().await;
    set(&api, "acme", "suspended").await;
    api.ask("DELETE", "/v1/attachments/header").header("if-match", "*").send().await.is(200);
    api.ask("PUT", "/v1/packs/other/versions/1.0.0")
        .header("if-none-match", "*")
        .json(&json!({}))
        .send()
        .await
        .is(201);
    let operator = api.token(Role::Operator, None).await;
    let ask = |target: &str| api.ask("POST", target).bearer(&operator);
    // Packs are not an operator's to change, by whatever way.
    ask("/v1/revisions/3:rollback").send().await.refuses(403, "FORBIDDEN");
    ask("/v1/revisions/3:rollback?dry_run=true").send().await.refuses(403, "FORBIDDEN");
    api.ask("DELETE", "/v1/packs/other/versions/1.0.0")
        .header("if-match", "*")
        .send()
        .await
        .is(200);
    ask("/v1/revisions/1:rollback").send().await.is(200);
    assert_eq!(api.document().await, standard());
    for (role, tenant) in
        [(Role::Viewer, None), (Role::Publisher, None), (Role::Operator, Some("acme"))]
    {
        let token = api.token(role, tenant).await;
        for verb in ["rollback", "release"] {
            let target = format!("/v1/revisions/1:{verb}");
            api.ask("POST", &target).bearer(&token).send().await.refuses(403, "FORBIDDEN");
        }
    }
}

#[tokio::test]
async fn revisions_are_not_a_tenants_to_see() {
    let api = Api::new().await;
    let bound = api.token(Role::Admin, Some("acme")).await;
    for target in ["/v1/revisions", "/v1/revisions/1", "/v1/revisions/1/diff", "/v1/nodes"] {
        api.ask("GET", target).bearer(&bound).send().await.refuses(403, "FORBIDDEN");
    }
}

#[tokio::test]
async fn a_staged_revision_is_released_under_its_number() {
    let api = Api::new().await;
    let number = stage(&api, &json!({ "state": "suspended" })).await;
    let staged =
        || async { api.ask("GET", "/v1/revisions/2").send().await.is(200).json()["nodes"].clone() };
    assert_eq!((number, staged().await), (2, json!(["a"])));
    let release = || api.ask("POST", "/v1/revisions/2:release").header("idempotency-key", "r");
    let told = release().send().await.is(200);
    assert_eq!((&told.json()["revision"], &told.json()["nodes"]), (&json!(2), &Value::Null));
    assert_eq!(staged().await, Value::Null);
    let entry = api.audit().await.swap_remove(0);
    assert_eq!((entry.action.as_str(), entry.revision), ("revisions.release", Some(2)));
    assert_eq!(entry.difference, json!({ "nodes": ["a"] }));
    assert_eq!(release().send().await.is(200).header("idempotency-replayed"), "true");
    for (number, status, code) in
        [(2, 409, "CONFLICT"), (1, 409, "CONFLICT"), (3, 404, "NOT_FOUND")]
    {
        let target = format!("/v1/revisions/{number}:release");
        api.ask("POST", &target).send().await.refuses(status, code);
    }
}

#[tokio::test]
async fn a_rollback_takes_the_place_of_a_staged_revision() {
    let api = Api::new().await;
    stage(&api, &json!({ "state": "suspended" })).await;
    // To itself is what release is for.
    api.ask("POST", "/v1/revisions/2:rollback").send().await.refuses(409, "CONFLICT");
    let told = api.ask("POST", "/v1/revisions/1:rollback").send().await.is(200);
    assert_eq!(told.revision(), 3);
    let newest = api.store.newest().await.unwrap().unwrap();
    assert_eq!((newest.info.number, newest.info.nodes), (3, None));
    assert_eq!(api.document().await, standard());
    api.ask("POST", "/v1/revisions/2:release").send().await.refuses(409, "CONFLICT");
}

#[tokio::test]
async fn where_the_operator_keeps_the_document_nothing_is_brought_back() {
    let setup = Setup { document: Some(standard()), read_only: true, ..Setup::default() };
    let api = Api::with(setup).await;
    for target in
        ["/v1/revisions/1:rollback", "/v1/revisions/9:rollback", "/v1/revisions/1:release"]
    {
        api.ask("POST", target).send().await.refuses(409, "CONFLICT");
    }
}

/// Brings about that the newest revision, on the node `a` only, has the text of the first, and that all others have another.
async fn staged_as_the_first_was() -> Api {
    let api = Api::new().await;
    set(&api, "acme", "suspended").await;
    assert_eq!(stage(&api, &json!({ "state": "active" })).await, 3);
    let digest = async |number| api.store.revision(number).await.unwrap().unwrap().info.digest;
    assert_eq!(digest(1).await, digest(3).await, "the same text");
    api
}

#[tokio::test]
async fn a_rollback_to_what_some_nodes_have_already_is_a_revision_for_all() {
    let api = staged_as_the_first_was().await;
    let told = api.ask("POST", "/v1/revisions/1:rollback?dry_run=true").send().await.is(200).json();
    assert_eq!((&told["valid"], &told["difference"]), (&json!(true), &json!([])));
    let told = api.ask("POST", "/v1/revisions/1:rollback").send().await.is(200);
    assert_eq!((told.revision(), &told.json()["nodes"]), (4, &Value::Null));
    let newest = api.store.newest().await.unwrap().unwrap();
    assert_eq!(
        (newest.info.number, newest.info.nodes, &*newest.text),
        (4, None, &*standard().to_string())
    );
    // Nothing holds up the next change.
    assert_eq!(set(&api, "globex", "suspended").await, 5);
}

#[tokio::test]
async fn while_a_revision_is_on_some_nodes_only_every_other_change_is_409_also_of_nothing_and_tried()
 {
    let api = staged_as_the_first_was().await;
    api.node("b").await;
    let same = standard();
    let tenant = api.read("/v1/tenants/acme").await.0;
    for (target, body) in [
        ("/v1/document", &same),
        ("/v1/document?nodes=b", &same),
        ("/v1/tenants/acme", &tenant),
        ("/v1/tenants/acme?nodes=a,b", &tenant),
        ("/v1/tenants/acme", &json!({ "plan": "gold", "state": "suspended" })),
        ("/v1/tenants/acme?nodes=a", &json!({ "plan": "gold", "state": "suspended" })),
    ] {
        let dry = format!("{target}{}dry_run=true", if target.contains('?') { "&" } else { "?" });
        for target in [target, &dry] {
            let told = api.ask("PUT", target).header("if-match", "*").json(body).send().await;
            let details = told.refuses(409, "CONFLICT");
            assert_eq!(details, json!({ "revision": 3, "nodes": ["a"] }), "{target}");
        }
    }
    // What those nodes have already is nothing new for them.
    let put = api.ask("PUT", "/v1/document?nodes=a").header("if-match", "*").json(&same);
    let told = put.send().await.is(200);
    assert_eq!((told.revision(), &told.json()["nodes"]), (3, &Value::Null));
    // Once it is everybody's, neither for all.
    api.ask("POST", "/v1/revisions/3:release").send().await.is(200);
    let put = api.ask("PUT", "/v1/document").header("if-match", "*").json(&same);
    assert_eq!(put.send().await.is(200).revision(), 3);
    assert_eq!(api.revision().await, 3);
}
