//! A door that a test opens: what waits at it is in progress for exactly as long as the test wants.

use std::sync::Arc;
use tokio::sync::watch;

/// Closed until it is opened, once.
#[derive(Clone, Debug)]
pub(crate) struct Latch(Arc<watch::Sender<bool>>);

impl Latch {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}
