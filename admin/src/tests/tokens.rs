//! Tokens: made once, shown once, revoked for good.

use super::api::Api;
use model::role::Role;
use serde_json::{Value, json};
use std::time::Duration;

async fn made(api: &Api, body: &Value) -> Value {
    api.ask("POST", "/v1/tokens").json(body).send().await.is(201).json()
}

fn without_token(made: &Value) -> Value {
    let mut made = made.clone();
    made.as_object_mut().unwrap().shift_remove("token");
    made
}

#[tokio::test]
async fn a_token_is_shown_once_and_works_until_it_is_revoked() {
    let api = Api::new().await;
    let body = json!({ "name": "ci", "role": "publisher", "expires_at": "2027-01-01T00:00:00Z" });
    let told = api.ask("POST", "/v1/tokens").json(&body).send().await.is(201);
    let made = told.json();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("tga_") && token.len() == 68, "{token}");
    assert_eq!(told.header("location"), format!("/v1/tokens/{}", made["id"].as_str().unwrap()));
    let target = told.header("location").to_owned();
    let read = api.ask("GET", &target).send().await.is(200);
    assert_eq!(read.json(), without_token(&made));
    let list = api.ask("GET", "/v1/tokens").send().await.is(200);
    assert_eq!(list.json()["items"][0], without_token(&made));
    for told in [&read.text, &list.text] {
        assert!(!told.contains(token) && !told.contains("hash"), "{told}");
    }
    api.ask("GET", "/v1/plans").bearer(token).send().await.is(200);
    let revoked = api.ask("DELETE", &target).send().await.is(200).json();
    assert_eq!(revoked["revoked_at"], "2026-11-21T12:00:00Z");
    api.ask("GET", "/v1/plans").bearer(token).send().await.refuses(401, "CREDENTIAL_INVALID");
    api.ask("GET", &target).send().await.refuses(404, "NOT_FOUND");
    api.ask("DELETE", &target).send().await.refuses(404, "NOT_FOUND");
    let entries = api.audit().await;
    let told: Vec<_> =
        entries.iter().map(|entry| (entry.action.as_str(), &*entry.resource)).collect();
    assert_eq!(told[1..3], [("tokens.delete", &*target), ("tokens.create", &*target)]);
    assert_eq!(entries[2].difference["role"], "publisher");
    assert!(!format!("{entries:?}").contains(token));
}

#[tokio::test]
async fn a_token_ends_when_it_was_said_to() {
    let api = Api::new().await;
    let made = made(
        &api,
        &json!({ "name": "ci", "role": "viewer", "expires_at": "2026-11-21T12:00:10Z" }),
    )
    .await;
    let ask = || api.ask("GET", "/v1/plans").bearer(made["token"].as_str().unwrap());
    ask().send().await.is(200);
    api.clock.advance(Duration::from_secs(10));
    ask().send().await.refuses(401, "CREDENTIAL_EXPIRED");
    // It is still there to be seen.
    let target = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    api.ask("GET", &target).send().await.is(200);
}

#[tokio::test]
async fn what_is_no_token_is_refused_with_every_pointer() {
    let api = Api::new().await;
    let long = "x".repeat(65);
    for (body, pointers) in [
        (json!({}), vec!["", ""]),
        (json!({ "name": "", "role": "root", "colour": 1 }), vec!["/colour", "/name", "/role"]),
        (json!({ "name": long, "role": "viewer" }), vec!["/name"]),
        (json!({ "name": "a\nb", "role": "viewer" }), vec!["/name"]),
        (json!({ "name": "x", "role": "viewer", "tenant": "a b" }), vec!["/tenant"]),
        (
            json!({ "name": "x", "role": "viewer", "tenant": "nobody", "expires_at": "2026-11-21T12:00:00Z" }),
            vec!["/expires_at", "/tenant"],
        ),
        (json!({ "name": "x", "role": "viewer", "expires_at": "tomorrow" }), vec!["/expires_at"]),
        (json!([]), vec![""]),
    ] {
        let details =
            api.ask("POST", "/v1/tokens").json(&body).send().await.refuses(422, "CONFIG_INVALID");
        let errors = details["errors"].as_array().unwrap().iter();
        let found: Vec<_> = errors.map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{body}: {details}");
    }
    api.ask("POST", "/v1/tokens?x=1")
        .json(&json!({ "name": "x", "role": "viewer" }))
        .send()
        .await
        .refuses(400, "VALIDATION_FAILED");
    assert_eq!(
        api.ask("GET", "/v1/tokens").send().await.json()["items"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn tokens_are_for_admins() {
    let api = Api::new().await;
    for role in [Role::Viewer, Role::Operator, Role::Publisher, Role::Producer] {
        let token = api.token(role, None).await;
        for (method, target) in [
            ("GET", "/v1/tokens"),
            ("GET", "/v1/tokens/x"),
            ("POST", "/v1/tokens"),
            ("DELETE", "/v1/tokens/x"),
        ] {
            // Of the wrong body nothing is told.
            let ask = api.ask(method, target).bearer(&token).json(&json!({ "x": 1 }));
            ask.send().await.refuses(403, "FORBIDDEN");
        }
    }
}

#[tokio::test]
async fn a_tenants_admin_handles_the_tenants_tokens_alone() {
    let api = Api::new().await;
    let globex =
        made(&api, &json!({ "name": "theirs", "role": "viewer", "tenant": "globex" })).await;
    let bound = api.token(Role::Admin, Some("acme")).await;
    let ask = |method: &str, target: &str| api.ask(method, target).bearer(&bound);
    for body in [
        json!({ "name": "x", "role": "viewer" }),
        json!({ "name": "x", "role": "viewer", "tenant": "globex" }),
        json!({ "name": "x", "role": "viewer", "tenant": "nobody" }),
    ] {
        ask("POST", "/v1/tokens").json(&body).send().await.refuses(403, "FORBIDDEN");
    }
    let own = json!({ "name": "ours", "role": "admin", "tenant": "acme" });
    let own = ask("POST", "/v1/tokens").json(&own).send().await.is(201).json();
    let listed = ask("GET", "/v1/tokens").send().await.is(200).json();
    let names: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|token| &token["name"]).collect();
    assert_eq!(names, ["ours", "admin-of-acme"]);
    for (made, status) in [(&globex, 404), (&own, 200)] {
        let target = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
        assert_eq!(ask("GET", &target).send().await.status, status);
        assert_eq!(ask("DELETE", &target).send().await.status, status);
    }
    let entry =
        api.audit().await.into_iter().find(|entry| entry.action == "tokens.delete").unwrap();
    assert_eq!(entry.tenant.unwrap().as_str(), "acme");
}

#[tokio::test]
async fn somebody_can_always_administer() {
    let api = Api::new().await;
    let first = api.ask("GET", "/v1/tokens").send().await.json()["items"][0]["id"].clone();
    let target = format!("/v1/tokens/{}", first.as_str().unwrap());
    made(&api, &json!({ "name": "bound", "role": "admin", "tenant": "acme" })).await;
    made(&api, &json!({ "name": "other", "role": "operator" })).await;
    made(&api, &json!({ "name": "brief", "role": "admin", "expires_at": "2026-11-21T12:00:10Z" }))
        .await;
    api.clock.advance(Duration::from_secs(10));
    api.ask("DELETE", &target).send().await.refuses(409, "CONFLICT");
    let second = made(&api, &json!({ "name": "second", "role": "admin" })).await;
    // Of two that revoke each other at once one stays.
    let other = format!("/v1/tokens/{}", second["id"].as_str().unwrap());
    let (one, two) =
        tokio::join!(api.ask("DELETE", &other).send(), api.ask("DELETE", &target).send());
    let mut told = [one.status, two.status];
    told.sort_unstable();
    assert!(told == [200, 409] || told == [200, 401], "{told:?}");
}

#[tokio::test]
async fn a_repeated_request_makes_one_token() {
    let api = Api::new().await;
    let body = json!({ "name": "ci", "role": "viewer" });
    let ask = || api.ask("POST", "/v1/tokens").header("idempotency-key", "once").json(&body);
    let first = ask().send().await.is(201);
    let again = ask().send().await.is(201);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(
        api.ask("GET", "/v1/tokens").send().await.json()["items"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test]
async fn the_first_token_is_made_once() {
    let api = Api::new().await;
    let node = "test".into();
    let token = crate::new_token();
    let first = async || crate::first_token(&api.store, &api.clock, &node, &token).await.unwrap();
    // There is an admin's already.
    assert!(!first().await);
    let empty = Api::with(super::api::Setup::default()).await;
    let id = empty.ask("GET", "/v1/tokens").send().await.json()["items"][0]["id"].clone();
    let effect =
        store::control::Effect::RevokeToken(id.as_str().unwrap().into(), empty.clock.now());
    let write = store::control::Write { effect, audit: super::api::entry("x"), answer: None };
    let refused = empty.store.write(write).await.unwrap_err();
    assert!(matches!(refused, store::control::WriteError::LastToken), "{refused}");
}

#[tokio::test]
async fn no_token_is_called_as_who_has_none() {
    let api = Api::new().await;
    let bound = api.token(Role::Admin, Some("acme")).await;
    for name in ["system", "System", "ANONYMOUS"] {
        for (token, tenant) in [(&api.admin, Value::Null), (&bound, json!("acme"))] {
            let body = json!({ "name": name, "role": "viewer", "tenant": tenant });
            let told = api.ask("POST", "/v1/tokens").bearer(token).json(&body).send().await;
            assert_eq!(told.json()["message"], "What was sent is not valid.");
            let details = told.refuses(422, "CONFIG_INVALID");
            assert_eq!(super::api::pointers(&details)[0].0, "/name", "{details}");
        }
    }
    made(&api, &json!({ "name": "systems", "role": "viewer" })).await;
}
