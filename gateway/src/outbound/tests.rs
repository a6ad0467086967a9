use super::*;
use crate::exchange::Exchange;
use crate::facts::Facts;
use crate::report::Metrics;
use crate::trace::Trace;
use http::HeaderValue;
use model::document::Timeouts;
use model::port::StoreError;
use serde_json::{Value, json};

/// 2026-11-21T00:00:00Z, in microseconds since the epoch.
const NOW: i64 = 1_795_219_200_000_000;

/// Of an upstream that asked for none so far.
pub(super) fn backoffs() -> Backoffs {
    Backoffs::new(Metrics::new("test").unwrap().backoffs(&"crm".into()))
}

/// An upstream with these fields, that asked for those backoffs.
fn upstream(fields: &Value, asked: &Arc<Backoffs>) -> Arc<Upstream> {
    let mut document = json!({ "id": "crm", "targets": [{ "address": "127.0.0.1:1" }] });
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let document: document::Upstream = serde_json::from_value(document).unwrap();
    let outbound = Outbound::new(&document, Arc::clone(asked));
    let address = "127.0.0.1:1".parse().unwrap();
    let upstream = Upstream::new("crm".into(), Timeouts::default(), outbound, vec![(address, 1)]);
    Arc::new(upstream)
}

fn limited(limits: &Value) -> Arc<Upstream> {
    upstream(&json!({ "limits": limits }), &Arc::new(backoffs()))
}

/// An answer to acme.
fn answered(upstream: &Upstream, status: u16, retry_after: &str, now: i64) {
    let value = HeaderValue::from_str(retry_after).unwrap();
    let answer = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
    let (status, now) = (StatusCode::from_u16(status), Timestamp::from_microsecond(now));
    upstream.outbound.heard(&"acme".into(), status.unwrap(), &answer, now.unwrap());
}

/// For how many seconds a tenant is held back.
async fn held_back(upstream: &Arc<Upstream>, tenant: &str, now: i64) -> Option<u64> {
    let cleared = clear(upstream, &tenant.into(), &Quotas::in_process(), now).await;
    let held_back = cleared.err()?;
    assert_eq!(held_back.by, Limited::Backoff);
    let reject = held_back.reject;
    assert_eq!(reject.code, ErrorCode::UpstreamUnavailable);
    assert_eq!(
        Value::from(reject.details.clone()),
        json!({ "upstream": "crm", "reason": "backoff" })
    );
    reject.retry_after
}

#[tokio::test]
async fn all_tenants_share_what_an_upstream_is_sent() {
    let quotas = Quotas::in_process();
    let limits = json!([
        { "id": "rate", "rate": "2/s", "burst": 4, "on_store_error": "closed" },
        { "id": "open", "concurrency": 3, "on_store_error": "closed" },
    ]);
    let upstream = limited(&limits);
    assert!(clear_at_once(&upstream).is_none());
    let ask = |tenant: &'static str, at: i64| {
        let (upstream, quotas) = (&upstream, &quotas);
        async move { clear(upstream, &tenant.into(), quotas, NOW + at).await }
    };
    let mut open = Vec::new();
    for tenant in ["acme", "globex", "acme"] {
        open.push(ask(tenant, 0).await.unwrap());
    }
    let refused = |held_back: HeldBack, by: Limited, limit: &str, wait: u64| {
        assert_eq!(held_back.by, by);
        let reject = held_back.reject;
        assert_eq!((reject.code, reject.retry_after), (ErrorCode::UpstreamUnavailable, Some(wait)));
        let details = json!({ "upstream": "crm", "limit": limit });
        assert_eq!(Value::from(reject.details.clone()), details);
    };
    refused(ask("initech", 0).await.err().unwrap(), Limited::Concurrency, "open", 1);
    // What was refused took nothing of the rate: one is left of four.
    open.pop().unwrap().give_back(&quotas, NOW);
    open.push(ask("initech", 0).await.unwrap());
    open.drain(..).for_each(|mut clearance| clearance.give_back(&quotas, NOW));
    refused(ask("acme", 0).await.err().unwrap(), Limited::Rate, "rate", 1);
    // One comes back each half of a second.
    assert!(ask("globex", 500_000).await.is_ok());
}

#[tokio::test]
async fn an_upstream_does_not_share_its_counters_with_a_tenant_or_another_upstream() {
    let demand = limited(&json!([{ "id": "open", "concurrency": 1, "on_store_error": "open" }]))
        .outbound
        .demand(7, Duration::from_secs(40));
    assert_eq!(demand.tenant.as_str(), "upstream:crm");
    assert!(!model::id::is_id(demand.tenant.as_str()), "no tenant can be called so");
    assert_eq!((demand.permit_ttl, demand.cost, demand.permit), (40_000_000, 1, PermitId(7)));
}

#[tokio::test]
async fn a_429_or_503_with_retry_after_holds_back_whom_the_document_says() {
    for (status, retry_after, backoff, acme, globex) in [
        (429, "7", json!({}), Some(7), None),
        (503, "7", json!({}), Some(7), None),
        (429, "7", json!({ "per": "upstream", "max": "1m" }), Some(7), Some(7)),
        (429, "7", json!({ "per": "off", "max": "1m" }), None, None),
        (429, "999999999999999999999999", json!({ "per": "tenant", "max": "20s" }), Some(20), None),
        (429, "86400", json!({}), Some(60), None),
        // The date is that of `NOW` and nine seconds.
        (503, "Sat, 21 Nov 2026 00:00:09 GMT", json!({}), Some(9), None),
        (429, "Sat, 21 Nov 2026 00:00:00 GMT", json!({}), None, None),
        (429, "0", json!({}), None, None),
        (429, "soon", json!({}), None, None),
        (200, "7", json!({}), None, None),
        (301, "7", json!({}), None, None),
        (500, "7", json!({}), None, None),
    ] {
        let upstream = upstream(&json!({ "backoff": backoff }), &Arc::new(backoffs()));
        assert!(clear_at_once(&upstream).is_some());
        answered(&upstream, status, retry_after, NOW);
        let what = format!("{status} {retry_after} {backoff}");
        assert_eq!(clear_at_once(&upstream).is_none(), acme.is_some(), "{what}");
        assert_eq!(held_back(&upstream, "acme", NOW).await, acme, "{what}");
        assert_eq!(held_back(&upstream, "globex", NOW).await, globex, "{what}");
    }
}

#[tokio::test]
async fn what_is_left_is_told_in_whole_seconds_never_too_early() {
    let upstream = upstream(&json!({}), &Arc::new(backoffs()));
    answered(&upstream, 429, "2", NOW);
    for (at, left) in
        [(0, Some(2)), (1, Some(2)), (1_000_000, Some(1)), (1_999_999, Some(1)), (2_000_000, None)]
    {
        assert_eq!(held_back(&upstream, "acme", NOW + at).await, left, "{at}");
    }
}

#[tokio::test]
async fn a_backoff_outlives_a_publish_and_ends_where_the_new_document_says() {
    let asked = Arc::new(backoffs());
    let of = |backoff: &Value| upstream(&json!({ "backoff": backoff }), &asked);
    answered(&of(&json!({})), 429, "30", NOW);
    for (backoff, left) in [
        (json!({}), Some(30)),
        (json!({ "per": "tenant", "max": "10s" }), Some(10)),
        (json!({ "per": "off", "max": "1m" }), None),
        (json!({ "per": "upstream", "max": "1m" }), None),
    ] {
        assert_eq!(held_back(&of(&backoff), "acme", NOW).await, left, "{backoff}");
    }
}

#[tokio::test]
async fn what_a_backoff_holds_back_takes_nothing_of_a_limit() {
    let limits = json!([{ "id": "rate", "rate": "1/h", "on_store_error": "closed" }]);
    let (quotas, upstream) = (Quotas::in_process(), limited(&limits));
    answered(&upstream, 429, "1", NOW);
    let acme = TenantId::from("acme");
    for _ in 0..3 {
        assert_eq!(clear(&upstream, &acme, &quotas, NOW).await.err().unwrap().by, Limited::Backoff);
    }
    assert!(clear(&upstream, &acme, &quotas, NOW + 1_000_000).await.is_ok());
}

#[test]
fn without_the_store_a_closed_limit_refuses_as_a_dependency() {
    let error = StoreError::Full("counters");
    let closed = NotGranted::Closed { limit: "rate".into(), error, readings: Vec::new() };
    let held_back = HeldBack::by_limit(&"crm".into(), closed);
    assert_eq!(held_back.by, Limited::Store);
    let reject = held_back.reject;
    assert_eq!((reject.code, reject.retry_after), (ErrorCode::DependencyUnavailable, Some(1)));
    let details = json!({ "upstream": "crm", "limit": "rate" });
    assert_eq!(Value::from(reject.details.clone()), details);
}

#[tokio::test]
async fn a_slot_is_given_back_where_an_exchange_panics_or_is_cut_off() {
    let (store, _folder) = crate::tests::store().await;
    let packs = tempfile::tempdir().unwrap();
    let gateway = crate::tests::gateway(&store, "node-a", packs.path());
    let upstream =
        limited(&json!([{ "id": "open", "concurrency": 1, "on_store_error": "closed" }]));
    let exchange = async || {
        let trace = Trace::of(&HeaderMap::new(), gateway.clock.now());
        let facts = Facts::begin(trace, gateway.clock.now(), 1);
        let mut exchange = Exchange::begin(gateway.clone(), None, facts);
        let now = gateway.clock.micros();
        let clearance = clear(&upstream, &"acme".into(), &gateway.quotas, now).await;
        exchange.held.clearance = Some(clearance.map_err(|held_back| held_back.by).unwrap());
        exchange
    };
    let panicking = exchange().await;
    let now = gateway.clock.micros();
    let second = clear(&upstream, &"acme".into(), &gateway.quotas, now).await;
    assert_eq!(second.err().unwrap().by, Limited::Concurrency);
    let panicked = tokio::spawn(async move {
        let _held = panicking;
        panic!("a fault of ours");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    drop(exchange().await);
    exchange().await.end();
    exchange().await;
}
