//! Decision records: found, shown as far as one may see them, erased.

use super::api::Api;
use model::record::{PackRecord, Record, StageRecord, Verdict};
use model::role::Role;
use serde_json::Value;
use std::time::Duration;

fn record(index: u32, tenant: &str, route: &str) -> Record {
    Record {
        id: format!("0191d6c0-0000-7000-8000-{index:012}"),
        request_id: format!("request-{index}"),
        trace_id: format!("{:032x}", index / 2 + 1),
        at: format!("2026-11-21T11:00:{index:02}Z").parse().unwrap(),
        took_us: 1_000,
        node: Some("gateway-1".into()),
        revision: 1,
        method: "POST".to_owned(),
        path: "/v1/contacts".to_owned(),
        route: route.into(),
        tenant: Some(tenant.into()),
        consumer: Some(format!("{tenant}-app").as_str().into()),
        version: Some("v1".into()),
        status: Some(503),
        error: Some(
            if index.is_multiple_of(2) { "POLICY_FAILED" } else { "RATE_LIMITED" }.to_owned(),
        ),
        cause: Some("trap in the pack".to_owned()),
        stages: vec![StageRecord {
            stage: "decide".to_owned(),
            verdict: Verdict::Refused,
            took_us: 12,
        }],
        limits: Vec::new(),
        packs: vec![PackRecord {
            attachment: "acme-header".into(),
            pack: "require-header".into(),
            version: "1.0.0".to_owned(),
            phase: "request".to_owned(),
            mode: "enforce".to_owned(),
            decision: "failed".to_owned(),
            cost: None,
            reason: None,
            failure: Some("unreachable".to_owned()),
            took_us: 9,
        }],
        idempotency: None,
        upstream: None,
    }
}

/// The API with six records: of acme, globex, acme, …
async fn recorded() -> Api {
    let api = Api::new().await;
    let tenants = ["acme", "globex"].into_iter().cycle();
    let routes = ["contacts.create", "contacts.create", "contacts.read"].into_iter().cycle();
    let records = (0..6).zip(tenants).zip(routes);
    let records = records.map(|((index, tenant), route)| record(index, tenant, route)).collect();
    api.store.write_records(records).await.unwrap();
    api
}

fn found(told: &Value) -> Vec<String> {
    let items = told["items"].as_array().unwrap().iter();
    items.map(|item| item["request_id"].as_str().unwrap().replace("request-", "")).collect()
}

#[tokio::test]
async fn records_are_found_by_tenant_consumer_route_code_and_time() {
    let api = recorded().await;
    for (query, expected) in [
        ("", "543210"),
        ("?tenant=acme", "420"),
        ("?tenant=nobody", ""),
        ("?consumer=globex-app", "531"),
        ("?route=contacts.read", "52"),
        ("?error=RATE_LIMITED", "531"),
        ("?error=INTERNAL", ""),
        ("?since=2026-11-21T11:00:03Z", "543"),
        ("?until=2026-11-21T11:00:03Z", "210"),
        ("?tenant=acme&route=contacts.create&since=2026-11-21T11:00:01Z", "4"),
        ("?limit=2", "54"),
    ] {
        let told = api.ask("GET", &format!("/v1/exchanges{query}")).send().await.is(200).json();
        assert_eq!(found(&told).concat(), expected, "{query}");
    }
    for query in
        ["?tenant=a%20b", "?error=OOPS", "?route=", "?since=now", "?limit=501", "?exchange=x"]
    {
        let told = api.ask("GET", &format!("/v1/exchanges{query}")).send().await;
        told.refuses(400, "VALIDATION_FAILED");
    }
    let first = api.ask("GET", "/v1/exchanges?limit=4").send().await.json();
    let next = format!("/v1/exchanges?cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(found(&api.ask("GET", &next).send().await.is(200).json()).concat(), "10");
}

#[tokio::test]
async fn an_exchange_is_found_by_its_request_or_its_trace() {
    let api = recorded().await;
    let trace = format!("{:032x}", 2);
    for (id, expected) in [("request-3", "3"), (trace.as_str(), "32")] {
        let told = api.ask("GET", &format!("/v1/exchanges/{id}")).send().await.is(200).json();
        assert_eq!(
            (found(&told).concat().as_str(), &told["next_cursor"]),
            (expected, &Value::Null)
        );
    }
    let first =
        api.ask("GET", &format!("/v1/exchanges/{trace}?limit=1")).send().await.is(200).json();
    let next = format!("/v1/exchanges/{trace}?cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(found(&api.ask("GET", &next).send().await.is(200).json()).concat(), "2");
    for unknown in ["request-9".to_owned(), "x".repeat(129), "%00".to_owned()] {
        api.ask("GET", &format!("/v1/exchanges/{unknown}")).send().await.refuses(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_finds_its_own_without_what_is_for_operators() {
    let api = recorded().await;
    let bound = api.token(Role::Viewer, Some("acme")).await;
    let ask = |target: &str| api.ask("GET", target).bearer(&bound);
    let told = ask("/v1/exchanges").send().await.is(200).json();
    assert_eq!(found(&told).concat(), "420");
    for field in ["cause", "node"] {
        assert_eq!(told["items"][0][field], Value::Null, "{field}");
    }
    assert_eq!(told["items"][0]["packs"][0]["failure"], Value::Null);
    assert_eq!(found(&ask("/v1/exchanges?tenant=globex").send().await.is(200).json()).concat(), "");
    ask("/v1/exchanges/request-3").send().await.refuses(404, "NOT_FOUND");
    let whole = api.ask("GET", "/v1/exchanges/request-4").send().await.json();
    assert_eq!(whole["items"][0]["cause"], "trap in the pack");
}

#[tokio::test]
async fn a_tenants_records_are_erased_by_an_admin_and_audited() {
    let api = recorded().await;
    api.clock.advance(Duration::from_secs(1));
    let erase = |tenant: &str| api.ask("DELETE", &format!("/v1/exchanges?tenant={tenant}"));
    for role in [Role::Viewer, Role::Operator, Role::Publisher] {
        let token = api.token(role, None).await;
        erase("acme").bearer(&token).send().await.refuses(403, "FORBIDDEN");
    }
    let bound = api.token(Role::Admin, Some("globex")).await;
    erase("acme").bearer(&bound).send().await.refuses(404, "NOT_FOUND");
    api.ask("DELETE", "/v1/exchanges").send().await.refuses(400, "VALIDATION_FAILED");
    assert_eq!(erase("acme").send().await.is(200).json()["erased"], 3);
    assert_eq!(erase("acme").send().await.is(200).json()["erased"], 0);
    assert_eq!(erase("globex").bearer(&bound).send().await.is(200).json()["erased"], 3);
    // Of a tenant that is no more.
    assert_eq!(erase("initech").send().await.is(200).json()["erased"], 0);
    let entry = api.audit().await.into_iter().rfind(|entry| entry.refused.is_none()).unwrap();
    assert_eq!(
        (entry.action.as_str(), entry.tenant.unwrap().as_str()),
        ("exchanges.delete", "acme")
    );
    assert_eq!(entry.difference["erased_until"], "2026-11-21T12:00:01Z");
}
