//! What an attempt came to, and what is told of it.

use crate::authorization::TokenError;
use crate::guard::ConnectError;
use http::{HeaderValue, StatusCode};
use model::webhook::{DestinationError, Outcome};
use std::fmt::Write as _;
use std::time::Duration;

/// How much is told, in bytes.
const EXCERPT_MAX: usize = 1_024;
/// Parts of a header's value that are shorter than this are words, not secrets: `Bearer`.
const SECRET_MIN: usize = 8;
/// What stands where a secret was.
const HIDDEN: &str = "[hidden]";

/// Why there is no answer. Its text holds no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended before the answer did, or spoke no HTTP.
    #[error("the exchange broke off: {}", chain(.0))]
    Http(hyper::Error),
    /// The answer did not end within the time.
    #[error("no whole answer within {0:?}")]
    Late(Duration),
    /// The answer is longer than what is read.
    #[error("the answer is longer than {0} bytes")]
    Long(usize),
    /// There is no token to show.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its address is none.
    #[error("the address {0}")]
    Address(#[from] DestinationError),
    /// It was not sent: others may be about it by now.
    #[error("the store did not hear this dispatcher in time: others may have taken it over")]
    Others,
    /// It could not be made.
    #[error("the request could not be made: {0}")]
    Compose(String),
}

impl Failure {
    /// As what an attempt that failed so is counted.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(ConnectError::Forbidden(_))
            | Self::Address(DestinationError::Forbidden(_)) => Outcome::Forbidden,
            Self::Connect(ConnectError::Name(_))
            | Self::Token(_)
            | Self::Address(_)
            | Self::Compose(_) => Outcome::Unready,
            Self::Connect(ConnectError::Refused(_)) => Outcome::Unreachable,
            Self::Connect(ConnectError::Tls(_)) => Outcome::Tls,
            Self::Http(error) if error.is_parse() => Outcome::ServerError,
            Self::Http(_) => Outcome::Unreachable,
            Self::Others => Outcome::Lost,
            Self::Late(_) => Outcome::TimedOut,
            Self::Long(_) => Outcome::ServerError,
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Infallible: it is a String.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// What an answer with this status means.
pub(super) fn outcome(status: StatusCode, retry_after: Option<Duration>) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        300..=399 => Outcome::Redirected,
        410 => Outcome::Gone,
        408 | 425 | 429 => Outcome::Throttled,
        503 if retry_after.is_some() => Outcome::Throttled,
        400..=499 => Outcome::ClientError,
        _ => Outcome::ServerError,
    }
}

/// The first bytes of an answer as text, at most [`EXCERPT_MAX`] bytes: what is no text is escaped, so that nothing is lost,
/// and the secret of the request, where the receiver repeats it, is not shown.
pub(super) fn excerpt(bytes: &[u8], secret: Option<&HeaderValue>) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    let text = without(escaped(bytes), secret);
    let mut end = text.len().min(EXCERPT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).map(str::to_owned)
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' | '\t' => text.push(char),
                '\\' => text.push_str("\\\\"),
                _ if char.is_control() || is_direction(char) => text.extend(char.escape_unicode()),
                _ => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            // Infallible: it is a String.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Whether it turns the direction of what follows: a terminal would show another text.
fn is_direction(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn without(text: String, secret: Option<&HeaderValue>) -> String {
    let Some(secret) = secret else { return text };
    let secret = escaped(secret.as_bytes());
    let parts = secret.split(' ').filter(|part| part.len() >= SECRET_MIN);
    let whole = text.replace(&secret, HIDDEN);
    parts.fold(whole, |text, part| text.replace(part, HIDDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_escaped_and_nothing_is_lost() {
        for (bytes, text) in [
            (&b"plain\ntext"[..], "plain\ntext"),
            ("Grüße".as_bytes(), "Grüße"),
            (b"a\0b\x1b[31m", "a\\u{0}b\\u{1b}[31m"),
            (b"\xff\xfe ok", "\\xff\\xfe ok"),
            (br"c:\xff", r"c:\\xff"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
        ] {
            assert_eq!(excerpt(bytes, None).as_deref(), Some(text), "{bytes:?}");
        }
        assert_eq!(excerpt(b"", None), None);
    }

    #[test]
    fn an_excerpt_ends_at_1024_bytes_and_at_a_character() {
        assert_eq!(excerpt(&[b'a'; 5_000], None).unwrap().len(), 1_024);
        let text = excerpt("€".repeat(500).as_bytes(), None).unwrap();
        assert_eq!(text.len(), 1_023);
        assert!(text.chars().all(|char| char == '€'));
    }

    #[test]
    fn a_secret_that_a_receiver_repeats_is_not_shown() {
        let secret = HeaderValue::from_static("Bearer abcdefgh-12345678");
        for echoed in [
            "got Bearer abcdefgh-12345678",
            r#"{"authorization":"Bearer abcdefgh-12345678"}"#,
            "token abcdefgh-12345678 is not known",
        ] {
            let shown = excerpt(echoed.as_bytes(), Some(&secret)).unwrap();
            assert!(!shown.contains("abcdefgh"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
        // Also where it stands over the end of what is told.
        let late = format!("{}abcdefgh-12345678", "a".repeat(1_020));
        assert!(!excerpt(late.as_bytes(), Some(&secret)).unwrap().contains("abcd"));
    }

    #[test]
    fn statuses_are_told_apart() {
        let wait = Some(Duration::from_secs(1));
        for (status, retry_after, expected) in [
            (200, None, Outcome::Delivered),
            (202, wait, Outcome::Delivered),
            (204, None, Outcome::Delivered),
            (301, None, Outcome::Redirected),
            (307, None, Outcome::Redirected),
            (400, None, Outcome::ClientError),
            (401, None, Outcome::ClientError),
            (404, wait, Outcome::ClientError),
            (408, None, Outcome::Throttled),
            (410, None, Outcome::Gone),
            (425, None, Outcome::Throttled),
            (429, None, Outcome::Throttled),
            (500, wait, Outcome::ServerError),
            (503, None, Outcome::ServerError),
            (503, wait, Outcome::Throttled),
            (101, None, Outcome::ServerError),
            (600, None, Outcome::ServerError),
            (999, None, Outcome::ServerError),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome(status, retry_after), expected, "{status}");
        }
    }
}
