//! A link whose Redis goes away, hangs, comes back. Each test has a server of its own.

use super::*;
use crate::redis::{LinkState, Presence};
use model::port::StoreError;
use model::quota::Settlement;
use std::time::Instant;

fn ask_one() -> Demand {
    demand("acme", 1, 1, &[("burst", rate("1000/s", 1000))])
}

#[tokio::test]
async fn without_a_connection_nobody_waits() {
    let url = "redis://127.0.0.1:1".parse().unwrap();
    let link = Link::new(url, PATIENT, &Handle::current());
    let store = RedisCounters::new(link, ClockOf::Redis);
    let began = Instant::now();
    for _ in 0..1_000 {
        let error = store.reserve(&ask_one(), 0).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    assert!(began.elapsed() < PATIENT);
    assert_eq!(store.link().state(), LinkState::Away);
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let mut server = Server::start();
    drop(server.connect());
    let link = server.link(PATIENT);
    link.connected().await;
    let store = RedisCounters::new(link.clone(), ClockOf::Redis);
    for _ in 0..3 {
        store.reserve(&ask_one(), 0).await.unwrap();
        server.kill();
        // Nobody sends a command: the connection's end is seen by itself.
        until(&link, LinkState::Away).await;
        server.start_again();
        until(&link, LinkState::Connected).await;
    }
    store.reserve(&ask_one(), 0).await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let server = Server::start();
    drop(server.connect());
    let link = server.link(Duration::from_millis(15));
    link.connected().await;
    let store = RedisCounters::new(link.clone(), ClockOf::Redis);
    server.signal("-STOP");
    let error = store.reserve(&ask_one(), 0).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut(_)), "{error}");
    until(&link, LinkState::Away).await;
    server.signal("-CONT");
    until(&link, LinkState::Connected).await;
    // On a busy machine one answer may take longer than the deadline, not all of them.
    let mut is_answered = false;
    for _ in 0..1_000 {
        is_answered |= store.reserve(&ask_one(), 0).await.is_ok();
    }
    assert!(is_answered);
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left() {
    let (old, new) = (Server::start(), Server::start());
    drop(new.connect());
    let mut connection = old.connect();
    let link = old.link(PATIENT);
    link.connected().await;
    let store = RedisCounters::new(link.clone(), ClockOf::Redis);
    store.reserve(&ask_one(), 0).await.unwrap();
    ask::<()>(&mut connection, &["REPLICAOF", "127.0.0.1", &new.port.to_string()]);
    let ask_again = demand("acme", 2, 1, &[("daily", quota("9/day"))]);
    let error = store.reserve(&ask_again, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // It goes on trying, wherever the name leads by then.
    ask::<()>(&mut connection, &["REPLICAOF", "NO", "ONE"]);
    let began = Instant::now();
    while store.reserve(&ask_again, 0).await.is_err() {
        assert!(began.elapsed() < PATIENT);
        // While there is no connection.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn full_memory_refuses_and_charges_nothing() {
    let server = Server::start();
    let mut connection = server.connect();
    let link = server.link(PATIENT);
    link.connected().await;
    let store = RedisCounters::new(link, ClockOf::Redis);
    let limits = [("burst", rate("1/h", 9)), ("open", Kind::Concurrency(9))];
    store.reserve(&demand("acme", 1, 1, &limits), 0).await.unwrap();
    ask::<()>(&mut connection, &["CONFIG", "SET", "maxmemory", "1"]);
    let full = store.reserve(&demand("acme", 2, 1, &limits), 0).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(used(&store, &demand("acme", 3, 1, &limits), 0).await, [1, 1]);
    ask::<()>(&mut connection, &["CONFIG", "SET", "maxmemory", "0"]);
    store.reserve(&demand("acme", 2, 1, &limits), 0).await.unwrap();
}

#[tokio::test]
async fn the_acl_user_that_docs_redis_md_names_is_enough() {
    let server = Server::start();
    let mut connection = server.connect();
    let acl = "ACL SETUSER gateway on >p@ss:/w%rd resetkeys ~q:* ~qs:* ~qp:* -@all +@connection +eval +evalsha +info \
        +time +get +set +del +exists +pttl +pexpire +zadd +zrem +zcard +zcount +zremrangebyscore";
    let acl: Vec<_> = acl.split_whitespace().collect();
    ask::<()>(&mut connection, &acl);
    ask::<()>(&mut connection, &["ACL", "SETUSER", "default", "off"]);
    for (login, state) in
        [("gateway:p%40ss%3A%2Fw%25rd@", LinkState::Connected), ("", LinkState::Away)]
    {
        let url: RedisUrl = format!("redis://{login}127.0.0.1:{}", server.port).parse().unwrap();
        let link = Link::new(url, PATIENT, &Handle::current());
        let store = RedisCounters::new(link.clone(), ClockOf::Redis);
        if state == LinkState::Connected {
            link.connected().await;
            // All that is ever sent.
            let limits =
                [("b", rate("1/h", 9)), ("q", quota("9/day")), ("open", Kind::Concurrency(9))];
            let ask = |id| Demand { costs_later: true, ..demand("acme", id, 1, &limits) };
            let permit = admit(&store, &ask(1), 0).await;
            store.settle(&permit, Settlement::Cost(2), 0).await.unwrap();
            store.settle_unknown(&ask(2), Settlement::Refund, 0).await.unwrap();
            assert_eq!(used(&store, &ask(3), 0).await, [2, 2, 0]);
            store.reset(&ask(3), 0).await.unwrap();
            let presence = Presence::new(link.clone(), Some("gw-1".into()), &Handle::current());
            presence.leave().await;
        } else {
            store.reserve(&ask_one(), 0).await.unwrap_err();
        }
        assert_eq!(link.state(), state);
    }
}
