//! A request's body: read lazily, once, under the route's limit and the process' budget.
//!
//! Invariant: whoever asks first makes the exchange a buffered one; if nobody asks, the body streams through unseen.

use bytes::{Bytes, BytesMut};
use http::header;
use model::{ErrorCode, Head, Reject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of bodies that all exchanges together may hold.
pub const BUFFERED_BYTES_MAX: usize = 256 << 20;
/// The unit in which the budget is counted.
const BUDGET_UNIT: usize = 4096;
/// How long a client may take to send a body that is waited for.
pub const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Where a body comes from.
pub trait BodySource: Send {
    /// The next piece; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Reject>> + Send;
}

/// A body that is all there.
impl BodySource for Option<Bytes> {
    async fn next(&mut self) -> Result<Option<Bytes>, Reject> {
        Ok(self.take())
    }
}

/// The bytes that all exchanges together may hold.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self::of(BUFFERED_BYTES_MAX)
    }
}

impl Budget {
    /// So many bytes.
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / BUDGET_UNIT)))
    }
}

/// A body that was read, and its share of the budget.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    _share: Share,
}

/// A share of the budget; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl Body {
    /// A body that was made here.
    pub fn of(bytes: Bytes, budget: &Budget) -> Result<Self, Reject> {
        let share = budget.share(bytes.len())?;
        Ok(Self { bytes, _share: share })
    }

    /// The body's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Reads a body to its end. `share` is what was taken of the budget for it.
pub async fn collect<B: BodySource>(
    source: &mut B,
    limit: usize,
    budget: &Budget,
    share: Share,
) -> Result<Body, Reject> {
    let read = tokio::time::timeout(BODY_DEADLINE, read(source, limit, budget, share));
    read.await.unwrap_or_else(|_| Err(Reject::new(ErrorCode::RequestTimeout)))
}

async fn read<B: BodySource>(
    source: &mut B,
    limit: usize,
    budget: &Budget,
    mut share: Share,
) -> Result<Body, Reject> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = source.next().await? {
        let length = first.len() + whole.len() + piece.len();
        if length > limit {
            return Err(too_large(limit));
        }
        budget.raise(&mut share, length)?;
        if first.is_empty() && whole.is_empty() {
            // Most bodies are one piece, which is then not copied.
            first = piece;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Body { bytes, _share: share })
}

impl Budget {
    /// What a body of this length needs.
    pub fn share(&self, length: usize) -> Result<Share, Reject> {
        let mut share = Share::default();
        self.raise(&mut share, length)?;
        Ok(share)
    }

    /// Takes what a body of this length needs beyond the share that it has.
    pub fn raise(&self, share: &mut Share, length: usize) -> Result<(), Reject> {
        let held = share.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(BUDGET_UNIT).saturating_sub(held);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = self.0.clone().try_acquire_many_owned(missing).map_err(|_| {
            Reject::new(ErrorCode::Overloaded)
                .retry_after(1)
                .because("the budget of buffered bodies is spent")
        })?;
        match &mut share.0 {
            Some(share) => share.merge(more),
            None => share.0 = Some(more),
        }
        Ok(())
    }
}

/// The refusal of a body over the route's limit.
pub fn too_large(limit: usize) -> Reject {
    Reject::new(ErrorCode::BodyTooLarge).detail("limit", limit)
}

/// Refuses a head that announces more than the route takes, before a byte of it is read.
pub fn check_announced(head: &Head, limit: usize) -> Result<(), Reject> {
    match announced(head) {
        Some(length) if length > limit as u64 => Err(too_large(limit)),
        Some(_) | None => Ok(()),
    }
}

/// The length of the body that a head announces (RFC 9112 §6.3); none when only the end of the body tells.
pub fn announced(head: &Head) -> Option<u64> {
    let headers = &head.headers;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else { return Some(0) };
    length.to_str().ok().and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(Vec<&'static [u8]>);

    impl BodySource for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, Reject> {
            Ok(if self.0.is_empty() { None } else { Some(Bytes::from_static(self.0.remove(0))) })
        }
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        let budget = Budget::default();
        let whole = collect(&mut Pieces(vec![b"ab", b"", b"cd"]), 4, &budget, Share::default())
            .await
            .unwrap();
        assert_eq!(whole.bytes().as_ref(), b"abcd");
        let empty = collect(&mut Pieces(vec![]), 0, &budget, Share::default()).await.unwrap();
        assert!(empty.bytes().is_empty());
        for pieces in [vec![&b"abcde"[..]], vec![b"abc", b"de"]] {
            let reject =
                collect(&mut Pieces(pieces), 4, &budget, Share::default()).await.unwrap_err();
            assert_eq!(reject.code, ErrorCode::BodyTooLarge);
        }
    }

    #[tokio::test]
    async fn many_small_pieces_take_no_more_than_their_sum() {
        let budget = Budget(Arc::new(Semaphore::new(1)));
        let body =
            collect(&mut Pieces(vec![b"a"; 100]), 100, &budget, Share::default()).await.unwrap();
        assert_eq!(body.bytes().len(), 100);
    }

    #[tokio::test]
    async fn the_budget_is_given_back_with_the_body() {
        let budget = Budget(Arc::new(Semaphore::new(1)));
        let held =
            collect(&mut Pieces(vec![b"a", b"b"]), 9, &budget, Share::default()).await.unwrap();
        let reject =
            collect(&mut Pieces(vec![b"c"]), 9, &budget, Share::default()).await.unwrap_err();
        assert_eq!(reject.code, ErrorCode::Overloaded);
        drop(held);
        assert!(collect(&mut Pieces(vec![b"c"]), 9, &budget, Share::default()).await.is_ok());
    }
}
