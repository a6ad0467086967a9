//! Compiled functions, kept where packs are compiled: settings change a pack's memory, hardly its code. For 50 settings of
//! one pack that is an eighth of the time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use wasmtime::CacheStore;

/// The most that is kept, in bytes; further functions are compiled each time.
const MAX_BYTES: usize = 64 << 20;

/// Compiled functions by what they were compiled from.
#[derive(Debug, Default)]
pub(crate) struct Functions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_key: HashMap<Vec<u8>, Vec<u8>>,
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_key.get(key).cloned().map(Cow::Owned)
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = kept.bytes + key.len() + value.len();
        if bytes > MAX_BYTES {
            return false;
        }
        kept.bytes = bytes;
        kept.by_key.insert(key.to_vec(), value);
        true
    }
}
