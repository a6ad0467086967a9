//! A token that is bound to a tenant sees and changes that tenant alone.

use super::api::{Api, Setup, pointers, standard};
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

#[tokio::test]
async fn what_is_hidden_from_a_bound_token_is_audited_as_a_refusal_and_what_is_absent_is_not() {
    let (api, token) = bound().await;
    let others = api.token(Role::Viewer, Some("globex")).await;
    let tokens = api.ask("GET", "/v1/tokens").send().await.is(200).json();
    let of = |name: &str| {
        let items = tokens["items"].as_array().unwrap();
        let found = items.iter().find(|token| token["name"] == name).unwrap();
        format!("/v1/tokens/{}", found["id"].as_str().unwrap())
    };
    let (own, theirs) = (of("admin-of-acme"), of("viewer-of-globex"));
    let issuer = json!({ "issuer": "https://new.example", "audiences": ["crm"], "algorithms": ["HS256"],
        "secret": { "value": "a-secret-of-acme-alone-0123456789" }, "tenant": "acme" });
    let revocation = json!({ "kind": "issuer", "issuer": "globex-idp" });
    for (method, target, body, status) in [
        ("GET", "/v1/tenants/globex", None, 404),
        ("PATCH", "/v1/tenants/globex", Some(json!({})), 404),
        ("DELETE", "/v1/tenants/globex", None, 404),
        ("GET", "/v1/tenants/globex/consumers", None, 404),
        ("GET", "/v1/consumers/mobile/credentials?tenant=globex", None, 404),
        ("GET", "/v1/issuers/globex-idp", None, 404),
        ("PATCH", "/v1/issuers/globex-idp", Some(json!({})), 404),
        ("PUT", "/v1/issuers/globex-idp", Some(issuer.clone()), 412),
        ("DELETE", "/v1/attachments/globex-header", None, 404),
        ("GET", &theirs, None, 404),
        ("DELETE", &theirs, None, 404),
        ("GET", "/v1/usage?tenant=globex", None, 404),
        ("POST", "/v1/usage/globex:reset", Some(json!({})), 404),
        ("DELETE", "/v1/exchanges?tenant=globex", None, 404),
        ("POST", "/v1/revocations", Some(revocation), 422),
    ] {
        let before = api.audit().await.len();
        let mut ask = api.ask(method, target).bearer(&token).header("if-match", "*");
        if let Some(body) = &body {
            ask = ask.json(body);
        }
        ask.send().await.is(status);
        let mut entries = api.audit().await;
        assert_eq!(entries.len(), before + 1, "{method} {target}");
        let entry = entries.remove(0);
        assert_eq!(entry.refused.map(|code| code.as_str()), Some("FORBIDDEN"), "{target}");
        assert_eq!(entry.actor.name, "admin-of-acme");
        assert_eq!(entry.tenant.as_ref().map(|tenant| tenant.as_str()), Some("acme"), "{target}");
        assert_eq!(entry.resource, target.split('?').next().unwrap());
    }
    // Whoever was probed reads nothing that another tenant's token wrote.
    let seen = api.ask("GET", "/v1/audit").bearer(&others).send().await.is(200).json();
    assert_eq!(seen["items"], json!([]));
    let before = api.audit().await.len();
    for target in
        ["/v1/issuers/none", "/v1/tenants/acme/consumers/none", "/v1/tokens/none", "/v1/none"]
    {
        api.ask("GET", target).bearer(&token).send().await.refuses(404, "NOT_FOUND");
    }
    api.ask("GET", &own).bearer(&token).send().await.is(200);
    // To who is bound to none, nothing is hidden.
    api.ask("GET", "/v1/tenants/none").send().await.refuses(404, "NOT_FOUND");
    assert_eq!(api.audit().await.len(), before);
}

#[tokio::test]
async fn a_token_of_a_tenant_learns_of_errors_in_what_it_sent_alone() {
    let mut document = standard();
    document["services"][0]["versions"][0]["extensions"] =
        json!([{ "tenant": "acme", "until": "2027-12-01T00:00:00Z" }]);
    document["attachments"] = json!([]);
    let setup = Setup { document: Some(document.clone()), keys: vec!['1'], ..Setup::default() };
    let api = Api::with(setup).await;
    let bound = api.token(Role::Operator, Some("acme")).await;
    let ask = |token: &str, method: &str, target: &str| {
        api.ask(method, target).bearer(token).header("if-match", "*")
    };
    // A prefix of globex' key, and the name of its issuer.
    let key =
        |prefix: &str| json!({ "hash": format!("sha256:{}", "cd".repeat(32)), "prefix": prefix });
    let consumer = json!({ "credentials": [{ "id": "k1", "api_key": key("tg_live_globex") }] });
    let mut issuer = document["issuers"][0].clone();
    issuer["issuer"] = "https://idp.globex.example".into();
    for (target, body, pointer, place) in [
        (
            "/v1/tenants/acme/consumers/mobile",
            &consumer,
            "/credentials/0/api_key/prefix",
            "/tenants/0/consumers/0/credentials/0/api_key/prefix",
        ),
        ("/v1/issuers/acme-idp", &issuer, "/issuer", "/issuers/0/issuer"),
    ] {
        let details = ask(&bound, "PUT", target).json(body).send().await;
        let details = details.refuses(422, "CONFIG_INVALID");
        assert_eq!(pointers(&details), [(pointer, place)], "{details}");
        let tried = ask(&bound, "PUT", &format!("{target}?dry_run=true")).json(body).send().await;
        let tried = tried.is(200).json();
        assert_eq!((&tried["valid"], &tried["errors"]), (&json!(false), &details["errors"]));
        assert!(!details.to_string().contains("globex"), "{details}");
        // Who sees all sees both.
        let details = ask(&api.admin, "PUT", target).json(body).send().await;
        assert_eq!(pointers(&details.refuses(422, "CONFIG_INVALID")).len(), 2);
    }
    // What lies elsewhere is told as a whole.
    api.ask("DELETE", "/v1/issuers/acme-idp").header("if-match", "*").send().await.is(200);
    let details = ask(&bound, "DELETE", "/v1/tenants/acme").send().await;
    let details = details.refuses(422, "CONFIG_INVALID");
    let message = "does not go with what stands elsewhere in the document";
    let told = json!([{ "pointer": "", "document_pointer": "", "message": message }]);
    assert_eq!(details["errors"], told);
    let details = ask(&api.admin, "DELETE", "/v1/tenants/acme").send().await;
    let details = details.refuses(422, "CONFIG_INVALID");
    assert_eq!(pointers(&details)[0].1, "/services/0/versions/0/extensions/0/tenant");
}
