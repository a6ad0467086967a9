//! Changes of resources: what they become, what they are refused for, and what they leave alone.

use super::api::{Api, pointers, standard};
use serde_json::{Value, json};

#[tokio::test]
async fn every_kind_of_resource_is_made_read_changed_and_deleted() {
    let api = Api::new().await;
    let upstream = json!({ "targets": [{ "address": "127.0.0.1:9100" }] });
    let version = json!({ "upstream": "crm", "state": "active" });
    let route = json!({ "service": "contacts", "match": { "path": "/new", "methods": ["GET"] },
        "authenticate": { "any_of": ["jwt"] } });
    let issuer = json!({ "issuer": "https://new.example", "audiences": ["crm"], "algorithms": ["ES256"],
        "jwks": { "uri": "https://new.example/jwks" }, "tenant": "acme" });
    let attachment = json!({ "pack": "require-header@1.0.0", "phases": ["request"], "mode": "observe", "on_failure": "open" });
    let service = json!({ "select": ["default"], "versions": [{ "name": "v1", "upstream": "crm", "state": "active", "default": true }] });
    for (target, body, patch) in [
        ("/v1/issuers/new", issuer, json!({ "leeway": "5s" })),
        ("/v1/upstreams/new", upstream, json!({ "timeouts": { "connect": "2s" } })),
        ("/v1/services/new", service, json!({ "select": ["header", "default"] })),
        ("/v1/services/contacts/versions/v3", version, json!({ "docs": "https://x.example" })),
        ("/v1/routes/new", route, json!({ "cost": 7 })),
        (
            "/v1/plans/new",
            json!({ "limits": [] }),
            json!({ "limits": [{ "id": "open", "concurrency": 3, "per": "tenant", "on_store_error": "open" }] }),
        ),
        (
            "/v1/tenants/new",
            json!({ "plan": "gold", "state": "active" }),
            json!({ "timezone": "Europe/Berlin" }),
        ),
        ("/v1/tenants/acme/consumers/new", json!({}), json!({ "scopes": ["contacts:write"] })),
        (
            "/v1/packs/require-header/versions/2.0.0",
            json!({}),
            json!({ "digest": format!("sha256:{}", "0".repeat(64)) }),
        ),
        ("/v1/attachments/new", attachment, json!({ "order": 4 })),
    ] {
        let before = api.document().await;
        let told = api.ask("PUT", target).header("if-none-match", "*").json(&body).send().await;
        let made = told.is(201).json()["resource"].clone();
        let (read, tag) = api.read(target).await;
        assert_eq!(read, made, "{target}");
        // The ids of the path are filled in.
        assert_eq!(
            read.as_object().unwrap().len(),
            body.as_object().unwrap().len() + ids(target),
            "{target}"
        );
        let put = api.ask("PUT", target).header("if-match", &tag).json(&body).send().await.is(200);
        assert_eq!(put.json()["difference"], json!([]), "{target}: PUT is idempotent");
        let told = api.ask("PATCH", target).header("if-match", &tag).json(&patch).send().await;
        let changed = told.is(200).json()["resource"].clone();
        let mut merged = made.clone();
        json_patch::merge(&mut merged, &patch);
        assert_eq!(changed, merged, "{target}");
        api.ask("GET", target).header("if-none-match", &tag).send().await.is(200);
        let (_, tag) = api.read(target).await;
        let told = api.ask("DELETE", target).header("if-match", &tag).send().await.is(200);
        assert_eq!((told.json().get("resource"), told.header("etag")), (None, ""), "{target}");
        api.ask("GET", target).send().await.refuses(404, "NOT_FOUND");
        assert_eq!(strip(api.document().await), strip(before), "{target}");
    }
}

/// How many of a resource's fields stand in its path.
fn ids(target: &str) -> usize {
    if target.starts_with("/v1/packs/") { 2 } else { 1 }
}

/// A document without empty lists, which say the same as absent ones.
fn strip(mut document: Value) -> Value {
    for entry in document["tenants"].as_array_mut().unwrap() {
        let entry = entry.as_object_mut().unwrap();
        if entry.get("consumers").is_some_and(|list| list == &json!([])) {
            entry.remove("consumers");
        }
    }
    document
}

#[tokio::test]
async fn a_merge_patch_is_merged_as_rfc_7396_says() {
    let api = Api::new().await;
    let target = "/v1/tenants/acme";
    for (patch, pointer, expected) in [
        (json!({ "pins": { "contacts": "v2" } }), "/pins", Some(json!({ "contacts": "v2" }))),
        (json!({ "pins": { "contacts": null } }), "/pins", Some(json!({}))),
        (json!({ "pins": null }), "/pins", None),
        (json!({ "consumers": [] }), "/consumers", Some(json!([]))),
        (json!({ "id": null, "state": "suspended" }), "/id", Some(json!("acme"))),
        (json!({}), "/state", Some(json!("suspended"))),
    ] {
        let ask = api.ask("PATCH", target).header("if-match", "*");
        let ask = ask.header("content-type", "application/merge-patch+json");
        ask.body(patch.to_string()).send().await.is(200);
        let (tenant, _) = api.read(target).await;
        assert_eq!(tenant.pointer(pointer).cloned(), expected, "{patch}");
    }
    for patch in [json!([]), json!("x"), json!(null), json!({ "plan": null })] {
        let ask = api.ask("PATCH", target).header("if-match", "*").json(&patch);
        ask.send().await.refuses(422, "CONFIG_INVALID");
    }
}

#[tokio::test]
async fn errors_point_into_what_was_sent_and_into_the_document() {
    let api = Api::new().await;
    let limit = json!({ "id": "burst", "rate": "much", "colour": "red", "per": "tenant", "on_store_error": "local" });
    let unplanned = json!({ "plan": "platinum", "state": "asleep" });
    for (method, target, body, expected) in [
        (
            "PUT",
            "/v1/plans/free",
            json!({ "limits": [limit] }),
            vec![
                ("/limits/0/colour", "/plans/1/limits/0/colour"),
                ("/limits/0/rate", "/plans/1/limits/0/rate"),
            ],
        ),
        (
            "PATCH",
            "/v1/tenants/globex",
            unplanned,
            vec![("/plan", "/tenants/1/plan"), ("/state", "/tenants/1/state")],
        ),
        (
            "PUT",
            "/v1/tenants/globex/consumers/web",
            json!({ "scopes": 7 }),
            vec![("/scopes", "/tenants/1/consumers/1/scopes")],
        ),
        ("PUT", "/v1/plans/free", json!({ "id": "gold", "limits": [] }), vec![("/id", "/id")]),
        (
            "PUT",
            "/v1/packs/require-header/versions/1.0.0",
            json!({ "version": "2.0.0" }),
            vec![("/version", "/version")],
        ),
        ("PUT", "/v1/plans/free", json!([]), vec![("", "")]),
        // What lies elsewhere is told by its place in the document.
        (
            "PATCH",
            "/v1/services/contacts/versions/v2",
            json!({ "name": "v2", "default": false }),
            vec![("/services/0/select", "/services/0/select")],
        ),
    ] {
        for dry in ["", "?dry_run=true"] {
            let ask =
                api.ask(method, &format!("{target}{dry}")).header("if-match", "*").json(&body);
            let told = ask.send().await;
            let details = if told.status == 200 && !dry.is_empty() {
                assert_eq!(told.json()["valid"], false);
                told.json()
            } else {
                told.refuses(422, "CONFIG_INVALID")
            };
            assert_eq!(pointers(&details), expected, "{method} {target}{dry}");
        }
    }
    assert_eq!(api.revision().await, 1);
}

#[tokio::test]
async fn what_is_referred_to_is_not_deleted() {
    let api = Api::new().await;
    for (target, referring) in [
        ("/v1/plans/gold", vec!["/tenants/0/plan"]),
        (
            "/v1/upstreams/crm",
            vec!["/services/0/versions/0/upstream", "/services/0/versions/1/upstream"],
        ),
        (
            "/v1/services/contacts/versions/v2",
            vec!["/services/0/select", "/services/0/versions/0/successor"],
        ),
        ("/v1/tenants/acme", vec!["/attachments/0/scope/tenant", "/issuers/0/tenant"]),
        (
            "/v1/packs/require-header/versions/1.0.0",
            vec!["/attachments/0/pack", "/attachments/1/pack", "/attachments/2/pack"],
        ),
    ] {
        let told = api.ask("DELETE", target).header("if-match", "*").send().await;
        let details = told.refuses(422, "CONFIG_INVALID");
        let found: Vec<_> = pointers(&details).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(found, referring, "{target}");
        api.ask("GET", target).send().await.is(200);
    }
}

#[tokio::test]
async fn a_change_of_another_resource_does_not_stand_in_the_way() {
    let api = Api::new().await;
    let (_, tag) = api.read("/v1/plans/gold").await;
    let mut other = standard();
    other["tenants"][0]["state"] = json!("suspended");
    *api.revisions.meanwhile.lock().unwrap() = vec![other];
    let ask = api.ask("PUT", "/v1/plans/gold").header("if-match", &tag);
    let limits =
        json!([{ "id": "open", "concurrency": 3, "per": "tenant", "on_store_error": "open" }]);
    let told = ask.json(&json!({ "limits": limits })).send().await.is(200);
    assert_eq!(told.revision(), 3);
    let document = api.document().await;
    assert_eq!(document["tenants"][0]["state"], "suspended");
    assert_eq!(document["plans"][0]["limits"], limits);
    // The audit tells what this change changed, not what the other did.
    let entry = api.audit().await.remove(0);
    assert_eq!(entry.revision, Some(3));
    assert_eq!(entry.difference.as_array().unwrap().len(), 1, "{}", entry.difference);
}

#[tokio::test]
async fn a_change_of_the_same_resource_does() {
    let api = Api::new().await;
    let (_, tag) = api.read("/v1/plans/gold").await;
    let mut other = standard();
    other["plans"][0]["limits"] =
        json!([{ "id": "theirs", "concurrency": 1, "per": "tenant", "on_store_error": "open" }]);
    *api.revisions.meanwhile.lock().unwrap() = vec![other];
    let ask = api.ask("PATCH", "/v1/plans/gold").header("if-match", &tag);
    ask.json(&json!({ "limits": [], "id": "gold" })).send().await.is(200);
    // `limits: []` is what it was: nothing was to change when it was asked, so nothing was written.
    assert_eq!(api.revision().await, 1);
    let ours = json!({ "limits": [{ "id": "ours", "concurrency": 2, "per": "tenant", "on_store_error": "open" }] });
    let ask = api.ask("PATCH", "/v1/plans/gold").header("if-match", &tag);
    ask.json(&ours).send().await.refuses(412, "PRECONDITION_FAILED");
    assert_eq!(api.document().await["plans"][0]["limits"][0]["id"], "theirs");
}

#[tokio::test]
async fn whoever_never_gets_a_turn_is_told_to_come_back() {
    let api = Api::new().await;
    let patch = |state: &str| {
        let ask = api.ask("PATCH", "/v1/tenants/acme").header("if-match", "*");
        ask.json(&json!({ "state": state }))
    };
    *api.revisions.always.lock().unwrap() = true;
    let told = patch("suspended").send().await;
    assert_eq!(told.header("retry-after"), "1");
    told.refuses(503, "OVERLOADED");
    *api.revisions.always.lock().unwrap() = false;
    patch("suspended").send().await.is(200);
}

#[tokio::test]
async fn what_changes_nothing_is_no_revision() {
    let api = Api::new().await;
    let (plan, tag) = api.read("/v1/plans/free").await;
    for (method, body) in
        [("PUT", plan.clone()), ("PATCH", json!({ "id": "free" })), ("PATCH", json!({}))]
    {
        let ask = api.ask(method, "/v1/plans/free").header("if-match", &tag).json(&body);
        let told = ask.send().await.is(200);
        assert_eq!((told.revision(), told.header("etag")), (1, &*tag));
        assert_eq!(told.json()["difference"], json!([]));
    }
    assert_eq!((api.revision().await, api.audit().await.len()), (1, 0));
}

#[tokio::test]
async fn a_dry_run_of_a_resource_changes_nothing() {
    let api = Api::new().await;
    let (_, tag) = api.read("/v1/tenants/acme").await;
    let patch = json!({ "plan": "free" });
    for headers in [None, Some(("if-match", &*tag)), Some(("if-match", "*"))] {
        let mut ask = api.ask("PATCH", "/v1/tenants/acme?dry_run=true").json(&patch);
        if let Some((name, value)) = headers {
            ask = ask.header(name, value);
        }
        let told = ask.send().await.is(200).json();
        assert_eq!(told["valid"], true);
        assert_eq!(
            told["difference"],
            json!([{ "op": "replace", "path": "/tenants/0/plan", "value": "free" }])
        );
    }
    let deleted = api.ask("DELETE", "/v1/plans/gold?dry_run=true").send().await.is(200).json();
    assert_eq!(pointers(&deleted), [("/tenants/0/plan", "/tenants/0/plan")]);
    let told = api.ask("PATCH", "/v1/tenants/acme?dry_run=true").header("if-match", "\"stale\"");
    told.json(&patch).send().await.refuses(412, "PRECONDITION_FAILED");
    assert_eq!((api.revision().await, api.audit().await.len()), (1, 0));
    for query in ["dry_run=perhaps", "dry_run", "dryrun=true", "dry_run=true&dry_run=false"] {
        let ask = api.ask("PATCH", &format!("/v1/tenants/acme?{query}")).json(&patch);
        ask.send().await.refuses(400, "VALIDATION_FAILED");
    }
}

#[tokio::test]
async fn a_staged_change_names_its_nodes_and_holds_up_the_next() {
    let api = Api::new().await;
    api.node("a").await;
    api.node("b").await;
    let patch = |query: &str, state: &str| {
        let ask = api.ask("PATCH", &format!("/v1/tenants/acme{query}")).header("if-match", "*");
        ask.json(&json!({ "state": state }))
    };
    for nodes in ["", ",", "a,,b", "a b", "nobody", "a,nobody"] {
        let query = format!("?nodes={}", nodes.replace(' ', "%20"));
        patch(&query, "suspended").send().await.refuses(400, "VALIDATION_FAILED");
    }
    let told = patch("?nodes=b,a", "suspended").send().await.is(200);
    assert_eq!((&told.json()["nodes"], told.revision()), (&json!(["a", "b"]), 2));
    let details = patch("", "active").send().await.refuses(409, "CONFLICT");
    assert_eq!(details, json!({ "revision": 2, "nodes": ["a", "b"] }));
    // What is made on some nodes only is answered with 200: it is not there yet for all.
    let api = Api::new().await;
    api.node("a").await;
    let ask = api.ask("PUT", "/v1/plans/new?nodes=a").header("if-none-match", "*");
    ask.json(&json!({ "limits": [] })).send().await.is(200);
}

#[tokio::test]
async fn while_the_store_is_down_admin_says_so() {
    let api = Api::new().await;
    api.store.close().await;
    let patch = json!({ "state": "active" });
    for ask in [
        api.ask("GET", "/v1/plans"),
        api.ask("GET", "/v1/document"),
        api.ask("PATCH", "/v1/tenants/acme").header("if-match", "*").json(&patch),
        api.ask("POST", "/v1/consumers/web/credentials").json(&json!({})),
    ] {
        let told = ask.send().await;
        assert_eq!(told.header("retry-after"), "1");
        told.refuses(503, "DEPENDENCY_UNAVAILABLE");
    }
    // Who brings no token at all is told that.
    api.stranger("GET", "/v1/plans").send().await.refuses(401, "CREDENTIAL_MISSING");
}
