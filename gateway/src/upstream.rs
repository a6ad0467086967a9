//! Where a request goes, and what its head says there.
//!
//! Invariant: what names the caller to the upstream comes from us alone; every inbound variant of it is removed first.

use crate::pipeline::Admitted;
use crate::trace::{TRACEPARENT, TRACESTATE, Trace, X_REQUEST_ID};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use model::Head;
use model::document::Timeouts;
use model::id::UpstreamId;
use stages::authenticate::X_API_KEY;
use stages::version::API_VERSION;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Our name in `Via` (RFC 9110 §7.6.3).
const PSEUDONYM: &str = "tollgate";

const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const X_CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const X_SCOPES: HeaderName = HeaderName::from_static("x-scopes");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_FENCE: HeaderName = HeaderName::from_static("x-idempotency-fence");

/// Headers that only we may write. Lower case; names with `_` for `-` are removed with every other such name.
const OURS: [&str; 13] = [
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

/// A service behind the gateway, as one revision knows it.
pub struct Upstream {
    /// Its id.
    pub id: UpstreamId,
    /// Its timeouts.
    pub timeouts: Timeouts,
    targets: Vec<Target>,
    weights: usize,
    turn: AtomicUsize,
}

struct Target {
    address: SocketAddr,
    weight: usize,
}

impl Upstream {
    /// An upstream whose peers have been resolved.
    pub fn new(id: UpstreamId, timeouts: Timeouts, targets: Vec<(SocketAddr, u32)>) -> Self {
        let targets: Vec<Target> = targets
            .into_iter()
            .map(|(address, weight)| Target { address, weight: weight as usize })
            .collect();
        let weights = targets.iter().map(|target| target.weight).sum();
        Self { id, timeouts, targets, weights, turn: AtomicUsize::new(0) }
    }

    /// The next peer: each in turn, by weight.
    pub fn peer(&self) -> SocketAddr {
        let mut turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.weights.max(1);
        for target in &self.targets {
            if turn < target.weight {
                return target.address;
            }
            turn -= target.weight;
        }
        // A checked document has at least one target, each of weight 1 or more.
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// How many peers there are.
    pub fn peers(&self) -> usize {
        self.targets.len()
    }

    /// How long an exchange may hold what it was lent: its total time and a margin.
    pub fn hold(&self) -> Duration {
        self.timeouts.total.0 + self.timeouts.connect.0 + Duration::from_secs(10)
    }
}

/// The path and query of the request to the upstream.
pub fn target(head: &Head, admitted: &Admitted) -> String {
    let prefix = &admitted.version.version().upstream_prefix;
    let path = admitted.matched.path();
    match &head.query {
        Some(query) => format!("{prefix}{path}?{query}"),
        None => format!("{prefix}{path}"),
    }
}

/// Rewrites the headers of a request on its way to the upstream: theirs out, packs' edits, ours in.
pub fn rewrite(headers: &mut HeaderMap, head: &Head, admitted: &Admitted, trace: &Trace) {
    for name in OURS {
        headers.remove(name);
    }
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_') || name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
    if !admitted.matched.route().forward_credentials {
        headers.remove(header::AUTHORIZATION);
        headers.remove(X_API_KEY);
    }
    admitted.edits.apply(headers);
    identify(headers, admitted);
    let set = |headers: &mut HeaderMap, name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(headers, X_REQUEST_ID, &trace.request_id);
    headers.insert(TRACEPARENT, trace.parent());
    if let Some(state) = trace.state() {
        headers.insert(TRACESTATE, state.clone());
    }
    let client = head.client.to_canonical();
    let quoted = if client.is_ipv6() { format!("\"[{client}]\"") } else { client.to_string() };
    set(
        headers,
        header::FORWARDED,
        &format!("for={quoted};host=\"{}\";proto=http", head.authority),
    );
    set(headers, X_FORWARDED_FOR, &client.to_string());
    set(headers, X_FORWARDED_HOST, &head.authority);
    set(headers, X_FORWARDED_PROTO, "http");
    set(headers, header::VIA, &format!("1.1 {PSEUDONYM}"));
}

/// Who calls, which version, and the derived idempotency key.
fn identify(headers: &mut HeaderMap, admitted: &Admitted) {
    let identity = admitted.caller.identity();
    let set = |headers: &mut HeaderMap, name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(headers, X_TENANT_ID, identity.tenant.as_str());
    set(headers, X_CONSUMER_ID, identity.consumer.as_str());
    set(headers, X_SCOPES, &identity.scopes.join(" "));
    set(headers, API_VERSION, admitted.version.version().name.as_str());
    if let Some((key, fence)) = admitted.claim.for_upstream() {
        headers.insert(IDEMPOTENCY_KEY, key.clone());
        set(headers, IDEMPOTENCY_FENCE, &fence.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_take_turns_by_weight() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let upstream = Upstream::new(
            "crm".into(),
            Timeouts::default(),
            vec![(address(1), 1), (address(2), 3)],
        );
        let mut counts = [0, 0];
        for _ in 0..40 {
            counts[usize::from(upstream.peer().port()) - 1] += 1;
        }
        assert_eq!(counts, [10, 30]);
    }
}
