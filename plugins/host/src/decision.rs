//! From what a guest returned to what the gateway acts on: everything that a pack may not say is refused here.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use model::exchange::{GATEWAY_HEADERS, HOP_BY_HOP};
use model::{Decision, Denial, Edits, HeaderEdit};
use serde_json::{Map, Value};

use crate::abi::tollgate::policy::request_phase as wit;
use crate::failure::Failure;

/// The longest reason of a denial, in bytes.
const MAX_REASON: usize = 64;

/// Headers that a pack can't change, beside hop-by-hop ones and those by which the gateway tells the upstream what it found
/// out.
const FRAMING: &[&str] = &["content-length", "expect", "host"];
/// And those that start so.
const UNTOUCHABLE_PREFIX: &str = "x-forwarded-";
/// Headers that a pack can only remove: it hands on no credentials of its own.
const REMOVE_ONLY: &[&str] = &["authorization", "proxy-authorization"];
/// The gateway's own members of a denial's details.
const OWN_DETAILS: &[&str] = &["policy", "reason"];

/// Checks a decision.
pub(crate) fn check(decision: wit::Decision) -> Result<Decision, Failure> {
    match decision {
        wit::Decision::Continue => Ok(Decision::Continue),
        wit::Decision::Edit(edits) => {
            let headers = edits.into_iter().map(check_edit).collect::<Result<_, _>>()?;
            Ok(Decision::Edit(Edits { headers }))
        }
        wit::Decision::Deny(denial) => check_denial(denial).map(Decision::Deny),
    }
}

fn check_edit(edit: wit::HeaderEdit) -> Result<HeaderEdit, Failure> {
    match edit {
        wit::HeaderEdit::Set(line) => {
            let (name, value) = check_line(line)?;
            Ok(HeaderEdit::Set(name, value))
        }
        wit::HeaderEdit::Append(line) => {
            let (name, value) = check_line(line)?;
            Ok(HeaderEdit::Append(name, value))
        }
        wit::HeaderEdit::Remove(name) => check_name(&name).map(HeaderEdit::Remove),
    }
}

fn check_line(line: wit::HeaderLine) -> Result<(HeaderName, HeaderValue), Failure> {
    let name = check_name(&line.name)?;
    if REMOVE_ONLY.contains(&name.as_str()) {
        return Err(Failure::output(format!("`{name}` can only be removed")));
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from(line.value))
        .map_err(|_| Failure::output(format!("the value for `{name}` is not a header's value")))?;
    Ok((name, value))
}

fn check_name(name: &str) -> Result<HeaderName, Failure> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Failure::output(format!("{name:?} is not a header's name")));
    };
    // Many servers read `_` as `-`, so that x_tenant_id would pass for x-tenant-id.
    let plain = name.as_str().replace('_', "-");
    if [FRAMING, HOP_BY_HOP, GATEWAY_HEADERS].iter().any(|list| list.contains(&plain.as_str()))
        || plain.starts_with(UNTOUCHABLE_PREFIX)
    {
        return Err(Failure::output(format!("`{name}` belongs to the gateway")));
    }
    Ok(name)
}

fn check_denial(denial: wit::Denial) -> Result<Denial, Failure> {
    let status = denial.status.map_or(Ok(StatusCode::FORBIDDEN), check_status)?;
    if !is_reason(&denial.reason) {
        let detail =
            format!("the reason {:?} is not 1 to {MAX_REASON} of a-z, 0-9, _", denial.reason);
        return Err(Failure::output(detail));
    }
    let mut details = Map::new();
    for (name, text) in denial.details {
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            return Err(Failure::output(format!("the detail {name:?} is not JSON")));
        };
        if OWN_DETAILS.contains(&name.as_str()) || details.insert(name.clone(), value).is_some() {
            return Err(Failure::output(format!("the detail {name:?} is taken")));
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
