//! The API as tests ask it, and revisions over its store: the port's contract without a gateway.

use crate::tests::described::Answered;
use crate::tests::idempotency::InStore;
use crate::{Settings, new_token, router, token};
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::{HeaderMap, Request};
use ingest::Ingest;
use jiff::Timestamp;
use model::Clock;
use model::audit::Entry;
use model::config::{self, Config, ConfigError};
use model::id::{NodeName, TokenId};
use model::idempotency::Records;
use model::node::NodeReport;
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions, Staged};
use model::role::{Actor, Role};
use model::token::Token;
use model::usage::{Elsewhere, UsageOf};
use pack_host::worker::Worker;
use pack_host::{Host, HostSettings};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use store::Store;
use store::control::{AuditQuery, Effect, Revision, Write, WriteError};
use store::seal::MasterKeys;
use tempfile::TempDir;
use tokio::sync::RwLock;
use tower::ServiceExt as _;

/// The document that tests begin with: revision 1.
pub(crate) fn standard() -> Value {
    let issuer = |tenant: &str| {
        json!({ "id": format!("{tenant}-idp"), "issuer": format!("https://idp.{tenant}.example"),
            "audiences": ["crm"], "algorithms": ["RS256"], "tenant": tenant,
            "jwks": { "uri": "http://127.0.0.1:9000/.well-known/jwks.json" } })
    };
    let attachment = |id: &str, scope: Value| {
        json!({ "id": id, "pack": "require-header@1.0.0", "scope": scope, "phases": ["request"],
            "mode": "enforce", "on_failure": "closed" })
    };
    let key =
        |prefix: &str| json!({ "hash": format!("sha256:{}", "ab".repeat(32)), "prefix": prefix });
    json!({
        "format": 1,
        "issuers": [issuer("acme"), issuer("globex")],
        "upstreams": [{ "id": "crm", "targets": [{ "address": "127.0.0.1:9000" }] }],
        "services": [{ "id": "contacts", "select": ["path", "tenant_pin", "default"], "versions": [
            { "name": "v1", "upstream": "crm", "state": "deprecated",
                "deprecated_at": "2026-06-01T00:00:00Z", "successor": "v2" },
            { "name": "v2", "upstream": "crm", "state": "active", "default": true },
        ] }],
        "routes": [{ "id": "contacts.create", "service": "contacts",
            "match": { "path": "/contacts", "methods": ["POST"] },
            "authenticate": { "any_of": ["jwt", "api_key"] } }],
        "plans": [
            { "id": "gold", "limits": [] },
            { "id": "free", "limits": [
                { "id": "burst", "rate": "5/s", "burst": 5, "per": "tenant", "on_store_error": "local" },
            ] },
        ],
        "tenants": [
            { "id": "acme", "plan": "gold", "state": "active", "pins": { "contacts": "v1" },
                "consumers": [{ "id": "mobile", "scopes": ["contacts:read"],
                    "credentials": [{ "id": "k1", "api_key": key("tg_live_acme") }] }] },
            { "id": "globex", "plan": "free", "state": "active", "consumers": [
                { "id": "mobile", "credentials": [{ "id": "k1", "api_key": key("tg_live_globex") }] },
                { "id": "web" },
            ] },
        ],
        "packs": [{ "id": "require-header", "version": "1.0.0" }],
        "attachments": [
            attachment("acme-header", json!({ "tenant": "acme" })),
            attachment("globex-header", json!({ "tenant": "globex" })),
            attachment("header", json!({})),
        ],
    })
}

/// What packs are tried on: in this process, as there is no binary to do it in a child.
static HOST: LazyLock<Arc<Host>> =
    LazyLock::new(|| Host::new(HostSettings::small(Worker::Here)).unwrap());

/// Revisions over the store. Checking is all the compiling that there is.
pub(crate) struct Kept {
    store: Store,
    /// Documents that another process publishes just before the next change of ours.
    pub(crate) meanwhile: Mutex<Vec<Value>>,
    /// Held for writing, nobody gets the newest revision.
    pub(crate) gate: RwLock<()>,
    /// How many wait for it.
    pub(crate) waiting: AtomicUsize,
    /// Whether asking for the newest revision panics.
    pub(crate) faulty: Mutex<bool>,
    /// Whether another process is always faster.
    pub(crate) always: Mutex<bool>,
    /// Whether the operator keeps the document in a file.
    pub(crate) read_only: bool,
    /// What was published last.
    in_force: Mutex<Option<Published>>,
}

impl Kept {
    async fn write(
        &self,
        effect: Effect,
        change: (Entry, Option<KeptAnswer>),
    ) -> Result<u64, PublishError> {
        let (audit, answer) = change;
        let written = self.store.write(Write { effect, audit, answer }).await;
        Ok(written.map_err(refused)?.revision.unwrap())
    }

    async fn published(&self, number: u64) -> Published {
        let published = published(self.store.revision(number).await.unwrap().unwrap());
        *self.in_force.lock().unwrap() = Some(published.clone());
        published
    }
}

fn published(Revision { info, text }: Revision) -> Published {
    let etag = info.digest.trim_start_matches("sha256:").chars().take(32).collect();
    Published { number: info.number, text, etag, nodes: info.nodes }
}

fn refused(error: WriteError) -> PublishError {
    match error {
        WriteError::Stale => PublishError::Stale,
        WriteError::Staged { number, nodes } => PublishError::Staged { number, nodes },
        WriteError::NotFound => PublishError::NotFound,
        WriteError::Repeat => PublishError::Repeat,
        WriteError::Store(error) => PublishError::Store(error),
        error => panic!("{error}"),
    }
}

#[async_trait]
impl Revisions for Kept {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        assert!(!*self.faulty.lock().unwrap(), "on purpose");
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.read().await);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Ok(self.store.newest().await?.map(published))
    }

    fn in_force(&self) -> Option<Published> {
        self.in_force.lock().unwrap().clone()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        config::read(&text).map(Arc::new)
    }

    async fn publish(&self, change: Change) -> Result<Published, PublishError> {
        if self.read_only {
            return Err(PublishError::ReadOnly);
        }
        if *self.always.lock().unwrap() {
            return Err(PublishError::Stale);
        }
        let others = std::mem::take(&mut *self.meanwhile.lock().unwrap());
        let audit = entry("elsewhere");
        for (document, base) in others.into_iter().zip(change.base..) {
            let effect = publish(document.to_string(), base);
            self.write(effect, (audit.clone(), None)).await?;
        }
        config::read(&change.text).map_err(PublishError::Invalid)?;
        let effect = Effect::Publish {
            text: change.text.into(),
            base: change.base,
            nodes: change.nodes,
            replaces_staged: change.staged == Staged::Replace,
            events: change.events,
        };
        let number = self.write(effect, (change.audit, change.answer)).await?;
        Ok(self.published(number).await)
    }

    async fn release(
        &self,
        number: u64,
        audit: Entry,
        answer: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        let number = self.write(Effect::Release(number), (audit, answer)).await?;
        Ok(self.published(number).await)
    }
}

fn publish(text: String, base: u64) -> Effect {
    let text = text.into();
    Effect::Publish { text, base, nodes: None, replaces_staged: false, events: Vec::new() }
}

/// An audit entry of somebody else.
pub(crate) fn entry(action: &str) -> Entry {
    Entry {
        id: uuid::Uuid::now_v7().to_string(),
        at: Clock::system().now(),
        actor: Actor::system(&NodeName::from("test")),
        action: action.to_owned(),
        resource: "/test".to_owned(),
        tenant: None,
        request_id: "test-request".to_owned(),
        revision: None,
        difference: json!([]),
        refused: None,
    }
}

fn ingest(store: &Store, revisions: &Arc<Kept>, clock: &Clock) -> Ingest {
    let (store, clock) = (store.clone(), clock.clone());
    Ingest::start(ingest::Settings { store, revisions: revisions.clone(), clock })
}

/// How an API is set up.
#[derive(Default)]
pub(crate) struct Setup {
    /// The first document; none for no revision at all.
    pub(crate) document: Option<Value>,
    /// Whether the operator keeps the document in a file.
    pub(crate) read_only: bool,
    /// Master keys, each by the hex digit that its file repeats.
    pub(crate) keys: Vec<char>,
    /// Whoever holds the counters; nobody when absent.
    pub(crate) usage: Option<Arc<dyn UsageOf>>,
    /// Whoever holds the idempotency records; the store when absent.
    pub(crate) records: Option<Arc<dyn Records>>,
}

/// The API on a store of its own.
pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) store: Store,
    pub(crate) revisions: Arc<Kept>,
    pub(crate) clock: Clock,
    pub(crate) folder: TempDir,
    /// A token of role admin.
    pub(crate) admin: String,
}

/// Where tests ask from.
pub(crate) const FROM: &str = "192.0.2.7";

impl Api {
    /// With the standard document and a master key.
    pub(crate) async fn new() -> Self {
        Self::with(Setup { document: Some(standard()), keys: vec!['1'], ..Setup::default() }).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
        let Setup { document, read_only, keys, usage, records } = setup;
        let revisions = Arc::new(Kept {
            store: store.clone(),
            meanwhile: Mutex::default(),
            gate: RwLock::default(),
            waiting: AtomicUsize::default(),
            faulty: Mutex::default(),
            always: Mutex::default(),
            read_only,
            in_force: Mutex::default(),
        });
        if let Some(document) = document {
            let effect = publish(document.to_string(), 0);
            let number = revisions.write(effect, (entry("begin"), None)).await.unwrap();
            revisions.published(number).await;
        }
        let settings = Settings {
            revisions: revisions.clone(),
            usage: usage.unwrap_or_else(|| Arc::new(Elsewhere)),
            records: records.unwrap_or_else(|| in_store(&store, &clock)),
            packs: HOST.clone(),
            ingest: ingest(&store, &revisions, &clock),
            store: store.clone(),
            keys: master_keys(&folder, &keys),
            clock: clock.clone(),
            node: NodeName::from("test"),
        };
        let router = router(settings, Router::new());
        let admin = new_token();
        let api = Self { router, store, revisions, clock, folder, admin: admin.clone() };
        api.keep(&admin, Role::Admin, None).await;
        api
    }

    /// The same store and document with other master keys: after a restart.
    pub(crate) fn restarted(&self, keys: &[char]) -> Self {
        // Ids of one process grow within a millisecond; those of two don't.
        self.clock.advance(std::time::Duration::from_secs(1));
        let settings = Settings {
            revisions: self.revisions.clone(),
            usage: Arc::new(Elsewhere),
            records: in_store(&self.store, &self.clock),
            packs: HOST.clone(),
            ingest: ingest(&self.store, &self.revisions, &self.clock),
            store: self.store.clone(),
            keys: master_keys(&self.folder, keys),
            clock: self.clock.clone(),
            node: NodeName::from("test"),
        };
        Self {
            router: router(settings, Router::new()),
            store: self.store.clone(),
            revisions: self.revisions.clone(),
            clock: self.clock.clone(),
            folder: tempfile::tempdir().unwrap(),
            admin: self.admin.clone(),
        }
    }

    /// A new token of this role, bound to a tenant or not.
    pub(crate) async fn token(&self, role: Role, tenant: Option<&str>) -> String {
        let token = new_token();
        self.keep(&token, role, tenant).await;
        token
    }

    /// A new token of role admin that is no longer accepted.
    pub(crate) async fn ended(
        &self,
        expires_at: Option<Timestamp>,
        revoked_at: Option<Timestamp>,
    ) -> String {
        let token = new_token();
        self.write(&token, |kept| Token { expires_at, revoked_at, ..kept }, Role::Admin, None)
            .await;
        token
    }

    async fn keep(&self, token: &str, role: Role, tenant: Option<&str>) {
        self.write(token, |kept| kept, role, tenant).await;
    }

    /// An id that was made before the API makes any: ids are in the order of their clock's time.
    fn earlier_id(&self) -> String {
        let before = self.clock.now() - std::time::Duration::from_secs(1);
        let seconds = u64::try_from(before.as_second()).unwrap();
        let at = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
        uuid::Uuid::new_v7(at).to_string()
    }

    async fn write(
        &self,
        token: &str,
        change: impl Fn(Token) -> Token,
        role: Role,
        tenant: Option<&str>,
    ) {
        let kept = Token {
            id: TokenId::from(self.earlier_id().as_str()),
            name: format!("{}-of-{}", role.as_str(), tenant.unwrap_or("all")),
            role,
            tenant: tenant.map(Into::into),
            created_at: self.clock.now(),
            expires_at: None,
            revoked_at: None,
        };
        let effect = Effect::CreateToken(change(kept), token::hash(token));
        self.store.write(Write { effect, audit: entry("token"), answer: None }).await.unwrap();
    }

    /// A node reports.
    pub(crate) async fn node(&self, name: &str) {
        let now = self.clock.now();
        let report = NodeReport {
            name: name.into(),
            roles: vec!["gateway".to_owned()],
            build: "test".to_owned(),
            revision: 1,
            rejected: None,
            started_at: now,
            seen_at: now,
        };
        self.store.report_node(&report).await.unwrap();
    }

    /// A request of the administrator.
    pub(crate) fn ask(&self, method: &str, target: &str) -> Ask {
        self.stranger(method, target).bearer(&self.admin)
    }

    /// A request without a token.
    pub(crate) fn stranger(&self, method: &str, target: &str) -> Ask {
        let request = Request::builder().method(method).uri(target);
        Ask { router: self.router.clone(), request, body: Body::empty() }
    }

    /// What a resource is, and its tag.
    pub(crate) async fn read(&self, target: &str) -> (Value, String) {
        let told = self.ask("GET", target).send().await.is(200);
        (told.json(), told.header("etag").to_owned())
    }

    /// The whole document.
    pub(crate) async fn document(&self) -> Value {
        self.read("/v1/document").await.0
    }

    /// The number of the newest revision.
    pub(crate) async fn revision(&self) -> u64 {
        self.store.newest().await.unwrap().map_or(0, |newest| newest.info.number)
    }

    /// Every audit entry of requests, newest first.
    pub(crate) async fn audit(&self) -> Vec<Entry> {
        let query = AuditQuery { limit: 500, ..AuditQuery::default() };
        let mut entries = self.store.audit(&query).await.unwrap();
        entries.retain(|entry| entry.request_id != "test-request");
        entries
    }
}

/// The idempotency records of a store.
fn in_store(store: &Store, clock: &Clock) -> Arc<dyn Records> {
    Arc::new(InStore { ledger: store.ledger(), clock: clock.clone() })
}

fn master_keys(folder: &TempDir, digits: &[char]) -> MasterKeys {
    let files: Vec<PathBuf> = digits.iter().map(|digit| key_file(folder, *digit)).collect();
    MasterKeys::read(&files).unwrap()
}

fn key_file(folder: &TempDir, digit: char) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let file = folder.path().join(format!("key-{digit}"));
    std::fs::write(&file, digit.to_string().repeat(64)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// A request in the making.
pub(crate) struct Ask {
    router: Router,
    request: http::request::Builder,
    body: Body,
}

impl Ask {
    pub(crate) fn bearer(self, token: &str) -> Self {
        let mut this = self;
        if let Some(headers) = this.request.headers_mut() {
            headers.remove("authorization");
        }
        this.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn header(self, name: &str, value: impl AsRef<str>) -> Self {
        Self { request: self.request.header(name, value.as_ref()), ..self }
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(self, body: impl Into<Body>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The answer, its body unread.
    pub(crate) async fn response(self) -> Response {
        let mut request = self.request.body(self.body).unwrap();
        let from: SocketAddr = format!("{FROM}:50000").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(from));
        self.router.oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(self) -> Told {
        let method = self.request.method_ref().unwrap();
        let asked = format!("{method} {}", self.request.uri_ref().unwrap());
        let response = self.response().await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (method, path) = asked.split_once(' ').unwrap();
        let path = path.split('?').next().unwrap();
        let status = parts.status.as_u16();
        Answered { method, path, status, headers: &parts.headers, text: &text }.fits();
        Told { asked, status: parts.status.as_u16(), headers: parts.headers, text }
    }
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Told {
    asked: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Told {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.text);
        self
    }

    /// A refusal with this code, as the one error body has it; gives its details.
    #[track_caller]
    pub(crate) fn refuses(self, status: u16, code: &str) -> Value {
        let told = self.is(status);
        let body = told.json();
        assert_eq!(body["code"], code, "{}: {}", told.asked, told.text);
        assert_eq!(told.header("content-type"), "application/problem+json");
        assert_eq!(body["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(body["instance"], format!("urn:request:{}", told.header("x-request-id")));
        body["details"].clone()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}: {}", self.asked, self.text))
    }

    /// A header's value; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The revision that the answer speaks of.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        self.header("tollgate-revision").parse().unwrap()
    }
}

/// The pointers of a CONFIG_INVALID.
pub(crate) fn pointers(details: &Value) -> Vec<(&str, &str)> {
    let errors = details["errors"].as_array().unwrap().iter();
    errors
        .map(|error| {
            (error["pointer"].as_str().unwrap(), error["document_pointer"].as_str().unwrap())
        })
        .collect()
}
