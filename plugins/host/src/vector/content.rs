//! Bytes as people write them in JSON: a text, or base64 where they are none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bytes, written as a text or as `{"base64": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Content(pub Vec<u8>);

impl TryFrom<Value> for Content {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let base64 = value.as_object().filter(|object| object.len() == 1);
        match (value.as_str(), base64.and_then(|object| object.get("base64")?.as_str())) {
            (Some(text), _) => Ok(Self(text.as_bytes().to_vec())),
            (None, Some(encoded)) => {
                STANDARD.decode(encoded).map(Self).map_err(|error| format!("base64: {error}"))
            }
            (None, None) => {
                Err(format!("{value} stands for no bytes: write a text or {{\"base64\": \"…\"}}"))
            }
        }
    }
}

impl From<Content> for Value {
    fn from(content: Content) -> Self {
        match String::from_utf8(content.0) {
            Ok(text) => Self::String(text),
            Err(error) => json!({ "base64": STANDARD.encode(error.as_bytes()) }),
        }
    }
}

/// Bytes in an error, as a vector would write them.
pub(super) fn told(bytes: &[u8]) -> String {
    Value::from(Content(bytes.to_vec())).to_string()
}
