//! pingora ⇄ pipeline. Translates, and decides nothing.
//!
//! An expected refusal is written here and ends as `Ok(true)`; `Err` is a fault of ours or of the upstream and is written
//! by `fail_to_proxy`, through the same writer.

use crate::exchange::{Dispatch, Exchange, Role, UpstreamFailure};
use crate::facts::{Facts, Stage};
use crate::gateway::Gateway;
use crate::packs::{AnswerBody, Responded};
use crate::pipeline::{self, Admitted, Context, Halt};
use crate::respond::{self, Reply};
use crate::session::{self, Downstream};
use crate::trace::Trace;
use crate::{forward, gate, own, upstream};
use async_trait::async_trait;
use bytes::Bytes;
use model::quota::Outcome;
use model::{ErrorCode, Head, Reject};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Exchanges in progress at once; more are refused.
const EXCHANGES_MAX: i64 = 20_000;
/// How long a client may leave an answer unread before its connection is cut.
const CLIENT_WRITE_MAX: Duration = Duration::from_secs(30);
/// Peers that are tried when connections are refused.
const CONNECT_TRIES_MAX: usize = 3;

/// The edge of the data plane.
pub struct Edge {
    gateway: Arc<Gateway>,
}

impl Edge {
    /// The edge of this gateway.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    /// Packs see the head of an answer whose body nobody reads; it streams on, changed, or another one takes its place.
    fn respond(
        &self,
        exchange: &mut Exchange,
        dispatch: &Dispatch,
        response: &mut ResponseHeader,
    ) -> Result<()> {
        let headers = || session::end_to_end(&response.headers);
        let body = match forward::is_bodiless(dispatch, response.status) {
            true => AnswerBody::None,
            false => AnswerBody::Streaming,
        };
        let responded = exchange.respond(dispatch, response.status, headers, body);
        exchange.instead = match responded {
            None => return Ok(()),
            Some(Ok(Responded::Edited(edits))) => {
                session::edit_response(response, &edits);
                return Ok(());
            }
            Some(Ok(Responded::Replaced(reply))) => Some(Halt::Reply(reply)),
            Some(Err(reject)) => Some(Halt::Reject(reject)),
        };
        // Nothing was written yet: `fail_to_proxy` does.
        Error::e_explain(InternalError, "a pack put another answer in its place")
    }

    /// From the raw head to an answer of ours, or to what streams to the upstream.
    async fn admit(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Admission> {
        let head = match exchange.facts.stage(Stage::Gate, async { gate_head(session) }).await {
            Ok(GateHead(head)) => head,
            Err(halt) => return Ok(Admission::Answer(halt)),
        };
        let head = Arc::new(head);
        exchange.facts.head = Some(head.clone());
        if self.gateway.metrics.in_flight() > EXCHANGES_MAX {
            return Ok(Admission::refuse(
                exchange,
                Reject::new(ErrorCode::Overloaded).retry_after(1),
            ));
        }
        let Some(snapshot) = exchange.snapshot.clone() else {
            let reject = Reject::new(ErrorCode::Overloaded)
                .retry_after(1)
                .because("no revision is in force");
            return Ok(Admission::refuse(exchange, reject));
        };
        if head.path.starts_with(own::PREFIX) {
            return Ok(
                match own::answer(&self.gateway, &snapshot, &head, &mut exchange.held).await {
                    Ok(reply) => Admission::Answer(Halt::Reply(Box::new(reply))),
                    Err(reject) => Admission::refuse(exchange, reject),
                },
            );
        }
        let trace = exchange.facts.trace.clone();
        let mut cx =
            Context::new(&self.gateway, &snapshot, &head, &trace, Downstream::new(session));
        let admitted = pipeline::admit(&mut cx, &mut exchange.facts, &mut exchange.held).await;
        Ok(match admitted {
            Ok(admitted) => {
                // From here on the upstream may do the work, whatever becomes of us.
                exchange.outcome = Outcome::Abandoned;
                Admission::Forward(dispatch(admitted, head, trace))
            }
            Err(halt) => Admission::Answer(halt),
        })
    }
}

/// What becomes of a request.
enum Admission {
    Forward(Arc<Dispatch>),
    Answer(Halt),
}

impl Admission {
    fn refuse(exchange: &mut Exchange, reject: Reject) -> Self {
        exchange.facts.refused(&reject);
        Self::Answer(reject.into())
    }
}

struct GateHead(Head);

impl crate::facts::Witness for GateHead {
    fn attest(&self, _: &mut Facts) {}
}

fn gate_head(session: &mut Session) -> std::result::Result<GateHead, Reject> {
    let client =
        session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
    let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes()).unwrap_or_default();
    let header = session.req_header();
    let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    gate::admit(&raw, &header.method, &header.uri, &header.headers, client).map(GateHead)
}

fn dispatch(admitted: Admitted, head: Arc<Head>, trace: Trace) -> Arc<Dispatch> {
    let upstream = admitted.upstream.clone();
    Arc::new(Dispatch {
        admitted,
        head,
        trace,
        upstream,
        failure: OnceLock::new(),
        refused_connections: AtomicUsize::new(0),
        has_begun: AtomicBool::new(false),
        started: Instant::now(),
    })
}

/// Answers a failed exchange, unless an answer has begun.
async fn fail_with(session: &mut Session, exchange: &Exchange, reply: Reply) -> FailToProxy {
    let status = reply.status.as_u16();
    if session.response_written().is_none() {
        // pingora ends the connection after a failed exchange, so the answer has to say so.
        session.set_keepalive(None);
        session::answer(session, exchange, reply).await;
    }
    FailToProxy { error_code: status, can_reuse_downstream: false }
}

fn outer(role: &mut Role) -> Option<&mut Exchange> {
    match role {
        Role::Outer(exchange) => Some(exchange),
        Role::Inner(_) | Role::Fresh => None,
    }
}

fn dispatched(role: &Role) -> Option<&Arc<Dispatch>> {
    match role {
        Role::Outer(exchange) => exchange.dispatch.as_ref(),
        Role::Inner(dispatch) => Some(dispatch),
        Role::Fresh => None,
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Role;

    fn new_ctx(&self) -> Role {
        Role::Fresh
    }

    fn allow_spawning_subrequest(&self, session: &Session, _: &Role) -> bool {
        session.subrequest_ctx.is_none()
    }

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, role: &mut Role) -> Result<bool> {
        if let Some(dispatch) = forward::dispatch_of(session) {
            forward::reframe(session.req_header_mut(), &dispatch);
            *role = Role::Inner(dispatch);
            return Ok(false);
        }
        session.set_write_timeout(Some(CLIENT_WRITE_MAX));
        let now = self.gateway.clock.now();
        let trace = Trace::of(&session.req_header().headers, now);
        let snapshot = self.gateway.live.pin();
        let revision = snapshot.as_ref().map_or(0, |snapshot| snapshot.revision);
        let facts = Facts::begin(trace, now, revision);
        *role = Role::Outer(Box::new(Exchange::begin(self.gateway.clone(), snapshot, facts)));
        let Some(exchange) = outer(role) else { return Ok(false) };
        match self.admit(session, exchange).await? {
            Admission::Answer(halt) => {
                let reply = exchange.reply_of(halt);
                session::answer(session, exchange, reply).await;
                Ok(true)
            }
            Admission::Forward(dispatch) if dispatch.admitted.body.is_some() => {
                Box::pin(forward::buffered(session, exchange, dispatch)).await;
                Ok(true)
            }
            Admission::Forward(dispatch) => {
                exchange.dispatch = Some(dispatch);
                Ok(false)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, role: &mut Role) -> Result<Box<HttpPeer>> {
        let dispatch =
            dispatched(role).ok_or_else(|| Error::explain(InternalError, "nothing to dispatch"))?;
        let mut peer = HttpPeer::new(dispatch.upstream.peer(), false, String::new());
        let timeouts = &dispatch.upstream.timeouts;
        peer.options.connection_timeout = Some(timeouts.connect.0);
        peer.options.total_connection_timeout = Some(timeouts.connect.0);
        peer.options.read_timeout = Some(timeouts.read.0);
        peer.options.write_timeout = Some(timeouts.read.0);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        role: &mut Role,
    ) -> Result<()> {
        let Some(dispatch) = dispatched(role) else { return Ok(()) };
        if !dispatch.admitted.claim.may_send(self.gateway.clock.micros()) {
            // Not a byte has been sent, and from now on somebody else may be let through.
            let _ = dispatch.failure.set(UpstreamFailure::Unsent(ErrorCode::DependencyUnavailable));
            return Error::e_explain(
                InternalError,
                "the lease of the key ended before it was sent",
            );
        }
        upstream::rewrite(request, &dispatch.head, &dispatch.admitted, &dispatch.trace);
        let target = upstream::target(&dispatch.head, &dispatch.admitted);
        let target =
            target.parse().map_err(|_| Error::explain(InternalError, "the upstream's target"))?;
        request.set_uri(target);
        // The last thing that is asked of us before it is written. What pingora still refuses after it counts as sent.
        dispatch.has_begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        role: &mut Role,
    ) -> Result<()> {
        let Some(exchange) = outer(role) else { return Ok(()) };
        exchange.streamed += body.as_ref().map_or(0, Bytes::len);
        let limit =
            exchange.dispatch.as_ref().map(|dispatch| dispatch.admitted.matched.route().body_limit);
        match limit {
            Some(limit) if exchange.streamed > limit => {
                Error::e_explain(HTTPStatus(413), "the streamed body is over the route's limit")
            }
            _ => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        role: &mut Role,
    ) -> Result<()> {
        let Some(exchange) = outer(role) else { return Ok(()) };
        let Some(dispatch) = exchange.dispatch.clone() else { return Ok(()) };
        if response.status.is_informational() {
            return Ok(());
        }
        exchange.answered(&dispatch, Some((response.status, &response.headers)));
        exchange.outcome = Outcome::of_status(response.status);
        self.respond(exchange, &dispatch, response)?;
        let added =
            respond::added(&exchange.facts, &exchange.held, dispatch.admitted.claim.is_bypassed());
        session::add_to_response(response, &added);
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        role: &mut Role,
    ) -> Result<Option<Duration>> {
        let Some(dispatch) = dispatched(role) else { return Ok(None) };
        if dispatch.started.elapsed() > dispatch.upstream.timeouts.total.0 {
            let error = Error::explain(ReadTimedout, "the upstream's total time is over");
            return Err(error.into_up());
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        role: &mut Role,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let Some(dispatch) = dispatched(role) else { return error };
        // Nothing was sent, so another peer may be tried whatever the method.
        let tries = dispatch.refused_connections.fetch_add(1, Ordering::Relaxed) + 1;
        error.set_retry(tries < dispatch.upstream.peers().min(CONNECT_TRIES_MAX));
        if !error.retry() {
            let _ = dispatch.failure.set(UpstreamFailure::Unsent(session::upstream_code(&error)));
        }
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        role: &mut Role,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        // What may have been sent is not sent again: never under a key, else only where a repeat does no harm and what
        // was sent is still there.
        let is_whole = match role {
            Role::Inner(dispatch) => {
                let body = dispatch.admitted.body.as_ref();
                dispatch.admitted.claim.for_upstream().is_none()
                    && body.is_none_or(|body| body.bytes().is_empty())
            }
            Role::Outer(_) | Role::Fresh => !session.as_ref().retry_buffer_truncated(),
        };
        let repeatable = is_whole && session.req_header().method.is_idempotent();
        if repeatable {
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    fn suppress_error_log(&self, _: &Session, _: &Role, _: &Error) -> bool {
        true
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        role: &mut Role,
    ) -> FailToProxy {
        let code = session::code_of(error);
        if let Role::Inner(dispatch) = role {
            dispatch.failed(code.unwrap_or(ErrorCode::UpstreamUnreachable));
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let Some(exchange) = outer(role) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        if let Some(halt) = exchange.instead.take() {
            let reply = exchange.reply_of(halt);
            return fail_with(session, exchange, reply).await;
        }
        if let Some(dispatch) = exchange.dispatch.clone()
            && exchange.facts.upstream.is_none()
        {
            exchange.answered(&dispatch, None);
        }
        let Some(code) = code else {
            // The client is gone: there is nobody to answer.
            exchange.outcome = Outcome::Abandoned;
            exchange.facts.cause = Some(error.to_string());
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        exchange.outcome = Outcome::GatewayFailed;
        let mut reject = Reject::new(code).because(error);
        if let (ErrorCode::BodyTooLarge, Some(dispatch)) = (code, &exchange.dispatch) {
            reject = reject.detail("limit", dispatch.admitted.matched.route().body_limit);
        }
        exchange.facts.refused(&reject);
        let reply = Reply::refusal(&reject, &exchange.facts.trace);
        fail_with(session, exchange, reply).await
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, role: &mut Role) {
        if let Some(exchange) = outer(role) {
            exchange.facts.status =
                session.response_written().map(|written| written.status.as_u16());
            exchange.end();
        }
    }
}
