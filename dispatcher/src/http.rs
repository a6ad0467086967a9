//! The dispatcher's port: where events come in, and nothing else.
//!
//! Invariant: nothing of a request is kept before it was known whose it is: by its token, or by its signature.

mod body;
mod frame;
#[cfg(test)]
mod tests;
mod token;

use crate::Dispatcher;
use crate::inbound::{Inbound, SECRETS_TIME};
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use body::Room;
use http::StatusCode;
use ingest::{Accepted, Ingest, Origin};
use model::id::SourceId;
use model::{Clock, ErrorCode, Reject};
use std::sync::Arc;
use token::Tokens;
use tokio::sync::Semaphore;

/// The largest webhook that is taken, in bytes.
const INBOUND_BYTES_MAX: usize = 1 << 20;

/// How many bytes of requests with a token are on their way in at once.
const EVENTS_ROOM: usize = 128 << 20;

/// How many bytes of webhooks are on their way in at once: anybody can send some that are then refused.
const INBOUND_ROOM: usize = 64 << 20;

/// How many requests are served at once.
const REQUESTS_MAX: usize = 2_048;

/// How many of them may be webhooks: strangers that send slowly take no place of a producer's.
const INBOUND_MAX: usize = 512;

/// What handlers share.
struct Door {
    clock: Clock,
    ingest: Ingest,
    tokens: Tokens,
    inbound: Inbound,
    events_room: Room,
    inbound_room: Room,
    places: Semaphore,
    inbound_places: Semaphore,
}

/// `POST /v1/events` and `POST /v1/inbound/{source}`.
pub(crate) fn router(dispatcher: &Arc<Dispatcher>) -> Router {
    let door = Arc::new(Door {
        clock: dispatcher.clock.clone(),
        ingest: dispatcher.ingest.clone(),
        tokens: Tokens::new(dispatcher.store.clone()),
        inbound: Inbound::new(dispatcher.clone(), SECRETS_TIME),
        events_room: Room::new(EVENTS_ROOM),
        inbound_room: Room::new(INBOUND_ROOM),
        places: Semaphore::new(REQUESTS_MAX),
        inbound_places: Semaphore::new(INBOUND_MAX),
    });
    Router::new()
        .route("/v1/events", post(events))
        .route("/v1/inbound/{source}", post(inbound))
        .fallback(async || Refused::from(Reject::new(ErrorCode::NotFound)))
        .method_not_allowed_fallback(async || {
            Refused::from(Reject::new(ErrorCode::MethodNotAllowed))
        })
        .layer(from_fn_with_state(door.clone(), frame::bounded))
        .layer(from_fn_with_state(door.clone(), frame::frame))
        .with_state(door)
}

/// CloudEvents of whoever has a token that may send them.
async fn events(State(door): State<Arc<Door>>, request: Request) -> Result<Kept, Refused> {
    let token = door.tokens.producer(request.headers(), door.clock.now()).await?;
    let headers = request.headers().clone();
    let body = door.events_room.read(request, ingest::BODY_BYTES_MAX).await?;
    Ok(Kept(door.ingest.accept(token.tenant.as_ref(), &headers, body).await?))
}

/// A webhook of a source. It is answered once it is kept; what follows from it follows afterwards.
async fn inbound(
    State(door): State<Arc<Door>>,
    Path(source): Path<SourceId>,
    request: Request,
) -> Result<Kept, Refused> {
    let Ok(_place) = door.inbound_places.try_acquire() else {
        return Err(frame::overloaded("Too many webhooks are on their way in."));
    };
    let source = door.inbound.source(source, door.clock.micros()).await?;
    let headers = request.headers().clone();
    source.look(&headers, door.clock.now())?;
    let body = door.inbound_room.read(request, INBOUND_BYTES_MAX).await?;
    let event = source.event(&headers, &body, door.clock.now())?;
    Ok(Kept(door.ingest.keep(Origin::Source, event).await?))
}

/// 202: it is on the disk.
struct Kept(Accepted);

impl IntoResponse for Kept {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

/// A refusal on its way out. [`frame`](frame::frame) writes its body, which names the request.
struct Refused(Reject);

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self(reject)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}
