//! The port to whoever holds the configuration: admin publishes through it, the data plane follows it.

use crate::config::{Config, ConfigError};
use std::sync::Arc;

/// A document in force.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its number on this node; grows with every change.
    pub number: u64,
    /// The document as it was written.
    pub text: Arc<str>,
    /// The checked document.
    pub config: Arc<Config>,
    /// Changes with the text; without quotes.
    pub etag: String,
}

/// Why a document is not published. Whatever the reason, nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is not valid; every error.
    #[error("the document is not valid ({} errors)", .0.len())]
    Invalid(Vec<ConfigError>),
    /// It was made from a document that is no longer in force.
    #[error("the document in force is another one")]
    Stale,
    /// The operator keeps the document in a file of their own.
    #[error("the document is kept in a file that the operator owns")]
    ReadOnly,
    /// It can't be kept.
    #[error("the document can't be stored: {0}")]
    Unavailable(String),
}

/// Whoever holds the configuration.
pub trait Revisions: Send + Sync + 'static {
    /// The document in force; none before the first.
    fn current(&self) -> Option<Published>;

    /// Checks and compiles a document without publishing it.
    fn check(&self, text: String) -> impl Future<Output = Result<Config, Vec<ConfigError>>> + Send;

    /// Publishes a document if the one in force is still that of this etag. When it answers, the document is in force
    /// on this node.
    fn publish(
        &self,
        text: String,
        expected: &str,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send;
}
