//! The interface of `plugins/wit`, generated. What authors need of it is re-exported by the crate's root.
#![allow(missing_docs, reason = "generated from WIT, where the documentation is")]
#![allow(unsafe_code, reason = "the generated code moves values over the canonical ABI")]

wit_bindgen::generate!({
    path: "../wit",
    world: "pack",
    additional_derives: [PartialEq],
    pub_export_macro: true,
});
