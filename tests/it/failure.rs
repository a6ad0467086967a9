//! Upstreams that fail, and processes that end: the caller is told, and nobody else notices.

use crate::harness::document::{self, ACME, Edit as _, upstream_named};
use crate::harness::node::Setup;
use crate::harness::process::tollgate;
use crate::harness::{Latch, Node, Raw, Reply, Upstream, eventually};
use serde_json::json;
use std::net::TcpListener;

#[tokio::test]
async fn a_refused_connection_is_502_with_our_body() {
    let node = Node::start(&document::standard(Upstream::address_of_none())).await;
    for _ in 0..3 {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        answer.refuses(502, "UPSTREAM_UNREACHABLE");
        assert_eq!(answer.header("proxy-status"), "tollgate; error=destination_unavailable");
        assert_eq!(answer.header("api-version"), "v1");
        assert!(
            !String::from_utf8_lossy(&answer.body).contains("127.0.0.1"),
            "addresses stay private"
        );
    }
    let metrics = node.has_reported(3).await;
    let labels =
        [("error", "UPSTREAM_UNREACHABLE"), ("status_class", "5xx"), ("route", "contacts.list")];
    assert_eq!(metrics.sum("tollgate_requests_total", &labels).to_string(), "3");
}

#[tokio::test]
async fn an_upstream_that_is_silent_is_504() {
    let upstream = Upstream::scripted(|_| Reply::never()).await;
    let node =
        Node::start(&document::standard(upstream.address).timeouts("1s", "300ms", "5s")).await;
    let answer = node.get("/v1/contacts").key(ACME).send().await;
    answer.refuses(504, "UPSTREAM_TIMEOUT");
    assert!(answer.header("proxy-status").starts_with("tollgate; error="));
    let posted = node.call(http::Method::PUT, "/v1/contacts/7").key(ACME).body("{}").send().await;
    posted.refuses(504, "UPSTREAM_TIMEOUT");
    assert_eq!(upstream.arrivals().len(), 2, "neither was tried again");
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_502_and_a_write_is_not_repeated() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    // A kept connection, on which the next request is sent.
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    upstream.does(|_| Reply::cut());
    let put = || node.call(http::Method::PATCH, "/v1/contacts/7").key(ACME).body("{}");
    put().send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    put().send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    let writes =
        upstream.arrivals().into_iter().filter(|arrival| arrival.method == "PATCH").count();
    assert_eq!(writes, 2);
    upstream.does(|_| Reply::of(200));
    put().send().await.is(200);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_502() {
    let upstream = Upstream::scripted(|_| Reply::of(200).header("x", "1").cut_after(9)).await;
    let node = Node::start(&document::standard(upstream.address)).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    node.still_serves().await;
}

#[tokio::test]
async fn a_truncated_answer_never_looks_complete() {
    let bodies = [
        Reply::of(200).body("x".repeat(50_000)).cut_after(20_000),
        Reply::of(200).body("x".repeat(50_000)).chunked().cut_after(20_000),
    ];
    for reply in bodies {
        let upstream = Upstream::scripted(move |_| reply.clone()).await;
        let node = Node::start(&document::standard(upstream.address)).await;
        let asked = node.get("/v1/contacts").key(ACME).try_send().await;
        assert!(asked.is_err(), "{asked:?}");
        let mut raw = Raw::to(node.gateway).await;
        raw.say(format!("GET /v1/contacts HTTP/1.1\r\nHost: a\r\nX-Api-Key: {ACME}\r\n\r\n")).await;
        assert!(raw.hear().await.is_none());
    }
}

#[tokio::test]
async fn a_second_target_takes_what_the_first_refuses() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        let dead = Upstream::address_of_none().to_string();
        let alive = upstream.address.to_string();
        document.entry("upstreams", "crm")["targets"] =
            json!([{ "address": dead }, { "address": alive }]);
    });
    let node = Node::start(&document).await;
    for number in 0..10 {
        node.get("/v1/contacts").key(ACME).send().await.is(200);
        node.keyed(&format!("second-{number}")).body("{}").send().await.is(201);
    }
    assert_eq!(upstream.arrivals().len(), 20);
}

#[tokio::test]
async fn one_upstream_down_leaves_the_others_up() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .with("upstreams", upstream_named("down", Upstream::address_of_none()))
        .changed(|document| document["services"][0]["versions"][0]["upstream"] = json!("down"));
    let node = Node::start(&document).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(502, "UPSTREAM_UNREACHABLE");
    node.get("/v2/contacts").key(ACME).send().await.is(200);
    node.status.get("/readyz").send().await.is(200);
}

#[tokio::test]
async fn any_http_server_can_stand_behind() {
    let first = Upstream::start().await;
    let node = Node::start(&document::standard(first.address)).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    let second = Upstream::start().await;
    node.publish(&document::standard(second.address)).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!((first.arrivals().len(), second.arrivals().len()), (1, 1));
}

#[tokio::test]
async fn at_shutdown_what_is_in_progress_is_answered() {
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).body("late").held_by(&held)).await;
    let mut node = Node::start(&document::standard(upstream.address)).await;
    let streamed = tokio::spawn(node.get("/v1/contacts").key(ACME).send());
    let keyed = tokio::spawn(node.keyed("late").body("{}").send());
    upstream.has_seen(2).await;
    node.process().terminate();
    eventually("it takes no new connections", async || {
        match tokio::net::TcpStream::connect(node.gateway).await {
            Ok(_) => Err("it does"),
            Err(_) => Ok(()),
        }
    })
    .await;
    latch.open();
    for asked in [streamed, keyed] {
        assert_eq!(&*asked.await.unwrap().is(200).body, b"late");
    }
    let ended = eventually("it ends", async || node.process().ended().ok_or(())).await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_busy_port_is_named_with_how_to_choose_others() {
    let upstream = Upstream::start().await;
    let setup = Setup::of(&document::standard(upstream.address));
    let taken = TcpListener::bind(setup.gateway_address()).unwrap();
    let mut node = setup.start_unready();
    let ended = eventually("it ends", async || node.process().ended().ok_or(())).await;
    assert_eq!(ended.code(), Some(1));
    let address = taken.local_addr().unwrap().to_string();
    node.has_logged(&[&address, "gateway", "listen"]).await;

    let folder = tempfile::tempdir().unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut demo = tollgate();
    demo.arg("demo").arg("--data").arg(folder.path()).args(["--port-base", &port.to_string()]);
    let output = tokio::task::spawn_blocking(move || demo.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&address) && said.contains("--port-base"), "{said}");
}
