//! How long a version of a pack is on its way: one of many attachments takes another version, tried and compiled before.
//!
//! Invariant: nothing else uses that version, so that it is had anew each time.

use super::{ATTACHMENTS, PACK, document, file};
use crate::chain::Place;
use crate::tenants::{gateway, timed};
use crate::{Outcome, say};
use gateway::Gateway;
use model::config::{self, ConfigError};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait of a thread for a revision.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One publication.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    round: u32,
    /// From the document's text to a checked configuration.
    pub(super) check_ms: f64,
    /// From that to a snapshot.
    pub(super) compile_ms: f64,
    /// From putting it in force until the last thread has it.
    pub(super) live_ms: f64,
}

impl Published {
    pub(super) fn total_ms(&self) -> f64 {
        self.check_ms + self.compile_ms + self.live_ms
    }
}

/// Goes to and fro between two versions, both tried and compiled by the first turns.
pub(super) async fn measure(place: &Place<'_>) -> Outcome<Vec<Published>> {
    let folder = place.folder.join("packs-published");
    std::fs::create_dir_all(&folder)?;
    file::lay(&folder.join("packs"))?;
    let gateway = gateway(&folder, "published", Some(place.programs)).await?;
    let first = document(ATTACHMENTS, ATTACHMENTS)?;
    let mut second = first.clone();
    attach_second(&mut second)?;
    let texts = [first, second].map(|document: Value| document.to_string());
    let threads = usize::try_from(place.settings.threads)?;
    let mut measured = Vec::new();
    for (number, text) in (1..).zip(texts.iter().cycle()).take(2 * rounds(place)? + 2) {
        let one = tokio::task::block_in_place(|| publish(&gateway, text, number, threads))?;
        if number > 2 {
            say(&format!("publication {:>2}  live after {:.1} ms", one.round, one.total_ms()));
            measured.push(one);
        }
    }
    Ok(measured)
}

fn attach_second(document: &mut Value) -> Outcome<()> {
    let pack = document.pointer_mut("/attachments/0/pack").ok_or("no attachment")?;
    *pack = json!(format!("{PACK}@{}", file::SECOND));
    Ok(())
}

fn rounds(place: &Place<'_>) -> Outcome<usize> {
    Ok(usize::try_from(place.settings.rounds)?)
}

fn publish(gateway: &Arc<Gateway>, text: &str, number: u64, threads: usize) -> Outcome<Published> {
    let failed = |errors: Vec<ConfigError>| format!("{errors:?}");
    let (config, check_ms) =
        timed(|| config::parse(text).and_then(|value| config::check(&value)).map_err(failed));
    let config = Arc::new(config?);
    let (compiled, compile_ms) = timed(|| gateway.compile(config));
    let compiled = compiled.map_err(failed)?;
    let began = Instant::now();
    let has_it = || {
        while began.elapsed() < WAIT_MAX {
            if gateway.live.pin().is_some_and(|snapshot| snapshot.revision == number) {
                return Some(began.elapsed());
            }
            thread::yield_now();
        }
        None
    };
    let last = thread::scope(|scope| {
        let waiting: Vec<_> = (0..threads).map(|_| scope.spawn(has_it)).collect();
        gateway.put_in_force(compiled, number);
        let seen = waiting.into_iter().map(|thread| thread.join().ok().flatten());
        seen.collect::<Option<Vec<_>>>().and_then(|seen| seen.into_iter().max())
    });
    let live_ms = last.ok_or("a thread never saw the revision")?.as_secs_f64() * 1e3;
    Ok(Published { round: u32::try_from(number)?, check_ms, compile_ms, live_ms })
}
