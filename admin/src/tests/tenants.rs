//! A token that is bound to a tenant sees and changes that tenant alone.

use super::api::{Api, standard};
use model::role::Role;
use serde_json::{Value, json};

async fn bound() -> (Api, String) {
    let api = Api::new().await;
    let token = api.token(Role::Admin, Some("acme")).await;
    (api, token)
}

#[tokio::test]
async fn a_bound_token_reads_its_tenant_alone() {
    let (api, token) = bound().await;
    for (target, status) in [
        ("/v1/tenants/acme", 200),
        ("/v1/tenants/acme/consumers", 200),
        ("/v1/tenants/acme/consumers/mobile", 200),
        ("/v1/consumers/mobile/credentials", 200),
        ("/v1/consumers/mobile/credentials/k1", 200),
        ("/v1/attachments/acme-header", 200),
        ("/v1/issuers/acme-idp", 200),
        ("/v1/tenants/globex", 404),
        ("/v1/tenants/nobody", 404),
        ("/v1/tenants/globex/consumers", 404),
        ("/v1/tenants/globex/consumers/mobile", 404),
        ("/v1/consumers/mobile/credentials?tenant=globex", 404),
        ("/v1/consumers/web/credentials", 404),
        ("/v1/attachments/globex-header", 404),
        ("/v1/attachments/header", 404),
        ("/v1/issuers/globex-idp", 404),
        ("/v1/document", 403),
        ("/v1/plans", 403),
        ("/v1/plans/gold", 403),
        ("/v1/routes", 403),
        ("/v1/services/contacts/versions/v1", 403),
        ("/v1/packs", 403),
    ] {
        let told = api.ask("GET", target).bearer(&token).send().await.is(status);
        assert!(!told.text.contains("globex"), "{target}: {}", told.text);
    }
    for (list, ids) in [
        ("/v1/tenants", ["acme"]),
        ("/v1/attachments", ["acme-header"]),
        ("/v1/issuers", ["acme-idp"]),
    ] {
        let told = api.ask("GET", list).bearer(&token).send().await.is(200).json();
        let found: Vec<_> = told["items"].as_array().unwrap().iter().map(|i| &i["id"]).collect();
        assert_eq!(found, ids, "{list}");
    }
}

#[tokio::test]
async fn a_bound_token_changes_its_tenant_alone() {
    let (api, token) = bound().await;
    let attachment = |id: &str, scope: Value| {
        json!({ "id": id, "pack": "require-header@1.0.0", "scope": scope, "phases": ["request"],
            "mode": "observe", "on_failure": "open" })
    };
    let own = json!({ "tenant": "acme" });
    let secret = json!({ "value": "a-secret-of-acme-alone-0123456789" });
    let issuer = json!({ "id": "new", "issuer": "https://new.example", "audiences": ["crm"], "algorithms": ["HS256"],
        "secret": secret, "tenant": "acme" });
    let moved = |pointer: &str, value: Value| {
        let mut issuer = issuer.clone();
        *issuer.pointer_mut(pointer).unwrap() = value;
        issuer
    };
    let everybodys = json!({ "id": "new", "issuer": "https://new.example", "audiences": ["crm"], "algorithms": ["HS256"],
        "secret": secret, "tenant_claim": "tenant" });
    for (method, target, body, status) in [
        ("PATCH", "/v1/tenants/acme", json!({ "state": "suspended" }), 200),
        ("PATCH", "/v1/tenants/acme/consumers/mobile", json!({ "scopes": [] }), 200),
        ("PUT", "/v1/attachments/own", attachment("own", own.clone()), 201),
        ("PUT", "/v1/issuers/new", issuer.clone(), 201),
        ("PATCH", "/v1/tenants/globex", json!({ "state": "suspended" }), 404),
        ("PUT", "/v1/tenants/fresh", json!({ "plan": "gold", "state": "active" }), 404),
        ("PATCH", "/v1/tenants/globex/consumers/web", json!({ "scopes": [] }), 404),
        ("PUT", "/v1/tenants/globex/consumers/web", json!({ "scopes": [] }), 404),
        // Neither made for, nor moved to, another tenant or everybody.
        ("PUT", "/v1/attachments/other", attachment("other", json!({ "tenant": "globex" })), 403),
        ("PUT", "/v1/attachments/other", attachment("other", json!({})), 403),
        ("PATCH", "/v1/attachments/acme-header", json!({ "scope": { "tenant": "globex" } }), 403),
        ("PATCH", "/v1/attachments/acme-header", json!({ "scope": { "tenant": null } }), 403),
        ("PATCH", "/v1/attachments/acme-header", json!({ "scope": null }), 403),
        ("PUT", "/v1/issuers/new", moved("/tenant", json!("globex")), 403),
        ("PUT", "/v1/issuers/new", everybodys, 403),
        // Its id is taken, and that is all that is told.
        ("PUT", "/v1/attachments/globex-header", attachment("globex-header", own.clone()), 409),
        ("PATCH", "/v1/attachments/globex-header", json!({ "order": 1 }), 404),
        ("DELETE", "/v1/attachments/header", json!(null), 404),
        ("DELETE", "/v1/issuers/globex-idp", json!(null), 404),
        ("PATCH", "/v1/plans/gold", json!({ "limits": [] }), 403),
        ("PUT", "/v1/document", standard(), 403),
        ("PATCH", "/v1/tenants/acme?nodes=a", json!({ "state": "active" }), 403),
        ("POST", "/v1/secrets:rekey", json!({}), 403),
    ] {
        let creates = method == "PUT" && matches!(status, 201 | 409);
        let (name, value) = if creates { ("if-none-match", "*") } else { ("if-match", "*") };
        let (name, value) = match (method, target) {
            ("PUT", "/v1/attachments/other") => ("if-none-match", "*"),
            _ => (name, value),
        };
        let mut ask = api.ask(method, target).bearer(&token).header(name, value);
        if method != "DELETE" {
            ask = ask.json(&body);
        }
        let told = ask.send().await.is(status);
        if status >= 400 {
            assert!(!told.text.contains("globex"), "{method} {target}: {}", told.text);
        }
    }
    // What was refused changed nothing of what is others'.
    let (now, was) = (api.document().await, standard());
    for pointer in [
        "/plans",
        "/packs",
        "/services",
        "/tenants/1",
        "/attachments/1",
        "/attachments/2",
        "/issuers/1",
    ] {
        assert_eq!(now.pointer(pointer), was.pointer(pointer), "{pointer}");
    }
}

#[tokio::test]
async fn a_bound_token_names_no_file_no_variable_and_no_address_for_a_node_to_read() {
    let (api, token) = bound().await;
    let issuer = |keys: Value, algorithm: &str, field: &str| {
        let mut issuer = json!({ "issuer": "https://h.example", "audiences": ["crm"], "algorithms": [algorithm], "tenant": "acme" });
        issuer[field] = keys;
        issuer
    };
    for (body, status) in [
        (issuer(json!({ "env": "TOLLGATE_SECRET_GLOBEX" }), "HS256", "secret"), 403),
        (issuer(json!({ "file": "/run/secrets/globex" }), "HS256", "secret"), 403),
        (issuer(json!({ "file": "/etc/keys.json" }), "RS256", "jwks"), 403),
        (issuer(json!({ "uri": "http://127.0.0.1:9000/jwks" }), "RS256", "jwks"), 403),
        (issuer(json!({ "value": "a-secret-of-acme-alone-0123456789" }), "HS256", "secret"), 201),
    ] {
        let ask = api.ask("PUT", "/v1/issuers/h").bearer(&token).header("if-none-match", "*");
        ask.json(&body).send().await.is(status);
    }
    // What the operator put there stays, whatever else the tenant changes.
    let ask = api.ask("PATCH", "/v1/issuers/h").header("if-match", "*");
    let named = json!({ "secret": { "sealed": null, "env": "TOLLGATE_SECRET_ACME" } });
    ask.json(&named).send().await.is(200);
    let ask = api.ask("PATCH", "/v1/issuers/h").bearer(&token).header("if-match", "*");
    ask.json(&json!({ "leeway": "10s" })).send().await.is(200);
}

#[tokio::test]
async fn a_bound_token_chooses_among_its_own_consumers() {
    let (api, token) = bound().await;
    // Both tenants have a consumer `mobile`.
    let told = api.ask("POST", "/v1/consumers/mobile/credentials").bearer(&token);
    let told = told.json(&json!({})).send().await.is(201).json();
    assert_eq!(told["credential"]["tenant"], "acme");
    let details = api.ask("GET", "/v1/consumers/mobile/credentials").send().await;
    assert_eq!(details.refuses(409, "CONFLICT")["tenants"], json!(["acme", "globex"]));
    let entry = api.audit().await.remove(0);
    assert_eq!(entry.tenant.unwrap().as_str(), "acme");
}
