//! What a repeat of an event must be like: the same attributes and the same data, in whatever form it is sent.

use super::cloud::{CloudEvent, Data};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

impl CloudEvent {
    /// SHA-256 over attributes and data. The order of a JSON object's members and white space mean nothing; booleans and
    /// integers of attributes mean the same as their text, since headers have only that.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"tollgate/event/1\0");
        for (name, value) in &self.attributes {
            add(&mut hash, b'a', name.as_bytes());
            add(&mut hash, b'v', value.as_str().as_bytes());
        }
        match &self.data {
            None => {}
            // Text and bytes of a media type that is not JSON: headers don't tell which of the two it is.
            Some(Data::Text(text)) => add(&mut hash, b'd', text.as_bytes()),
            Some(Data::Bytes(bytes)) => add(&mut hash, b'd', bytes),
            Some(Data::Json(_)) => add_json(&mut hash, self.json().unwrap_or(&Value::Null)),
        }
        hash.finalize().into()
    }
}

/// What it is, how long it is, and itself: no two things are written the same way.
fn add(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(bytes);
}

/// A value is at most 128 levels deep: that is how deep it was read.
fn add_json(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Number(number) => add(hash, b'0', number.to_string().as_bytes()),
        Value::String(text) => add(hash, b's', text.as_bytes()),
        Value::Array(items) => {
            add(hash, b'[', &[]);
            for item in items {
                add_json(hash, item);
            }
            hash.update(b"]");
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            add(hash, b'{', &[]);
            for (name, value) in members {
                add(hash, b'm', name.as_bytes());
                add_json(hash, value);
            }
            hash.update(b"}");
        }
    }
}
