//! Context attributes (CloudEvents 1.0 §3): their names, and what values they may have.

use jiff::Timestamp;

/// What every event has (CloudEvents 1.0 §3.1).
pub(super) const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// The longest name, in characters.
const NAME_MAX: usize = 20;

/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1_024;

/// A value: text, or a boolean or integer, which stand in JSON without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Literal,
}

impl Attribute {
    /// A string.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: Kind::Text }
    }

    /// `true`, `false` or an integer.
    pub(super) fn literal(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: Kind::Literal }
    }

    /// As text, whatever it is.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it stands in JSON as it is.
    pub(super) fn is_literal(&self) -> bool {
        self.kind == Kind::Literal
    }
}

/// What is wrong with an attribute of this name and value.
pub(super) fn check(name: &str, value: &Attribute) -> Result<(), String> {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(lower) {
        return Err(format!(
            "Names of attributes are 1 to {NAME_MAX} of `a` to `z` and `0` to `9`."
        ));
    }
    let text = value.as_str();
    if text.len() > VALUE_BYTES_MAX {
        return Err(format!("It is longer than {VALUE_BYTES_MAX} bytes."));
    }
    if text.chars().any(is_forbidden) {
        return Err("It has a control character, or one that is none.".to_owned());
    }
    if value.is_literal() && is_defined(name) {
        return Err("It must be a string.".to_owned());
    }
    match name {
        "specversion" if text != "1.0" => Err("Only `1.0` is known.".to_owned()),
        "data" => Err("`data` is no attribute.".to_owned()),
        "id" | "type" | "subject" | "tenant" if text.is_empty() => {
            Err("It must not be empty.".to_owned())
        }
        "source" if !is_uri_reference(text) => {
            Err("It must be a URI-reference (RFC 3986 §4.1).".to_owned())
        }
        "dataschema" if !is_uri(text) => Err("It must be a URI (RFC 3986 §3).".to_owned()),
        "time" if !is_time(text) => {
            Err("It must be a time like `2026-11-21T15:04:05Z` (RFC 3339).".to_owned())
        }
        "datacontenttype" if !is_media_type(text) => {
            Err("It must be a media type like `application/json` (RFC 2045).".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the specification, or this gateway, says what it is: a string.
fn is_defined(name: &str) -> bool {
    const OTHERS: [&str; 5] = ["subject", "time", "datacontenttype", "dataschema", "tenant"];
    REQUIRED.contains(&name) || OTHERS.contains(&name)
}

/// Control characters and noncharacters (CloudEvents 1.0 §2.3). A `str` has no surrogates.
fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// The characters of RFC 3986, each `%` with two digits; not empty.
fn is_uri_reference(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let sound = match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                hex(rest.next()) && hex(rest.next())
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !sound {
            return false;
        }
    }
    !text.is_empty()
}

fn is_uri(text: &str) -> bool {
    let scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    is_uri_reference(text) && text.split_once(':').is_some_and(|(name, _)| scheme(name))
}

/// `date-time` of RFC 3339 §5.6: stricter than what jiff reads.
pub(super) fn is_time(text: &str) -> bool {
    let shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                _ => byte.eq_ignore_ascii_case(&like),
            })
    };
    let Some((date, rest)) = text.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if rest.len() == fraction.len() {
                return false;
            }
            rest
        }
        None => rest,
    };
    shape(date, "0000-00-00t00:00:00")
        && (shape(offset, "z") || shape(offset, "+00:00"))
        && text.parse::<Timestamp>().is_ok()
}

/// `type "/" subtype *(";" parameter)`, with parameters as they are.
fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !text.is_empty() && text.bytes().all(allowed)
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    text.is_ascii() && essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

/// A media type without its parameters, in lower case.
fn essence(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether data of this media type is JSON: `json`, or with the suffix `+json` (RFC 6839 §3.1).
pub(super) fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.split_once('/').is_some_and(|(_, sub)| sub == "json" || sub.ends_with("+json"))
}

/// Whether data of this media type is text.
pub(super) fn is_textual(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.split_once('/').is_some_and(|(kind, sub)| {
        kind == "text"
            || matches!(sub, "xml" | "yaml")
            || sub.ends_with("+xml")
            || sub.ends_with("+yaml")
    })
}
