//! Whether a request is a repeat. Yields a [`Claim`], or the stored answer of the first one.
//!
//! Invariant: the last stage. Taking the lease and marking the request dispatched are one write, so whoever holds a claim
//! may send while its lease lasts, and nobody else may. A lease is short and renewed for as long as the upstream works.

mod waiting;

pub use waiting::{WAITERS_MAX, WAITERS_PER_TENANT_MAX, Waiters};

use http::{HeaderValue, StatusCode};
use model::document::{Idempotency, OnLedgerError};
use model::id::{RouteId, VersionName};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Disposition, Ending, Fence, Fingerprint, Key, Ledger,
    Owner, RecordKey, Salt, Scope, Settled, StoredResponse,
};
use model::port::StoreError;
use model::{Clock, ErrorCode, Head, Identity, Reject};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a lease lasts unless it is renewed: so late it is known that a holder died.
pub const LEASE: Duration = Duration::from_secs(15);
/// How many renewals there are to a lease; each has as long as the next one is away.
const RENEWALS: u32 = 3;
/// How many more fit between two, while they fail.
const RENEWAL_TRIES: u32 = 10;

/// The right to send a request.
#[derive(Debug)]
pub struct Claim(Right);

#[derive(Debug)]
enum Right {
    Unkeyed,
    Bypassed,
    Held(Arc<Held>),
}

#[derive(Debug)]
struct Held {
    key: RecordKey,
    fence: Fence,
    upstream_key: HeaderValue,
    replicas: u8,
    is_redriven: bool,
    is_replicated: bool,
    lease: Lease,
}

/// Who can tell the store what came of a request, also after it.
#[derive(Debug)]
pub struct Holder(Arc<Held>);

/// Until when a request may be sent. By the wall clock, which may be set back, and by one that nobody sets, which may stand
/// still while a machine sleeps; since before the store was asked: never later than its own clock says.
#[derive(Debug)]
struct Lease {
    lasts: Duration,
    until: AtomicI64,
    began: Instant,
    ends_after: AtomicI64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Judged {
    /// It is sent.
    Claim(Claim),
    /// It was answered before.
    Replay(StoredResponse),
    /// The first one was answered while it waited.
    Awaited(StoredResponse),
}

/// What is known of a keyed request.
pub struct Ask<'a> {
    /// The client's key.
    pub key: Key,
    /// Who sends it.
    pub identity: &'a Identity,
    /// Its route.
    pub route: &'a RouteId,
    /// Its version.
    pub version: &'a VersionName,
    /// Its head, as it was received.
    pub head: &'a Head,
    /// Its body.
    pub body: &'a [u8],
    /// How the route treats keys.
    pub rules: &'a Idempotency,
    /// How long it may be on its way: the upstream's total time and a margin.
    pub hold: Duration,
}

/// The request's key, if it has one.
pub fn key(head: &Head) -> Result<Option<Key>, Reject> {
    Key::of(&head.headers).map_err(|error| {
        Reject::new(ErrorCode::IdempotencyKeyInvalid).detail("reason", error.to_string())
    })
}

/// Takes the lease, or says what became of the key. While the first request is on its way, it waits for as long as the
/// route has it and there is room among those who wait; `before_waiting` may give back what nobody needs meanwhile.
pub async fn claim<L: Ledger>(
    ledger: &L,
    salt: &Salt,
    owner: &Owner,
    ask: &Ask<'_>,
    waiters: &Waiters,
    clock: &Clock,
    before_waiting: impl FnOnce(),
) -> Result<Judged, Reject> {
    let tenant = &ask.identity.tenant;
    let scope = Scope { tenant, subject: &ask.identity.subject, route: ask.route, key: &ask.key };
    let lasts = LEASE.min(ask.hold);
    let request = ClaimRequest {
        key: scope.record_key(),
        lookup: Digest::of_lookup(tenant, &ask.key),
        route: ask.route.clone(),
        fingerprint: Fingerprint::of(ask.head, ask.route, ask.version, ask.body),
        owner: owner.clone(),
        lease: micros(lasts),
        retention: micros(ask.rules.retention.0),
        on_unknown: ask.rules.on_unknown,
        replicas: ask.rules.replicas,
        on_store_error: ask.rules.on_store_error,
    };
    let look = async || {
        let now = clock.micros();
        let lease = Lease::begins(lasts, now);
        (ledger.claim(&request, now).await, lease)
    };
    let is_in_progress = |told: &_| matches!(told, Ok(Claimed::InProgress { .. }));
    let (mut told, mut lease) = look().await;
    let waiting = match is_in_progress(&told) {
        true => waiters.wait(tenant, ask.rules.wait.0),
        false => None,
    };
    let has_waited = waiting.is_some();
    if let Some(mut waiting) = waiting {
        before_waiting();
        while is_in_progress(&told) && waiting.pause().await {
            (told, lease) = look().await;
        }
    }
    let held = |fence, lease, is_redriven, is_replicated| {
        let upstream_key = scope.upstream_key(salt);
        let (key, replicas) = (request.key.clone(), request.replicas);
        let held = Held { key, fence, upstream_key, replicas, is_redriven, is_replicated, lease };
        Ok(Judged::Claim(Claim(Right::Held(Arc::new(held)))))
    };
    match told {
        Ok(Claimed::Held { fence, is_replicated, .. }) => held(fence, lease, false, is_replicated),
        Ok(Claimed::Redriven { fence, is_replicated, .. }) => {
            held(fence, lease, true, is_replicated)
        }
        Ok(Claimed::Replay(response)) if has_waited => Ok(Judged::Awaited(response)),
        Ok(Claimed::Replay(response)) => Ok(Judged::Replay(response)),
        Ok(told) => Err(refusal(told)),
        // It was on its way a moment ago: whatever the route says of a store that can't answer, it is not sent again.
        Err(error) if has_waited => {
            Err(Reject::new(ErrorCode::IdempotencyInProgress).retry_after(1).because(error))
        }
        Err(error) => match ask.rules.on_store_error {
            OnLedgerError::Bypass => {
                tracing::warn!(%error, "idempotency is not enforced for a request");
                Ok(Judged::Claim(Claim(Right::Bypassed)))
            }
            OnLedgerError::Closed => {
                Err(Reject::new(ErrorCode::DependencyUnavailable).retry_after(1).because(error))
            }
        },
    }
}

/// Why a repeat gets neither an answer nor the right to be sent.
fn refusal(told: Claimed) -> Reject {
    let not_retained = |status: StatusCode| {
        Reject::new(ErrorCode::IdempotencyResponseNotRetained).detail("status", status.as_u16())
    };
    match told {
        Claimed::InProgress { retry_after } => {
            Reject::new(ErrorCode::IdempotencyInProgress).retry_after(retry_after)
        }
        Claimed::Reused => Reject::new(ErrorCode::IdempotencyKeyReused),
        Claimed::Unknown => Reject::new(ErrorCode::IdempotencyOutcomeUnknown),
        Claimed::NotRetained { status, location } => {
            match location.as_ref().and_then(|value| value.to_str().ok()) {
                Some(location) => not_retained(status).detail("location", location),
                None => not_retained(status),
            }
        }
        // Whoever could open it has.
        Claimed::Sealed(sealed) => not_retained(sealed.status),
        Claimed::Held { .. } | Claimed::Redriven { .. } | Claimed::Replay(_) => {
            Reject::new(ErrorCode::Internal)
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Claim {
    /// The right to send a request without a key.
    pub const fn unkeyed() -> Self {
        Self(Right::Unkeyed)
    }

    /// Whether the route goes on though the store couldn't answer, or fewer replicas than it wants have the claim.
    pub fn is_bypassed(&self) -> bool {
        match &self.0 {
            Right::Unkeyed => false,
            Right::Bypassed => true,
            Right::Held(held) => !held.is_replicated,
        }
    }

    /// How the key was treated, for metrics; none without one.
    pub fn outcome(&self) -> Option<&'static str> {
        match &self.0 {
            Right::Unkeyed => None,
            Right::Bypassed => Some("bypassed"),
            Right::Held(held) if !held.is_replicated => Some("bypassed"),
            Right::Held(held) if held.is_redriven => Some("redriven"),
            Right::Held(_) => Some("claimed"),
        }
    }

    /// The derived key and the fence that the upstream gets.
    pub fn for_upstream(&self) -> Option<(&HeaderValue, Fence)> {
        match &self.0 {
            Right::Held(held) => Some((&held.upstream_key, held.fence)),
            Right::Unkeyed | Right::Bypassed => None,
        }
    }

    /// Whether the request may be sent at this time: not after its lease, when somebody else may be let through.
    pub fn may_send(&self, now: i64) -> bool {
        match &self.0 {
            Right::Held(held) => held.lease.lasts_at(now),
            Right::Unkeyed | Right::Bypassed => true,
        }
    }

    /// Renews the lease again and again, while it is polled. Where that fails for good, what was sent can't be unsent: its
    /// outcome is still told to the store, which refuses it where somebody else was let through.
    pub async fn keep<L: Ledger>(&self, ledger: &L, clock: &Clock) -> Infallible {
        if let Right::Held(held) = &self.0 {
            held.keep(ledger, clock).await;
        }
        std::future::pending().await
    }

    /// What an ending means for the key. Where the request was sent before, an upstream that honours the key answers 409
    /// for as long as it is at work on that: such an answer tells no outcome.
    pub fn disposition(&self, ending: Ending, release_on: &[u16]) -> Disposition {
        match (&self.0, ending) {
            (Right::Held(held), Ending::Answered(StatusCode::CONFLICT)) if held.is_redriven => {
                Disposition::Release
            }
            _ => ending.disposition(release_on),
        }
    }

    /// Who tells the store what came of the request; nobody without a key that is held.
    pub fn holder(&self) -> Option<Holder> {
        match &self.0 {
            Right::Held(held) => Some(Holder(held.clone())),
            Right::Unkeyed | Right::Bypassed => None,
        }
    }
}

impl Holder {
    /// Closes the lease with what the dispatch's ending means. `answer` is what is kept of it, when it is kept. May be done
    /// again where the store did not confirm it.
    pub async fn settle<L: Ledger>(
        &self,
        ledger: &L,
        disposition: Disposition,
        answer: Option<Answer>,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let Held { key, fence, replicas, .. } = &*self.0;
        match (disposition, answer) {
            (Disposition::Release, _) => ledger.release(key, *fence, now).await,
            (Disposition::Keep, Some(answer)) => {
                ledger.complete(key, *fence, answer, *replicas, now).await
            }
            (Disposition::Keep, None) | (Disposition::Unknown, _) => {
                ledger.mark_unknown(key, *fence, now).await
            }
        }
    }

    /// Renews the lease, where it is time to, while the store does not take an outcome that somebody knows. Where that
    /// fails, telling the outcome says what became of the key.
    pub async fn renew<L: Ledger>(&self, ledger: &L, clock: &Clock) {
        if self.0.lease.is_due_in().is_zero()
            && let Err(error) = self.0.renew(ledger, clock).await
        {
            tracing::debug!(fence = %self.0.fence, %error, "a lease was not renewed");
        }
    }
}

impl Held {
    /// Renews the lease until it is lost.
    async fn keep<L: Ledger>(&self, ledger: &L, clock: &Clock) {
        let mut pause = self.lease.is_due_in();
        loop {
            sleep(pause).await;
            pause = match self.renew(ledger, clock).await {
                Ok(Settled::Applied) => self.lease.apart(),
                Ok(Settled::Already | Settled::Stale) => {
                    tracing::warn!(fence = %self.fence, "a lease was lost while the upstream worked");
                    return;
                }
                Err(error) => {
                    tracing::warn!(fence = %self.fence, %error, "a lease was not renewed");
                    self.lease.apart() / RENEWAL_TRIES
                }
            };
        }
    }

    /// Renews the lease once.
    async fn renew<L: Ledger>(&self, ledger: &L, clock: &Clock) -> Result<Settled, StoreError> {
        let (now, at, within) = (clock.micros(), Instant::now(), self.lease.apart());
        let renewal = ledger.renew(&self.key, self.fence, micros(self.lease.lasts), now);
        let told = timeout(within, renewal).await.unwrap_or(Err(StoreError::TimedOut(within)))?;
        if told == Settled::Applied {
            self.lease.is_renewed(now, at);
        }
        Ok(told)
    }
}

impl Lease {
    /// One for which the store is asked now.
    fn begins(lasts: Duration, now: i64) -> Self {
        Self {
            lasts,
            until: AtomicI64::new(now.saturating_add(micros(lasts))),
            began: Instant::now(),
            ends_after: AtomicI64::new(micros(lasts)),
        }
    }

    /// The store was asked at this time to prolong it, and did.
    fn is_renewed(&self, now: i64, at: Instant) {
        let lasts = micros(self.lasts);
        self.until.fetch_max(now.saturating_add(lasts), Ordering::Relaxed);
        let since = micros(at.saturating_duration_since(self.began));
        self.ends_after.fetch_max(since.saturating_add(lasts), Ordering::Relaxed);
    }

    /// How far one renewal is from the next.
    fn apart(&self) -> Duration {
        self.lasts / RENEWALS
    }

    /// How long until it is to be renewed: also of one for which the store took its time.
    fn is_due_in(&self) -> Duration {
        let since = self.ends_after.load(Ordering::Relaxed).saturating_sub(micros(self.lasts));
        let due_after = Duration::from_micros(since.unsigned_abs()) + self.apart();
        due_after.saturating_sub(self.began.elapsed())
    }

    fn lasts_at(&self, now: i64) -> bool {
        now < self.until.load(Ordering::Relaxed)
            && micros(self.began.elapsed()) < self.ends_after.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
