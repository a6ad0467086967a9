//! The way of a document into force in this process: read, check, compile, swap. Whoever holds revisions goes this way.
//!
//! Invariant: only the [`Turn`], which one at a time has, puts documents in force or shows that they can't be. One that
//! can't be changes nothing and says why. Texts are judged off the async threads, a few at a time.

mod destinations;
mod turn;

pub(crate) use turn::Turn;

use crate::gateway::{Compiled, Gateway};
use model::config::{self, Config, ConfigError};
use model::id::NodeName;
use model::revision::Published;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};

/// Between two looks at the files of packs. A look is a handful of `stat`s.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After how long a rejected document is tried again: a secret or an address that it needs may be there by now.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Texts that are judged at a time, beside the one whose turn it is: each takes a processor, and memory of many times its
/// size. Whoever has the turn doesn't queue behind them.
const JUDGED_AT_ONCE: usize = 2;
/// How many hex digits of a text's digest make its ETag.
const ETAG_DIGITS: usize = 32;

/// What puts documents in force in this process.
pub(crate) struct Publisher {
    gateway: Arc<Gateway>,
    kept: RwLock<Kept>,
    turn: Mutex<()>,
    room: Semaphore,
    retry_pause: Duration,
}

/// A document that is to be put in force.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Its number.
    pub(crate) number: u64,
    /// The text as it was written.
    pub(crate) text: Arc<str>,
    /// `sha256:` and the hex SHA-256 of the text.
    pub(crate) digest: String,
    /// The nodes that it went to first; none when it is everybody's.
    pub(crate) nodes: Option<Vec<NodeName>>,
}

/// What became of a text: compiled, or every error.
pub(crate) struct Judged {
    watched: Option<Watched>,
    outcome: Result<Compiled, Vec<ConfigError>>,
}

/// A document whose packs are watched, and what their files looked like before they were read.
#[derive(Clone)]
struct Watched {
    config: Arc<Config>,
    packs: u64,
}

/// A document that was tried.
#[derive(Clone)]
struct Tried {
    candidate: Candidate,
    /// None when the text is no document.
    watched: Option<Watched>,
    at: Instant,
}

impl Tried {
    fn now(candidate: Candidate, watched: Option<Watched>) -> Self {
        Self { candidate, watched, at: Instant::now() }
    }
}

#[derive(Default)]
struct Kept {
    in_force: Option<Tried>,
    /// The one that was wanted last, unless that one is in force.
    rejected: Option<Tried>,
}

impl Kept {
    /// The one whose packs are watched: what was wanted last, even when it can't be put in force, so that a pack that was
    /// missing is noticed when it comes.
    fn watched(&self) -> Option<&Tried> {
        let rejected = self.rejected.as_ref().filter(|tried| tried.watched.is_some());
        rejected.or(self.in_force.as_ref())
    }

    /// Whether a document was rejected so long ago. A text that is none stays none.
    fn rejected_for(&self, pause: Duration) -> bool {
        let due = |tried: &Tried| tried.watched.is_some() && tried.at.elapsed() >= pause;
        self.rejected.as_ref().is_some_and(due)
    }
}

impl Publisher {
    /// Nothing is in force.
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self::retrying(gateway, RETRY_PAUSE)
    }

    /// The same with another pause before a rejected document is tried again.
    pub(crate) fn retrying(gateway: Arc<Gateway>, retry_pause: Duration) -> Self {
        let room = Semaphore::new(JUDGED_AT_ONCE);
        Self { gateway, kept: RwLock::default(), turn: Mutex::new(()), room, retry_pause }
    }

    /// The document in force.
    pub(crate) fn in_force(&self) -> Option<Published> {
        self.kept(|kept| kept.in_force.as_ref().map(|tried| tried.candidate.clone().published()))
    }

    /// Reads and compiles a text that somebody wants published, and puts nothing in force.
    pub(crate) async fn judge(&self, text: Arc<str>) -> Judged {
        let _room = self.room.acquire().await.expect("the semaphore is never closed");
        let judged = judge(self.gateway.clone(), text).await;
        let Some(Watched { config, .. }) = &judged.watched else { return judged };
        let mut refused = destinations::forbidden(config, &self.gateway.reach);
        refused.extend(config.schedules_beyond(self.gateway.events_kept));
        if refused.is_empty() { judged } else { judged.without(refused) }
    }

    /// Reads and compiles a text, and forgets it.
    pub(crate) async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.judge(text.into()).await.outcome.map(|compiled| compiled.config().clone())
    }

    /// Waits for one's turn to put documents in force.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn::new(self, self.turn.lock().await)
    }

    /// Waits until the document that is watched may fare otherwise than when it was tried: a file of its packs was
    /// replaced, or it was rejected some time ago.
    pub(crate) async fn worth_another_try(&self) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let (watched, rejected) = self.kept(|kept| {
                let watched = kept.watched().and_then(|tried| tried.watched.clone());
                (watched, kept.rejected_for(self.retry_pause))
            });
            let now = |watched: &Watched| self.gateway.pack_files_state(&watched.config);
            if rejected || watched.is_some_and(|watched| now(&watched) != watched.packs) {
                return;
            }
        }
    }

    fn kept<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn judge(gateway: Arc<Gateway>, text: Arc<str>) -> Judged {
    let judged = compile(gateway.clone(), text).await;
    if judged.outcome.is_ok() {
        gateway.packs.read_missing_data(&gateway.store).await;
    }
    judged
}

async fn compile(gateway: Arc<Gateway>, text: Arc<str>) -> Judged {
    let judged = tokio::task::spawn_blocking(move || {
        let config = match config::read(&text) {
            Ok(config) => Arc::new(config),
            Err(errors) => return Judged { watched: None, outcome: Err(errors) },
        };
        // From before they are read: what is replaced meanwhile differs at the next look.
        let packs = gateway.pack_files_state(&config);
        let outcome = gateway.compile(config.clone());
        Judged { watched: Some(Watched { config, packs }), outcome }
    });
    judged.await.unwrap_or_else(|error| {
        let error = ConfigError::new("", format!("the compiler broke down: {error}"));
        Judged { watched: None, outcome: Err(vec![error]) }
    })
}

impl Judged {
    /// The same with further errors.
    fn without(self, errors: Vec<ConfigError>) -> Self {
        let mut errors: Vec<_> = self.outcome.err().into_iter().flatten().chain(errors).collect();
        errors.sort();
        Self { outcome: Err(errors), ..self }
    }

    /// Whether it was compiled; else everything that is in the way.
    pub(crate) fn sound(self) -> Result<Self, Vec<ConfigError>> {
        match self.outcome {
            Ok(_) => Ok(self),
            Err(errors) => Err(errors),
        }
    }
}

impl Candidate {
    /// A text under this number, for everybody.
    pub(crate) fn new(number: u64, text: Arc<str>) -> Self {
        let digest = digest(&text);
        Self { number, text, digest, nodes: None }
    }

    /// The revision that it makes.
    pub(crate) fn published(self) -> Published {
        let etag = self.digest.trim_start_matches("sha256:").chars().take(ETAG_DIGITS).collect();
        Published { number: self.number, text: self.text, etag, nodes: self.nodes }
    }

    /// Whether the other one is the same text under the same number.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.number == other.number && self.digest == other.digest
    }
}

/// `sha256:` and the hex SHA-256 of a text.
pub(crate) fn digest(text: &str) -> String {
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}
