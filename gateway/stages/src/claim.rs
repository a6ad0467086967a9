//! Whether a request is a repeat. Yields a [`Claim`], or the stored answer of the first one.
//!
//! Invariant: the last stage. Taking the lease and marking the request dispatched are one write, so whoever holds a claim
//! may send while its lease lasts, and nobody else may. A lease is short and renewed for as long as the upstream works.

mod waiting;

pub use waiting::{WAITERS_MAX, Waiters};

use http::{HeaderValue, StatusCode};
use model::document::{Idempotency, OnLedgerError};
use model::id::{RouteId, VersionName};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Disposition, Fence, Fingerprint, Key, Ledger, Owner,
    RecordKey, Salt, Scope, Settled, StoredResponse,
};
use model::port::StoreError;
use model::{Clock, ErrorCode, Head, Identity, Reject};
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
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
    Held(Box<Held>),
}

#[derive(Debug)]
struct Held {
    key: RecordKey,
    fence: Fence,
    upstream_key: HeaderValue,
    replicas: u8,
    outcome: &'static str,
    lease: Duration,
    /// By our clock, and since before the store was asked: never later than the store's own.
    lease_until: AtomicI64,
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
/// route has it and there is room among those who wait.
pub async fn claim<L: Ledger>(
    ledger: &L,
    salt: &Salt,
    owner: &Owner,
    ask: &Ask<'_>,
    waiters: &Waiters,
    clock: &Clock,
) -> Result<Judged, Reject> {
    let tenant = &ask.identity.tenant;
    let scope = Scope { tenant, subject: &ask.identity.subject, route: ask.route, key: &ask.key };
    let lease = LEASE.min(ask.hold);
    let request = ClaimRequest {
        key: scope.record_key(),
        lookup: Digest::of_lookup(tenant, &ask.key),
        route: ask.route.clone(),
        fingerprint: Fingerprint::of(ask.head, ask.route, ask.version, ask.body),
        owner: owner.clone(),
        lease: micros(lease),
        retention: micros(ask.rules.retention.0),
        on_unknown: ask.rules.on_unknown,
        replicas: ask.rules.replicas,
    };
    let mut waiting = None;
    let (told, asked_at) = loop {
        let asked_at = clock.micros();
        let told = ledger.claim(&request, asked_at).await;
        if !matches!(told, Ok(Claimed::InProgress { .. })) {
            break (told, asked_at);
        }
        if waiting.is_none() {
            waiting = waiters.wait(ask.rules.wait.0);
        }
        let looks_again = match &mut waiting {
            Some(waiting) => waiting.pause().await,
            None => false,
        };
        if !looks_again {
            break (told, asked_at);
        }
    };
    let held = |fence, outcome| {
        let held = Held {
            key: request.key.clone(),
            fence,
            upstream_key: scope.upstream_key(salt),
            replicas: request.replicas,
            outcome,
            lease,
            lease_until: AtomicI64::new(asked_at.saturating_add(request.lease)),
        };
        Ok(Judged::Claim(Claim(Right::Held(Box::new(held)))))
    };
    match told {
        Ok(Claimed::Held { fence, .. }) => held(fence, "claimed"),
        Ok(Claimed::Redriven { fence, .. }) => held(fence, "redriven"),
        Ok(Claimed::Replay(response)) if waiting.is_some() => Ok(Judged::Awaited(response)),
        Ok(Claimed::Replay(response)) => Ok(Judged::Replay(response)),
        Ok(told) => Err(refusal(told)),
        // It was on its way a moment ago: whatever the route says of a store that can't answer, it is not sent again.
        Err(error) if waiting.is_some() => {
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

    /// Whether the store couldn't answer and the route goes on without it.
    pub const fn is_bypassed(&self) -> bool {
        matches!(self.0, Right::Bypassed)
    }

    /// How the key was treated, for metrics; none without one.
    pub fn outcome(&self) -> Option<&'static str> {
        match &self.0 {
            Right::Unkeyed => None,
            Right::Bypassed => Some("bypassed"),
            Right::Held(held) => Some(held.outcome),
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
            Right::Held(held) => now < held.lease_until.load(Ordering::Relaxed),
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

    /// Closes the lease with what the dispatch's ending means. `answer` is what is kept of it, when it is kept.
    pub async fn settle<L: Ledger>(
        &self,
        ledger: &L,
        disposition: Disposition,
        answer: Option<Answer>,
        now: i64,
    ) -> Result<Option<Settled>, StoreError> {
        let Right::Held(held) = &self.0 else { return Ok(None) };
        let (key, fence) = (&held.key, held.fence);
        let settled = match (disposition, answer) {
            (Disposition::Release, _) => ledger.release(key, fence, now).await?,
            (Disposition::Keep, Some(answer)) => {
                ledger.complete(key, fence, answer, held.replicas, now).await?
            }
            (Disposition::Keep, None) | (Disposition::Unknown, _) => {
                ledger.mark_unknown(key, fence, now).await?
            }
        };
        if settled == Settled::Stale {
            tracing::warn!(%fence, "a stale holder's outcome was refused");
        }
        Ok(Some(settled))
    }
}

impl Held {
    /// Renews the lease until it is lost.
    async fn keep<L: Ledger>(&self, ledger: &L, clock: &Clock) {
        let apart = self.lease / RENEWALS;
        let mut pause = apart;
        loop {
            sleep(pause).await;
            let now = clock.micros();
            let renewal = ledger.renew(&self.key, self.fence, micros(self.lease), now);
            pause = match timeout(apart, renewal).await {
                Ok(Ok(Settled::Applied)) => {
                    let until = now.saturating_add(micros(self.lease));
                    self.lease_until.fetch_max(until, Ordering::Relaxed);
                    apart
                }
                Ok(Ok(Settled::Already | Settled::Stale)) => {
                    tracing::warn!(fence = %self.fence, "a lease was lost while the upstream worked");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(fence = %self.fence, %error, "a lease was not renewed");
                    apart / RENEWAL_TRIES
                }
                Err(_) => {
                    tracing::warn!(fence = %self.fence, "a lease was not renewed in time");
                    apart / RENEWAL_TRIES
                }
            };
        }
    }
}

#[cfg(test)]
mod tests;
