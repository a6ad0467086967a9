//! The whole of it, on a real Redis that `TOLLGATE_TEST_REDIS` names (`scripts/services with …`).

use super::super::standing::Standing;
use super::super::{Quotas, SharedSettings};
use super::*;
use OnStoreError::{Closed, Local};
use tokio::runtime::Handle;

/// Not about time: these machines are busy.
const PATIENT: Duration = Duration::from_secs(20);

fn server() -> String {
    std::env::var("TOLLGATE_TEST_REDIS")
        .expect("TOLLGATE_TEST_REDIS: run the tests under `scripts/services with`")
}

/// A node on this Redis, and a tenant that nobody else has.
async fn node(url: &str) -> (Quotas, Clock, TenantId) {
    let clock = Clock::system();
    let quotas = Quotas::shared(SharedSettings {
        url: url.parse().unwrap(),
        deadline: PATIENT,
        node: None,
        clock: clock.clone(),
        runtime: Handle::current(),
    });
    let tenant = format!("facade-{}-{}", std::process::id(), rand::random::<u32>());
    (quotas, clock, tenant.as_str().into())
}

/// Until the counters answer.
async fn connected(quotas: &Quotas, demand: &Demand, clock: &Clock) {
    loop {
        let readings = quotas.peek(demand, clock.micros()).await.unwrap();
        if readings.iter().all(|reading| reading.degraded.is_none()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_ends_up_with_what_was_committed_and_with_few_commands() {
    let (quotas, clock, tenant) = node(&server()).await;
    let limits =
        [("daily", quota("1000000/day"), Closed), ("burst", rate("1000000/s", 1_000_000), Closed)];
    let ask = |permit| Demand { tenant: tenant.clone(), ..demand(permit, 1, &limits) };
    connected(&quotas, &ask(0), &clock).await;
    let mut committed = 0;
    for permit in 1..=2_000_u128 {
        let granted = quotas.reserve(&ask(permit), clock.micros()).await.unwrap();
        assert!(granted.readings().iter().all(|reading| reading.degraded.is_none()));
        let settlement = if permit % 4 == 0 { Settlement::Refund } else { Settlement::Commit };
        committed += u64::from(settlement == Settlement::Commit);
        quotas.settle(granted, settlement, clock.micros());
    }
    quotas.close(PATIENT).await;
    let readings = quotas.peek(&ask(0), clock.micros()).await.unwrap();
    assert_eq!(readings[0].used, committed);
    let counts = quotas.counts().unwrap();
    let commands = counts.answered.get();
    assert!(commands < 1_000, "{commands} commands for 2,000 requests");
    assert!(counts.decided_by_batch.get() > 1_000);
    quotas.reset(&ask(0), clock.micros()).await.unwrap();
    assert_eq!(quotas.peek(&ask(0), clock.micros()).await.unwrap()[0].used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_freed_by_the_one_who_took_them() {
    let (quotas, clock, tenant) = node(&server()).await;
    let limits = [("open", Kind::Concurrency(3), Closed), ("daily", quota("9/day"), Closed)];
    let ask = |permit| Demand { tenant: tenant.clone(), ..demand(permit, 2, &limits) };
    connected(&quotas, &ask(0), &clock).await;
    for round in 0..3 {
        let mut held = Vec::new();
        for permit in 0..3 {
            held.push(quotas.reserve(&ask(round * 10 + permit), clock.micros()).await.unwrap());
        }
        assert!(quotas.reserve(&ask(round * 10 + 9), clock.micros()).await.is_err());
        held.into_iter()
            .for_each(|permit| quotas.settle(permit, Settlement::Refund, clock.micros()));
        quotas.close(PATIENT).await;
        let used = quotas.peek(&ask(0), clock.micros()).await.unwrap();
        assert_eq!((used[0].used, used[1].used), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_never_was_there_stops_nobody() {
    // Nobody listens on port 1.
    let (quotas, clock, tenant) = node("redis://127.0.0.1:1").await;
    let mut standing = quotas.standing();
    for (on_store_error, is_admitted) in
        [(Local, true), (OnStoreError::Open, true), (Closed, false)]
    {
        let limits = [("daily", quota("9/day"), on_store_error)];
        let ask = Demand { tenant: tenant.clone(), ..demand(1, 2, &limits) };
        let decided = quotas.reserve(&ask, clock.micros()).await;
        assert_eq!(decided.is_ok(), is_admitted, "{on_store_error:?}");
    }
    let degraded = |standing: &Standing| matches!(standing, Standing::Degraded { .. });
    standing.wait_for(degraded).await.unwrap();
}
