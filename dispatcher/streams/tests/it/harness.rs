//! A store with one tenant, the door to it, and streams that run until they are dropped.

use async_trait::async_trait;
use bytes::Bytes;
use ingest::{Ingest, Origin};
use model::Clock;
use model::audit::Entry;
use model::config::{Config, ConfigError};
use model::event::CloudEvent;
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions};
use model::webhook::StoredEvent;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use streams::{Parts, Settings};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const DOCUMENT: &str = r#"
format: 1
plans: [{ id: gold, limits: [], events: { rate: 100000/s } }]
tenants: [{ id: acme, plan: gold, state: active }, { id: globex, plan: gold, state: active }]
event_types: [{ name: contact.created, schema: { type: object, required: [n] } }]
"#;

/// A document that nobody changes.
struct Fixed;

#[async_trait]
impl Revisions for Fixed {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        Ok(self.in_force())
    }

    fn in_force(&self) -> Option<Published> {
        Some(Published { number: 1, text: DOCUMENT.into(), etag: String::new(), nodes: None })
    }

    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        model::config::read(&text).map(Arc::new)
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

/// What streams stand on.
pub(crate) struct Ground {
    pub(crate) parts: Parts,
    _folder: TempDir,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let clock = Clock::system();
        let ingest = Ingest::start(ingest::Settings {
            store: store.clone(),
            revisions: Arc::new(Fixed),
            clock,
        });
        let parts = Parts { store, ingest, holder: "one/1".to_owned() };
        Self { parts, _folder: folder }
    }

    /// Runs these streams.
    pub(crate) fn run(&self, settings: Settings) -> Running {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(streams::run(settings, self.parts.clone(), stopped));
        Running { stop, task }
    }

    /// Accepts events as a producer's would be.
    pub(crate) async fn accept(&self, events: impl Iterator<Item = usize>) {
        let events = events.map(event).map(|body| CloudEvent::structured(&body).unwrap()).collect();
        let outcomes = self.parts.ingest.keep_each(Origin::Source, events).await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }

    /// All that was accepted, in its order, once there are so many.
    pub(crate) async fn accepted(&self, count: usize) -> Vec<StoredEvent> {
        let began = Instant::now();
        loop {
            let mut all = Vec::new();
            loop {
                let after = all.last().map_or(0, |event: &StoredEvent| event.number);
                let more = self.parts.store.events_after(after, 1_000).await.unwrap();
                if more.is_empty() {
                    break;
                }
                all.extend(more);
            }
            if all.len() >= count {
                return all;
            }
            assert!(began.elapsed() < PATIENCE, "{} of {count} were accepted", all.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Streams that run.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends them as a process that stops does.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// Event number `n` in structured form.
pub(crate) fn event(n: usize) -> Bytes {
    format!(
        r#"{{"specversion":"1.0","id":"{n}","source":"/crm","type":"contact.created","tenant":"acme","subject":"contact-{}","data":{{"n":{n}}}}}"#,
        n % 7
    )
    .into()
}

/// The ids of events, with how often each came.
pub(crate) fn counted(events: &[StoredEvent]) -> BTreeMap<usize, usize> {
    let mut counted = BTreeMap::new();
    for event in events {
        *counted.entry(event.id.parse().unwrap()).or_default() += 1;
    }
    counted
}
