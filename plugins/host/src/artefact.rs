//! A configured pack as native code, on its way from where it was compiled to where it runs.
//!
//! Invariant: running these bytes is running their maker's code. So an artefact is made in three ways only: compiled here,
//! by a child process of this host, or read from the cache that this node authenticates.
#![allow(unsafe_code, reason = "native code is taken over; see the invariant")]

use std::sync::Arc;

use serde_json::Value;
use wasmtime::component::Component;

use crate::host::Host;
use crate::pack::PackError;
use crate::snapshot::Made;

/// A configured pack as native code.
pub(crate) struct Artefact {
    /// Whether instances start from what `configure` left; else each is configured anew.
    pub(crate) image: bool,
    /// As wasmtime serialises a component.
    pub(crate) code: Vec<u8>,
}

impl Artefact {
    /// Maps the code. An engine of another version or configuration refuses it.
    pub(crate) fn load(&self, host: &Host, settings: &Value) -> Result<Made, PackError> {
        // SAFETY: the invariant of this module: the bytes are what wasmtime's compiler gave.
        let component = unsafe { Component::deserialize(&host.engine, &self.code) };
        let unfit = |error| PackError::Worker { message: format!("{error:#}") };
        let settings = (!self.image).then(|| Arc::from(settings.to_string()));
        Ok(Made { component: component.map_err(unfit)?, settings })
    }
}
