//! Who is let in, in which order it is judged, and what everybody is told.

use crate::harness::document::{
    self, ACME, ACME_BATCH, ACME_EXPIRED, Edit as _, GLOBEX, SUSPENDED,
};
use crate::harness::node::Setup;
use crate::harness::{Node, Upstream};
use http::Method;
use model::ErrorCode;
use serde_json::json;

#[tokio::test]
async fn an_api_key_stands_for_its_consumer() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    for (key, tenant, consumer, scopes) in [
        (ACME, "acme", "acme-mobile", "contacts:read contacts:write"),
        (ACME_BATCH, "acme", "acme-batch", "contacts:read contacts:write"),
        (GLOBEX, "globex", "globex-web", "contacts:read"),
    ] {
        node.get("/v1/contacts").key(key).send().await.is(200);
        let arrival = upstream.arrivals().pop().unwrap();
        let told = [
            arrival.header("x-tenant-id"),
            arrival.header("x-consumer-id"),
            arrival.header("x-scopes"),
        ];
        assert_eq!(told, [tenant, consumer, scopes]);
    }
}

#[tokio::test]
async fn what_is_no_good_key_is_refused_and_nothing_arrives() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    let cut = &ACME[..ACME.len() - 1];
    let upper = ACME.to_uppercase();
    let longer = format!("{ACME}0");
    let long = format!("{ACME}{}", "0".repeat(1000));
    let hash = format!("sha256:{}", crate::harness::sha256(ACME));
    let refused = [
        ("", "CREDENTIAL_INVALID"),
        (&ACME[..13], "CREDENTIAL_INVALID"),
        (cut, "CREDENTIAL_INVALID"),
        (&upper, "CREDENTIAL_INVALID"),
        (&longer, "CREDENTIAL_INVALID"),
        (&long, "CREDENTIAL_INVALID"),
        (&hash, "CREDENTIAL_INVALID"),
        ("\u{e4}", "CREDENTIAL_INVALID"),
        (ACME_EXPIRED, "CREDENTIAL_EXPIRED"),
    ];
    for (key, code) in refused {
        let answer = node.get("/v1/contacts").key(key).send().await;
        answer.refuses(401, code);
        let challenges = answer.lines("www-authenticate").join(", ");
        assert!(
            challenges.contains(r#"ApiKey realm="tollgate", header="X-Api-Key""#),
            "{challenges}"
        );
        assert!(!String::from_utf8_lossy(&answer.body).contains("tg_test"), "a key is not echoed");
    }
    node.get("/v1/contacts").key(SUSPENDED).send().await.refuses(403, "TENANT_SUSPENDED");
    let twice = node.get("/v1/contacts").key(ACME).key(ACME).send().await;
    twice.refuses(401, "CREDENTIAL_INVALID");
    assert_eq!(upstream.arrivals().len(), 0);
    assert!(!node.log().contains(&ACME[13..]), "a key is not logged");
}

#[tokio::test]
async fn without_a_credential_the_answer_names_those_that_are_taken() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.read")["authenticate"] =
            json!({ "any_of": ["api_key"] });
        document.entry("routes", "contacts.change")["authenticate"] = json!({ "any_of": ["jwt"] });
    });
    let node = Node::start(&document).await;
    let api_key = r#"ApiKey realm="tollgate", header="X-Api-Key""#;
    let bearer = r#"Bearer realm="tollgate""#;
    for (method, path, challenges) in [
        (Method::GET, "/v1/contacts", vec![bearer, api_key]),
        (Method::GET, "/v1/contacts/7", vec![api_key]),
        (Method::PUT, "/v1/contacts/7", vec![bearer]),
    ] {
        let answer = node.call(method, path).send().await;
        answer.refuses(401, "CREDENTIAL_MISSING");
        assert_eq!(answer.lines("www-authenticate"), challenges, "{path}");
    }
    // A kind that the route doesn't take is no credential.
    node.call(Method::PUT, "/v1/contacts/7")
        .key(ACME)
        .send()
        .await
        .refuses(401, "CREDENTIAL_MISSING");
    let basic = node.get("/v1/contacts").header("authorization", "Basic YTpi").send().await;
    basic.refuses(401, "CREDENTIAL_MISSING");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn of_several_faults_the_earliest_stage_is_told() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .limited(json!([{ "id": "none", "rate": "1/h", "burst": 1, "per": "tenant", "on_store_error": "closed" }]))
        .attached("correlation", "require-header", json!({ "header": "x-correlation-id" }));
    let node = Setup::of(&document).packs().start().await;
    // Spends the only unit.
    node.get("/v1/contacts").key(ACME).header("x-correlation-id", "1").send().await.is(200);
    let post = |path: &str| node.post(path).header("x-note", "everything is wrong here");
    let huge = vec![b'x'; (1 << 20) + 1];
    // Each line mends one more fault than the one before.
    post("/v9/nothing")
        .header("expect", "miracles")
        .body(huge.clone())
        .send()
        .await
        .refuses(400, "VALIDATION_FAILED");
    post("/v9/nothing").body(huge.clone()).send().await.refuses(404, "ROUTE_NOT_FOUND");
    post("/v9/contacts/7").body(huge.clone()).send().await.refuses(405, "METHOD_NOT_ALLOWED");
    post("/v9/contacts").body(huge).send().await.refuses(413, "BODY_TOO_LARGE");
    post("/v9/contacts").send().await.refuses(401, "CREDENTIAL_MISSING");
    post("/v9/contacts").key(&ACME[..20]).send().await.refuses(401, "CREDENTIAL_INVALID");
    post("/v9/contacts").key(SUSPENDED).send().await.refuses(403, "TENANT_SUSPENDED");
    post("/v9/contacts").key(GLOBEX).send().await.refuses(403, "SCOPE_DENIED");
    post("/v9/contacts").key(ACME).send().await.refuses(400, "VERSION_UNKNOWN");
    post("/v1/contacts").key(ACME).send().await.refuses(429, "RATE_LIMITED");
    let freed = document.changed(|document| {
        for tenant in ["acme", "globex"] {
            document.entry("tenants", tenant)["plan"] = json!("unlimited");
        }
    });
    node.publish(&freed).await;
    post("/v1/contacts").key(ACME).send().await.refuses(403, "POLICY_DENIED");
    let mended = || post("/v1/contacts").key(ACME).header("x-correlation-id", "1");
    mended().send().await.refuses(400, "IDEMPOTENCY_KEY_MISSING");
    mended().idempotency_key("a b").send().await.refuses(400, "IDEMPOTENCY_KEY_INVALID");
    mended().idempotency_key("ab").send().await.is(201);
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test]
async fn a_route_takes_its_own_paths_and_methods_only() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/contact",
        "/v1/contacts/",
        "/v1/contacts/7/notes",
        "/v1/v1/contacts",
        "/*",
    ] {
        node.get(path).key(ACME).send().await.refuses(404, "ROUTE_NOT_FOUND");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/contacts", "GET, POST, HEAD"),
        (Method::PATCH, "/contacts", "GET, POST, HEAD"),
        (Method::POST, "/v1/contacts/7", "GET, PUT, PATCH, DELETE, HEAD"),
        (Method::OPTIONS, "/v1/contacts", "GET, POST, HEAD"),
        (Method::from_bytes(b"BREW").unwrap(), "/v1/contacts", "GET, POST, HEAD"),
    ] {
        let answer = node.call(method.clone(), path).key(ACME).send().await;
        answer.refuses(405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    assert_eq!(upstream.arrivals().len(), 0);
    // Other spellings of the same path, which the upstream gets as they were sent.
    for path in
        ["/v1/%63ontacts", "/v1/contacts/%37", "/v1/contacts/a%20b", "/v1/contacts/7?a=/../b"]
    {
        node.get(path).key(ACME).send().await.is(200);
        assert_eq!(upstream.arrivals().pop().unwrap().target, path);
    }
}

#[tokio::test]
async fn a_valid_request_id_and_trace_are_kept_and_others_are_replaced() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let call = node
        .get("/v1/contacts")
        .key(ACME)
        .header("x-request-id", "order-12345")
        .header("traceparent", &parent);
    let answer = call.header("tracestate", "a=1").header("tracestate", "b=2").send().await;
    assert_eq!(answer.is(200).header("x-request-id"), "order-12345");
    let arrival = upstream.only_arrival();
    assert_eq!(arrival.header("x-request-id"), "order-12345");
    assert_eq!(arrival.header("tracestate"), "a=1,b=2");
    let handed_on = arrival.header("traceparent");
    assert!(
        handed_on.starts_with(&format!("00-{trace}-")) && handed_on.ends_with("-01"),
        "{handed_on}"
    );
    assert!(!handed_on.contains("b7ad6b7169203331"), "the parent is ours");

    let refused = node
        .get("/v1/contacts")
        .header("x-request-id", "order-12346")
        .header("traceparent", &parent);
    let refused = refused.send().await;
    refused.refuses(401, "CREDENTIAL_MISSING");
    assert_eq!(
        (refused.header("x-request-id"), &refused.json()["trace_id"]),
        ("order-12346", &json!(trace))
    );

    let mut ids = Vec::new();
    for bad in ["short", "has space in it", "semi;colon-here"] {
        let answer = node.get("/v1/contacts").key(ACME).header("x-request-id", bad).send().await;
        ids.push(answer.is(200).header("x-request-id").to_owned());
        assert_ne!(answer.header("x-request-id"), bad);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let bad = node
        .get("/v1/contacts")
        .key(ACME)
        .header("traceparent", parent.to_uppercase())
        .header("tracestate", "a=1");
    bad.send().await.is(200);
    let arrival = upstream.arrivals().pop().unwrap();
    assert!(
        !arrival.header("traceparent").contains(trace) && arrival.lines("tracestate").is_empty()
    );
}

#[tokio::test]
async fn every_code_is_explained() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    for code in ErrorCode::ALL {
        let told = node.get(&format!("/.tollgate/errors/{code}")).send().await.is(200).json();
        assert_eq!(
            (&told["code"], &told["status"]),
            (&json!(code.as_str()), &json!(code.status().as_u16()))
        );
        assert!(!told["remedy"].as_str().unwrap().is_empty(), "{code}");
    }
    node.get("/.tollgate/errors/NOPE").send().await.refuses(404, "NOT_FOUND");
    let all = node.get("/.tollgate/errors").send().await.is(200).json();
    assert_eq!(all["items"].as_array().unwrap().len(), ErrorCode::ALL.len());
    node.get("/.tollgate/nothing").send().await.refuses(404, "ROUTE_NOT_FOUND");
    node.post("/.tollgate/usage").key(ACME).send().await.refuses(405, "METHOD_NOT_ALLOWED");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn an_exchange_is_logged_once_with_what_was_decided() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .limited(json!([{ "id": "burst", "rate": "1/h", "burst": 9, "per": "tenant", "on_store_error": "closed" }]))
        .attached("hygiene", "header-hygiene", json!({ "set": { "x-edge": "tollgate" } }));
    let node = Setup::of(&document).packs().start().await;
    let call = node
        .keyed("logged-key")
        .header("x-request-id", "logged-12345")
        .body(r#"{"notes":"private"}"#);
    call.send().await.is(201);
    node.has_reported(1).await;
    node.has_logged(&[
        "logged-12345",
        "contacts.create",
        "acme-mobile",
        "burst:rate=8/9",
        "hygiene:request@1.0.0=edit",
        "claimed",
    ])
    .await;
    let log = node.log();
    assert_eq!(log.lines().filter(|line| line.contains("logged-12345")).count(), 1);
    for secret in ["private", "logged-key", &ACME[13..]] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
