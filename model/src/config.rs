//! `Document` (as written) → [`Config`] (checked).
//!
//! Invariant: a `Config` has no dangling reference, no duplicate id, no contradiction. Checking reports *all* errors in
//! one answer, each with an RFC 6901 pointer: shape errors ([`shape`]), references ([`references`]) and meaning ([`rules`]).

mod event_schema;
mod references;
mod rules;
mod shape;

pub use event_schema::event_schema;

use crate::document::Document;
use crate::units;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::budget::BudgetBreach;
use std::fmt;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ConfigError {
    /// RFC 6901 pointer at the offending value, or at the unknown field.
    pub pointer: String,
    /// What is wrong, and how it should be.
    pub message: String,
}

impl ConfigError {
    /// An error at this place.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 6901: the whole document's pointer is empty.
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

/// A checked document.
#[derive(Clone, Debug)]
pub struct Config {
    document: Document,
}

impl Config {
    /// What was checked.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The schedules of endpoints that may last for longer than events are kept for, each as an error.
    pub fn schedules_beyond(&self, kept: units::Duration) -> Vec<ConfigError> {
        rules::schedules_beyond(&self.document, kept)
    }
}

/// The largest document that is read, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// Parses YAML or JSON text; anything but one well-formed document is a single error at the root.
pub fn parse(text: &str) -> Result<Value, Vec<ConfigError>> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(vec![ConfigError::new(
            "",
            format!("the document is larger than {DOCUMENT_BYTES_MAX} bytes"),
        )]);
    }
    let at_root = |error: String| vec![ConfigError::new("", error)];
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| at_root(format!("the document is not JSON: {error}")));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: 5_000_000,
            max_events: 20_000_000,
            max_total_scalar_bytes: DOCUMENT_BYTES_MAX,
        },
        // YAML 1.2 §10.3.2: `off`, `no` and `on` are text, as they are in `record: off`.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| at_root(told(&error)))
}

/// What the parser says, to people. A key that stands twice is not repeated: they write secrets in odd places.
fn told(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let at = error.location().map(|location| (location.line(), location.column()));
    let at = at.map(|(line, column)| format!(", at line {line}, column {column}"));
    let at = at.unwrap_or_default();
    let mut cause = error;
    while let Error::AliasError { error, .. } = cause {
        cause = error;
    }
    match cause {
        Error::DuplicateMappingKey { .. } => {
            format!("the document is not YAML: a key stands twice{at}")
        }
        Error::MultipleDocuments { .. } => {
            format!("there is more than one YAML document: a second one begins{at}")
        }
        Error::Budget { breach, .. } => {
            format!("the document is more than is read: {}{at}", excess(breach))
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("the document is more than is read: {ALIASES}{at}")
        }
        _ => format!("the document is not YAML: {error}"),
    }
}

const ALIASES: &str = "too much stands behind its anchors and aliases";

/// What there is too much of.
fn excess(breach: &BudgetBreach) -> &'static str {
    match breach {
        BudgetBreach::Depth { .. } => "it is nested too deeply",
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::AliasAnchorRatio { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. }
        | BudgetBreach::MergeKeys { .. } => ALIASES,
        _ => "it holds too many values",
    }
}

/// Parses and checks text.
pub fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    check(&parse(text)?)
}

/// Checks a parsed document. All errors, in the order of their pointers.
pub fn check(value: &Value) -> Result<Config, Vec<ConfigError>> {
    let mut errors = shape::errors(value);
    let whole = errors.is_empty();
    let sections = rules::Sections::read(value, &errors);
    references::check(value, &mut errors);
    rules::check(&sections, &mut errors);
    if whole && errors.is_empty() {
        return Document::deserialize(value)
            .map(|document| Config { document })
            .map_err(|error| vec![ConfigError::new("", error.to_string())]);
    }
    errors.sort();
    errors.dedup();
    Err(errors)
}

/// The JSON Schema of the document (draft 2020-12), as `tollgate schema document` prints it.
pub fn schema() -> Value {
    shape::schema()
}

/// Every way in which a value has not the shape of a type, as errors of a document are told.
pub fn shape_errors<T: JsonSchema>(value: &Value) -> Vec<ConfigError> {
    let mut errors = shape::errors_of::<T>(value);
    errors.sort();
    errors.dedup();
    errors
}

/// Escapes one token of a pointer (RFC 6901 §3).
pub(crate) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
