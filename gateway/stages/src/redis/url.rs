//! Where a Redis is, as one URL.
//!
//! Invariant: neither [`Display`](fmt::Display) nor [`Debug`](fmt::Debug) nor an error shows a password or a user's name.

use redis::RedisConnectionInfo;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion};
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
    is_tls: bool,
    hosts: Vec<(String, u16)>,
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

    /// Where the hosts are that it names.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (String, u16)> {
        self.hosts.iter().cloned()
    }

    /// How to speak to each of them.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionInfo> {
        self.addresses().map(|(host, port)| self.connection(host, port))
    }

    /// How to speak to the server at this address.
    pub(super) fn connection(&self, host: String, port: u16) -> ConnectionInfo {
        let address = if self.is_tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = address.into_connection_info().expect("an address is one");
        info.set_redis_settings(self.login.clone())
    }

    /// Whether connections are made under TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
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
        if path.contains('@') {
            return Err(InvalidRedisUrl("a `/` in a user or password is written `%2F`"));
        }
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
            hosts.split(',').map(|host| address(host, port)).collect::<Result<_, _>>()?;
        if hosts.len() > HOSTS_MAX {
            return Err(InvalidRedisUrl("it names more than 32 hosts"));
        }
        if kind == Kind::Single && hosts.len() > 1 {
            return Err(InvalidRedisUrl("several hosts are those of sentinels or of a cluster"));
        }
        let login = self::login(login)?.set_db(database(db)?);
        Ok(Self { kind, is_tls: base == "rediss", hosts, login, shown: format!("{shown}{path}") })
    }
}

/// `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
fn address(text: &str, default: u16) -> Result<(String, u16), InvalidRedisUrl> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or(InvalidRedisUrl("a `[` is not closed"))?;
            let port = match rest.strip_prefix(':') {
                None if !rest.is_empty() => {
                    return Err(InvalidRedisUrl("there is no `:` between an address and its port"));
                }
                port => port,
            };
            (host, port)
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
    Ok((host.to_owned(), port))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &RedisUrl) -> Vec<String> {
        url.addresses().map(|(host, port)| format!("{host}:{port}")).collect()
    }

    #[test]
    fn what_operators_write_is_read() {
        let sentinel = || Kind::Sentinel { service: "main".to_owned() };
        for (text, kind, hosts, db) in [
            ("redis://cache", Kind::Single, vec!["cache:6379"], 0),
            ("redis://cache:7000/3", Kind::Single, vec!["cache:7000"], 3),
            ("rediss://u:p@10.0.0.1:6380/", Kind::Single, vec!["10.0.0.1:6380"], 0),
            ("redis://[::1]:6380", Kind::Single, vec!["::1:6380"], 0),
            ("redis://[::1]", Kind::Single, vec!["::1:6379"], 0),
            ("redis+sentinel://a,b:1/main", sentinel(), vec!["a:26379", "b:1"], 0),
            ("rediss+sentinel://:p@a/main/2", sentinel(), vec!["a:26379"], 2),
            ("redis+cluster://a,b,c:7", Kind::Cluster, vec!["a:6379", "b:6379", "c:7"], 0),
            ("rediss+cluster://u:p@a/", Kind::Cluster, vec!["a:6379"], 0),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(
                (url.kind(), self::hosts(&url), url.login().db()),
                (&kind, hosts.iter().map(ToString::to_string).collect(), db)
            );
            assert_eq!(url.is_tls(), text.starts_with("rediss"), "{text}");
            assert_eq!(url.connections().count(), hosts.len());
            assert_eq!(url, text.parse().unwrap());
        }
    }

    #[test]
    fn users_and_passwords_are_decoded_and_never_shown() {
        for (login, user, password) in [
            ("gate:s3cret@", Some("gate"), Some("s3cret")),
            (":s3cret@", None, Some("s3cret")),
            ("gate:s3cret%40%2F%3a%25@", Some("gate"), Some("s3cret@/:%")),
            ("gate:s3cret@x@", Some("gate"), Some("s3cret@x")),
            ("g%C3%A4te:s3cret:x@", Some("gäte"), Some("s3cret:x")),
            ("", None, None),
        ] {
            for (scheme, path) in
                [("redis", "/1"), ("rediss+sentinel", "/main"), ("redis+cluster", "")]
            {
                let url: RedisUrl = format!("{scheme}://{login}a:7{path}").parse().unwrap();
                assert_eq!((url.login().username(), url.login().password()), (user, password));
                assert_eq!(url.to_string(), format!("{scheme}://a:7{path}"));
                let shown = format!("{url:?}");
                assert!(!shown.contains("s3cret") && !shown.contains("gate"), "{shown}");
            }
        }
        let of = |login: &str| format!("redis://{login}a").parse::<RedisUrl>().unwrap();
        assert_ne!(of("u:p@"), of("u:q@"), "another password is another URL");
    }

    #[test]
    fn what_is_no_url_is_refused_with_how_to_write_it() {
        for (text, why) in [
            ("", "no scheme"),
            ("cache:6379", "no scheme"),
            ("http://s3cret@a", "another one"),
            ("redis+other://s3cret:x@a", "another one"),
            ("redis://", "a host is missing"),
            ("redis://u:s3cret@", "a host is missing"),
            ("redis://s3cret@a", "without a password"),
            ("redis://u:s3cret@a:x", "a port"),
            ("redis://u:s3cret@a:0", "a port"),
            ("redis://u:s3cret@a:65536", "a port"),
            ("redis://u:s3cret@[::1", "not closed"),
            ("redis://u:s3cret@a,b", "several hosts"),
            ("redis://u:s3cret@a/x", "database"),
            ("redis://u:s3cret@a?db=1", "`%3F`"),
            ("redis://u:s3cret#@a", "`%23`"),
            ("redis://u:s3cret%4@a", "two hex digits"),
            ("redis://u:s3cret%zz@a", "two hex digits"),
            ("redis://u:s3cret%ff@a", "UTF-8"),
            ("redis+sentinel://u:s3cret@a", "no service"),
            ("redis+cluster://u:s3cret@a/1", "one database"),
            // A slash that was not encoded.
            ("redis://u:s3/cret@a", "`%2F`"),
            ("redis+sentinel://user:123/s3cret@a", "`%2F`"),
            ("redis://[::1]6379", "no `:`"),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("redis+sentinel://"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let many = vec!["a"; 33].join(",");
        assert!(format!("redis+cluster://{many}").parse::<RedisUrl>().is_err());
    }
}
