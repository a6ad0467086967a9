//! The data plane: pingora at the edge, an ordered list of stages behind it, one snapshot of configuration.
//!
//! Start with [`pipeline::admit`]: it is the table of contents.

pub mod body;
pub mod compile;
pub mod cost;
pub mod exchange;
pub mod facts;
pub mod follow;
mod forward;
pub mod gate;
pub mod gateway;
pub mod kept;
mod known;
pub mod ledger;
mod lookup;
pub mod outbound;
mod own;
pub mod packs;
pub mod pipeline;
pub mod protect;
pub mod proxy;
mod publish;
pub mod record;
pub mod report;
pub mod respond;
pub mod rollout;
pub mod route;
pub mod server;
mod session;
mod settling;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod thresholds;
pub mod trace;
pub mod upstream;
mod usage;
pub mod watch;

pub use gateway::{Gateway, GatewayError, Settings};
pub use stages::quotas;
pub use stages::redis;
