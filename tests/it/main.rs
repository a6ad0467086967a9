//! Claims about the product, each shown against the real binary on real sockets.

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
