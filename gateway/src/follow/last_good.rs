//! The last good revision, or what was revoked last, in a file: what a node starts with while the store is away.
//!
//! Invariant: the file is replaced whole, and read whole or not at all: one whose number and text have not the digest
//! beside them was torn or altered, and is refused.

use crate::publish::{Candidate, digest};
use crate::watch::{Readers, replace};
use model::config::DOCUMENT_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest file that is read, in bytes: no document is larger, even with every character escaped as `\n` is.
const FILE_BYTES_MAX: u64 = 2 * DOCUMENT_BYTES_MAX as u64 + 1024;

/// Where a text that was good is kept, with its number. One writes at a time, in the order in which they came into force: also those that
/// nobody waits for any more.
pub(super) struct LastGood(Arc<Mutex<PathBuf>>);

/// Why the file is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum LastGoodError {
    /// It can't be read.
    #[error("its file can't be read: {0}")]
    File(#[from] std::io::Error),
    /// It is not what was written.
    #[error("its file is torn: {0}")]
    Torn(#[from] serde_json::Error),
    /// It is not the revision that was written.
    #[error("its file was altered: number and text have not the digest beside them")]
    Altered,
    /// It is larger than any that is written.
    #[error("its file is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    number: u64,
    digest: String,
    text: Arc<str>,
}

impl LastGood {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(path)))
    }

    /// Keeps what is in force now. When that fails, what was kept before stays, and the log says so.
    pub(super) async fn keep(&self, revision: Candidate) {
        let (path, number) = (self.0.clone(), revision.number);
        let kept = tokio::task::spawn_blocking(move || {
            let path = path.lock().unwrap_or_else(PoisonError::into_inner);
            write(&path, revision).map_err(|error| (path.display().to_string(), error))
        })
        .await;
        let broken = |error| Err((String::new(), std::io::Error::other(error)));
        if let Err((file, error)) = kept.unwrap_or_else(broken) {
            tracing::error!(number, file, %error, "what a start without the store needs can't be kept");
        }
    }

    /// Whether one was kept.
    pub(super) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).exists()
    }

    /// What was kept last.
    pub(super) async fn read(&self) -> Result<Option<Candidate>, LastGoodError> {
        let path = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            read(&path.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await;
        read.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
    }
}

fn write(path: &Path, revision: Candidate) -> std::io::Result<()> {
    let Candidate { number, text, .. } = revision;
    let bytes = serde_json::to_vec(&Kept { number, digest: digest_of(number, &text), text })?;
    replace(path, &bytes, Readers::Owner)
}

/// The digest of number and text.
fn digest_of(number: u64, text: &str) -> String {
    digest(&format!("{number}\n{text}"))
}

fn read(path: &Path) -> Result<Option<Candidate>, LastGoodError> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LastGoodError::TooLarge);
    }
    let kept: Kept = serde_json::from_slice(&bytes)?;
    if digest_of(kept.number, &kept.text) != kept.digest {
        return Err(LastGoodError::Altered);
    }
    Ok(Some(Candidate::new(kept.number, kept.text)))
}
