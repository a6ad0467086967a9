//! Stage 0: the head as it came on the wire → a well-formed [`Head`], or a refusal.
//!
//! pingora forwards much that RFC 9112 calls faulty (see ARCHITECTURE.md), so this reads the raw bytes. Invariant: after
//! the Gate there is one Host, one way to tell where the body ends, and a path that no server could read differently.

use http::{HeaderMap, Method, Uri, header};
use model::{ErrorCode, Head, Reject};
use std::net::IpAddr;

/// Longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Longest header section, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most header lines.
pub const HEADER_LINES_MAX: usize = 100;

fn malformed(message: &str) -> Reject {
    Reject::new(ErrorCode::ValidationFailed).message(message)
}

/// Judges a head. `raw` is the head as it was received; `uri` and `headers` are what pingora made of it.
pub fn admit(
    raw: &[u8],
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    client: IpAddr,
) -> Result<Head, Reject> {
    check_sizes(raw)?;
    check_lines(raw)?;
    check_framing(raw, headers)?;
    if method == Method::TRACE || method == Method::CONNECT {
        return Err(Reject::new(ErrorCode::MethodNotAllowed).header(
            header::ALLOW,
            http::HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ));
    }
    if headers.contains_key(header::UPGRADE) {
        return Err(malformed("Protocol upgrades are not taken here."));
    }
    let authority = authority(uri, headers)?;
    check_path(uri.path())?;
    Ok(Head {
        method: method.clone(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        authority,
        headers: headers.clone(),
        client,
    })
}

fn check_sizes(raw: &[u8]) -> Result<(), Reject> {
    let line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if target.len() > TARGET_BYTES_MAX {
        return Err(Reject::new(ErrorCode::UriTooLong).detail("limit", TARGET_BYTES_MAX));
    }
    if raw.len() > HEAD_BYTES_MAX {
        return Err(Reject::new(ErrorCode::HeadersTooLarge).detail("limit", HEAD_BYTES_MAX));
    }
    if raw.iter().filter(|byte| **byte == b'\n').count() > HEADER_LINES_MAX + 2 {
        return Err(Reject::new(ErrorCode::HeadersTooLarge).detail("limit_lines", HEADER_LINES_MAX));
    }
    Ok(())
}

/// RFC 9112 §2.2, §3, §5.1, §5.2: what a strict server refuses and a lax one would read differently.
fn check_lines(raw: &[u8]) -> Result<(), Reject> {
    let mut lines =
        raw.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request = lines.next().unwrap_or_default();
    let parts: Vec<&[u8]> = request.split(|byte| *byte == b' ').collect();
    let [_, target, _] = parts.as_slice() else {
        return Err(malformed("The request line must be a method, a target and a version."));
    };
    if target.iter().any(|byte| !(0x21..0x7f).contains(byte)) {
        return Err(malformed(
            "The request target must be visible ASCII; percent-encode the rest.",
        ));
    }
    for line in lines {
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(malformed("A header line holds a bare CR or a NUL."));
        }
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(malformed("A header line is folded over two lines."));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = line.get(..colon).unwrap_or_default();
        if name.last().is_some_and(u8::is_ascii_whitespace) {
            return Err(malformed("White space stands before the colon of a header."));
        }
    }
    Ok(())
}

/// One way to tell where the body ends (RFC 9112 §6.1, §6.3).
fn check_framing(raw: &[u8], headers: &HeaderMap) -> Result<(), Reject> {
    // pingora has removed a Content-Length that stood beside Transfer-Encoding, and joined repeats: count the raw lines.
    let mut lengths = 0;
    let mut codings = 0;
    for line in raw.split(|byte| *byte == b'\n').skip(1) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            let value = line.get(name.len() + 1..).unwrap_or_default().trim_ascii();
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(malformed("`Content-Length` must be one number."));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            let value = line.get(name.len() + 1..).unwrap_or_default().trim_ascii();
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("The only `Transfer-Encoding` taken is `chunked`."));
            }
        }
    }
    if lengths > 1 || codings > 1 || (lengths > 0 && codings > 0) {
        return Err(malformed("The request says in more than one way how long its body is."));
    }
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(malformed("The only `Expect` taken is `100-continue`."));
    }
    Ok(())
}

/// Exactly one valid Host (RFC 9112 §3.2), or the authority of an absolute-form target.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<String, Reject> {
    let mut lines = headers.get_all(header::HOST).iter();
    let (host, more) = (lines.next(), lines.next().is_some());
    let host = host.and_then(|value| value.to_str().ok()).filter(|host| is_host(host));
    match (host, more) {
        (Some(host), false) => {
            Ok(uri.authority().map_or(host, |authority| authority.as_str()).to_owned())
        }
        _ => Err(malformed("The request needs exactly one valid `Host`.")),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "0"),
    };
    let literal = name.starts_with('[') && name.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~');
    let inside = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '[' | ']');
    !name.is_empty()
        && port.parse::<u16>().is_ok()
        && if literal { name.chars().all(inside) } else { name.chars().all(plain) }
}

/// Refuses paths that another server might resolve to something else.
fn check_path(path: &str) -> Result<(), Reject> {
    let ambiguous = || {
        Err(malformed(
            "The path is ambiguous: it has `//`, `.`, `..`, `\\` or their encoded forms.",
        ))
    };
    if !path.starts_with('/') {
        return Err(malformed("The request target must be a path."));
    }
    if path.contains("//") || path.contains('\\') {
        return ambiguous();
    }
    let mut encoded = path.split('%');
    let _plain = encoded.next();
    for part in encoded {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            None => return Err(malformed("The path has an incomplete percent-encoding.")),
            Some(b'/' | b'\\' | b'.' | 0..=0x1f | 0x7f) => return ambiguous(),
            Some(_) => {}
        }
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return ambiguous();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Parses as pingora would for these inputs, then asks the Gate.
    fn judge(raw: &str) -> Result<Head, Reject> {
        let mut lines = raw.split("\r\n");
        let mut first = lines.next().unwrap().split(' ');
        let method = first.next().unwrap().parse().unwrap();
        let uri = first.next().unwrap().parse().unwrap_or_else(|_| Uri::from_static("/"));
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else { continue };
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::try_from(name.trim()), value.trim().try_into())
            {
                headers.append(name, value);
            }
        }
        admit(raw.as_bytes(), &method, &uri, &headers, Ipv4Addr::LOCALHOST.into())
    }

    #[test]
    fn a_plain_request_passes() {
        let head =
            judge("GET /v1/contacts?limit=2 HTTP/1.1\r\nHost: api.example:8080\r\n\r\n").unwrap();
        assert_eq!((head.path.as_str(), head.query.as_deref()), ("/v1/contacts", Some("limit=2")));
        assert_eq!(head.authority, "api.example:8080");
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        let cases = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n  folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET //x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%5cb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for raw in cases {
            let reject = judge(raw).expect_err(raw);
            assert_eq!(reject.code, ErrorCode::ValidationFailed, "{raw}");
        }
    }

    #[test]
    fn each_size_has_its_own_code() {
        let long = "a".repeat(TARGET_BYTES_MAX);
        let cases = [
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), ErrorCode::UriTooLong),
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX)),
                ErrorCode::HeadersTooLarge,
            ),
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(HEADER_LINES_MAX)),
                ErrorCode::HeadersTooLarge,
            ),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ErrorCode::MethodNotAllowed),
        ];
        for (raw, code) in cases {
            assert_eq!(judge(&raw).expect_err("refused").code, code);
        }
    }
}
