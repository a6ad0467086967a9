//! Which role may what, and what becomes of refusals.

use super::api::{Api, FROM};
use crate::acting::{REFUSED_TOKENS_MAX, Refusals};
use crate::{first_token, new_token, token};
use model::id::TokenId;
use model::role::Role;
use serde_json::{Value, json};

/// A request of each kind: method, target, what is sent, and the part of the document that it changes.
fn requests() -> Vec<(&'static str, &'static str, Option<Value>, &'static str)> {
    let plan = json!({ "id": "gold", "limits": [{ "id": "open", "concurrency": 9, "per": "tenant", "on_store_error": "open" }] });
    let upstream = json!({ "id": "crm", "targets": [{ "address": "127.0.0.1:9001" }] });
    let patch = |field: &str, value: Value| Some(json!({ field: value }));
    vec![
        ("GET", "/v1/document", None, "read"),
        ("GET", "/v1/plans", None, "read"),
        ("GET", "/v1/tenants/acme", None, "read"),
        ("GET", "/v1/packs/require-header/versions/1.0.0", None, "read"),
        ("GET", "/v1/consumers/web/credentials", None, "read"),
        ("PUT", "/v1/plans/gold", Some(plan), "plans"),
        ("PUT", "/v1/upstreams/crm", Some(upstream), "upstreams"),
        ("PATCH", "/v1/issuers/acme-idp", patch("typ", json!("at+jwt")), "issuers"),
        ("PATCH", "/v1/services/contacts", patch("select", json!(["path"])), "services"),
        (
            "PATCH",
            "/v1/services/contacts/versions/v1",
            patch("docs", json!("https://x.example")),
            "services",
        ),
        ("PATCH", "/v1/routes/contacts.create", patch("cost", json!(5)), "routes"),
        ("PATCH", "/v1/tenants/acme", patch("state", json!("suspended")), "tenants"),
        ("PATCH", "/v1/tenants/globex/consumers/web", patch("scopes", json!(["a"])), "tenants"),
        ("POST", "/v1/consumers/web/credentials", Some(json!({})), "tenants"),
        (
            "POST",
            "/v1/consumers/mobile/credentials/k1:rotate?tenant=acme",
            Some(json!({})),
            "tenants",
        ),
        ("DELETE", "/v1/consumers/mobile/credentials/k1?tenant=acme", None, "tenants"),
        (
            "PATCH",
            "/v1/packs/require-header/versions/1.0.0",
            patch("digest", json!(format!("sha256:{}", "0".repeat(64)))),
            "packs",
        ),
        ("PATCH", "/v1/attachments/header", patch("order", json!(3)), "attachments"),
        ("DELETE", "/v1/attachments/header", None, "attachments"),
        ("POST", "/v1/secrets:rekey", Some(json!({})), "administer"),
    ]
}

#[tokio::test]
async fn each_role_may_what_its_row_says() {
    let operator =
        ["read", "issuers", "upstreams", "services", "routes", "plans", "tenants", "attachments"];
    for (role, may) in [
        (Role::Viewer, &["read"] as &[_]),
        (Role::Operator, &operator),
        (Role::Publisher, &["read", "packs", "attachments"]),
        (Role::Producer, &[]),
    ] {
        let api = Api::new().await;
        let token = api.token(role, None).await;
        for (method, target, body, changes) in requests() {
            let before = (api.revision().await, api.document().await);
            let mut ask = api.ask(method, target).bearer(&token).header("if-match", "*");
            if let Some(body) = &body {
                ask = ask.json(body);
            }
            let told = ask.send().await;
            if may.contains(&changes) {
                assert!(
                    (200..300).contains(&told.status),
                    "{role:?} {method} {target}: {}",
                    told.text
                );
                continue;
            }
            told.refuses(403, "FORBIDDEN");
            assert_eq!((api.revision().await, api.document().await), before, "{role:?} {target}");
            let entry = api.audit().await.remove(0);
            assert_eq!(entry.refused.map(|code| code.as_str()), Some("FORBIDDEN"), "{target}");
            assert_eq!(entry.actor.role, Some(role));
            assert_eq!(entry.actor.source, FROM);
            assert_eq!(entry.resource, target.split('?').next().unwrap());
        }
    }
}

#[tokio::test]
async fn a_whole_document_is_judged_by_the_sections_that_it_changes() {
    let api = Api::new().await;
    let publisher = api.token(Role::Publisher, None).await;
    let operator = api.token(Role::Operator, None).await;
    for (token, pointer, value, status) in [
        (&publisher, "/attachments/2/mode", json!("observe"), 200),
        (&publisher, "/plans/1/limits", json!([]), 403),
        (&operator, "/plans/1/limits", json!([]), 200),
        (&operator, "/packs/0/version", json!("1.0.1"), 403),
        (&operator, "/attachments/2/mode", json!("enforce"), 200),
    ] {
        let mut document = api.document().await;
        *document.pointer_mut(pointer).unwrap() = value;
        for target in ["/v1/document?dry_run=true", "/v1/document"] {
            let ask = api.ask("PUT", target).bearer(token).header("if-match", "*");
            ask.json(&document).send().await.is(status);
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_live_is_refused() {
    let api = Api::new().await;
    for (value, code) in [
        (None, "CREDENTIAL_MISSING"),
        (Some("Bearer wrong"), "CREDENTIAL_INVALID"),
        (Some("Bearer "), "CREDENTIAL_INVALID"),
        (Some("Basic dXNlcjpwYXNz"), "CREDENTIAL_INVALID"),
        (Some(&*format!("Bearer {}", "x".repeat(10_000))), "CREDENTIAL_INVALID"),
    ] {
        for target in ["/v1/document", "/v1/plans/gold", "/v1/nothing", "/nothing"] {
            let mut ask = api.stranger("GET", target);
            if let Some(value) = value {
                ask = ask.header("authorization", value);
            }
            let told = ask.send().await;
            assert!(told.header("www-authenticate").starts_with("Bearer "), "{target}");
            told.refuses(401, code);
        }
    }
}

#[tokio::test]
async fn a_token_ends_when_it_expires_or_is_revoked() {
    let api = Api::new().await;
    let now = api.clock.now();
    let hour = jiff::SignedDuration::from_hours(1);
    for (expires, revoked, code) in [
        (Some(now), None, "CREDENTIAL_EXPIRED"),
        (Some(now - hour), None, "CREDENTIAL_EXPIRED"),
        (Some(now + hour), Some(now), "CREDENTIAL_INVALID"),
        (None, Some(now - hour), "CREDENTIAL_INVALID"),
    ] {
        let token = api.ended(expires, revoked).await;
        api.ask("GET", "/v1/plans").bearer(&token).send().await.refuses(401, code);
    }
    let token = api.ended(Some(now + hour), None).await;
    api.ask("GET", "/v1/plans").bearer(&token).send().await.is(200);
    api.clock.advance(std::time::Duration::from_secs(3600));
    let ask = api.ask("GET", "/v1/plans").bearer(&token);
    ask.send().await.refuses(401, "CREDENTIAL_EXPIRED");
}

#[tokio::test]
async fn the_first_token_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("first.db").display());
    let store = store::Store::open(&url).await.unwrap();
    let (clock, node) = (model::Clock::system(), "n1".into());
    let [one, two] = [new_token(), new_token()];
    assert_ne!(one, two);
    assert!(one.starts_with("tga_") && one.len() == 68);
    assert!(first_token(&store, &clock, &node, &one).await.unwrap());
    assert!(!first_token(&store, &clock, &node, &two).await.unwrap());
    let known = store.token_of(&token::hash(&one)).await.unwrap().unwrap();
    assert_eq!((known.role, known.tenant), (Role::Admin, None));
    assert_eq!(store.token_of(&token::hash(&two)).await.unwrap(), None);
}

#[tokio::test]
async fn strangers_are_audited_but_cannot_fill_the_audit() {
    let api = Api::new().await;
    for _ in 0..70 {
        api.stranger("GET", "/v1/plans").bearer("wrong").send().await.is(401);
    }
    let entries = api.audit().await;
    assert_eq!(entries.len(), 60);
    let entry = &entries[0];
    assert_eq!((entry.actor.name.as_str(), entry.actor.source.as_str()), ("anonymous", FROM));
    assert_eq!((entry.action.as_str(), entry.actor.role), ("plans.get", None));
    // The next minute is another one.
    api.clock.advance(std::time::Duration::from_secs(60));
    api.stranger("GET", "/v1/plans").send().await.is(401);
    assert_eq!(api.audit().await.len(), 61);
}

#[tokio::test]
async fn no_token_can_fill_the_audit_with_its_refusals_nor_keep_others_out() {
    let api = Api::new().await;
    let [one, other] = [api.token(Role::Viewer, None).await, api.token(Role::Producer, None).await];
    let bound = api.token(Role::Admin, Some("acme")).await;
    let refused = async |token: &str, count: usize| {
        for _ in 0..count {
            let ask = api.ask("DELETE", "/v1/tenants/globex").bearer(token);
            ask.header("if-match", "*").send().await;
        }
        let entries = api.audit().await;
        ["viewer-of-all", "producer-of-all", "admin-of-acme"]
            .map(|name| entries.iter().filter(|entry| entry.actor.name == name).count())
    };
    assert_eq!(refused(&one, 70).await, [60, 0, 0]);
    assert_eq!(refused(&other, 70).await, [60, 60, 0]);
    assert_eq!(refused(&bound, 70).await, [60, 60, 60], "what is hidden counts as well");
    api.stranger("GET", "/v1/plans").send().await.is(401);
    assert_eq!(api.audit().await[0].actor.name, "anonymous");
    // The next minute is another one.
    api.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(refused(&one, 1).await, [61, 60, 60]);
}

#[test]
fn refusals_of_more_tokens_than_are_counted_are_not_audited_and_strangers_still_are() {
    let (refusals, now) = (Refusals::default(), 1_700_000_000_000_000);
    let token = |number: usize| TokenId::from(number.to_string().as_str());
    for number in 0..REFUSED_TOKENS_MAX {
        assert!(refusals.may_note(Some(&token(number)), now), "{number}");
    }
    assert!(!refusals.may_note(Some(&token(REFUSED_TOKENS_MAX)), now));
    assert!(refusals.may_note(Some(&token(0)), now));
    assert!(refusals.may_note(None, now));
    assert!(refusals.may_note(Some(&token(REFUSED_TOKENS_MAX)), now + 60_000_000));
}

#[tokio::test]
async fn what_was_done_is_in_the_audit_with_who_when_and_what() {
    let api = Api::new().await;
    let token = api.token(Role::Operator, None).await;
    let told = api
        .ask("PATCH", "/v1/tenants/acme")
        .bearer(&token)
        .header("x-request-id", "order-12345")
        .header("if-match", "*")
        .json(&json!({ "plan": "free" }))
        .send()
        .await
        .is(200);
    let entry = api.audit().await.remove(0);
    assert_eq!(entry.actor.name, "operator-of-all");
    assert_eq!((entry.actor.role, entry.actor.source.as_str()), (Some(Role::Operator), FROM));
    assert_eq!(entry.action, "tenants.patch");
    assert_eq!(entry.resource, "/v1/tenants/acme");
    assert_eq!(entry.tenant.as_ref().map(|tenant| tenant.as_str()), Some("acme"));
    assert_eq!((entry.request_id.as_str(), entry.at), ("order-12345", api.clock.now()));
    assert_eq!((entry.revision, entry.refused), (Some(2), None));
    let difference = json!([{ "op": "replace", "path": "/tenants/0/plan", "value": "free" }]);
    assert_eq!(entry.difference, difference);
    assert_eq!(told.json()["difference"], difference);
}
