//! Removes headers that the other side should not see and sets fixed ones, in requests and in responses. Never denies.

use std::collections::BTreeMap;

use tollgate_pack::{Decision, Edits, Policy, Request, Response, is_header_name, is_header_value};

/// What an attachment changes. `remove` and `set` are of the request, which the upstream sees.
#[tollgate_pack::settings]
#[derive(Default)]
struct Settings {
    /// The headers to remove from a request; a name that ends in `*` is a prefix.
    #[serde(default)]
    remove: Vec<String>,
    /// The headers to set in a request, to these values. One that is also removed is set.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// The same of the response, which the caller sees. Needs phase `response` in the attachment.
    #[serde(default)]
    response: Side,
}

/// What is changed in a response.
#[tollgate_pack::settings]
#[derive(Default)]
struct Side {
    /// The headers to remove; a name that ends in `*` is a prefix.
    #[serde(default)]
    remove: Vec<String>,
    /// The headers to set, to these values. One that is also removed is set.
    #[serde(default)]
    set: BTreeMap<String, String>,
}

struct HeaderHygiene {
    request: Changes,
    response: Changes,
}

struct Changes {
    names: Vec<String>,
    prefixes: Vec<String>,
    set: BTreeMap<String, String>,
}

#[tollgate_pack::pack]
impl Policy for HeaderHygiene {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let Settings { remove, set, response } = settings;
        let request = Changes::new(remove, set)?;
        let response = Changes::new(response.remove, response.set)?;
        if request.is_empty() && response.is_empty() {
            return Err("nothing to do: give `remove`, `set` or `response`".to_owned());
        }
        Ok(Self { request, response })
    }

    fn on_request(&self, request: &Request) -> Decision {
        self.request.edits(|name| request.header(name).is_some(), || request.header_names()).into()
    }

    fn on_response(&self, _: &Request, response: &Response) -> Decision {
        self.response
            .edits(|name| response.header(name).is_some(), || response.header_names())
            .into()
    }
}

impl Changes {
    fn new(remove: Vec<String>, set: BTreeMap<String, String>) -> Result<Self, String> {
        let (prefixes, names): (Vec<_>, Vec<_>) =
            remove.into_iter().partition(|name| name.ends_with('*'));
        let prefixes: Vec<_> =
            prefixes.iter().map(|name| name.trim_end_matches('*').to_ascii_lowercase()).collect();
        let mut named = names.iter().chain(set.keys()).chain(&prefixes);
        if let Some(name) = named.find(|name| !is_header_name(name)) {
            return Err(format!("`{name}` is not a header's name"));
        }
        match set.iter().find(|(_, value)| !is_header_value(value)) {
            Some((name, _)) => Err(format!("the value of `{name}` has control characters")),
            None => Ok(Self { names, prefixes, set }),
        }
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty() && self.set.is_empty()
    }

    /// What is there is removed, what is not isn't spoken of: most exchanges need no edit.
    fn edits(&self, is_there: impl Fn(&str) -> bool, all: impl Fn() -> Vec<String>) -> Edits {
        let mut edits = Edits::new();
        for name in self.names.iter().filter(|name| is_there(name)) {
            edits = edits.remove(name);
        }
        if !self.prefixes.is_empty() {
            let prefixed =
                |name: &String| self.prefixes.iter().any(|prefix| name.starts_with(prefix));
            edits = all().into_iter().filter(prefixed).fold(edits, Edits::remove);
        }
        self.set.iter().fold(edits, |edits, (name, value)| edits.set(name, value.as_str()))
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
        let prefix = r#"{"remove":["X-Int-*"]}"#;
        let edits = Edits::new;
        for (settings, header, expected) in [
            (remove, "accept", edits()),
            (remove, "x-debug", edits().remove("X-Debug")),
            (both, "accept", edits().set("x-edge", "tollgate")),
            (both, "x-debug", edits().remove("x-debug").set("x-edge", "tollgate")),
            (prefix, "x-int-role", edits().remove("x-int-role")),
            (prefix, "x-internal", edits()),
        ] {
            let policy: HeaderHygiene = configure(settings).expect("good settings");
            let request = Request::builder().header(header, "1").build();
            assert_eq!(policy.on_request(&request), expected.into(), "{settings} {header}");
        }
    }

    #[test]
    fn a_response_has_rules_of_its_own() {
        let settings = r#"{"remove":["x-debug"],"response":{"remove":["server","x-powered-*"],"set":{"x-frame-options":"DENY"}}}"#;
        let policy: HeaderHygiene = configure(settings).expect("good settings");
        let request = Request::builder().build();
        let response = Response::builder()
            .header("Server", "crm/1")
            .header("x-powered-by", "php")
            .header("x-debug", "1")
            .build();
        let expected =
            Edits::new().remove("server").remove("x-powered-by").set("x-frame-options", "DENY");
        assert_eq!(policy.on_response(&request, &response), expected.into());
        assert_eq!(policy.on_request(&request), Decision::Continue);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "nothing to do"),
            (r#"{"remove":["a b"]}"#, "`a b` is not a header's name"),
            (r#"{"remove":["*"]}"#, "`` is not a header's name"),
            (r#"{"set":{"x":"a\nb"}}"#, "the value of `x` has control characters"),
            (r#"{"response":{"set":{"x":"a\nb"}}}"#, "the value of `x` has control characters"),
            (r#"{"drop":["x"]}"#, "unknown field `drop`"),
        ] {
            let error = configure::<HeaderHygiene>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
