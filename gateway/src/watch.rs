//! The document in a file that the operator owns: watched, and put in force when it changes. Nobody writes it from here.

use crate::gateway::Gateway;
use crate::publish::{Candidate, Publisher};
use async_trait::async_trait;
use model::audit::Entry;
use model::config::{Config, ConfigError};
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the file.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The document's file. Its revisions are counted on this node.
pub struct DocumentFile {
    gateway: Arc<Gateway>,
    path: PathBuf,
    publisher: Publisher,
}

/// What the file looked like at the last look: inode, size and time of its last change.
type Seen = Option<(u64, u64, i64, i64)>;

impl DocumentFile {
    /// The document of this file, for this gateway.
    pub fn new(gateway: Arc<Gateway>, path: PathBuf) -> Arc<Self> {
        let publisher = Publisher::new(gateway.clone());
        Arc::new(Self { gateway, path, publisher })
    }

    /// Reads the file and puts it in force; at start-up there is nothing to fall back to.
    pub async fn load(&self) -> Result<Published, Vec<ConfigError>> {
        let turn = self.publisher.turn().await;
        let text = self.text().await.map_err(|error| vec![error])?;
        let judged = self.publisher.judge(text.clone()).await;
        turn.fall_back(self.next(text), judged)
    }

    /// Follows the file for as long as the process runs.
    pub async fn follow(self: Arc<Self>) {
        tokio::join!(self.follow_file(), self.try_again());
    }

    async fn follow_file(&self) {
        // Whatever the document was when it was loaded, it is looked at once more: it may have changed since.
        let mut seen = None;
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = self.look();
            if now != seen {
                // From before anything is read: what changes while it is put in force differs at the next look.
                seen = now;
                self.changed().await;
            }
        }
    }

    async fn try_again(&self) {
        loop {
            self.publisher.worth_another_try().await;
            let turn = self.publisher.turn().await;
            if let Some(watched) = turn.watched() {
                let judged = self.publisher.judge(watched.text.clone()).await;
                turn.take_again(self.next(watched.text), judged);
            }
        }
    }

    /// Takes up a change of the file.
    async fn changed(&self) {
        let turn = self.publisher.turn().await;
        match self.text().await {
            Ok(text) if turn.in_force().is_some_and(|known| known.text == text) => turn.accept(),
            Ok(text) => {
                let judged = self.publisher.judge(text.clone()).await;
                turn.take(self.next(text), judged);
            }
            Err(error) => turn.unreadable(self.gateway.revision() + 1, error),
        }
    }

    /// The next revision. Only who has the turn may count.
    fn next(&self, text: Arc<str>) -> Candidate {
        Candidate::new(self.gateway.revision() + 1, text)
    }

    async fn text(&self) -> Result<Arc<str>, ConfigError> {
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| {
            ConfigError::new("", format!("{} can't be read: {error}", self.path.display()))
        })?;
        Ok(text.into())
    }

    fn look(&self) -> Seen {
        let file = std::fs::metadata(&self.path).ok()?;
        Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    }
}

#[async_trait]
impl Revisions for DocumentFile {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        Ok(self.in_force())
    }

    fn in_force(&self) -> Option<Published> {
        self.publisher.in_force()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.publisher.check(text).await
    }

    async fn publish(&self, _: Change) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
    }

    async fn release(
        &self,
        _: u64,
        _: Entry,
        _: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        Err(PublishError::ReadOnly)
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
