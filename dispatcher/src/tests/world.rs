//! A store, a document and dispatchers on them.

use super::sink::Sink;
use crate::{Dispatcher, Settings};
use async_trait::async_trait;
use bytes::Bytes;
use ingest::Ingest;
use model::Clock;
use model::audit::Entry;
use model::config::{self, Config, ConfigError};
use model::event::{ENDPOINT_DISABLED, Event};
use model::id::{EndpointId, NodeName, TenantId};
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions};
use model::role::Actor;
use model::webhook::{
    Acceptance, Attempt, Delivery, DeliveryState, Disabled, NewEvent, Reason, Standing, WebhookId,
    delivery_number,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::Store;
use store::control::{Effect, Recover, Write};
use store::seal::MasterKeys;
use store::webhooks::{Arriving, DeliveryQuery};
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// `whsec_` and 32 bytes.
const SECRET: &str = "whsec_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) sink: Sink,
    document: Arc<Document>,
    folder: TempDir,
}

/// A document that a test writes.
#[derive(Default)]
struct Document {
    published: Mutex<Option<Published>>,
    /// Whoever asks for it panics.
    panics: AtomicBool,
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/tollgate.db", folder.path().display());
        let store = Store::open(&url);
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        let (store, sink) = (store.await.unwrap(), Sink::start().await);
        Self { store, sink, document: Arc::default(), folder }
    }

    /// A world with these endpoints of `acme`: path or URL, and what else is to be said of it. The first is `e0`.
    pub(crate) async fn with(endpoints: &[(&str, &str)]) -> Self {
        let world = Self::new().await;
        world.serve(endpoints);
        world
    }

    /// Publishes a document with these endpoints.
    pub(super) fn serve(&self, endpoints: &[(&str, &str)]) {
        let secret = self.folder.path().join("secret").display().to_string();
        let endpoint = |(n, (path, more)): (usize, &(&str, &str))| {
            let url = if path.starts_with("http") {
                (*path).to_owned()
            } else {
                format!("{}{path}", self.sink.url)
            };
            let has = |field: &str| more.contains(field);
            let tenant = if has("tenant:") { "" } else { "tenant: acme, " };
            // Not the notices of what is tested.
            let events =
                if has("events:") { "" } else { "events: [a, b, c, \"contact*\", \"order.*\"], " };
            let schedule = if has("schedule:") { "" } else { "schedule: [300ms, 300ms], " };
            let breaker = if has("breaker:") { "" } else { "breaker: { min_attempts: 100000 }, " };
            format!(
                "\n  - {{ id: e{n}, {tenant}{events}{schedule}{breaker}url: \"{url}\", secret: {{ file: \"{secret}\" }}, {more} }}"
            )
        };
        let endpoints: String = match endpoints {
            [] => " []".to_owned(),
            some => some.iter().enumerate().map(endpoint).collect(),
        };
        let text = format!(
            "format: 1\nplans:\n  - {{ id: free, limits: [] }}\ntenants:\n  - {{ id: acme, plan: free, state: active }}\n  - {{ id: globex, plan: free, state: active }}\nendpoints:{endpoints}"
        );
        if let Err(errors) = config::read(&text) {
            panic!("{errors:?}\n{text}");
        }
        let mut published = self.document.published.lock().unwrap();
        let number = published.as_ref().map_or(1, |known| known.number + 1);
        *published =
            Some(Published { number, text: text.into(), etag: number.to_string(), nodes: None });
    }

    /// Revisions in the store, up to this one, whatever is in force here.
    pub(super) async fn published(&self, newest: u64) {
        for base in 0..newest {
            let text = format!("# {base}").into();
            let effect = Effect::Publish {
                text,
                base,
                nodes: None,
                replaces_staged: false,
                events: Vec::new(),
            };
            let write =
                Write { effect, audit: audit("revisions.publish", "/v1/revisions"), answer: None };
            self.store.write(write).await.unwrap();
        }
    }

    /// Keeps the document in force in the store, as the next revision; for these nodes first.
    pub(super) async fn keep(&self, nodes: Option<Vec<NodeName>>) {
        let published = {
            let mut published = self.document.published.lock().unwrap();
            let known = published.as_mut().unwrap();
            known.nodes.clone_from(&nodes);
            known.clone()
        };
        let effect = Effect::Publish {
            text: published.text,
            base: published.number - 1,
            nodes,
            replaces_staged: false,
            events: Vec::new(),
        };
        self.write(effect).await;
    }

    /// Gives the document in force to all nodes.
    pub(super) async fn release(&self) {
        let number = {
            let mut published = self.document.published.lock().unwrap();
            let known = published.as_mut().unwrap();
            known.nodes = None;
            known.number
        };
        self.write(Effect::Release(number)).await;
    }

    async fn write(&self, effect: Effect) {
        let audit = audit("revisions.write", "/v1/revisions");
        self.store.write(Write { effect, audit, answer: None }).await.unwrap();
    }

    /// Whether whoever asks for the document panics.
    pub(super) fn panics(&self, panics: bool) {
        self.document.panics.store(panics, Ordering::Relaxed);
    }

    /// Starts a dispatcher.
    pub(super) async fn dispatcher(&self) -> Running {
        let dispatcher = self.dispatcher_at_rest();
        let task = tokio::spawn(dispatcher.clone().run());
        Running { dispatcher, task }
    }

    /// A dispatcher that does nothing.
    pub(crate) fn dispatcher_at_rest(&self) -> Arc<Dispatcher> {
        let clock = Clock::system();
        let ingest = Ingest::start(ingest::Settings {
            store: self.store.clone(),
            revisions: self.document.clone(),
            clock: clock.clone(),
        });
        let dispatcher = Dispatcher::new(Settings {
            store: self.store.clone(),
            revisions: self.document.clone(),
            keys: MasterKeys::default(),
            clock,
            node: NodeName::from("test"),
            ingest,
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
            version: "test",
        });
        dispatcher.unwrap()
    }

    /// Accepts events of `acme`: type and subject of each. Their ids count from what is given.
    pub(crate) async fn accept(&self, from: usize, events: &[(&str, &str)]) -> Vec<WebhookId> {
        self.accept_of("acme", from, events).await
    }

    pub(super) async fn accept_of(
        &self,
        tenant: &str,
        from: usize,
        events: &[(&str, &str)],
    ) -> Vec<WebhookId> {
        let tenant = TenantId::from(tenant);
        let event = |(n, (kind, subject)): (usize, &(&str, &str))| {
            new_event(&tenant, from + n, kind, subject)
        };
        let events: Vec<_> = events.iter().enumerate().map(event).collect();
        let ids = events.iter().map(|event| event.webhook_id.clone()).collect();
        let requests = events
            .chunks(256)
            .map(|events| Arriving { events: events.to_vec(), backlog: BTreeMap::new() })
            .collect();
        let told = self.store.accept_events(requests).await.unwrap();
        assert!(told.iter().flatten().all(|told| *told == Acceptance::Accepted), "{told:?}");
        ids
    }

    /// What the outbox tells of endpoints.
    pub(super) async fn notices(&self) -> Vec<Event> {
        let told = self.store.outbox(0, 100).await.unwrap();
        told.into_iter().map(|told| told.event).collect()
    }

    /// Disables an endpoint, as if it had said 410 long ago.
    pub(super) async fn disable(&self, endpoint: &str) {
        let at = Clock::system().now();
        let standing = Standing {
            endpoint: EndpointId::from(endpoint),
            tenant: TenantId::from("acme"),
            failing_since: Some(at),
            open_until: None,
            opened: 0,
            disabled: Some(Disabled { reason: Reason::Gone, since: at }),
            at,
        };
        let event = Event {
            id: Uuid::now_v7().to_string(),
            at,
            r#type: ENDPOINT_DISABLED.to_owned(),
            tenant: None,
            subject: String::new(),
            data: json!({}),
        };
        assert!(self.store.disable_endpoint(standing, event).await.unwrap());
    }

    /// Enables an endpoint again, as an operator does.
    pub(super) async fn enable(&self, endpoint: &str) {
        let audit = audit("endpoints.enable", &format!("/v1/endpoints/{endpoint}"));
        let (endpoint, tenant) = (EndpointId::from(endpoint), "acme".into());
        let effect = Effect::EnableEndpoint { endpoint, tenant, recover: Recover::Parked };
        self.store.write(Write { effect, audit, answer: None }).await.unwrap();
    }

    /// The file with the secret of every endpoint.
    pub(super) fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Every delivery, the oldest first.
    pub(crate) async fn deliveries(&self) -> Vec<Delivery> {
        let query = DeliveryQuery { limit: 1_000, ..DeliveryQuery::default() };
        let mut deliveries = self.store.deliveries(&query).await.unwrap();
        deliveries.reverse();
        deliveries
    }

    /// Those of one endpoint.
    pub(super) async fn of(&self, endpoint: &str) -> Vec<Delivery> {
        let endpoint = EndpointId::from(endpoint);
        let mut deliveries = self.deliveries().await;
        deliveries.retain(|delivery| delivery.endpoint == endpoint);
        deliveries
    }

    /// The attempts of a delivery, the first one first.
    pub(super) async fn attempts(&self, delivery: &Delivery) -> Vec<Attempt> {
        let number = delivery_number(&delivery.id).unwrap();
        let (_, mut attempts) = self.store.delivery(number).await.unwrap().unwrap();
        attempts.sort_by_key(|attempt| attempt.at);
        attempts
    }

    /// Waits until this many deliveries are in this state.
    pub(super) async fn until(&self, state: DeliveryState, count: usize) {
        eventually(|| async {
            let deliveries = self.deliveries().await;
            let found = deliveries.iter().filter(|delivery| delivery.state == state).count();
            if found == count {
                Ok(())
            } else {
                Err(format!("{found} of {count}: {deliveries:#?}"))
            }
        })
        .await;
    }
}

fn audit(action: &str, resource: &str) -> Entry {
    Entry {
        id: Uuid::now_v7().to_string(),
        at: Clock::system().now(),
        actor: Actor::system(&NodeName::from("test")),
        action: action.to_owned(),
        resource: resource.to_owned(),
        tenant: None,
        request_id: Uuid::now_v7().to_string(),
        revision: None,
        difference: json!([]),
        refused: None,
    }
}

/// A dispatcher that runs.
pub(super) struct Running {
    pub(super) dispatcher: Arc<Dispatcher>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Ends it as it should.
    pub(super) async fn close(self) {
        self.dispatcher.close(Duration::from_secs(5)).await;
        tokio::time::timeout(Duration::from_secs(1), self.task).await.unwrap().unwrap();
    }

    /// The value of a metric.
    pub(super) fn metric(&self, series: &str) -> f64 {
        let text = self.dispatcher.metrics();
        let line = text
            .lines()
            .find(|line| line.starts_with(series) && line[series.len()..].starts_with(' '));
        line.unwrap_or_else(|| panic!("{series} in {text}"))[series.len() + 1..].parse().unwrap()
    }
}

pub(super) fn new_event(tenant: &TenantId, n: usize, kind: &str, subject: &str) -> NewEvent {
    let (source, id) = ("/crm", format!("n{n}"));
    let content = json!({
        "specversion": "1.0", "id": id, "source": source, "type": kind, "subject": subject,
        "tenant": tenant, "datacontenttype": "application/json", "data": { "n": n },
    });
    NewEvent {
        webhook_id: WebhookId::of(tenant, source, &id),
        tenant: tenant.clone(),
        source: source.to_owned(),
        id,
        r#type: kind.to_owned(),
        digest: [0; 32],
        content: Bytes::from(content.to_string()),
    }
}

/// Waits until it holds.
pub(super) async fn eventually<F: Future<Output = Result<(), String>>>(holds: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match holds().await {
            Ok(()) => return,
            Err(why) if Instant::now() > deadline => panic!("{why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[async_trait]
impl Revisions for Document {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        Ok(self.in_force())
    }

    fn in_force(&self) -> Option<Published> {
        assert!(!self.panics.load(Ordering::Relaxed), "a test asks for this panic");
        self.published.lock().unwrap().clone()
    }

    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        config::read(&text).map(Arc::new)
    }

    async fn publish(&self, _: Change) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
    }

    async fn release(
        &self,
        _: u64,
        _: Entry,
        _: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
    }
}
