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
mod artefact;
mod cache;
mod call;
mod compile;
mod counters;
mod decision;
mod failure;
mod grants;
mod host;
mod idle;
mod imports;
mod incremental;
mod interface;
mod limits;
mod pack;
mod package;
mod prepared;
mod random;
mod request;
mod schema;
mod settings;
mod snapshot;
mod trial;
mod vector;
pub mod worker;

pub use cache::CacheError;
pub use call::thread_cpu;
pub use counters::{Counters, MAX_COUNTERS};
pub use failure::{Failure, Whose};
pub use grants::{Caps, Counting, Grants, LogGate, PackData};
pub use host::{Host, HostError, HostSettings};
pub use interface::{Interface, componentize};
pub use limits::{Limits, MAX_MEMORY};
pub use pack::{Asked, Pack, PackError, SettingsError};
pub use package::{
    ABI, BodyOf, Capability, MAX_FILE_BYTES, MAX_MODULE_BYTES, Manifest, Package, PackageError,
    PublicKey, SigningKey, key_covers,
};
pub use prepared::{Measured, Prepared};
pub use request::{PolicyRequest, PolicyResponse};
pub use schema::{SchemaError, settings_schema};
pub use trial::{Spent, Trial, Tried};
pub use vector::{Content, Expect, NamedVector, Vector, VectorRequest, VectorResponse};
