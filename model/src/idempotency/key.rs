//! The client's key: one header line, in either of two spellings that mean the same.
//!
//! Invariant: a [`Key`] has 1 to 255 printable ASCII characters.

use http::{HeaderMap, HeaderName};
use std::fmt;
use std::sync::Arc;

/// The header, and its alias.
const NAMES: [HeaderName; 2] =
    [HeaderName::from_static("idempotency-key"), HeaderName::from_static("x-idempotency-key")];

/// What a client calls a request, so that a repeat is known as one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

/// What is wrong with an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// More than one line, of either name.
    #[error("the key stands more than once")]
    Repeated,
    /// Nothing between the quotes, or nothing at all.
    #[error("the key is empty")]
    Empty,
    /// More than [`Key::LEN_MAX`] characters.
    #[error("the key is longer than 255 characters")]
    TooLong,
    /// A character that its spelling does not take.
    #[error(
        "the key has a character that is not allowed; quote it, or use letters, digits and `._~:+/=-`"
    )]
    Character,
    /// A quote that does not end, or something after it.
    #[error("the key is not one quoted string")]
    Quoting,
}

impl Key {
    /// The largest number of characters.
    pub const LEN_MAX: usize = 255;

    /// The key of a request; `None` when it has none.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, InvalidKey> {
        let mut lines = NAMES.into_iter().flat_map(|name| headers.get_all(name));
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(InvalidKey::Repeated);
        }
        Self::parse(line.as_bytes()).map(Some)
    }

    /// Reads one line: a structured field's string (RFC 9651 §3.3.3; draft-07 §2.1) or, as most clients send it, a bare
    /// token of `[A-Za-z0-9._~:+/=-]`. Parameters are refused: none is defined.
    pub fn parse(line: &[u8]) -> Result<Self, InvalidKey> {
        let line = line.trim_ascii();
        let text = match line.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None if line.iter().copied().all(is_bare) => {
                line.iter().copied().map(char::from).collect()
            }
            None => return Err(InvalidKey::Character),
        };
        match text.len() {
            0 => Err(InvalidKey::Empty),
            1..=Self::LEN_MAX => Ok(Self(text.into())),
            _ => Err(InvalidKey::TooLong),
        }
    }

    /// The key as text, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    /// Keys may hold what clients would not want in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} characters)", self.0.len())
    }
}

/// What follows the opening quote, up to the closing one, which ends the line.
fn unquote(quoted: &[u8]) -> Result<String, InvalidKey> {
    let mut text = String::new();
    let mut bytes = quoted.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if bytes.len() == 0 => return Ok(text),
            b'"' => return Err(InvalidKey::Quoting),
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => text.push(char::from(escaped)),
                Some(_) | None => return Err(InvalidKey::Quoting),
            },
            b' '..=b'~' => text.push(char::from(byte)),
            _ => return Err(InvalidKey::Character),
        }
    }
    Err(InvalidKey::Quoting)
}

const fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'_' | b'~' | b':' | b'+' | b'/' | b'=' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn both_spellings_are_the_same_key() {
        let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
        for (line, text) in [
            (format!("\"{uuid}\""), uuid),
            (uuid.to_owned(), uuid),
            (format!(" {uuid}\t"), uuid),
            (format!(" \"{uuid}\" "), uuid),
            ("\"a b\"".to_owned(), "a b"),
            (r#""a\"b\\c""#.to_owned(), r#"a"b\c"#),
            ("a.b_c~d:e+f/g=h-i".to_owned(), "a.b_c~d:e+f/g=h-i"),
            ("k".repeat(255), &"k".repeat(255)),
            (format!("\"{}\"", "k".repeat(255)), &"k".repeat(255)),
        ] {
            assert_eq!(Key::parse(line.as_bytes()).unwrap().as_str(), text, "{line}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (line, error) in [
            ("", InvalidKey::Empty),
            ("  ", InvalidKey::Empty),
            ("\"\"", InvalidKey::Empty),
            (&"k".repeat(256), InvalidKey::TooLong),
            (&format!("\"{}\"", "k".repeat(256)), InvalidKey::TooLong),
            ("a b", InvalidKey::Character),
            ("a,b", InvalidKey::Character),
            ("a;b=1", InvalidKey::Character),
            ("'a'", InvalidKey::Character),
            ("schl\u{fc}ssel", InvalidKey::Character),
            ("\"schl\u{fc}ssel\"", InvalidKey::Character),
            ("\"a\tb\"", InvalidKey::Character),
            ("\"", InvalidKey::Quoting),
            ("\"a", InvalidKey::Quoting),
            ("\"a\\", InvalidKey::Quoting),
            (r#""a\b""#, InvalidKey::Quoting),
            ("\"a\"b", InvalidKey::Quoting),
            ("\"a\";p=1", InvalidKey::Quoting),
            ("\"a\", \"b\"", InvalidKey::Quoting),
            ("a\"", InvalidKey::Character),
        ] {
            assert_eq!(Key::parse(line.as_bytes()), Err(error), "{line}");
        }
    }

    #[test]
    fn a_request_has_one_line_or_none() {
        let headers = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            Key::of(&headers).map(|key| key.map(|key| key.as_str().to_owned()))
        };
        assert_eq!(headers(&[]), Ok(None));
        assert_eq!(headers(&[("idempotency-key", "a")]), Ok(Some("a".to_owned())));
        assert_eq!(headers(&[("x-idempotency-key", "a")]), Ok(Some("a".to_owned())));
        for second in ["idempotency-key", "x-idempotency-key"] {
            let both = [("idempotency-key", "a"), (second, "a")];
            assert_eq!(headers(&both), Err(InvalidKey::Repeated));
        }
    }
}
