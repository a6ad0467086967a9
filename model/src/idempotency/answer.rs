//! What is kept of an answer, and how an exchange's ending settles its key.
//!
//! Invariant: what a repeat is served is what the first request was served, but for what belongs to one connection or one
//! exchange; never a cookie.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

/// The largest body that is kept, in bytes.
pub const RESPONSE_BODY_MAX: usize = 1 << 20;
/// The largest header section that is kept, in bytes of names and values.
pub const RESPONSE_HEADERS_MAX: usize = 64 << 10;
/// The largest `Location` that is kept of an answer that isn't, in bytes.
pub const LOCATION_MAX: usize = 8 << 10;

/// How the dispatch of a keyed request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The upstream's answer arrived whole.
    Answered(StatusCode),
    /// Provably not a byte of the request was sent: no connection, or none was tried.
    Unsent,
    /// Something was sent, and no whole answer came: cut off, timed out.
    Lost,
}

/// What an ending means for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Keep the answer ([`Ledger::complete`](super::Ledger::complete)).
    Keep,
    /// Free the key ([`Ledger::release`](super::Ledger::release)).
    Release,
    /// Nobody can know ([`Ledger::mark_unknown`](super::Ledger::mark_unknown)).
    Unknown,
}

impl Ending {
    /// Any final answer is kept, errors too; but a status of `release_on` says that the request was not processed.
    pub fn disposition(self, release_on: &[u16]) -> Disposition {
        match self {
            Self::Answered(status) => match status.as_u16() {
                status if release_on.contains(&status) => Disposition::Release,
                ..200 => Disposition::Unknown,
                200.. => Disposition::Keep,
            },
            Self::Unsent => Disposition::Release,
            Self::Lost => Disposition::Unknown,
        }
    }
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// All of it.
    Retained(StoredResponse),
    /// What is kept of it, sealed.
    Sealed(SealedResponse),
    /// Only this: it was too large, or there was no room for it.
    NotRetained {
        /// The status.
        status: StatusCode,
        /// The `Location`.
        location: Option<HeaderValue>,
    },
}

/// What operators are told of an answer that is left where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The status.
    pub status: StatusCode,
    /// Whether all of it is kept.
    pub is_retained: bool,
    /// How much of it is kept, in bytes; sealed, where it is sealed.
    pub size: usize,
}

/// An answer as it is served to repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers that are kept, in order.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, as the upstream coded it.
    pub body: Bytes,
}

/// An answer at rest, that only a holder of the key can read.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedResponse {
    /// The status: what is left of it for whoever has no key.
    pub status: StatusCode,
    /// [`StoredResponse::to_bytes`], sealed; none where it is not retained.
    pub bytes: Option<Bytes>,
    /// The `Location`, sealed by itself: it stays when there is no room for the rest.
    pub location: Option<Bytes>,
}

impl Answer {
    /// What is kept of this answer. No body means that it was larger than [`RESPONSE_BODY_MAX`].
    pub fn of(status: StatusCode, headers: &HeaderMap, body: Option<Bytes>) -> Self {
        let kept = kept(headers);
        match body {
            Some(body)
                if body.len() <= RESPONSE_BODY_MAX && size(&kept) <= RESPONSE_HEADERS_MAX =>
            {
                Self::Retained(StoredResponse { status, headers: kept, body })
            }
            Some(_) | None => {
                let location = short(headers.get(header::LOCATION)).cloned();
                Self::NotRetained { status, location }
            }
        }
    }

    /// As much of the answer as fits into so many bytes: all of it, its status and `Location`, its status.
    #[must_use]
    pub fn within(self, room: usize) -> Self {
        let smaller = |answer: Self, less: fn(Self) -> Self| {
            if answer.size() <= room { answer } else { less(answer) }
        };
        smaller(smaller(self, Self::without_body), Self::without_location)
    }

    /// The same answer when there is no room for it.
    #[must_use]
    pub fn without_body(self) -> Self {
        match self {
            Self::Retained(response) => {
                let location = response.location().cloned();
                Self::NotRetained { status: response.status, location }
            }
            Self::Sealed(response) => Self::Sealed(SealedResponse { bytes: None, ..response }),
            Self::NotRetained { .. } => self,
        }
    }

    fn without_location(self) -> Self {
        match self {
            Self::Retained(_) => self,
            Self::Sealed(SealedResponse { status, .. }) | Self::NotRetained { status, .. } => {
                Self::NotRetained { status, location: None }
            }
        }
    }

    /// What operators are told of it.
    pub fn outline(&self) -> Outline {
        let is_retained = match self {
            Self::Retained(_) => true,
            Self::Sealed(response) => response.bytes.is_some(),
            Self::NotRetained { .. } => false,
        };
        Outline { status: self.status(), is_retained, size: self.size() }
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Retained(StoredResponse { status, .. })
            | Self::Sealed(SealedResponse { status, .. })
            | Self::NotRetained { status, .. } => *status,
        }
    }

    /// How much there is to keep, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Retained(response) => response.body.len() + size(&response.headers),
            Self::Sealed(response) => {
                let parts = [&response.bytes, &response.location];
                parts.into_iter().flatten().map(Bytes::len).sum()
            }
            Self::NotRetained { location, .. } => location.as_ref().map_or(0, HeaderValue::len),
        }
    }
}

impl StoredResponse {
    /// The `Location`, where it is short enough to be kept when the rest isn't.
    pub fn location(&self) -> Option<&HeaderValue> {
        let mut headers = self.headers.iter();
        short(headers.find(|(name, _)| *name == header::LOCATION).map(|(_, value)| value))
    }

    /// Headers and body as bytes: the length of the headers' (32 bits, big-endian), theirs, the body's.
    pub fn to_bytes(&self) -> Vec<u8> {
        let headers = self.headers_to_bytes();
        let length = u32::try_from(headers.len()).expect("headers are at most 64 KiB and a little");
        [&length.to_be_bytes()[..], &headers, &self.body].concat()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` when it is something else.
    pub fn from_bytes(status: StatusCode, bytes: &Bytes) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (headers, body) = rest.split_at_checked(length)?;
        let headers = Self::headers_from_bytes(headers)?;
        Some(Self { status, headers, body: bytes.slice_ref(body) })
    }

    /// The headers as bytes: of each name and value its length (32 bits, big-endian) and itself.
    pub fn headers_to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size(&self.headers) + 8 * self.headers.len());
        for (name, value) in &self.headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                let length =
                    u32::try_from(part.len()).expect("no header is larger than all may be");
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
        bytes
    }

    /// Reads what [`headers_to_bytes`](Self::headers_to_bytes) wrote; `None` when it is something else.
    pub fn headers_from_bytes(mut bytes: &[u8]) -> Option<Vec<(HeaderName, HeaderValue)>> {
        fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
            let (length, rest) = bytes.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (part, rest) = rest.split_at_checked(length)?;
            *bytes = rest;
            Some(part)
        }
        let mut headers = Vec::new();
        while !bytes.is_empty() {
            let name = HeaderName::from_bytes(part(&mut bytes)?).ok()?;
            headers.push((name, HeaderValue::from_bytes(part(&mut bytes)?).ok()?));
        }
        Some(headers)
    }
}

/// What is never kept: what belongs to one connection (RFC 9110 §7.6.1), framing, cookies, and what the gateway says anew
/// with every response.
const DROPPED: [&str; 19] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "set-cookie",
    "x-request-id",
    "traceparent",
    "tracestate",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "idempotency-replayed",
];

fn kept(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    // A `Connection` that is not text names nothing that could be matched.
    let connection = headers.get_all(header::CONNECTION);
    let nominated: Vec<&str> = connection
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .collect();
    let is_kept = |name: &HeaderName| {
        !DROPPED.contains(&name.as_str())
            && !nominated.iter().any(|other| other.trim().eq_ignore_ascii_case(name.as_str()))
    };
    let lines = headers.iter().filter(|(name, _)| is_kept(name));
    lines.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn short(location: Option<&HeaderValue>) -> Option<&HeaderValue> {
    location.filter(|location| location.len() <= LOCATION_MAX)
}

fn size(headers: &[(HeaderName, HeaderValue)]) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn response(answer: Answer) -> StoredResponse {
        match answer {
            Answer::Retained(response) => response,
            Answer::Sealed(_) | Answer::NotRetained { .. } => panic!("not retained"),
        }
    }

    #[test]
    fn every_final_answer_is_kept_but_those_that_say_not_processed() {
        for status in 100..600 {
            let ending = Ending::Answered(StatusCode::from_u16(status).unwrap());
            let expected = match status {
                100..200 => Disposition::Unknown,
                408 | 503 => Disposition::Release,
                _ => Disposition::Keep,
            };
            assert_eq!(ending.disposition(&[408, 503]), expected, "{status}");
        }
        assert_eq!(Ending::Unsent.disposition(&[]), Disposition::Release);
        assert_eq!(Ending::Lost.disposition(&[408]), Disposition::Unknown);
    }

    #[test]
    fn what_belongs_to_a_connection_or_an_exchange_is_not_kept() {
        let headers = headers(&[
            ("date", b"Sat, 21 Nov 2026 00:00:00 GMT"),
            ("content-type", b"application/json"),
            ("set-cookie", b"session=1"),
            ("connection", b"close, X-Hop"),
            ("x-hop", b"1"),
            ("transfer-encoding", b"chunked"),
            ("content-length", b"2"),
            ("x-request-id", b"r-1"),
            ("ratelimit", b"\"burst\";r=1"),
            ("link", b"<a>"),
            ("link", b"<b>"),
            ("x-bytes", b"\xff"),
        ]);
        let stored = response(Answer::of(StatusCode::CREATED, &headers, Some(Bytes::new())));
        let names: Vec<_> = stored.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["date", "content-type", "link", "link", "x-bytes"]);
    }

    #[test]
    fn headers_survive_storage_byte_for_byte() {
        let headers = headers(&[
            ("link", b"<a>"),
            ("x-bytes", b"\xff\t "),
            ("x-empty", b""),
            ("link", b"<b>"),
        ]);
        let stored = response(Answer::of(StatusCode::OK, &headers, Some(Bytes::new())));
        let bytes = stored.headers_to_bytes();
        assert_eq!(StoredResponse::headers_from_bytes(&bytes).unwrap(), stored.headers);
        assert_eq!(StoredResponse::headers_from_bytes(&[]), Some(Vec::new()));
        for end in 1..bytes.len() {
            if let Some(headers) = StoredResponse::headers_from_bytes(&bytes[..end]) {
                assert!(headers.len() < stored.headers.len(), "{end}");
            }
        }
        assert_eq!(StoredResponse::headers_from_bytes(&[0xff; 16]), None);
        let stored = StoredResponse { body: Bytes::from_static(b"\x00\xffbody"), ..stored };
        let bytes = Bytes::from(stored.to_bytes());
        assert_eq!(StoredResponse::from_bytes(stored.status, &bytes), Some(stored.clone()));
        let whole = bytes.len() - stored.body.len();
        for end in 0..whole {
            assert_eq!(StoredResponse::from_bytes(stored.status, &bytes.slice(..end)), None);
        }
    }

    #[test]
    fn what_is_too_large_leaves_its_status_and_location() {
        let place = headers(&[("location", b"/v1/contacts/7"), ("x-big", &[b'x'; 100])]);
        let body = |size| Some(Bytes::from(vec![b'x'; size]));
        let lost = Answer::NotRetained {
            status: StatusCode::CREATED,
            location: Some(HeaderValue::from_static("/v1/contacts/7")),
        };
        let of = |headers, body| Answer::of(StatusCode::CREATED, headers, body);
        assert!(matches!(of(&place, body(RESPONSE_BODY_MAX)), Answer::Retained(_)));
        assert_eq!(of(&place, body(RESPONSE_BODY_MAX + 1)), lost);
        assert_eq!(of(&place, None), lost);
        let mut many = place.clone();
        for _ in 0..RESPONSE_HEADERS_MAX / 100 {
            many.append("x-big", HeaderValue::from_bytes(&[b'x'; 100]).unwrap());
        }
        assert_eq!(of(&many, body(1)), lost);
        assert_eq!(of(&place, body(1)).without_body(), lost);
        assert_eq!(lost.clone().without_body(), lost);
        assert_eq!(of(&place, body(10)).size(), 10 + 8 + 14 + 5 + 100);
    }

    #[test]
    fn an_answer_leaves_as_much_as_there_is_room_for() {
        let status = StatusCode::CREATED;
        let place = HeaderValue::from_static("/7");
        let sealed = SealedResponse {
            status,
            bytes: Some(Bytes::from_static(b"sealed")),
            location: Some(Bytes::from_static(b"place")),
        };
        let nothing = Answer::NotRetained { status, location: None };
        for (whole, smaller) in [
            (
                Answer::of(status, &headers(&[("location", b"/7")]), Some(Bytes::new())),
                Answer::NotRetained { status, location: Some(place) },
            ),
            (
                Answer::Sealed(sealed.clone()),
                Answer::Sealed(SealedResponse { bytes: None, ..sealed }),
            ),
        ] {
            assert_eq!((whole.outline().is_retained, smaller.outline().is_retained), (true, false));
            assert_eq!(whole.outline().size, whole.size());
            let fits = |room| whole.clone().within(room);
            assert_eq!(fits(whole.size()), whole);
            assert_eq!(fits(whole.size() - 1), smaller);
            assert_eq!(fits(smaller.size()), smaller);
            assert_eq!(fits(smaller.size() - 1), nothing);
            assert_eq!(fits(0), nothing);
        }
    }

    #[test]
    fn a_location_beyond_its_bound_is_not_kept_alone() {
        for (length, is_kept) in [(LOCATION_MAX, true), (LOCATION_MAX + 1, false)] {
            let place = headers(&[("location", &vec![b'/'; length])]);
            let large = Answer::of(StatusCode::CREATED, &place, None);
            let small = Answer::of(StatusCode::CREATED, &place, Some(Bytes::new()));
            assert!(matches!(small, Answer::Retained(_)));
            for left in [large, small.without_body()] {
                let Answer::NotRetained { location, .. } = left else { panic!("{left:?}") };
                assert_eq!(location.is_some(), is_kept, "{length}");
            }
        }
    }
}
