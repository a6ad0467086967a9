//! How followers learn at once that the feed may have grown: hints, each of which means "look".
//!
//! Invariant: no write is missed between looking and waiting. A clone remembers which hint was the newest before it last
//! looked, so that one that came since ends the wait at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Where hints are given and waited for. Clones share them; what each has noticed is its own.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    newest: Arc<watch::Sender<u64>>,
    noticed: AtomicU64,
}

impl Clone for Hints {
    fn clone(&self) -> Self {
        let noticed = self.noticed.load(Ordering::Relaxed);
        Self { newest: Arc::clone(&self.newest), noticed: AtomicU64::new(noticed) }
    }
}

impl Hints {
    /// Tells everyone to look.
    pub(crate) fn give(&self) {
        self.newest.send_modify(|newest| *newest += 1);
    }

    /// To be called before looking: what was hinted until now needs no other look.
    pub(crate) fn notice(&self) {
        self.noticed.store(*self.newest.borrow(), Ordering::Relaxed);
    }

    /// Waits for a hint that was not noticed, at most for so long.
    pub(crate) async fn wait(&self, pause: Duration) {
        let noticed = self.noticed.load(Ordering::Relaxed);
        let mut newest = self.newest.subscribe();
        // Nobody else can end the channel: the pause is the only other outcome.
        let told = tokio::time::timeout(pause, newest.wait_for(|newest| *newest != noticed)).await;
        if let Ok(Ok(newest)) = told {
            self.noticed.store(*newest, Ordering::Relaxed);
        }
    }
}
