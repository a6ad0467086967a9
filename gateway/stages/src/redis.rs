//! Counters that all nodes share, on Redis 6.2 or later, or Valkey. The one place that knows the crate `redis`.
//!
//! Invariants: a demand is decided by one command, which charges all of its limits or none; every key has a time to live,
//! set by the same command that writes it; all keys of a tenant lie in one hash slot. What is decided, the scripts decide
//! as [`Tally`](model::quota::Tally) does.

mod counters;
mod ledger;
mod link;
mod presence;
mod script;
mod state;
mod url;

pub use counters::{ClockOf, RedisCounters};
pub use ledger::RedisLedger;
pub use link::{COMMAND_DEADLINE, Link, LinkState};
pub use presence::Presence;
pub use url::{InvalidRedisUrl, RedisUrl};

#[cfg(test)]
mod tests;
