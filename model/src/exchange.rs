//! What the gateway knows of one request's head and of who sent it. Owned, so that it outlives the connection.

use crate::id::{ConsumerId, TenantId};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// Headers that only the gateway may write, towards an upstream: who calls, which version, which request. Lower case; names
/// that start with `x-forwarded-` are such headers, too.
pub const GATEWAY_HEADERS: &[&str] = &[
    "x-tenant-id",
    "x-consumer-id",
    "x-scopes",
    "api-version",
    "x-request-id",
    "traceparent",
    "tracestate",
    "idempotency-key",
    "x-idempotency-key",
    "x-idempotency-fence",
    "forwarded",
    "via",
    "x-real-ip",
];

/// Headers that only the gateway may write, towards a caller: it replaces what an upstream or a pack says. Lower case.
pub const RESPONSE_OWNED: &[&str] = &[
    "x-request-id",
    "tollgate-revision",
    "api-version",
    "idempotency-replayed",
    "idempotency-status",
    "ratelimit-policy",
    "ratelimit",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

/// Headers of one connection, not of an exchange (RFC 9110 §7.6.1). Lower case.
pub const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A request's head after the Gate: well formed, its target split, its origin known.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The path as it was sent (percent-encoded, starting with `/`).
    pub path: String,
    /// The query as it was sent, without `?`.
    pub query: Option<String>,
    /// The `Host` or `:authority`.
    pub authority: String,
    /// The headers, as received.
    pub headers: HeaderMap,
    /// The address of the peer of this connection.
    pub client: IpAddr,
}

impl Head {
    /// The only line of this header as text; `None` when absent, `Err` when repeated or not visible ASCII.
    pub fn single(&self, name: &http::HeaderName) -> Result<Option<&str>, HeaderFault> {
        let mut lines = self.headers.get_all(name).iter();
        let Some(first) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(HeaderFault::Repeated);
        }
        first.to_str().map(Some).map_err(|_| HeaderFault::NotText)
    }
}

/// What is wrong with a header that must stand once and be text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// It stands more than once.
    Repeated,
    /// It has bytes outside visible ASCII.
    NotText,
}

/// Who a credential stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The unit of isolation.
    pub tenant: TenantId,
    /// The application that acts for the tenant.
    pub consumer: ConsumerId,
    /// What idempotency keys belong to beside the tenant: the JWT's `sub`, else the consumer.
    pub subject: String,
    /// The id of the credential within its consumer; the key id of a JWT.
    pub credential: String,
    /// What the credential may do; sorted, without repeats.
    pub scopes: Vec<Arc<str>>,
    /// The JWT's claims; an empty object for other credentials.
    pub claims: Arc<Value>,
}

impl Identity {
    /// Whether the credential has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| &**held == scope)
    }
}
