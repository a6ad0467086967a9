//! Where a document has this deployment send things: judged when a change is asked for.
//!
//! Not when one is put in force: an address that is no longer allowed fails its own attempts, and nobody's traffic.

use model::config::{Config, ConfigError};
use model::document::EndpointAuthorization;
use model::webhook::Reach;

/// Everything that nothing may be sent to, as far as that is known without asking for names.
pub(super) fn forbidden(config: &Config, reach: &Reach) -> Vec<ConfigError> {
    let document = config.document();
    let mut errors = Vec::new();
    let mut judge = |at: String, url: &str| {
        if let Err(error) = reach.judge(url) {
            errors.push(ConfigError::new(at, error.to_string()));
        }
    };
    for (index, endpoint) in document.endpoints.iter().enumerate() {
        let at = format!("/endpoints/{index}");
        judge(format!("{at}/url"), &endpoint.url);
        if let Some(url) = token_url(endpoint.authorization.as_ref()) {
            judge(format!("{at}/authorization/oauth2/token_url"), url);
        }
    }
    for (index, source) in document.sources.iter().enumerate() {
        let Some(poll) = &source.poll else { continue };
        let at = format!("/sources/{index}/poll");
        judge(format!("{at}/url"), &poll.url);
        if let Some(url) = token_url(poll.authorization.as_ref()) {
            judge(format!("{at}/authorization/oauth2/token_url"), url);
        }
    }
    errors
}

fn token_url(authorization: Option<&EndpointAuthorization>) -> Option<&str> {
    Some(&authorization?.oauth2.as_ref()?.token_url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::config::read;

    #[test]
    fn each_address_is_judged_where_it_stands() {
        let document = |url: &str| {
            let oauth2 = format!(
                r#"authorization: {{ oauth2: {{ token_url: "{url}", client_id: c, client_secret: {{ file: f }} }} }}"#
            );
            let text = format!(
                r#"
format: 1
plans: [{{ id: gold, limits: [] }}]
tenants: [{{ id: acme, plan: gold, state: active, consumers: [] }}]
sources: [{{ id: s, tenant: acme, poll: {{ url: "{url}", {oauth2} }} }}]
endpoints: [{{ id: e, tenant: acme, url: "{url}", events: ["*"], secret: {{ file: f }}, {oauth2} }}]
"#
            );
            read(&text).unwrap()
        };
        let everywhere = [
            "/endpoints/0/url",
            "/endpoints/0/authorization/oauth2/token_url",
            "/sources/0/poll/url",
            "/sources/0/poll/authorization/oauth2/token_url",
        ];
        let loopback = || Reach::new(vec!["127.0.0.0/8".parse().unwrap()]);
        for (url, reach, refused) in [
            ("https://hooks.example.com/a", Reach::default(), false),
            ("https://127.0.0.1/a", Reach::default(), true),
            ("https://0x7f.1/a", Reach::default(), true),
            ("https://[::ffff:10.0.0.1]/a", Reach::default(), true),
            ("http://192.0.66.1/a", Reach::default(), true),
            ("https://localhost/a", Reach::default(), true),
            ("http://127.0.0.1:8099/a", loopback(), false),
            ("http://10.0.0.1/a", loopback(), true),
        ] {
            let errors = forbidden(&document(url), &reach);
            let at: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
            assert_eq!(at, if refused { &everywhere[..] } else { &[] }, "{url}");
        }
    }
}
