//! Admin: the document, what watchers of a process ask, and who only connects.

use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::{Demo, Node, Upstream};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn a_put_is_in_force_when_it_is_answered() {
    let demo = Demo::start().await;
    let reads = || demo.get("/v1/contacts").key(demo.value("ACME_KEY")).send();
    reads().await.is(200);
    for round in 0..3 {
        let (document, tag) = demo.document().await;
        let suspended = document
            .clone()
            .changed(|document| document.entry("tenants", "acme")["state"] = json!("suspended"));
        let answer = demo.put(&suspended, &tag).await;
        let body = answer.is(200).json();
        assert_eq!(body["revision"], answer.revision(), "{round}");
        assert_eq!(
            body["difference"],
            json!([{ "op": "replace", "path": "/tenants/0/state", "value": "suspended" }])
        );
        let refused = reads().await;
        refused.refuses(403, "TENANT_SUSPENDED");
        assert_eq!(refused.revision(), answer.revision());

        let back = demo.put(&document, answer.header("etag")).await;
        assert!(back.is(200).revision() > answer.revision());
        assert_eq!(reads().await.is(200).revision(), back.revision());
    }
    // What was put is what is kept.
    let (document, _) = demo.document().await;
    let newest = demo.administers(Method::GET, "/v1/revisions?limit=1").send().await;
    let newest = newest.is(200).json()["items"][0]["revision"].as_u64().unwrap();
    let kept = demo.administers(Method::GET, &format!("/v1/revisions/{newest}")).send().await;
    let text = kept.is(200).json()["text"].as_str().unwrap().to_owned();
    assert_eq!(model::config::parse(&text).unwrap(), document);
}

#[tokio::test]
async fn only_who_has_seen_the_document_may_replace_it() {
    let demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let changed = document
        .clone()
        .changed(|document| document.entry("tenants", "acme")["timezone"] = json!("UTC"));
    let put = || demo.administers(Method::PUT, "/v1/document").json(&changed);
    put().send().await.refuses(428, "PRECONDITION_REQUIRED");
    put().header("if-match", "\"stale\"").send().await.refuses(412, "PRECONDITION_FAILED");
    assert_eq!(demo.document().await, (document, tag.clone()));
    demo.put(&changed, &tag).await.is(200);
    // The same tag is stale now.
    demo.put(&changed, &tag).await.refuses(412, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn of_two_writers_one_wins() {
    let demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let mut answers = Vec::new();
    for round in 0..8 {
        let zone = if round % 2 == 0 { "UTC" } else { "Asia/Tokyo" };
        let changed = document
            .clone()
            .changed(|document| document.entry("tenants", "acme")["timezone"] = json!(zone));
        let call =
            demo.administers(Method::PUT, "/v1/document").header("if-match", &tag).json(&changed);
        answers.push(tokio::spawn(call.send()));
    }
    let mut won = 0;
    for answer in answers {
        let answer = answer.await.unwrap();
        match answer.status {
            200 => won += 1,
            _ => drop(answer.refuses(412, "PRECONDITION_FAILED")),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn an_invalid_document_is_422_with_every_pointer_and_changes_nothing() {
    let demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let invalid = document.clone().changed(|document| {
        document["colour"] = json!("red");
        document.entry("tenants", "acme")["plan"] = json!("platinum");
        document.entry("routes", "contacts.create")["cost"] = json!("much");
        document.entry("upstreams", "crm")["targets"][0]["address"] = json!("nowhere");
    });
    let details = demo.put(&invalid, &tag).await.refuses(422, "CONFIG_INVALID");
    let pointers: Vec<_> = details["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        pointers,
        ["/colour", "/routes/2/cost", "/tenants/0/plan", "/upstreams/0/targets/0/address"]
    );
    assert_eq!(demo.document().await, (document.clone(), tag.clone()));
    demo.get("/v1/contacts").key(demo.value("ACME_KEY")).send().await.is(200);

    // What only compiling finds.
    let absent = document.clone().attached("absent", "absent", json!({}));
    let details = demo.put(&absent, &tag).await.refuses(422, "CONFIG_INVALID");
    assert_eq!(details["errors"][0]["pointer"], "/packs/2");
    for garbage in ["", "{", "[]", "format: [", "\0"] {
        let call =
            demo.administers(Method::PUT, "/v1/document").header("if-match", &tag).body(garbage);
        call.send().await.refuses(422, "CONFIG_INVALID");
    }
    let binary = demo
        .administers(Method::PUT, "/v1/document")
        .header("if-match", &tag)
        .body(vec![0xff, 0xfe]);
    binary.send().await.refuses(400, "VALIDATION_FAILED");
    assert_eq!(demo.document().await, (document, tag));
}

#[tokio::test]
async fn a_dry_run_tells_what_would_change_and_changes_nothing() {
    let demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let dry = |document: &serde_json::Value| {
        demo.administers(Method::PUT, "/v1/document?dry_run=true").json(document).send()
    };
    let changed = document
        .clone()
        .changed(|document| document.entry("tenants", "acme")["timezone"] = json!("UTC"));
    let told = dry(&changed).await.is(200).json();
    assert_eq!((&told["valid"], &told["errors"]), (&json!(true), &json!([])));
    assert_eq!(
        told["difference"],
        json!([{ "op": "replace", "path": "/tenants/0/timezone", "value": "UTC" }])
    );
    let invalid = changed.changed(|document| {
        document.entry("tenants", "acme")["plan"] = json!("platinum");
        document["packs"][0]["version"] = json!("9.9.9");
    });
    let told = dry(&invalid).await.is(200).json();
    assert_eq!(told["valid"], false);
    let pointers: Vec<_> =
        told["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/attachments/0/pack", "/tenants/0/plan"]);
    assert_eq!(demo.document().await, (document, tag));
}

#[tokio::test]
async fn nothing_under_v1_is_answered_without_the_token() {
    let demo = Demo::start().await;
    let answer = demo.admin.get("/v1/document").send().await;
    answer.refuses(401, "CREDENTIAL_MISSING");
    for token in ["wrong", "", demo.value("ACME_JWT")] {
        demo.admin
            .get("/v1/document")
            .bearer(token)
            .send()
            .await
            .refuses(401, "CREDENTIAL_INVALID");
    }
    demo.admin
        .get("/v1/document")
        .key(demo.value("ACME_KEY"))
        .send()
        .await
        .refuses(401, "CREDENTIAL_MISSING");
    demo.administers(Method::GET, "/v1/nothing").send().await.refuses(404, "NOT_FOUND");
    demo.administers(Method::DELETE, "/v1/document")
        .send()
        .await
        .refuses(405, "METHOD_NOT_ALLOWED");
    // The admin's token is no credential of the gateway.
    let token = demo.value("ADMIN_TOKEN");
    demo.get("/v1/contacts").bearer(token).send().await.refuses(401, "CREDENTIAL_INVALID");
    let log = demo.log();
    let told = log.lines().filter(|line| line.contains(token));
    // What it prints for who starts it begins with two spaces; log lines don't.
    assert_eq!(told.filter(|line| !line.starts_with("  ")).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_document_of_the_operators_is_not_admins_to_write() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address);
    let node = Node::start(&document).await;
    let token = node.admin_token();
    let read = node.admin.get("/v1/document").bearer(&token).send().await;
    assert_eq!(read.is(200).json(), document);
    let changed = document
        .changed(|document| document.entry("tenants", "acme")["state"] = json!("suspended"));
    let put = node
        .admin
        .put("/v1/document")
        .bearer(&token)
        .header("if-match", read.header("etag"))
        .json(&changed);
    put.send().await.refuses(409, "CONFLICT");
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    // But it may be tried.
    let dry =
        node.admin.put("/v1/document?dry_run=true").bearer(&token).json(&changed).send().await;
    assert_eq!(dry.is(200).json()["valid"], true);
}

#[tokio::test]
async fn the_demo_keeps_its_document_when_it_starts_again_elsewhere() {
    let mut demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let changed = document
        .changed(|document| document.entry("tenants", "globex")["state"] = json!("suspended"));
    let kept = demo.put(&changed, &tag).await.is(200).revision();
    demo.start_again_elsewhere().await;
    // Its CRM moved: one revision more, with nothing else in it.
    let moved = demo.get("/v2/contacts").key(demo.value("ACME_KEY")).send().await;
    assert_eq!(moved.is(200).revision(), kept + 1);
    let (document, _) = demo.document().await;
    let crm = demo.value("CRM_URL").trim_start_matches("http://");
    assert_eq!(document["upstreams"][0]["targets"], json!([{ "address": crm }]));
    assert_eq!(document["tenants"], changed["tenants"]);
    let refused = demo.get("/v2/contacts").key(demo.value("GLOBEX_KEY")).send().await;
    refused.refuses(403, "TENANT_SUSPENDED");
    let newest = demo.administers(Method::GET, "/v1/revisions?limit=1").send().await.is(200).json();
    let newest = &newest["items"][0];
    assert_eq!((&newest["author"], &newest["action"]), (&json!("system"), &json!("demo.seed")));
}

#[tokio::test]
async fn watchers_of_the_process_need_no_token() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .limited(json!([{ "id": "burst", "rate": "1/h", "burst": 9, "per": "tenant", "on_store_error": "closed" }]));
    let node = Node::start(&document).await;
    node.keyed("watched").body("{}").send().await.is(201);
    node.has_reported(1).await;
    for client in [&node.status, &node.admin] {
        client.get("/healthz").send().await.is(200);
        let ready = client.get("/readyz").send().await;
        assert_eq!(ready.is(200).json()["ready"], true);
        let metrics = client.get("/metrics").send().await;
        assert!(metrics.is(200).header("content-type").starts_with("text/plain; version=0.0.4"));
    }
    let metrics = node.metrics().await;
    let names = metrics.names();
    for promised in [
        "tollgate_build_info",
        "tollgate_requests_total",
        "tollgate_request_duration_seconds_count",
        "tollgate_stage_duration_seconds_count",
        "tollgate_upstream_duration_seconds_count",
        "tollgate_in_flight",
        "tollgate_limit_decisions_total",
        "tollgate_store_degraded",
        "tollgate_idempotency_total",
        "tollgate_config_revision",
        "tollgate_records_dropped_total",
        "tollgate_records_buffered",
    ] {
        assert!(names.contains(&promised), "{promised} is not in {names:?}");
    }
    let labels = [
        ("route", "contacts.create"),
        ("tenant", "acme"),
        ("version", "v1"),
        ("status_class", "2xx"),
        ("error", ""),
    ];
    assert_eq!(metrics.sum("tollgate_requests_total", &labels).to_string(), "1");
    for stage in
        ["gate", "route", "authenticate", "version", "throttle", "claim", "forward", "settle"]
    {
        let count = metrics.sum("tollgate_stage_duration_seconds_count", &[("stage", stage)]);
        assert_eq!(count.to_string(), "1", "{stage}");
    }
    // What partners reach is not what operators reach.
    node.get("/metrics").send().await.refuses(404, "ROUTE_NOT_FOUND");
    node.get("/v1/document").send().await.refuses(404, "ROUTE_NOT_FOUND");
}

/// A head that does not come in time, on either listener of operators: the connection ends, and keeps nobody out.
#[tokio::test]
async fn who_sends_half_a_head_is_given_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let demo = Demo::start().await;
    let mut waiting = Vec::new();
    for name in ["ADMIN_URL", "STATUS_URL"] {
        let address = demo.value(name).trim_start_matches("http://").to_owned();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        waiting.push((name, stream));
    }
    demo.administers(Method::GET, "/v1/plans").send().await.is(200);
    for (name, mut stream) in waiting {
        let mut said = Vec::new();
        // It takes 10 s; a busy machine takes longer.
        let ended = stream.read_to_end(&mut said);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), ended).await;
        assert!(ended.is_ok(), "{name} waits for ever");
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{name}: {}", String::from_utf8_lossy(&said));
    }
}
