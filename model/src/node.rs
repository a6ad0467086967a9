//! The nodes of a deployment, as they report themselves.

use crate::config::ConfigError;
use crate::id::NodeName;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: NodeName,
    /// What it is: `gateway`, `admin`.
    pub roles: Vec<String>,
    /// Its build: version, and commit where it is known.
    pub build: String,
    /// The revision in force on it; 0 before the first.
    pub revision: u64,
    /// The newest revision that it could not put in force, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// When its process began.
    pub started_at: Timestamp,
    /// When it last reported.
    pub seen_at: Timestamp,
}

/// A revision that a node could not put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// Which.
    pub revision: u64,
    /// Why; at most [`ERRORS_MAX`] of all errors.
    pub errors: Vec<ConfigError>,
}

/// How many errors a node reports.
pub const ERRORS_MAX: usize = 20;
