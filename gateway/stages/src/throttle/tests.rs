use super::*;
use crate::authenticate::api_key::{ApiKey, ApiKeys};
use crate::authenticate::{Directory, Memory, Requirement, Tenant};
use http::{HeaderMap, HeaderValue, Method};
use model::document::{CredentialKind, TenantState};
use model::quota::{Kind, Limit, LimitMode, OnStoreError, Part, Per, Settlement};
use model::{Head, Identity};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::net::Ipv4Addr;

const KEY: &str = "tg_test_acme1_0123456789abcdef";
/// Microseconds since the epoch.
const NOW: i64 = 1_795_219_200_000_000;

fn limit(id: &str, kind: Kind, per: Per, on_store_error: OnStoreError) -> Arc<Limit> {
    let mode = LimitMode::Enforce;
    Arc::new(Limit { id: id.into(), kind, per, exact: false, mode, on_store_error })
}

fn rate(burst: u32) -> Kind {
    Kind::Rate { rate: "1/s".parse().unwrap(), burst }
}

/// A caller whose tenant has these limits.
async fn caller(limits: Vec<Arc<Limit>>) -> Caller {
    let tenant = Arc::new(Tenant {
        id: "acme".into(),
        state: TenantState::Active,
        plan: "gold".into(),
        limits: PlanLimits::new(limits.into_iter().map(|limit| (limit, None)).collect()).into(),
        calendar: model::quota::Calendar::UTC,
        adaptive: None,
        pins: std::collections::HashMap::new(),
        consumers: std::collections::HashMap::new(),
    });
    let identity = Identity {
        tenant: "acme".into(),
        consumer: "acme-mobile".into(),
        subject: "acme-mobile".to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Arc::new(json!({})),
    };
    let mut keys = ApiKeys::default();
    keys.insert(&KEY[..13], ApiKey::new(Sha256::digest(KEY).into(), None, identity, tenant));
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static(KEY));
    let head = Head {
        method: Method::GET,
        path: "/".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    };
    let requirement = Requirement { any_of: vec![CredentialKind::ApiKey], scopes: Vec::new() };
    let directory = Directory::new([].into(), keys, [].into());
    let now = jiff::Timestamp::from_microsecond(NOW).unwrap();
    directory.authenticate(&requirement, &Memory::default(), &head, now).await.unwrap()
}

async fn asks(limits: Vec<Arc<Limit>>, cost: u32, permit: u128) -> Demand {
    let hold = Duration::from_secs(41);
    let caller = caller(limits).await;
    let client = Ipv4Addr::new(192, 0, 2, 7).into();
    let asked = Asked { caller: &caller, route: None, client, cost, costs_later: false };
    asked.demand(permit, hold)
}

#[tokio::test]
async fn a_demand_is_the_callers_own() {
    let limits = vec![
        limit("a", rate(1), Per::Tenant, OnStoreError::Open),
        limit("b", rate(1), Per::Consumer, OnStoreError::Open),
        limit("c", rate(1), Per::Credential, OnStoreError::Open),
        limit("d", rate(1), Per::Ip, OnStoreError::Open),
    ];
    let demand = asks(limits, 5, 7).await;
    let parts: Vec<_> = demand.limits.iter().map(|counted| counted.key.part.clone()).collect();
    assert_eq!(
        parts,
        [
            Part::Tenant,
            Part::Consumer("acme-mobile".into()),
            Part::Credential("acme-mobile".into(), "k1".into()),
            Part::Ip(Ipv4Addr::new(192, 0, 2, 7).into()),
        ]
    );
    assert_eq!((demand.tenant.as_str(), demand.cost, demand.permit), ("acme", 5, PermitId(7)));
    assert_eq!(demand.permit_ttl, 41_000_000);
    let caller = caller(Vec::new()).await;
    let client = Ipv4Addr::LOCALHOST.into();
    let asked = Asked { caller: &caller, route: None, client, cost: 1, costs_later: false };
    let longest = asked.demand(1, Duration::from_secs(86_400));
    assert_eq!(longest.permit_ttl, 3_600_000_000, "a lost slot comes back within the hour");
}

#[tokio::test]
async fn a_refusal_names_the_limit_and_the_wait_and_charges_nothing() {
    let quotas = Quotas::in_process();
    let limits = || {
        vec![
            limit("burst", rate(3), Per::Tenant, OnStoreError::Closed),
            limit(
                "daily",
                Kind::Quota("4/day".parse().unwrap()),
                Per::Tenant,
                OnStoreError::Closed,
            ),
        ]
    };
    let mut permit = 0;
    let mut ask = async |cost: u32, at: i64| {
        permit += 1;
        throttle(&quotas, &asks(limits(), cost, permit).await, at).await
    };
    let first = ask(3, NOW).await.unwrap();
    let left: Vec<_> =
        first.readings().iter().map(|reading| (reading.id.as_str(), reading.remaining)).collect();
    assert_eq!(left, [("burst", 0), ("daily", 1)]);
    for (cost, at, code, limit, wait) in [
        (1, NOW, ErrorCode::RateLimited, "burst", Some(1)),
        (2, NOW + 1, ErrorCode::QuotaExceeded, "daily", Some(86_400)),
        (4, NOW, ErrorCode::RateLimited, "burst", None),
    ] {
        let throttled = ask(cost, at).await.unwrap_err();
        assert_eq!(
            (throttled.reject.code, throttled.reject.retry_after),
            (code, wait),
            "{cost} at {at}"
        );
        assert_eq!(throttled.reject.details["limit"], limit);
        assert_eq!(throttled.reject.details["cost"], cost);
        assert_eq!(throttled.readings.len(), 2);
    }
    // One second later one unit of the rate is back, and the quota's last one was never touched.
    assert!(ask(1, NOW + 1_000_000).await.is_ok());
}

#[tokio::test]
async fn a_settled_permit_frees_its_slot_and_gives_a_quota_back() {
    let quotas = Quotas::in_process();
    let limits = || {
        vec![
            limit("open", Kind::Concurrency(1), Per::Tenant, OnStoreError::Closed),
            limit(
                "daily",
                Kind::Quota("2/day".parse().unwrap()),
                Per::Tenant,
                OnStoreError::Closed,
            ),
        ]
    };
    let take = async |permit| throttle(&quotas, &asks(limits(), 1, permit).await, NOW).await;
    let first = take(1).await.unwrap();
    assert_eq!(take(2).await.unwrap_err().reject.code, ErrorCode::ConcurrencyLimited);
    quotas.settle(first, Settlement::Refund, NOW);
    for permit in [3, 4] {
        quotas.settle(take(permit).await.unwrap(), Settlement::Commit, NOW);
    }
    assert_eq!(take(5).await.unwrap_err().reject.code, ErrorCode::QuotaExceeded);
}

#[tokio::test]
async fn without_limits_nothing_is_charged() {
    let quotas = Quotas::in_process();
    let permit = throttle(&quotas, &asks(Vec::new(), 1, 1).await, NOW).await.unwrap();
    assert!(permit.readings().is_empty());
    quotas.settle(permit, Settlement::Refund, NOW);
}
