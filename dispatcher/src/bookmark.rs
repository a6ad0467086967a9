//! How far something was read, by all dispatchers together: kept in the store under a name.
//!
//! Invariant: one dispatcher reads at a time. Whoever was silent for [`SPAN`] is followed by another one, and what it keeps
//! afterwards changes nothing.

use model::port::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;
use store::Store;
use tokio::time::{MissedTickBehavior, interval_at};

/// For how long it is held without another sign.
const SPAN: Duration = Duration::from_secs(15);

/// How far something was read, held by this dispatcher.
pub(crate) struct Bookmark {
    store: Store,
    name: String,
    fence: u64,
    state: String,
}

/// Why a dispatcher may not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Another dispatcher reads by now.
    #[error("another dispatcher took over")]
    Stale,
    /// The store can't say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Bookmark {
    /// How far it was read, whoever reads; as if nothing was where that can't be understood.
    pub(crate) async fn look<T: DeserializeOwned + Default>(
        store: &Store,
        name: &str,
    ) -> Result<T, StoreError> {
        Ok(read(&store.reader_state(name).await?.unwrap_or_default()))
    }

    /// Takes it, unless another dispatcher has it.
    pub(crate) async fn take(
        store: &Store,
        name: &str,
        holder: &str,
    ) -> Result<Option<Self>, StoreError> {
        let held = store.hold_reader(name, holder, SPAN).await?;
        Ok(held.map(|held| Self {
            store: store.clone(),
            name: name.to_owned(),
            fence: held.fence,
            state: held.state,
        }))
    }

    /// How far it was read when it was taken.
    pub(crate) fn state<T: DeserializeOwned + Default>(&self) -> T {
        read(&self.state)
    }

    /// Keeps how far it is read by now, and goes on.
    pub(crate) async fn keep(&mut self, state: &impl Serialize) -> Result<(), Lost> {
        self.put(SPAN, Some(written(state))).await
    }

    /// Keeps how far it is read, and gives it back.
    pub(crate) async fn give_back(mut self, state: &impl Serialize) -> Result<(), Lost> {
        self.put(Duration::ZERO, Some(written(state))).await
    }

    /// Holds it while something takes its time.
    pub(crate) async fn while_waiting<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Lost> {
        let mut work = std::pin::pin!(work);
        let mut renewals = interval_at(tokio::time::Instant::now() + SPAN / 3, SPAN / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = renewals.tick() => self.put(SPAN, None).await?,
            }
        }
    }

    async fn put(&mut self, span: Duration, state: Option<String>) -> Result<(), Lost> {
        match self.store.keep_reader(&self.name, self.fence, span, state).await? {
            true => Ok(()),
            false => Err(Lost::Stale),
        }
    }
}

fn read<T: DeserializeOwned + Default>(state: &str) -> T {
    serde_json::from_str(state).unwrap_or_default()
}

fn written(state: &impl Serialize) -> String {
    serde_json::to_string(state).expect("what is read of others is text and numbers")
}
