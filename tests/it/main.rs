//! Claims about the product, each shown against the real binary on real sockets.
//!
//! `make test` runs them all. One of them: `make build`, then `cargo test -p tests NAME`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that meets the unexpected fails, and says where and after what"
)]

mod harness;

mod admin;
mod admission;
mod cli;
mod documents;
mod edge;
mod failure;
mod idempotency;
mod jwt;
mod limits;
mod packs;
mod services;
mod structure;
mod traffic;
mod versions;
