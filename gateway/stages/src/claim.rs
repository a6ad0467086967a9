//! Whether a request is a repeat. Yields a [`Claim`], or the stored answer of the first one.
//!
//! Invariant: the last stage. Taking the lease and marking the request dispatched are one write, so whoever holds a claim
//! may send and nobody else may.

use http::HeaderValue;
use model::document::{Idempotency, OnLedgerError};
use model::id::{RouteId, VersionName};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Disposition, Fence, Fingerprint, Key, Ledger, Owner,
    RecordKey, Salt, Scope, Settled, StoredResponse,
};
use model::port::StoreError;
use model::{ErrorCode, Head, Identity, Reject};
use std::time::Duration;

/// The right to send a request.
#[derive(Clone, Debug)]
pub struct Claim(Right);

#[derive(Clone, Debug)]
enum Right {
    Unkeyed,
    Bypassed,
    Held { key: RecordKey, fence: Fence, upstream_key: HeaderValue, replicas: u8 },
}

/// What becomes of a request.
pub enum Judged {
    /// It is sent.
    Claim(Claim),
    /// It was answered before.
    Replay(StoredResponse),
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
    pub lease: Duration,
}

/// The request's key, if it has one.
pub fn key(head: &Head) -> Result<Option<Key>, Reject> {
    Key::of(&head.headers).map_err(|error| {
        Reject::new(ErrorCode::IdempotencyKeyInvalid).detail("reason", error.to_string())
    })
}

/// Takes the lease, or says what became of the key.
pub async fn claim<L: Ledger>(
    ledger: &L,
    salt: &Salt,
    owner: &Owner,
    ask: &Ask<'_>,
    now: i64,
) -> Result<Judged, Reject> {
    let tenant = &ask.identity.tenant;
    let scope = Scope { tenant, subject: &ask.identity.subject, route: ask.route, key: &ask.key };
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let request = ClaimRequest {
        key: scope.record_key(),
        lookup: Digest::of_lookup(tenant, &ask.key),
        route: ask.route.clone(),
        fingerprint: Fingerprint::of(ask.head, ask.route, ask.version, ask.body),
        owner: owner.clone(),
        lease: micros(ask.lease),
        retention: micros(ask.rules.retention.0),
        on_unknown: ask.rules.on_unknown,
        replicas: ask.rules.replicas,
    };
    match ledger.claim(&request, now).await {
        Ok(Claimed::Held { fence, .. } | Claimed::Redriven { fence, .. }) => {
            let upstream_key = scope.upstream_key(salt);
            let (key, replicas) = (request.key, request.replicas);
            Ok(Judged::Claim(Claim(Right::Held { key, fence, upstream_key, replicas })))
        }
        Ok(Claimed::Replay(response)) => Ok(Judged::Replay(response)),
        Ok(Claimed::InProgress { retry_after }) => {
            Err(Reject::new(ErrorCode::IdempotencyInProgress).retry_after(retry_after))
        }
        Ok(Claimed::Reused) => Err(Reject::new(ErrorCode::IdempotencyKeyReused)),
        Ok(Claimed::Unknown) => Err(Reject::new(ErrorCode::IdempotencyOutcomeUnknown)),
        // Whoever could open it has.
        Ok(Claimed::Sealed(response)) => {
            Err(Reject::new(ErrorCode::IdempotencyResponseNotRetained)
                .detail("status", response.status.as_u16()))
        }
        Ok(Claimed::NotRetained { status, location }) => {
            let mut reject = Reject::new(ErrorCode::IdempotencyResponseNotRetained)
                .detail("status", status.as_u16());
            if let Some(location) = location.as_ref().and_then(|value| value.to_str().ok()) {
                reject = reject.detail("location", location);
            }
            Err(reject)
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
    pub const fn outcome(&self) -> Option<&'static str> {
        match self.0 {
            Right::Unkeyed => None,
            Right::Bypassed => Some("bypassed"),
            Right::Held { .. } => Some("claimed"),
        }
    }

    /// The derived key and the fence that the upstream gets.
    pub const fn for_upstream(&self) -> Option<(&HeaderValue, Fence)> {
        match &self.0 {
            Right::Held { upstream_key, fence, .. } => Some((upstream_key, *fence)),
            Right::Unkeyed | Right::Bypassed => None,
        }
    }

    /// Closes the lease with what the dispatch's ending means. `answer` is what is kept of it, when it is kept.
    pub async fn settle<L: Ledger>(
        &self,
        ledger: &L,
        disposition: Disposition,
        answer: Option<Answer>,
        now: i64,
    ) -> Result<(), StoreError> {
        let Right::Held { key, fence, replicas, .. } = &self.0 else { return Ok(()) };
        let settled = match (disposition, answer) {
            (Disposition::Release, _) => ledger.release(key, *fence, now).await?,
            (Disposition::Keep, Some(answer)) => {
                ledger.complete(key, *fence, answer, *replicas, now).await?
            }
            (Disposition::Keep, None) | (Disposition::Unknown, _) => {
                ledger.mark_unknown(key, *fence, now).await?
            }
        };
        if settled == Settled::Stale {
            tracing::warn!(%fence, "a stale holder's outcome was refused");
        }
        Ok(())
    }
}
