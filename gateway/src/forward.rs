//! The buffered way to the upstream: a pingora subrequest, whose answer is stored before the client sees it.
//!
//! Invariants: the dispatch outlives the client; a stored answer is complete; nothing is stored that was not whole. What
//! is larger than [`RESPONSE_BODY_MAX`] streams through and is remembered as not retained.

use crate::exchange::{Dispatch, Exchange, UpstreamFailure};
use crate::facts::Stage;
use crate::respond::{self, Reply};
use crate::session;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use model::exchange::HOP_BY_HOP;
use model::idempotency::{Answer, Ending, RESPONSE_BODY_MAX};
use model::quota;
use model::record::Verdict;
use model::{ErrorCode, Reject};
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::subrequest::server::SubrequestHandle;
use pingora::proxy::Session;
use pingora::proxy::subrequest::{BodyMode, Ctx};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a client may leave a piece of a streamed keyed answer unread; the upstream's part goes on without it.
const CLIENT_STALL_MAX: Duration = Duration::from_secs(5);

/// The dispatch that a subrequest carries; none in a client's session.
pub(crate) fn dispatch_of(session: &mut Session) -> Option<Arc<Dispatch>> {
    let carried = session.subrequest_ctx.as_mut()?.user_ctx_mut()?;
    carried.downcast_ref::<Arc<Dispatch>>().cloned()
}

/// How a dispatch ended.
enum Outcome {
    /// Whole, and small enough to be kept.
    Whole { status: StatusCode, headers: HeaderMap, body: Bytes },
    /// Whole; it was written to the client as it came.
    Streamed { status: StatusCode, headers: HeaderMap },
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
    let outcome = send(session, exchange, &dispatch).await;
    let verdict = match &outcome {
        Outcome::Whole { .. } | Outcome::Streamed { .. } => Verdict::Passed,
        Outcome::Failed(_) | Outcome::CutOff(_) => Verdict::Refused,
    };
    exchange.facts.ended(Stage::Forward, verdict, started);
    let started = Instant::now();
    settle(exchange, &dispatch, &outcome).await;
    exchange.facts.ended(Stage::Settle, Verdict::Passed, started);
    match outcome {
        Outcome::Whole { status, mut headers, body } => {
            exchange.outcome = quota::Outcome::of_status(status);
            let added = respond::added(
                &exchange.facts,
                &exchange.held,
                dispatch.admitted.claim.is_bypassed(),
            );
            for (name, value) in &added {
                headers.append(name.clone(), value.clone());
            }
            if let Err(error) = session::write(session, status, headers, body).await {
                tracing::debug!(%error, "the client was gone before its answer");
            }
        }
        Outcome::Streamed { status, .. } => exchange.outcome = quota::Outcome::of_status(status),
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

/// Closes the lease with what is known of the outcome.
async fn settle(exchange: &Exchange, dispatch: &Dispatch, outcome: &Outcome) {
    let gateway = &exchange.gateway;
    let claim = &dispatch.admitted.claim;
    let now = gateway.clock.micros();
    let (ending, kept) = match outcome {
        Outcome::Whole { status, headers, body } => {
            (Ending::Answered(*status), Some(Answer::of(*status, headers, Some(body.clone()))))
        }
        Outcome::Streamed { status, headers } => {
            (Ending::Answered(*status), Some(Answer::of(*status, headers, None)))
        }
        Outcome::Failed(UpstreamFailure::Unsent(_)) => (Ending::Unsent, None),
        Outcome::Failed(UpstreamFailure::Broken(_)) | Outcome::CutOff(_) => (Ending::Lost, None),
    };
    let settled = claim.settle(&gateway.ledger, ending, kept, now).await;
    if let Err(error) = settled {
        tracing::warn!(%error, request_id = exchange.facts.trace.request_id, "an outcome was not stored");
    }
}

/// Runs the subrequest to its end, whether or not the client is still there.
async fn send(session: &mut Session, exchange: &mut Exchange, dispatch: &Arc<Dispatch>) -> Outcome {
    let body = dispatch.admitted.body.as_ref().map(|body| body.bytes().clone()).unwrap_or_default();
    let Some((prepared, handle)) = prepare(session, dispatch, !body.is_empty()) else {
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
    let receive = receive(session, exchange, dispatch, rx);
    let total = dispatch.upstream.timeouts.total.0 + dispatch.upstream.timeouts.connect.0;
    let exchanged = timeout(total, async {
        tokio::select! {
            answer = async { tokio::join!(prepared.run(), receive).1 } => answer,
            () = feed => Outcome::Failed(UpstreamFailure::Broken(ErrorCode::Internal)),
        }
    });
    let late = UpstreamFailure::Broken(ErrorCode::UpstreamTimeout);
    match exchanged.await {
        Ok(outcome) => outcome,
        // Nothing may follow what has gone to the client.
        Err(_) if session.response_written().is_some() => Outcome::CutOff(late),
        Err(_) => Outcome::Failed(late),
    }
}

type Prepared = (pingora::proxy::PreparedSubrequest, SubrequestHandle);

/// The subrequest's head is that of the session: HTTP/1.1, origin form, as the upstream's pool speaks it.
fn prepare(session: &mut Session, dispatch: &Arc<Dispatch>, has_body: bool) -> Option<Prepared> {
    let spawner = session.subrequest_spawner.take()?;
    let mode = if has_body { BodyMode::ExpectBody } else { BodyMode::NoBody };
    let context = Ctx::builder().body_mode(mode).user_ctx(Box::new(dispatch.clone())).build();
    let request = session.req_header_mut();
    let (version, uri) = (request.version, request.uri.clone());
    request.set_version(http::Version::HTTP_11);
    let origin = uri.path_and_query().and_then(|target| target.as_str().parse().ok());
    if let Some(origin) = origin {
        request.set_uri(origin);
    }
    let expect = request.remove_header(&header::EXPECT);
    let made = spawner.create_subrequest(session.as_downstream(), context);
    let request = session.req_header_mut();
    request.set_version(version);
    request.set_uri(uri);
    if let Some(expect) = expect {
        let _ = request.insert_header(header::EXPECT, expect);
    }
    Some(made)
}

/// Gathers the answer; from [`RESPONSE_BODY_MAX`] on it goes straight to the client.
async fn receive(
    session: &mut Session,
    exchange: &mut Exchange,
    dispatch: &Dispatch,
    mut tasks: tokio::sync::mpsc::Receiver<HttpTask>,
) -> Outcome {
    let mut gathering = Gathering::default();
    let bodiless = dispatch.head.method == Method::HEAD;
    while let Some(task) = tasks.recv().await {
        let end = task.is_end();
        match task {
            HttpTask::Header(head, _) if head.status.is_informational() => continue,
            HttpTask::Header(head, _) => {
                exchange.answered(dispatch, Some(head.status.as_u16()));
                gathering.head = Some(head);
            }
            HttpTask::Body(Some(piece), _) => {
                gathering.add(piece, session, exchange, dispatch).await;
            }
            HttpTask::Failed(_) => return gathering.failed(dispatch),
            HttpTask::Body(None, _)
            | HttpTask::UpgradedBody(..)
            | HttpTask::Trailer(_)
            | HttpTask::Done => {}
        }
        if end {
            return gathering.finish(session, dispatch, bodiless).await;
        }
    }
    gathering.failed(dispatch)
}

/// An answer on its way in.
#[derive(Default)]
struct Gathering {
    head: Option<Box<ResponseHeader>>,
    body: BytesMut,
    streaming: bool,
    client_gone: bool,
}

impl Gathering {
    async fn add(
        &mut self,
        piece: Bytes,
        session: &mut Session,
        exchange: &Exchange,
        dispatch: &Dispatch,
    ) {
        if !self.streaming && self.body.len() + piece.len() <= RESPONSE_BODY_MAX {
            self.body.extend_from_slice(&piece);
            return;
        }
        if !self.streaming {
            self.streaming = true;
            self.begin_streaming(session, exchange, dispatch).await;
        }
        self.write(session, piece, false).await;
    }

    async fn begin_streaming(
        &mut self,
        session: &mut Session,
        exchange: &Exchange,
        dispatch: &Dispatch,
    ) {
        let Some(head) = &self.head else { return };
        let mut head = head.clone();
        let added =
            respond::added(&exchange.facts, &exchange.held, dispatch.admitted.claim.is_bypassed());
        session::add_to_response(&mut head, &added);
        self.client_gone = session.write_response_header(head, false).await.is_err();
        let gathered = std::mem::take(&mut self.body).freeze();
        self.write(session, gathered, false).await;
    }

    async fn write(&mut self, session: &mut Session, piece: Bytes, end: bool) {
        if !self.client_gone {
            // A client that doesn't read is as good as gone: the answer is worth more than its delivery.
            let written =
                timeout(CLIENT_STALL_MAX, session.write_response_body(Some(piece), end)).await;
            self.client_gone = !matches!(written, Ok(Ok(())));
        }
    }

    async fn finish(
        mut self,
        session: &mut Session,
        dispatch: &Dispatch,
        bodiless: bool,
    ) -> Outcome {
        let Some(head) = self.head.take() else { return self.failed(dispatch) };
        if self.streaming {
            self.write(session, Bytes::new(), true).await;
            return Outcome::Streamed { status: head.status, headers: head.headers.clone() };
        }
        let announced =
            head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|text| text.parse::<usize>().ok());
        if !bodiless
            && announced.is_some_and(|length| length != self.body.len())
            && !self.body.is_empty()
        {
            self.head = Some(head);
            return self.failed(dispatch);
        }
        let headers = end_to_end(&head.headers);
        Outcome::Whole { status: head.status, headers, body: self.body.freeze() }
    }

    fn failed(&self, dispatch: &Dispatch) -> Outcome {
        let failure = dispatch.failure.get().copied();
        let failure = failure.unwrap_or(UpstreamFailure::Broken(ErrorCode::UpstreamUnreachable));
        if self.streaming { Outcome::CutOff(failure) } else { Outcome::Failed(failure) }
    }
}

/// Without what belongs to the connection (RFC 9110 §7.6.1), is worked out anew, or only we may say.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let nominated: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in nominated {
        kept.remove(name.as_str());
    }
    for name in HOP_BY_HOP.iter().copied() {
        kept.remove(name);
    }
    kept.remove(header::CONTENT_LENGTH);
    for name in respond::OWNED {
        kept.remove(name);
    }
    kept
}
