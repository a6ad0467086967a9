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
    tag_of(resource.to_string().as_bytes())
}

/// The strong tag of bytes, without quotes. Of a document's text it is the one that whoever publishes it makes.
pub(crate) fn tag_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(TAG_BYTES).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a change says of the tag of what it is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    /// `If-None-Match: *`: only if it isn't there.
    creates: bool,
}

#[derive(Clone, Debug)]
enum Tags {
    Any,
    /// What stands between the quotes of strong ones.
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
    /// Reads the two headers of a change.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let creates = match lines(headers, &header::IF_NONE_MATCH)?.as_deref() {
            None => false,
            Some([only]) if only == "*" => true,
            Some(_) => return Err(Refused::malformed("`If-None-Match` of a change must be `*`.")),
        };
        let if_match = lines(headers, &header::IF_MATCH)?.map(tags).transpose()?;
        Ok(Self { if_match, creates })
    }

    /// Refuses a change of what has this tag (without quotes; `None`: isn't there).
    pub(crate) fn permit(&self, present: Option<&str>, guard: Guard) -> Result<(), Refused> {
        if guard == Guard::Required && self.if_match.is_none() && !self.creates {
            let message = "This change needs `If-Match`, or `If-None-Match: *` to create.";
            return Err(Reject::new(ErrorCode::PreconditionRequired).message(message).into());
        }
        match (present, &self.if_match) {
            (Some(_), _) if self.creates => Err(failed("It is there already.")),
            (None, Some(_)) => Err(failed("There is no such resource.")),
            (Some(present), Some(Tags::These(tags))) if !tags.iter().any(|tag| tag == present) => {
                Err(ErrorCode::PreconditionFailed.into())
            }
            (Some(_), Some(Tags::Any | Tags::These(_))) | (_, None) => Ok(()),
        }
    }
}

fn failed(message: &str) -> Refused {
    Reject::new(ErrorCode::PreconditionFailed).message(message).into()
}

/// Whether who reads has what has this tag already (`If-None-Match`, by weak comparison): 304. What is no tag is none of
/// ours.
pub(crate) fn is_known(headers: &HeaderMap, present: &str) -> bool {
    let known = |tag: &str| {
        tag == "*" || strong(tag.strip_prefix("W/").unwrap_or(tag)).is_some_and(|t| t == present)
    };
    let named = lines(headers, &header::IF_NONE_MATCH).ok().flatten().unwrap_or_default();
    named.iter().any(|tag| known(tag))
}

/// The members of all lines of a header.
fn lines(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Vec<String>>, Refused> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for line in headers.get_all(name) {
        let line = line
            .to_str()
            .map_err(|_| Refused::malformed(format!("`{name}` is not visible ASCII.")))?;
        // A comma within quotes is part of a tag (RFC 9110 §8.8.3).
        let mut quoted = false;
        let members = line.split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        found.extend(members.map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()));
    }
    Ok(Some(found))
}

/// The tags of `If-Match`. A weak one is no match (RFC 9110 §13.1.1), but no mistake.
fn tags(members: Vec<String>) -> Result<Tags, Refused> {
    if let [only] = members.as_slice()
        && only == "*"
    {
        return Ok(Tags::Any);
    }
    let is_tag = |tag: &String| strong(tag.strip_prefix("W/").unwrap_or(tag)).is_some();
    if members.is_empty() || !members.iter().all(is_tag) {
        return Err(Refused::malformed("`If-Match` must be `*`, or ETags as they were answered."));
    }
    let strong = members.iter().filter_map(|tag| strong(tag));
    Ok(Tags::These(strong.map(str::to_owned).collect()))
}

/// What stands between the quotes of a tag that is not weak (RFC 9110 §8.8.3).
fn strong(tag: &str) -> Option<&str> {
    let opaque = tag.strip_prefix('"')?.strip_suffix('"')?;
    opaque.bytes().all(|b| b.is_ascii_graphic() && b != b'"').then_some(opaque)
}
