//! Denies a request that asks for larger pages than the settings allow.

use tollgate_pack::{Decision, Denial, Policy, Request};

/// What an attachment allows.
#[tollgate_pack::settings]
struct Settings {
    /// The query parameter that says how large a page is.
    #[serde(default = "limit")]
    #[schemars(length(min = 1))]
    parameter: String,
    /// The largest page.
    #[schemars(range(min = 1, max = 1_000_000))]
    max: u32,
}

fn limit() -> String {
    "limit".to_owned()
}

struct {{Name}} {
    settings: Settings,
}

#[tollgate_pack::pack]
impl Policy for {{Name}} {
    type Settings = Settings;

    // Done once, before anything is published: what it leaves behind, every decision finds.
    fn new(settings: Settings) -> Result<Self, String> {
        if settings.max == 0 {
            return Err("`max` is at least 1".to_owned());
        }
        Ok(Self { settings })
    }

    fn on_request(&self, request: &Request) -> Decision {
        let Settings { parameter, max } = &self.settings;
        let Some(asked) = request.query_param(parameter) else {
            return Decision::Continue;
        };
        if asked
            .parse()
            .is_ok_and(|size: u32| (1..=*max).contains(&size))
        {
            return Decision::Continue;
        }
        Denial::new("page_too_large", "Ask for smaller pages.")
            .status(400)
            .detail("parameter", parameter)
            .detail("max", max)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    #[test]
    fn only_pages_within_bounds_pass() {
        let policy: {{Name}} = configure(r#"{"max":100}"#).expect("good settings");
        for (query, passes) in [
            ("", true),
            ("limit=1", true),
            ("limit=100", true),
            ("limit=101", false),
            ("limit=0", false),
            ("limit=all", false),
        ] {
            let request = Request::builder().query(query).build();
            let decision = policy.on_request(&request);
            assert_eq!(decision == Decision::Continue, passes, "{query}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for settings in [r#"{}"#, r#"{"max":0}"#, r#"{"max":100,"maximum":1}"#] {
            assert!(configure::<{{Name}}>(settings).is_err(), "{settings}");
        }
    }
}
