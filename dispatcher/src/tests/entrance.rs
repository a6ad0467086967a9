//! A dispatcher's port on a real socket, with a document that a test writes: what comes in.

use crate::{Dispatcher, Settings};
use async_trait::async_trait;
use ingest::Ingest;
use model::Clock;
use model::audit::Entry;
use model::config::{self, Config, ConfigError};
use model::id::{NodeName, TenantId, TokenId};
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions};
use model::role::{Actor, Role};
use model::token::{self, Token};
use model::webhook::StoredEvent;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use store::Store;
use store::control::{Effect, Write};
use store::seal::MasterKeys;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

pub(crate) struct Entrance {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) address: String,
    document: Arc<Shelf>,
    folder: TempDir,
}

/// A document that is in force, and nothing else.
#[derive(Default)]
struct Shelf(Mutex<Option<Published>>);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answered {
    /// Status, and code of a refusal.
    pub(crate) fn told(&self) -> String {
        [self.status.to_string(), self.body["code"].as_str().unwrap_or_default().to_owned()]
            .join(" ")
            .trim_end()
            .to_owned()
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Entrance {
    /// Tenants `acme` and `globex`, `slow` which may send 10 events a second, and these sources; `SECRET` in them is a file's name.
    pub(crate) async fn with(sources: Value) -> Self {
        Self::at("2026-11-21T12:00:00Z", sources).await
    }

    async fn at(now: &str, sources: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let clock = Clock::manual(now.parse().unwrap());
        let document = Arc::new(Shelf::default());
        let dispatcher = dispatcher(&store, &document, &clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = dispatcher.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let entrance = Self { store, clock, dispatcher, address, document, folder };
        entrance.publish(sources);
        entrance
    }

    /// Puts a document with these sources in force.
    pub(crate) fn publish(&self, sources: Value) {
        self.publish_with("active", sources);
    }

    /// The same, with tenants in this state.
    pub(crate) fn publish_with(&self, state: &str, sources: Value) {
        let tenant = |id: &str| json!({ "id": id, "plan": "free", "state": state });
        let slow = json!({ "id": "slow", "plan": "slow", "state": state });
        let document = json!({
            "format": 1,
            "plans": [
                { "id": "free", "limits": [] },
                { "id": "slow", "limits": [], "events": { "rate": "10/s" } },
            ],
            "tenants": [tenant("acme"), tenant("globex"), slow],
            "sources": sources,
            "event_types": [{ "name": "strict", "schema": { "required": ["a"] } }],
        });
        let text = document.to_string().replace("SECRET", &self.secret().display().to_string());
        if let Err(errors) = config::read(&text) {
            panic!("{errors:?}\n{text}");
        }
        let mut published = self.document.0.lock().unwrap();
        let number = published.as_ref().map_or(1, |known| known.number + 1);
        let etag = number.to_string();
        *published = Some(Published { number, text: text.into(), etag, nodes: None });
    }

    /// The file that secrets stand in.
    pub(crate) fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Another dispatcher on the same store and document.
    pub(crate) fn another(&self) -> Arc<Dispatcher> {
        dispatcher(&self.store, &self.document, &self.clock)
    }

    /// A new token, changed before it is kept.
    pub(crate) async fn token(&self, role: Role, change: impl FnOnce(Token) -> Token) -> String {
        let text = format!("tga_{}", Uuid::now_v7());
        let token = Token {
            id: TokenId::from(text.as_str()),
            name: "test".to_owned(),
            role,
            tenant: None,
            created_at: self.clock.now(),
            expires_at: None,
            revoked_at: None,
        };
        self.write(Effect::CreateToken(change(token), token::hash(&text))).await;
        text
    }

    /// Writes as an operator does.
    pub(crate) async fn write(&self, effect: Effect) {
        let audit = Entry {
            id: Uuid::now_v7().to_string(),
            at: self.clock.now(),
            actor: Actor::system(&NodeName::from("test")),
            action: "test".to_owned(),
            resource: "/test".to_owned(),
            tenant: None,
            request_id: Uuid::now_v7().to_string(),
            revision: None,
            difference: json!([]),
            refused: None,
        };
        self.store.write(Write { effect, audit, answer: None }).await.unwrap();
    }

    /// Sends a request, with its length.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answered {
        let body = body.as_ref();
        let length = body.len().to_string();
        let headers = [headers, &[("content-length", &*length)]].concat();
        self.raw("POST", path, &headers, body).await
    }

    /// Sends a request as it is given.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answered {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        // Who is refused before may no longer be read from.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        Answered {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }

    /// Every event that is kept.
    pub(crate) async fn kept(&self) -> Vec<StoredEvent> {
        self.store.events_after(0, 1_000).await.unwrap()
    }

    /// The ids of those.
    pub(crate) async fn ids(&self) -> Vec<String> {
        self.kept().await.into_iter().map(|event| event.id).collect()
    }

    /// What the outbox tells: type and data.
    pub(crate) async fn notices(&self) -> Vec<(String, Value)> {
        let told = self.store.outbox(0, 100).await.unwrap();
        told.into_iter().map(|told| (told.event.r#type, told.event.data)).collect()
    }
}

fn dispatcher(store: &Store, document: &Arc<Shelf>, clock: &Clock) -> Arc<Dispatcher> {
    let ingest = Ingest::start(ingest::Settings {
        store: store.clone(),
        revisions: document.clone(),
        clock: clock.clone(),
    });
    let settings = Settings {
        store: store.clone(),
        revisions: document.clone(),
        keys: MasterKeys::default(),
        clock: clock.clone(),
        node: NodeName::from("test"),
        ingest,
        allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        version: "test",
    };
    Dispatcher::new(settings).unwrap()
}

/// A token of one tenant.
pub(crate) fn bound(tenant: &str) -> impl FnOnce(Token) -> Token {
    let tenant = Some(TenantId::from(tenant));
    move |token| Token { tenant, ..token }
}

#[async_trait]
impl Revisions for Shelf {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        Ok(self.in_force())
    }

    fn in_force(&self) -> Option<Published> {
        self.0.lock().unwrap().clone()
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
