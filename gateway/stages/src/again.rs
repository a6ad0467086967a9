//! What a store did not take is tried again in the background, until it does.
//!
//! Invariant: how much is tried at a time, and for how long, is bounded. Only what does no harm when it is done twice is
//! tried again.

use model::port::StoreError;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

/// How long to wait before trying again: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Work of one kind that is tried again.
#[derive(Debug)]
pub struct Again {
    places: Arc<Semaphore>,
    at_a_time: u32,
    tried_for: Duration,
    runtime: Handle,
}

/// A place among what is tried again.
#[derive(Debug)]
pub struct Place {
    until: Instant,
    _held: OwnedSemaphorePermit,
}

impl Again {
    /// So much is tried at a time, each for so long, on this runtime.
    pub fn new(at_a_time: usize, tried_for: Duration, runtime: &Handle) -> Self {
        let places = Arc::new(Semaphore::new(at_a_time));
        let at_a_time = u32::try_from(at_a_time).unwrap_or(u32::MAX);
        Self { places, at_a_time, tried_for, runtime: runtime.clone() }
    }

    /// Begins this in the background. Whether there was room.
    pub fn begin<W>(&self, work: impl FnOnce(Place) -> W) -> bool
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let Ok(held) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        self.runtime.spawn(work(Place { until: Instant::now() + self.tried_for, _held: held }));
        true
    }
}

impl Again {
    /// Waits until nothing is tried any more, at most for so long. Says how much is left.
    pub async fn drained(&self, within: Duration) -> usize {
        let all = self.places.acquire_many(self.at_a_time);
        // What is left then is told by how many places are taken.
        timeout_at(Instant::now() + within, all).await.map(drop).unwrap_or_default();
        let at_a_time = usize::try_from(self.at_a_time).unwrap_or(usize::MAX);
        at_a_time.saturating_sub(self.places.available_permits())
    }
}

impl Place {
    /// Tries this until it is done, or the time is over; says then why it was not done the last time.
    pub async fn until_done<T, O>(&self, mut once: impl FnMut() -> O) -> Result<T, StoreError>
    where
        O: Future<Output = Result<T, StoreError>>,
    {
        let mut wait = WAIT_MIN;
        let mut last = StoreError::Unavailable("it does not answer".to_owned());
        loop {
            match timeout_at(self.until, once()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if self.until <= Instant::now() + wait => return Err(error),
                Ok(Err(error)) => last = error,
                Err(_) => return Err(last),
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn away() -> StoreError {
        StoreError::Unavailable("away".to_owned())
    }

    /// Tries what succeeds the time of this number; what came of it, and how often it was tried.
    async fn tried(tried_for: Duration, succeeds_at: usize) -> (Result<(), StoreError>, usize) {
        let again = Again::new(1, tried_for, &Handle::current());
        let (told, ended) = oneshot::channel();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let began = again.begin(async move |place: Place| {
            let once = || {
                let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
                std::future::ready(if number < succeeds_at { Err(away()) } else { Ok(()) })
            };
            told.send(place.until_done(once).await).unwrap();
        });
        assert!(began);
        (ended.await.unwrap(), count.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_fails_is_tried_until_it_is_done_or_its_time_is_over() {
        let (told, count) = tried(Duration::from_secs(300), 5).await;
        assert!(told.is_ok() && count == 5, "{told:?} {count}");
        // After 20, 60, 140, 300 milliseconds, or later on a busy machine.
        let (told, count) = tried(Duration::from_millis(500), usize::MAX).await;
        assert!(matches!(told, Err(StoreError::Unavailable(_))) && count <= 5, "{told:?} {count}");
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_frees_its_place() {
        let again = Again::new(2, Duration::from_millis(50), &Handle::current());
        let hangs = async |place: Place| {
            place.until_done(std::future::pending::<Result<(), _>>).await.unwrap_err();
        };
        assert_eq!([(); 3].map(|()| again.begin(hangs)), [true, true, false]);
        let _there_is_room = again.places.acquire_many(2).await.unwrap();
    }
}
