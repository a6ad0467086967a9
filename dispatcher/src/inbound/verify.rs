//! Whether a webhook is its source's: the CRM's own scheme, or Standard Webhooks.
//!
//! Invariant: signatures are compared in constant time, over the raw body, and a header that could be read in two ways is
//! refused.

use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderName};
use model::document::Verify;
use sha2::Sha256;
use std::time::Duration;
use webhook_signature as standard;

const X_ACME_TIMESTAMP: HeaderName = HeaderName::from_static("x-acme-timestamp");
const X_ACME_SIGNATURE: HeaderName = HeaderName::from_static("x-acme-signature");

/// Longest timestamp, in digits: this side of the year 33658.
const TIMESTAMP_DIGITS: usize = 12;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 32;

/// What verifies the webhooks of a source.
pub(super) enum Verifier {
    /// `X-Acme-Signature`: hex HMAC-SHA256 over `X-Acme-Timestamp "." body`. `X-Acme-Key-Id` may stand there too, and
    /// decides nothing: whoever signed with one of the secrets is the source.
    Acme {
        /// Its secrets.
        keys: Vec<Hmac<Sha256>>,
        /// How far its clock may be from ours, in seconds.
        tolerance: i64,
    },
    /// Standard Webhooks.
    Standard(standard::Verifier),
}

/// Why a webhook is not taken. What its sender is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// A header is not there.
    #[error("The header `{0}` is missing.")]
    Missing(HeaderName),
    /// A header is there more than once.
    #[error("The header `{0}` stands there more than once.")]
    Repeated(HeaderName),
    /// A header is not what it must be.
    #[error("The header `{0}` is malformed.")]
    Malformed(HeaderName),
    /// It was signed too long ago, or in the future.
    #[error("Its timestamp is too far from the time of its arrival: check the clock.")]
    Time,
    /// The signature is another one.
    #[error("Its signature is none of its body, by a secret of this source.")]
    Signature,
}

impl From<standard::Refused> for Refused {
    fn from(why: standard::Refused) -> Self {
        match why {
            standard::Refused::Missing(name) => Self::Missing(name),
            standard::Refused::Repeated(name) => Self::Repeated(name),
            standard::Refused::Malformed(name) => Self::Malformed(name),
            standard::Refused::Old | standard::Refused::Future => Self::Time,
            standard::Refused::Signature => Self::Signature,
        }
    }
}

impl Verifier {
    /// One for these secrets; why they are none.
    pub(super) fn new(
        kind: Verify,
        secrets: &[Vec<u8>],
        tolerance: Duration,
    ) -> Result<Self, String> {
        if secrets.is_empty() || secrets.iter().any(Vec::is_empty) {
            return Err("it is empty".to_owned());
        }
        match kind {
            Verify::AcmeHmac => {
                let keys = secrets
                    .iter()
                    .map(|secret| Hmac::new_from_slice(secret).map_err(|error| error.to_string()));
                let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
                Ok(Self::Acme { keys: keys.collect::<Result<_, _>>()?, tolerance })
            }
            Verify::StandardWebhooks => {
                let mut verifier = standard::Verifier::new(tolerance);
                for secret in secrets {
                    let text =
                        std::str::from_utf8(secret).map_err(|_| "it is no text".to_owned())?;
                    let secret =
                        standard::Secret::parse(text).map_err(|error| error.to_string())?;
                    verifier = verifier.secret(secret);
                }
                Ok(Self::Standard(verifier))
            }
        }
    }

    /// Refuses what can't be verified, whatever its body is, before anybody waits for that.
    pub(super) fn look(&self, headers: &HeaderMap, now: i64) -> Result<(), Refused> {
        match self {
            Self::Acme { tolerance, .. } => head(*tolerance, headers, now).map(drop),
            Self::Standard(_) => [standard::ID, standard::TIMESTAMP, standard::SIGNATURE]
                .into_iter()
                .try_for_each(|name| only(headers, name).map(drop)),
        }
    }

    /// Verifies a webhook, now (in seconds since the Unix epoch). Yields its id where the scheme has one.
    pub(super) fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: i64,
    ) -> Result<Option<&'a str>, Refused> {
        match self {
            Self::Acme { keys, tolerance } => {
                acme(keys, *tolerance, headers, body, now).map(|()| None)
            }
            Self::Standard(verifier) => Ok(Some(verifier.verify(headers, body, now)?.id)),
        }
    }
}

/// Timestamp and signature, if it was signed at a time that is near.
fn head(
    tolerance: i64,
    headers: &HeaderMap,
    now: i64,
) -> Result<(&str, [u8; SIGNATURE_BYTES]), Refused> {
    let timestamp = only(headers, X_ACME_TIMESTAMP)?;
    let signature = only(headers, X_ACME_SIGNATURE)?;
    let at = seconds(timestamp).ok_or(Refused::Malformed(X_ACME_TIMESTAMP))?;
    let signature = unhex(signature).ok_or(Refused::Malformed(X_ACME_SIGNATURE))?;
    if now.abs_diff(at) > tolerance.unsigned_abs() {
        return Err(Refused::Time);
    }
    Ok((timestamp, signature))
}

fn acme(
    keys: &[Hmac<Sha256>],
    tolerance: i64,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<(), Refused> {
    let (timestamp, signature) = head(tolerance, headers, now)?;
    let signs = |key: &Hmac<Sha256>| {
        let mut mac = key.clone();
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.verify_slice(&signature).is_ok()
    };
    if keys.iter().any(signs) { Ok(()) } else { Err(Refused::Signature) }
}

/// The one value of a header.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<&str, Refused> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Err(Refused::Missing(name)) };
    if values.next().is_some() {
        return Err(Refused::Repeated(name));
    }
    value.to_str().map_err(|_| Refused::Malformed(name))
}

/// Digits and nothing else.
fn seconds(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && text.len() <= TIMESTAMP_DIGITS { text.parse().ok() } else { None }
}

fn unhex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let mut bytes = [0; SIGNATURE_BYTES];
    if text.len() != 2 * SIGNATURE_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW: i64 = 1_780_000_000;
    const BODY: &[u8] = br#"{"id":"e-1"}"#;

    fn signed(secret: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        for part in [timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn verdict(lines: &[(HeaderName, &str)], body: &[u8]) -> Result<Option<String>, Refused> {
        let secrets = [b"new".to_vec(), b"old".to_vec()];
        let verifier = Verifier::new(Verify::AcmeHmac, &secrets, Duration::from_secs(300)).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let verdict = verifier.verify(&headers, body, NOW).map(|id| id.map(str::to_owned));
        // All but the signature itself is known without the body.
        let looked = verifier.look(&headers, NOW);
        assert_eq!(looked.err(), verdict.clone().err().filter(|why| *why != Refused::Signature));
        verdict
    }

    #[test]
    fn a_webhook_is_taken_with_either_secret_and_with_nothing_else() {
        let now = NOW.to_string();
        for (secret, time, signed_body, expected) in [
            ("new", now.as_str(), BODY, Ok(None)),
            ("old", &now, BODY, Ok(None)),
            ("other", &now, BODY, Err(Refused::Signature)),
            ("new", &now, br#"{"id":"e-2"}"#, Err(Refused::Signature)),
            ("new", &(NOW - 300).to_string(), BODY, Ok(None)),
            ("new", &(NOW + 300).to_string(), BODY, Ok(None)),
            ("new", &(NOW - 301).to_string(), BODY, Err(Refused::Time)),
            ("new", &(NOW + 301).to_string(), BODY, Err(Refused::Time)),
            ("new", &format!("+{now}"), BODY, Err(Refused::Malformed(X_ACME_TIMESTAMP))),
            ("new", &format!(" {now}"), BODY, Err(Refused::Malformed(X_ACME_TIMESTAMP))),
            ("new", &format!("{now}.5"), BODY, Err(Refused::Malformed(X_ACME_TIMESTAMP))),
            ("new", "", BODY, Err(Refused::Malformed(X_ACME_TIMESTAMP))),
        ] {
            let signature = signed(secret, time, signed_body);
            let lines = [(X_ACME_TIMESTAMP, time), (X_ACME_SIGNATURE, &*signature)];
            assert_eq!(verdict(&lines, BODY), expected, "{secret} {time}");
        }
    }

    #[test]
    fn headers_that_are_missing_repeated_or_malformed_are_named() {
        let now = NOW.to_string();
        let good = signed("new", &now, BODY);
        let time = (X_ACME_TIMESTAMP, &*now);
        let upper = good.to_ascii_uppercase();
        let (short, odd, none) = (&good[..62], &good[..63], "zz".repeat(32));
        let malformed = || Err(Refused::Malformed(X_ACME_SIGNATURE));
        for (lines, expected) in [
            (vec![time.clone(), (X_ACME_SIGNATURE, &*upper)], Ok(None)),
            (vec![time.clone()], Err(Refused::Missing(X_ACME_SIGNATURE))),
            (vec![(X_ACME_SIGNATURE, &*good)], Err(Refused::Missing(X_ACME_TIMESTAMP))),
            (
                vec![time.clone(), (X_ACME_SIGNATURE, &*good), (X_ACME_SIGNATURE, &*good)],
                Err(Refused::Repeated(X_ACME_SIGNATURE)),
            ),
            (
                vec![time.clone(), time.clone(), (X_ACME_SIGNATURE, &*good)],
                Err(Refused::Repeated(X_ACME_TIMESTAMP)),
            ),
            (vec![time.clone(), (X_ACME_SIGNATURE, short)], malformed()),
            (vec![time.clone(), (X_ACME_SIGNATURE, odd)], malformed()),
            (vec![time.clone(), (X_ACME_SIGNATURE, &*none)], malformed()),
        ] {
            assert_eq!(verdict(&lines, BODY), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_secret_that_is_none_verifies_nothing() {
        let tolerance = Duration::from_secs(300);
        for secrets in [vec![], vec![vec![]], vec![b"one".to_vec(), vec![]]] {
            assert!(Verifier::new(Verify::AcmeHmac, &secrets, tolerance).is_err());
        }
        let plain = [b"plain".to_vec()];
        assert!(Verifier::new(Verify::StandardWebhooks, &plain, tolerance).is_err());
    }
}
