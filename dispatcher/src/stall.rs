//! Whether fan-out stands still: the same event is the next one for too long. A long queue that moves is none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long one event may be the next one. Fan-out takes hundreds of them, or one that is wide, in a second or two.
const NEXT_MAX: Duration = Duration::from_secs(30);

/// The event that fan-out takes next, and since when it is.
#[derive(Debug, Default)]
pub(crate) struct Stall(Mutex<Option<(u64, Instant)>>);

impl Stall {
    /// This event was the next one then; none where all are fanned out, or where nobody knows.
    pub(crate) fn saw(&self, next: Option<u64>, at: Instant) {
        let mut seen = self.next();
        let since = seen.filter(|(number, _)| Some(*number) == next).map_or(at, |(_, since)| since);
        *seen = next.map(|number| (number, since));
    }

    /// For how long fan-out has stood still, where that is too long.
    pub(crate) fn lasts(&self, now: Instant) -> Option<Duration> {
        let (_, since) = (*self.next())?;
        Some(now.saturating_duration_since(since)).filter(|lasts| *lasts >= NEXT_MAX)
    }

    fn next(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fan_out_stands_still_where_one_event_is_the_next_for_too_long() {
        // Seconds, and the next event then.
        for (seen, now, expected) in [
            (&[][..], 90, None),
            (&[(0, Some(7)), (20, Some(7))], 29, None),
            (&[(0, Some(7)), (20, Some(7))], 30, Some(30)),
            (&[(0, Some(7)), (20, Some(8))], 49, None),
            (&[(0, Some(7)), (20, Some(8))], 50, Some(30)),
            (&[(0, Some(7)), (20, None)], 90, None),
            (&[(0, Some(7)), (20, None), (25, Some(7))], 54, None),
        ] {
            let (start, stall) = (Instant::now(), Stall::default());
            for (at, next) in seen {
                stall.saw(*next, start + Duration::from_secs(*at));
            }
            let lasts = stall.lasts(start + Duration::from_secs(now));
            assert_eq!(lasts, expected.map(Duration::from_secs), "{seen:?}");
        }
    }
}
