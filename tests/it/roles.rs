//! Who may do what at the admin API: one table, asked of the real thing. And what a token of one tenant never gets to.

use crate::harness::api::Api;
use crate::harness::cluster::{Member, Setup};
use crate::harness::document::{self, ACME, Edit as _, GLOBEX};
use crate::harness::{Answer, Upstream, eventually, hoped};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

async fn node(document: &Value) -> Member {
    let mut node = Setup::named("alone", &["gateway", "admin"]).packs().start();
    node.answers().await;
    node.api.publish_first(document).await;
    node.is_ready().await;
    node
}

/// The standard document, of which every exchange is recorded, with a pack for acme and one for all.
fn recorded(upstream: &Upstream) -> Value {
    document::standard(upstream.address)
        .limited(json!([{ "id": "daily", "quota": "100/day", "per": "tenant", "on_store_error": "local" }]))
        .attached("for-all", "header-hygiene", json!({ "set": { "x-edge": "tollgate" } }))
        .attached("for-acme", "header-hygiene", json!({ "set": { "x-acme": "yes" } }))
        .changed(|document| {
            document.entry("routes", "contacts.list")["record"] = json!("required");
            document.entry("attachments", "for-acme")["scope"] = json!({ "tenant": "acme" });
        })
}

/// A token of this role.
async fn token_of(api: &Api, role: &str, tenant: Option<&str>) -> Api {
    let asked = json!({ "name": format!("a {role}"), "role": role, "tenant": tenant });
    let (token, _) = api.new_token(&asked).await;
    api.with(&token)
}

/// What is asked, and who may: `v`iewer, `o`perator, `p`ublisher, `a`dmin; nobody is a producer here.
type Row = (&'static str, Method, &'static str, fn() -> Value, &'static str);

/// Every change is tried only, or is one that changes nothing: each row is asked by every role.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("list plans", Method::GET, "/v1/plans", none, "vopa"),
    ("read the document", Method::GET, "/v1/document", none, "vopa"),
    ("list revisions", Method::GET, "/v1/revisions", none, "vopa"),
    ("read a difference", Method::GET, "/v1/revisions/1/diff?to=1", none, "vopa"),
    ("read the audit", Method::GET, "/v1/audit", none, "vopa"),
    ("list nodes", Method::GET, "/v1/nodes", none, "vopa"),
    ("read usage", Method::GET, "/v1/usage?tenant=acme", none, "vopa"),
    ("list exchanges", Method::GET, "/v1/exchanges", none, "vopa"),
    ("list revocations", Method::GET, "/v1/revocations", none, "vopa"),
    ("list credentials", Method::GET, "/v1/consumers/acme-mobile/credentials", none, "vopa"),
    ("change a plan", Method::PUT, "/v1/plans/spare?dry_run=true", plan, "oa"),
    ("change a tenant", Method::PATCH, "/v1/tenants/acme?dry_run=true", timezone, "oa"),
    ("change a route", Method::PATCH, "/v1/routes/contacts.list?dry_run=true", cost, "oa"),
    ("change an upstream", Method::PATCH, "/v1/upstreams/crm?dry_run=true", timeouts, "oa"),
    ("change a service", Method::PATCH, "/v1/services/contacts?dry_run=true", select, "oa"),
    ("make an issuer", Method::PUT, "/v1/issuers/spare?dry_run=true", issuer, "oa"),
    ("delete a tenant", Method::DELETE, "/v1/tenants/initech?dry_run=true", none, "oa"),
    ("make a credential", Method::POST, "/v1/consumers/acme-mobile/credentials?dry_run=true", empty, "oa"),
    ("change an attachment", Method::PATCH, "/v1/attachments/for-all?dry_run=true", order, "opa"),
    ("name a pack", Method::PUT, "/v1/packs/cidr-allow/versions/1.0.0?dry_run=true", empty, "pa"),
    ("delete a pack", Method::DELETE, "/v1/packs/header-hygiene/versions/1.0.0?dry_run=true", none, "pa"),
    ("roll back", Method::POST, "/v1/revisions/1:rollback", empty, "oa"),
    ("revoke", Method::POST, "/v1/revocations", revocation, "oa"),
    ("reset usage", Method::POST, "/v1/usage/globex:reset", empty, "oa"),
    ("list tokens", Method::GET, "/v1/tokens", none, "a"),
    ("make a token", Method::POST, "/v1/tokens", token, "a"),
    ("erase records", Method::DELETE, "/v1/exchanges?tenant=initech", none, "a"),
    ("rekey", Method::POST, "/v1/secrets:rekey", empty, "a"),
];

fn none() -> Value {
    Value::Null
}

fn empty() -> Value {
    json!({})
}

fn plan() -> Value {
    json!({ "id": "spare", "limits": [] })
}

fn limits() -> Value {
    json!({ "limits": [] })
}

fn timezone() -> Value {
    json!({ "timezone": "Asia/Tokyo" })
}

fn cost() -> Value {
    json!({ "cost": 2 })
}

fn timeouts() -> Value {
    json!({ "timeouts": { "connect": "2s" } })
}

fn select() -> Value {
    json!({ "select": ["path", "default"] })
}

fn issuer() -> Value {
    json!({ "issuer": "https://spare.example", "audiences": ["crm"], "algorithms": ["RS256"], "tenant": "acme",
        "jwks": { "uri": "https://spare.example/jwks.json" } })
}

fn order() -> Value {
    json!({ "order": 5 })
}

fn revocation() -> Value {
    json!({ "kind": "credential", "tenant": "globex", "consumer": "globex-web", "credential": "k1" })
}

fn token() -> Value {
    json!({ "name": "another", "role": "viewer" })
}

async fn ask(api: &Api, method: &Method, path: &str, body: &Value) -> Answer {
    let call = api.call(method.clone(), path);
    match body {
        Value::Null => call.send().await,
        body => call.json(body).send().await,
    }
}

#[tokio::test]
async fn each_role_may_what_its_row_says_and_every_refusal_is_audited() {
    let upstream = Upstream::start().await;
    let node = node(&recorded(&upstream)).await;
    let roles = ["viewer", "operator", "publisher", "producer", "admin"];
    let mut refusals = 0;
    for role in roles {
        let api = token_of(&node.api, role, None).await;
        for (what, method, path, body, allowed) in TABLE {
            let answer = ask(&api, method, path, &body()).await;
            let initial = role.chars().next().unwrap();
            if role != "producer" && allowed.contains(initial) {
                assert!((200..300).contains(&answer.status), "{role}, {what}: {answer:?}");
                if path.contains("dry_run") && *method != Method::POST && *method != Method::DELETE
                {
                    assert_eq!(answer.json()["valid"], true, "{role}, {what}: {answer:?}");
                }
            } else {
                refusals += 1;
                answer.refuses(403, "FORBIDDEN");
                let last = &node.api.audit().await[0];
                assert_eq!(last["refused"], "FORBIDDEN", "{role}, {what}: {last}");
                assert_eq!(last["actor"]["name"], format!("a {role}"), "{role}, {what}: {last}");
                assert_eq!(last["actor"]["role"], role);
                assert_eq!(last["actor"]["source"], "127.0.0.1");
                assert_eq!(last["resource"], path.split('?').next().unwrap());
                assert_eq!(last["request_id"], answer.header("x-request-id"));
            }
        }
        // Whoever may do nothing is refused before what is asked for is looked at.
        let strange = api.put("/v1/plans/spare", &json!({ "colour": "red" }), "\"stale\"");
        let strange = strange.send().await;
        match role {
            "operator" | "admin" => drop(strange.refuses(412, "PRECONDITION_FAILED")),
            "producer" => drop(strange.refuses(403, "FORBIDDEN")),
            // The section is asked with the change, and there is none to be made.
            _ => assert!(matches!(strange.status, 403 | 412), "{strange:?}"),
        }
    }
    println!("{refusals} refusals");
    let revisions = node.api.items("/v1/revisions").await;
    assert_eq!(revisions.len(), 1, "nothing of this changed the document: {revisions:#?}");
}

#[tokio::test]
async fn strangers_are_refused_and_audited_with_their_address() {
    let upstream = Upstream::start().await;
    let node = node(&document::standard(upstream.address)).await;
    let api = &node.api;
    for (call, code) in [
        (api.anonymous(Method::GET, "/v1/plans"), "CREDENTIAL_MISSING"),
        (api.anonymous(Method::DELETE, "/v1/nothing"), "CREDENTIAL_MISSING"),
        (api.with("tga_0000000000").get("/v1/plans"), "CREDENTIAL_INVALID"),
        (api.with(ACME).get("/v1/plans"), "CREDENTIAL_INVALID"),
        (api.anonymous(Method::GET, "/v1/plans").key(ACME), "CREDENTIAL_MISSING"),
    ] {
        let answer = call.send().await;
        answer.refuses(401, code);
        let last = &api.audit().await[0];
        assert_eq!(last["refused"], code, "{last}");
        let actor = &last["actor"];
        assert_eq!((&actor["source"], &actor["role"]), (&json!("127.0.0.1"), &Value::Null));
        assert_eq!(last["request_id"], answer.header("x-request-id"));
    }
}

/// A request, and the status that it gets.
type Beyond = (Method, &'static str, fn() -> Value, u16);

/// What a token of acme asks of what is not acme's, and what it gets.
#[rustfmt::skip]
const BEYOND: &[Beyond] = &[
    (Method::GET, "/v1/document", none, 403),
    (Method::PUT, "/v1/document", empty, 403),
    (Method::GET, "/v1/revisions", none, 403),
    (Method::GET, "/v1/revisions/1", none, 403),
    (Method::GET, "/v1/revisions/1/diff", none, 403),
    (Method::POST, "/v1/revisions/1:rollback", empty, 403),
    (Method::POST, "/v1/secrets:rekey", empty, 403),
    (Method::GET, "/v1/nodes", none, 403),
    (Method::GET, "/v1/tenants/globex", none, 404),
    (Method::GET, "/v1/tenants/globex/consumers", none, 404),
    (Method::GET, "/v1/tenants/globex/consumers/globex-web", none, 404),
    (Method::PATCH, "/v1/tenants/globex/consumers/globex-web", empty, 404),
    (Method::PATCH, "/v1/tenants/globex", timezone, 404),
    (Method::DELETE, "/v1/tenants/globex", none, 404),
    (Method::GET, "/v1/consumers/globex-web/credentials", none, 404),
    (Method::GET, "/v1/consumers/globex-web/credentials/k1", none, 404),
    (Method::POST, "/v1/consumers/globex-web/credentials", empty, 404),
    (Method::POST, "/v1/consumers/acme-mobile/credentials?tenant=globex", empty, 404),
    (Method::DELETE, "/v1/consumers/globex-web/credentials/k1", none, 404),
    (Method::GET, "/v1/usage?tenant=globex", none, 404),
    (Method::POST, "/v1/usage/globex:reset", empty, 404),
    (Method::DELETE, "/v1/exchanges?tenant=globex", none, 404),
    (Method::GET, "/v1/exchanges/from-globex", none, 404),
    (Method::POST, "/v1/revocations", revocation, 422),
    (Method::POST, "/v1/tokens", token, 403),
    (Method::PATCH, "/v1/plans/limited", limits, 403),
    (Method::PATCH, "/v1/attachments/for-all", order, 404),
    (Method::PATCH, "/v1/tenants/acme?nodes=alone", timezone, 403),
];

#[tokio::test]
async fn a_token_of_a_tenant_sees_and_changes_that_tenant_alone() {
    let upstream = Upstream::start().await;
    let node = node(&recorded(&upstream)).await;
    for (key, id) in [(ACME, "from-acme"), (GLOBEX, "from-globex")] {
        node.get("/v1/contacts").key(key).header("x-request-id", id).send().await.is(200);
        eventually("it is recorded", async || {
            let answer = node.api.get(&format!("/v1/exchanges/{id}")).send().await;
            if answer.status == 200 { Ok(()) } else { Err(answer.code()) }
        })
        .await;
    }
    node.api.merge("/v1/tenants/globex", &json!({ "timezone": "UTC" })).await.is(200);
    let (whole, tag) = node.api.read("/v1/document").await;
    let acme = token_of(&node.api, "admin", Some("acme")).await;

    for (method, path, body, status) in BEYOND {
        let call = acme.call(method.clone(), path);
        let call = match method {
            // Whatever it says of tags, it doesn't get there.
            &Method::PUT | &Method::PATCH | &Method::DELETE => call.header("if-match", "*"),
            _ => call,
        };
        let answer = match body() {
            Value::Null => call.send().await,
            body => call.json(&body).send().await,
        };
        assert_eq!(answer.status, *status, "{method} {path}: {answer:?}");
        answer.has_error_body();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("globex-web") || path.contains("globex-web"), "{path}: {text}");
    }
    // What is another's is as absent as what is not there.
    let body = async |path: &str| {
        let answer = acme.get(path).send().await;
        (answer.status, answer.code(), answer.json()["message"].clone())
    };
    assert_eq!(body("/v1/tenants/globex").await, body("/v1/tenants/nobody").await);
    let tenant = json!({ "plan": "limited", "state": "active" });
    for id in ["mine-too", "globex"] {
        let made = acme.create(&format!("/v1/tenants/{id}"), &tenant).send().await;
        made.refuses(404, "NOT_FOUND");
    }
    assert_eq!(node.api.read("/v1/document").await, (whole, tag), "nothing changed");

    lists_hold_what_is_acmes(&acme).await;
    what_is_acmes_is_changed(&acme).await;
}

async fn lists_hold_what_is_acmes(acme: &Api) {
    let ids = async |path: &str| -> Vec<String> {
        let items = acme.items(path).await;
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("/v1/tenants").await, ["acme"]);
    assert_eq!(ids("/v1/attachments").await, ["for-acme"]);
    assert_eq!(ids("/v1/tokens").await.len(), 1, "its own");
    let exchanges = acme.items("/v1/exchanges").await;
    let requests: Vec<_> = exchanges.iter().map(|record| &record["request_id"]).collect();
    assert_eq!(requests, ["from-acme"]);
    assert_eq!((&exchanges[0]["node"], &exchanges[0]["cause"]), (&Value::Null, &Value::Null));
    assert_eq!(acme.items("/v1/exchanges?tenant=globex").await, Vec::<Value>::new());
    let audit = acme.audit().await;
    assert!(!audit.is_empty() && audit.iter().all(|entry| entry["tenant"] == "acme"), "{audit:#?}");
}

async fn what_is_acmes_is_changed(acme: &Api) {
    let changed = acme.merge("/v1/tenants/acme", &timezone()).await;
    assert_eq!(changed.is(200).json()["resource"]["timezone"], "Asia/Tokyo");
    acme.post("/v1/consumers/acme-mobile/credentials").json(&empty()).send().await.is(201);
    acme.merge("/v1/attachments/for-acme", &order()).await.is(200);
    acme.get("/v1/usage?tenant=acme").send().await.is(200);
    acme.post("/v1/usage/acme:reset").json(&empty()).send().await.is(200);
    let own = json!({ "kind": "credential", "tenant": "acme", "consumer": "acme-batch", "credential": "k1" });
    acme.post("/v1/revocations").json(&own).send().await.is(201);
    let viewer = json!({ "name": "own", "role": "viewer", "tenant": "acme" });
    acme.new_token(&viewer).await;
    let erased = acme.call(Method::DELETE, "/v1/exchanges?tenant=acme").send().await;
    assert_eq!(erased.is(200).json()["erased"], 1);
    // It can't move what is its own to others, nor take what is everybody's.
    let (_, tag) = acme.read("/v1/attachments/for-acme").await;
    let moved = json!({ "scope": { "tenant": "globex" } });
    acme.patch("/v1/attachments/for-acme", &moved, &tag).send().await.refuses(403, "FORBIDDEN");
    // What stands in a node's environment may be another tenant's.
    let reaching = json!({ "issuer": "https://own.example", "audiences": ["crm"], "algorithms": ["HS256"],
        "tenant": "acme", "secret": { "env": "TOLLGATE_SECRET_OF_GLOBEX" } });
    acme.create("/v1/issuers/own", &reaching).send().await.refuses(403, "FORBIDDEN");
}

#[tokio::test]
async fn revoked_and_expired_tokens_are_refused_and_the_others_survive_a_restart() {
    let upstream = Upstream::start().await;
    let mut node = node(&document::standard(upstream.address)).await;
    let api = node.api.clone();
    let first = std::fs::read_to_string(node.data().join("admin.token")).unwrap();
    let viewer = json!({ "name": "gone soon", "role": "viewer" });
    let (revoked, made) = api.new_token(&viewer).await;
    let (kept, _) = api.new_token(&viewer).await;
    let end = model::Clock::system().now() + Duration::from_millis(1500);
    let ending = json!({ "name": "ends", "role": "viewer", "expires_at": end.to_string() });
    let (expired, _) = api.new_token(&ending).await;
    for token in [&revoked, &kept, &expired] {
        api.with(token).get("/v1/plans").send().await.is(200);
    }
    let id = made["id"].as_str().unwrap();
    api.call(Method::DELETE, &format!("/v1/tokens/{id}")).send().await.is(200);
    let told = async |token: &str| api.with(token).get("/v1/plans").send().await.code();
    assert_eq!(told(&revoked).await, "CREDENTIAL_INVALID");
    eventually("it expires", async || {
        hoped(told(&expired).await, &"CREDENTIAL_EXPIRED".to_owned())
    })
    .await;
    api.call(Method::DELETE, &format!("/v1/tokens/{id}")).send().await.refuses(404, "NOT_FOUND");

    for kill in [true, false] {
        if kill {
            node.kill();
        } else {
            node.stop().await;
        }
        node.start_again();
        node.is_ready().await;
        assert_eq!(told(&kept).await, "");
        assert_eq!(told(&revoked).await, "CREDENTIAL_INVALID");
        assert_eq!(told(&expired).await, "CREDENTIAL_EXPIRED");
        assert_eq!(std::fs::read_to_string(node.data().join("admin.token")).unwrap(), first);
    }
    // The first token was made once, is told to nobody, and stays while it is the only one.
    assert_eq!(told(first.trim()).await, "");
    assert!(!node.log().contains(first.trim()));
    let made_by_itself =
        |entry: &&Value| entry["action"] == "tokens.create" && entry["actor"]["name"] == "system";
    assert_eq!(api.audit().await.iter().filter(made_by_itself).count(), 1);
    let tokens = api.items("/v1/tokens").await;
    let id = tokens.iter().find(|token| token["name"] == "first").unwrap()["id"].as_str().unwrap();
    api.call(Method::DELETE, &format!("/v1/tokens/{id}")).send().await.refuses(409, "CONFLICT");
}
