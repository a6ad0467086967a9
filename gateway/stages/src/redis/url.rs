//! Where a Redis is, as one URL.
//!
//! Invariant: neither [`Display`](fmt::Display) nor [`Debug`](fmt::Debug) nor an error shows a password or a user's name.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion};
use redis::{RedisConnectionInfo, io::tcp::TcpSettings};
use std::fmt;
use std::str::FromStr;

/// What URLs may look like, for errors.
const FORMS: &str = "`redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, \
    `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/SERVICE[/DB]` or \
    `redis+cluster://[USER:PASSWORD@]HOST[:PORT],…`; with `rediss` for TLS";
/// The most hosts that one URL names.
const HOSTS_MAX: usize = 32;
/// Where sentinels listen unless told (Redis' own default).
const SENTINEL_PORT: u16 = 26379;
/// Where servers listen unless told.
const PORT: u16 = 6379;

/// Where a Redis is, and as whom to speak to it.
#[derive(Clone)]
pub struct RedisUrl {
    kind: Kind,
    hosts: Vec<ConnectionAddr>,
    login: RedisConnectionInfo,
    /// As it was written, without user and password.
    shown: String,
}

/// Who is found under the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server.
    Single,
    /// Sentinels that know who is the service's master.
    Sentinel {
        /// The service.
        service: String,
    },
    /// Some nodes of a cluster.
    Cluster,
}

/// A URL that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no URL of a Redis: {0}; write {FORMS}")]
pub struct InvalidRedisUrl(&'static str);

impl RedisUrl {
    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// As whom to speak, in which database, how.
    pub(super) fn login(&self) -> &RedisConnectionInfo {
        &self.login
    }

    /// The hosts it names.
    pub(super) fn hosts(&self) -> &[ConnectionAddr] {
        &self.hosts
    }

    /// Each host, with how to speak to it.
    pub(super) fn connections(&self, tcp: &TcpSettings) -> Vec<ConnectionInfo> {
        let connection = |host: &ConnectionAddr| {
            let info = host.clone().into_connection_info().ok()?;
            Some(info.set_redis_settings(self.login.clone()).set_tcp_settings(tcp.clone()))
        };
        self.hosts.iter().filter_map(connection).collect()
    }

    /// Whether connections are made under TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.hosts.iter().any(|host| matches!(host, ConnectionAddr::TcpTls { .. }))
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidRedisUrl("it has no scheme"))?;
        if text.contains(['?', '#']) {
            return Err(InvalidRedisUrl(
                "it has a `?` or `#` (in a password, write them as `%3F` and `%23`)",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (base, topology) = scheme.split_once('+').unwrap_or((scheme, ""));
        if base != "redis" && base != "rediss" {
            return Err(InvalidRedisUrl("its scheme is another one"));
        }
        let (kind, db) = match topology {
            "" => (Kind::Single, path),
            "cluster" => (Kind::Cluster, path),
            "sentinel" => {
                let (service, db) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(InvalidRedisUrl("it names no service behind the sentinels"));
                }
                (Kind::Sentinel { service: service.to_owned() }, db)
            }
            _ => return Err(InvalidRedisUrl("its scheme is another one")),
        };
        if kind == Kind::Cluster && !db.is_empty() {
            return Err(InvalidRedisUrl("a cluster has one database, so that none is named"));
        }
        let port = if matches!(kind, Kind::Sentinel { .. }) { SENTINEL_PORT } else { PORT };
        let shown = format!("{scheme}://{hosts}{}", if path.is_empty() { "" } else { "/" });
        let hosts: Vec<_> =
            hosts.split(',').map(|host| address(base, host, port)).collect::<Result<_, _>>()?;
        if hosts.len() > HOSTS_MAX {
            return Err(InvalidRedisUrl("it names more than 32 hosts"));
        }
        if kind == Kind::Single && hosts.len() > 1 {
            return Err(InvalidRedisUrl("several hosts are those of sentinels or of a cluster"));
        }
        let login = self::login(login)?.set_db(database(db)?);
        Ok(Self { kind, hosts, login, shown: format!("{shown}{path}") })
    }
}

/// `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
fn address(scheme: &str, text: &str, default: u16) -> Result<ConnectionAddr, InvalidRedisUrl> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or(InvalidRedisUrl("a `[` is not closed"))?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(InvalidRedisUrl("a host is missing"));
    }
    let port = match port {
        None => default,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(InvalidRedisUrl("a port is not a number from 1 to 65535"))?,
    };
    let host = host.to_owned();
    Ok(if scheme == "rediss" {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    })
}

/// `USER:PASSWORD` or `:PASSWORD`, percent-encoded (RFC 3986 §2.1).
fn login(text: Option<&str>) -> Result<RedisConnectionInfo, InvalidRedisUrl> {
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let Some(text) = text else { return Ok(info) };
    let (user, password) = text
        .split_once(':')
        .ok_or(InvalidRedisUrl("it names a user without a password (`USER:PASSWORD@`)"))?;
    let info = info.set_password(decode(password)?);
    Ok(if user.is_empty() { info } else { info.set_username(decode(user)?) })
}

fn decode(text: &str) -> Result<String, InvalidRedisUrl> {
    let wrong = InvalidRedisUrl("a `%` in user or password is not followed by two hex digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let both = digit().zip(digit());
            let (high, low) = both.ok_or_else(|| wrong.clone())?;
            u8::try_from(high * 16 + low).map_err(|_| wrong.clone())?
        } else {
            byte
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| InvalidRedisUrl("user or password is no UTF-8"))
}

fn database(text: &str) -> Result<i64, InvalidRedisUrl> {
    match text.trim_end_matches('/') {
        "" => Ok(0),
        text => text
            .parse::<u16>()
            .map(i64::from)
            .map_err(|_| InvalidRedisUrl("its database is not a number")),
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.shown)
    }
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        let login = |url: &Self| {
            let login = &url.login;
            (login.username().map(str::to_owned), login.password().map(str::to_owned), login.db())
        };
        self.shown == other.shown && login(self) == login(other)
    }
}

impl Eq for RedisUrl {}
