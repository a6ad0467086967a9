//! Revocations: of what is there, by who may, once.

use super::api::{Api, pointers};
use model::audit::Entry;
use model::revocation::Revoked;
use model::role::Role;
use serde_json::{Value, json};
use std::time::Duration;

const JTI: &str = r#"{ "kind": "jti", "issuer": "acme-idp", "jti": "t-1" }"#;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn each_kind_is_kept_and_listed_newest_first() {
    let api = Api::new().await;
    let kinds = [
        json_of(JTI),
        json!({ "kind": "subject", "issuer": "globex-idp", "subject": "ada", "until": "2026-11-22T00:00:00Z" }),
        json!({ "kind": "credential", "tenant": "acme", "consumer": "mobile", "credential": "k1" }),
        json!({ "kind": "issuer", "issuer": "acme-idp" }),
    ];
    let mut made = Vec::new();
    for kind in &kinds {
        let told = api.ask("POST", "/v1/revocations").json(kind).send().await.is(201).json();
        for (field, value) in kind.as_object().unwrap() {
            assert_eq!(&told[field], value, "{field}");
        }
        assert_eq!(told["at"], "2026-11-21T12:00:00Z");
        made.insert(0, told);
    }
    let listed = api.ask("GET", "/v1/revocations").send().await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap(), &made);
    let kept = api.store.revocations(api.clock.now()).await.unwrap();
    assert_eq!(kept[0].what, Revoked::Jti { issuer: "acme-idp".into(), jti: "t-1".to_owned() });
    let entries = api.audit().await;
    assert_eq!(entries[0].action, "revocations.create");
    assert_eq!(entries[0].difference, json!({ "what": kinds[3], "until": null }));
    assert_eq!(entries[1].tenant.as_ref().unwrap().as_str(), "acme");
    assert_eq!(entries[2].tenant.as_ref().unwrap().as_str(), "globex");
    // The second is over; then pages.
    api.clock.advance(Duration::from_secs(24 * 3600));
    let first = api.ask("GET", "/v1/revocations?limit=2").send().await.is(200).json();
    let next = format!("/v1/revocations?cursor={}", first["next_cursor"].as_str().unwrap());
    let last = api.ask("GET", &next).send().await.is(200).json();
    assert_eq!(first["items"].as_array().unwrap(), &made[..2]);
    assert_eq!(last["items"].as_array().unwrap(), &made[3..]);
}

#[tokio::test]
async fn what_is_not_there_is_not_revoked() {
    let api = Api::new().await;
    let credential = |tenant: &str, consumer: &str, credential: &str| json!({ "kind": "credential", "tenant": tenant, "consumer": consumer, "credential": credential });
    for (body, expected) in [
        (json!({}), vec![""]),
        (json!({ "kind": "key" }), vec!["/kind"]),
        (json!({ "kind": "jti", "issuer": "acme-idp", "jti": "", "x": 1 }), vec!["/jti", "/x"]),
        (json!({ "kind": "jti", "issuer": "acme-idp", "jti": "x".repeat(513) }), vec!["/jti"]),
        (json!({ "kind": "jti", "issuer": "acme idp" }), vec!["", "/issuer"]),
        (
            json!({ "kind": "issuer", "issuer": "nobody", "until": "2026-11-21T12:00:00Z" }),
            vec!["/until", "/issuer"],
        ),
        (json!({ "kind": "issuer", "issuer": "acme-idp", "until": "soon" }), vec!["/until"]),
        (credential("nobody", "mobile", "k1"), vec!["/tenant"]),
        (credential("acme", "web", "k1"), vec!["/consumer"]),
        (credential("acme", "mobile", "k2"), vec!["/credential"]),
    ] {
        let details = api
            .ask("POST", "/v1/revocations")
            .json(&body)
            .send()
            .await
            .refuses(422, "CONFIG_INVALID");
        let found: Vec<&str> = pointers(&details).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(found, expected, "{body}: {details}");
    }
    assert!(api.store.revocations(api.clock.now()).await.unwrap().is_empty());
}

#[tokio::test]
async fn operators_revoke_and_others_look() {
    let api = Api::new().await;
    for (role, revokes) in [
        (Role::Viewer, false),
        (Role::Publisher, false),
        (Role::Operator, true),
        (Role::Admin, true),
    ] {
        let token = api.token(role, None).await;
        let told =
            api.ask("POST", "/v1/revocations").bearer(&token).json(&json_of(JTI)).send().await;
        assert_eq!(told.status, if revokes { 201 } else { 403 }, "{role:?}");
        api.ask("GET", "/v1/revocations").bearer(&token).send().await.is(200);
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_revokes_and_sees_its_own() {
    let api = Api::new().await;
    let shared = json!({ "issuer": "https://idp.shared.example", "audiences": ["crm"], "algorithms": ["RS256"],
        "tenant_claim": "tenant", "jwks": { "uri": "http://127.0.0.1:9000/jwks" } });
    api.ask("PUT", "/v1/issuers/shared")
        .header("if-none-match", "*")
        .json(&shared)
        .send()
        .await
        .is(201);
    let theirs = json!({ "kind": "subject", "issuer": "globex-idp", "subject": "ada" });
    api.ask("POST", "/v1/revocations").json(&theirs).send().await.is(201);
    let bound = api.token(Role::Operator, Some("acme")).await;
    for (body, pointer) in [
        (theirs, "/issuer"),
        (json!({ "kind": "issuer", "issuer": "shared" }), "/issuer"),
        (
            json!({ "kind": "credential", "tenant": "globex", "consumer": "mobile", "credential": "k1" }),
            "/tenant",
        ),
    ] {
        let ask = api.ask("POST", "/v1/revocations").bearer(&bound).json(&body);
        let details = ask.send().await.refuses(422, "CONFIG_INVALID");
        assert_eq!(pointers(&details)[0].0, pointer);
    }
    for body in [
        json_of(JTI),
        json!({ "kind": "credential", "tenant": "acme", "consumer": "mobile", "credential": "k1" }),
    ] {
        api.ask("POST", "/v1/revocations").bearer(&bound).json(&body).send().await.is(201);
    }
    let listed = api.ask("GET", "/v1/revocations").bearer(&bound).send().await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_repeated_revocation_is_made_once() {
    let api = Api::new().await;
    let ask =
        || api.ask("POST", "/v1/revocations").header("idempotency-key", "r").json(&json_of(JTI));
    let first = ask().send().await.is(201);
    api.clock.advance(Duration::from_secs(60));
    let again = ask().send().await.is(201);
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
    assert_eq!(
        api.store.revocations(api.clock.now()).await.unwrap()[0].at.to_string(),
        "2026-11-21T12:00:00Z"
    );
}

#[tokio::test]
async fn a_lifted_revocation_is_gone_and_the_audit_tells() {
    let api = Api::new().await;
    let told = api.ask("POST", "/v1/revocations").json(&json_of(JTI)).send().await.is(201);
    let (made, target) = (told.json(), told.header("location").to_owned());
    assert_eq!(target, format!("/v1/revocations/{}", made["id"].as_str().unwrap()));
    assert_eq!(api.ask("GET", &target).send().await.is(200).json(), made);
    let before = api.store.feed().await.unwrap();
    for role in [Role::Viewer, Role::Publisher] {
        let token = api.token(role, None).await;
        api.ask("DELETE", &target).bearer(&token).send().await.refuses(403, "FORBIDDEN");
    }
    let operator = api.token(Role::Operator, None).await;
    let lifted = api.ask("DELETE", &target).bearer(&operator).send().await.is(200).json();
    assert_eq!(lifted, made);
    assert_eq!(api.store.feed().await.unwrap(), before + 1, "gateways look");
    assert!(api.store.revocations(api.clock.now()).await.unwrap().is_empty());
    for method in ["GET", "DELETE"] {
        for target in [target.as_str(), "/v1/revocations/none"] {
            api.ask(method, target).send().await.refuses(404, "NOT_FOUND");
        }
    }
    let entries = api.audit().await;
    let is_lift = |e: &&Entry| e.action == "revocations.delete" && e.refused.is_none();
    let entry = entries.iter().find(is_lift).unwrap();
    assert_eq!((&*entry.resource, &*entry.actor.name), (&*target, "operator-of-all"));
    assert_eq!(entry.difference, json!({ "what": json_of(JTI), "until": null }));
    assert_eq!(entry.tenant.as_ref().unwrap().as_str(), "acme");
}

#[tokio::test]
async fn a_revocation_of_another_tenant_is_as_absent_as_one_that_is_over() {
    let api = Api::new().await;
    let revoke = async |body: &Value| {
        let told = api.ask("POST", "/v1/revocations").json(body).send().await.is(201);
        told.header("location").to_owned()
    };
    let theirs = revoke(&json!({ "kind": "issuer", "issuer": "globex-idp" })).await;
    let own = revoke(&json_of(JTI)).await;
    let brief = json!({ "kind": "issuer", "issuer": "acme-idp", "until": "2026-11-21T12:00:10Z" });
    let over = revoke(&brief).await;
    api.clock.advance(Duration::from_secs(10));
    let bound = api.token(Role::Operator, Some("acme")).await;
    for (target, status) in [(&theirs, 404), (&over, 404), (&own, 200)] {
        for method in ["GET", "DELETE"] {
            let told = api.ask(method, target).bearer(&bound).send().await;
            assert_eq!(told.status, status, "{method} {target}: {}", told.text);
        }
    }
    let left = api.ask("GET", "/v1/revocations").send().await.is(200).json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left["items"][0]["issuer"], "globex-idp");
}
