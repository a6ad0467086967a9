//! Vectors: examples of what a pack decides, which are tried before it may go live.
//!
//! Invariant: a vector that was read can be asked: its request, its response and its time are complete and well formed.

mod content;
mod exchange;
mod expect;

pub use content::Content;
pub use exchange::{VectorRequest, VectorResponse};
pub(crate) use expect::Came;
pub use expect::Expect;

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use model::document::PhaseName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::grants::PackData;
use crate::package::PackageError;
use expect::Wanted;

/// The time of a vector that names none: 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// A vector and its name.
#[derive(Clone, Debug)]
pub struct NamedVector {
    /// The name of its file, without `.json`.
    pub name: String,
    /// What it holds.
    pub vector: Vector,
}

/// One example: what is asked, and what must come of it. What is left out is as its type says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// The settings that the pack is configured with.
    #[serde(default = "no_settings")]
    pub settings: Value,
    /// When it is asked; `request` when absent.
    #[serde(default = "request_phase")]
    pub phase: PhaseName,
    /// The request.
    #[serde(default)]
    pub request: VectorRequest,
    /// The response, for the phase `response`; 200 without headers and body when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<VectorResponse>,
    /// The time; 2026-01-01T00:00:00Z when absent.
    #[serde(default = "now")]
    pub now: Timestamp,
    /// What operators keep for the pack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Content>,
    /// What must come of it.
    pub expect: Expect,
}

fn no_settings() -> Value {
    Value::Object(serde_json::Map::new())
}

fn request_phase() -> PhaseName {
    PhaseName::Request
}

fn now() -> Timestamp {
    NOW
}

impl NamedVector {
    /// Reads a vector's JSON.
    pub fn parse(name: &str, json: &[u8]) -> Result<Self, PackageError> {
        let refuse = |message: String| PackageError::Vector { name: name.to_owned(), message };
        let vector: Vector =
            serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))?;
        vector.check().map_err(refuse)?;
        Ok(Self { name: name.to_owned(), vector })
    }
}

impl Vector {
    fn check(&self) -> Result<(), String> {
        if !self.settings.is_object() {
            return Err("`settings` is an object".to_owned());
        }
        if self.response.is_some() && self.phase != PhaseName::Response {
            return Err("it has a `response`, but its `phase` is not `response`".to_owned());
        }
        match (self.expect.wanted(), self.phase) {
            (Wanted::Refused(_), _)
            | (Wanted::Cost(_), PhaseName::Cost)
            | (Wanted::Decision(_), PhaseName::Request | PhaseName::Response) => {}
            (Wanted::Cost(_), _) => return Err("only the phase `cost` gives a cost".to_owned()),
            (Wanted::Decision(_), PhaseName::Cost) => {
                return Err("the phase `cost` gives a cost, not a decision".to_owned());
            }
        }
        self.request.policy_request(self.now)?;
        self.response.clone().unwrap_or_default().policy_response()?;
        Ok(())
    }

    pub(crate) fn pack_data(&self) -> PackData {
        let value = |(key, value): (&String, &Content)| (key.clone(), Bytes::from(value.0.clone()));
        self.data.iter().map(value).collect()
    }
}
