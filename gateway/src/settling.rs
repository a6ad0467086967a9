//! What came of a keyed request, told to the store of its key: at once, and in the background where that fails.
//!
//! Invariants: whoever holds the key tells, and its fence makes telling twice harmless; how much waits to be told, in number
//! and bytes, and for how long, is bounded. What is given up is unknown, as if the holder had died.

use crate::body::{Budget, Share};
use crate::gateway::Gateway;
use model::idempotency::{Answer, Disposition, Settled};
use stages::again::{Again, Place};
use stages::claim::{Claim, Holder};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How many outcomes wait to be told.
const UNTOLD_MAX: usize = 1_024;
/// How many bytes of answers are kept for that.
const UNTOLD_BYTES_MAX: usize = 64 << 20;
/// How long telling is tried: longer than a failover of the store takes.
const TRIED_FOR: Duration = Duration::from_secs(300);

/// Outcomes that wait to be told.
pub struct Settling {
    again: Again,
    bytes: Budget,
}

impl Settling {
    /// They are told on this runtime.
    pub fn new(runtime: &Handle) -> Self {
        let again = Again::new(UNTOLD_MAX, TRIED_FOR, runtime);
        Self { again, bytes: Budget::of(UNTOLD_BYTES_MAX) }
    }

    /// Waits until all was told, at most for so long. Says how many outcomes are left.
    pub async fn drained(&self, within: Duration) -> usize {
        self.again.drained(within).await
    }
}

/// Tells what an ending means for the key, and what is kept of an answer where one is. Says what became of the key, where
/// there is one and the store has said it; else that is counted when it does.
pub(crate) async fn settle(
    gateway: &Arc<Gateway>,
    claim: &Claim,
    disposition: Disposition,
    kept: impl Fn() -> Option<Answer>,
    request_id: &str,
) -> Option<&'static str> {
    let holder = claim.holder()?;
    let now = gateway.clock.micros();
    match holder.settle(&gateway.ledger, disposition, kept(), now).await {
        Ok(settled) => Some(word(disposition, settled)),
        Err(error) => {
            let untold =
                Untold { holder, disposition, kept: kept(), request_id: request_id.into() };
            let waits = untold.begin(gateway);
            tracing::warn!(%error, request_id, waits, "the store of keys was not told an outcome");
            (!waits).then_some("failed")
        }
    }
}

/// How metrics call what became of a key.
const fn word(disposition: Disposition, settled: Settled) -> &'static str {
    match (settled, disposition) {
        (Settled::Stale, _) => "stale",
        (Settled::Applied | Settled::Already, Disposition::Keep) => "stored",
        (Settled::Applied | Settled::Already, Disposition::Release) => "released",
        (Settled::Applied | Settled::Already, Disposition::Unknown) => "unknown",
    }
}

/// An outcome that the store was not told.
struct Untold {
    holder: Holder,
    disposition: Disposition,
    kept: Option<Answer>,
    request_id: Box<str>,
}

impl Untold {
    /// Begins to tell it in the background. Whether there was room.
    fn begin(self, gateway: &Arc<Gateway>) -> bool {
        let size = self.kept.as_ref().map_or(0, Answer::size);
        let Ok(share) = gateway.settling.bytes.share(size) else { return false };
        let owner = Arc::clone(gateway);
        gateway.settling.again.begin(async move |place| self.tell(owner, place, share).await)
    }

    async fn tell(self, gateway: Arc<Gateway>, place: Place, _held: Share) {
        let Self { holder, disposition, kept, request_id } = self;
        let once = || {
            let now = gateway.clock.micros();
            holder.settle(&gateway.ledger, disposition, kept.clone(), now)
        };
        let outcome = match place.until_done(once).await {
            Ok(settled) => word(disposition, settled),
            Err(error) => {
                tracing::warn!(%error, request_id, "an outcome was never stored: it counts as unknown");
                "failed"
            }
        };
        gateway.metrics.settled(outcome);
    }
}
