//! What we do to a pingora session: read its body, write our answers, translate its errors.

use crate::body::BodySource;
use crate::exchange::Exchange;
use crate::respond::{self, Reply};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use model::exchange::HOP_BY_HOP;
use model::{Edits, ErrorCode, HeaderEdit, Reject};
use pingora::http::ResponseHeader;
use pingora::prelude::*;
use pingora::proxy::Session;
use std::time::Duration;
use tokio::time::timeout;

/// What of a refused request's body is read before the connection is closed (CONTRACT: error body).
const DRAIN_BYTES_MAX: usize = 4 << 20;
/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// A client's body.
pub(crate) struct Downstream<'a> {
    session: &'a mut Session,
    asked: bool,
}

impl<'a> Downstream<'a> {
    /// The body of this session.
    pub(crate) fn new(session: &'a mut Session) -> Self {
        Self { session, asked: false }
    }
}

impl BodySource for Downstream<'_> {
    async fn next(&mut self) -> std::result::Result<Option<Bytes>, Reject> {
        if !self.asked {
            self.asked = true;
            let expects = self.session.req_header().headers.contains_key(header::EXPECT);
            if expects && !self.session.is_body_empty() {
                // RFC 9110 §10.1.1: the client waits for this before it sends the body.
                let _ = self.session.write_continue_response().await;
            }
        }
        let read = self.session.downstream_session.read_request_body().await;
        read.map_err(|error| {
            // Where this request ends can't be told any more, so nothing may follow it (RFC 9112 §8).
            self.session.set_keepalive(None);
            Reject::new(ErrorCode::ValidationFailed)
                .message("The request's body is malformed or was cut off.")
                .because(error)
        })
    }
}

/// Writes an answer of ours, with what every answer carries.
pub(crate) async fn answer(session: &mut Session, exchange: &Exchange, reply: Reply) {
    let mut headers = reply.headers;
    for (name, value) in &respond::added(&exchange.facts, &exchange.held, false) {
        headers.append(name, value.clone());
    }
    if let Err(error) = write(session, reply.status, headers, reply.body).await {
        tracing::debug!(%error, "an answer could not be written");
    }
    drain(session).await;
}

/// Writes a whole answer.
pub(crate) async fn write(
    session: &mut Session,
    status: http::StatusCode,
    headers: HeaderMap,
    body: Bytes,
) -> Result<()> {
    let mut response = ResponseHeader::build(status, Some(headers.len() + 1))?;
    for (name, value) in &headers {
        response.append_header(name, value)?;
    }
    let bodiless = session.req_header().method == Method::HEAD
        || status == http::StatusCode::NO_CONTENT
        || status == http::StatusCode::NOT_MODIFIED;
    // What the answer to HEAD says of the length is what GET would; of a body that isn't here nothing is known.
    let is_known = !bodiless || !body.is_empty();
    if status != http::StatusCode::NO_CONTENT
        && is_known
        && !response.headers.contains_key(header::CONTENT_LENGTH)
    {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    session.write_response_header(Box::new(response), bodiless).await?;
    if bodiless {
        return Ok(());
    }
    session.write_response_body(Some(body), true).await
}

/// Reads what the client is still sending, within bounds, so that it sees the answer; beyond them the connection ends.
async fn drain(session: &mut Session) {
    if session.is_body_done() {
        return;
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        // The client waits for leave to send its body, and got an answer instead.
        session.set_keepalive(None);
        return;
    }
    let read = async {
        let mut bytes = 0;
        while bytes <= DRAIN_BYTES_MAX {
            match session.downstream_session.read_request_body().await {
                Ok(Some(piece)) => bytes += piece.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        false
    };
    let whole = timeout(DRAIN_TIME_MAX, read).await.unwrap_or(false);
    if !whole {
        session.set_keepalive(None);
    }
}

/// Puts our headers on an upstream's answer; those that only we may set replace the upstream's.
pub(crate) fn add_to_response(response: &mut ResponseHeader, added: &HeaderMap) {
    let nominated = nominated(&response.headers);
    // Framing is pingora's own (RFC 9110 §7.6.1).
    let framing = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let removed = |name: &&HeaderName| {
        respond::OWNED.contains(name)
            || (!framing.contains(name)
                && (HOP_BY_HOP.contains(&name.as_str())
                    || nominated.iter().any(|other| other == name.as_str())))
    };
    let removed: Vec<HeaderName> = response.headers.keys().filter(removed).cloned().collect();
    for name in removed {
        response.remove_header(&name);
    }
    for (name, value) in added {
        let _ = response.append_header(name.clone(), value);
    }
}

/// Changes the headers of an upstream's answer as packs ask for. Its framing is none of theirs.
pub(crate) fn edit_response(response: &mut ResponseHeader, edits: &Edits) {
    for edit in &edits.headers {
        // pingora refuses nothing that has the types of a name and a value.
        match edit {
            HeaderEdit::Set(name, value) => {
                response.insert_header(name.clone(), value).unwrap_or_default();
            }
            HeaderEdit::Append(name, value) => {
                response.append_header(name.clone(), value).unwrap_or_default();
            }
            HeaderEdit::Remove(name) => drop(response.remove_header(name)),
        }
    }
}

/// Without what belongs to the connection (RFC 9110 §7.6.1), is worked out anew, or only we may say.
pub(crate) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in nominated(headers) {
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

/// The names in `Connection`, in lower case.
fn nominated(headers: &HeaderMap) -> Vec<String> {
    let connection = headers.get_all(header::CONNECTION).iter();
    connection
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

/// The public code of a failed exchange; none when the client is gone.
pub(crate) fn code_of(error: &Error) -> Option<ErrorCode> {
    match (error.etype(), error.esource()) {
        (HTTPStatus(413), _) => Some(ErrorCode::BodyTooLarge),
        (ReadTimedout, ErrorSource::Downstream) => Some(ErrorCode::RequestTimeout),
        (ReadError | WriteError | ConnectionClosed | WriteTimedout, ErrorSource::Downstream) => {
            None
        }
        (_, ErrorSource::Downstream) => Some(ErrorCode::ValidationFailed),
        (_, ErrorSource::Upstream) => Some(upstream_code(error)),
        (_, ErrorSource::Internal | ErrorSource::Unset) => Some(ErrorCode::Internal),
    }
}

/// The public code of an upstream's failure.
pub(crate) fn upstream_code(error: &Error) -> ErrorCode {
    match error.etype() {
        ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout => {
            ErrorCode::UpstreamTimeout
        }
        _ => ErrorCode::UpstreamUnreachable,
    }
}
