//! What every node has with the store, wherever its document is: what is revoked, and what it says of itself.
//!
//! Invariant: what is revoked is known here a second later at the latest, and stays known while the store is away, also
//! over a start: it is kept in a file.

use super::last_good::LastGood;
use super::{LOOK_PAUSE, START_PATIENCE};
use crate::gateway::{Gateway, Standing};
use crate::publish::Candidate;
use model::node::NodeReport;
use model::port::StoreError;
use model::revocation::Revocation;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::time::Instant;

/// How long a node says nothing of itself when nothing changes.
const REPORT_PAUSE: Duration = Duration::from_secs(5);
/// After how long revocations are read again though none was made: some need not be remembered any more.
const FORGET_PAUSE: Duration = Duration::from_secs(60);

/// What keeps up with the store beside the document.
pub struct Heed {
    gateway: Arc<Gateway>,
    file: LastGood,
    /// The digest of what the file holds.
    kept: Mutex<String>,
}

impl Heed {
    /// Nothing is known yet. What is revoked is kept in this file.
    pub fn new(gateway: Arc<Gateway>, revoked: PathBuf) -> Arc<Self> {
        Arc::new(Self { gateway, file: LastGood::new(revoked), kept: Mutex::default() })
    }

    /// Takes up what is revoked. To be awaited once before requests are served, so that nothing revoked is let in at the
    /// start. Where the store does not answer within 5 s: what was revoked when it last did.
    pub async fn start(&self) {
        let Err(error) = self.load().await else { return };
        match self.take_kept().await {
            Some(revocations) => tracing::error!(
                %error,
                revocations,
                "the store can't say what is revoked; what was known before is refused"
            ),
            None => tracing::error!(%error, "revocations are not known yet"),
        }
    }

    /// Keeps up with revocations and reports this node, for as long as the process runs. `roles`: what the process is.
    pub async fn run(self: Arc<Self>, roles: Vec<String>) {
        tokio::join!(self.follow(), report(&self.gateway, roles));
    }

    async fn follow(&self) {
        // A clone of its own remembers what this loop has noticed.
        let store = self.gateway.store.clone();
        let mut seen = None;
        let mut loaded = Instant::now();
        let mut is_away = false;
        loop {
            if loaded.elapsed() >= FORGET_PAUSE {
                seen = None;
            }
            match self.look(&store, seen).await {
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
    async fn look(&self, store: &Store, seen: Option<u64>) -> Result<u64, StoreError> {
        let version = store.feed().await?;
        if seen != Some(version) {
            self.load().await?;
        }
        Ok(version)
    }

    /// Reads what is revoked out of the store, and keeps it.
    async fn load(&self) -> Result<(), StoreError> {
        let now = self.gateway.clock.now();
        let read = tokio::time::timeout(START_PATIENCE, self.gateway.store.revocations(now)).await;
        let revocations = read.unwrap_or(Err(StoreError::TimedOut(START_PATIENCE)))?;
        let text = serde_json::to_string(&revocations);
        self.gateway.memory.revocations.replace(revocations, now);
        let text = text.map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let fresh = Candidate::new(0, text.into());
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept() != fresh.digest {
            kept().clone_from(&fresh.digest);
            self.file.keep(fresh).await;
        }
        Ok(())
    }

    /// Takes up what was kept; says how many revocations. None where there is no file, or it is refused.
    async fn take_kept(&self) -> Option<usize> {
        let kept = match self.file.read().await {
            Ok(kept) => kept?,
            Err(error) => {
                tracing::error!(%error, "the revocations that were kept are refused");
                return None;
            }
        };
        let revocations: Vec<Revocation> = serde_json::from_str(&kept.text).ok()?;
        let count = revocations.len();
        self.gateway.memory.revocations.replace(revocations, self.gateway.clock.now());
        Some(count)
    }
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
