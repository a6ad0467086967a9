//! The JSON Schemas of event types, as documents have them and as events are judged by.
//!
//! Invariant: judging by one takes time that is linear in the event and reads nothing from elsewhere, whoever wrote it.

use super::ConfigError;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator, draft202012};
use serde_json::Value;

/// The largest schema of an event type, in bytes of compact JSON.
const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// The most that one compiled `pattern` takes, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What judges `data` by a schema (draft 2020-12); formats are asserted. An error has its pointer within the schema.
pub fn event_schema(schema: &Value) -> Result<Validator, ConfigError> {
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        let message = format!("must not be larger than {SCHEMA_BYTES_MAX} bytes");
        return Err(ConfigError::new("", message));
    }
    draft202012::meta::validate(schema).map_err(|error| told(&error))?;
    draft202012::options()
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
        .build(schema)
        .map_err(|error| told(&error))
}

fn told(error: &ValidationError<'_>) -> ConfigError {
    let at = error.instance_path().to_string();
    let message = match error.kind() {
        ValidationErrorKind::Referencing(error) => {
            format!("must have all that it refers to within itself, under `$defs`: {error}")
        }
        ValidationErrorKind::Format { format } if format == "regex" => {
            "is no pattern that is understood: one without look-around and back-references"
                .to_owned()
        }
        _ => format!("is no JSON Schema (draft 2020-12): {error}"),
    };
    ConfigError::new(at, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_schema_is_told_where() {
        let deep = json!({ "properties": { "email": { "type": "text" } } });
        let remote = json!({ "$ref": "https://example.com/schema.json" });
        let file = json!({ "$ref": "file:///etc/passwd" });
        let long = json!({ "description": "x".repeat(SCHEMA_BYTES_MAX) });
        for (schema, at, message) in [
            (json!("text"), "", "is no JSON Schema"),
            (deep, "/properties/email/type", "is no JSON Schema"),
            (remote, "", "must have all that it refers to within itself"),
            (file, "", "must have all that it refers to within itself"),
            (json!({ "pattern": "(a" }), "/pattern", "is no pattern that is understood"),
            (json!({ "pattern": r"(a)\1" }), "/pattern", "is no pattern that is understood"),
            (json!({ "pattern": "(?=a)" }), "/pattern", "is no pattern that is understood"),
            (long, "", "must not be larger than"),
        ] {
            let error = event_schema(&schema).expect_err(&schema.to_string());
            assert_eq!(error.pointer, at, "{error}");
            assert!(error.message.starts_with(message), "{error}");
        }
    }

    #[test]
    fn data_is_judged() {
        let schema = json!({
            "$defs": { "mail": { "type": "string", "format": "email" } },
            "type": "object", "required": ["email"], "properties": { "email": { "$ref": "#/$defs/mail" } }
        });
        let validator = event_schema(&schema).expect("this is a schema");
        assert!(validator.is_valid(&json!({ "email": "a@example.com" })));
        assert!(!validator.is_valid(&json!({ "email": "nobody" })));
        assert!(!validator.is_valid(&json!({})));
    }
}
