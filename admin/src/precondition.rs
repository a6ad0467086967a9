//! Entity tags and the conditions that requests put on them (RFC 9110 §13).
//!
//! Invariant: nothing is changed for who has not seen it: two writers never overwrite each other unseen.

use crate::problem::Refused;
use http::{HeaderMap, HeaderName, header};
use model::{ErrorCode, Reject};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// How much of the hash a tag shows, in bytes.
const TAG_BYTES: usize = 16;

/// The strong tag of a resource, without quotes.
pub(crate) fn tag(resource: &Value) -> String {
    let hash = Sha256::digest(resource.to_string());
    hash.iter().take(TAG_BYTES).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a request says of the tag of what it is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Clone, Debug)]
enum Tags {
    Any,
    /// As written, with quotes.
    These(Vec<String>),
}

/// How a change must be guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// With `If-Match`, or `If-None-Match: *`.
    Required,
    /// A dry run may go without.
    Optional,
}

impl Conditions {
    /// Reads the two headers.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        Ok(Self {
            if_match: tags(headers, &header::IF_MATCH)?,
            if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Refuses a change of what has this tag (without quotes; `None`: isn't there).
    pub(crate) fn permit(&self, present: Option<&str>, guard: Guard) -> Result<(), Refused> {
        let creates = matches!(self.if_none_match, Some(Tags::Any));
        if guard == Guard::Required && self.if_match.is_none() && !creates {
            let message = "This change needs `If-Match`, or `If-None-Match: *` to create.";
            return Err(Reject::new(ErrorCode::PreconditionRequired).message(message).into());
        }
        let matches = self.if_match.as_ref().is_none_or(|tags| tags.strongly(present));
        let fresh = self.if_none_match.as_ref().is_none_or(|tags| !tags.weakly(present));
        match (matches && fresh, present) {
            (true, _) => Ok(()),
            (false, None) => Err(failed("There is no such resource.")),
            (false, Some(_)) if creates => Err(failed("It is there already.")),
            (false, Some(_)) => Err(ErrorCode::PreconditionFailed.into()),
        }
    }

    /// Whether who asks has what has this tag already: 304.
    pub(crate) fn is_known(&self, present: &str) -> bool {
        self.if_none_match.as_ref().is_some_and(|tags| tags.weakly(Some(present)))
    }
}

fn failed(message: &str) -> Refused {
    Reject::new(ErrorCode::PreconditionFailed).message(message).into()
}

impl Tags {
    /// RFC 9110 §8.8.3.2: a weak tag is no match.
    fn strongly(&self, present: Option<&str>) -> bool {
        match (self, present) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(present)) => tags.iter().any(|tag| opaque(tag) == present),
        }
    }

    fn weakly(&self, present: Option<&str>) -> bool {
        match (self, present) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(present)) => {
                tags.iter().any(|tag| opaque(tag.strip_prefix("W/").unwrap_or(tag)) == present)
            }
        }
    }
}

/// What stands between the quotes; a weak tag stays as it is and is equal to none.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

/// All lines of a header as one list. Our own tags have no commas.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Refused> {
    let mut found = Vec::new();
    for line in headers.get_all(name) {
        let line = line
            .to_str()
            .map_err(|_| Refused::malformed(format!("`{name}` is not visible ASCII.")))?;
        found.extend(line.split(',').map(|tag| tag.trim().to_owned()).filter(|t| !t.is_empty()));
    }
    Ok(match found.as_slice() {
        [] if headers.contains_key(name) => {
            return Err(Refused::malformed(format!("`{name}` names no tag.")));
        }
        [] => None,
        [only] if only == "*" => Some(Tags::Any),
        _ => Some(Tags::These(found)),
    })
}
