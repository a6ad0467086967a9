//! The tasks of a dispatcher, each kept running.
//!
//! Invariant: a task that ends before it should, by a panic, is told, is started again, and shows in readiness until it has run
//! for [`WELL`]: what stands still does so in nobody's silence.

use crate::Dispatcher;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Until a task that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long a task must have run since until nobody is told any more.
const WELL: Duration = Duration::from_secs(10);

/// When tasks last ended before they should: at most one entry for each.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<BTreeMap<&'static str, Instant>>);

impl Tasks {
    /// Those that ended before they should, and have not run for long since.
    pub(crate) fn failing(&self) -> Vec<&'static str> {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, at| at.elapsed() < RESTART_PAUSE + WELL);
        ended.keys().copied().collect()
    }

    fn ended(&self, name: &'static str) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.insert(name, Instant::now());
    }
}

/// Runs a task until it ends as it should: when the dispatcher is to stop. What it has in hand goes with a panic.
pub(crate) async fn keep<F: Future<Output = ()> + Send + 'static>(
    dispatcher: Arc<Dispatcher>,
    name: &'static str,
    run: impl Fn(Arc<Dispatcher>) -> F,
) {
    loop {
        let mut task = JoinSet::new();
        task.spawn(run(dispatcher.clone()));
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => panicked(name, error),
            _ if dispatcher.is_stopping() => return,
            _ => tracing::error!(task = name, "a task of webhooks ended; it is started again"),
        }
        dispatcher.tasks.ended(name);
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Says why. The panic's own text has been written where all panics are.
fn panicked(name: &'static str, error: JoinError) {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<&str>().copied();
    let why = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(task = name, why, "a task of webhooks panicked; it is started again");
}
