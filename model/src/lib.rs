//! The vocabulary of Tollgate and its pure state machines. No I/O, no clock of its own, no async runtime.

pub mod audit;
pub mod clock;
pub mod config;
pub mod decision;
pub mod document;
pub mod error;
pub mod event;
pub mod exchange;
pub mod id;
pub mod idempotency;
pub mod node;
pub mod port;
pub mod quota;
pub mod record;
pub mod retry_after;
pub mod revision;
pub mod revocation;
pub mod role;
pub mod rollout;
#[cfg(feature = "suite")]
pub mod suite;
pub mod token;
pub mod units;
pub mod upsert;
pub mod usage;
pub mod webhook;

pub use clock::Clock;
pub use decision::{Decision, Denial, Edits, FailureReason, HeaderEdit, PackAnswer};
pub use error::{ErrorCode, Problem, Refusal, Reject};
pub use exchange::{Head, HeaderFault, Identity};
