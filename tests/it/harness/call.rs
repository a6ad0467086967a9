//! One request and its answer.

use super::random::Random;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Once;

/// Sends requests to one address over connections that it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

/// A request in the making.
pub(crate) struct Call {
    request: reqwest::RequestBuilder,
    what: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The request, for messages.
    pub(crate) what: String,
}

/// `reqwest` wants a provider even where no connection uses TLS.
pub(crate) fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::to_url(&format!("http://{address}"))
    }

    pub(crate) fn to_url(base: &str) -> Self {
        install_tls();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(super::PATIENCE * 2)
            .build()
            .unwrap();
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    /// Where requests go.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let request = self.http.request(method.clone(), format!("{}{path}", self.base));
        Call { request, what: format!("{method} {path}") }
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request = self.request.header(name, value.as_ref());
        self
    }

    /// With this API key.
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn idempotency_key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// The whole answer.
    pub(crate) async fn send(self) -> Answer {
        let what = self.what.clone();
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }

    /// The whole answer, where there may be none.
    pub(crate) async fn try_send(self) -> reqwest::Result<Answer> {
        let response = self.request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?, what: self.what })
    }
}

impl Answer {
    /// The only line of this header; empty when there is none.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.lines(name);
        assert!(lines.len() <= 1, "{}: {name} stands {} times", self.what, lines.len());
        lines.first().copied().unwrap_or_default()
    }

    /// Every line of this header.
    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.shown()))
    }

    /// The revision that it says it is of.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        self.header("tollgate-revision").parse().unwrap()
    }

    /// The public code of a refusal; empty when it is none.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.shown());
        self
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotency-replayed") == "true"
    }

    /// Asserts a refusal by the gateway, with everything that CONTRACT promises of one. Returns its `details`.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, &*self.code()), (status, code), "{}", self.shown());
        self.has_error_body()
    }

    /// Asserts that admin can't do it now. It is no proxy, so that it does not say what a proxy met (RFC 9209).
    #[track_caller]
    pub(crate) fn is_unavailable_at_admin(&self) {
        let (status, code) = (503, "DEPENDENCY_UNAVAILABLE");
        assert_eq!((self.status, &*self.code()), (status, code), "{}", self.shown());
        self.has_body_of(&self.json());
        assert!(!self.lines("retry-after").is_empty(), "{}", self.shown());
    }

    /// Asserts the error body of CONTRACT and the headers that go with it. Returns its `details`.
    #[track_caller]
    pub(crate) fn has_error_body(&self) -> Value {
        let body = self.json();
        let code = self.has_body_of(&body);
        self.has_headers_of(code);
        body["details"].clone()
    }

    #[track_caller]
    fn has_body_of(&self, body: &Value) -> model::ErrorCode {
        let shown = || self.shown();
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", shown());
        let object = body.as_object().unwrap();
        let mut members: Vec<&str> = object.keys().map(String::as_str).collect();
        members.sort_unstable();
        let promised = [
            "code",
            "detail",
            "details",
            "instance",
            "message",
            "retryable",
            "status",
            "title",
            "trace_id",
            "type",
        ];
        assert_eq!(members, promised, "{}", shown());
        let text = |name: &str| {
            body[name].as_str().unwrap_or_else(|| panic!("{name}: {}", shown())).to_owned()
        };
        let code = model::ErrorCode::parse(&text("code")).unwrap_or_else(|| panic!("{}", shown()));
        assert_eq!(body["status"], self.status, "{}", shown());
        assert_eq!(body["retryable"], code.retryable(), "{}", shown());
        assert!(body["details"].is_object(), "{}", shown());
        assert!(!text("message").is_empty() && text("message") == text("detail"), "{}", shown());
        assert_eq!(text("type"), format!("/.tollgate/errors/{code}"), "{}", shown());
        assert_eq!(text("title"), code.title(), "{}", shown());
        let trace = text("trace_id");
        let lower_hex = trace.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        assert!(
            trace.len() == 32 && lower_hex && trace.bytes().any(|byte| byte != b'0'),
            "{}",
            shown()
        );
        let request = self.header("x-request-id");
        assert!((8..=128).contains(&request.len()), "{}", shown());
        assert_eq!(text("instance"), format!("urn:request:{request}"), "{}", shown());
        code
    }

    /// Headers that HTTP wants beside some codes.
    #[track_caller]
    fn has_headers_of(&self, code: model::ErrorCode) {
        let has = |name: &str| assert!(!self.lines(name).is_empty(), "no {name}: {}", self.shown());
        match self.status {
            401 => has("www-authenticate"),
            405 => has("allow"),
            500.. => has("proxy-status"),
            _ => {}
        }
        use model::ErrorCode::{
            ConcurrencyLimited, IdempotencyInProgress, QuotaExceeded, RateLimited,
        };
        if [ConcurrencyLimited, IdempotencyInProgress, QuotaExceeded, RateLimited].contains(&code) {
            has("retry-after");
            let seconds: u64 = self.header("retry-after").parse().expect("whole seconds");
            assert_eq!(self.json()["details"]["retry_after"], seconds, "{}", self.shown());
            assert!(seconds >= 1, "{}", self.shown());
        }
    }

    fn shown(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.chars().take(1000).collect();
        format!("{} was answered {} {:?} {body}", self.what, self.status, self.headers)
    }
}

/// A body of this size that is JSON for the CRM: a contact with long notes.
pub(crate) fn contact_of(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::seeded(seed);
    let frame =
        |notes: &str| format!(r#"{{"first_name":"Ada","last_name":"Lovelace","notes":"{notes}"}}"#);
    let room = size - frame("").len();
    let bytes: Vec<u8> =
        (0..room.div_ceil(8)).flat_map(|_| random.number().to_le_bytes()).collect();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    frame(&text[..room]).into_bytes()
}
