//! HTTP as it comes on the wire: what two servers could read differently goes nowhere; all else passes whole.

use crate::harness::document::{self, ACME, Edit as _, upstream_named};
use crate::harness::raw::in_chunks;
use crate::harness::{Answer, Node, Raw, Reply, Upstream, eventually, pattern, sha256};
use http::Method;
use serde_json::json;
use std::time::Duration;

async fn node(upstream: &Upstream) -> Node {
    Node::start(&document::standard(upstream.address)).await
}

/// Says this on a connection of its own.
async fn heard(node: &Node, request: &[u8]) -> Option<Answer> {
    let mut raw = Raw::to(node.gateway).await;
    raw.say(request).await;
    raw.hear().await
}

/// A request of acme with these further lines, each ended by CRLF, and this body.
fn request(first: &str, lines: &str, body: &str) -> Vec<u8> {
    format!("{first} HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\n{lines}\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn a_malformed_head_is_400_with_our_body_and_nothing_arrives() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let key = format!("X-Api-Key: {ACME}\r\n");
    let get = |rest: &str| format!("GET /v1/contacts HTTP/1.1\r\n{key}{rest}\r\n").into_bytes();
    let path = |path: &str| request(&format!("GET {path}"), "", "");
    let post = |lines: &str, body: &str| {
        request("POST /v1/contacts", &format!("Idempotency-Key: m\r\n{lines}"), body)
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no Host", get("")),
        ("empty Host", get("Host:\r\n")),
        ("Host with a path", get("Host: a/b\r\n")),
        ("Host list", get("Host: a, b\r\n")),
        (
            "length and chunked",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "chunked and length",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ),
        ("length twice, the same", post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}")),
        ("length list", post("Content-Length: 2, 2\r\n", "{}")),
        ("two codings", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        ("upgrade", get("Host: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n")),
        ("expectation", get("Host: a\r\nExpect: miracles\r\n")),
        ("dot segments", path("/v1/contacts/../contacts")),
        ("encoded dot segments", path("/v1/contacts/%2e%2E/contacts")),
        ("a dot segment", path("/v1/./contacts")),
        ("double slash", path("//v1/contacts")),
        ("double slash inside", path("/v1//contacts")),
        ("encoded slash", path("/v1/contacts%2F7")),
        ("encoded backslash", path("/v1/contacts/%5c7")),
        ("backslash", path("/v1/contacts/\\7")),
        ("NUL", path("/v1/contacts/%007")),
        ("line feed", path("/v1/contacts/%0a7")),
        ("cut percent", path("/v1/contacts/%7")),
        ("no percent", path("/v1/contacts/%zz")),
    ];
    let mut wrong = Vec::new();
    for (case, bytes) in cases {
        let answer = heard(&node, &bytes).await.unwrap_or_else(|| panic!("{case}: no answer"));
        if answer.code() == "VALIDATION_FAILED" {
            answer.refuses(400, "VALIDATION_FAILED");
        } else {
            wrong.push((case, answer));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(upstream.arrivals().len(), 0);
    node.still_serves().await;
}

/// What pingora answers before there is a session: no body, no id, and no way on.
#[tokio::test]
async fn what_the_server_library_cannot_read_is_refused_and_closed() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ("no version", b"GET /v1/contacts\r\n\r\n".to_vec()),
        ("no such version", format!("GET /v1/contacts HTTP/3.1\r\nHost: a\r\nX-Api-Key: {ACME}\r\n\r\n").into_bytes()),
        ("two targets", request("GET /v1/contacts /v2/contacts", "", "")),
        ("Host twice", request("GET /v1/contacts", "Host: b.example\r\n", "")),
        ("Host with credentials", format!("GET /v1/contacts HTTP/1.1\r\nHost: u@a\r\nX-Api-Key: {ACME}\r\n\r\n").into_bytes()),
        ("two lengths", request("POST /v1/contacts", "Content-Length: 2\r\nContent-Length: 3\r\n", "{}x")),
        ("signed length", request("POST /v1/contacts", "Content-Length: +2\r\n", "{}")),
        ("no length", request("POST /v1/contacts", "Content-Length: two\r\n", "{}")),
        ("bad name", request("GET /v1/contacts", "X (a): 1\r\n", "")),
        ("empty name", request("GET /v1/contacts", ": 1\r\n", "")),
        ("no colon", request("GET /v1/contacts", "X-Nothing\r\n", "")),
        ("space before colon", request("GET /v1/contacts", "X-A : 1\r\n", "")),
        ("folded line", request("GET /v1/contacts", "X-A: 1\r\n 2\r\n", "")),
        ("bare CR", request("GET /v1/contacts", "X-A: 1\r2\r\n", "")),
        ("NUL in a value", request("GET /v1/contacts", "X-A: 1\x002\r\n", "")),
        ("CONNECT", b"CONNECT crm.internal:443 HTTP/1.1\r\nHost: crm.internal:443\r\n\r\n".to_vec()),
        ("chunked, finally not", request("POST /v1/contacts", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("HTTP/1.0 chunked", format!("POST /v1/contacts HTTP/1.0\r\nHost: a\r\nX-Api-Key: {ACME}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes()),
    ];
    for (case, bytes) in cases {
        let mut raw = Raw::to(node.gateway).await;
        raw.say(&bytes).await;
        match raw.hear().await {
            None => {}
            Some(answer) => {
                assert!((400..500).contains(&answer.status), "{case}: {answer:?}");
                // What did reach us has our body.
                if !answer.body.is_empty() {
                    answer.has_error_body();
                }
            }
        }
    }
    assert_eq!(upstream.arrivals().len(), 0);
    node.still_serves().await;
}

#[tokio::test]
async fn trace_is_not_taken() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let answer = heard(&node, &request("TRACE /v1/contacts", "", "")).await.unwrap();
    answer.refuses(405, "METHOD_NOT_ALLOWED");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn what_is_too_long_is_414_or_431() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let long = "a".repeat(8200);
    heard(&node, &request(&format!("GET /v1/contacts?q={long}"), "", ""))
        .await
        .unwrap()
        .refuses(414, "URI_TOO_LONG");
    let wide = format!("X-Wide: {}\r\n", "a".repeat(33 * 1024));
    heard(&node, &request("GET /v1/contacts", &wide, ""))
        .await
        .unwrap()
        .refuses(431, "HEADERS_TOO_LARGE");
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    heard(&node, &request("GET /v1/contacts", &many, ""))
        .await
        .unwrap()
        .refuses(431, "HEADERS_TOO_LARGE");
    assert_eq!(upstream.arrivals().len(), 0);
    let fits = format!("X-Wide: {}\r\n", "a".repeat(30 * 1024));
    heard(&node, &request(&format!("GET /v1/contacts?q={}", "a".repeat(1000)), &fits, ""))
        .await
        .unwrap()
        .is(200);
}

#[tokio::test]
async fn a_request_hidden_in_another_ones_body_is_never_served() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let hidden = String::from_utf8(request("DELETE /v1/contacts/hidden", "", "")).unwrap();
    let chunked = format!("0\r\n\r\n{hidden}");
    let both = format!(
        "Idempotency-Key: s\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n",
        chunked.len()
    );
    let split =
        "Idempotency-Key: s\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n".to_owned();
    let obscured = |value: &str| {
        format!(
            "Idempotency-Key: s\r\nContent-Length: {}\r\nTransfer-Encoding:{value}\r\n",
            chunked.len()
        )
    };
    let cases = [
        both,
        split,
        obscured("\tchunked"),
        obscured(" chunked "),
        obscured(" Chunked"),
        obscured(" xchunked"),
        obscured(" identity"),
        obscured("\u{b}chunked"),
        format!(
            "Idempotency-Key: s\r\nContent-Length: {}\r\nTransfer-Encoding\u{b}: chunked\r\n",
            chunked.len()
        ),
        format!("Idempotency-Key: s\r\nContent-Length: 0\r\nContent-Length: {}\r\n", chunked.len()),
    ];
    for lines in cases {
        let mut raw = Raw::to(node.gateway).await;
        raw.say(request("POST /v1/contacts", &lines, &chunked)).await;
        if let Some(answer) = raw.hear().await {
            assert!((400..500).contains(&answer.status), "{lines:?}: {answer:?}");
            // Nothing on this connection can be trusted any more.
            assert!(raw.is_closed().await, "{lines:?}");
        }
    }
    let arrivals = upstream.arrivals();
    assert!(arrivals.iter().all(|arrival| !arrival.target.contains("hidden")), "{arrivals:#?}");
    assert_eq!(arrivals.len(), 0, "{arrivals:#?}");
}

#[tokio::test]
async fn a_body_that_only_looks_like_a_request_is_a_body() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let hidden = String::from_utf8(request("DELETE /v1/contacts/hidden", "", "")).unwrap();
    let lines = format!("Idempotency-Key: b\r\nContent-Length: {}\r\n", hidden.len());
    heard(&node, &request("POST /v1/contacts", &lines, &hidden)).await.unwrap().is(201);
    let lines = format!("Content-Length: {}\r\n", hidden.len());
    heard(&node, &request("PUT /v1/contacts/7", &lines, &hidden)).await.unwrap().is(200);
    // GET with a body, whatever that means, is framed as any other.
    heard(&node, &request("GET /v1/contacts", &lines, &hidden)).await.unwrap();
    let arrivals = upstream.arrivals();
    assert!(arrivals.iter().all(|arrival| !arrival.target.contains("hidden")), "{arrivals:#?}");
    assert!(
        arrivals[..2].iter().all(|arrival| arrival.body_sha256 == sha256(&hidden)),
        "{arrivals:#?}"
    );
}

#[tokio::test]
async fn malformed_chunks_reach_no_handler() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let lines = "Idempotency-Key: c\r\nTransfer-Encoding: chunked\r\n";
    for body in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "ffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
    ] {
        match heard(&node, &request("POST /v1/contacts", lines, body)).await {
            Some(answer) => drop(answer.refuses(400, "VALIDATION_FAILED")),
            None => println!("{body:?}: closed"),
        }
    }
    assert_eq!(upstream.arrivals().len(), 0);
    node.still_serves().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_or_refused() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    for (first, lines, status) in
        [("POST /v1/contacts", "Idempotency-Key: e\r\n", 201), ("PUT /v1/contacts/7", "", 200)]
    {
        let mut raw = Raw::to(node.gateway).await;
        let lines = format!("{lines}Expect: 100-continue\r\nContent-Length: 2\r\n");
        raw.say(request(first, &lines, "")).await;
        assert_eq!(raw.hear().await.unwrap().status, 100, "{first}");
        raw.say("{}").await;
        raw.hear().await.unwrap().is(status);
    }
    let mut raw = Raw::to(node.gateway).await;
    let lines = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    raw.say(request("POST /v1/contacts", lines, "")).await;
    raw.hear().await.unwrap().refuses(400, "IDEMPOTENCY_KEY_MISSING");
    // The body may come all the same, or not: the connection is of no further use.
    assert!(raw.is_closed().await);
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 2);
    assert!(arrivals.iter().all(|arrival| arrival.body_sha256 == sha256("{}")));
}

#[tokio::test]
async fn a_slow_body_arrives_whole() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    for (first, lines) in
        [("POST /v1/contacts", "Idempotency-Key: slow\r\n"), ("PUT /v1/contacts/7", "")]
    {
        let mut raw = Raw::to(node.gateway).await;
        raw.say(request(first, &format!("{lines}Content-Length: 40\r\n"), "")).await;
        for _ in 0..8 {
            raw.say("12345").await;
            // The claim: a body in pieces with pauses between them.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(raw.hear().await.unwrap().status < 300, "{first}");
        let arrival = upstream.arrivals().pop().unwrap();
        assert_eq!(arrival.body_sha256, sha256("12345".repeat(8)), "{first}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_taken_for_a_whole_one() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let half = "x".repeat(1000);
    for (name, length) in
        [("length", "Content-Length: 2000\r\n"), ("chunked", "Transfer-Encoding: chunked\r\n")]
    {
        let body = if name == "length" { half.clone() } else { format!("7d0\r\n{half}") };
        let keyed = format!("Idempotency-Key: half-{name}\r\n{length}");
        for (first, lines) in [("POST /v1/contacts", &*keyed), ("PUT /v1/contacts/7", length)] {
            let mut raw = Raw::to(node.gateway).await;
            raw.say(request(first, lines, &body)).await;
            if first.starts_with("PUT") {
                // It streams: the upstream sees its beginning, and never an end.
                let count = upstream.arrivals().len();
                upstream.has_seen(count.max(1)).await;
            }
            drop(raw);
        }
        // A keyed one is read whole before it goes anywhere, and its key is free.
        let free = node.keyed(&format!("half-{name}")).body("{}").send().await;
        assert!(!free.is(201).is_replay());
    }
    eventually("the broken ones are over", async || {
        let metrics = node.metrics().await;
        let open = metrics.sum("tollgate_in_flight", &[]);
        if open < 0.5 { Ok(()) } else { Err(open) }
    })
    .await;
    for arrival in upstream.arrivals() {
        assert_eq!(arrival.whole, arrival.method == "POST", "{arrival:?}");
    }
    assert_eq!(upstream.arrivals().iter().filter(|arrival| arrival.method == "POST").count(), 2);
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let upstream = Upstream::scripted(|_| {
        Reply::of(200).header("x-from-upstream", "yes").body("twelve bytes")
    })
    .await;
    let node = node(&upstream).await;
    let mut raw = Raw::to(node.gateway).await;
    raw.say(request("HEAD /v1/contacts", "", "")).await;
    let answer = raw.hear_to("HEAD").await.unwrap();
    assert_eq!(
        (answer.is(200).header("content-length"), answer.header("x-from-upstream")),
        ("12", "yes")
    );
    raw.say("HEAD /v1/contacts HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let refused = raw.hear_to("HEAD").await.unwrap();
    assert_eq!(refused.is(401).header("content-type"), "application/problem+json");
    assert!(!refused.lines("www-authenticate").is_empty());
    // No byte of a body stands between this and the next answer.
    raw.say(request("GET /v1/contacts", "", "")).await;
    assert_eq!(&*raw.hear().await.unwrap().is(200).body, b"twelve bytes");
    assert_eq!(upstream.arrivals()[0].method, "HEAD");
}

#[tokio::test]
async fn what_names_the_caller_comes_from_us_alone() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let forged = "X-Tenant-Id: globex\r\nx-tenant-id: globex\r\nX_Tenant_Id: globex\r\nx_tenant-id: globex\r\n\
        X-Consumer-Id: root\r\nX_Consumer_Id: root\r\nX-Scopes: admin\r\nX_Scopes: admin\r\nAPI_Version: v9\r\n\
        X-Idempotency-Fence: 1\r\nX_Idempotency_Fence: 1\r\nIdempotency_Key: forged\r\n\
        Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX_Forwarded_For: 192.0.2.1\r\n\
        X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-User: root\r\n\
        X-Real-IP: 192.0.2.1\r\nVia: 1.1 evil\r\nX-Request_Id: forged-by-client\r\n";
    let nominated =
        "Connection: keep-alive, X-Tenant-Id, X-Consumer-Id, X-Scopes, X-Request-Id, Via\r\n";
    for (path, lines) in
        [("/v1/contacts", forged.to_owned()), ("/v1/contacts/7", format!("{forged}{nominated}"))]
    {
        let answer = heard(&node, &request(&format!("GET {path}"), &lines, "")).await.unwrap();
        if answer.status == 400 {
            // To refuse a nomination of such headers is as good.
            answer.refuses(400, "VALIDATION_FAILED");
            continue;
        }
        answer.is(200);
        let arrival = upstream.arrivals().pop().unwrap();
        assert_eq!(arrival.header("x-tenant-id"), "acme");
        assert_eq!(arrival.header("x-consumer-id"), "acme-mobile");
        assert_eq!(arrival.header("x-scopes"), "contacts:read contacts:write");
        assert_eq!(arrival.header("api-version"), "v1");
        assert_eq!(arrival.header("forwarded"), "for=127.0.0.1;host=\"api.example\";proto=http");
        assert_eq!(arrival.header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(arrival.header("x-forwarded-host"), "api.example");
        assert_eq!(arrival.header("x-forwarded-proto"), "http");
        assert_eq!(arrival.header("via"), "1.1 tollgate");
        for (name, value) in &arrival.headers {
            let ours = name.contains('_')
                || ["x-real-ip", "x-forwarded-user", "x-idempotency-fence", "idempotency-key"]
                    .contains(&&*name.to_lowercase());
            assert!(!ours, "{name}: {value}");
            for forged in ["globex", "root", "admin", "192.0.2.1", "evil", "forged"] {
                assert!(!value.contains(forged), "{name}: {value}");
            }
        }
    }
}

#[tokio::test]
async fn credentials_and_hop_by_hop_headers_stay_with_us() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.read")["forward_credentials"] = json!(true);
    });
    let node = Node::start(&document).await;
    let lines = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        TE: trailers\r\nX-Kept: 1\r\nAccept-Language: de\r\n";
    heard(&node, &request("GET /v1/contacts", lines, "")).await.unwrap().is(200);
    let arrival = upstream.only_arrival();
    for name in ["x-api-key", "authorization", "x-hop", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(arrival.lines(name).len(), 0, "{name}: {arrival:?}");
    }
    assert_eq!((arrival.header("x-kept"), arrival.header("accept-language")), ("1", "de"));
    assert!(!format!("{arrival:?}").contains(&ACME[13..]));
    heard(&node, &request("GET /v1/contacts/7", "", "")).await.unwrap().is(200);
    assert_eq!(upstream.arrivals()[1].header("x-api-key"), ACME);
}

#[tokio::test]
async fn what_only_we_may_say_is_not_said_by_an_upstream() {
    let upstream = Upstream::scripted(|_| {
        Reply::of(200)
            .header("x-request-id", "of-the-upstream")
            .header("tollgate-revision", "99")
            .header("idempotency-replayed", "true")
            .header("api-version", "v99")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("x-kept", "1")
    })
    .await;
    let node = node(&upstream).await;
    for answer in [
        node.get("/v1/contacts").key(ACME).send().await,
        node.keyed("said").body("{}").send().await,
    ] {
        assert_ne!(answer.is(200).header("x-request-id"), "of-the-upstream");
        assert_eq!((answer.revision(), answer.header("api-version")), (1, "v1"));
        assert!(!answer.is_replay());
        assert_eq!(answer.lines("x-hop").len() + answer.lines("keep-alive").len(), 0, "{answer:?}");
        assert_eq!(answer.header("x-kept"), "1");
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let mut raw = Raw::to(node.gateway).await;
    for _ in 0..3 {
        raw.say("GET /v1/contacts HTTP/1.1\r\nHost: a\r\n\r\n").await;
        raw.hear().await.unwrap().refuses(401, "CREDENTIAL_MISSING");
        raw.say(request("POST /v1/contacts", "Content-Length: 0\r\n", "")).await;
        raw.hear().await.unwrap().refuses(400, "IDEMPOTENCY_KEY_MISSING");
        raw.say(request("GET /v1/nothing", "", "")).await;
        raw.hear().await.unwrap().refuses(404, "ROUTE_NOT_FOUND");
        // A body that was read before it was refused.
        raw.say(request(
            "POST /v1/contacts",
            "Idempotency-Key: goes-on\r\nContent-Length: 1000\r\n",
            &"x".repeat(1000),
        ))
        .await;
        assert!([201, 422].contains(&raw.hear().await.unwrap().status));
        raw.say(request(
            "POST /v1/contacts",
            "Idempotency-Key: goes-on\r\nContent-Length: 3\r\n",
            "{ }",
        ))
        .await;
        raw.hear().await.unwrap().refuses(422, "IDEMPOTENCY_KEY_REUSED");
        raw.say(request("GET /v1/contacts", "", "")).await;
        raw.hear().await.unwrap().is(200);
    }
    assert_eq!(upstream.arrivals().len(), 4);
}

#[tokio::test]
async fn a_connection_that_ends_after_its_answer_says_so() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .with("upstreams", upstream_named("down", Upstream::address_of_none()))
        .changed(|document| document["services"][0]["versions"][1]["upstream"] = json!("down"));
    let node = Node::start(&document).await;
    let body = "x".repeat(100_000);
    let chunked = String::from_utf8(in_chunks(body.as_bytes(), 1000)).unwrap();
    // Refused before the body was read, and failed after everything was.
    for (first, lines, body, status) in [
        ("POST /v1/contacts", "Content-Length: 100000\r\n", &*body, 400),
        ("POST /v1/contacts", "Transfer-Encoding: chunked\r\n", &chunked, 400),
        ("GET /v2/contacts", "", "", 502),
        ("PUT /v2/contacts/7", "Content-Length: 2\r\n", "{}", 502),
        ("POST /v2/contacts", "Idempotency-Key: ends\r\nContent-Length: 2\r\n", "{}", 502),
    ] {
        let mut raw = Raw::to(node.gateway).await;
        raw.say(request(first, lines, body)).await;
        let answer = raw.hear().await.unwrap();
        answer.is(status).has_error_body();
        if answer.header("connection") == "close" {
            assert!(raw.is_closed().await, "{first}");
        } else {
            raw.say(request("GET /v1/contacts", "", "")).await;
            raw.hear().await.unwrap_or_else(|| panic!("{first}: closed unsaid")).is(200);
        }
    }
}

#[tokio::test]
async fn a_large_refused_body_gets_its_answer_before_the_end() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    // More than is drained: the answer must still be readable.
    let mut raw = Raw::to(node.gateway).await;
    raw.say(request("POST /v1/contacts", "Content-Length: 50000000\r\n", "")).await;
    raw.hear().await.unwrap().refuses(413, "BODY_TOO_LARGE");
    // Less than is drained.
    let answer = node.keyed("drained").body(vec![b'x'; 3 << 20]).send().await;
    answer.refuses(413, "BODY_TOO_LARGE");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row_as_far_as_they_are_served() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let mut raw = Raw::to(node.gateway).await;
    let mut bytes = Vec::new();
    for number in 0..10 {
        bytes.extend(request(&format!("GET /v1/contacts/{number}"), "", ""));
    }
    raw.say(&bytes).await;
    let mut answered = 0;
    while answered < 10 {
        let Some(answer) = raw.hear().await else { break };
        assert_eq!(answer.is(200).json()["target"], format!("/v1/contacts/{answered}"));
        answered += 1;
    }
    // pingora may close where requests overlap; what it dropped it must not have served.
    assert!(answered >= 1);
    assert_eq!(upstream.arrivals().len(), answered);
}

#[tokio::test]
async fn an_absolute_target_is_taken_with_its_own_host() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let absolute =
        heard(&node, &request("GET http://api.example/v1/contacts?a=1", "", "")).await.unwrap();
    assert_eq!(absolute.is(200).json()["target"], "/v1/contacts?a=1");
    let differs = heard(&node, &request("GET http://evil.example/v1/contacts", "", "")).await;
    assert!(differs.is_none_or(|answer| answer.status == 400 || answer.status == 200));
    for arrival in upstream.arrivals() {
        assert!(arrival.target.starts_with('/'), "{arrival:?}");
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let upstream = Upstream::start().await;
    let node = node(&upstream).await;
    let mut raw = Raw::to(node.gateway).await;
    raw.say(format!("GET /v1/contacts HTTP/1.0\r\nHost: a\r\nX-Api-Key: {ACME}\r\n\r\n")).await;
    raw.hear().await.unwrap().is(200);
    assert!(raw.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_pass_whole_either_way() {
    let size = 64 << 20;
    let body = pattern(size);
    let hash = sha256(&body);
    let download = bytes::Bytes::from(body.clone());
    let upstream = Upstream::scripted(move |arrival| match arrival.method.as_str() {
        "GET" => Reply::of(200).body(download.clone()),
        _ => Reply::of(200),
    })
    .await;
    let node = node(&upstream).await;
    node.call(Method::PUT, "/v1/contacts/7").key(ACME).body(body.clone()).send().await.is(200);
    let arrival = upstream.only_arrival();
    assert_eq!((arrival.body_length, &arrival.body_sha256), (size, &hash));
    let answer = node.get("/v1/contacts/7").key(ACME).send().await;
    assert_eq!((answer.body.len(), sha256(&answer.is(200).body)), (size, hash.clone()));
    // In chunks, and one byte too many.
    let mut raw = Raw::to(node.gateway).await;
    raw.say(request("PUT /v1/contacts/8", "Transfer-Encoding: chunked\r\n", "")).await;
    raw.say(in_chunks(&body, 1 << 20)).await;
    raw.hear().await.unwrap().is(200);
    assert_eq!(upstream.arrivals().pop().unwrap().body_sha256, hash);
    raw = Raw::to(node.gateway).await;
    raw.say(request("PUT /v1/contacts/9", &format!("Content-Length: {}\r\n", size + 1), "")).await;
    raw.hear().await.unwrap().refuses(413, "BODY_TOO_LARGE");
    assert_eq!(upstream.arrivals().len(), 3);
}

#[tokio::test]
async fn a_streamed_body_over_the_limit_is_cut_off_at_the_limit() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.change")["body"] = json!({ "limit": "64KiB" });
    });
    let node = Node::start(&document).await;
    let mut raw = Raw::to(node.gateway).await;
    raw.say(request("PUT /v1/contacts/7", "Transfer-Encoding: chunked\r\n", "")).await;
    raw.say(in_chunks(&pattern(200_000), 1000)).await;
    raw.hear().await.unwrap().refuses(413, "BODY_TOO_LARGE");
    let whole = upstream.arrivals().into_iter().filter(|arrival| arrival.whole).count();
    assert_eq!(whole, 0);
}
