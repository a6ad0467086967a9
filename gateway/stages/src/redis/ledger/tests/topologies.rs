//! The ledger on a Redis Cluster, and on a master that sentinels name. Each test has servers of its own.

use super::*;
use crate::redis::LinkState;
use crate::redis::tests::{Server, ask, free_port, until};
use redis::Connection;
use std::time::Instant;

/// Waits until it is so, which is other processes' to bring about.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENT, "{what}: not after {PATIENT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn linked(url: &str) -> Link {
    let link = Link::new(url.parse().unwrap(), PATIENT, &Handle::current());
    until(&link, LinkState::Connected).await;
    link
}

/// Three masters, each with a third of the slots.
fn cluster() -> (Vec<Server>, Vec<Connection>) {
    let start = |_| {
        let bus = free_port();
        let server = Server::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.to_string(),
            "--cluster-node-timeout",
            "5000",
        ]);
        (server, bus)
    };
    let servers: Vec<(Server, u16)> = (0..3).map(start).collect();
    let mut connections: Vec<_> =
        servers.iter().map(|(server, _)| server.connect_without_keys()).collect();
    let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
    for (number, (connection, (first, last))) in connections.iter_mut().zip(slots).enumerate() {
        ask::<()>(connection, &["CLUSTER", "ADDSLOTSRANGE", first, last]);
        ask::<()>(connection, &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
    }
    for (server, bus) in &servers[1..] {
        let (port, bus) = (server.port.to_string(), bus.to_string());
        ask::<()>(&mut connections[0], &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    for connection in &mut connections {
        eventually("all know all", || {
            let info: String = ask(connection, &["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && info.contains("cluster_known_nodes:3")
        });
    }
    (servers.into_iter().map(|(server, _)| server).collect(), connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_does_what_one_server_does() {
    let (servers, mut connections) = cluster();
    let addresses: Vec<_> =
        servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let link = linked(&format!("redis+cluster://{}", addresses.join(","))).await;
    assert!(link.is_cluster());
    // A link stands as soon as one master answers: until each does, a claim says so at once.
    let first = RedisLedger::new(link.clone(), ClockOf::Redis, ROOM, &Handle::current());
    for tenant in 0..20 {
        hold_soon(&first, &scoped(&format!("t{tenant}"), "mobile", "contacts.create", "k", 1), 0)
            .await;
    }
    model::ledger_suite!(in turn, of async {
        connections.iter_mut().for_each(|connection| ask::<()>(connection, &["FLUSHALL"]));
        (RedisLedger::new(link.clone(), ClockOf::Caller, ROOM, &Handle::current()), ())
    });
    // The last claim's tenants: not a test of one shard.
    for connection in &mut connections {
        assert!(ask::<i64>(connection, &["DBSIZE"]) > 0);
    }
    // What waits for replicas, of which there are none, and what is withdrawn find their shards, too.
    let store = RedisLedger::new(link, ClockOf::Redis, TenantRoom::SHARED, &Handle::current());
    for tenant in 0..20 {
        let asked = scoped(&format!("t{tenant}"), "mobile", "contacts.create", "k", 1);
        let waiting = ClaimRequest { replicas: 1, ..asked.clone() };
        let few = store.claim(&waiting, 0).await.unwrap_err();
        assert!(few.to_string().contains("0 of 1 replicas"), "{few}");
        hold_soon(&store, &asked, 0).await;
    }
}

/// A master with a replica, and a sentinel that knows both.
fn watched() -> (Server, Server, Server) {
    let master = Server::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start();
    drop((master.connect(), replica.connect()));
    replica.follow(&master);
    let sentinel = Server::sentinel_of(&master);
    let mut connection = sentinel.connect_without_keys();
    eventually("the sentinel knows the replica", || {
        let told: Vec<String> = ask(&mut connection, &["SENTINEL", "MASTER", "main"]);
        told.windows(2).any(|pair| pair == ["num-slaves", "1"])
    });
    (master, replica, sentinel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_sentinel_the_master_does_what_it_does_alone() {
    let (master, _replica, sentinel) = watched();
    let mut connection = master.connect();
    let link = linked(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)).await;
    model::ledger_suite!(in turn, of async {
        ask::<()>(&mut connection, &["FLUSHALL"]);
        (RedisLedger::new(link.clone(), ClockOf::Caller, ROOM, &Handle::current()), ())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_new_master_has_what_replicas_were_waited_for() {
    let (_master, replica, sentinel) = watched();
    let link = linked(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)).await;
    let store = RedisLedger::new(link, ClockOf::Redis, TenantRoom::SHARED, &Handle::current());
    let asked = |key: &str| ClaimRequest { replicas: 1, ..request(key, 1) };
    let (held, done) = (asked("held"), asked("done"));
    let first = hold_soon(&store, &held, 0).await;
    let fence = hold_soon(&store, &done, 0).await;
    let told = store.complete(&done.key, fence, answer("a"), 1, 0).await.unwrap();
    assert_eq!(told, Settled::Applied);
    let mut watcher = sentinel.connect_without_keys();
    eventually("the sentinel finds the replica well", || {
        redis::cmd("SENTINEL").arg("FAILOVER").arg("main").exec(&mut watcher).is_ok()
    });
    // Sentinels close all connections to the server that they promote.
    eventually("the replica is master", || {
        let role: Result<Vec<Value>, _> = redis::cmd("ROLE").query(&mut replica.connect());
        role.is_ok_and(|role| role.first() == Some(&Value::BulkString(b"master".to_vec())))
    });
    // Refused for as long as the link leads to a server that is a replica by now.
    let alone = |asked: &ClaimRequest| ClaimRequest { replicas: 0, ..asked.clone() };
    let began = Instant::now();
    while let Err(error) = store.claim(&alone(&request("new", 1)), 0).await {
        assert!(began.elapsed() < PATIENT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = store.claim(&alone(&held), 0).await.unwrap();
    assert_eq!(told, Claimed::InProgress { retry_after: 5 });
    let told = store.claim(&alone(&done), 0).await.unwrap();
    assert!(matches!(told, Claimed::Replay(_)), "{told:?}");
    assert_eq!(store.release(&held.key, first, 0).await.unwrap(), Settled::Applied);
    assert!(hold_soon(&store, &alone(&held), 0).await > fence, "fences grow over a failover");
}
