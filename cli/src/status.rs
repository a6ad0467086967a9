//! `/healthz`, `/readyz`, `/metrics`: for whoever watches the process. No token.
//!
//! Invariant: probing costs next to nothing, however often it is done: the store is asked at most once a second.

use crate::parts::Parts;
use crate::settings::{Role, Settings};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dispatcher::Dispatcher;
use gateway::Gateway;
use gateway::ledger::LedgerStanding;
use gateway::quotas::Standing;
use gateway::rollout::StoppedHere;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

/// For how long what the store said counts.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long the store may take to say it.
const STORE_DEADLINE: Duration = Duration::from_secs(2);

/// What makes a process ready, role by role.
pub(crate) struct Readiness {
    gateway: Arc<Gateway>,
    serves: bool,
    store: Store,
    said: Mutex<Option<(Instant, Result<(), String>)>>,
    /// Of the role admin: whether its first token is settled.
    token: Option<watch::Receiver<bool>>,
    dispatcher: Option<Arc<Dispatcher>>,
}

impl Readiness {
    /// Of a process with these settings. `token`: of the role admin. `dispatcher`: of the role dispatcher.
    pub(crate) fn of(
        settings: &Settings,
        parts: &Parts,
        token: Option<watch::Receiver<bool>>,
        dispatcher: Option<Arc<Dispatcher>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gateway: parts.gateway.clone(),
            serves: settings.is(Role::Gateway),
            store: parts.store.clone(),
            said: Mutex::default(),
            token,
            dispatcher,
        })
    }

    /// The parts by name, and whether the process is ready.
    async fn parts(&self) -> (bool, Vec<(&'static str, Result<(), String>)>) {
        let store = self.store().await;
        let mut roles = Vec::new();
        if self.serves {
            roles.push(("gateway", self.gateway.is_ready()));
        }
        if let Some(token) = &self.token {
            let settled = match *token.borrow() {
                true => Ok(()),
                false => Err("the first token is not settled yet".to_owned()),
            };
            roles.push(("admin", store.clone().and(settled)));
        }
        if let Some(dispatcher) = &self.dispatcher {
            // It takes no event that it can't keep.
            roles.push(("dispatcher", store.clone().and(dispatcher.is_ready())));
        }
        let ready = roles.iter().all(|(_, state)| state.is_ok());
        // A gateway serves on while the store is away: that is shown and makes nothing unready.
        roles.push(("store", store));
        (ready, roles)
    }

    /// Whether the store answers; who asks at the same time waits for one answer.
    async fn store(&self) -> Result<(), String> {
        let mut said = self.said.lock().await;
        if let Some((at, state)) = &*said
            && at.elapsed() < STORE_PAUSE
        {
            return state.clone();
        }
        let state = match timeout(STORE_DEADLINE, self.store.feed()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the store is not ready");
                Err("the store does not answer".to_owned())
            }
            Err(_) => Err("the store does not answer in time".to_owned()),
        };
        *said = Some((Instant::now(), state.clone()));
        state
    }
}

/// The three endpoints.
pub(crate) fn router(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness)
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    let (ready, parts) = readiness.parts().await;
    let standing = readiness.gateway.standing().borrow().clone();
    let shown = |(name, state): (&str, Result<(), String>)| {
        (name.to_owned(), state.map_or_else(Value::from, |()| "ready".into()))
    };
    let parts: serde_json::Map<String, Value> = parts.into_iter().map(shown).collect();
    let counters = counters(*readiness.gateway.quotas.standing().borrow());
    let mut body = json!({
        "ready": ready, "parts": parts, "revision": standing.revision, "counters": counters,
        "idempotency": idempotency(readiness.gateway.ledger.standing()),
    });
    if let (Some(rejected), Value::Object(body)) = (standing.rejected, &mut body) {
        let detail = json!({ "revision": rejected.revision, "errors": rejected.errors.len() });
        body.insert("rejected".to_owned(), detail);
    }
    let stopped = readiness.gateway.packs.stopped();
    if let (false, Value::Object(body)) = (stopped.is_empty(), &mut body) {
        let shown = |stopped: &StoppedHere| {
            let StoppedHere { version, attachment, reason } = stopped;
            json!({ "pack": **version, "attachment": attachment, "reason": **reason })
        };
        body.insert("stopped".to_owned(), stopped.iter().map(shown).collect());
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Who decides about limits. Nothing makes a node unready here: what happens without shared counters, the operator has
/// chosen for each limit, and of all nodes at once none would be left.
fn counters(standing: Standing) -> Value {
    match standing {
        Standing::InProcess => json!({ "state": "in_process" }),
        Standing::Shared { nodes } => json!({ "state": "shared", "nodes": nodes }),
        Standing::Degraded { since, nodes } => {
            let since = Timestamp::from_microsecond(since).ok();
            json!({ "state": "degraded", "since": since, "nodes": nodes })
        }
    }
}

/// Where idempotency records are kept. Nothing makes a node unready here, either: routes say what becomes of requests.
fn idempotency(standing: LedgerStanding) -> Value {
    match standing {
        LedgerStanding::InProcess => json!({ "state": "in_process" }),
        LedgerStanding::Database => json!({ "state": "database" }),
        LedgerStanding::Redis { evicts: None } => json!({ "state": "redis" }),
        LedgerStanding::Redis { evicts: Some(policy) } => {
            json!({ "state": "redis", "evicts": *policy })
        }
        LedgerStanding::Away => json!({ "state": "away" }),
    }
}

async fn metrics(State(readiness): State<Arc<Readiness>>) -> Response {
    let mut text = readiness.gateway.metrics.text();
    if let Some(dispatcher) = &readiness.dispatcher {
        text.push_str(&dispatcher.metrics());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
