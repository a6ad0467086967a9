//! How policy packs run: the one crate that knows wasmtime.
//!
//! A pack passes through three ages, each a type, and each cost is paid at the earliest age that can pay it: bytes become
//! a [`Pack`] (checked, compiled), a pack and its settings become a [`Prepared`] (linked, configured, its memory image
//! taken), and each decision runs in a fresh instance of that, dropped afterwards.
//!
//! Invariants: no decision sees what another one wrote; every decision is under all [`Limits`]; a pack that fails says
//! nothing about the next decision of any pack.

#![warn(missing_docs)]

mod abi;
mod call;
mod decision;
mod failure;
mod host;
mod limits;
mod pack;
mod prepared;
mod request;
mod snapshot;

pub use failure::Failure;
pub use host::{Host, HostError, HostSettings};
pub use limits::{Limits, MAX_MEMORY};
pub use pack::{MAX_PACK_BYTES, Pack, PackError, componentize};
pub use prepared::{Measured, Prepared};
pub use request::PolicyRequest;
