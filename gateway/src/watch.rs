//! The document in a file: watched, and put in force when it changes. An invalid one changes nothing and says why.
//!
//! A write through admin takes the same way: check, compile, store, put in force.

use crate::gateway::Gateway;
use model::config::{self, Config, ConfigError};
use model::revision::{PublishError, Published, Revisions};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Between two looks at the files. A look is a handful of `stat`s.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Who may write the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Admin, and whoever edits the file.
    Admin,
    /// The operator alone: admin's writes are refused.
    Operator,
}

/// The document's file.
pub struct DocumentFile {
    gateway: Arc<Gateway>,
    path: PathBuf,
    owner: Owner,
    current: RwLock<Option<Published>>,
    turn: tokio::sync::Mutex<()>,
}

/// What the files looked like at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    document: Option<(u64, u64, i64, i64)>,
    packs: u64,
}

impl DocumentFile {
    /// The document of this file, for this gateway.
    pub fn new(gateway: Arc<Gateway>, path: PathBuf, owner: Owner) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            path,
            owner,
            current: RwLock::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Reads the file and puts it in force; at start-up there is nothing to fall back to.
    pub async fn load(self: &Arc<Self>) -> Result<Published, Vec<ConfigError>> {
        let turn = self.turn.lock().await;
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| {
            vec![ConfigError::new("", format!("{} can't be read: {error}", self.path.display()))]
        })?;
        let published = self.put_in_force(text).await;
        drop(turn);
        published
    }

    /// Follows the file for as long as the process runs.
    pub async fn follow(self: Arc<Self>) {
        let mut asked = self.current().map(|current| current.config);
        // Whatever the document was when it was loaded, it is looked at once more: it may have changed since.
        let mut seen = Seen { document: None, ..self.look(asked.as_deref()) };
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = self.look(asked.as_deref());
            if now == seen {
                continue;
            }
            let packs_changed = now.packs != seen.packs;
            // From before anything is read: what changes while it is put in force differs at the next look.
            seen = now;
            if let Some((config, packs)) = self.changed(packs_changed).await {
                asked = Some(config);
                seen.packs = packs;
            }
        }
    }

    /// Takes up a change of the files. Returns the document whose packs are to be watched: that of the file, even when
    /// it can't be put in force, so that a pack that was missing is noticed when it comes.
    async fn changed(self: &Arc<Self>, packs_changed: bool) -> Option<(Arc<Config>, u64)> {
        let turn = self.turn.lock().await;
        let text = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the document can't be read; the revision in force stays");
                self.gateway.rejected();
                return None;
            }
        };
        let current = self.current();
        let unchanged = current.as_ref().is_some_and(|current| *current.text == *text);
        if unchanged && !packs_changed {
            self.gateway.accepted();
            return current.map(|current| self.watched(current.config));
        }
        let watched = config::read(&text).ok().map(|config| self.watched(Arc::new(config)));
        match self.put_in_force(text).await {
            Ok(published) => {
                tracing::info!(revision = published.number, "a new revision is in force");
            }
            Err(errors) => {
                for error in &errors {
                    tracing::error!(
                        pointer = error.pointer,
                        error = error.message,
                        "the document was rejected"
                    );
                }
                tracing::error!(
                    errors = errors.len(),
                    in_force = self.gateway.revision(),
                    "the document was rejected; the revision in force stays"
                );
            }
        }
        drop(turn);
        watched
    }

    /// A document whose packs are to be watched, and what they look like now.
    fn watched(&self, config: Arc<Config>) -> (Arc<Config>, u64) {
        let packs = self.gateway.pack_files_state(&config);
        (config, packs)
    }

    fn look(&self, config: Option<&Config>) -> Seen {
        let document = std::fs::metadata(&self.path).ok();
        Seen {
            document: document
                .map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec())),
            packs: config.map_or(0, |config| self.gateway.pack_files_state(config)),
        }
    }

    /// Check, compile, put in force. Whoever calls holds the turn.
    async fn put_in_force(&self, text: String) -> Result<Published, Vec<ConfigError>> {
        let gateway = self.gateway.clone();
        let work = tokio::task::spawn_blocking(move || {
            let config = config::read(&text).inspect_err(|_| gateway.rejected())?;
            let number = gateway.publish(&config)?;
            let etag = etag(&text);
            Ok(Published { number, text: text.into(), config: Arc::new(config), etag })
        });
        let published: Published = work.await.unwrap_or_else(|error| {
            Err(vec![ConfigError::new("", format!("the compiler broke down: {error}"))])
        })?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(published.clone());
        Ok(published)
    }
}

impl Revisions for DocumentFile {
    fn current(&self) -> Option<Published> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn check(&self, text: String) -> Result<Config, Vec<ConfigError>> {
        let gateway = self.gateway.clone();
        let work = tokio::task::spawn_blocking(move || {
            let config = config::read(&text)?;
            gateway.check(&config)?;
            Ok(config)
        });
        work.await.unwrap_or_else(|error| {
            Err(vec![ConfigError::new("", format!("the compiler broke down: {error}"))])
        })
    }

    async fn publish(&self, text: String, expected: &str) -> Result<Published, PublishError> {
        if self.owner == Owner::Operator {
            return Err(PublishError::ReadOnly);
        }
        let _turn = self.turn.lock().await;
        let current = self.current();
        let etag = current.as_ref().map(|current| current.etag.as_str()).unwrap_or_default();
        if etag != expected {
            return Err(PublishError::Stale);
        }
        if let Some(current) = current.filter(|current| *current.text == *text) {
            let on_disk = tokio::fs::read_to_string(&self.path).await;
            if on_disk.is_ok_and(|on_disk| on_disk == text) {
                return Ok(current);
            }
        }
        self.check(text.clone()).await.map_err(PublishError::Invalid)?;
        let (path, copy) = (self.path.clone(), text.clone());
        let stored = tokio::task::spawn_blocking(move || {
            replace(&path, copy.as_bytes(), Readers::Everybody)
        })
        .await;
        stored
            .map_err(|error| PublishError::Unavailable(error.to_string()))?
            .map_err(|error| PublishError::Unavailable(error.to_string()))?;
        self.put_in_force(text).await.map_err(PublishError::Invalid)
    }
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whoever may look into the folder.
    Everybody,
    /// The owner: it holds secrets.
    Owner,
}

/// Replaces a file whole: a reader sees the old one or the new one, also after a crash.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mode = match readers {
        Readers::Everybody => 0o644,
        Readers::Owner => 0o600,
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn etag(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
