//! Removes headers that the upstream should not see and sets fixed ones. Never denies.

use std::collections::BTreeMap;
use tollgate_pack::{Decision, HeaderEdit, Policy, Request, is_header_name, pack};

/// What an attachment changes.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The headers to remove.
    #[serde(default)]
    remove: Vec<String>,
    /// The headers to set, to these values. One that is also removed is set.
    #[serde(default)]
    set: BTreeMap<String, String>,
}

struct HeaderHygiene {
    settings: Settings,
}

pack!(HeaderHygiene);

impl Policy for HeaderHygiene {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        if settings.remove.is_empty() && settings.set.is_empty() {
            return Err("nothing to do: give `remove` or `set`".to_owned());
        }
        if let Some(name) =
            settings.remove.iter().chain(settings.set.keys()).find(|name| !is_header_name(name))
        {
            return Err(format!("`{name}` is not a header's name"));
        }
        let control = |value: &str| value.chars().any(|c| c.is_control() && c != '\t');
        match settings.set.iter().find(|(_, value)| control(value)) {
            Some((name, _)) => Err(format!("the value of `{name}` has control characters")),
            None => Ok(Self { settings }),
        }
    }

    fn on_request(&self, request: &Request) -> Decision {
        let present = |name: &&String| request.header(name).is_some();
        let removed = self.settings.remove.iter().filter(present).map(HeaderEdit::remove);
        let set =
            self.settings.set.iter().map(|(name, value)| HeaderEdit::set(name, value.as_str()));
        removed.chain(set).collect::<Vec<_>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    #[test]
    fn headers_are_removed_where_present_and_set_always() {
        let remove = r#"{"remove":["X-Debug","x-internal"]}"#;
        let both = r#"{"remove":["x-debug"],"set":{"x-edge":"tollgate"}}"#;
        let set = || HeaderEdit::set("x-edge", "tollgate");
        for (settings, header, expected) in [
            (remove, "accept", Decision::Continue),
            (remove, "x-debug", Decision::Edit(vec![HeaderEdit::remove("X-Debug")])),
            (both, "accept", Decision::Edit(vec![set()])),
            (both, "x-debug", Decision::Edit(vec![HeaderEdit::remove("x-debug"), set()])),
        ] {
            let policy: HeaderHygiene = configure(settings).expect("good settings");
            let request = Request::builder().header(header, "1").build();
            assert_eq!(policy.on_request(&request), expected, "{settings} {header}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "nothing to do"),
            (r#"{"remove":["a b"]}"#, "`a b` is not a header's name"),
            (r#"{"set":{"x":"a\nb"}}"#, "the value of `x` has control characters"),
            (r#"{"drop":["x"]}"#, "unknown field `drop`"),
        ] {
            let error = configure::<HeaderHygiene>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
