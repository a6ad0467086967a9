//! `POST /v1/events`: the same door for events as at the dispatcher. What is behind it is the crate `ingest`'s.

use crate::Shared;
use crate::allowed::Producer;
use crate::answer::Answer;
use crate::body::{self, NoQuery};
use crate::problem::Refused;
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::post;
use http::StatusCode;
use std::sync::Arc;

/// The one path that is a producer's.
pub(crate) const PATH: &str = "/v1/events";

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route(PATH, post(accept))
}

/// 202: the events are on the disk. They are no change of the configuration, so that the audit has nothing of them.
async fn accept(
    Producer(acting): Producer,
    _: NoQuery,
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Answer, Refused> {
    let headers = request.headers().clone();
    let body = body::bytes(request, ingest::BODY_BYTES_MAX).await?;
    let accepted = shared.ingest.accept(acting.tenant(), &headers, body).await?;
    Ok(Answer::new(StatusCode::ACCEPTED, &accepted))
}
