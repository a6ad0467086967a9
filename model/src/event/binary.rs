//! The binary mode of the HTTP binding (CloudEvents 1.0, HTTP binding §3.1): attributes are `ce-` headers, data is the body.

use super::attribute::Attribute;
use super::cloud::{CloudEvent, Data, Malformed};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::fmt::Write as _;

/// What headers of attributes begin with.
const PREFIX: &str = "ce-";

impl CloudEvent {
    /// Whether a request is an event in binary mode.
    pub fn is_binary(headers: &HeaderMap) -> bool {
        headers.contains_key("ce-specversion")
    }

    /// Reads an event from headers and body; every error.
    pub fn of_request(headers: &HeaderMap, body: &Bytes) -> Result<Self, Vec<Malformed>> {
        let mut event = Self::empty();
        let mut errors = Vec::new();
        for name in headers.keys() {
            let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
            let wrong = |message: &str| {
                Malformed::new(format!("/{}", crate::config::escape(attribute)), message)
            };
            if attribute == "datacontenttype" {
                errors.push(wrong("In binary mode it is `Content-Type`."));
                continue;
            }
            let mut lines = headers.get_all(name).iter();
            match (lines.next().and_then(read), lines.next()) {
                (Some(value), None) => {
                    event.take(attribute, Attribute::text(value), "", &mut errors);
                }
                (_, Some(_)) => errors.push(wrong("It is given more than once.")),
                (None, None) => {
                    errors.push(wrong(
                        "It is no text of percent-encoded UTF-8 (HTTP binding §3.1.3.2).",
                    ));
                }
            }
        }
        if let Some(kind) = headers.get(header::CONTENT_TYPE) {
            match kind.to_str() {
                Ok(kind) => {
                    event.take("datacontenttype", Attribute::text(kind), "", &mut errors);
                }
                Err(_) => {
                    errors.push(Malformed::new("/datacontenttype", "It must be a media type."));
                }
            }
        }
        match Self::data_of_body(event.attribute("datacontenttype"), body.to_vec()) {
            Ok(data) => event.data = data,
            Err(message) => errors.push(Malformed::new("/data", message)),
        }
        event.whole("", errors)
    }

    /// The event in binary mode: `ce-` headers with `Content-Type`, and the body.
    pub fn binary(&self) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::with_capacity(self.attributes.len());
        for (name, value) in &self.attributes {
            let (name, value) = match name.as_str() {
                "datacontenttype" => (Ok(header::CONTENT_TYPE), value.as_str().to_owned()),
                _ => (HeaderName::try_from([PREFIX, name].concat()), written(value.as_str())),
            };
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        let body = match &self.data {
            None => Bytes::new(),
            Some(Data::Json(raw)) => Bytes::copy_from_slice(raw.get().as_bytes()),
            Some(Data::Text(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Data::Bytes(bytes)) => Bytes::copy_from_slice(bytes),
        };
        (headers, body)
    }
}

/// A header's value as text (HTTP binding §3.1.3.2): without quotes, and with percent-encoding resolved, once.
fn read(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = quoted.unwrap_or(text).bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' if quoted.is_some() => rest.next()?,
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Text as a header's value: but for printable ASCII, and of that space, `"` and `%`, all of it is percent-encoded.
fn written(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => {}
            b'!'..=b'~' => {
                value.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        // Writing to a String never fails.
        let _ = write!(value, "%{byte:02X}");
    }
    value
}
