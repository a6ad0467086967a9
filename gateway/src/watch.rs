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
        let judged = turn.judge(text.clone()).await;
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
                let judged = turn.judge(watched.text.clone()).await;
                turn.take_again(self.next(watched.text), judged);
            }
        }
    }

    /// Takes up a change of the file.
    async fn changed(&self) {
        let turn = self.publisher.turn().await;
        match self.text().await {
            Ok(text) if turn.in_force().is_some_and(|known| known.text == text) => turn.stands(),
            Ok(text) => {
                let judged = turn.judge(text.clone()).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{change, document, entry, eventually, gateway, store};

    #[tokio::test]
    async fn the_file_is_followed_and_nobody_else_writes_the_document() {
        let (store, folder) = store().await;
        let gateway = gateway(&store, "a", folder.path());
        let path = folder.path().join("document.yaml");
        let write = |text: &str| replace(&path, text.as_bytes(), Readers::Everybody).unwrap();
        let file = DocumentFile::new(gateway.clone(), path.clone());
        assert_eq!(file.load().await.unwrap_err()[0].pointer, "", "there is no file");
        write(&document(1).replace("plan: gold", "plan: silver"));
        assert_eq!(file.load().await.unwrap_err()[0].pointer, "/tenants/0/plan");
        assert!(file.in_force().is_none());
        write(&document(1));
        assert_eq!(file.load().await.unwrap().number, 1);

        tokio::spawn(file.clone().follow());
        let stands = async |revision, rejected: Option<u64>| {
            eventually("it stands so", async || {
                let standing = gateway.standing().borrow().clone();
                let found = standing.rejected.map(|rejected| rejected.revision);
                (standing.revision, found) == (revision, rejected)
            })
            .await;
        };
        write(&document(2));
        stands(2, None).await;
        assert_eq!(*file.newest().await.unwrap().unwrap().text, *document(2));
        write("{");
        stands(2, Some(3)).await;
        write(&document(2));
        stands(2, None).await;
        std::fs::remove_file(&path).unwrap();
        stands(2, Some(3)).await;
        write(&document(3));
        stands(3, None).await;

        let refused = file.publish(change(document(4), 3)).await;
        assert!(matches!(refused, Err(PublishError::ReadOnly)), "{refused:?}");
        let refused = file.release(3, entry("revisions.release"), None).await;
        assert!(matches!(refused, Err(PublishError::ReadOnly)), "{refused:?}");
        assert!(file.check(document(4)).await.is_ok());
        assert_eq!(gateway.revision(), 3);
    }
}
