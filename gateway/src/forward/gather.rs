//! An answer on its way in: gathered as long as it is small enough to be held, then passed on as it comes.

use super::{Outcome, replaced};
use crate::body::{Budget, Share};
use crate::exchange::{Dispatch, Exchange};
use crate::packs::{AnswerBody, Responded};
use crate::pipeline::Halt;
use crate::{respond, session};
use bytes::{Bytes, BytesMut};
use http::{Method, header};
use model::ErrorCode;
use model::idempotency::RESPONSE_BODY_MAX;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use std::time::Duration;
use tokio::time::timeout;

/// How long a client may leave a piece of a streamed keyed answer unread; the upstream's part goes on without it.
const CLIENT_STALL_MAX: Duration = Duration::from_secs(5);

/// Gathers the answer; from [`RESPONSE_BODY_MAX`] on it goes straight to the client.
pub(super) async fn receive(
    session: &mut Session,
    exchange: &mut Exchange,
    dispatch: &Dispatch,
    mut tasks: tokio::sync::mpsc::Receiver<HttpTask>,
) -> Outcome {
    let mut gathering = Gathering::new(&exchange.gateway.budget);
    let bodiless = dispatch.head.method == Method::HEAD;
    while let Some(task) = tasks.recv().await {
        let end = task.is_end();
        match task {
            HttpTask::Header(head, _) if head.status.is_informational() => continue,
            HttpTask::Header(head, _) => {
                exchange.answered(dispatch, Some((head.status, &head.headers)));
                gathering.head = Some(head);
            }
            HttpTask::Body(Some(piece), _) => {
                if let Err(outcome) = gathering.add(piece, session, exchange, dispatch).await {
                    return *outcome;
                }
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
struct Gathering {
    head: Option<Box<ResponseHeader>>,
    body: BytesMut,
    budget: Budget,
    share: Share,
    streaming: bool,
    client_gone: bool,
}

impl Gathering {
    fn new(budget: &Budget) -> Self {
        Self {
            head: None,
            body: BytesMut::new(),
            budget: budget.clone(),
            share: Share::default(),
            streaming: false,
            client_gone: false,
        }
    }

    /// Takes a piece; says so where that brings the exchange to its end.
    async fn add(
        &mut self,
        piece: Bytes,
        session: &mut Session,
        exchange: &mut Exchange,
        dispatch: &Dispatch,
    ) -> Result<(), Box<Outcome>> {
        let length = self.body.len() + piece.len();
        let fits = !self.streaming
            && length <= RESPONSE_BODY_MAX
            && self.budget.raise(&mut self.share, length).is_ok();
        if fits {
            self.body.extend_from_slice(&piece);
            return Ok(());
        }
        if !self.streaming {
            self.streaming = true;
            self.begin_streaming(session, exchange, dispatch).await?;
        }
        self.write(session, piece, false).await;
        Ok(())
    }

    /// Packs see the head before it goes to the client, and nothing of the body.
    async fn begin_streaming(
        &mut self,
        session: &mut Session,
        exchange: &mut Exchange,
        dispatch: &Dispatch,
    ) -> Result<(), Box<Outcome>> {
        let Some(head) = &mut self.head else { return Ok(()) };
        let status = head.status;
        let headers = || session::end_to_end(&head.headers);
        match exchange.respond(dispatch, status, headers, AnswerBody::Streaming) {
            None => {}
            Some(Ok(Responded::Edited(edits))) => session::edit_response(head, &edits),
            Some(Ok(Responded::Replaced(reply))) => {
                return Err(Box::new(replaced(exchange, status, Halt::Reply(reply))));
            }
            Some(Err(reject)) => {
                return Err(Box::new(replaced(exchange, status, Halt::Reject(reject))));
            }
        }
        let mut head = head.clone();
        let added =
            respond::added(&exchange.facts, &exchange.held, dispatch.admitted.claim.is_bypassed());
        session::add_to_response(&mut head, &added);
        self.client_gone = session.write_response_header(head, false).await.is_err();
        let gathered = std::mem::take(&mut self.body).freeze();
        self.write(session, gathered, false).await;
        self.share = Share::default();
        Ok(())
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
        let headers = session::end_to_end(&head.headers);
        let (status, body) = (head.status, self.body.freeze());
        Outcome::Whole { status, headers, body, share: self.share }
    }

    fn failed(&self, dispatch: &Dispatch) -> Outcome {
        let failure = dispatch.failed(ErrorCode::UpstreamUnreachable);
        if self.streaming { Outcome::CutOff(failure) } else { Outcome::Failed(failure) }
    }
}
