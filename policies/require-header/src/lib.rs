//! Denies a request that lacks a header, or whose value has the wrong form.

use tollgate_pack::{Decision, Denial, Policy, Request, is_header_name, pack};

/// What an attachment demands.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The header that must be there.
    header: String,
    /// Further headers that must be there.
    #[serde(default)]
    also: Vec<String>,
    /// What their values must look like.
    #[serde(default)]
    format: Format,
    /// The longest value, in bytes.
    max_length: Option<usize>,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Any,
    Uuid,
}

struct RequireHeader {
    headers: Vec<String>,
    format: Format,
    max_length: usize,
}

pack!(RequireHeader);

impl Policy for RequireHeader {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let mut headers = settings.also;
        headers.insert(0, settings.header);
        match headers.iter().find(|name| !is_header_name(name)) {
            Some(name) => Err(format!("`{name}` is not a header's name")),
            None => Ok(Self {
                headers,
                format: settings.format,
                max_length: settings.max_length.unwrap_or(usize::MAX),
            }),
        }
    }

    fn on_request(&self, request: &Request) -> Decision {
        for name in &self.headers {
            if let Err(denial) = self.check(name, request.header(name)) {
                return denial.detail("header", name).into();
            }
        }
        Decision::Continue
    }
}

impl RequireHeader {
    fn check(&self, name: &str, value: Option<Vec<u8>>) -> Result<(), Denial> {
        let invalid = |fault: &str| {
            let message = ["The header `", name, "` ", fault].concat();
            Err(Denial::new("header_invalid", message))
        };
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            let message = ["The header `", name, "` is required."].concat();
            return Err(Denial::new("header_missing", message));
        };
        if value.len() > self.max_length {
            return invalid("is too long.");
        }
        match self.format {
            Format::Uuid if !is_uuid(&value) => invalid("must be a UUID."),
            Format::Uuid | Format::Any => Ok(()),
        }
    }
}

/// Whether the value has the text form of a UUID (RFC 9562 §4), of any version.
fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    const UUID: &str = "0199a3c8-1f0e-7c11-9d6a-3f2b8f9f1c22";

    fn reason(settings: &str, headers: &[(&str, &str)]) -> Option<String> {
        let policy: RequireHeader = configure(settings).expect("good settings");
        let request = headers
            .iter()
            .fold(Request::builder(), |request, (name, value)| request.header(name, value))
            .build();
        match policy.on_request(&request) {
            Decision::Deny(denial) => Some(denial.reason),
            Decision::Continue | Decision::Edit(_) => None,
        }
    }

    #[test]
    fn a_request_without_the_header_is_denied() {
        let any = r#"{"header":"X-Id"}"#;
        let two = r#"{"header":"x-id","also":["x-other"]}"#;
        let uuid = r#"{"header":"x-id","format":"uuid"}"#;
        let short = r#"{"header":"x-id","max_length":3}"#;
        for (settings, headers, expected) in [
            (any, &[("x-id", "1")][..], None),
            (any, &[], Some("header_missing")),
            (any, &[("x-id", "")], Some("header_missing")),
            (two, &[("x-id", "1")], Some("header_missing")),
            (two, &[("x-id", "1"), ("x-other", "2")], None),
            (uuid, &[("x-id", UUID)], None),
            (uuid, &[("x-id", "0199a3c8-1f0e-7c11-9d6a_3f2b8f9f1c22")], Some("header_invalid")),
            (uuid, &[("x-id", "1")], Some("header_invalid")),
            (short, &[("x-id", "123")], None),
            (short, &[("x-id", "1234")], Some("header_invalid")),
        ] {
            assert_eq!(reason(settings, headers).as_deref(), expected, "{settings} {headers:?}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "missing field `header`"),
            (r#"{"header":"x id"}"#, "`x id` is not a header's name"),
            (r#"{"header":"x-id","also":[""]}"#, "`` is not a header's name"),
            (r#"{"heder":"x-id"}"#, "unknown field `heder`"),
            (r#"{"header":"x-id","format":"iban"}"#, "unknown variant `iban`"),
        ] {
            let error = configure::<RequireHeader>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
