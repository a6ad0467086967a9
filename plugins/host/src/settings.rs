//! What a pack says its settings must be like: JSON Schema 2020-12.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::pack::{PackError, SettingsError, shown};

/// The most errors that are told of one attachment's settings.
const MAX_ERRORS: usize = 32;

/// A schema, ready to be applied.
pub(crate) struct SettingsSchema(Validator);

impl SettingsSchema {
    pub(crate) fn new(schema: &Value) -> Result<Self, PackError> {
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            // An engine that takes time in proportion to the text.
            .with_pattern_options(PatternOptions::regex());
        let validator = options
            .build(schema)
            .map_err(|error| PackError::Schema { message: shown(error.to_string()) })?;
        Ok(Self(validator))
    }

    /// Refuses settings that aren't as the schema says.
    pub(crate) fn check(&self, settings: &Value) -> Result<(), PackError> {
        let told = |error: jsonschema::ValidationError<'_>| SettingsError {
            pointer: error.instance_path().to_string(),
            message: shown(error.to_string()),
        };
        let errors: Vec<_> = self.0.iter_errors(settings).take(MAX_ERRORS).map(told).collect();
        if errors.is_empty() { Ok(()) } else { Err(PackError::Settings { errors }) }
    }
}
