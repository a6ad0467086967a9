//! Bodies of requests, read within bounds: of one, of all together, and in time.

use super::{Refused, frame};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request};
use bytes::Bytes;
use http::{StatusCode, header};
use model::{ErrorCode, Reject};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Room for the bodies that are on their way in.
pub(super) struct Room(Semaphore);

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes))
    }

    /// Reads a body of at most so many bytes, where there is room for as many as it says that it has; of all of them where
    /// it says nothing.
    pub(super) async fn read(&self, mut request: Request, max: usize) -> Result<Bytes, Refused> {
        let said = request.headers().get(header::CONTENT_LENGTH);
        let said = said.and_then(|said| said.to_str().ok()?.parse::<usize>().ok());
        if said.is_some_and(|said| said > max) {
            return Err(too_large(max));
        }
        let wanted = u32::try_from(said.unwrap_or(max)).unwrap_or(u32::MAX);
        let Ok(_room) = self.0.try_acquire_many(wanted) else {
            return Err(frame::overloaded("Too much is on its way in."));
        };
        DefaultBodyLimit::max(max).apply(&mut request);
        let read = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, &())).await;
        let read = read.map_err(|_| Refused::from(Reject::new(ErrorCode::RequestTimeout)))?;
        read.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(max),
            _ => Reject::new(ErrorCode::ValidationFailed).message(error.body_text()).into(),
        })
    }
}

fn too_large(max: usize) -> Refused {
    Reject::new(ErrorCode::BodyTooLarge)
        .message("The request's body is too large.")
        .detail("limit", max)
        .into()
}
