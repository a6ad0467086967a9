use super::*;
use crate::tests::{gateway, store};
use model::quota::{
    Calendar, Counted, Demand, Kind, Limit, LimitMode, OnStoreError, Part, Per, PermitId,
    Settlement,
};
use stages::throttle::Permit;
use store::Store;

fn demand(permit: u128, cost: u32) -> Demand {
    let quota = |text: &str| Kind::Quota(text.parse().unwrap());
    let rate = Kind::Rate { rate: "100/h".parse().unwrap(), burst: 100 };
    let counted = |(id, kind): (&str, Kind)| {
        let limit = Limit {
            id: id.into(),
            kind,
            per: Per::Tenant,
            exact: false,
            mode: LimitMode::Enforce,
            on_store_error: OnStoreError::Closed,
        };
        let key = CounterKey { limit: limit.id.clone(), part: Part::Tenant };
        Counted { key, limit: Arc::new(limit) }
    };
    Demand {
        permit: PermitId(permit),
        tenant: "acme".into(),
        calendar: Calendar::UTC,
        cost,
        costs_later: false,
        permit_ttl: 60_000_000,
        limits: [("weekly", quota("100/week")), ("monthly", quota("100/month")), ("rate", rate)]
            .map(counted)
            .into(),
    }
}

async fn charge(gateway: &Gateway, permit: u128, cost: u32) -> Permit {
    let now = gateway.clock.micros();
    gateway.quotas.reserve(&demand(permit, cost), now).await.unwrap()
}

/// What is used of the week's, the month's, and the rate.
async fn used(gateway: &Gateway) -> Vec<u64> {
    let readings = gateway.quotas.peek(&demand(0, 1), gateway.clock.micros()).await.unwrap();
    readings.into_iter().map(|reading| reading.used).collect()
}

/// A process that starts.
async fn start(store: &Store, name: &str) -> (Arc<Gateway>, Arc<Kept>) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(store, name, folder.path());
    let kept = Kept::start(&gateway).await.unwrap();
    (gateway, kept)
}

#[tokio::test]
async fn quotas_are_counted_on_by_the_nodes_next_start() {
    let (store, _keep) = store().await;
    let (first, kept) = start(&store, "a").await;
    charge(&first, 1, 3).await;
    charge(&first, 2, 4).await;
    kept.end().await;
    let (second, kept) = start(&store, "a").await;
    assert_eq!(used(&second).await, [7, 7, 0], "rates come back by themselves");
    charge(&second, 3, 1).await;
    kept.end().await;
    let (third, _) = start(&store, "a").await;
    assert_eq!(used(&third).await, [8, 8, 0]);
    let (other, _) = start(&store, "b").await;
    assert_eq!(used(&other).await, [0, 0, 0], "each node counts for itself");
}

#[tokio::test]
async fn what_was_given_back_or_set_back_is_kept_as_such() {
    let (store, _keep) = store().await;
    let (first, kept) = start(&store, "a").await;
    let permit = charge(&first, 1, 3).await;
    charge(&first, 2, 4).await;
    kept.flush().await.unwrap();
    let now = first.clock.micros();
    first.quotas.settle(permit, Settlement::Refund, now);
    kept.flush().await.unwrap();
    let (second, kept) = start(&store, "a").await;
    assert_eq!(used(&second).await, [4, 4, 0]);
    let mut weekly = demand(0, 1);
    weekly.limits.truncate(1);
    second.quotas.reset(&weekly, now).await.unwrap();
    kept.flush().await.unwrap();
    let (third, _) = start(&store, "a").await;
    assert_eq!(used(&third).await, [0, 4, 0]);
}

#[tokio::test]
async fn what_was_kept_is_added_to_what_was_counted_while_the_store_was_away() {
    let (store, _keep) = store().await;
    let (first, kept) = start(&store, "a").await;
    charge(&first, 1, 3).await;
    kept.end().await;
    let folder = tempfile::tempdir().unwrap();
    let second = gateway(&store, "a", folder.path());
    second.quotas.in_this_process().unwrap().follow();
    charge(&second, 2, 4).await;
    // The store is back.
    let kept = Kept::start(&second).await.unwrap();
    assert_eq!(used(&second).await, [7, 7, 4]);
    kept.flush().await.unwrap();
    assert_eq!(used(&second).await, [7, 7, 4], "once");
    let (third, _) = start(&store, "a").await;
    assert_eq!(used(&third).await, [7, 7, 0]);
}

#[tokio::test]
async fn what_can_not_be_written_waits_once_for_each_counter() {
    let (store, _keep) = store().await;
    let (gateway, kept) = start(&store, "a").await;
    store.close().await;
    for permit in 0..5 {
        charge(&gateway, permit, 1).await;
        kept.flush().await.unwrap_err();
    }
    let state = kept.state.lock().await;
    let waiting: Vec<u64> = state.changed.values().map(|quota| quota.used).collect();
    assert_eq!(waiting, [5, 5]);
}
