//! What came of a keyed request is told to the store of its key, also where that is away for a moment; and nothing is called
//! unknown of which it is known that nothing was sent.

use crate::harness::call::Call;
use crate::harness::cluster::{self, Member};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::metrics::Metrics;
use crate::harness::node::Setup;
use crate::harness::postgres::{Database, Server};
use crate::harness::redis::Redis;
use crate::harness::{
    Arrival, Latch, Node, PATIENCE, Reply, Upstream, eventually, hoped, pattern, sha256,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

const PATH: &str = "/v1/contacts";
const ADA: &str = r#"{"first_name":"Ada"}"#;
/// Longer than one try to tell the store.
const BEYOND_A_TRY: Duration = Duration::from_secs(3);
/// Longer than a lease lasts that nobody renews: here the total time, the time to connect and ten seconds.
const BEYOND_A_LEASE: Duration = Duration::from_secs(13);

/// A store that goes and comes, and a gateway whose records are there.
enum Kept {
    OnRedis(Box<Node>, Redis),
    InDatabase(Box<Member>, Server),
}

impl Kept {
    async fn on_redis(upstream: &Upstream) -> Self {
        let redis = Redis::start();
        let setup = Setup::of(&document::standard(upstream.address));
        let setup = setup.environment("TOLLGATE_IDEMPOTENCY", "redis");
        let node = setup.environment("TOLLGATE_REDIS_IDEMPOTENCY", &redis.url()).start().await;
        let store = [("store", "idempotency")];
        eventually("it is connected to Redis", async || {
            node.keyed("first").body(ADA).send().await;
            hoped(node.metrics().await.sum("tollgate_store_degraded", &store), &0.0)
        })
        .await;
        Self::OnRedis(Box::new(node), redis)
    }

    async fn in_database(upstream: &Upstream) -> Self {
        let server = Server::start();
        let node = alone(&server.url(), &document::standard(upstream.address)).await;
        node.post(PATH).key(ACME).idempotency_key("first").body(ADA).send().await.is(201);
        Self::InDatabase(Box::new(node), server)
    }

    fn post(&self, key: &str) -> Call {
        let call = match self {
            Self::OnRedis(node, _) => node.post(PATH),
            Self::InDatabase(node, _) => node.post(PATH),
        };
        call.key(ACME).idempotency_key(key).header("x-case", key).body(ADA)
    }

    async fn metrics(&self) -> Metrics {
        match self {
            Self::OnRedis(node, _) => node.metrics().await,
            Self::InDatabase(node, _) => node.metrics().await,
        }
    }

    fn goes_away(&mut self) {
        match self {
            Self::OnRedis(_, redis) => redis.kill(),
            Self::InDatabase(_, server) => server.stop(),
        }
    }

    fn comes_back(&mut self) {
        match self {
            Self::OnRedis(_, redis) => redis.start_again(),
            Self::InDatabase(_, server) => server.start_again(),
        }
    }
}

/// A gateway on this database.
async fn alone(database: &str, document: &Value) -> Member {
    let setup = cluster::Setup::named("alone", &["gateway", "admin"]).on(database);
    let mut node = setup.start();
    node.answers().await;
    node.api.publish_first(document).await;
    node.is_ready().await;
    node
}

/// How its first arrival is answered when the latch opens.
fn answered(arrival: &Arrival, latch: &Latch) -> Reply {
    match arrival.header("x-case") {
        "stored" => Reply::of(201).body("made").held_by(latch),
        "declined" => Reply::of(429).held_by(latch),
        "lost" => Reply::cut().held_by(latch),
        _ => Reply::of(201),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_is_stored_when_a_store_that_was_away_is_back() {
    let upstream = Upstream::start().await;
    for mut kept in [Kept::on_redis(&upstream).await, Kept::in_database(&upstream).await] {
        let latch = Latch::closed();
        let held = latch.clone();
        upstream.does(move |arrival| answered(arrival, &held));
        let settled = async |outcome: &str| {
            let metrics = kept.metrics().await;
            metrics.sum("tollgate_idempotency_settled_total", &[("outcome", outcome)])
        };
        let before = settled("stored").await;
        let arrived = upstream.arrivals().len();
        let asked = ["stored", "declined", "lost"].map(|key| tokio::spawn(kept.post(key).send()));
        upstream.has_seen(arrived + asked.len()).await;
        kept.goes_away();
        latch.open();
        let mut statuses = Vec::new();
        for answer in asked {
            statuses.push(answer.await.unwrap().status);
        }
        assert_eq!(statuses, [201, 429, 502], "clients are told all the same");
        sleep(BEYOND_A_TRY).await;
        kept.comes_back();
        let settled = async |outcome: &str| {
            let metrics = kept.metrics().await;
            metrics.sum("tollgate_idempotency_settled_total", &[("outcome", outcome)])
        };
        eventually("all is told to the store", async || {
            let told = [
                settled("stored").await - before,
                settled("released").await,
                settled("unknown").await,
            ];
            hoped(told, &[1.0, 1.0, 1.0])
        })
        .await;
        assert_eq!(settled("failed").await, 0.0);
        upstream.does(|_| Reply::of(201));
        let stored = kept.post("stored").send().await;
        assert!(stored.is(201).is_replay());
        assert_eq!(stored.body, "made");
        assert!(!kept.post("declined").send().await.is(201).is_replay());
        kept.post("lost").send().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
        assert_eq!(upstream.arrivals().len(), arrived + 3 + 1);
    }
}

/// The store takes renewals and no answers: a lease ends meanwhile only where nobody renews it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_answer_waits_to_be_stored_nobody_else_is_let_through() {
    let upstream = Upstream::scripted(|_| Reply::of(201).body("made")).await;
    let document = document::standard(upstream.address).timeouts("1s", "1s", "1s");
    let document = document.changed(|document| {
        let rules = &mut document.entry("routes", "contacts.create")["idempotency"];
        rules["on_unknown"] = json!("redrive");
    });
    let database = Database::fresh();
    let node = alone(&database.url(), &document).await;
    let repeat = || node.post(PATH).key(ACME).idempotency_key("waits").body(ADA).send();
    database.sql(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no room'; end $$; \
         create trigger refuses before update on idempotency for each row \
         when (new.state = 'done') execute function refuse()",
    );
    repeat().await.is(201);
    sleep(BEYOND_A_LEASE).await;
    repeat().await.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
    database.sql("drop trigger refuses on idempotency");
    eventually("it is stored", async || {
        let again = repeat().await;
        hoped((again.status, again.is_replay()), &(201, true))
    })
    .await;
    upstream.only_arrival();
}

/// Connections that wait for replicas wait for nothing else; there is one where a route wants it, before it is asked for.
#[tokio::test]
async fn a_route_that_wants_replicas_waits_for_them_on_a_connection_of_its_own() {
    let upstream = Upstream::start().await;
    let Kept::OnRedis(node, redis) = Kept::on_redis(&upstream).await else { unreachable!() };
    // Who asks is one of them.
    let connections = || redis.ask(&["CLIENT", "LIST"]).lines().count();
    let before = connections();
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.create")["idempotency"]["replicas"] = json!(1);
    });
    node.publish(&document).await;
    eventually("there is one more", async || hoped(connections(), &(before + 1))).await;
    // Without replicas nothing is sent, and nothing is unknown either.
    node.keyed("few").body(ADA).send().await.refuses(503, "DEPENDENCY_UNAVAILABLE");
    // Where the route goes on, the answer says what it had not; the key is held for all that, and its answer kept.
    let arrived = upstream.arrivals().len();
    let document = document.changed(|document| {
        let rules = &mut document.entry("routes", "contacts.create")["idempotency"];
        rules["on_store_error"] = json!("bypass");
    });
    node.publish(&document).await;
    let first = node.keyed("few").body(ADA).send().await;
    assert_eq!(first.is(201).header("idempotency-status"), "not-enforced");
    let again = node.keyed("few").body(ADA).send().await;
    assert!(again.is(201).is_replay());
    assert_eq!(again.header("idempotency-status"), "");
    assert_eq!(upstream.arrivals().len(), arrived + 1);
}

/// A server to which no connection comes about: its queue is full.
async fn unreachable() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(stream);
    }
    (listener, queued)
}

#[tokio::test]
async fn where_time_is_over_before_there_was_a_connection_the_key_is_free() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(unreachable().await);
    }
    let targets: Vec<_> = servers
        .iter()
        .map(|(listener, _)| json!({ "address": listener.local_addr().unwrap().to_string() }))
        .collect();
    let document = document::standard(Upstream::address_of_none());
    let document = document.timeouts("1s", "1s", "1s").changed(|document| {
        document.entry("upstreams", "crm")["targets"] = json!(targets);
    });
    let node = Node::start(&document).await;
    // Three targets that take a second each, within two seconds.
    let details = node.keyed("early").body(ADA).send().await.refuses(504, "UPSTREAM_TIMEOUT");
    assert!(details["outcome"].is_null(), "{details}");
    let upstream = Upstream::start().await;
    node.publish(&document::standard(upstream.address)).await;
    assert!(!node.keyed("early").body(ADA).send().await.is(201).is_replay());
    upstream.only_arrival();
}

/// What a client read before its connection ended.
async fn read_to_the_end(node: &Node, key: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.gateway).await.unwrap();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\nIdempotency-Key: {key}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{ADA}",
        ADA.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    // Whether it is closed or broken off.
    timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("the connection ends").ok();
    read
}

#[tokio::test]
async fn an_answer_that_is_cut_after_its_head_is_never_whole_for_a_client_and_never_asked_for_again()
 {
    const KEPT: usize = 100_000;
    const STREAMED: usize = 3 << 20;
    for (case, size, chunked) in [
        ("small", KEPT, false),
        ("small-chunked", KEPT, true),
        ("large", STREAMED, false),
        ("large-chunked", STREAMED, true),
    ] {
        let upstream = Upstream::scripted(move |_| {
            let reply = Reply::of(201).body(pattern(size)).cut_after(size * 3 / 4);
            if chunked { reply.chunked() } else { reply }
        })
        .await;
        let node = Node::start(&document::standard(upstream.address)).await;
        let read = read_to_the_end(&node, case).await;
        let text = String::from_utf8_lossy(&read);
        if size == KEPT {
            // Nothing of it had gone to the client.
            assert!(text.starts_with("HTTP/1.1 502 "), "{case}: {text}");
            assert!(text.contains("UPSTREAM_UNREACHABLE") && text.contains("unknown"), "{text}");
        } else {
            assert!(text.starts_with("HTTP/1.1 201 "), "{case}");
            assert!(read.len() < size, "{case}: as much as was announced");
            assert!(!read.ends_with(b"\r\n0\r\n\r\n"), "{case}: what is cut looks whole");
        }
        upstream.does(|_| Reply::of(201));
        for _ in 0..2 {
            node.keyed(case).body(ADA).send().await.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
        }
        assert_eq!(upstream.only_arrival().body_sha256, sha256(ADA));
    }
}
