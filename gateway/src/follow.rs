//! Revisions in the store: published there, followed from there. Every gateway goes this way, the one whose admin published
//! included.
//!
//! Invariant: what is put in force is what the store says is this node's newest, asked in one's turn, so that no slower one
//! overwrites a newer one. A revision that can't be put in force changes nothing and is shown; a store that can't answer
//! stops nothing. The last good revision is kept in a file, for a start while the store is away.

mod change;
mod heed;
mod last_good;
#[cfg(test)]
mod tests;

pub use heed::Heed;

use crate::gateway::Gateway;
use crate::publish::{Candidate, Judged, Publisher, Turn};
use crate::report;
use last_good::LastGood;
use model::port::StoreError;
use model::revision::Published;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use store::Store;
use store::control::Revision;

/// How long a node goes without a look at the store's feed when nobody wakes it.
pub const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a start waits for an answer of the store before it goes on without.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Puts the newest revision of the store in force, and publishes there.
pub struct Follower {
    gateway: Arc<Gateway>,
    publisher: Publisher,
    last_good: LastGood,
    /// The newest revision that was read, wherever it is in force: a large text is fetched once.
    newest: RwLock<Option<Published>>,
    is_away: AtomicBool,
}

/// What a look at the store came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The newest revision of this node is in force.
    InForce,
    /// It can't be put in force.
    Rejected,
    /// There is no revision.
    Nothing,
}

impl Follower {
    /// Nothing is in force yet. The file is where the last good revision is kept.
    pub fn new(gateway: Arc<Gateway>, last_good: PathBuf) -> Arc<Self> {
        let publisher = Publisher::new(gateway.clone());
        Arc::new(Self::with(gateway, publisher, LastGood::new(last_good)))
    }

    fn with(gateway: Arc<Gateway>, publisher: Publisher, last_good: LastGood) -> Self {
        let is_away = AtomicBool::new(false);
        Self { gateway, publisher, last_good, newest: RwLock::default(), is_away }
    }

    /// Puts the newest revision in force; the last good one where that can't be done now. Never fails: where there is
    /// neither, the node is not ready, and [`run`](Self::run) goes on trying.
    pub async fn start(&self) {
        let turn = self.publisher.turn().await;
        let newest = tokio::time::timeout(START_PATIENCE, self.newest_here()).await;
        let seen = match newest.unwrap_or(Err(StoreError::TimedOut(START_PATIENCE))) {
            Ok(newest) => Some(self.take(&turn, newest, None).await),
            Err(error) => {
                self.away(&error);
                None
            }
        };
        match seen {
            Some(Seen::InForce) => {}
            // A deployment that moves to another database serves on until its document is there, too.
            Some(Seen::Nothing) if !self.last_good.is_there() => {
                tracing::info!("no revision is published yet");
            }
            Some(Seen::Nothing | Seen::Rejected) | None => self.take_last_good(&turn).await,
        }
    }

    /// Follows the store for as long as the process runs.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.follow_feed(), self.try_again());
    }

    async fn follow_feed(&self) {
        // A clone of its own remembers what this loop has noticed.
        let store = self.store().clone();
        let mut seen = None;
        loop {
            match self.look(&store, seen).await {
                Ok(version) => {
                    seen = Some(version);
                    self.back();
                    store.changed(LOOK_PAUSE).await;
                }
                Err(error) => {
                    self.away(&error);
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        }
    }

    /// Takes up what is new since the feed had this version. Yields its version from before the look, so that what comes
    /// meanwhile differs at the next one.
    async fn look(&self, store: &Store, seen: Option<u64>) -> Result<u64, StoreError> {
        let version = store.feed().await?;
        if seen != Some(version) {
            let turn = self.publisher.turn().await;
            let newest = self.newest_here().await?;
            self.take(&turn, newest, None).await;
        }
        Ok(version)
    }

    /// Tries a revision again whose packs were replaced, or that was rejected some time ago.
    async fn try_again(&self) {
        loop {
            self.publisher.worth_another_try().await;
            let turn = self.publisher.turn().await;
            let Some(candidate) = turn.watched() else { continue };
            let judged = turn.judge(candidate.text.clone()).await;
            let is_new = is_new(&turn, &candidate);
            if turn.take_again(candidate.clone(), judged).is_some() && is_new {
                self.last_good.keep(candidate).await;
            }
        }
    }

    /// Puts what the store gave as this node's newest, asked in this turn, in force; unless it is already, or was
    /// rejected before. `judged`: what may be that revision, judged already.
    async fn take(
        &self,
        turn: &Turn<'_>,
        newest: Option<Revision>,
        judged: Option<(Candidate, Judged)>,
    ) -> Seen {
        let in_force = turn.in_force();
        let Some(revision) = newest else {
            if let Some(known) = in_force {
                tracing::warn!(in_force = known.number, "the store has no revision any more");
            }
            return Seen::Nothing;
        };
        let candidate = Candidate::from(revision);
        if let Some(known) = in_force {
            if known.is(&candidate) {
                turn.stands();
                turn.is_for(candidate.nodes);
                return Seen::InForce;
            }
            if known.number >= candidate.number {
                let (in_force, newest) = (known.number, candidate.number);
                tracing::warn!(in_force, newest, "the store's revisions went back; it is followed");
            }
        }
        if turn.rejected().is_some_and(|known| known.is(&candidate)) {
            return Seen::Rejected;
        }
        let (candidate, judged) = match judged {
            // The text that is here already is kept, and not a second copy.
            Some((known, judged)) if known.is(&candidate) => {
                (Candidate { nodes: candidate.nodes, ..known }, judged)
            }
            _ => {
                let judged = turn.judge(candidate.text.clone()).await;
                (candidate, judged)
            }
        };
        self.put_in_force(turn, candidate, judged).await
    }

    async fn put_in_force(&self, turn: &Turn<'_>, candidate: Candidate, judged: Judged) -> Seen {
        if turn.take(candidate.clone(), judged).is_none() {
            return Seen::Rejected;
        }
        self.last_good.keep(candidate).await;
        Seen::InForce
    }

    async fn take_last_good(&self, turn: &Turn<'_>) {
        let candidate = match self.last_good.read().await {
            Ok(Some(candidate)) => candidate,
            Ok(None) => return tracing::error!("there is no last good revision to start with"),
            Err(error) => return tracing::error!(%error, "the last good revision is refused"),
        };
        if turn.rejected().is_some_and(|known| known.is(&candidate)) {
            return;
        }
        let number = candidate.number;
        let judged = turn.judge(candidate.text.clone()).await;
        match turn.fall_back(candidate, judged) {
            Ok(_) => tracing::warn!(revision = number, "started with the last good revision"),
            Err(errors) => {
                for error in &errors {
                    tracing::error!(revision = number, %error, "the last good revision is rejected");
                }
            }
        }
    }

    async fn newest_here(&self) -> Result<Option<Revision>, StoreError> {
        self.store().newest_for(&self.gateway.node).await
    }

    fn store(&self) -> &Store {
        &self.gateway.store
    }

    /// Shows that the store is away; says so once.
    fn away(&self, error: &StoreError) {
        self.gateway.metrics.degraded(report::Store::Revisions, true);
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the store can't answer; the revision in force stays");
        }
    }

    /// Shows that it is back; says so once.
    fn back(&self) {
        self.gateway.metrics.degraded(report::Store::Revisions, false);
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the store answers again");
        }
    }
}

fn is_new(turn: &Turn<'_>, candidate: &Candidate) -> bool {
    turn.in_force().is_none_or(|known| !known.is(candidate))
}

impl From<Revision> for Candidate {
    fn from(revision: Revision) -> Self {
        let Revision { info, text } = revision;
        Self { number: info.number, text, digest: info.digest, nodes: info.nodes }
    }
}
