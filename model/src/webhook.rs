//! Webhooks: events that were accepted, their deliveries to endpoints, and what became of each attempt.
//!
//! An **event** is accepted once. It is fanned out to one **delivery** for each endpoint that wants it, so that a repeat
//! never reaches an endpoint where it succeeded. A delivery is held for each **attempt**; who holds it is known by a fence,
//! without which nothing about it is settled.

pub mod breaker;
pub mod budget;
mod delivery;
mod endpoint;
mod event;
pub mod fairness;
pub mod policy;
pub mod reach;
mod replay;
pub mod schedule;

pub use delivery::*;
pub use endpoint::*;
pub use event::*;
pub use reach::{Destination, DestinationError, Reach};
pub use replay::*;
