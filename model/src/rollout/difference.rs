//! How two versions' decisions about one exchange differ, in words that hold no header's value and no body.

use crate::{Decision, Edits, FailureReason, HeaderEdit};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What a version came to: a decision, a cost in units, or why neither.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of the phases `request` and `response`.
    Decided(Decision),
    /// Of the phase `cost`.
    Cost(u32),
    /// It could not decide.
    Failed(FailureReason),
}

/// A decision in a line: what it does, without the values of headers and without bodies.
pub fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Cost(units) => format!("cost {units}"),
        Outcome::Failed(reason) => format!("failed: {}", reason.as_str()),
        Outcome::Decided(Decision::Continue) => "continue".to_owned(),
        Outcome::Decided(Decision::Deny(denial)) => {
            format!("deny {} {}", denial.status.as_u16(), denial.reason)
        }
        Outcome::Decided(Decision::Answer(answer)) => {
            format!("answer {} ({} bytes)", answer.status.as_u16(), answer.body.len())
        }
        Outcome::Decided(Decision::Edit(edits)) => {
            let mut text = "edit".to_owned();
            for edit in &edits.headers {
                let (verb, name) = match edit {
                    HeaderEdit::Set(name, _) => ("set", name),
                    HeaderEdit::Append(name, _) => ("append", name),
                    HeaderEdit::Remove(name) => ("remove", name),
                };
                // Writing to a String never fails.
                write!(text, " {verb} {name}").unwrap_or_default();
            }
            if let Some(body) = &edits.body {
                write!(text, " body ({} bytes)", body.len()).unwrap_or_default();
            }
            text
        }
    }
}

/// In what two outcomes differ; none when they come to the same. Edits and answers do when they leave the same headers
/// behind, in whatever order they name them, and edits of nothing are the same as to go on.
pub fn difference(running: &Outcome, candidate: &Outcome) -> Option<String> {
    use Decision::{Answer, Continue, Deny, Edit};
    use Outcome::{Cost, Decided, Failed};
    if running == candidate {
        return None;
    }
    match (running, candidate) {
        (Failed(a), Failed(b)) => Some(format!("reason: {} and {}", a.as_str(), b.as_str())),
        (Failed(_), _) => Some("only the candidate decided".to_owned()),
        (_, Failed(reason)) => Some(format!("the candidate failed: {}", reason.as_str())),
        (Cost(a), Cost(b)) => Some(format!("cost: {a} and {b}")),
        (Decided(Deny(a)), Decided(Deny(b))) => {
            let status = (a.status != b.status)
                .then(|| format!("status: {} and {}", a.status.as_u16(), b.status.as_u16()));
            let reason =
                (a.reason != b.reason).then(|| format!("reason: {} and {}", a.reason, b.reason));
            let message = (a.message != b.message).then(|| "message".to_owned());
            let details = (a.details != b.details).then(|| "details".to_owned());
            joined([status, reason, message, details])
        }
        (Decided(Answer(a)), Decided(Answer(b))) => {
            let status = (a.status != b.status)
                .then(|| format!("status: {} and {}", a.status.as_u16(), b.status.as_u16()));
            let headers = headers(&lines(&a.headers), &lines(&b.headers));
            joined([status, headers, bodies(Some(&a.body), Some(&b.body)), None])
        }
        (Decided(Edit(a)), Decided(Edit(b))) => {
            let headers = headers(&effects(&a.headers), &effects(&b.headers));
            joined([headers, bodies(a.body.as_ref(), b.body.as_ref()), None, None])
        }
        (Decided(Edit(a)), Decided(Continue)) | (Decided(Continue), Decided(Edit(a)))
            if *a == Edits::default() =>
        {
            None
        }
        (Decided(a), Decided(b)) => Some(format!("decision: {} and {}", a.as_str(), b.as_str())),
        (Decided(_), Cost(_)) | (Cost(_), Decided(_)) => Some("phase".to_owned()),
    }
}

fn joined(parts: [Option<String>; 4]) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn bodies(a: Option<&Bytes>, b: Option<&Bytes>) -> Option<String> {
    (a != b).then(|| format!("body: {} and {}", told(a), told(b)))
}

/// A body by its size and the beginning of its SHA-256.
fn told(body: Option<&Bytes>) -> String {
    let Some(body) = body else { return "unchanged".to_owned() };
    let digest = Sha256::digest(body);
    let mut text = format!("{} bytes (", body.len());
    for byte in digest.iter().take(4) {
        // Writing to a String never fails.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text.push(')');
    text
}

/// What becomes of each header: whether what stood there goes, and the lines that are added.
type Effects<'a> = BTreeMap<&'a str, (bool, Vec<&'a [u8]>)>;

/// The headers whose effects differ, by name.
fn headers(a: &Effects<'_>, b: &Effects<'_>) -> Option<String> {
    let names: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
    let differing: Vec<&str> =
        names.into_iter().filter(|name| a.get(name) != b.get(name)).collect();
    (!differing.is_empty()).then(|| format!("headers: {}", differing.join(", ")))
}

fn effects(edits: &[HeaderEdit]) -> Effects<'_> {
    let mut effects = Effects::new();
    for edit in edits {
        match edit {
            HeaderEdit::Set(name, value) => {
                effects.insert(name.as_str(), (true, vec![value.as_bytes()]));
            }
            HeaderEdit::Append(name, value) => {
                effects.entry(name.as_str()).or_default().1.push(value.as_bytes());
            }
            HeaderEdit::Remove(name) => {
                effects.insert(name.as_str(), (true, Vec::new()));
            }
        }
    }
    effects
}

/// An answer's headers: nothing stood there before.
fn lines(headers: &[(HeaderName, HeaderValue)]) -> Effects<'_> {
    let mut lines = Effects::new();
    for (name, value) in headers {
        lines.entry(name.as_str()).or_default().1.push(value.as_bytes());
    }
    lines
}
