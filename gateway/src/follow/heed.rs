//! What every node has with the store, wherever its document is: what is revoked, and what it says of itself.
//!
//! Invariant: what is revoked is known here a second later at the latest, and stays known while the store is away.

use super::{LOOK_PAUSE, START_PATIENCE};
use crate::gateway::{Gateway, Standing};
use model::node::NodeReport;
use model::port::StoreError;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::time::Instant;

/// How long a node says nothing of itself when nothing changes.
const REPORT_PAUSE: Duration = Duration::from_secs(5);
/// After how long revocations are read again though none was made: some need not be remembered any more.
const FORGET_PAUSE: Duration = Duration::from_secs(60);

/// Keeps up with revocations and reports this node, for as long as the process runs. `roles`: what the process is.
pub async fn heed_store(gateway: Arc<Gateway>, roles: Vec<String>) {
    tokio::join!(heed_revocations(&gateway), report(&gateway, roles));
}

/// Reads what is revoked. To be awaited once before requests are served, so that nothing revoked is let in at the start;
/// waits 5 s at most.
pub async fn load_revocations(gateway: &Gateway) -> Result<(), StoreError> {
    let now = gateway.clock.now();
    let revocations = tokio::time::timeout(START_PATIENCE, gateway.store.revocations(now)).await;
    let revocations = revocations.unwrap_or(Err(StoreError::TimedOut(START_PATIENCE)))?;
    gateway.memory.revocations.replace(revocations, now);
    Ok(())
}

async fn heed_revocations(gateway: &Gateway) {
    // A clone of its own remembers what this loop has noticed.
    let store = gateway.store.clone();
    let mut seen = None;
    let mut loaded = Instant::now();
    let mut is_away = false;
    loop {
        if loaded.elapsed() >= FORGET_PAUSE {
            seen = None;
        }
        match reload(gateway, &store, seen).await {
            Ok(version) => {
                if seen.replace(version) != Some(version) {
                    loaded = Instant::now();
                }
                is_away = false;
                store.changed(LOOK_PAUSE).await;
            }
            Err(error) => {
                if !is_away {
                    tracing::error!(%error, "revocations can't be read; those that are known stay");
                }
                is_away = true;
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }
}

/// Reads what is revoked if the feed has another version; yields the version from before.
async fn reload(gateway: &Gateway, store: &Store, seen: Option<u64>) -> Result<u64, StoreError> {
    let version = store.feed().await?;
    if seen != Some(version) {
        load_revocations(gateway).await?;
    }
    Ok(version)
}

async fn report(gateway: &Gateway, roles: Vec<String>) {
    let mut standing = gateway.standing();
    loop {
        let Standing { revision, rejected } = standing.borrow_and_update().clone();
        let report = NodeReport {
            name: gateway.node.clone(),
            roles: roles.clone(),
            build: gateway.version.to_owned(),
            revision,
            rejected,
            started_at: gateway.started_at,
            seen_at: gateway.clock.now(),
        };
        if let Err(error) = gateway.store.report_node(&report).await {
            // Whoever looks at the nodes sees that this one is silent; the follower says that the store is away.
            tracing::debug!(%error, "the node could not report itself");
        }
        // It is the gateway's own channel, so it is open; a change or the pause, either way it is time.
        tokio::time::timeout(REPORT_PAUSE, standing.changed()).await.ok();
    }
}
