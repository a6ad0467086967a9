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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use std::convert::Infallible;
    use tokio::sync::mpsc;

    /// A request that says that it has so many bytes, and whose body comes as it is sent.
    fn request(said: Option<usize>) -> (Request, mpsc::Sender<Bytes>) {
        struct Coming(mpsc::Receiver<Bytes>);
        impl http_body::Body for Coming {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
                self.0
                    .poll_recv(cx)
                    .map(|bytes| bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
            }
        }
        let (send, receive) = mpsc::channel(1);
        let mut request = Request::new(Body::new(Coming(receive)));
        if let Some(said) = said {
            request.headers_mut().insert(header::CONTENT_LENGTH, said.into());
        }
        (request, send)
    }

    #[tokio::test]
    async fn bodies_take_the_room_that_they_say_they_need_until_they_are_read() {
        let room = Room::new(100);
        let (first, sending) = request(Some(60));
        let mut reading = Box::pin(room.read(first, 80));
        // It waits for its body, in its room.
        assert!(yielded(&mut reading).await.is_none());
        for (said, code) in [
            (Some(81), Some(ErrorCode::BodyTooLarge)),
            (Some(41), Some(ErrorCode::Overloaded)),
            (None, Some(ErrorCode::Overloaded)),
            (Some(40), None),
        ] {
            let (other, sending) = request(said);
            drop(sending);
            let read = room.read(other, 80).await;
            assert_eq!(read.err().map(|refused| refused.0.code), code, "{said:?}");
        }
        sending.send(Bytes::from_static(b"body")).await.unwrap();
        drop(sending);
        assert_eq!(reading.await.ok().unwrap(), "body");
        let (other, sending) = request(None);
        drop(sending);
        assert!(room.read(other, 80).await.is_ok());
    }

    /// What it yields, if it does at once.
    async fn yielded<T>(work: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = std::future::ready(()) => None,
        }
    }
}
