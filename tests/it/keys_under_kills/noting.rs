//! What notes each arrival on disk before it answers, and holds what it is told to hold until a door opens.

use super::order::{HELD, ORDER};
use crate::harness::journal::Journal;
use crate::harness::{Latch, Reply, Upstream, eventually};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// An upstream and its notes.
pub(super) struct Noting {
    pub(super) upstream: Upstream,
    journal: Arc<Journal>,
    door: Arc<Mutex<Latch>>,
    _folder: TempDir,
}

/// An arrival, as it was noted.
pub(super) struct Noted {
    pub(super) order: String,
    pub(super) derived_key: String,
    pub(super) body: String,
}

impl Noting {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::at(&folder.path().join("arrivals")));
        let door = Arc::new(Mutex::new(Latch::closed()));
        let (noting, doors) = (journal.clone(), door.clone());
        let upstream = Upstream::scripted(move |arrival| {
            let order = arrival.header(ORDER);
            let body = if arrival.whole { &*arrival.body_sha256 } else { "cut" };
            noting.write(&format!("{order} {} {body}", arrival.header("idempotency-key")));
            let reply = Reply::of(201)
                .header("location", &format!("/v1/contacts/{}", arrival.number))
                .json(&json!({ "order": order, "arrival": arrival.number }));
            match arrival.header(HELD) {
                "yes" => reply.held_by(&doors.lock().unwrap()),
                _ => reply,
            }
        })
        .await;
        Self { upstream, journal, door, _folder: folder }
    }

    /// From now on it holds by this door.
    pub(super) fn holds_by(&self, door: &Latch) {
        *self.door.lock().unwrap() = door.clone();
    }

    pub(super) fn noted(&self) -> Vec<Noted> {
        let read = |line: String| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap();
            Noted { order: word(), derived_key: word(), body: word() }
        };
        self.journal.lines().into_iter().map(read).collect()
    }

    /// Waits until all of these have arrived.
    pub(super) async fn has(&self, orders: &BTreeSet<String>) {
        eventually("what is to be held has arrived", async || {
            let noted: BTreeSet<String> =
                self.noted().into_iter().map(|noted| noted.order).collect();
            if orders.is_subset(&noted) { Ok(()) } else { Err(orders - &noted) }
        })
        .await;
    }
}
