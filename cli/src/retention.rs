//! What forgets webhooks: events that are too old, with their deliveries, and what is kept of endpoints, sources and tenants
//! that are gone. Every process with the role admin or dispatcher does it: there is nothing to agree about.

use crate::parts::Parts;
use model::config;
use model::port::StoreError;
use model::units;
use model::webhook::DeliveryState;
use std::time::Duration;
use store::webhooks::{Expired, Known};

/// Between two looks for events that are too old to be kept.
const PAUSE: Duration = Duration::from_secs(3_600);

/// Keeps events as long as the settings say, for as long as it is polled.
pub(crate) async fn forget_events(parts: Parts, retention: units::Duration) {
    loop {
        match parts.store.purge_webhooks(retention.0).await {
            Ok(purged) => purged.expired.iter().for_each(|expired| count(&parts, expired)),
            Err(error) => tracing::warn!(%error, "events that are too old could not be deleted"),
        }
        if let Err(error) = forget_gone(&parts, retention).await {
            tracing::warn!(%error, "what is kept of endpoints that are gone could not be deleted");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Counts what went undelivered. Its tenant is told by then.
fn count(parts: &Parts, expired: &Expired) {
    let Expired { tenant, endpoint, pending, parked, dead, .. } = expired;
    tracing::warn!(
        %tenant, %endpoint, pending, parked, dead,
        "deliveries went by age that were neither delivered nor given up"
    );
    for (state, deliveries) in [
        (DeliveryState::Pending, *pending),
        (DeliveryState::Parked, *parked),
        (DeliveryState::Dead, *dead),
    ] {
        if deliveries > 0 {
            parts.gateway.metrics.expired(tenant, state, deliveries);
        }
    }
}

/// Forgets what the newest document that is everybody's does not name, and warns of schedules in it that outlast the events.
/// One that this release can't read says nothing of what is gone.
async fn forget_gone(parts: &Parts, retention: units::Duration) -> Result<(), StoreError> {
    let Some(newest) = parts.revisions().newest().await? else { return Ok(()) };
    if newest.nodes.is_some() {
        return Ok(());
    }
    let read = tokio::task::spawn_blocking(move || config::read(&newest.text)).await;
    let Ok(Ok(config)) = read else { return Ok(()) };
    for error in config.schedules_beyond(retention) {
        tracing::warn!(%error, "deliveries to an endpoint may go before they were tried for the last time");
    }
    let document = config.document();
    let known = Known {
        endpoints: document.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect(),
        sources: document.sources.iter().map(|source| source.id.clone()).collect(),
    };
    let rows = parts.store.forget_gone(known, retention.0).await?;
    if rows > 0 {
        tracing::debug!(
            rows,
            "what is kept of endpoints, sources and tenants that are gone is deleted"
        );
    }
    Ok(())
}
