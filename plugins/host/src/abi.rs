//! The interface of `plugins/wit`, generated. [`crate::call`] implements its imports.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from WIT, where the documentation is"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "pack",
    imports: { default: trappable },
    with: { "tollgate:policy/request-phase.request": crate::request::Lent },
});
