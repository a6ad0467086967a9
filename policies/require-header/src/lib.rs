//! Denies a request that lacks a header, or whose value has the wrong form.

use regex_lite::Regex;
use tollgate_pack::{Decision, Denial, Policy, Request, is_header_name};

/// What an attachment demands. `header` and `headers` can be given together.
#[tollgate_pack::settings]
struct Settings {
    /// A header that must be there, in any form.
    header: Option<String>,
    /// Further headers that must be there.
    #[serde(default)]
    headers: Vec<Required>,
    /// The status of a refusal, 400 to 499; 403 when absent.
    #[schemars(range(min = 400, max = 499))]
    status: Option<u16>,
}

/// A header and the form of its value.
#[tollgate_pack::settings]
struct Required {
    /// Its name, in any case.
    name: String,
    /// A form that many headers have.
    #[serde(default)]
    format: Format,
    /// A regular expression that the whole value must match.
    pattern: Option<String>,
    /// The longest value, in bytes; at most 1,024 beside a pattern.
    max_length: Option<usize>,
    /// Who must send it: these methods, or all when absent.
    methods: Option<Vec<String>>,
}

/// A form that many headers have.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// Anything but nothing.
    #[default]
    Any,
    /// A UUID of any version (RFC 9562).
    Uuid,
}

/// The longest value that is compared with a pattern, in bytes: what a caller sends must not use up the fuel.
const MATCHED: usize = 1024;

struct RequireHeader {
    headers: Vec<Checked>,
    status: Option<u16>,
}

struct Checked {
    name: String,
    format: Format,
    pattern: Option<Regex>,
    max_length: usize,
    methods: Option<Vec<String>>,
}

#[tollgate_pack::pack]
impl Policy for RequireHeader {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let first = settings.header.map(Required::any);
        let headers: Vec<Checked> = first
            .into_iter()
            .chain(settings.headers)
            .map(Checked::new)
            .collect::<Result<_, _>>()?;
        if headers.is_empty() {
            return Err("nothing to do: give `header` or `headers`".to_owned());
        }
        match settings.status {
            Some(status) if !(400..500).contains(&status) => {
                Err(format!("`status` is {status}, and a refusal's is 400 to 499"))
            }
            status => Ok(Self { headers, status }),
        }
    }

    fn on_request(&self, request: &Request) -> Decision {
        let failed = self.headers.iter().find_map(|header| header.check(request).err());
        match failed {
            Some(denial) => Denial { status: self.status, ..denial }.into(),
            None => Decision::Continue,
        }
    }
}

impl Required {
    fn any(name: String) -> Self {
        Self { name, format: Format::Any, pattern: None, max_length: None, methods: None }
    }
}

impl Checked {
    fn new(required: Required) -> Result<Self, String> {
        let Required { name, format, pattern, max_length, methods } = required;
        if !is_header_name(&name) {
            return Err(format!("`{name}` is not a header's name"));
        }
        // Anchored: half a match is none.
        let whole = |pattern: String| Regex::new(&format!("^(?:{pattern})$"));
        let pattern = pattern.map(whole).transpose();
        let pattern = pattern.map_err(|error| format!("the pattern of `{name}`: {error}"))?;
        let most = if pattern.is_some() { MATCHED } else { usize::MAX };
        Ok(Self {
            name,
            format,
            pattern,
            max_length: max_length.unwrap_or(most).min(most),
            methods,
        })
    }

    fn check(&self, request: &Request) -> Result<(), Denial> {
        if self.methods.as_ref().is_some_and(|methods| !methods.contains(&request.method())) {
            return Ok(());
        }
        let Some(value) = request.header(&self.name).filter(|value| !value.is_empty()) else {
            return self.denial("header_missing", "is required.");
        };
        if value.len() > self.max_length {
            return self.denial("header_invalid", "is too long.");
        }
        if matches!(self.format, Format::Uuid) && !is_uuid(&value) {
            return self.denial("header_invalid", "must be a UUID.");
        }
        let matches =
            |pattern: &Regex| str::from_utf8(&value).is_ok_and(|value| pattern.is_match(value));
        if self.pattern.as_ref().is_some_and(|pattern| !matches(pattern)) {
            return self.denial("header_invalid", "does not have the form that is required.");
        }
        Ok(())
    }

    fn denial(&self, reason: &str, fault: &str) -> Result<(), Denial> {
        let message = ["The header `", &self.name, "` ", fault].concat();
        Err(Denial::new(reason, message).detail("header", &self.name))
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

    fn denial(settings: &str, headers: &[(&str, &str)]) -> Option<Denial> {
        let policy: RequireHeader = configure(settings).expect("good settings");
        let request =
            headers.iter().fold(Request::builder().method("POST"), |request, (name, value)| {
                request.header(name, value)
            });
        match policy.on_request(&request.build()) {
            Decision::Deny(denial) => Some(denial),
            _ => None,
        }
    }

    #[test]
    fn a_request_without_the_header_is_denied() {
        let any = r#"{"header":"X-Id"}"#;
        let two = r#"{"header":"x-id","headers":[{"name":"x-other"}]}"#;
        let uuid = r#"{"headers":[{"name":"x-id","format":"uuid"}]}"#;
        let short = r#"{"headers":[{"name":"x-id","max_length":3}]}"#;
        let digits = r#"{"headers":[{"name":"x-id","pattern":"[0-9]+|none"}]}"#;
        let puts = r#"{"headers":[{"name":"x-id","methods":["PUT"]}]}"#;
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
            (digits, &[("x-id", "12")], None),
            (digits, &[("x-id", "none")], None),
            (digits, &[("x-id", "12 ")], Some("header_invalid")),
            (digits, &[("x-id", &"1".repeat(1024))], None),
            (digits, &[("x-id", &"1".repeat(1025))], Some("header_invalid")),
            (digits, &[("x-id", "1none")], Some("header_invalid")),
            (digits, &[("x-id", "\u{e9}")], Some("header_invalid")),
            (puts, &[], None),
        ] {
            let reason = denial(settings, headers).map(|denial| denial.reason);
            assert_eq!(reason.as_deref(), expected, "{settings} {headers:?}");
        }
    }

    #[test]
    fn a_refusal_has_the_status_that_was_chosen() {
        let denied = denial(r#"{"header":"x-id","status":428}"#, &[]).expect("a denial");
        assert_eq!(denied.status, Some(428));
        assert_eq!(denied.details, [("header".to_owned(), r#""x-id""#.to_owned())]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "nothing to do"),
            (r#"{"header":"x id"}"#, "`x id` is not a header's name"),
            (r#"{"headers":[{"name":""}]}"#, "`` is not a header's name"),
            (r#"{"heder":"x-id"}"#, "unknown field `heder`"),
            (r#"{"headers":[{"name":"x","format":"iban"}]}"#, "unknown variant `iban`"),
            (r#"{"headers":[{"name":"x","pattern":"("}]}"#, "the pattern of `x`: "),
            (r#"{"header":"x","status":200}"#, "`status` is 200"),
        ] {
            let error = configure::<RequireHeader>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
