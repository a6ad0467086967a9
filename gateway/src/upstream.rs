//! Where a request goes, and what its head says there.
//!
//! Invariant: what names the caller to the upstream comes from us alone; every inbound variant of it is removed first.

use crate::outbound::Outbound;
use crate::packs::Picks;
use crate::pipeline::Admitted;
use crate::trace::{TRACEPARENT, TRACESTATE, Trace, X_REQUEST_ID};
use http::{HeaderName, HeaderValue, header};
use model::document::Timeouts;
use model::exchange::GATEWAY_HEADERS;
use model::id::UpstreamId;
use model::{Head, HeaderEdit};
use pingora::http::RequestHeader;
use stages::authenticate::X_API_KEY;
use stages::version::API_VERSION;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// `Via`, with our pseudonym (RFC 9110 §7.6.3).
const VIA: &str = "1.1 tollgate";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_FENCE: HeaderName = HeaderName::from_static("x-idempotency-fence");

/// A service behind the gateway, as one revision knows it.
pub struct Upstream {
    /// Its id.
    pub id: UpstreamId,
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// What it may be sent.
    pub outbound: Outbound,
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
    pub fn new(
        id: UpstreamId,
        timeouts: Timeouts,
        outbound: Outbound,
        targets: Vec<(SocketAddr, u32)>,
    ) -> Self {
        let targets: Vec<Target> = targets
            .into_iter()
            .map(|(address, weight)| Target { address, weight: weight as usize })
            .collect();
        let weights = targets.iter().map(|target| target.weight).sum();
        Self { id, timeouts, outbound, targets, weights, turn: AtomicUsize::new(0) }
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
pub fn rewrite(request: &mut RequestHeader, head: &Head, admitted: &Admitted, trace: &Trace) {
    let forged = |name: &HeaderName| {
        let name = name.as_str();
        GATEWAY_HEADERS.contains(&name) || name.contains('_') || name.starts_with("x-forwarded-")
    };
    let forged: Vec<HeaderName> =
        request.headers.keys().filter(|name| forged(name)).cloned().collect();
    for name in forged {
        request.remove_header(&name);
    }
    if !admitted.matched.route().forward_credentials {
        request.remove_header(&header::AUTHORIZATION);
        request.remove_header(&X_API_KEY);
    }
    for edit in &admitted.edits.headers {
        match edit {
            HeaderEdit::Set(name, value) => put(request, name.clone(), Ok(value.clone())),
            HeaderEdit::Append(name, value) => {
                request.append_header(name.clone(), value).unwrap_or_default();
            }
            HeaderEdit::Remove(name) => drop(request.remove_header(name)),
        }
    }
    if admitted.packs.as_ref().is_some_and(Picks::holds_response) {
        // Packs see the body as it comes: whole, and as it is meant.
        put(request, header::ACCEPT_ENCODING, Ok(HeaderValue::from_static("identity")));
        request.remove_header(&header::RANGE);
        request.remove_header(&header::IF_RANGE);
    }
    identify(request, admitted);
    put(request, X_REQUEST_ID, HeaderValue::try_from(&trace.request_id));
    put(request, TRACEPARENT, Ok(trace.parent()));
    if let Some(state) = trace.state() {
        put(request, TRACESTATE, Ok(state.clone()));
    }
    let client = head.client.to_canonical();
    let quoted = if client.is_ipv6() { format!("\"[{client}]\"") } else { client.to_string() };
    let forwarded = format!("for={quoted};host=\"{}\";proto=http", head.authority);
    put(request, header::FORWARDED, HeaderValue::try_from(forwarded));
    put(request, X_FORWARDED_FOR, HeaderValue::try_from(client.to_string()));
    put(request, X_FORWARDED_HOST, HeaderValue::try_from(&head.authority));
    put(request, X_FORWARDED_PROTO, Ok(HeaderValue::from_static("http")));
    put(request, header::VIA, Ok(HeaderValue::from_static(VIA)));
}

/// Who calls, which version, and the derived idempotency key.
fn identify(request: &mut RequestHeader, admitted: &Admitted) {
    for (name, value) in admitted.caller.headers() {
        put(request, name.clone(), Ok(value.clone()));
    }
    put(request, API_VERSION, Ok(admitted.version.version().header.clone()));
    if let Some((key, fence)) = admitted.claim.for_upstream() {
        put(request, IDEMPOTENCY_KEY, Ok(key.clone()));
        put(request, IDEMPOTENCY_FENCE, Ok(HeaderValue::from(fence.0)));
    }
}

/// Replaces every line of this name by one. Ids and scopes of a checked document are visible ASCII.
fn put(
    request: &mut RequestHeader,
    name: HeaderName,
    value: Result<HeaderValue, header::InvalidHeaderValue>,
) {
    if let Ok(value) = value {
        // pingora refuses nothing that has the types of a name and a value.
        request.insert_header(name, value).unwrap_or_default();
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
            Outbound::unlimited(),
            vec![(address(1), 1), (address(2), 3)],
        );
        let mut counts = [0, 0];
        for _ in 0..40 {
            counts[usize::from(upstream.peer().port()) - 1] += 1;
        }
        assert_eq!(counts, [10, 30]);
    }
}
