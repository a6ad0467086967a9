//! The way of a document into force in this process: read, check, compile, swap. Whoever holds revisions goes this way.
//!
//! Invariant: only the [`Turn`], which one at a time has, puts documents in force or shows that they can't be. One that
//! can't be changes nothing and says why. Texts are judged off the async threads, a few at a time.

use crate::gateway::{Compiled, Gateway};
use model::config::{self, Config, ConfigError};
use model::id::NodeName;
use model::revision::Published;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};

/// Between two looks at the files of packs. A look is a handful of `stat`s.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After how long a rejected document is tried again: a secret or an address that it needs may be there by now.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Texts that are judged at a time: each takes a processor, and memory of many times its size.
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
        let tried = self.kept(|kept| kept.in_force.clone())?;
        Some(tried.candidate.published(tried.watched?.config))
    }

    /// Reads a text without compiling it.
    pub(crate) async fn read(&self, text: Arc<str>) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.work(move |_| config::read(&text).map(Arc::new)).await
    }

    /// Reads and compiles a text, and puts nothing in force.
    pub(crate) async fn judge(&self, text: Arc<str>) -> Judged {
        let judged = self.work(move |gateway| {
            let config = match config::read(&text) {
                Ok(config) => Arc::new(config),
                Err(errors) => return Ok(Judged { watched: None, outcome: Err(errors) }),
            };
            // From before they are read: what is replaced meanwhile differs at the next look.
            let packs = gateway.pack_files_state(&config);
            let outcome = gateway.compile(config.clone());
            Ok(Judged { watched: Some(Watched { config, packs }), outcome })
        });
        judged.await.unwrap_or_else(|errors| Judged { watched: None, outcome: Err(errors) })
    }

    /// Reads and compiles a text, and forgets it.
    pub(crate) async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.judge(text.into()).await.outcome.map(|compiled| compiled.config().clone())
    }

    /// Work that takes a processor for long.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Gateway) -> Result<T, Vec<ConfigError>> + Send + 'static,
    ) -> Result<T, Vec<ConfigError>> {
        let _room = self.room.acquire().await.expect("the semaphore is never closed");
        let gateway = self.gateway.clone();
        tokio::task::spawn_blocking(move || work(&gateway)).await.unwrap_or_else(|error| {
            Err(vec![ConfigError::new("", format!("the compiler broke down: {error}"))])
        })
    }

    /// Waits for one's turn to put documents in force.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn { publisher: self, _turn: self.turn.lock().await }
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

/// The right to put documents in force.
pub(crate) struct Turn<'a> {
    publisher: &'a Publisher,
    _turn: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// The document in force.
    pub(crate) fn in_force(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.in_force.as_ref().map(|tried| tried.candidate.clone()))
    }

    /// The document that was wanted last, unless it is in force.
    pub(crate) fn rejected(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.rejected.as_ref().map(|tried| tried.candidate.clone()))
    }

    /// The document whose packs are watched.
    pub(crate) fn watched(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.watched().map(|tried| tried.candidate.clone()))
    }

    /// Makes it the one that is wanted: in force, or rejected, which is said.
    pub(crate) fn take(&self, candidate: Candidate, judged: Judged) -> Option<Published> {
        let published = self.take_again(candidate, judged)?;
        self.accept();
        Some(published)
    }

    /// The same for the one that is watched. Another one, of which nothing can be watched, stays rejected.
    pub(crate) fn take_again(&self, candidate: Candidate, judged: Judged) -> Option<Published> {
        let stays =
            |kept: &Kept| kept.rejected.as_ref().is_some_and(|tried| tried.watched.is_none());
        let stays = self.publisher.kept(stays);
        match self.put_in_force(candidate, judged) {
            Ok(published) => {
                if !stays {
                    self.accept();
                }
                Some(published)
            }
            Err((tried, errors)) => {
                self.reject(tried, &errors);
                None
            }
        }
    }

    /// Puts it in force in place of the one that is wanted, which stays rejected.
    pub(crate) fn fall_back(
        &self,
        candidate: Candidate,
        judged: Judged,
    ) -> Result<Published, Vec<ConfigError>> {
        self.put_in_force(candidate, judged).map_err(|(_, errors)| errors)
    }

    /// Shows that the one in force is the one that is wanted.
    pub(crate) fn accept(&self) {
        self.change(|kept| kept.rejected = None);
        self.publisher.gateway.accepted();
    }

    /// Shows that the one that is wanted could not even be fetched.
    pub(crate) fn unreadable(&self, number: u64, error: ConfigError) {
        tracing::error!(
            error = error.message,
            in_force = self.publisher.gateway.revision(),
            "the document can't be read; the revision in force stays"
        );
        self.publisher.gateway.rejected(number, &[error]);
    }

    /// The one in force went to these nodes.
    pub(crate) fn is_for(&self, nodes: Option<Vec<NodeName>>) {
        self.change(|kept| {
            if let Some(tried) = &mut kept.in_force {
                tried.candidate.nodes = nodes;
            }
        });
    }

    fn put_in_force(
        &self,
        candidate: Candidate,
        judged: Judged,
    ) -> Result<Published, (Tried, Vec<ConfigError>)> {
        let tried = Tried { candidate, watched: judged.watched, at: Instant::now() };
        let compiled = match judged.outcome {
            Ok(compiled) => compiled,
            Err(errors) => return Err((tried, errors)),
        };
        let published = tried.candidate.clone().published(compiled.config().clone());
        self.publisher.gateway.put_in_force(compiled, published.number);
        self.change(|kept| kept.in_force = Some(tried));
        tracing::info!(revision = published.number, "a new revision is in force");
        Ok(published)
    }

    fn reject(&self, tried: Tried, errors: &[ConfigError]) {
        let (gateway, number) = (&self.publisher.gateway, tried.candidate.number);
        // What was said is not said again at every try.
        if gateway.rejected(number, errors) {
            for ConfigError { pointer, message } in errors {
                tracing::error!(
                    revision = number,
                    pointer,
                    error = message,
                    "the document was rejected"
                );
            }
            tracing::error!(
                revision = number,
                errors = errors.len(),
                in_force = gateway.revision(),
                "the document was rejected; the revision in force stays"
            );
        }
        self.change(|kept| kept.rejected = Some(tried));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.publisher.kept.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Judged {
    /// The document, or everything that is in its way.
    pub(crate) fn config(&self) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.outcome.as_ref().map(|compiled| compiled.config().clone()).map_err(Clone::clone)
    }
}

impl Candidate {
    /// A text under this number, for everybody.
    pub(crate) fn new(number: u64, text: Arc<str>) -> Self {
        let digest = digest(&text);
        Self { number, text, digest, nodes: None }
    }

    /// The revision that it makes.
    pub(crate) fn published(self, config: Arc<Config>) -> Published {
        let etag = self.digest.trim_start_matches("sha256:").chars().take(ETAG_DIGITS).collect();
        Published { number: self.number, text: self.text, config, etag, nodes: self.nodes }
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
