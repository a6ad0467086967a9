//! What the settings of a pack are: the JSON Schema that a build of the Rust SDK with its feature `schema` tells.
//!
//! Such a module is none that ships: it imports nothing, and exports its memory and one function. It runs where packs are
//! built.

use serde_json::Value;
use wasmtime::{Config, Engine, Instance, Module, Store, StoreLimits, StoreLimitsBuilder};

/// The function: it returns the address of a pointer and a length, 32 bits each, of a JSON text.
const EXPORT: &str = "settings-schema";
/// What it may spend: seconds, where any schema takes milliseconds.
const FUEL: u64 = 5_000_000_000;
/// The memory that it may use, in bytes.
const MEMORY: usize = 64 << 20;

/// Why a build tells no schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It can't be run, or not to its end.
    #[error("the settings' schema can't be made: {message}")]
    Failed {
        /// The engine's words.
        message: String,
    },
    /// It was not built for this.
    #[error(
        "the module does not tell its settings' schema: mark the implementation of `Policy` with \
         `#[tollgate_pack::pack]` and its settings with `#[tollgate_pack::settings]`"
    )]
    Missing,
    /// What it tells is no JSON.
    #[error("the settings' schema is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<wasmtime::Error> for SchemaError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Failed { message: format!("{error:#}") }
    }
}

/// Runs a module built with the feature `schema` of `tollgate-pack`, and returns the JSON Schema that it tells.
pub fn settings_schema(module: &[u8]) -> Result<Value, SchemaError> {
    let engine = Engine::new(Config::new().consume_fuel(true))?;
    let module = Module::new(&engine, module)?;
    if module.get_export(EXPORT).is_none() {
        return Err(SchemaError::Missing);
    }
    let limits = StoreLimitsBuilder::new().memory_size(MEMORY).build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits: &mut StoreLimits| limits);
    store.set_fuel(FUEL)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let tell = instance.get_typed_func::<(), u32>(&mut store, EXPORT)?;
    let told = tell.call(&mut store, ())?;
    let memory = instance.get_memory(&mut store, "memory").ok_or(SchemaError::Missing)?;
    let text = text(memory.data(&store), told).ok_or(SchemaError::Missing)?;
    Ok(serde_json::from_slice(text)?)
}

fn text(memory: &[u8], told: u32) -> Option<&[u8]> {
    let word = |at: u32| {
        let at = usize::try_from(at).ok()?;
        let bytes = memory.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let (at, length) = (word(told)?, word(told.checked_add(4)?)?);
    memory.get(at..)?.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_points_at_is_read_within_its_memory_alone() {
        let mut memory = vec![0; 32];
        memory[4..8].copy_from_slice(&16_u32.to_le_bytes());
        for (length, at, expected) in [
            (2_u32, 4, Some(2)),
            (16, 4, Some(16)),
            (17, 4, None),
            (2, 28, None),
            (2, u32::MAX, None),
        ] {
            memory[8..12].copy_from_slice(&length.to_le_bytes());
            assert_eq!(text(&memory, at).map(<[u8]>::len), expected, "{length} at {at}");
        }
    }

    #[test]
    fn a_module_that_was_not_built_for_it_is_refused() {
        assert!(matches!(settings_schema(b"\0asm\x01\0\0\0"), Err(SchemaError::Missing)));
        assert!(matches!(settings_schema(demo::MISBEHAVE), Err(SchemaError::Missing)));
        assert!(matches!(settings_schema(b"nonsense"), Err(SchemaError::Failed { .. })));
    }
}
