//! The port to whoever holds the configuration: admin publishes through it, the data plane follows it.
//!
//! Invariant: every change is one numbered revision, written in one transaction with its audit entry. What a gateway
//! would refuse is never published.

use crate::audit::Entry;
use crate::config::{Config, ConfigError};
use crate::event::Event;
use crate::id::NodeName;
use crate::port::StoreError;
use async_trait::async_trait;
use jiff::Timestamp;
use std::sync::Arc;

/// A revision with its document.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its number: 1 for the first, then without gaps. A document that is watched in a file counts its changes on this
    /// node.
    pub number: u64,
    /// The document as it was written.
    pub text: Arc<str>,
    /// The first 32 hex digits of the SHA-256 of the text: without quotes.
    pub etag: String,
    /// The nodes that it went to first; none when it is everybody's.
    pub nodes: Option<Vec<NodeName>>,
}

/// A revision as lists show it: without its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionInfo {
    /// Its number.
    pub number: u64,
    /// When it was published.
    pub at: Timestamp,
    /// `sha256:` and the hex SHA-256 of the document's text.
    pub digest: String,
    /// Size of the document's text in bytes.
    pub size: u64,
    /// Who published it: the actor's name.
    pub author: String,
    /// What was done, as the audit entry says.
    pub action: String,
    /// The nodes that it went to first; none when it is everybody's.
    pub nodes: Option<Vec<NodeName>>,
}

/// A document on its way to become a revision.
#[derive(Clone, Debug)]
pub struct Change {
    /// The document.
    pub text: String,
    /// The revision that it was made from; 0 for none. The change is refused when that is no longer the newest.
    pub base: u64,
    /// The nodes that it goes to first; none for all.
    pub nodes: Option<Vec<NodeName>>,
    /// What becomes of a newest revision that is on some nodes only.
    pub staged: Staged,
    /// What the audit says of it; its `revision` is filled in.
    pub audit: Entry,
    /// The answer that a repeat of the same request gets.
    pub answer: Option<KeptAnswer>,
    /// What the outbox tells of it.
    pub events: Vec<Event>,
}

/// What a change does to a newest revision that is on some nodes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It stays, and the change is refused.
    Keep,
    /// The change takes its place: a rollback.
    Replace,
}

/// The answer to a request with an `Idempotency-Key`, kept in the transaction of what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// SHA-256 over token and key: who repeats must bring both.
    pub digest: [u8; 32],
    /// SHA-256 over what was asked: a repeat that asks for something else is refused.
    pub fingerprint: [u8; 32],
    /// The status.
    pub status: u16,
    /// Headers and body, sealed under a key that only token and idempotency key give.
    pub sealed: Vec<u8>,
    /// Until when it is kept.
    pub until: Timestamp,
}

/// Why a document is not published. Whatever the reason, nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is not valid; every error.
    #[error("the document is not valid ({} errors)", .0.len())]
    Invalid(Vec<ConfigError>),
    /// It was made from a revision that is no longer the newest.
    #[error("the newest revision is another one")]
    Stale,
    /// The newest revision is on some nodes only: it is released or rolled back first.
    #[error("revision {number} is on some nodes only")]
    Staged {
        /// That revision.
        number: u64,
        /// Its nodes.
        nodes: Vec<NodeName>,
    },
    /// The operator keeps the document in a file of their own.
    #[error("the document is kept in a file that the operator owns")]
    ReadOnly,
    /// There is no such revision, or it is not to be released.
    #[error("there is no such revision")]
    NotFound,
    /// An answer was kept for this key meanwhile: the request is a repeat.
    #[error("the request is a repeat")]
    Repeat,
    /// The store can't answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whoever holds the configuration.
#[async_trait]
pub trait Revisions: Send + Sync + 'static {
    /// The newest revision, which changes are made from, wherever it is in force; none before the first. It may be one that
    /// this build can't read, of a later release.
    async fn newest(&self) -> Result<Option<Published>, StoreError>;

    /// The document in force in this process, without asking the store.
    fn in_force(&self) -> Option<Published>;

    /// Whether the document is the operator's own to change, so that nothing is published here.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Checks and compiles a document without publishing it. All errors, at once.
    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>>;

    /// Publishes a document. When it answers, it is in force in this process, unless it went to other nodes first.
    async fn publish(&self, change: Change) -> Result<Published, PublishError>;

    /// Gives the newest revision, which is on some nodes only, to all.
    async fn release(
        &self,
        number: u64,
        audit: Entry,
        answer: Option<KeptAnswer>,
    ) -> Result<Published, PublishError>;
}
