//! The vocabulary of Tollgate and its pure state machines. No I/O, no clock of its own, no async.

pub mod clock;
pub mod config;
pub mod decision;
pub mod document;
pub mod error;
pub mod exchange;
pub mod id;
pub mod idempotency;
pub mod port;
pub mod quota;
pub mod revision;
#[cfg(feature = "suite")]
pub mod suite;
pub mod units;

pub use clock::Clock;
pub use decision::{Decision, Denial, Edits, FailureReason, HeaderEdit, Phase};
pub use error::{ErrorCode, Problem, Refusal, Reject};
pub use exchange::{Head, HeaderFault, Identity};
