//! Denies a request whose body is larger than the caller's plan allows, by the size that is announced: nothing is read.

use std::collections::BTreeMap;

use tollgate_pack::serde_json::Value;
use tollgate_pack::{Decision, Denial, Policy, Request, schemars};

/// How large bodies may be.
#[tollgate_pack::settings]
struct Settings {
    /// The largest body of a plan that `plans` doesn't name: `64KiB`, `2MiB`, or a number of bytes.
    max: Size,
    /// The largest bodies by the plan's id.
    #[serde(default)]
    plans: BTreeMap<String, Size>,
    /// What happens to a POST, PUT or PATCH that doesn't announce its body's size.
    #[serde(default)]
    unannounced: Unannounced,
}

/// What happens to a body whose size is not announced.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Unannounced {
    /// It is denied with 411.
    #[default]
    Deny,
    /// It passes; the route's own limit bounds it.
    Allow,
}

/// A number of bytes.
#[derive(Clone, Copy, tollgate_pack::serde::Deserialize)]
#[serde(crate = "::tollgate_pack::serde", try_from = "Value")]
struct Size(u64);

struct RequestSize {
    settings: Settings,
}

#[tollgate_pack::pack]
impl Policy for RequestSize {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self { settings })
    }

    fn on_request(&self, request: &Request) -> Decision {
        match request.body_size() {
            Some(0) => Decision::Continue,
            Some(size) => self.judge(request, size),
            None => self.unannounced(request),
        }
    }
}

impl RequestSize {
    fn judge(&self, request: &Request, size: u64) -> Decision {
        let plan = request.plan();
        let Size(max) = *self.settings.plans.get(&plan).unwrap_or(&self.settings.max);
        if size <= max {
            return Decision::Continue;
        }
        Denial::new("body_too_large", "The body is larger than your plan allows.")
            .status(413)
            .detail("plan", plan)
            .detail("max", max)
            .detail("size", size)
            .into()
    }

    fn unannounced(&self, request: &Request) -> Decision {
        let bodily = ["POST", "PUT", "PATCH"].contains(&request.method().as_str());
        match self.settings.unannounced {
            Unannounced::Deny if bodily => Denial::new(
                "length_required",
                "Say how large the body is: send a `content-length`.",
            )
            .status(411)
            .into(),
            Unannounced::Deny | Unannounced::Allow => Decision::Continue,
        }
    }
}

impl TryFrom<Value> for Size {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let bytes = match &value {
            Value::Number(bytes) => bytes.as_u64(),
            Value::String(text) => parse(text),
            _ => None,
        };
        bytes
            .map(Self)
            .ok_or_else(|| format!("{value} is no size: write `64KiB` or a number of bytes"))
    }
}

fn parse(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    const SETTINGS: &str = r#"{"max":"1KiB","plans":{"gold":2048,"free":"0B"}}"#;

    fn reason(settings: &str, request: Request) -> Option<String> {
        let policy: RequestSize = configure(settings).expect("good settings");
        match policy.on_request(&request) {
            Decision::Deny(denial) => Some(denial.reason),
            _ => None,
        }
    }

    #[test]
    fn a_body_is_judged_by_the_callers_plan() {
        for (plan, size, expected) in [
            ("silver", 1024, None),
            ("silver", 1025, Some("body_too_large")),
            ("gold", 2048, None),
            ("gold", 2049, Some("body_too_large")),
            ("free", 0, None),
            ("free", 1, Some("body_too_large")),
        ] {
            let request = Request::builder().method("POST").plan(plan).body_size(size).build();
            assert_eq!(reason(SETTINGS, request).as_deref(), expected, "{plan} {size}");
        }
    }

    #[test]
    fn a_body_of_unknown_size_is_denied_unless_the_settings_let_it_pass() {
        let allowing = r#"{"max":0,"unannounced":"allow"}"#;
        for (settings, method, expected) in [
            (SETTINGS, "POST", Some("length_required")),
            (SETTINGS, "PATCH", Some("length_required")),
            (SETTINGS, "GET", None),
            (allowing, "POST", None),
        ] {
            let request = Request::builder().method(method).build();
            assert_eq!(reason(settings, request).as_deref(), expected, "{settings} {method}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "missing field `max`"),
            (r#"{"max":"2MB"}"#, r#""2MB" is no size"#),
            (r#"{"max":"KiB"}"#, "is no size"),
            (r#"{"max":-1}"#, "-1 is no size"),
            (r#"{"max":"99999999999GiB"}"#, "is no size"),
            (r#"{"max":1,"plan":{}}"#, "unknown field `plan`"),
        ] {
            let error = configure::<RequestSize>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
