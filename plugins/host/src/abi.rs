//! What the interface of `plugins/wit` looks like in Rust: the decisions, generated; and the exchange, as a handle.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from WIT, where the documentation is"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "package tollgate:host; world decisions { import tollgate:policy/decisions@1.0.0; }",
    });
}

pub(crate) use generated::tollgate::policy::decisions as wit;
