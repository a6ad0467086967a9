//! How endpoints stand, kept in the store, so that neither a restart nor another dispatcher forgets it: since when they fail,
//! until when they are left alone, and whether they are disabled.
//!
//! Invariant: that an endpoint was disabled is told once, in the transaction that disables it.

use crate::Dispatcher;
use model::event::{ENDPOINT_DISABLED, Event};
use model::port::StoreError;
use model::webhook::Standing;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long what changed waits at most.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps what changes here and takes what others write, until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    while !dispatcher.is_stopping() {
        if let Err(error) = step(&dispatcher).await {
            dispatcher.away(&error);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = dispatcher.lanes.to_tell.notified() => {}
            _ = dispatcher.stopped() => {}
        }
    }
}

/// Keeps what changed, as far as the store takes it.
pub(crate) async fn keep(dispatcher: &Dispatcher) {
    if let Err(error) = write(dispatcher).await {
        dispatcher.away(&error);
    }
}

async fn step(dispatcher: &Dispatcher) -> Result<(), StoreError> {
    write(dispatcher).await?;
    let standings = dispatcher.store.standings().await?;
    dispatcher.lanes.adopt(&standings, dispatcher.time.micros());
    Ok(())
}

async fn write(dispatcher: &Dispatcher) -> Result<(), StoreError> {
    for standing in dispatcher.lanes.to_disable() {
        let (endpoint, told) = (standing.endpoint.clone(), told(&standing));
        if dispatcher.store.disable_endpoint(standing, told).await? {
            tracing::warn!(%endpoint, "an endpoint is disabled");
        }
        dispatcher.lanes.is_disabled(&endpoint);
    }
    let changed = dispatcher.lanes.changed_standings();
    if changed.is_empty() {
        return Ok(());
    }
    let kept = dispatcher.store.keep_standings(changed.clone()).await;
    if kept.is_err() {
        dispatcher.lanes.unkept(&changed);
    }
    kept
}

/// The notice that an endpoint is disabled.
fn told(standing: &Standing) -> Event {
    let Standing { endpoint, tenant, failing_since, disabled, at, .. } = standing;
    Event {
        id: Uuid::now_v7().to_string(),
        at: *at,
        r#type: ENDPOINT_DISABLED.to_owned(),
        tenant: Some(tenant.clone()),
        subject: format!("/v1/endpoints/{endpoint}"),
        data: json!({
            "endpoint": endpoint,
            "reason": disabled.as_ref().map(|disabled| disabled.reason),
            "failing_since": failing_since,
        }),
    }
}
