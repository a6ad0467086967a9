//! The control plane's HTTP API. It publishes through [`Revisions`] and knows neither pingora nor files.
//!
//! Invariant: but for the status endpoints and `/openapi.json`, nothing is answered without a token; every refusal has the
//! one error body; every change is in the audit, in the transaction that makes it.

mod acting;
mod allowed;
mod answer;
mod audit;
mod body;
mod credential;
mod deliveries;
mod difference;
mod document;
mod endpoints;
mod events;
mod exchanges;
mod idempotency;
mod kind;
mod newest;
mod nodes;
mod once;
mod openapi;
mod ownership;
mod packs;
mod page;
mod place;
mod precondition;
mod problem;
mod replays;
mod request;
mod resource;
mod revisions;
mod revocations;
mod search;
mod secret;
mod token;
mod tokens;
mod usage;
mod verbs;
mod write;

pub use openapi::openapi;
pub use token::{first_token, new_token};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use ingest::Ingest;
use model::id::NodeName;
use model::idempotency::Records;
use model::revision::Revisions;
use model::usage::UsageOf;
use model::{Clock, ErrorCode};
use problem::Refused;
use std::sync::{Arc, Mutex, PoisonError};
use store::Store;
use store::seal::MasterKeys;
use tokio::sync::Semaphore;
use uuid::{ContextV7, Uuid};

/// What the API stands on.
pub struct Settings {
    /// Whoever holds the document.
    pub revisions: Arc<dyn Revisions>,
    /// Whoever holds the counters.
    pub usage: Arc<dyn UsageOf>,
    /// Whoever holds the idempotency records.
    pub records: Arc<dyn Records>,
    /// What packs are tried on.
    pub packs: Arc<pack_host::Host>,
    /// Tokens, audit, revocations, records, kept answers.
    pub store: Store,
    /// The door for events, which the dispatcher shares.
    pub ingest: Ingest,
    /// What secrets are sealed with.
    pub keys: MasterKeys,
    /// The time.
    pub clock: Clock,
    /// The name of this process.
    pub node: NodeName,
}

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) revisions: Arc<dyn Revisions>,
    pub(crate) usage: Arc<dyn UsageOf>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) host: Arc<pack_host::Host>,
    pub(crate) store: Store,
    pub(crate) ingest: Ingest,
    pub(crate) keys: MasterKeys,
    pub(crate) clock: Clock,
    /// Ids of this process, growing also within a millisecond.
    ids: Mutex<ContextV7>,
    /// The newest document.
    read: newest::Read,
    /// One change of the document at a time.
    turn: tokio::sync::Mutex<()>,
    /// Whole documents on their way in.
    documents: Semaphore,
    /// Pack files on their way in.
    pushes: Arc<Semaphore>,
    /// Requests being served.
    places: Arc<Semaphore>,
    /// Idempotency keys being looked up.
    lookups: Semaphore,
    /// Exports of the audit being written.
    exports: Arc<Semaphore>,
    /// Refusals that were audited of late.
    refusals: acting::Refusals,
}

impl Shared {
    fn new(settings: Settings) -> Self {
        let Settings {
            revisions,
            usage,
            records,
            packs: host,
            store,
            ingest,
            keys,
            clock,
            node: _,
        } = settings;
        Self {
            revisions,
            usage,
            records,
            host,
            store,
            ingest,
            keys,
            clock,
            ids: Mutex::default(),
            read: newest::Read::default(),
            turn: tokio::sync::Mutex::default(),
            documents: Semaphore::new(document::DOCUMENTS_MAX),
            pushes: Arc::new(Semaphore::new(packs::PUSHES_MAX)),
            places: Arc::new(Semaphore::new(request::REQUESTS_MAX)),
            lookups: Semaphore::new(idempotency::LOOKUPS_MAX),
            exports: Arc::new(Semaphore::new(audit::EXPORTS_MAX)),
            refusals: acting::Refusals::default(),
        }
    }

    /// A UUIDv7 (RFC 9562 §5.7), later than all before it.
    pub(crate) fn fresh_id(&self) -> String {
        let now = self.clock.now();
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or_default();
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(uuid::Timestamp::from_unix(&*ids, seconds, nanos)).to_string()
    }
}

/// The API. `status` answers `/healthz`, `/readyz` and `/metrics`, which need no token.
pub fn router(settings: Settings, status: Router) -> Router {
    let shared = Arc::new(Shared::new(settings));
    let v1 = Router::new()
        .route("/v1/document", get(document::get).put(document::put))
        .merge(resource::routes())
        .merge(packs::routes())
        .merge(revisions::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
        .merge(nodes::routes())
        .merge(revocations::routes())
        .merge(usage::routes())
        .merge(idempotency::routes())
        .merge(exchanges::routes())
        .merge(credential::routes())
        .merge(deliveries::routes())
        .merge(events::routes())
        .merge(replays::routes())
        .route("/v1/secrets:rekey", post(secret::rekey))
        .fallback(async || Refused::from(ErrorCode::NotFound))
        .method_not_allowed_fallback(method_not_allowed)
        // What isn't there is nobody's business either: asked before routes are.
        .layer(from_fn_with_state(shared.clone(), token::check))
        .layer(from_fn_with_state(shared.clone(), request::bounded))
        .with_state(shared.clone());
    let open = Router::new().route("/openapi.json", get(openapi::serve)).merge(status);
    v1.merge(open.method_not_allowed_fallback(method_not_allowed))
        .layer(from_fn_with_state(shared, request::frame))
}

async fn method_not_allowed() -> Refused {
    ErrorCode::MethodNotAllowed.into()
}

#[cfg(test)]
mod tests;
