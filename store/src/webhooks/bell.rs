//! Wake-ups: whoever works on webhooks is told that there may be something to do. A hint is lost without harm: everyone looks
//! again after a pause.
//!
//! In PostgreSQL other processes are told as well, outside of the transactions that have something to tell, and at most once
//! in [`TELL_PAUSE`]: the server makes those who notify commit one by one.

use crate::Store;
use crate::db::Db;
use crate::feed::Hints;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Where PostgreSQL tells of it.
pub(crate) const CHANNEL: &str = "tollgate_webhooks";
/// How often a process tells others at most.
pub(crate) const TELL_PAUSE: Duration = Duration::from_millis(50);

/// What wakes those who wait in this process, and has others told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell {
    pub(crate) hints: Hints,
    /// One more hint that other processes were not told of.
    pub(crate) untold: Arc<Notify>,
    /// Where the sweep of order goes on.
    swept: Arc<Mutex<Option<(String, String)>>>,
}

impl Bell {
    pub(super) fn swept(&self) -> Option<(String, String)> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn sweep_from(&self, from: Option<(String, String)>) {
        *self.swept.lock().unwrap_or_else(PoisonError::into_inner) = from;
    }
}

impl Store {
    /// Waits until there may be something to do with webhooks: told so by this process or by another one on PostgreSQL, at
    /// most for `pause`. To be called before looking: what comes while one looks ends the next wait at once. Whoever waits
    /// has a clone of the store of its own.
    pub async fn webhooks_changed(&self, pause: Duration) {
        self.bell.hints.wait(pause).await;
    }

    /// Tells everyone to look.
    pub(crate) fn tell_webhooks(&self) {
        self.bell.hints.give();
        if let Db::Postgres(_) = self.db {
            self.bell.untold.notify_one();
        }
    }
}
