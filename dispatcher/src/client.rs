//! How this process speaks to endpoints, token endpoints and polled sources: one request, one answer, bounded in time and
//! bytes, through the guard.
//!
//! Redirects are not followed, whatever they say. An answer counts when it came whole within the time, or so much of it as
//! is read. What is told of it holds no secret of the request.

mod answer;
mod place;
mod pool;
mod target;

pub(crate) use answer::Failure;
pub(crate) use place::Place;
pub(crate) use target::{Message, Question, Target};

use crate::authorization::{Authorization, Tokens};
use crate::guard::{Guard, Names, SystemNames, Trust, TrustError};
use answer::excerpt;
use bytes::Bytes;
use http::header::{AUTHORIZATION, InvalidHeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use ipnet::IpNet;
use model::webhook::{Outcome, Reach};
use model::{Clock, retry_after};
use pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How much of an endpoint's answer is read, and how much of that is looked at, in bytes. What is longer is cut off, and so
/// is its connection.
const ANSWER_MAX: usize = 64 << 10;
const ANSWER_KEPT: usize = 16 << 10;

/// Speaks to the outside.
pub(crate) struct Client {
    pool: Pool,
    tokens: Tokens,
    clock: Clock,
    agent: HeaderValue,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// TLS can't be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The version is no text for a header.
    #[error("the version is no text for the header `user-agent`: {0}")]
    Version(#[from] InvalidHeaderValue),
}

/// Asked right before an attempt is sent: whether what is to be sent is still this process' to send. Names, tokens and
/// connections take their time, and others may have taken over meanwhile.
pub(crate) type StillOurs<'a> = &'a (dyn Fn() -> bool + Sync);

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) outcome: Outcome,
    /// The status, if there was one.
    pub(crate) status: Option<u16>,
    /// What went wrong, for people: at most 1,024 bytes, without a secret.
    pub(crate) excerpt: Option<String>,
    /// How long the endpoint asks to be left alone for.
    pub(crate) retry_after: Option<Duration>,
}

/// An answer to a question.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer, as far as it was read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) extent: Extent,
}

/// How much of a body there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// Its beginning: the rest was read and dropped.
    Cut,
    /// Its beginning: the rest was not read.
    Unread,
}

/// How much of a body is read before its connection is given up, and how much of that is kept, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) read: usize,
    pub(crate) kept: usize,
}

impl Client {
    /// A client that connects to public addresses and to these, in a runtime.
    pub(crate) fn new(
        allow_private: Vec<IpNet>,
        clock: Clock,
        version: &str,
    ) -> Result<Self, ClientError> {
        let names = Arc::new(SystemNames::default());
        Self::with(Reach::new(allow_private), names, Trust::of_the_system()?, clock, version)
    }

    /// A client that asks this resolver, and takes certificates of these authorities.
    pub(crate) fn with(
        reach: Reach,
        names: Arc<dyn Names>,
        trust: Trust,
        clock: Clock,
        version: &str,
    ) -> Result<Self, ClientError> {
        let agent = HeaderValue::try_from(format!("Tollgate/{version}"))?;
        let pool = Pool::new(Guard::new(reach, names, trust));
        Ok(Self { pool, tokens: Tokens::default(), clock, agent })
    }

    /// Makes one attempt: takes as long as the endpoint's timeout at most, and where it needs a token, twice
    /// [`crate::authorization::TOKEN_MAX`] more. None where it was not sent, as it is not ours any more.
    pub(crate) async fn send(
        &self,
        target: &Target,
        message: &Message<'_>,
        is_ours: StillOurs<'_>,
    ) -> Option<Sent> {
        match self.try_send(target, message, is_ours).await {
            Ok((answer, authorization)) => Some(self.judge(&answer, authorization.as_ref())),
            Err(Failure::Others) => None,
            Err(failure) => Some(Sent {
                outcome: failure.outcome(),
                status: None,
                excerpt: excerpt(failure.to_string().as_bytes(), None),
                retry_after: None,
            }),
        }
    }

    async fn try_send(
        &self,
        target: &Target,
        message: &Message<'_>,
        is_ours: StillOurs<'_>,
    ) -> Result<(Answer, Option<HeaderValue>), Failure> {
        let (headers, body) = target.compose(message, self.clock.now())?;
        let bounds = Bounds { read: ANSWER_MAX, kept: ANSWER_KEPT };
        let (place, method) = (target.place(), Method::POST);
        let request = Asked { place, method, headers, body, bounds, is_ours };
        self.authorized(target.authorization(), request, target.timeout()).await
    }

    fn judge(&self, answer: &Answer, authorization: Option<&HeaderValue>) -> Sent {
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER)
            .filter(|_| !answer.status.is_success())
            .and_then(|value| retry_after::parse(value, self.clock.now()));
        let outcome = answer::outcome(answer.status, retry_after);
        let excerpt = match (outcome, header(LOCATION)) {
            (Outcome::Delivered, _) => None,
            (Outcome::Redirected, Some(to)) => {
                excerpt(format!("is not followed to {to}").as_bytes(), authorization)
            }
            _ => excerpt(&answer.body, authorization),
        };
        Sent { outcome, status: Some(answer.status.as_u16()), excerpt, retry_after }
    }

    /// Asks a source what is new, with this query beside its own, and reads no more than `most` bytes of the answer.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        query: &[(&str, &str)],
        headers: HeaderMap,
        most: usize,
    ) -> Result<Fetched, Failure> {
        let place = question.place(query)?;
        let (method, body) = (Method::GET, Bytes::new());
        let bounds = Bounds { read: most, kept: most };
        let request = Asked { place: &place, method, headers, body, bounds, is_ours: &|| true };
        let asked = self.authorized(question.authorization(), request, question.timeout());
        let (Answer { status, headers, body, extent }, _) = asked.await?;
        match extent {
            Extent::Whole => Ok(Fetched { status, headers, body }),
            Extent::Cut | Extent::Unread => Err(Failure::Long(most)),
        }
    }

    /// Sends a request with what its receiver wants to see, and once more with a new token when the answer to the first one
    /// is 401. Tells what was shown, so that it can be kept out of what is told.
    async fn authorized(
        &self,
        authorization: &Authorization,
        mut request: Asked<'_>,
        timeout: Duration,
    ) -> Result<(Answer, Option<HeaderValue>), Failure> {
        let source = match authorization {
            Authorization::None => return Ok((self.exchange(request, timeout).await?, None)),
            Authorization::Header(name, value) => {
                request.headers.insert(name.clone(), value.clone());
                return Ok((self.exchange(request, timeout).await?, Some(value.clone())));
            }
            Authorization::Token(source) => source,
        };
        let token = source.token(self, &self.clock, None).await?;
        request.headers.insert(AUTHORIZATION, token.clone());
        let began = Instant::now();
        let answer = self.exchange(request.clone(), timeout).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok((answer, Some(token)));
        }
        let left = timeout.saturating_sub(began.elapsed());
        let token = source.token(self, &self.clock, Some(&token)).await?;
        request.headers.insert(AUTHORIZATION, token.clone());
        Ok((self.exchange(request, left).await?, Some(token)))
    }

    /// One request and one answer, both within this time.
    pub(crate) async fn exchange(
        &self,
        asked: Asked<'_>,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let exchanged = timeout_at(Instant::now() + timeout, self.exchange_unbounded(asked));
        exchanged.await.unwrap_or(Err(Failure::Late(timeout)))
    }

    async fn exchange_unbounded(&self, asked: Asked<'_>) -> Result<Answer, Failure> {
        let Asked { place, method, mut headers, body, bounds, is_ours } = asked;
        headers.insert(http::header::HOST, place.authority().clone());
        headers.insert(USER_AGENT, self.agent.clone());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = place.path().clone();
        *request.headers_mut() = headers;
        let mut answering = self.pool.send(place, request, is_ours).await?;
        let (body, extent) = read(answering.response.body_mut(), bounds).await?;
        let status = answering.response.status();
        let headers = std::mem::take(answering.response.headers_mut());
        if extent != Extent::Unread {
            self.pool.keep(answering);
        }
        Ok(Answer { status, headers, body, extent })
    }
}

/// A request on its way.
#[derive(Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) place: &'a Place,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) bounds: Bounds,
    pub(crate) is_ours: StillOurs<'a>,
}

/// Reads a body to its end, or to its bound.
async fn read(body: &mut Incoming, bounds: Bounds) -> Result<(Bytes, Extent), Failure> {
    let mut kept = Vec::new();
    let mut read = 0;
    if body.is_end_stream() {
        return Ok((Bytes::new(), Extent::Whole));
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Failure::Http)?.into_data() else { continue };
        read += data.len();
        let room = bounds.kept - kept.len();
        kept.extend_from_slice(data.get(..room).unwrap_or(&data));
        if read > bounds.read {
            return Ok((Bytes::from(kept), Extent::Unread));
        }
    }
    let extent = if read > kept.len() { Extent::Cut } else { Extent::Whole };
    Ok((Bytes::from(kept), extent))
}

/// The header that says which attempt this is, from 1.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");

#[cfg(test)]
pub(crate) mod sink;
#[cfg(test)]
mod tests;
