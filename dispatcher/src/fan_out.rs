//! Fan-out: events become deliveries, one for each endpoint that wants them. One dispatcher works at it at a time; the store
//! sees to that.
//!
//! Invariant: without a document no event is fanned out: it would go nowhere. Nor is any by another document than the newest
//! one that is everybody's: it would miss the endpoints that are new in it.

use crate::Dispatcher;
use model::port::StoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many events of all tenants one transaction takes, and of each that is aside.
const BATCH: u32 = 256;
/// Between two transactions at least, so that what comes meanwhile shares the next one.
const PACE: Duration = Duration::from_millis(4);
/// How long nobody looks when nobody tells of anything.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a document, and for a store that can't answer.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long the document may be too old until this process is no longer ready.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// Whether events wait for a newer document than this process has.
#[derive(Debug, Default)]
pub(crate) struct Behind(Mutex<Option<Old>>);

#[derive(Clone, Copy, Debug)]
struct Old {
    revision: u64,
    since: Instant,
}

impl Behind {
    /// Events or a replay wait, since there is a newer document than this revision. Told once.
    pub(crate) fn waits(&self, revision: Option<u64>, now: Instant) {
        let revision = revision.unwrap_or(0);
        let mut old = self.old();
        if old.is_none_or(|old| old.revision != revision) {
            let since = old.map_or(now, |old| old.since);
            *old = Some(Old { revision, since });
            tracing::warn!(
                revision,
                "events wait here: a newer document is not in force in this process yet"
            );
        }
    }

    /// Events are fanned out again.
    fn is_over(&self) {
        *self.old() = None;
    }

    /// The revision that has been too old for too long, where this one is still in force.
    pub(crate) fn lasts(&self, in_force: u64, now: Instant) -> Option<u64> {
        let old = self.old().filter(|old| now.duration_since(old.since) >= BEHIND_MAX)?;
        (old.revision == in_force).then_some(old.revision)
    }

    fn old(&self) -> MutexGuard<'_, Option<Old>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fans out until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    // A clone of its own remembers what this loop has noticed.
    let store = dispatcher.store.clone();
    while !dispatcher.is_stopping() {
        let Some(book) = dispatcher.books.fresh().await else {
            dispatcher.pause(PATIENCE).await;
            continue;
        };
        dispatcher.lanes.follow(&book, dispatcher.time.micros());
        match step(&dispatcher).await {
            Ok(Found::More) => {}
            Ok(Found::Behind) => dispatcher.pause(PATIENCE).await,
            Ok(found) => {
                if found == Found::Nothing {
                    // Somebody told of something else: others fanned out, or an operator took something up again.
                    dispatcher.sweep.notify_one();
                }
                tokio::select! {
                    () = store.webhooks_changed(LOOK_PAUSE) => {}
                    _ = dispatcher.stopped() => {}
                }
                dispatcher.pause(PACE).await;
            }
            Err(error) => {
                dispatcher.away(&error);
                dispatcher.pause(PATIENCE).await;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Some,
    More,
    /// The document here is too old.
    Behind,
}

async fn step(dispatcher: &Dispatcher) -> Result<Found, StoreError> {
    let Some((plan, revision)) = dispatcher.plan() else { return Ok(Found::Nothing) };
    let fanned_out = dispatcher.store.fan_out(plan, revision, BATCH).await?;
    dispatcher.back();
    if fanned_out.outdated {
        dispatcher.behind.waits(revision, Instant::now());
        return Ok(Found::Behind);
    }
    if fanned_out.events > 0 {
        dispatcher.behind.is_over();
    }
    dispatcher.metrics.events.inc_by(fanned_out.events.into());
    let now = dispatcher.time.micros();
    let lanes = fanned_out.lanes.into_iter().map(|(tenant, endpoint)| (tenant, endpoint, now));
    dispatcher.lanes.due(lanes, now);
    Ok(match fanned_out.events {
        _ if fanned_out.more => Found::More,
        0 => Found::Nothing,
        _ => Found::Some,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_stays_too_old_is_told_until_another_one_is_in_force() {
        let (behind, start) = (Behind::default(), Instant::now());
        behind.waits(Some(3), start);
        assert_eq!(behind.lasts(3, start), None, "the next one may be on its way");
        let later = start + BEHIND_MAX;
        behind.waits(Some(3), later);
        assert_eq!((behind.lasts(3, later), behind.lasts(4, later)), (Some(3), None));
        // One that is too old as well does not begin anew.
        behind.waits(Some(4), later);
        assert_eq!(behind.lasts(4, later), Some(4));
        behind.is_over();
        assert_eq!(behind.lasts(4, later), None);
    }
}
