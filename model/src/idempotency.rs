//! Idempotency: the pure machine that lets a request with a key reach the upstream at most once.
//!
//! `ABSENT → DISPATCHED → DONE`, and `UNKNOWN` for what nobody can know. Invariants: a key is dispatched at most once
//! within its retention, unless its request provably was not sent, the upstream declined it, an operator released it, or
//! its route has it sent again where nobody knows the outcome; a stored answer never changes; only the holder of the newest
//! fence settles; fences only grow. Never promised: exactly once. The functions are in [`record`]; a store that keeps records implements [`Ledger`] and agrees with them.
//! Semantics: draft-ietf-httpapi-idempotency-key-header-07. Time is microseconds since the Unix epoch.

mod answer;
#[cfg(test)]
mod crashes;
mod digest;
mod key;
pub mod record;
mod records;
#[cfg(feature = "suite")]
pub mod suite;

pub use answer::{
    Answer, Disposition, Ending, LOCATION_MAX, Outline, RESPONSE_BODY_MAX, RESPONSE_HEADERS_MAX,
    SealedResponse, StoredResponse,
};
pub use digest::{Digest, Fingerprint, RecordKey, Salt, Scope};
pub use key::{InvalidKey, Key};
pub use record::{Record, State};
pub use records::{Elsewhere, Found, Records, RecordsError};

use crate::document::{OnLedgerError, OnUnknown};
use crate::id::{RouteId, TenantId};
use crate::port::StoreError;
use http::{HeaderValue, StatusCode};
use std::fmt;
use std::sync::Arc;

/// What a request asks for before it is dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The record.
    pub key: RecordKey,
    /// By what operators find it: [`Digest::of_lookup`].
    pub lookup: Digest,
    /// The route, for operators.
    pub route: RouteId,
    /// What the request is; a repeat has the same.
    pub fingerprint: Fingerprint,
    /// Who claims.
    pub owner: Owner,
    /// How long the lease lasts, in microseconds, unless it is renewed.
    pub lease: i64,
    /// How long an outcome is kept, in microseconds.
    pub retention: i64,
    /// What becomes of a repeat where nobody knows the outcome.
    pub on_unknown: OnUnknown,
    /// How many of the store's replicas must have a claim and its outcome; a store without replicas ignores it.
    pub replicas: u8,
    /// What becomes of a claim that fewer of them have: it is held all the same (`Bypass`), or withdrawn (`Closed`).
    pub on_store_error: OnLedgerError,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// The key was free. The request may be sent until the lease ends, and not a moment later.
    Held {
        /// Shown to settle, and to the upstream (`X-Idempotency-Fence`).
        fence: Fence,
        /// When the lease ends, in microseconds since the epoch, by the clock of whoever claimed.
        lease_until: i64,
        /// Whether as many replicas have it as the route wants; false only under `on_store_error: bypass`.
        is_replicated: bool,
    },
    /// Held, and nobody knows whether a request before it took effect: it is sent again, under a larger fence.
    Redriven {
        /// As of [`Held`](Self::Held).
        fence: Fence,
        /// As of [`Held`](Self::Held).
        lease_until: i64,
        /// As of [`Held`](Self::Held).
        is_replicated: bool,
    },
    /// The request was answered before: this is the answer.
    Replay(StoredResponse),
    /// It was answered before: what is kept of the answer is for whoever has the key.
    Sealed(SealedResponse),
    /// The first request is still on its way (409, `Retry-After`).
    InProgress {
        /// Whole seconds, 1 to 5.
        retry_after: u64,
    },
    /// The key belongs to another request (422).
    Reused,
    /// Nobody knows whether the first request took effect (409).
    Unknown,
    /// The request was answered before; the answer was too large to keep, or there was no room for it (409).
    NotRetained {
        /// The answer's status.
        status: StatusCode,
        /// The answer's `Location`.
        location: Option<HeaderValue>,
    },
}

/// Whether a holder's write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Settled {
    /// It did.
    Applied,
    /// It had taken effect before; nothing changed.
    Already,
    /// The fence is not that of a record that is waiting: it was released, expired, or belongs to another holder.
    Stale,
}

/// Orders the holders of a key: each is given a larger one than any before. Those of different keys say nothing about each
/// other: stores give them per tenant, or by several clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub i64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who holds a record: a node, for operators. What counts is the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Owner {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// What a record takes beside its answer, in bytes, about: itself, and what finds it.
pub const RECORD_BYTES: usize = 1 << 10;

/// How much a store keeps of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantRoom {
    /// Bytes of answers: headers, bodies, and the `Location` of those that are not retained. What is beyond it is
    /// remembered as not retained.
    pub answers: usize,
    /// Bytes of all, of which each record takes [`RECORD_BYTES`] beside its answer. What is beyond it is not claimed
    /// ([`StoreError::Full`]).
    pub all: usize,
}

impl TenantRoom {
    /// Of stores that outlive a process: 64 MiB of answers, and room for 983,040 records and more.
    pub const SHARED: Self = Self { answers: 64 << 20, all: 1 << 30 };
    /// Of a process' memory: 64 MiB of answers, and room for 49,152 records and more.
    pub const IN_PROCESS: Self = Self { answers: 64 << 20, all: 112 << 20 };

    /// Whether there is room for one more record, beside so many and so many bytes of answers.
    pub fn has_room(&self, records: usize, answers: usize) -> bool {
        let records = records.saturating_add(1).saturating_mul(RECORD_BYTES);
        records.saturating_add(answers) <= self.all
    }

    /// As much of the answer as there is room for, beside so many bytes of answers.
    #[must_use]
    pub fn fit(&self, answer: Answer, answers: usize) -> Answer {
        answer.within(self.answers.saturating_sub(answers))
    }
}

/// A store of idempotency records. Every call is one atomic step, carried out as [`record`] says.
///
/// `now` is the caller's time, in microseconds since the epoch. A store that several nodes share decides by a clock of its
/// own, so that nodes whose clocks differ agree about leases and retentions; one that is a process' alone decides by `now`.
pub trait Ledger: Send + Sync {
    /// Claims the key and marks it dispatched in one durable write, or says what became of it.
    fn claim(
        &self,
        request: &ClaimRequest,
        now: i64,
    ) -> impl Future<Output = Result<Claimed, StoreError>> + Send;

    /// Prolongs the lease to `now + lease` while it lasts.
    fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Stores the answer. `replicas`: as of [`ClaimRequest`].
    fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        replicas: u8,
        now: i64,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Frees the key: provably nothing was sent, or the upstream declined ([`Disposition::Release`]). The outcome of one
    /// that was redriven is unknown again.
    fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Says that the outcome can't be known.
    fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Frees a key whose outcome is unknown, and no other. For operators.
    fn clear(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// A tenant's records under this key, of all subjects and routes: at most 20, newest first. For operators.
    fn find(
        &self,
        tenant: &TenantId,
        key: &Key,
        now: i64,
    ) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// The answer that was stored under this fence, as far as it is kept; nothing where there is none. For operators.
    fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> impl Future<Output = Result<Option<Answer>, StoreError>> + Send;
}
