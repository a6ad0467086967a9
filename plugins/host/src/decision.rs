//! From what a guest returned to what the gateway acts on: everything that a pack may not say is refused here.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use model::exchange::{GATEWAY_HEADERS, HOP_BY_HOP, RESPONSE_OWNED};
use model::{Decision, Denial, Edits, HeaderEdit, PackAnswer};
use serde_json::{Map, Value};

use crate::abi::wit;
use crate::failure::Failure;
use crate::package::{BodyOf, Manifest};

/// The longest reason of a denial, in bytes.
const MAX_REASON: usize = 64;

/// Changes of headers in one decision, and headers of one answer.
const MAX_HEADERS: usize = 256;
/// The longest name of a header, in bytes.
const MAX_NAME: usize = 256;
/// Of a pack's own words, what a failure tells, in characters: it goes to the operator's log.
const MAX_QUOTED: usize = 64;

/// Headers that a pack can't change, beside hop-by-hop ones and those by which the gateway tells what it found out.
const FRAMING: &[&str] = &["content-length", "expect", "host"];
/// Of a request, those that start so, too.
const UNTOUCHABLE_PREFIX: &str = "x-forwarded-";
/// Headers that a pack can only remove: it hands on no credentials of its own.
const REMOVE_ONLY: &[&str] = &["authorization", "proxy-authorization"];
/// The gateway's own members of a denial's details.
const OWN_DETAILS: &[&str] = &["policy", "reason"];

/// Checks what was decided about a request or a response.
pub(crate) fn check(
    said: wit::Decision,
    of: BodyOf,
    manifest: &Manifest,
) -> Result<Decision, Failure> {
    match said {
        wit::Decision::Continue => Ok(Decision::Continue),
        wit::Decision::Edit(edits) => {
            if edits.body.is_some() && !manifest.body.contains(&of) {
                let detail = "it changed a body that its manifest does not ask for";
                return Err(Failure::output(detail));
            }
            check_number(edits.headers.len())?;
            let check = |edit| check_edit(edit, of);
            let headers = edits.headers.into_iter().map(check).collect::<Result<_, _>>()?;
            Ok(Decision::Edit(Edits { headers, body: edits.body.map(Bytes::from) }))
        }
        wit::Decision::Deny(denial) => check_denial(denial).map(Decision::Deny),
        wit::Decision::Answer(answer) => check_answer(answer).map(Decision::Answer),
    }
}

fn check_edit(edit: wit::HeaderEdit, of: BodyOf) -> Result<HeaderEdit, Failure> {
    match edit {
        wit::HeaderEdit::Set(line) => {
            let (name, value) = check_line(line, of)?;
            Ok(HeaderEdit::Set(name, value))
        }
        wit::HeaderEdit::Append(line) => {
            let (name, value) = check_line(line, of)?;
            Ok(HeaderEdit::Append(name, value))
        }
        wit::HeaderEdit::Remove(name) => check_name(&name, of).map(HeaderEdit::Remove),
    }
}

fn check_line(line: wit::HeaderLine, of: BodyOf) -> Result<(HeaderName, HeaderValue), Failure> {
    let name = check_name(&line.name, of)?;
    if REMOVE_ONLY.contains(&name.as_str()) {
        return Err(Failure::output(format!("`{name}` can only be removed")));
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from(line.value))
        .map_err(|_| Failure::output(format!("the value for `{name}` is not a header's value")))?;
    Ok((name, value))
}

fn check_name(name: &str, of: BodyOf) -> Result<HeaderName, Failure> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Failure::output(format!("{} is not a header's name", quoted(name))));
    };
    if name.as_str().len() > MAX_NAME {
        let told = quoted(name.as_str());
        return Err(Failure::output(format!("{told} is longer than {MAX_NAME} bytes")));
    }
    // Many servers read `_` as `-`, so that x_tenant_id would pass for x-tenant-id.
    let plain = name.as_str().replace('_', "-");
    let (own, prefixed) = match of {
        BodyOf::Request => (GATEWAY_HEADERS, plain.starts_with(UNTOUCHABLE_PREFIX)),
        BodyOf::Response => (RESPONSE_OWNED, false),
    };
    if prefixed || [FRAMING, HOP_BY_HOP, own].iter().any(|list| list.contains(&plain.as_str())) {
        return Err(Failure::output(format!("`{name}` belongs to the gateway")));
    }
    Ok(name)
}

fn check_number(headers: usize) -> Result<(), Failure> {
    if headers > MAX_HEADERS {
        return Err(Failure::output(format!("{headers} headers; at most {MAX_HEADERS} are taken")));
    }
    Ok(())
}

/// The beginning of what a pack said.
fn quoted(text: &str) -> String {
    let beginning: String = text.chars().take(MAX_QUOTED).collect();
    format!("{beginning:?}{}", if beginning.len() < text.len() { "…" } else { "" })
}

fn check_answer(answer: wit::Answer) -> Result<PackAnswer, Failure> {
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            Failure::output(format!("the status {} is not 200 to 599", answer.status))
        })?;
    // RFC 9110 §6.4.1.
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    if bodiless.contains(&status) && !answer.body.is_empty() {
        return Err(Failure::output(format!("an answer {} has no body", status.as_u16())));
    }
    check_number(answer.headers.len())?;
    let check = |line| check_line(line, BodyOf::Response);
    let headers = answer.headers.into_iter().map(check).collect::<Result<_, _>>()?;
    Ok(PackAnswer { status, headers, body: answer.body.into() })
}

fn check_denial(denial: wit::Denial) -> Result<Denial, Failure> {
    let status = denial.status.map_or(Ok(StatusCode::FORBIDDEN), check_status)?;
    if !is_reason(&denial.reason) {
        let told = quoted(&denial.reason);
        let detail = format!("the reason {told} is not 1 to {MAX_REASON} of a-z, 0-9, _");
        return Err(Failure::output(detail));
    }
    let mut details = Map::new();
    for (name, text) in denial.details {
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            return Err(Failure::output(format!("the detail {} is not JSON", quoted(&name))));
        };
        if OWN_DETAILS.contains(&name.as_str()) || details.insert(name.clone(), value).is_some() {
            return Err(Failure::output(format!("the detail {} is taken", quoted(&name))));
        }
    }
    Ok(Denial { status, reason: denial.reason, message: denial.message, details })
}

fn check_status(status: u16) -> Result<StatusCode, Failure> {
    StatusCode::from_u16(status)
        .ok()
        .filter(StatusCode::is_client_error)
        .ok_or_else(|| Failure::output(format!("the status {status} is not 400 to 499")))
}

fn is_reason(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=MAX_REASON).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use model::FailureReason;

    use super::*;

    #[test]
    fn a_body_is_changed_only_where_the_manifest_asks_for_it() {
        let manifest = |body: &[&str]| -> Manifest {
            let manifest = serde_json::json!({
                "name": "pack", "version": "1.0.0", "abi": "tollgate:policy@1",
                "phases": ["request", "response"], "body": body,
            });
            serde_json::from_value(manifest).expect("a manifest")
        };
        let edits = || wit::Edits { headers: Vec::new(), body: Some(b"other".to_vec()) };
        for (body, of, allowed) in [
            (&["request"][..], BodyOf::Request, true),
            (&["request"], BodyOf::Response, false),
            (&["response"], BodyOf::Response, true),
            (&["response"], BodyOf::Request, false),
            (&[], BodyOf::Request, false),
        ] {
            let outcome = check(wit::Decision::Edit(edits()), of, &manifest(body));
            match outcome {
                Ok(Decision::Edit(edits)) => assert!(allowed && edits.body.is_some(), "{body:?}"),
                Err(failure) => {
                    assert!(!allowed && failure.reason == FailureReason::Output, "{body:?}");
                }
                other => panic!("{body:?}: {other:?}"),
            }
        }
    }
}
