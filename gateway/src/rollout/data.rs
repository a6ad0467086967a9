//! The data that operators keep for packs: read from the store, followed, handed out one state at a time.
//!
//! Invariant: what is in use was read before the revision that uses it came into force, unless the store is away; then packs
//! decide without data until it is back. While the store is away, the last state stays.

use super::Packs;
use crate::follow::LOOK_PAUSE;
use crate::gateway::Gateway;
use arc_swap::ArcSwap;
use model::id::PackId;
use model::port::StoreError;
use pack_host::PackData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::Store;

/// How long a revision waits for the data of its packs.
const PATIENCE: Duration = Duration::from_secs(2);
/// The version of what was never read; the store counts from 0.
const UNREAD: u64 = u64::MAX;

/// The data of one pack, as it changes.
pub struct DataSource {
    pack: PackId,
    version: AtomicU64,
    data: ArcSwap<PackData>,
}

impl DataSource {
    pub(super) fn new(pack: PackId) -> Self {
        Self { pack, version: AtomicU64::new(UNREAD), data: ArcSwap::default() }
    }

    /// The present state: to be taken once for each exchange.
    pub fn now(&self) -> Arc<PackData> {
        self.data.load_full()
    }

    fn is_read(&self) -> bool {
        self.version.load(Ordering::Acquire) != UNREAD
    }

    async fn read(&self, store: &Store) -> Result<(), StoreError> {
        let store::control::PackData { version, entries } = store.pack_data(&self.pack).await?;
        let data = entries.into_iter().map(|datum| (datum.key, datum.value)).collect();
        self.data.store(Arc::new(data));
        self.version.store(version, Ordering::Release);
        Ok(())
    }
}

impl Packs {
    /// Reads the data that a snapshot needs which was just compiled, as far as it is not there yet.
    pub(crate) async fn read_missing_data(&self, store: &Store) {
        let missing = |source: &Arc<DataSource>| !source.is_read();
        let missing: Vec<_> = self.data.in_use().into_iter().filter(missing).collect();
        let read = async {
            for source in &missing {
                source.read(store).await?;
            }
            Ok(())
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        if let Err(error) = read.unwrap_or(Err(StoreError::TimedOut(PATIENCE))) {
            tracing::warn!(%error, "packs that ask for data decide without it until the store answers");
        }
    }

    /// Reads what changed since it was read last.
    async fn read_changed_data(&self, store: &Store) -> Result<(), StoreError> {
        let sources = self.data.in_use();
        if sources.is_empty() {
            return Ok(());
        }
        let versions = store.pack_data_versions().await?;
        for source in sources {
            let version = versions.get(&source.pack).copied().unwrap_or_default();
            if source.version.load(Ordering::Acquire) != version {
                source.read(store).await?;
            }
        }
        Ok(())
    }
}

/// Keeps up with the data of packs in use, for as long as the process runs.
pub(super) async fn follow(gateway: &Gateway) {
    // A clone of its own remembers what this loop has noticed.
    let store = gateway.store.clone();
    let mut seen = None;
    let mut is_away = false;
    loop {
        match look(gateway, &store, seen).await {
            Ok(version) => {
                seen = Some(version);
                is_away = false;
                store.changed(LOOK_PAUSE).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    tracing::error!(%error, "the data of packs can't be read; the last state stays");
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }
}

/// Takes up what is new; yields the feed's version from before.
async fn look(gateway: &Gateway, store: &Store, seen: Option<u64>) -> Result<u64, StoreError> {
    let version = store.feed().await?;
    let unread = || gateway.packs.data.in_use().iter().any(|source| !source.is_read());
    if seen != Some(version) || unread() {
        gateway.packs.read_changed_data(store).await?;
    }
    Ok(version)
}
