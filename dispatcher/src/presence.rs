//! That this dispatcher lives, said in the store; and what those held that no longer say so.
//!
//! Invariant: a dispatcher that the store has not heard for [`HEARD`] claims nothing: after [`SILENT`] others take over what
//! it holds.

use crate::Dispatcher;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

/// Between two beats.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
/// How long it counts as heard.
const HEARD: Duration = Duration::from_secs(3);
/// After how long of silence what one held is given back.
pub(crate) const SILENT: Duration = Duration::from_secs(5);

/// When the store last heard this dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Option<Instant>>);

impl Presence {
    /// Whether others take it to live.
    pub(crate) fn is_heard(&self) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < HEARD)
    }

    fn heard(&self, asked: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }
}

/// Beats for as long as the process has anything in hand, and gives back what is lost.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    loop {
        let (asked, own) = (Instant::now(), dispatcher.time.own());
        match dispatcher.store.beat(&dispatcher.holder).await {
            Ok(beat) => {
                dispatcher.time.heard(beat.now, own);
                let was_heard = dispatcher.presence.is_heard();
                dispatcher.presence.heard(asked);
                dispatcher.lanes.live(beat.live.len());
                dispatcher.metrics.dispatchers.set(i64::try_from(beat.live.len()).unwrap_or(0));
                dispatcher.back();
                if !was_heard {
                    dispatcher.lanes.look.notify_one();
                }
                give_back(&dispatcher).await;
            }
            Err(error) => dispatcher.away(&error),
        }
        tokio::time::sleep_until(asked + BEAT_PAUSE).await;
    }
}

async fn give_back(dispatcher: &Dispatcher) {
    match dispatcher.store.give_back_lost(SILENT).await {
        Ok(0) => {}
        Ok(deliveries) => {
            dispatcher.metrics.lost.inc_by(deliveries);
            tracing::warn!(deliveries, "what a silent dispatcher held is due again");
            dispatcher.sweep.notify_one();
        }
        Err(error) => dispatcher.away(&error),
    }
}
