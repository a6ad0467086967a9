//! What others say, read as an event: the document tells where its parts stand.
//!
//! Invariant: what an event's `data` is stands in the event as it was written; nothing of it is rounded or reordered.

use model::document::Mapping;
use model::event::{CloudEvent, New};
use model::id::TenantId;
use model::{ErrorCode, Reject};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Something that somebody said.
pub(crate) struct Entry<'a> {
    /// `source` of its event.
    pub(crate) source: &'a str,
    /// Whose it is.
    pub(crate) tenant: &'a TenantId,
    /// Where its parts stand.
    pub(crate) mapping: &'a Mapping,
    /// What was said.
    pub(crate) text: &'a RawValue,
    /// The id that it came under, where none stands in it.
    pub(crate) known_as: Option<&'a str>,
}

/// The event that it tells of; every error, with its place in what was said.
pub(crate) fn event_of(entry: &Entry<'_>) -> Result<CloudEvent, Reject> {
    let Entry { source, tenant, mapping, text, known_as } = entry;
    let mut errors = Vec::new();
    let mut part = |pointer: &str| match at(text, pointer).map(as_text) {
        None => None,
        Some(Ok(text)) => text,
        Some(Err(message)) => {
            errors.push(told(pointer, message));
            None
        }
    };
    let id = part(&mapping.id);
    let kind = part(&mapping.r#type).or_else(|| mapping.default_type.clone());
    let (subject, time) = (part(&mapping.subject), part(&mapping.time));
    if kind.is_none() && errors.is_empty() {
        errors.push(told(&mapping.r#type, "The event's type must stand here."));
    }
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    let digest = || format!("sha256:{}", hex(&Sha256::digest(text.get())));
    let id = id.or_else(|| known_as.map(str::to_owned)).unwrap_or_else(digest);
    let new = New {
        id: &id,
        source,
        r#type: kind.as_deref().unwrap_or_default(),
        subject: subject.as_deref(),
        time: time.as_deref(),
        tenant: tenant.as_str(),
        data: at(text, &mapping.data),
    };
    CloudEvent::new(&new).map_err(|errors| {
        let errors = errors.iter().map(|error| {
            let place = match error.pointer.as_str() {
                "/id" => &mapping.id,
                "/type" => &mapping.r#type,
                "/subject" => &mapping.subject,
                "/time" => &mapping.time,
                "/data" => &mapping.data,
                other => other,
            };
            told(place, &error.message)
        });
        refused(errors.collect())
    })
}

/// What stands at a place (RFC 6901), as it was written.
pub(crate) fn at<'a>(text: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut text = text;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        text = match text.get().as_bytes().first()? {
            b'{' => {
                let members: HashMap<String, &RawValue> = serde_json::from_str(text.get()).ok()?;
                members.get(&token).copied()?
            }
            b'[' => {
                let plain = token == "0" || !token.starts_with('0');
                let digits = token.bytes().all(|byte| byte.is_ascii_digit());
                let place: usize = token.parse().ok().filter(|_| plain && digits)?;
                let items: Vec<&RawValue> = serde_json::from_str(text.get()).ok()?;
                items.get(place).copied()?
            }
            _ => return None,
        };
    }
    Some(text)
}

/// A string, or a number as it was written; none for null and for what is empty.
fn as_text(text: &RawValue) -> Result<Option<String>, &'static str> {
    const WRONG: &str = "It must be a string or a number.";
    let text = text.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => {
            let text: String = serde_json::from_str(text).map_err(|_| WRONG)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
        Some(b'-' | b'0'..=b'9') => Ok(Some(text.to_owned())),
        _ => Err(WRONG),
    }
}

fn told(pointer: &str, message: &str) -> Value {
    json!({ "pointer": pointer, "message": message })
}

fn refused(errors: Vec<Value>) -> Reject {
    Reject::new(ErrorCode::ValidationFailed)
        .message("What was sent is no event as the document describes it.")
        .detail("errors", errors)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mapping: &Mapping, text: &str) -> Result<CloudEvent, Value> {
        let event = event_of(&Entry {
            source: "/v1/inbound/acme-crm",
            tenant: &"acme".into(),
            mapping,
            text: serde_json::from_str(text).expect("JSON"),
            known_as: None,
        });
        event.map_err(|reject| reject.details.get("errors").cloned().unwrap_or_default())
    }

    fn form(event: &CloudEvent) -> String {
        String::from_utf8(event.structured_form()).expect("text")
    }

    #[test]
    fn the_parts_of_an_event_are_read_where_the_document_says() {
        let body = r#"{"id":7,"type":"contact.created","subject":"c-1","time":"2026-11-21T15:04:05Z",
            "data":{"amount":1.10000000000000000000}}"#;
        let event = read(&Mapping::default(), body).expect("an event");
        assert_eq!(
            form(&event),
            r#"{"specversion":"1.0","id":"7","source":"/v1/inbound/acme-crm","type":"contact.created","subject":"c-1","time":"2026-11-21T15:04:05Z","datacontenttype":"application/json","tenant":"acme","data":{"amount":1.10000000000000000000}}"#
        );
        let nested = Mapping {
            id: "/meta/keys/1".to_owned(),
            r#type: "/a~1b/~0".to_owned(),
            data: String::new(),
            ..Mapping::default()
        };
        let body = r#"{"meta":{"keys":["x","y"]},"a/b":{"~":"t"}}"#;
        let event = read(&nested, body).expect("an event");
        assert_eq!((event.id(), event.r#type()), ("y", "t"));
        assert!(form(&event).ends_with(&format!("\"data\":{body}}}")), "{}", form(&event));
    }

    #[test]
    fn what_stands_nowhere_is_absent_and_an_id_is_made_of_the_body() {
        let mapping = Mapping { default_type: Some("thing".to_owned()), ..Mapping::default() };
        let one = read(&mapping, r#"{"a":1}"#).expect("an event");
        let same = read(&mapping, r#"{"a":1}"#).expect("an event");
        let other = read(&mapping, r#"{"a":2}"#).expect("an event");
        assert_eq!(one.id(), same.id());
        assert_ne!(one.id(), other.id());
        assert!(one.id().starts_with("sha256:") && one.id().len() == 71, "{}", one.id());
        assert_eq!((one.r#type(), one.attribute("subject")), ("thing", None));
        assert!(one.json().is_none());
    }

    #[test]
    fn what_is_no_event_is_told_by_its_place_in_what_was_sent() {
        let mapping = Mapping { time: "/at".to_owned(), ..Mapping::default() };
        for (body, expected) in [
            (r#"{"id":"1"}"#, json!([["/type", "The event's type must stand here."]])),
            (
                r#"{"id":{},"type":[],"at":true}"#,
                json!([
                    ["/id", "It must be a string or a number."],
                    ["/type", "It must be a string or a number."],
                    ["/at", "It must be a string or a number."]
                ]),
            ),
            (
                r#"{"id":"1","type":"t","at":"yesterday"}"#,
                json!([["/at", "It must be a time like `2026-11-21T15:04:05Z` (RFC 3339)."]]),
            ),
            ("[]", json!([["/type", "The event's type must stand here."]])),
        ] {
            let errors = read(&mapping, body).expect_err(body);
            let told: Vec<Value> = errors
                .as_array()
                .expect("a list")
                .iter()
                .map(|error| json!([error["pointer"], error["message"]]))
                .collect();
            assert_eq!(Value::from(told), expected, "{body}");
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        let text: Box<RawValue> =
            serde_json::from_str(r#"{"":0,"a/b":1,"m~n":2,"l":[3,[4]],"~1":5}"#).expect("JSON");
        for (pointer, expected) in [
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("2")),
            ("/l/0", Some("3")),
            ("/l/1/0", Some("4")),
            ("/~01", Some("5")),
            ("/l/00", None),
            ("/l/-", None),
            ("/l/+1", None),
            ("/l/9", None),
            ("/l/0/x", None),
            ("/none", None),
        ] {
            assert_eq!(at(&text, pointer).map(RawValue::get), expected, "{pointer}");
        }
        assert_eq!(at(&text, "").map(RawValue::get), Some(text.get()));
    }
}
