use crate::{TokenHash, router};
use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode, header};
use model::config::{self, Config, ConfigError};
use model::revision::{PublishError, Published, Revisions};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tower::ServiceExt as _;

const TOKEN: &str = "test-only-admin-token";
const EMPTY: &str = r#"{"format":1}"#;

/// Revisions in memory: the port's contract without files.
struct InMemory(Mutex<Published>);

impl InMemory {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(made(1, EMPTY).unwrap())))
    }
}

fn made(number: u64, text: &str) -> Result<Published, Vec<ConfigError>> {
    let config = Arc::new(config::read(text)?);
    Ok(Published { number, text: text.into(), config, etag: format!("e{number}") })
}

impl Revisions for InMemory {
    fn current(&self) -> Option<Published> {
        Some(self.0.lock().unwrap().clone())
    }

    async fn check(&self, text: String) -> Result<Config, Vec<ConfigError>> {
        config::read(&text)
    }

    async fn publish(&self, text: String, expected: &str) -> Result<Published, PublishError> {
        let mut current = self.0.lock().unwrap();
        if current.etag != expected {
            return Err(PublishError::Stale);
        }
        *current = made(current.number + 1, &text).map_err(PublishError::Invalid)?;
        Ok(current.clone())
    }
}

async fn ask(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, String, Value) {
    ask_of(
        router(InMemory::new(), TokenHash::of(TOKEN), Router::new()),
        method,
        target,
        headers,
        body,
    )
    .await
}

async fn ask_of(
    router: Router,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, String, Value) {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        router.oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status();
    let etag = response.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned());
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, etag.unwrap_or_default(), serde_json::from_slice(&bytes).unwrap_or_default())
}

const AUTHORIZED: (&str, &str) = ("authorization", "Bearer test-only-admin-token");

#[tokio::test]
async fn nothing_is_answered_without_the_token() {
    for (value, code) in [
        (None, "CREDENTIAL_MISSING"),
        (Some("Bearer wrong"), "CREDENTIAL_INVALID"),
        (Some("Basic test-only-admin-token"), "CREDENTIAL_INVALID"),
    ] {
        let headers: Vec<_> = value.iter().map(|value| ("authorization", *value)).collect();
        let (status, _, body) = ask("GET", "/v1/document", &headers, "").await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (401, Some(code)));
        assert_eq!(body["trace_id"].as_str().unwrap().len(), 32);
    }
    let (status, _, body) = ask("GET", "/v1/nothing", &[AUTHORIZED], "").await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (404, Some("NOT_FOUND")));
    let (status, _, body) = ask("DELETE", "/v1/document", &[AUTHORIZED], "").await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (405, Some("METHOD_NOT_ALLOWED")));
}

#[tokio::test]
async fn a_document_is_replaced_only_by_who_has_seen_it() {
    let changed = r#"{"format":1,"plans":[{"id":"gold","limits":[]}]}"#;
    for (tag, status) in
        [(None, 428), (Some("\"e0\""), 412), (Some("\"e0\", \"e1\""), 200), (Some("*"), 200)]
    {
        let mut headers = vec![AUTHORIZED];
        headers.extend(tag.iter().map(|tag| ("if-match", *tag)));
        let (found, etag, body) = ask("PUT", "/v1/document", &headers, changed).await;
        assert_eq!(found.as_u16(), status, "{tag:?}: {body}");
        if status == 200 {
            assert_eq!((body["revision"].as_u64(), etag.as_str()), (Some(2), "\"e2\""));
            assert_eq!(body["difference"][0]["path"], "/plans");
        }
    }
}

#[tokio::test]
async fn every_error_comes_with_its_pointer() {
    let text =
        r#"{"format":1,"colour":"red","tenants":[{"id":"acme","plan":"gold","state":"active"}]}"#;
    let headers = [AUTHORIZED, ("if-match", "*")];
    let (status, _, body) = ask("PUT", "/v1/document", &headers, text).await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (422, Some("CONFIG_INVALID")));
    let pointers: Vec<_> = body["details"]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["pointer"])
        .collect();
    assert_eq!(pointers, ["/colour", "/tenants/0/plan"]);
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let router = router(InMemory::new(), TokenHash::of(TOKEN), Router::new());
    let text = r#"{"format":1,"plans":[{"id":"gold","limits":[{"id":"x"}]}]}"#;
    let (status, _, body) =
        ask_of(router.clone(), "PUT", "/v1/document?dry_run=true", &[AUTHORIZED], text).await;
    assert_eq!((status.as_u16(), body["valid"].as_bool()), (200, Some(false)));
    assert_eq!(body["errors"].as_array().unwrap().len(), 2);
    assert_eq!(body["difference"][0]["op"], "add");
    let (_, etag, document) = ask_of(router, "GET", "/v1/document", &[AUTHORIZED], "").await;
    assert_eq!((etag.as_str(), document.to_string().as_str()), ("\"e1\"", EMPTY));
}
