//! Many clients at once, each with its own connection and its own thread.

use super::*;
use crate::redis::Presence;
use model::Clock;
use model::quota::Settlement;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const CLIENTS: u128 = 16;
/// How often each client asks.
const ASKS: u128 = 25;

#[test]
fn sixteen_clients_get_exactly_a_hundred() {
    for kind in [rate("1/h", 100), quota("100/month"), Kind::Concurrency(100)] {
        let database = Database::take();
        let (url, barrier, admitted) =
            (database.url(), Barrier::new(CLIENTS as usize), AtomicUsize::new(0));
        // A second limit, which those who are refused must not charge.
        let limits = [("x", kind), ("y", quota("1000000/month"))];
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (url, barrier, admitted) = (url.clone(), &barrier, &admitted);
                scope.spawn(move || {
                    let runtime = runtime();
                    let link = Link::new(url, PATIENT, runtime.handle());
                    let store = RedisCounters::new(link, ClockOf::Redis);
                    runtime.block_on(store.link().connected());
                    barrier.wait();
                    for ask in 0..ASKS {
                        let ask = demand("acme", client * ASKS + ask, 1, &limits);
                        let verdict = runtime.block_on(store.reserve(&ask, now())).unwrap();
                        if matches!(verdict, Verdict::Admitted { .. }) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100, "{kind:?}");
        let runtime = runtime();
        let used = runtime.block_on(async {
            let store = database.counters(ClockOf::Redis).await;
            used(&store, &demand("acme", 9_999, 1, &limits), now()).await
        });
        assert_eq!(used, [100, 100], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_permit_that_sixteen_settle_is_settled_once() {
    let database = Database::take();
    let limits = [("y", quota("1000/month")), ("open", Kind::Concurrency(5))];
    let first = database.counters(ClockOf::Redis).await;
    admit(&first, &demand("acme", 1, 10, &limits), now()).await;
    let permit = admit(&first, &demand("acme", 2, 10, &limits), now()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (store, permit) = (database.counters(ClockOf::Redis).await, permit.clone());
        let settlement = if client % 2 == 0 { Settlement::Refund } else { Settlement::Cost(0) };
        tasks.spawn(async move { store.settle(&permit, settlement, now()).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(used(&first, &demand("acme", 3, 1, &limits), now()).await, [10, 1]);
}

#[tokio::test]
async fn nodes_that_share_a_redis_are_counted() {
    let mut database = Database::take();
    let link = database.counters(ClockOf::Redis).await.link().clone();
    let node = |name: &str| Presence::new(link.clone(), Some(name.into()), &Handle::current());
    let (first, second) = (node("gw-1"), node("gw-2"));
    let looks = Presence::new(link.clone(), None, &Handle::current());
    let began = Instant::now();
    while [&first, &second, &looks].iter().any(|presence| presence.nodes() != 2) {
        assert!(began.elapsed() < PATIENT);
        // Until the next heartbeat at the latest.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left: i64 = database.ask(&["PTTL", "q:nodes"]);
    assert!(0 < left && left <= 10_000, "{left} ms");
    second.leave().await;
    let alive: Vec<String> = database.ask(&["ZRANGE", "q:nodes", "0", "-1"]);
    assert_eq!(alive, ["gw-1"]);
}

fn now() -> i64 {
    Clock::system().micros()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
