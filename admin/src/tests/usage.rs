//! Usage: told, and set back with its trace in the audit.

use super::api::{Api, Setup, standard};
use async_trait::async_trait;
use model::id::{LimitId, TenantId};
use model::port::StoreError;
use model::quota::LimitMode;
use model::role::Role;
use model::usage::{Usage, UsageError, UsageOf};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Counters of the tenant acme: two limits.
#[derive(Default)]
struct Counters {
    used: Mutex<[u64; 2]>,
    /// Whether they can't be set back.
    stuck: Mutex<bool>,
}

const LIMITS: [&str; 2] = ["burst", "daily"];

impl Counters {
    fn new() -> Arc<Self> {
        Arc::new(Self { used: Mutex::new([3, 40]), ..Self::default() })
    }

    fn read(&self) -> Vec<Usage> {
        let used = *self.used.lock().unwrap();
        let limit = |(id, used): (&str, u64)| Usage {
            id: id.into(),
            consumer: None,
            scope: None,
            mode: LimitMode::Enforce,
            used,
            limit: 100,
            remaining: 100 - used,
            reset: Some(60),
        };
        LIMITS.into_iter().zip(used).map(limit).collect()
    }
}

#[async_trait]
impl UsageOf for Counters {
    async fn usage(&self, tenant: &TenantId) -> Result<Vec<Usage>, UsageError> {
        match tenant.as_str() {
            "acme" => Ok(self.read()),
            _ => Err(UsageError::UnknownTenant),
        }
    }

    async fn reset(
        &self,
        tenant: &TenantId,
        limit: Option<&LimitId>,
    ) -> Result<Vec<Usage>, UsageError> {
        let mut before = self.usage(tenant).await?;
        if *self.stuck.lock().unwrap() {
            return Err(StoreError::Unavailable("away".to_owned()).into());
        }
        before.retain(|usage| limit.is_none_or(|limit| usage.id == *limit));
        for (index, id) in LIMITS.iter().enumerate() {
            if limit.is_none_or(|limit| limit.as_str() == *id) {
                self.used.lock().unwrap()[index] = 0;
            }
        }
        Ok(before)
    }
}

async fn api(counters: &Arc<Counters>) -> Api {
    let usage: Arc<dyn UsageOf> = counters.clone();
    Api::with(Setup { document: Some(standard()), usage: Some(usage), ..Setup::default() }).await
}

/// What the audit tells of resets, oldest first: the state, and what was used before.
async fn told(api: &Api) -> Vec<(String, Vec<u64>)> {
    let entries = api.audit().await.into_iter().rev();
    let resets = entries.filter(|entry| entry.action == "usage.reset" && entry.refused.is_none());
    resets
        .map(|entry| {
            assert_eq!(entry.tenant.unwrap().as_str(), "acme");
            let before = entry.difference["before"].as_array().unwrap().iter();
            let used = before.map(|usage| usage["used"].as_u64().unwrap()).collect();
            (entry.difference["state"].as_str().unwrap().to_owned(), used)
        })
        .collect()
}

#[tokio::test]
async fn usage_is_told_by_tenant() {
    let api = api(&Counters::new()).await;
    let told = api.ask("GET", "/v1/usage?tenant=acme").send().await.is(200).json();
    assert_eq!(told["tenant"], "acme");
    assert_eq!(
        told["limits"][1],
        json!({ "id": "daily", "mode": "enforce", "used": 40, "limit": 100, "remaining": 60, "reset": 60 })
    );
    for (query, status, code) in [
        ("", 400, "VALIDATION_FAILED"),
        ("?tenant=a%20b", 400, "VALIDATION_FAILED"),
        ("?tenant=acme&x=1", 400, "VALIDATION_FAILED"),
        ("?tenant=nobody", 404, "NOT_FOUND"),
    ] {
        api.ask("GET", &format!("/v1/usage{query}")).send().await.refuses(status, code);
    }
}

#[tokio::test]
async fn a_reset_tells_before_and_after_and_is_audited_as_begun_and_done() {
    let counters = Counters::new();
    let api = api(&counters).await;
    let used = |usage: &Value| -> Vec<(String, u64)> {
        let limits = usage.as_array().unwrap().iter();
        limits
            .map(|limit| {
                (limit["id"].as_str().unwrap().to_owned(), limit["used"].as_u64().unwrap())
            })
            .collect()
    };
    let limits = |list: &[(&str, u64)]| -> Vec<(String, u64)> {
        list.iter().map(|(id, used)| ((*id).to_owned(), *used)).collect()
    };
    let answer = api
        .ask("POST", "/v1/usage/acme:reset")
        .json(&json!({ "limit": "daily" }))
        .send()
        .await
        .is(200)
        .json();
    assert_eq!(used(&answer["before"]), limits(&[("daily", 40)]));
    assert_eq!(used(&answer["after"]), limits(&[("daily", 0)]));
    assert_eq!(*counters.used.lock().unwrap(), [3, 0]);
    let answer = api.ask("POST", "/v1/usage/acme:reset").send().await.is(200).json();
    assert_eq!(used(&answer["before"]), limits(&[("burst", 3), ("daily", 0)]));
    assert_eq!(*counters.used.lock().unwrap(), [0, 0]);
    let state = |state: &str, used: &[u64]| (state.to_owned(), used.to_vec());
    assert_eq!(
        told(&api).await,
        [state("begun", &[]), state("done", &[40]), state("begun", &[]), state("done", &[3, 0])]
    );
}

#[tokio::test]
async fn what_is_not_reset_is_not_told_as_reset() {
    let counters = Counters::new();
    let api = api(&counters).await;
    for (target, body, status, code) in [
        ("/v1/usage/nobody:reset", json!({}), 404, "NOT_FOUND"),
        ("/v1/usage/a%20b:reset", json!({}), 404, "NOT_FOUND"),
        ("/v1/usage/acme", json!({}), 404, "NOT_FOUND"),
        ("/v1/usage/acme:clear", json!({}), 404, "NOT_FOUND"),
        ("/v1/usage/acme:reset", json!({ "limit": "weekly" }), 422, "CONFIG_INVALID"),
        ("/v1/usage/acme:reset", json!({ "limits": [] }), 422, "CONFIG_INVALID"),
    ] {
        api.ask("POST", target).json(&body).send().await.refuses(status, code);
    }
    assert_eq!(told(&api).await, []);
    *counters.stuck.lock().unwrap() = true;
    api.ask("POST", "/v1/usage/acme:reset").send().await.refuses(503, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(told(&api).await, [("begun".to_owned(), vec![]), ("failed".to_owned(), vec![])]);
    assert_eq!(*counters.used.lock().unwrap(), [3, 40]);
}

#[tokio::test]
async fn without_the_audit_nothing_is_reset() {
    let counters = Counters::new();
    let api = api(&counters).await;
    let token = api.admin.clone();
    let ask = api.ask("POST", "/v1/usage/acme:reset").bearer(&token);
    api.store.close().await;
    ask.send().await.refuses(503, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(*counters.used.lock().unwrap(), [3, 40]);
}

#[tokio::test]
async fn a_repeated_reset_is_done_once() {
    let counters = Counters::new();
    let api = api(&counters).await;
    let ask = || api.ask("POST", "/v1/usage/acme:reset").header("idempotency-key", "r");
    let first = ask().send().await.is(200);
    *counters.used.lock().unwrap() = [1, 1];
    let again = ask().send().await.is(200);
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
    assert_eq!(*counters.used.lock().unwrap(), [1, 1]);
}

#[tokio::test]
async fn roles_and_tenants_are_asked() {
    let counters = Counters::new();
    let api = api(&counters).await;
    for (role, tenant, reads, resets) in [
        (Role::Viewer, None, 200, 403),
        (Role::Publisher, None, 200, 403),
        (Role::Operator, None, 200, 200),
        (Role::Operator, Some("acme"), 200, 200),
        (Role::Viewer, Some("acme"), 200, 403),
        (Role::Admin, Some("globex"), 404, 404),
    ] {
        let token = api.token(role, tenant).await;
        let read = api.ask("GET", "/v1/usage?tenant=acme").bearer(&token).send().await;
        let reset = api.ask("POST", "/v1/usage/acme:reset").bearer(&token).send().await;
        assert_eq!((read.status, reset.status), (reads, resets), "{role:?} {tenant:?}");
    }
}

#[tokio::test]
async fn where_counters_are_elsewhere_one_is_told_where_to_go() {
    let api = Api::new().await;
    for (method, target) in [("GET", "/v1/usage?tenant=acme"), ("POST", "/v1/usage/acme:reset")] {
        let told = api.ask(method, target).send().await;
        assert!(told.text.contains("roles: [gateway, admin]"), "{}", told.text);
        told.refuses(409, "CONFLICT");
    }
}
