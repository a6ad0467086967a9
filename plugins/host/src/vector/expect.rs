//! What must come of a vector, and how what came differs from it. What an expectation does not name is not compared.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use model::rollout::Outcome;
use model::{Decision, HeaderEdit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::content::{Content, told};

/// What must come of a vector: `{"decision": …}` with what is compared of it, `{"cost": N}`, or `{"refused": …}` with a part
/// of the message by which the settings are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Expect {
    written: Value,
    wanted: Wanted,
}

impl Expect {
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// In what an outcome differs; none when it is as expected.
    pub(crate) fn difference(&self, came: &Came) -> Option<String> {
        let differing = match (&self.wanted, came) {
            (Wanted::Refused(part), Came::Refused(message)) => {
                let found = message.contains(part.as_str());
                (!found).then(|| format!("the message {message:?} does not contain {part:?}"))
            }
            (Wanted::Cost(wanted), Came::Of(Outcome::Cost(got), _)) => {
                (wanted != got).then(|| format!("cost: expected {wanted}, got {got}"))
            }
            (Wanted::Decision(wanted), Came::Of(Outcome::Decided(got), _)) => {
                wanted.difference(got)
            }
            _ => Some(format!("expected {}, got {}", self.wanted.name(), came.told())),
        };
        differing.filter(|difference| !difference.is_empty())
    }
}

impl TryFrom<Value> for Expect {
    type Error = String;

    fn try_from(written: Value) -> Result<Self, String> {
        let fields = written.as_object().ok_or("`expect` is an object")?;
        let name =
            ["decision", "cost", "refused"].into_iter().find(|name| fields.contains_key(*name));
        let wanted = match name {
            Some("cost") => Wanted::Cost(only::<Cost>(&written)?.cost),
            Some("refused") => Wanted::Refused(only::<Refused>(&written)?.refused),
            Some(_) => Wanted::Decision(only(&written)?),
            None => return Err("`expect` has `decision`, `cost` or `refused`".to_owned()),
        };
        Ok(Self { written, wanted })
    }
}

impl From<Expect> for Value {
    fn from(expect: Expect) -> Self {
        expect.written
    }
}

fn only<T: serde::de::DeserializeOwned>(written: &Value) -> Result<T, String> {
    serde_json::from_value(written.clone()).map_err(|error| format!("`expect`: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    cost: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    refused: String,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Decision(WantedDecision),
    Cost(u32),
    Refused(String),
}

impl Wanted {
    fn name(&self) -> &'static str {
        match self {
            Self::Decision(decision) => decision.name(),
            Self::Cost(_) => "a cost",
            Self::Refused(_) => "a refusal of the settings",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum WantedDecision {
    Continue {},
    Edit {
        headers: Option<Vec<WantedEdit>>,
        body: Option<Content>,
    },
    Deny {
        status: Option<u16>,
        reason: Option<String>,
        message: Option<String>,
        details: Option<Map<String, Value>>,
    },
    Answer {
        status: Option<u16>,
        headers: Option<Vec<(String, Content)>>,
        body: Option<Content>,
    },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WantedEdit {
    Set(String, Content),
    Append(String, Content),
    Remove(String),
}

impl WantedDecision {
    fn name(&self) -> &'static str {
        match self {
            Self::Continue {} => "continue",
            Self::Edit { .. } => "edit",
            Self::Deny { .. } => "deny",
            Self::Answer { .. } => "answer",
        }
    }

    fn difference(&self, got: &Decision) -> Option<String> {
        let mut found = Differences(Vec::new());
        match (self, got) {
            (Self::Continue {}, Decision::Continue) => {}
            (Self::Edit { headers, body }, Decision::Edit(edits)) => {
                let wanted = headers.as_ref().map(|edits| {
                    edits.iter().map(|edit| edit.told()).collect::<Vec<_>>().join(", ")
                });
                let edits_told: Vec<_> = edits.headers.iter().map(edit_told).collect();
                found.add("headers", wanted, edits_told.join(", "));
                let got = edits.body.as_ref().map_or("no change".to_owned(), |body| told(body));
                found.add("body", body.as_ref().map(|body| told(&body.0)), got);
            }
            (Self::Deny { status, reason, message, details }, Decision::Deny(denial)) => {
                found.add(
                    "status",
                    status.map(|s| s.to_string()),
                    denial.status.as_u16().to_string(),
                );
                found.add("reason", reason.clone(), denial.reason.clone());
                found.add("message", message.clone(), denial.message.clone());
                let sorted = |details: &Map<String, Value>| {
                    let mut details = details.clone();
                    details.sort_keys();
                    Value::Object(details).to_string()
                };
                found.add("details", details.as_ref().map(sorted), sorted(&denial.details));
            }
            (Self::Answer { status, headers, body }, Decision::Answer(answer)) => {
                found.add(
                    "status",
                    status.map(|s| s.to_string()),
                    answer.status.as_u16().to_string(),
                );
                let line = |name: &str, value: &[u8]| {
                    format!("{}: {}", name.to_ascii_lowercase(), told(value))
                };
                let wanted = headers.as_ref().map(|lines| {
                    lines
                        .iter()
                        .map(|(name, value)| line(name, &value.0))
                        .collect::<Vec<_>>()
                        .join(", ")
                });
                let got = answer
                    .headers
                    .iter()
                    .map(|(name, value)| line(name.as_str(), value.as_bytes()));
                found.add("headers", wanted, got.collect::<Vec<_>>().join(", "));
                found.add("body", body.as_ref().map(|body| told(&body.0)), told(&answer.body));
            }
            _ => {
                let got = Came::Of(Outcome::Decided(got.clone()), String::new());
                return Some(format!("expected {}, got {}", self.name(), got.told()));
            }
        }
        Some(found.0.join("; "))
    }
}

/// Where an outcome isn't as expected.
struct Differences(Vec<String>);

impl Differences {
    fn add(&mut self, what: &str, wanted: Option<String>, got: String) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
            self.0.push(format!("{what}: expected {wanted}, got {got}"));
        }
    }
}

impl WantedEdit {
    fn told(&self) -> String {
        let line = |verb: &str, name: &str, value: &Content| {
            format!("{verb} {}: {}", name.to_ascii_lowercase(), told(&value.0))
        };
        match self {
            Self::Set(name, value) => line("set", name, value),
            Self::Append(name, value) => line("append", name, value),
            Self::Remove(name) => format!("remove {}", name.to_ascii_lowercase()),
        }
    }
}

fn edit_told(edit: &HeaderEdit) -> String {
    let line = |verb: &str, name: &HeaderName, value: &HeaderValue| {
        format!("{verb} {name}: {}", told(value.as_bytes()))
    };
    match edit {
        HeaderEdit::Set(name, value) => line("set", name, value),
        HeaderEdit::Append(name, value) => line("append", name, value),
        HeaderEdit::Remove(name) => format!("remove {name}"),
    }
}

/// What came of a vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Came {
    /// The settings were refused, with this message.
    Refused(String),
    /// The pack was asked; and what the host says where it failed.
    Of(Outcome, String),
}

impl Came {
    /// In a line, with everything that the pack said.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Refused(message) => format!("settings refused: {message}"),
            Self::Of(Outcome::Cost(units), _) => format!("cost {units}"),
            Self::Of(Outcome::Failed(reason), detail) => {
                format!("failed ({}): {detail}", reason.as_str())
            }
            Self::Of(Outcome::Decided(Decision::Continue), _) => "continue".to_owned(),
            Self::Of(Outcome::Decided(Decision::Deny(denial)), _) => {
                let mut told = format!("deny {} {}", denial.status.as_u16(), denial.reason);
                if !denial.message.is_empty() {
                    let _ = write!(told, " {:?}", denial.message);
                }
                told
            }
            Self::Of(Outcome::Decided(Decision::Edit(edits)), _) => {
                let mut parts: Vec<_> = edits.headers.iter().map(edit_told).collect();
                parts.extend(
                    edits.body.as_ref().map(|body| format!("body of {} bytes", body.len())),
                );
                format!("edit {}", parts.join(", "))
            }
            Self::Of(Outcome::Decided(Decision::Answer(answer)), _) => {
                format!("answer {} ({} bytes)", answer.status.as_u16(), answer.body.len())
            }
        }
    }
}
