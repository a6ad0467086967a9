//! That this dispatcher lives, said in the store; and what those held that no longer say so.
//!
//! Invariants: a dispatcher that the store has not heard for [`HEARD`] claims nothing: after [`SILENT`] others take over what
//! it holds. Silence counts only for one that was itself heard all the while: after an outage of the store nobody has been
//! heard, and everybody beats before anybody is taken for silent.

use crate::Dispatcher;
use model::port::StoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two beats.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
/// How long it counts as heard. A beat that takes longer is none, and what is given back after one is so within this: what
/// hangs for as long as the store is away would be done before others could beat.
const HEARD: Duration = Duration::from_secs(3);
/// After how long of silence what one held is given back.
pub(crate) const SILENT: Duration = Duration::from_secs(5);

/// When the store last heard this dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    last: Option<Instant>,
    /// The first of the beats since which none is missing.
    since: Option<Instant>,
}

impl Presence {
    /// Whether others take it to live.
    pub(crate) fn is_heard(&self) -> bool {
        self.beats().last.is_some_and(|last| last.elapsed() < HEARD)
    }

    /// It beat then.
    fn beat(&self, at: Instant) {
        let mut beats = self.beats();
        let follows = beats.last.is_some_and(|last| at.saturating_duration_since(last) < HEARD);
        if !follows || beats.since.is_none() {
            beats.since = Some(at);
        }
        beats.last = Some(at);
    }

    /// A beat is missing.
    fn missed(&self) {
        self.beats().since = None;
    }

    /// Whether it was heard for longer than the silence, so that who was silent then was so for reasons of its own.
    fn knows_silence(&self, now: Instant) -> bool {
        let since = self.beats().since;
        since.is_some_and(|since| now.saturating_duration_since(since) > SILENT)
    }

    fn beats(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beats for as long as the process has anything in hand, and gives back what is lost.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    loop {
        let (asked, own) = (Instant::now(), dispatcher.time.own());
        let deadline = asked + HEARD;
        let beat = dispatcher.store.beat(&dispatcher.holder);
        match tokio::time::timeout_at(deadline, beat).await {
            Ok(Ok(beat)) => {
                dispatcher.time.heard(beat.now, own);
                let was_heard = dispatcher.presence.is_heard();
                dispatcher.presence.beat(asked);
                dispatcher.lanes.live(beat.live.len());
                dispatcher.metrics.dispatchers.set(i64::try_from(beat.live.len()).unwrap_or(0));
                dispatcher.back();
                if !was_heard {
                    dispatcher.lanes.look.notify_one();
                }
                if dispatcher.presence.knows_silence(asked) {
                    // What is left then is given back after the next beat.
                    tokio::time::timeout_at(deadline, give_back(&dispatcher)).await.ok();
                }
            }
            Ok(Err(error)) => {
                dispatcher.presence.missed();
                dispatcher.away(&error);
            }
            Err(_) => {
                dispatcher.presence.missed();
                dispatcher.away(&StoreError::TimedOut(HEARD));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_known_to_one_that_was_heard_all_the_while() {
        // In milliseconds; a miss is told by its sign.
        for (beats, asked, expected) in [
            (&[][..], 60_000, false),
            (&[0], 5_000, false),
            (&[0, 1_000, 2_000, 3_000, 4_000, 5_000], 5_000, false),
            (&[0, 1_000, 2_000, 3_000, 4_000, 5_001], 5_001, true),
            (&[0, 2_900, 5_800], 5_800, true),
            // The store was away, or this process stood still.
            (&[0, 1_000, 2_000, 10_000], 10_000, false),
            (&[0, 1_000, 2_000, 10_000, 12_000, 14_000, 15_000], 15_000, false),
            (&[0, 1_000, 2_000, 10_000, 12_000, 14_000, 15_001], 15_001, true),
            // So it was, for a shorter time.
            (&[0, 1_000, -2_000, 3_000, 5_000, 7_000, 8_000], 8_000, false),
            (&[0, 1_000, -2_000, 3_000, 5_000, 7_000, 8_001], 8_001, true),
        ] {
            let (start, presence) = (Instant::now(), Presence::default());
            for beat in beats {
                match u64::try_from(*beat) {
                    Ok(at) => presence.beat(start + Duration::from_millis(at)),
                    Err(_) => presence.missed(),
                }
            }
            let asked = start + Duration::from_millis(asked);
            assert_eq!(presence.knows_silence(asked), expected, "{beats:?}");
        }
    }
}
