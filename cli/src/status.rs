//! `/healthz`, `/readyz`, `/metrics`: for whoever watches the process. No token.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gateway::Gateway;
use http::{StatusCode, header};
use serde_json::json;
use std::sync::Arc;

/// Something that must answer before the process is ready.
pub(crate) type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    probes: Arc<[(&'static str, Probe)]>,
}

/// The three endpoints.
pub(crate) fn router(gateway: Arc<Gateway>, probes: Vec<(&'static str, Probe)>) -> Router {
    let shared = Shared { gateway, probes: probes.into() };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let checked = shared.probes.iter().map(|(name, probe)| (*name, probe()));
    let gateway = std::iter::once(("gateway", shared.gateway.is_ready()));
    let mut parts = serde_json::Map::new();
    let mut ready = true;
    for (name, result) in gateway.chain(checked) {
        ready &= result.is_ok();
        parts.insert(name.to_owned(), result.map_or_else(Into::into, |()| "ready".into()));
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready, "parts": parts }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let text = shared.gateway.metrics.text();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
