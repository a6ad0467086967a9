//! The JSON format of CloudEvents 1.0: one event, or a batch of them, and the form in which events are kept.

use super::attribute::{self, Attribute};
use super::cloud::{CloudEvent, Data, MALFORMED_MAX, Malformed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// How many events a batch may hold.
pub const EVENTS_MAX: usize = 256;

/// The order in which attributes stand; others follow by name.
const FIRST: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

impl CloudEvent {
    /// Media type of one event.
    pub const STRUCTURED: &str = "application/cloudevents+json";
    /// Media type of a batch.
    pub const BATCH: &str = "application/cloudevents-batch+json";

    /// Reads one event (JSON format §3); every error.
    pub fn structured(body: &[u8]) -> Result<Self, Vec<Malformed>> {
        let members: Members<'_> = serde_json::from_slice(body).map_err(|error| unread(&error))?;
        Self::of_members(members, "")
    }

    /// Reads a batch (JSON format §4), which may be empty; the errors of all its events.
    pub fn batch(body: &[u8]) -> Result<Vec<Self>, Vec<Malformed>> {
        let events: Vec<&RawValue> =
            serde_json::from_slice(body).map_err(|error| unread(&error))?;
        if events.len() > EVENTS_MAX {
            let message = format!("A batch holds at most {EVENTS_MAX} events.");
            return Err(vec![Malformed::new("", message)]);
        }
        let mut errors = Vec::new();
        let mut read = Vec::with_capacity(events.len());
        for (place, event) in events.into_iter().enumerate() {
            let at = format!("/{place}");
            match serde_json::from_str(event.get()) {
                Ok(members) => match Self::of_members(members, &at) {
                    Ok(event) => read.push(event),
                    Err(of_event) => errors.extend(of_event),
                },
                Err(_) => errors.push(Malformed::new(at, "It must be an object.")),
            }
        }
        if errors.is_empty() {
            return Ok(read);
        }
        errors.truncate(MALFORMED_MAX);
        Err(errors)
    }

    /// Reads what [`structured_form`](Self::structured_form) wrote.
    pub fn kept(content: &[u8]) -> Result<Self, Malformed> {
        Self::structured(content).map_err(|mut errors| errors.swap_remove(0))
    }

    fn of_members(members: Members<'_>, at: &str) -> Result<Self, Vec<Malformed>> {
        let mut event = Self::empty();
        let mut errors = Vec::new();
        let (mut data, mut base64) = (None, None);
        for (name, value) in members.0 {
            let place = match &*name {
                "data" => &mut data,
                "data_base64" => &mut base64,
                _ => {
                    match read(value) {
                        Ok(Some(value)) => event.take(&name, value, at, &mut errors),
                        // JSON format §2.2: null means that it is not set.
                        Ok(None) => {}
                        Err(message) => {
                            let pointer = format!("{at}/{}", crate::config::escape(&name));
                            errors.push(Malformed::new(pointer, message));
                        }
                    }
                    continue;
                }
            };
            if place.replace(value).is_some() {
                errors.push(Malformed::new(format!("{at}/{name}"), "It is given more than once."));
            }
        }
        match event.data_of(data, base64) {
            Ok(data) => event.data = data,
            Err((name, message)) => errors.push(Malformed::new(format!("{at}/{name}"), message)),
        }
        event.whole(at, errors)
    }

    /// JSON format §3.1.
    fn data_of(
        &self,
        data: Option<&RawValue>,
        base64: Option<&RawValue>,
    ) -> Result<Option<Data>, (&'static str, &'static str)> {
        let kind = self.attribute("datacontenttype");
        let is_json = kind.is_none_or(attribute::is_json);
        match (data, base64) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(("data_base64", "`data` is given too: give one of the two.")),
            (Some(raw), None) if !is_json && raw.get().starts_with('"') => {
                let text: String = serde_json::from_str(raw.get())
                    .map_err(|_| ("data", "It is a string with escapes that are none."))?;
                Ok(if text.is_empty() { None } else { Some(Data::Text(text)) })
            }
            (Some(raw), None) => Ok(Some(Data::Json(raw.to_owned()))),
            (None, Some(raw)) => {
                const WRONG: (&str, &str) = ("data_base64", "It must be a string of base64.");
                let text: String = serde_json::from_str(raw.get()).map_err(|_| WRONG)?;
                let bytes = STANDARD.decode(text).map_err(|_| WRONG)?;
                // Without a media type it is not JSON that somebody took the trouble to encode.
                Self::data_of_body(kind, bytes).map_err(|message| ("data_base64", message))
            }
        }
    }

    /// Data as a body holds it.
    pub(super) fn data_of_body(
        kind: Option<&str>,
        bytes: Vec<u8>,
    ) -> Result<Option<Data>, &'static str> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if kind.is_some_and(attribute::is_json) {
            let raw: Result<Box<RawValue>, _> = serde_json::from_slice(&bytes);
            return raw.map(|raw| Some(Data::Json(raw))).map_err(|_| "It is not JSON.");
        }
        if kind.is_some_and(attribute::is_textual) {
            return Ok(Some(
                String::from_utf8(bytes)
                    .map_or_else(|error| Data::Bytes(error.into_bytes()), Data::Text),
            ));
        }
        Ok(Some(Data::Bytes(bytes)))
    }

    /// The event as one JSON object: what is kept and sent.
    pub fn structured_form(&self) -> Vec<u8> {
        let held = match &self.data {
            None => 0,
            Some(Data::Json(raw)) => raw.get().len(),
            Some(Data::Text(text)) => text.len(),
            Some(Data::Bytes(bytes)) => bytes.len() / 3 * 4 + 4,
        };
        let mut form = Vec::with_capacity(held + 512);
        let first = FIRST.iter().filter_map(|name| self.attributes.get_key_value(*name));
        let others = self.attributes.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
        for (name, value) in first.chain(others) {
            form.push(if form.is_empty() { b'{' } else { b',' });
            put_text(&mut form, name);
            form.push(b':');
            if value.is_literal() {
                form.extend_from_slice(value.as_str().as_bytes());
            } else {
                put_text(&mut form, value.as_str());
            }
        }
        match &self.data {
            None => {}
            Some(Data::Json(raw)) => {
                form.extend_from_slice(br#","data":"#);
                form.extend_from_slice(raw.get().as_bytes());
            }
            Some(Data::Text(text)) => {
                form.extend_from_slice(br#","data":"#);
                put_text(&mut form, text);
            }
            Some(Data::Bytes(bytes)) => {
                form.extend_from_slice(br#","data_base64":"#);
                put_text(&mut form, &STANDARD.encode(bytes));
            }
        }
        form.push(b'}');
        form
    }
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(to, text).expect("a string is written to memory");
}

/// The value of an attribute (JSON format §2.2): none for null.
fn read(raw: &RawValue) -> Result<Option<Attribute>, &'static str> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b't' | b'f') => Ok(Some(Attribute::literal(text))),
        Some(b'"') => serde_json::from_str::<String>(text)
            .map(|text| Some(Attribute::text(text)))
            .map_err(|_| "It is a string with escapes that are none."),
        Some(b'-' | b'0'..=b'9') => match text.parse::<i32>() {
            Ok(number) => Ok(Some(Attribute::literal(number.to_string()))),
            Err(_) => Err("A number must be an integer of 32 bits."),
        },
        _ => Err("It must be a string, a boolean or an integer."),
    }
}

/// JSON that can't be read. Says where, and repeats nothing of it.
fn unread(error: &serde_json::Error) -> Vec<Malformed> {
    let message = match error.classify() {
        serde_json::error::Category::Data => {
            "It must be an object; a batch must be an array.".to_owned()
        }
        _ => format!("It is not JSON: line {}, column {}.", error.line(), error.column()),
    };
    vec![Malformed::new("", message)]
}

/// The members of an object as they stand, also those that are given twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Each)
    }
}
