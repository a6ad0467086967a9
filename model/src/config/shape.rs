//! The document's shape, judged by the JSON Schema that its types give. Plain serde would stop at the first error.

use super::{ConfigError, escape};
use crate::document::{Document, SECRET_FIELDS};
use crate::id::is_id;
use crate::quota::{Quota, Rate};
use crate::record::RecordMode;
use crate::units::{Duration, Size};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::Location;
use jsonschema::{JsonType, ValidationError, Validator};
use serde_json::Value;
use std::sync::LazyLock;

/// A named format of the schema: what it takes, and what to say of anything else.
struct Format {
    name: &'static str,
    takes: fn(&str) -> bool,
    wanted: &'static str,
}

const FORMATS: &[Format] = &[
    Format {
        name: "id",
        takes: is_id,
        wanted: "an id: 1 to 64 letters, digits, `.`, `_` or `-`, starting with a letter or digit",
    },
    Format {
        name: "span",
        takes: |text| text.parse::<Duration>().is_ok(),
        wanted: "a duration, like `500ms`, `30s` or `24h`",
    },
    Format {
        name: "size",
        takes: |text| text.parse::<Size>().is_ok(),
        wanted: "a size, like `512B`, `64KiB` or `1MiB`",
    },
    Format {
        name: "rate",
        takes: |text| text.parse::<Rate>().is_ok(),
        wanted: "a rate, like `50/s`, `100/min` or `10/h`",
    },
    Format {
        name: "quota",
        takes: |text| text.parse::<Quota>().is_ok(),
        wanted: "a quota, like `100000/day`: so many per `minute`, `hour`, `day`, `week`, `month` or `billing_month`",
    },
    Format {
        name: "record",
        takes: |text| text.parse::<RecordMode>().is_ok(),
        wanted: "`required`, `off`, or a share that is more than 0 and at most 1, like `sampled(0.1)`",
    },
    Format {
        name: "date-time",
        takes: |text| text.parse::<jiff::Timestamp>().is_ok(),
        wanted: "a time with its offset, like `2027-01-01T00:00:00Z` (RFC 3339)",
    },
    Format {
        name: "label",
        takes: |text| {
            (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        },
        wanted: "a name: 1 to 64 characters, without line breaks and other control characters",
    },
    Format {
        name: "json-pointer",
        takes: is_pointer,
        wanted: "a pointer into JSON, like `/data/id`; `\"\"` for all of it (RFC 6901)",
    },
    Format {
        name: "header",
        takes: |text| http::HeaderName::try_from(text).is_ok(),
        wanted: "the name of a header, like `X-Cost`",
    },
    Format { name: "address", takes: is_address, wanted: "`host:port`" },
    Format {
        name: "path",
        takes: is_path_template,
        wanted: "a path like `/contacts` or `/contacts/{id}`, outside `/.tollgate`",
    },
    Format {
        name: "timezone",
        takes: |text| jiff::tz::TimeZone::get(text).is_ok(),
        wanted: "an IANA time zone, like `Europe/Berlin` or `UTC`",
    },
    Format { name: "sha256", takes: is_sha256, wanted: "`sha256:` and 64 lower-case hex digits" },
    Format {
        name: "public-key",
        takes: is_public_key,
        wanted: "a public key: `ed25519:` and the base64 of its 32 bytes, as `tollgate pack keygen` prints it",
    },
    Format {
        name: "sealed",
        takes: is_sealed,
        wanted: "a sealed secret, `tg1.` and what follows, as the admin API gives it: it makes one of `{value: …}`",
    },
    Format {
        name: "key-prefix",
        takes: |text| {
            (8..=32).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        },
        wanted: "8 to 32 letters, digits or `_`: the first characters of the key",
    },
    Format {
        name: "pack-version",
        takes: is_pack_version,
        wanted: "a version of three numbers, like `1.0.0`",
    },
    Format {
        name: "pack-reference",
        takes: |text| {
            text.split_once('@')
                .is_some_and(|(name, version)| is_id(name) && is_pack_version(version))
        },
        wanted: "a pack and its version, like `require-header@1.0.0`",
    },
];

/// Formats whose values are not repeated in an error: where they belong, people write the secret itself.
const SECRET_FORMATS: &[&str] = &["sha256", "public-key", "sealed", "key-prefix"];
/// A field whose object holds what is derived from a secret; those of [`SECRET_FIELDS`] hold secrets.
const API_KEY: &str = "api_key";
/// What people call a secret that they write down. Any other unknown field beside a secret may be the secret itself.
const SECRET_NAMES: &[&str] = &["value", "key", "secret", "plain", "password", "token"];

/// RFC 6901 §3.
fn is_pointer(text: &str) -> bool {
    let escapes = text.match_indices('~').map(|(at, _)| text.as_bytes().get(at + 1));
    (text.is_empty() || text.starts_with('/'))
        && escapes.into_iter().all(|next| matches!(next, Some(b'0' | b'1')))
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', '@', ' ', '?', '#'])
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn is_path_template(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('/') else { return false };
    let mut segments = rest.split('/').peekable();
    if segments.peek() == Some(&".tollgate") {
        return false;
    }
    while let Some(segment) = segments.next() {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let fits = match name {
            Some(name) => match name.strip_prefix('*') {
                Some(rest) => is_id(rest) && segments.peek().is_none(),
                None => is_id(name),
            },
            None => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._~-!$&'()*+,;=:@".contains(c);
                !segment.is_empty() && segment.chars().all(plain)
            }
        };
        if !fits {
            return false;
        }
    }
    true
}

fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_public_key(text: &str) -> bool {
    let bytes = text.strip_prefix("ed25519:").map(|base64| STANDARD.decode(base64));
    matches!(bytes, Some(Ok(bytes)) if bytes.len() == 32)
}

/// `tg1.<key id>.<base64url>`, as `store` seals.
fn is_sealed(text: &str) -> bool {
    let mut parts = text.split('.');
    let word = |part: Option<&str>| {
        part.is_some_and(|part| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            !part.is_empty() && part.chars().all(plain)
        })
    };
    parts.next() == Some("tg1")
        && word(parts.next())
        && word(parts.next())
        && parts.next().is_none()
}

fn is_pack_version(text: &str) -> bool {
    let mut parts = 0;
    text.split('.').all(|part| {
        parts += 1;
        !part.is_empty() && part.len() <= 9 && part.bytes().all(|b| b.is_ascii_digit())
    }) && parts == 3
}

/// The schema that the types of [`Document`] give.
pub(super) fn schema() -> Value {
    let mut schema = schemars::schema_for!(Document).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), "Tollgate document".into());
    }
    schema
}

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| validator(&schema()));

fn validator(schema: &Value) -> Validator {
    let mut options = jsonschema::options().should_validate_formats(true);
    for format in FORMATS {
        options = options.with_format(format.name, format.takes);
    }
    options.build(schema).expect("types give valid schemas; tests build them")
}

/// Every way in which the value has not the document's shape.
pub(super) fn errors(value: &Value) -> Vec<ConfigError> {
    explained(&VALIDATOR, value)
}

/// Every way in which the value has not the shape of a type.
pub(super) fn errors_of<T: schemars::JsonSchema>(value: &Value) -> Vec<ConfigError> {
    let mut schema = schemars::schema_for!(T).to_value();
    if let Some(schema) = schema.as_object_mut() {
        // The validator names the unknown fields of what has known ones only, be they none.
        schema.entry("properties").or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    explained(&validator(&schema), value)
}

fn explained(validator: &Validator, value: &Value) -> Vec<ConfigError> {
    let mut found = Vec::new();
    for error in validator.iter_errors(value) {
        explain(&error, &mut found);
    }
    found
}

/// One error of the schema as people understand it: each unknown field where it stands, a choice by its options.
fn explain(error: &ValidationError<'_>, found: &mut Vec<ConfigError>) {
    let at = error.instance_path().to_string();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            found.extend(unexpected.iter().map(|field| unknown_field(&at, field)));
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            // What may be left out is a choice between its type and null: only the type is of interest.
            let branches: Vec<_> = context.iter().filter(|branch| !wants_null(branch)).collect();
            match meant(&branches, error.instance_path()) {
                Some(branch) => branch.iter().for_each(|error| explain(error, found)),
                None => found.push(choice(error, context)),
            }
        }
        kind => found.push(ConfigError::new(at, describe(kind, error.instance()))),
    }
}

fn wants_null(branch: &[ValidationError<'_>]) -> bool {
    let [only] = branch else { return false };
    matches!(only.kind(), ValidationErrorKind::Type { kind: TypeKind::Single(JsonType::Null) })
}

type Branch = Vec<ValidationError<'static>>;

/// The branch of a choice whose errors are of interest: the only one, or the one whose tag or type the value has.
fn meant<'a>(branches: &[&'a Branch], at: &Location) -> Option<&'a Branch> {
    if let [only] = branches {
        return Some(only);
    }
    let is_meant = |branch: &&&Branch| {
        !branch.iter().any(|error| is_wrong_constant(error) || is_wrong_type(error, at))
    };
    let mut meant = branches.iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn is_wrong_constant(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), ValidationErrorKind::Constant { .. })
}

/// Whether the value there is another thing altogether than what was asked for.
fn is_wrong_type(error: &ValidationError<'_>, at: &Location) -> bool {
    let is_one =
        matches!(error.kind(), ValidationErrorKind::Type { .. } | ValidationErrorKind::Enum { .. });
    is_one && error.instance_path() == at
}

/// What a choice between named values offers, where its tag is when it has one.
fn choice(error: &ValidationError<'_>, context: &[Branch]) -> ConfigError {
    let all = || context.iter().flatten();
    let options = all().flat_map(|error| match error.kind() {
        ValidationErrorKind::Constant { expected_value } => vec![(**expected_value).clone()],
        ValidationErrorKind::Enum { options } => options.as_array().cloned().unwrap_or_default(),
        _ => Vec::new(),
    });
    let options: Vec<Value> = options.collect();
    let absent = || all().find(|e| matches!(e.kind(), ValidationErrorKind::Required { .. }));
    match (all().find(|error| is_wrong_constant(error)), options.is_empty()) {
        (None, true) if let Some(absent) = absent() => {
            let at = absent.instance_path().to_string();
            ConfigError::new(at, describe(absent.kind(), absent.instance()))
        }
        (constant, _) => {
            let (at, instance) = constant.map_or_else(
                || (error.instance_path().to_string(), error.instance()),
                |error| (error.instance_path().to_string(), error.instance()),
            );
            let options = listed(&Value::Array(options));
            ConfigError::new(at, format!("{} is not one of {options}", abridged(instance)))
        }
    }
}

fn unknown_field(at: &str, field: &str) -> ConfigError {
    const BY_REFERENCE: &str =
        "secrets stand by reference (`env`, `file`, `sealed`), API keys by their hash";
    let pointer = format!("{at}/{}", escape(field));
    let holder =
        at.rsplit('/').next().is_some_and(|name| name == API_KEY || SECRET_FIELDS.contains(&name));
    if !holder {
        return ConfigError::new(pointer, format!("unknown field `{}`", field.escape_debug()));
    }
    if SECRET_NAMES.contains(&field) {
        return ConfigError::new(pointer, format!("unknown field `{field}`: {BY_REFERENCE}"));
    }
    ConfigError::new(at, format!("has an unknown field: {BY_REFERENCE}"))
}

fn describe(kind: &ValidationErrorKind, instance: &Value) -> String {
    let shown = abridged(instance);
    match kind {
        ValidationErrorKind::Required { property } => {
            format!("lacks the field `{}`", property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Type { kind } => {
            let wanted: Vec<String> = match kind {
                TypeKind::Single(one) => vec![article(&one.to_string())],
                // What may be left out may be null as well: that is no wish.
                TypeKind::Multiple(several) => {
                    let several = several.iter().filter(|one| *one != JsonType::Null);
                    several.map(|one| article(&one.to_string())).collect()
                }
            };
            format!("is {}, not {}", type_of(instance), wanted.join(" or "))
        }
        ValidationErrorKind::Format { format } => {
            let wanted = FORMATS.iter().find(|known| known.name == format.as_str());
            let wanted = wanted.map_or(format.as_str(), |known| known.wanted);
            if SECRET_FORMATS.contains(&format.as_str()) {
                format!("is not {wanted}")
            } else {
                format!("{shown} is not {wanted}")
            }
        }
        ValidationErrorKind::Enum { options } => {
            format!("{shown} is not one of {}", listed(options))
        }
        ValidationErrorKind::Constant { expected_value } => {
            format!("{shown} is not {expected_value}")
        }
        ValidationErrorKind::Minimum { limit } => format!("{shown} is less than {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("{shown} is more than {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            format!("{shown} is not more than {limit}")
        }
        ValidationErrorKind::MinItems { .. } | ValidationErrorKind::MinLength { .. } => {
            "must not be empty".to_owned()
        }
        ValidationErrorKind::MaxLength { limit } => format!("has more than {limit} characters"),
        ValidationErrorKind::MaxItems { limit } => format!("has more than {limit} entries"),
        other => format!("does not fit ({})", other.keyword()),
    }
}

fn listed(options: &Value) -> String {
    let names = options.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn article(wanted: &str) -> String {
    let vowel = wanted.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {wanted}", if vowel { "an" } else { "a" })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The value as an error may show it: short, and never the inside of an object.
fn abridged(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > 40 => {
            format!("`{}…`", text.chars().take(40).collect::<String>().escape_debug())
        }
        Value::String(text) => format!("`{}`", text.escape_debug()),
        Value::Array(_) | Value::Object(_) => type_of(value).to_owned(),
        other => other.to_string(),
    }
}
