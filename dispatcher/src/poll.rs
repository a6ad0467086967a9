//! Sources that send no webhooks: they are asked for what is new, by one dispatcher at a time.
//!
//! Invariant: how far a source was read is kept only after what was read is on the disk; what is read twice is accepted
//! once. What can't be accepted is told (`tollgate.source.skipped`) and passed over, so that one entry never stops a source.

mod cursor;
#[cfg(test)]
mod tests;
mod turn;

use crate::Dispatcher;
use crate::bookmark::Bookmark;
use cursor::State;
use model::document::Source;
use model::id::SourceId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::webhooks::source_reader;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use turn::{Trouble, Turn};

/// How many sources are asked at once.
const ASKS_MAX: usize = 64;

/// How often it is looked which sources there are.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// After how long it is tried again to read a source that another dispatcher reads.
const TAKEN_TIME: Duration = Duration::from_secs(5);

/// How long a source is left alone at most that fails, and whatever it asks for.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// Asks the sources of the document in force until the dispatcher stops.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let turns = Arc::new(Semaphore::new(ASKS_MAX));
    let mut readers = HashMap::new();
    while !dispatcher.is_stopping() {
        follow(&dispatcher, &turns, &mut readers);
        dispatcher.pause(LOOK_TIME).await;
    }
}

/// A task that reads a source as it is described. It ends with this: what it was about is a repeat for whoever follows.
struct Reader {
    described: String,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts and ends readers, so that there is one for each source that is to be asked.
fn follow(
    dispatcher: &Arc<Dispatcher>,
    turns: &Arc<Semaphore>,
    readers: &mut HashMap<SourceId, Reader>,
) {
    let Some(book) = dispatcher.book() else { return };
    let polled = book.config.document().sources.iter().filter(|source| source.poll.is_some());
    let polled: HashMap<_, _> = polled.map(|source| (&source.id, source)).collect();
    readers.retain(|id, reader| {
        let described = polled.get(id).and_then(|source| serde_json::to_string(source).ok());
        described.as_ref() == Some(&reader.described) && !reader.task.is_finished()
    });
    for (id, source) in polled {
        if readers.contains_key(id) {
            continue;
        }
        let Ok(described) = serde_json::to_string(source) else { continue };
        let reads = read(dispatcher.clone(), source.clone(), turns.clone());
        readers.insert(id.clone(), Reader { described, task: tokio::spawn(reads).abort_handle() });
    }
}

/// Asks a source each time that it is due.
async fn read(dispatcher: Arc<Dispatcher>, source: Source, turns: Arc<Semaphore>) {
    loop {
        let pause = match turn_if_due(&dispatcher, &source, &turns).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(source = %source.id, %error, "a source can't be read");
                TAKEN_TIME
            }
        };
        // Dispatchers that wait for the same source don't wake at once.
        tokio::time::sleep(pause + Duration::from_millis(rand::random_range(0..100))).await;
    }
}

/// Has a turn at a source if it is due and nobody else has one. Says after how long to look again.
async fn turn_if_due(
    dispatcher: &Arc<Dispatcher>,
    source: &Source,
    turns: &Semaphore,
) -> Result<Duration, Trouble> {
    let (store, clock) = (&dispatcher.store, &dispatcher.clock);
    let Some(poll) = &source.poll else { return Ok(TAKEN_TIME) };
    let name = source_reader(&source.id);
    let longest = poll.interval.0.max(BACKOFF_MAX);
    let seen = Bookmark::look::<State>(store, &name).await?.of(source);
    if let Some(left) = seen.due_in(clock.micros(), longest) {
        return Ok(left);
    }
    let _turn = turns.acquire().await.map_err(|_| Trouble::Stopped)?;
    let Some(mut bookmark) = Bookmark::take(store, &name, &dispatcher.holder).await? else {
        return Ok(TAKEN_TIME);
    };
    let mut state = bookmark.state::<State>().of(source);
    if let Some(left) = state.due_in(clock.micros(), longest) {
        bookmark.give_back(&state).await?;
        return Ok(left);
    }
    let began = clock.micros();
    let turn = Turn { dispatcher, source, poll };
    let pause = match turn.run(&mut bookmark, &mut state).await {
        Ok(pages) => {
            state.failures = 0;
            pages.pause(poll.interval.0, clock.micros() - began)
        }
        Err(Trouble::Lost(lost)) => return Err(Trouble::Lost(lost)),
        // What is kept by now takes nothing of the rate next time: it gets on.
        Err(trouble) if !trouble.is_fault() => {
            state.failures = 0;
            tracing::debug!(source = %source.id, error = %trouble, "a source is read on later");
            poll.interval.0.max(trouble.asked_to_wait().unwrap_or_default()).min(longest)
        }
        Err(trouble) => {
            state.failures = state.failures.saturating_add(1);
            if state.failures.is_power_of_two() {
                let failures = state.failures;
                tracing::warn!(source = %source.id, failures, error = %trouble, "a source can't be read");
            }
            backoff(poll.interval.0, state.failures, trouble.asked_to_wait())
        }
    };
    state.next_at = clock.micros().saturating_add(micros(pause));
    bookmark.give_back(&state).await?;
    Ok(pause)
}

/// How long a source that failed so often in a row is left alone: its interval, doubled each time, ±20 %, and no less than
/// it asks for; at most [`BACKOFF_MAX`], or its interval where that is longer.
fn backoff(interval: Duration, failures: u32, asked: Option<Duration>) -> Duration {
    let doubled = interval.saturating_mul(1 << failures.saturating_sub(1).min(12));
    let most = BACKOFF_MAX.max(interval);
    let spread = doubled.min(most).mul_f64(rand::random_range(0.8..1.2));
    spread.max(asked.unwrap_or_default()).min(most)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
