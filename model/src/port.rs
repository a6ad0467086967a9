//! What every store behind a port shares: the ways in which it may fail.
//!
//! Invariant: a failure never says that something happened. A write that failed may still have been done, which is why
//! permits are settled by id and claims by fence.

use std::time::Duration;

/// Why a store could not answer. The cause is for the log; callers see `DEPENDENCY_UNAVAILABLE`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refused, broke off or is closed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store is known to have been asked, and broke off before it answered: the work may have been done.
    #[error("the store broke off before it answered: {0}")]
    Unanswered(String),
    /// No answer in time; the work may have been done.
    #[error("the store did not answer within {0:?}")]
    TimedOut(Duration),
    /// A named bound is reached: nothing was written.
    #[error("the store is full: {0}")]
    Full(&'static str),
    /// The store holds what this version can't read.
    #[error("the store holds what can't be read: {0}")]
    Unreadable(String),
}
