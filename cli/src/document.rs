//! Documents on their way between files and the API: read as `check` reads them, printed as `apply` takes them.

use crate::remote::{Api, Form, Refusal, listed_errors};
use crate::{Ending, print, say};
use anyhow::Context as _;
use http::{HeaderName, Method, header};
use model::config::{self, ConfigError};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::Path;

/// What a change is conditional on (RFC 9110 §13.1).
pub(crate) enum Precondition {
    /// The document is still this one: its tag, with quotes.
    Is(String),
    /// There is none yet.
    Absent,
    /// Nothing: for tries only.
    None,
}

/// The text of a file; of standard input for `-`.
pub(crate) fn text_of(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))
}

/// Prints errors, each on its line, and how many they are.
pub(crate) fn show_errors(errors: &[ConfigError], form: Form) -> Ending {
    if form == Form::Json {
        print(&json!({ "valid": errors.is_empty(), "errors": errors }).to_string());
    } else {
        for error in errors {
            print(&error.to_string());
        }
        match errors.len() {
            0 => {}
            1 => say("1 error"),
            count => say(&format!("{count} errors")),
        }
    }
    if errors.is_empty() { Ending::Done } else { Ending::Refused }
}

/// What putting this text in force would say, in the API's own judgement: every error, also those that only a node can know.
pub(crate) async fn dry_run(
    api: &Api,
    text: String,
    precondition: &Precondition,
) -> anyhow::Result<Result<Vec<ConfigError>, Refusal>> {
    let request = api.request(Method::PUT, "/v1/document?dry_run=true")?;
    let answer = api.send(conditional(request, precondition).body(text)).await?;
    Ok(match answer.success() {
        Ok(answer) => Ok(answer.body.get("errors").map(listed_errors).unwrap_or_default()),
        Err(refusal) if refusal.code() == Some("CONFIG_INVALID") => Ok(refusal.errors()),
        Err(refusal) => Err(refusal),
    })
}

/// The request with its precondition.
pub(crate) fn conditional(
    request: reqwest::RequestBuilder,
    precondition: &Precondition,
) -> reqwest::RequestBuilder {
    let (name, value): (HeaderName, &str) = match precondition {
        Precondition::Is(tag) => (header::IF_MATCH, tag),
        Precondition::Absent => (header::IF_NONE_MATCH, "*"),
        Precondition::None => return request,
    };
    request.header(name, value)
}

/// A document as YAML; as JSON, which is YAML, where the other form would not be read as the same.
pub(crate) fn yaml(document: &Value) -> String {
    let text = serde_saphyr::to_string(document).ok();
    let same = |text: &String| config::parse(text).is_ok_and(|read| read == *document);
    text.filter(same).unwrap_or_else(|| format!("{document:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_as_yaml_is_read_as_the_same() {
        let demo = config::parse(demo::DOCUMENT).expect("the demo's document");
        let odd = [
            "",
            " ",
            "~",
            "null",
            "true",
            "yes",
            "No",
            "1",
            "1.0",
            "1.0.0",
            "0x1f",
            "1e3",
            "-",
            "- a",
            "a: b",
            "a #b",
            "#",
            "&a",
            "*a",
            "!t",
            "%",
            "@",
            "`",
            "'",
            "\"",
            "{",
            "}",
            "[",
            "]",
            ",",
            "?",
            ":",
            "|",
            ">",
            "a\nb",
            "a\n",
            "\n",
            "\t",
            "2026-11-21T00:00:00Z",
            "12:30",
            "é",
            "\u{1f600}",
            "\u{0}",
            "\u{7f}",
            "\u{2028}",
            "<<",
            "...",
            "---",
        ];
        let odd = json!({ "format": 1, "text": odd.as_slice(), "empty": {}, "none": [], "nested": [[1, [2]], { "a": [] }],
            "numbers": [0, -1, 1.5, 18_446_744_073_709_551_615_u64], "null": null, "truth": [true, false] });
        for document in [demo, odd, json!({})] {
            assert_eq!(config::parse(&yaml(&document)), Ok(document));
        }
        let demo = config::parse(demo::DOCUMENT).expect("the demo's document");
        assert!(!yaml(&demo).starts_with('{'), "YAML, where YAML will do");
    }
}
