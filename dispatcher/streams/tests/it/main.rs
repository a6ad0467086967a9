//! Sources and sinks on a real NATS server and on librdkafka's own mock of a cluster (`make test-streams`).
#![cfg(all(feature = "nats", feature = "kafka"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on has failed"
)]

mod ending;
mod harness;
mod kafka;
mod nats;
