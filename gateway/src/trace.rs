//! Trace and request ids: W3C Trace Context (level 2) and `X-Request-ID`.

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use rand::RngExt as _;
use std::fmt::Write as _;
use uuid::Uuid;

/// W3C Trace Context §3.2.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context §3.3.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The id of one request, echoed in its answer.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Most members of a `tracestate` (§3.3.1.1).
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Longest `tracestate` that is handed on, in bytes.
const TRACESTATE_BYTES_MAX: usize = 8192;

/// The ids under which an exchange is reported.
#[derive(Clone, Debug)]
pub struct Trace {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// The client's `X-Request-ID` when it is well formed, else a UUIDv7.
    pub request_id: String,
    flags: u8,
    state: Option<HeaderValue>,
}

impl Trace {
    /// Continues the client's trace, or begins one.
    pub fn of(headers: &HeaderMap, now: Timestamp) -> Self {
        let request_id = request_id(headers).unwrap_or_else(|| fresh_id(now).to_string());
        match parent(headers) {
            Some((trace_id, flags)) => Self { trace_id, request_id, flags, state: state(headers) },
            None => Self {
                trace_id: hex(rand::rng().random::<u128>().max(1), 32),
                request_id,
                flags: 2,
                state: None,
            },
        }
    }

    /// The `traceparent` of a request to an upstream: the same trace, a new parent (§3.2.2.4).
    pub fn parent(&self) -> HeaderValue {
        let span = hex(u128::from(rand::rng().random::<u64>().max(1)), 16);
        let text = format!("00-{}-{span}-{:02x}", self.trace_id, self.flags);
        HeaderValue::try_from(text).expect("hex digits and dashes are visible ASCII")
    }

    /// The client's `tracestate`, when its trace is continued.
    pub fn state(&self) -> Option<&HeaderValue> {
        self.state.as_ref()
    }
}

/// A UUIDv7 (RFC 9562 §5.7) that sorts by microsecond: its first random bits are a finer clock (§6.2, method 3).
pub(crate) fn fresh_id(now: Timestamp) -> Uuid {
    let millis = u64::try_from(now.as_millisecond()).unwrap_or_default();
    let micros = now.as_microsecond().rem_euclid(1_000);
    let fraction = u16::try_from(micros * (1 << 12) / 1_000).unwrap_or_default();
    let mut bits: [u8; 10] = rand::rng().random();
    let [first, second, ..] = &mut bits;
    [*first, *second] = fraction.to_be_bytes();
    uuid::Builder::from_unix_timestamp_millis(millis, &bits).into_uuid()
}

/// Whether the text may stand as a request id. Trace ids may as well.
pub(crate) fn is_request_id(text: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'-');
    (8..=128).contains(&text.len()) && text.bytes().all(allowed)
}

fn hex(value: u128, digits: usize) -> String {
    let mut text = String::with_capacity(digits);
    let _ = write!(text, "{value:0digits$x}");
    text
}

/// One valid `traceparent`: its trace id and flags.
fn parent(headers: &HeaderMap) -> Option<(String, u8)> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    let text = lines.next()?.to_str().ok()?;
    if lines.next().is_some() {
        return None;
    }
    let lower_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.splitn(5, '-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let rest = parts.next();
    let sized = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let hexadecimal = [version, trace, span, flags].iter().all(|part| lower_hex(part));
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let newer = version != "00";
    if !sized
        || !hexadecimal
        || version == "ff"
        || zero(trace)
        || zero(span)
        || (rest.is_some() && !newer)
    {
        return None;
    }
    // Sampled (bit 0) and random (bit 1) are known; other bits are not handed on (§3.2.2.5).
    Some((trace.to_owned(), u8::from_str_radix(flags, 16).ok()? & 3))
}

fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&str> = headers
        .get_all(&TRACESTATE)
        .iter()
        .map(HeaderValue::to_str)
        .collect::<Result<_, _>>()
        .ok()?;
    let joined = lines.join(",");
    let members: Vec<&str> =
        joined.split(',').map(str::trim).filter(|member| !member.is_empty()).collect();
    let mut keys: Vec<&str> =
        members.iter().filter_map(|member| Some(member.split_once('=')?.0)).collect();
    let whole = keys.len() == members.len();
    keys.sort_unstable();
    keys.dedup();
    let sound = whole
        && keys.len() == members.len()
        && !members.is_empty()
        && members.len() <= TRACESTATE_MEMBERS_MAX
        && joined.len() <= TRACESTATE_BYTES_MAX;
    sound.then(|| HeaderValue::try_from(members.join(",")).ok()).flatten()
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(&X_REQUEST_ID).iter();
    let text = lines.next()?.to_str().ok()?;
    let sound = lines.next().is_none() && is_request_id(text);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&'static str, &str)]) -> Trace {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Trace::of(&headers, Timestamp::UNIX_EPOCH)
    }

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_valid_parent_is_continued_with_a_new_span() {
        let trace = of(&[
            ("traceparent", &format!("00-{ID}-b7ad6b7169203331-01")),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        assert_eq!(trace.trace_id, ID);
        let parent = trace.parent();
        let parent = parent.to_str().unwrap();
        assert!(parent.starts_with(&format!("00-{ID}-")) && parent.ends_with("-01"), "{parent}");
        assert!(!parent.contains("b7ad6b7169203331"));
        assert_eq!(trace.state().unwrap(), "a=1,b=2");
    }

    #[test]
    fn an_invalid_parent_begins_a_new_trace_without_state() {
        let cases = [
            format!("ff-{ID}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase()),
            format!("00-{ID}-b7ad6b7169203331-01-extra"),
            format!("00-{ID}-b7ad6b7169203331"),
        ];
        for parent in cases {
            let trace = of(&[("traceparent", &parent), ("tracestate", "a=1")]);
            assert_ne!(trace.trace_id, ID, "{parent}");
            assert!(trace.state().is_none(), "{parent}");
        }
    }

    #[test]
    fn ids_sort_by_microsecond() {
        let at = |micros| fresh_id(Timestamp::from_microsecond(micros).unwrap());
        let ids: Vec<Uuid> = (1_700_000_000_000_500..1_700_000_000_002_500).map(at).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert_ne!(at(1), at(1));
    }

    #[test]
    fn only_well_formed_request_ids_are_kept() {
        assert_eq!(of(&[("x-request-id", "order-12345")]).request_id, "order-12345");
        for bad in ["short", "has space in it", "semi;colon-here"] {
            assert_ne!(of(&[("x-request-id", bad)]).request_id, bad);
        }
        assert_ne!(
            of(&[("x-request-id", "order-12345"), ("x-request-id", "order-12345")]).request_id,
            "order-12345"
        );
    }
}
