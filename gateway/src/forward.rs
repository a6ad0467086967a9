//! The buffered way to the upstream: a pingora subrequest, whose answer packs see and the ledger stores before the client
//! gets it.
//!
//! Invariants: the dispatch outlives the client; its lease is renewed while it lasts; what is stored is whole, and what the client is sent, byte for byte. What
//! is larger than [`RESPONSE_BODY_MAX`](model::idempotency::RESPONSE_BODY_MAX) streams through and is remembered as not
//! retained.

mod gather;

use crate::body::Share;
use crate::exchange::{Dispatch, Exchange, UpstreamFailure};
use crate::facts::Stage;
use crate::packs::{AnswerBody, Responded};
use crate::pipeline::{Admitted, Halt};
use crate::respond::{self, Reply};
use crate::{session, settling};
use bytes::Bytes;
use gather::receive;
use http::{HeaderMap, Method, StatusCode, header};
use model::idempotency::{Answer, Ending};
use model::quota;
use model::record::Verdict;
use model::{ErrorCode, Reject};
use pingora::http::RequestHeader;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::subrequest::server::SubrequestHandle;
use pingora::proxy::subrequest::{BodyMode, Ctx};
use pingora::proxy::{PreparedSubrequest, Session};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// The dispatch that a subrequest carries; none in a client's session.
pub(crate) fn dispatch_of(session: &mut Session) -> Option<Arc<Dispatch>> {
    let carried = session.subrequest_ctx.as_mut()?.user_ctx_mut()?;
    carried.downcast_ref::<Arc<Dispatch>>().cloned()
}

/// How a dispatch ended.
enum Outcome {
    /// Whole, and small enough to be held.
    Whole { status: StatusCode, headers: HeaderMap, body: Bytes, share: Share },
    /// Whole; it was written to the client as it came.
    Streamed { status: StatusCode, headers: HeaderMap },
    /// The upstream answered with this status, and packs put another answer in its place.
    Replaced { upstream: StatusCode, reply: Reply, kept: Answer },
    /// None.
    Failed(UpstreamFailure),
    /// Cut off after its head and a part of its body went to the client.
    CutOff(UpstreamFailure),
}

/// Sends a buffered request and answers the client.
pub(crate) async fn buffered(
    session: &mut Session,
    exchange: &mut Exchange,
    dispatch: Arc<Dispatch>,
) {
    let started = Instant::now();
    let gateway = exchange.gateway.clone();
    let outcome = tokio::select! {
        outcome = send(session, exchange, &dispatch) => outcome,
        never = dispatch.admitted.claim.keep(&gateway.ledger, &gateway.clock) => match never {},
    };
    let verdict = match &outcome {
        Outcome::Whole { .. } | Outcome::Streamed { .. } | Outcome::Replaced { .. } => {
            Verdict::Passed
        }
        Outcome::Failed(_) | Outcome::CutOff(_) => Verdict::Refused,
    };
    exchange.facts.ended_once(Stage::Forward, verdict, started);
    let outcome = seen(exchange, &dispatch, outcome);
    let started = Instant::now();
    exchange.facts.settled = settle(exchange, &dispatch, &outcome).await;
    exchange.facts.ended(Stage::Settle, Verdict::Passed, started);
    match outcome {
        Outcome::Whole { status, headers, body, share: _held } => {
            exchange.outcome = quota::Outcome::of_status(status);
            write(session, exchange, &dispatch, (status, headers, body)).await;
        }
        Outcome::Streamed { status, .. } => exchange.outcome = quota::Outcome::of_status(status),
        Outcome::Replaced { reply, .. } => {
            let Reply { status, headers, body, .. } = reply;
            write(session, exchange, &dispatch, (status, headers, body)).await;
        }
        Outcome::Failed(failure) => {
            if exchange.facts.upstream.is_none() {
                exchange.answered(&dispatch, None);
            }
            exchange.outcome = quota::Outcome::GatewayFailed;
            let mut reject = Reject::new(failure.code()).because(format_args!("{failure:?}"));
            if matches!(failure, UpstreamFailure::Broken(_))
                && dispatch.admitted.claim.for_upstream().is_some()
            {
                // A repeat with the same key will be refused until somebody knows.
                reject = reject.detail("outcome", "unknown");
            }
            exchange.facts.refused(&reject);
            let reply = Reply::refusal(&reject, &exchange.facts.trace);
            session::answer(session, exchange, reply).await;
        }
        Outcome::CutOff(failure) => {
            exchange.outcome = quota::Outcome::GatewayFailed;
            exchange.facts.error = Some(failure.code());
            // A complete-looking answer must not come of a truncated one.
            session.set_keepalive(None);
            session.shutdown().await;
        }
    }
}

/// Writes an answer that is all there, with what every answer carries.
async fn write(
    session: &mut Session,
    exchange: &Exchange,
    dispatch: &Dispatch,
    (status, mut headers, body): (StatusCode, HeaderMap, Bytes),
) {
    let bypassed = dispatch.admitted.claim.is_bypassed();
    for (name, value) in &respond::added(&exchange.facts, &exchange.held, bypassed) {
        headers.append(name.clone(), value.clone());
    }
    if let Err(error) = session::write(session, status, headers, body).await {
        tracing::debug!(%error, "the client was gone before its answer");
    }
}

/// Shows packs an answer that is all there.
fn seen(exchange: &mut Exchange, dispatch: &Dispatch, outcome: Outcome) -> Outcome {
    let Outcome::Whole { status, mut headers, mut body, share } = outcome else { return outcome };
    let shown = match is_bodiless(dispatch, status) {
        true => AnswerBody::None,
        false => AnswerBody::Whole(body.clone()),
    };
    match exchange.respond(dispatch, status, || headers.clone(), shown) {
        None => {}
        Some(Ok(Responded::Edited(edits))) => {
            edits.apply(&mut headers);
            body = edits.body.unwrap_or(body);
        }
        Some(Ok(Responded::Replaced(reply))) => {
            return replaced(exchange, status, Halt::Reply(reply));
        }
        Some(Err(reject)) => return replaced(exchange, status, Halt::Reject(reject)),
    }
    Outcome::Whole { status, headers, body, share }
}

/// Whether an answer of this status has no body (RFC 9110 §6.4.1).
pub(crate) fn is_bodiless(dispatch: &Dispatch, status: StatusCode) -> bool {
    dispatch.head.method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Another answer in the place of the upstream's. A repeat is told what the client is told; where that is only that a pack
/// failed, it is told that the request was answered.
fn replaced(exchange: &mut Exchange, upstream: StatusCode, halt: Halt) -> Outcome {
    let failed = matches!(&halt, Halt::Reject(reject) if reject.code == ErrorCode::PolicyFailed);
    let reply = exchange.reply_of(halt);
    let kept = match failed {
        true => Answer::of(upstream, &HeaderMap::new(), None),
        false => Answer::of(reply.status, &reply.headers, Some(reply.body.clone())),
    };
    Outcome::Replaced { upstream, reply, kept }
}

/// Closes the lease with what is known of the outcome. Says what became of the key, where there is one and that is known.
async fn settle(
    exchange: &Exchange,
    dispatch: &Dispatch,
    outcome: &Outcome,
) -> Option<&'static str> {
    let ending = match outcome {
        Outcome::Whole { status, .. } | Outcome::Streamed { status, .. } => {
            Ending::Answered(*status)
        }
        // What the upstream did counts, whatever packs made of its answer.
        Outcome::Replaced { upstream, .. } => Ending::Answered(*upstream),
        Outcome::Failed(UpstreamFailure::Unsent(_)) => Ending::Unsent,
        Outcome::Failed(UpstreamFailure::Broken(_)) | Outcome::CutOff(_) => Ending::Lost,
    };
    let kept = || match outcome {
        Outcome::Whole { status, headers, body, .. } => {
            Some(Answer::of(*status, headers, Some(body.clone())))
        }
        Outcome::Streamed { status, headers } => Some(Answer::of(*status, headers, None)),
        Outcome::Replaced { kept, .. } => Some(kept.clone()),
        Outcome::Failed(_) | Outcome::CutOff(_) => None,
    };
    let Admitted { matched, claim, .. } = &dispatch.admitted;
    let rules = matched.route().idempotency.as_ref();
    let disposition = claim.disposition(ending, rules.map_or(&[][..], |rules| &rules.release_on));
    let request_id = &exchange.facts.trace.request_id;
    settling::settle(&exchange.gateway, claim, disposition, kept, request_id).await
}

/// Runs the subrequest to its end, whether or not the client is still there.
async fn send(session: &mut Session, exchange: &mut Exchange, dispatch: &Arc<Dispatch>) -> Outcome {
    let body = dispatch.admitted.body.as_ref().map(|body| body.bytes().clone()).unwrap_or_default();
    let Some((prepared, handle)) = prepare(session, dispatch, body.len()) else {
        return Outcome::Failed(UpstreamFailure::Unsent(ErrorCode::Internal));
    };
    let SubrequestHandle { tx, rx, subreq_wants_body, subreq_proxy_error: _ } = handle;
    let feed = async {
        if !body.is_empty() && subreq_wants_body.await.is_ok() {
            let _ = tx.send(HttpTask::Body(Some(body), true)).await;
        }
        // Dropping the sender early would look like a client that went away.
        std::future::pending::<()>().await;
    };
    let total = dispatch.upstream.timeouts.total.0 + dispatch.upstream.timeouts.connect.0;
    let exchanged = timeout(total, async {
        tokio::select! {
            outcome = run(prepared, receive(session, exchange, dispatch, rx)) => outcome,
            () = feed => Outcome::Failed(UpstreamFailure::Broken(ErrorCode::Internal)),
        }
    });
    if let Ok(outcome) = exchanged.await {
        return outcome;
    }
    let late = dispatch.failed(ErrorCode::UpstreamTimeout);
    // Nothing may follow what has gone to the client.
    match session.response_written() {
        Some(_) => Outcome::CutOff(late),
        None => Outcome::Failed(late),
    }
}

/// Both ends of a subrequest. What is left of an answer in whose place another one was put is not waited for.
async fn run(prepared: PreparedSubrequest, receive: impl Future<Output = Outcome>) -> Outcome {
    let (mut sent, mut received) = (pin!(prepared.run()), pin!(receive));
    let outcome = tokio::select! {
        outcome = &mut received => outcome,
        () = &mut sent => return received.await,
    };
    if !matches!(outcome, Outcome::Replaced { .. }) {
        sent.await;
    }
    outcome
}

type Prepared = (PreparedSubrequest, SubrequestHandle);

fn prepare(session: &mut Session, dispatch: &Arc<Dispatch>, length: usize) -> Option<Prepared> {
    let spawner = session.subrequest_spawner.take()?;
    let mode = if length > 0 { BodyMode::ExpectBody } else { BodyMode::NoBody };
    let context = Ctx::builder().body_mode(mode).user_ctx(Box::new(dispatch.clone())).build();
    Some(spawner.create_subrequest(session.as_downstream(), context))
}

/// Makes the head of a subrequest, which came as the client sent it, fit the body that is sent: all there, and perhaps
/// another one.
pub(crate) fn reframe(request: &mut RequestHeader, dispatch: &Dispatch) {
    request.remove_header(&header::EXPECT);
    request.remove_header(&header::TRANSFER_ENCODING);
    request.remove_header(&header::CONTENT_LENGTH);
    let length = dispatch.admitted.body.as_ref().map_or(0, |body| body.bytes().len());
    if length > 0 {
        // pingora refuses no number.
        request.insert_header(header::CONTENT_LENGTH, length).unwrap_or_default();
    }
}
