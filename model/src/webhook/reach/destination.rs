//! Where something is sent, as it is written: an `http` or `https` address in a form that no two readers read apart.

use super::Forbidden;
use http::Uri;
use http::uri::Scheme;
use std::net::IpAddr;
use url::Url;

/// Longest address, in bytes.
const URL_MAX: usize = 2_048;
/// Ports below 1024 that webhooks are received at.
const LOW_PORTS: [u16; 2] = [80, 443];
/// Ports from 1024 that other protocols are at home at, which a request could speak to (Fetch §2.9, "bad ports").
const BAD_PORTS: [u16; 19] = [
    1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669,
    6679, 6697, 10080,
];

/// Where something is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    uri: Uri,
    host: Host,
    port: u16,
}

/// What stands between `//` and the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address, however it was written: `2130706433` and `0x7f.1` are 127.0.0.1.
    Address(IpAddr),
    /// A name, in lower case and ASCII (IDNA).
    Name(String),
}

/// Why nothing may be sent there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// It is none.
    #[error("is no address of the form `https://host/path`: {0}")]
    Form(String),
    /// Another scheme.
    #[error("must start with `https://` (or `http://`, to addresses of `webhooks.allow_private`)")]
    Scheme,
    /// A user or a password in it, which would be shown wherever it is.
    #[error("must hold no user and no password: give `authorization`")]
    User,
    /// `#…` is never sent.
    #[error("must hold no fragment (`#…`), since none is sent")]
    Fragment,
    /// `host.`: the same host under another name.
    #[error("must name its host without a dot at the end")]
    Dot,
    /// A port of another protocol.
    #[error(
        "names port {0}: allowed are 80, 443 and those from 1024 where no other protocol is at home"
    )]
    Port(u16),
    /// Its host may not be connected to.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

impl Destination {
    /// Reads an address, and judges its form only.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let form = |why: &str| DestinationError::Form(why.to_owned());
        if text.len() > URL_MAX {
            return Err(DestinationError::Form(format!("it is longer than {URL_MAX} bytes")));
        }
        // The parser would pass over these, and others not.
        if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\') {
            return Err(form("it holds a space, a control character or a backslash"));
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or(DestinationError::Scheme)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(form("it names no host"));
        }
        if authority.contains('@') {
            return Err(DestinationError::User);
        }
        let url = Url::parse(text).map_err(|error| form(&error.to_string()))?;
        if url.fragment().is_some() {
            return Err(DestinationError::Fragment);
        }
        let host = match url.host() {
            Some(url::Host::Ipv4(address)) => Host::Address(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Host::Address(IpAddr::V6(address)),
            Some(url::Host::Domain(name)) if name.ends_with('.') => {
                return Err(DestinationError::Dot);
            }
            Some(url::Host::Domain(name)) => Host::Name(name.to_owned()),
            None => return Err(form("it names no host")),
        };
        let port = url.port_or_known_default().unwrap_or_default();
        if (port < 1024 && !LOW_PORTS.contains(&port)) || BAD_PORTS.contains(&port) {
            return Err(DestinationError::Port(port));
        }
        let uri = url.as_str().parse().map_err(|_| form("its path or query is malformed"))?;
        Ok(Self { uri, host, port })
    }

    /// The same with this query behind its own.
    pub fn with_query(&self, pairs: &[(&str, &str)]) -> Result<Self, DestinationError> {
        let form = |error: url::ParseError| DestinationError::Form(error.to_string());
        let mut url = Url::parse(&self.uri.to_string()).map_err(form)?;
        url.query_pairs_mut().extend_pairs(pairs);
        Self::parse(url.as_str())
    }

    /// As it is requested.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port, that of its scheme where it names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is reached by TLS.
    pub fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }
}
