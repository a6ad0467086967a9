//! Which version a request gets, and what it is told about that version's life.

use crate::harness::document::{self, ACME, Edit as _, GLOBEX};
use crate::harness::{Node, Raw, Upstream};
use serde_json::{Value, json};

/// v1 is deprecated, v0 withdrawn, and acme may use it for longer.
fn with_lives(upstream: &Upstream) -> Value {
    document::standard(upstream.address).changed(|document| {
        document["services"][0]["versions"] = json!([
            { "name": "v0", "upstream": "crm", "state": "sunset", "deprecated_at": "2020-01-01T00:00:00Z",
              "sunset_at": "2021-06-30T12:34:56Z", "successor": "v1", "docs": "https://developers.example/v0",
              "extensions": [{ "tenant": "acme", "until": "2100-01-01T00:00:00Z" }] },
            { "name": "v1", "upstream": "crm", "state": "deprecated", "deprecated_at": "2025-01-01T00:00:00Z",
              "sunset_at": "2099-12-31T23:59:59Z", "successor": "v2", "docs": "https://developers.example/v1" },
            { "name": "v2", "upstream": "crm", "state": "active", "default": true },
            { "name": "v3", "upstream": "crm", "state": "active", "deprecated_at": "2098-01-01T00:00:00Z",
              "upstream_prefix": "" },
        ]);
    })
}

#[tokio::test]
async fn a_version_is_named_by_path_header_media_type_pin_or_default_in_this_order() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("tenants", "globex")["pins"] = json!({ "contacts": "v1" });
    });
    let node = Node::start(&document).await;
    let v1 = "application/vnd.crm.v1+json";
    let v2 = "text/html, application/vnd.crm.v2+json;q=0.9";
    for (key, path, header, accept, expected) in [
        (ACME, "/contacts", "", "", "v2"),
        (GLOBEX, "/contacts", "", "", "v1"),
        (GLOBEX, "/contacts", "", v2, "v2"),
        (ACME, "/contacts", "", v1, "v1"),
        (ACME, "/contacts", "v2", v1, "v2"),
        (GLOBEX, "/contacts", "v2", "", "v2"),
        (ACME, "/v1/contacts", "v2", v2, "v1"),
        (GLOBEX, "/v2/contacts", "v1", v1, "v2"),
        (ACME, "/v2/contacts/7", "", "", "v2"),
        (ACME, "/contacts/7", "v1", "", "v1"),
    ] {
        let case = format!("{path} {header} {accept}");
        let mut call = node.get(path).key(key);
        for (name, value) in [("api-version", header), ("accept", accept)] {
            if !value.is_empty() {
                call = call.header(name, value);
            }
        }
        let answer = call.send().await;
        assert_eq!(answer.is(200).header("api-version"), expected, "{case}");
        assert!(answer.lines("vary").join(", ").contains("API-Version, Accept"), "{case}");
        let arrival = upstream.arrivals().pop().unwrap();
        assert_eq!(arrival.header("api-version"), expected, "{case}");
        let rest = path.trim_start_matches("/v1").trim_start_matches("/v2");
        assert_eq!(arrival.target, format!("/{expected}{rest}"), "{case}");
    }
}

#[tokio::test]
async fn an_unknown_version_is_400_and_names_those_that_exist() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    for call in [
        node.get("/v9/contacts"),
        node.get("/V1/contacts"),
        node.get("/contacts").header("api-version", "v9"),
        node.get("/contacts").header("api-version", ""),
        node.get("/contacts").header("accept", "application/vnd.crm.v9+json"),
    ] {
        let details = call.key(ACME).send().await.refuses(400, "VERSION_UNKNOWN");
        assert_eq!(details["supported"], json!(["v1", "v2"]));
    }
    // Who is not known is told nothing about versions.
    node.get("/v9/contacts").send().await.refuses(401, "CREDENTIAL_MISSING");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn two_versions_in_one_request_are_refused() {
    let upstream = Upstream::start().await;
    let node = Node::start(&document::standard(upstream.address)).await;
    let mut raw = Raw::to(node.gateway).await;
    raw.say(format!(
        "GET /contacts HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {ACME}\r\nAPI-Version: v1\r\nAPI-Version: v2\r\n\r\n"
    ))
    .await;
    raw.hear().await.unwrap().refuses(400, "VALIDATION_FAILED");
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn without_a_default_a_version_must_be_named() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .changed(|document| document["services"][0]["select"] = json!(["path", "header"]));
    let node = Node::start(&document).await;
    node.get("/contacts").key(ACME).send().await.refuses(400, "VERSION_UNKNOWN");
    // Ways that the service doesn't have name nothing.
    let accept = node.get("/contacts").key(ACME).header("accept", "application/vnd.crm.v1+json");
    accept.send().await.refuses(400, "VERSION_UNKNOWN");
    node.get("/contacts").key(ACME).header("api-version", "v1").send().await.is(200);
}

#[tokio::test]
async fn a_deprecated_version_says_so_on_every_answer() {
    let upstream = Upstream::start().await;
    let node = Node::start(&with_lives(&upstream)).await;
    let served = node.get("/v1/contacts/7?x=1").key(ACME).send().await;
    served.is(200);
    let refused = node.post("/v1/contacts").key(ACME).send().await;
    refused.refuses(400, "IDEMPOTENCY_KEY_MISSING");
    for (answer, path) in [(&served, "/v2/contacts/7"), (&refused, "/v2/contacts")] {
        assert_eq!(answer.header("deprecation"), "@1735689600");
        assert_eq!(answer.header("sunset"), "Thu, 31 Dec 2099 23:59:59 GMT");
        assert_eq!(
            answer.lines("link"),
            [
                "<https://developers.example/v1>; rel=\"deprecation\"; type=\"text/html\"",
                "<https://developers.example/v1>; rel=\"sunset\"; type=\"text/html\"",
                &format!("<{path}>; rel=\"successor-version\""),
            ]
        );
        assert_eq!(answer.header("api-version"), "v1");
    }
    let announced = node.get("/v3/contacts").key(ACME).send().await;
    assert_eq!(announced.is(200).header("deprecation"), "@4039372800");
    assert_eq!(announced.lines("sunset").len() + announced.lines("link").len(), 0);
    let active = node.get("/v2/contacts").key(ACME).send().await;
    for name in ["deprecation", "sunset", "link"] {
        assert_eq!(active.is(200).lines(name).len(), 0, "{name}");
    }
    // The version's own prefix.
    assert_eq!(upstream.arrivals()[1].target, "/contacts");
}

#[tokio::test]
async fn a_withdrawn_version_is_410_but_for_whom_it_was_extended() {
    let upstream = Upstream::start().await;
    let node = Node::start(&with_lives(&upstream)).await;
    let gone = node.get("/v0/contacts").key(GLOBEX).send().await;
    let details = gone.refuses(410, "VERSION_SUNSET");
    assert_eq!(details["version"], "v0");
    assert_eq!(details["successor"], "v1");
    assert_eq!(details["sunset_at"], "2021-06-30T12:34:56Z");
    assert_eq!(gone.header("sunset"), "Wed, 30 Jun 2021 12:34:56 GMT");
    assert!(gone.lines("link").contains(&"</v1/contacts>; rel=\"successor-version\""), "{gone:?}");
    assert_eq!(upstream.arrivals().len(), 0);
    let extended = node.get("/v0/contacts").key(ACME).send().await;
    assert_eq!(extended.is(200).header("sunset"), "Wed, 30 Jun 2021 12:34:56 GMT");
    assert_eq!(upstream.only_arrival().target, "/v0/contacts");
}

#[tokio::test]
async fn the_date_withdraws_a_version_whatever_its_state_says() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).changed(|document| {
        document["services"][0]["versions"][0] =
            json!({ "name": "v1", "upstream": "crm", "state": "active", "sunset_at": "2021-01-01T00:00:00Z" });
    });
    let node = Node::start(&document).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(410, "VERSION_SUNSET");
    let undated = document::standard(upstream.address)
        .changed(|document| document["services"][0]["versions"][0]["state"] = json!("sunset"));
    node.publish(&undated).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(410, "VERSION_SUNSET");
    node.get("/v2/contacts").key(ACME).send().await.is(200);
}

#[tokio::test]
async fn the_versions_endpoint_tells_their_lives() {
    let upstream = Upstream::start().await;
    let node = Node::start(&with_lives(&upstream)).await;
    let told = node.get("/.tollgate/versions").send().await.is(200).json();
    let service = &told["items"][0];
    assert_eq!(service["service"], "contacts");
    let versions = service["versions"].as_array().unwrap();
    let names: Vec<_> =
        versions.iter().map(|version| (&version["name"], &version["state"])).collect();
    let expected = [("v0", "sunset"), ("v1", "deprecated"), ("v2", "active"), ("v3", "active")];
    let expected: Vec<_> =
        expected.iter().map(|(name, state)| (json!(name), json!(state))).collect();
    assert_eq!(names, expected.iter().map(|(name, state)| (name, state)).collect::<Vec<_>>());
    assert_eq!(versions[1]["sunset_at"], "2099-12-31T23:59:59Z");
    assert_eq!(versions[2]["default"], true);
    // Not who may use which for longer.
    assert!(!told.to_string().contains("acme"), "{told}");
}
