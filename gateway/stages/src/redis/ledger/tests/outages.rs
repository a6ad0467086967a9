//! A ledger whose Redis hangs, is killed, is full, has replicas that are late. Each test has servers of its own.

use super::*;
use crate::redis::LinkState;
use crate::redis::tests::{Server, ask, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

async fn ledger_of(server: &Server) -> RedisLedger {
    drop(server.connect());
    let link = server.link(PATIENT);
    link.connected().await;
    RedisLedger::new(link, ClockOf::Redis, TenantRoom::SHARED, &Handle::current())
}

#[tokio::test]
async fn a_claim_that_timed_out_is_withdrawn() {
    let server = Server::start();
    let store = ledger_of(&server).await;
    hold_soon(&store, &request("warm", 1), 0).await;
    let asked = request("k", 1);
    server.signal("-STOP");
    let error = store.claim(&asked, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut(_)), "{error}");
    // Now it runs, long after anybody waited. Its lease is longer than this test has patience.
    server.signal("-CONT");
    hold_soon(&store, &asked, 0).await;
}

#[tokio::test]
async fn without_a_connection_a_claim_is_refused_at_once_and_frees_nothing_later() {
    let url = "redis://127.0.0.1:1".parse().unwrap();
    let link = Link::new(url, PATIENT, &Handle::current());
    let store = RedisLedger::new(link, ClockOf::Redis, TenantRoom::SHARED, &Handle::current());
    for _ in 0..1_000 {
        let error = store.claim(&request("k", 1), 0).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

/// What one client was told of one key.
struct Acknowledged {
    asked: ClaimRequest,
    fence: Fence,
    completed: bool,
}

/// Claims keys, and answers every other one, until the server is gone.
async fn work(store: Arc<RedisLedger>, name: String, count: Arc<AtomicUsize>) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let asked = request(&format!("{name}-{number}"), 1);
        let fence = match store.claim(&asked, 0).await {
            Ok(Claimed::Held { fence, .. }) => fence,
            // On a busy machine.
            Err(StoreError::TimedOut(_)) => continue,
            Err(_) => break,
            Ok(told) => panic!("{told:?}"),
        };
        let completed =
            number % 2 == 0 && store.complete(&asked.key, fence, answer("a"), 0, 0).await.is_ok();
        acknowledged.push(Acknowledged { asked, fence, completed });
        count.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Eight clients at work when the server is killed; what they were told.
async fn work_until_killed(server: &mut Server, round: u32) -> Vec<Acknowledged> {
    let store = Arc::new(ledger_of(server).await);
    let count = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..8 {
        tasks.spawn(work(store.clone(), format!("{round}-{client}"), count.clone()));
    }
    let began = std::time::Instant::now();
    while count.load(Ordering::Relaxed) < 100 {
        assert!(began.elapsed() < PATIENT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.kill();
    let told = tasks.join_all().await;
    server.start_again();
    told.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_redis_writes_always_a_kill_forgets_nothing_that_was_acknowledged() {
    let mut server = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    for round in 0..5 {
        let acknowledged = work_until_killed(&mut server, round).await;
        let store = ledger_of(&server).await;
        for Acknowledged { asked, completed, .. } in acknowledged {
            let told = loop {
                // On a busy machine an answer may take longer than a claim waits.
                match store.claim(&asked, 0).await {
                    Ok(told) => break told,
                    Err(error) => assert!(matches!(error, StoreError::TimedOut(_)), "{error}"),
                }
            };
            match told {
                Claimed::Replay(_) => {}
                Claimed::InProgress { .. } if !completed => {}
                told => panic!("round {round}: {told:?}, completed: {completed}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_redis_keeps_nothing_a_kill_forgets_claims_and_fences_grow_all_the_same() {
    let mut server = Server::start();
    let acknowledged = work_until_killed(&mut server, 0).await;
    let store = ledger_of(&server).await;
    for Acknowledged { asked, fence, .. } in acknowledged {
        assert!(fence < hold_soon(&store, &asked, 0).await);
    }
}

#[tokio::test]
async fn a_full_redis_takes_no_claim_and_writes_nothing_of_it() {
    let server = Server::start();
    let mut connection = server.connect();
    let store = ledger_of(&server).await;
    let (held, new) = (request("held", 1), request("new", 1));
    let fence = hold_soon(&store, &held, 0).await;
    let keys: i64 = ask(&mut connection, &["DBSIZE"]);
    ask::<()>(&mut connection, &["CONFIG", "SET", "maxmemory", "1"]);
    let full = store.claim(&new, 0).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    let full = store.complete(&held.key, fence, answer("a"), 0, 0).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(ask::<i64>(&mut connection, &["DBSIZE"]), keys);
    // Giving back takes no room.
    assert_eq!(store.release(&held.key, fence, 0).await.unwrap(), Settled::Applied);
    ask::<()>(&mut connection, &["CONFIG", "SET", "maxmemory", "0"]);
    hold_soon(&store, &new, 0).await;
}

#[tokio::test]
async fn a_route_that_wants_replicas_holds_only_what_they_have() {
    let master = Server::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start();
    let store = ledger_of(&master).await;
    replica.follow(&master);
    let with_replica = |key: &str| ClaimRequest { replicas: 1, ..request(key, 1) };
    let asked = with_replica("k");
    // Refused until the replica is there, and free again each time.
    let fence = hold_soon(&store, &asked, 0).await;
    let mut there = replica.connect();
    let names = Names::of(&asked.key);
    assert_eq!(ask::<i64>(&mut there, &["EXISTS", &names.record]), 1);
    let told = store.complete(&asked.key, fence, answer("a"), 1, 0).await.unwrap();
    assert_eq!(told, Settled::Applied);
    assert_eq!(ask::<i64>(&mut there, &["EXISTS", &names.answer]), 1);

    replica.signal("-STOP");
    let asked = with_replica("late");
    let late = store.claim(&asked, 0).await.unwrap_err();
    assert!(late.to_string().contains("0 of 1 replicas"), "{late}");
    // It holds nothing: who wants no replica gets the key, though its lease would last.
    let fence = hold_soon(&store, &request("late", 1), 0).await;
    // An answer is kept for all that.
    let told = store.complete(&asked.key, fence, answer("a"), 1, 0).await.unwrap();
    assert_eq!(told, Settled::Applied);
    assert!(matches!(store.claim(&asked, 0).await.unwrap(), Claimed::Replay(_)));
    // A route that goes on without a store goes on with what it has.
    let asked = ClaimRequest { on_store_error: OnLedgerError::Bypass, ..with_replica("bypass") };
    let told = store.claim(&asked, 0).await.unwrap();
    assert!(matches!(told, Claimed::Held { is_replicated: false, .. }), "{told:?}");
    let told = store.claim(&with_replica("bypass"), 0).await.unwrap();
    assert!(matches!(told, Claimed::InProgress { .. }), "it is not withdrawn: {told:?}");
    // What the one connection waits for, the other doesn't.
    assert_eq!(store.link().state(), LinkState::Connected);
    replica.signal("-CONT");
    hold_soon(&store, &with_replica("again"), 0).await;
}

#[tokio::test]
async fn where_all_wait_for_replicas_an_answer_is_stored_without() {
    let server = Server::start();
    let store = ledger_of(&server).await;
    let asked = request("k", 1);
    let fence = hold_soon(&store, &asked, 0).await;
    let _all = store.replicas.taken().await;
    let busy = store.claim(&ClaimRequest { replicas: 1, ..request("other", 1) }, 0).await;
    assert!(matches!(busy, Err(StoreError::Unavailable(_))), "{busy:?}");
    let told = store.complete(&asked.key, fence, answer("a"), 1, 0).await.unwrap();
    assert_eq!(told, Settled::Applied);
    assert!(matches!(store.claim(&asked, 0).await.unwrap(), Claimed::Replay(_)));
}

#[tokio::test]
async fn the_acl_user_that_docs_redis_md_names_is_enough() {
    let server = Server::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let mut connection = server.connect();
    let docs = include_str!("../../../../../../docs/redis.md");
    let lines: Vec<_> = docs.lines().filter(|line| line.starts_with("ACL SETUSER")).collect();
    assert_eq!(lines.len(), 2, "one for limits, one for idempotency");
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        ask::<()>(&mut connection, &words);
    }
    ask::<()>(&mut connection, &["ACL", "SETUSER", "default", "off"]);
    let url = format!("redis://tollgate:PASSWORD@127.0.0.1:{}", server.port);
    let link = Link::new(url.parse().unwrap(), PATIENT, &Handle::current());
    until(&link, LinkState::Connected).await;
    assert_eq!(link.evicts().as_deref(), Some("allkeys-lru"));
    let store = RedisLedger::new(link, ClockOf::Redis, TenantRoom::SHARED, &Handle::current());
    // All that is ever sent.
    let asked = request("k", 1);
    let fence = hold_soon(&store, &asked, 0).await;
    assert_eq!(store.renew(&asked.key, fence, 1, 0).await.unwrap(), Settled::Applied);
    assert_eq!(store.mark_unknown(&asked.key, fence, 0).await.unwrap(), Settled::Applied);
    assert_eq!(store.clear(&asked.key, fence, 0).await.unwrap(), Settled::Applied);
    let fence = hold_soon(&store, &asked, 0).await;
    store.withdrawals.begin(asked.key.clone(), Nonce::random(), 0);
    assert_eq!(
        store.complete(&asked.key, fence, answer("a"), 0, 0).await.unwrap(),
        Settled::Applied
    );
    let few = store.claim(&ClaimRequest { replicas: 1, ..request("other", 1) }, 0).await;
    assert!(few.unwrap_err().to_string().contains("0 of 1 replicas"), "it may wait");
    let found = store.find(&asked.key.tenant, &Key::parse(b"k").unwrap(), 0).await.unwrap();
    assert_eq!(found.records.len(), 1);
    assert!(matches!(store.claim(&asked, 0).await.unwrap(), Claimed::Replay(_)));
}
