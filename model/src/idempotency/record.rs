//! The transitions of one key's record: from what is stored and an input to an answer and what to store.
//!
//! A record that expired is absent, and a lease that ended means that the outcome is unknown; neither needs a write, so
//! that no crash can keep either from being true. A late answer is still taken while the outcome is unknown: nobody else
//! was let through, and now somebody knows. Where somebody was (a redrive), the late one's fence is no longer the record's,
//! and the record stays in doubt: if the later request provably did nothing, the earlier one may still have.

use super::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Fingerprint, Outline, Owner, RecordKey, Settled,
};
use crate::document::OnUnknown;
use crate::id::RouteId;

/// The longest `Retry-After` of a request that is in progress, in seconds: it may end at any moment.
const RETRY_AFTER_MAX: u64 = 5;

/// What is stored of a key. Of its answer, operators are told an [`Outline`].
#[derive(Clone, Debug, PartialEq)]
pub struct Record<A = Answer> {
    /// Its name.
    pub key: RecordKey,
    /// By what operators find it.
    pub lookup: Digest,
    /// The route.
    pub route: RouteId,
    /// The request that the key belongs to.
    pub fingerprint: Fingerprint,
    /// The holder's fence.
    pub fence: Fence,
    /// The holder.
    pub owner: Owner,
    /// When it was claimed, in microseconds since the epoch.
    pub claimed_at: i64,
    /// How long an outcome is kept, in microseconds.
    pub retention: i64,
    /// When the key is free again, in microseconds since the epoch. Never before the lease ends.
    pub expires_at: i64,
    /// Whether a request before the holder's may have taken effect: it was redriven.
    pub in_doubt: bool,
    /// How far it is.
    pub state: State<A>,
}

/// How far a record is. Times are microseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub enum State<A = Answer> {
    /// The request may be on its way; after the lease, nobody knows.
    Dispatched {
        /// When the lease ends.
        lease_until: i64,
    },
    /// Answered.
    Done {
        /// Since when.
        stored_at: i64,
        /// What is kept of the answer.
        answer: A,
    },
    /// Nobody knows whether it took effect.
    Unknown {
        /// Since when.
        since: i64,
    },
}

/// What to store after a transition.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// What is stored stays.
    Nothing,
    /// This record.
    Put(Box<Record>),
    /// No record.
    Delete,
}

impl<A: Clone> Record<A> {
    /// The state as of now: that of an ended lease is unknown.
    pub fn state_at(&self, now: i64) -> State<A> {
        match self.state {
            State::Dispatched { lease_until } if lease_until <= now => {
                State::Unknown { since: lease_until }
            }
            State::Dispatched { .. } | State::Done { .. } | State::Unknown { .. } => {
                self.state.clone()
            }
        }
    }
}

impl Record {
    /// The record, unless it expired.
    pub fn live(record: Option<&Self>, now: i64) -> Option<&Self> {
        record.filter(|record| now < record.expires_at)
    }

    /// The same record, without its answer.
    pub fn outline(&self) -> Record<Outline> {
        Record {
            key: self.key.clone(),
            lookup: self.lookup,
            route: self.route.clone(),
            fingerprint: self.fingerprint,
            fence: self.fence,
            owner: self.owner.clone(),
            claimed_at: self.claimed_at,
            retention: self.retention,
            expires_at: self.expires_at,
            in_doubt: self.in_doubt,
            state: match &self.state {
                State::Dispatched { lease_until } => {
                    State::Dispatched { lease_until: *lease_until }
                }
                State::Done { stored_at, answer } => {
                    State::Done { stored_at: *stored_at, answer: answer.outline() }
                }
                State::Unknown { since } => State::Unknown { since: *since },
            },
        }
    }

    fn dispatched(request: &ClaimRequest, fence: Fence, now: i64) -> Self {
        let lease_until = now.saturating_add(request.lease);
        Self {
            key: request.key.clone(),
            lookup: request.lookup,
            route: request.route.clone(),
            fingerprint: request.fingerprint,
            fence,
            owner: request.owner.clone(),
            claimed_at: now,
            retention: request.retention,
            expires_at: lease_until.saturating_add(request.retention),
            in_doubt: false,
            state: State::Dispatched { lease_until },
        }
    }

    /// The same record in another state, whose retention begins then.
    fn turned(&self, state: State, since: i64) -> Self {
        Self { expires_at: since.saturating_add(self.retention), state, ..self.clone() }
    }
}

/// ABSENT → DISPATCHED under the fence `next`, which is larger than any that the store gave before; UNKNOWN → DISPATCHED,
/// where the route has it so; or what became of the key.
pub fn claim(
    current: Option<&Record>,
    request: &ClaimRequest,
    next: Fence,
    now: i64,
) -> (Claimed, Change) {
    let held = Record::dispatched(request, next, now);
    let (fence, lease_until) = (next, now.saturating_add(request.lease));
    match Record::live(current, now) {
        None => {
            (Claimed::Held { fence, lease_until, is_replicated: true }, Change::Put(Box::new(held)))
        }
        Some(record) if is_redriven(record, request, now) => {
            let held = Record { in_doubt: true, ..held };
            (
                Claimed::Redriven { fence, lease_until, is_replicated: true },
                Change::Put(Box::new(held)),
            )
        }
        Some(record) => (found(record, request.fingerprint, now), Change::Nothing),
    }
}

/// Whether a claim would hold: only then it needs a fence.
pub fn is_free(current: Option<&Record>, request: &ClaimRequest, now: i64) -> bool {
    Record::live(current, now).is_none_or(|record| is_redriven(record, request, now))
}

fn is_redriven(record: &Record, request: &ClaimRequest, now: i64) -> bool {
    request.on_unknown == OnUnknown::Redrive
        && record.fingerprint == request.fingerprint
        && matches!(record.state_at(now), State::Unknown { .. })
}

/// What a claim is told whose key is taken.
fn found(record: &Record, fingerprint: Fingerprint, now: i64) -> Claimed {
    if record.fingerprint != fingerprint {
        return Claimed::Reused;
    }
    match record.state_at(now) {
        State::Dispatched { lease_until } => {
            let left = crate::quota::fields::whole_seconds(lease_until.saturating_sub(now));
            Claimed::InProgress { retry_after: left.clamp(1, RETRY_AFTER_MAX) }
        }
        State::Done { answer: Answer::Retained(response), .. } => Claimed::Replay(response),
        State::Done { answer: Answer::Sealed(response), .. } => Claimed::Sealed(response),
        State::Done { answer: Answer::NotRetained { status, location }, .. } => {
            Claimed::NotRetained { status, location }
        }
        State::Unknown { .. } => Claimed::Unknown,
    }
}

/// DISPATCHED → DISPATCHED with a lease to `now + lease`, while the lease lasts.
pub fn renew(current: Option<&Record>, fence: Fence, lease: i64, now: i64) -> (Settled, Change) {
    let Some(record) = held(current, fence, now) else { return STALE };
    match record.state_at(now) {
        State::Dispatched { lease_until } => {
            let lease_until = lease_until.max(now.saturating_add(lease));
            let state = State::Dispatched { lease_until };
            (Settled::Applied, Change::Put(Box::new(record.turned(state, lease_until))))
        }
        State::Unknown { .. } | State::Done { .. } => STALE,
    }
}

/// DISPATCHED or UNKNOWN → DONE.
pub fn complete(
    current: Option<&Record>,
    fence: Fence,
    answer: Answer,
    now: i64,
) -> (Settled, Change) {
    let Some(record) = held(current, fence, now) else { return STALE };
    match record.state {
        State::Dispatched { .. } | State::Unknown { .. } => {
            let state = State::Done { stored_at: now, answer };
            (Settled::Applied, Change::Put(Box::new(record.turned(state, now))))
        }
        State::Done { .. } => (Settled::Already, Change::Nothing),
    }
}

/// DISPATCHED or UNKNOWN → ABSENT, by a holder who knows that its request had no effect; → UNKNOWN, where one before it may
/// have had.
pub fn release(current: Option<&Record>, fence: Fence, now: i64) -> (Settled, Change) {
    let Some(record) = held(current, fence, now) else { return STALE };
    match record.state {
        State::Dispatched { .. } | State::Unknown { .. } if record.in_doubt => {
            let unknown = record.turned(State::Unknown { since: now }, now);
            (Settled::Applied, Change::Put(Box::new(unknown)))
        }
        State::Dispatched { .. } | State::Unknown { .. } => (Settled::Applied, Change::Delete),
        State::Done { .. } => STALE,
    }
}

/// DISPATCHED → UNKNOWN, by a holder who can't know more.
pub fn mark_unknown(current: Option<&Record>, fence: Fence, now: i64) -> (Settled, Change) {
    let Some(record) = held(current, fence, now) else { return STALE };
    match record.state_at(now) {
        State::Dispatched { .. } => (
            Settled::Applied,
            Change::Put(Box::new(record.turned(State::Unknown { since: now }, now))),
        ),
        State::Unknown { .. } => (Settled::Already, Change::Nothing),
        State::Done { .. } => STALE,
    }
}

/// UNKNOWN → ABSENT, by an operator who looked it up.
pub fn clear(current: Option<&Record>, fence: Fence, now: i64) -> (Settled, Change) {
    let Some(record) = held(current, fence, now) else { return STALE };
    match record.state_at(now) {
        State::Unknown { .. } => (Settled::Applied, Change::Delete),
        State::Dispatched { .. } | State::Done { .. } => STALE,
    }
}

/// The answer of the record that has this fence.
pub fn answer(current: Option<&Record>, fence: Fence, now: i64) -> Option<&Answer> {
    match &held(current, fence, now)?.state {
        State::Done { answer, .. } => Some(answer),
        State::Dispatched { .. } | State::Unknown { .. } => None,
    }
}

const STALE: (Settled, Change) = (Settled::Stale, Change::Nothing);

/// The record that this fence still holds.
fn held(current: Option<&Record>, fence: Fence, now: i64) -> Option<&Record> {
    Record::live(current, now).filter(|record| record.fence == fence)
}

#[cfg(test)]
mod tests {
    use super::super::StoredResponse;
    use super::*;
    use crate::document::OnLedgerError;
    use bytes::Bytes;
    use http::StatusCode;

    const NOW: i64 = 1_800_000_000_000_000;
    const SECOND: i64 = 1_000_000;
    const LEASE: i64 = 40 * SECOND;
    const DAY: i64 = 86_400 * SECOND;

    fn request(fingerprint: u8) -> ClaimRequest {
        ClaimRequest {
            key: RecordKey { tenant: "acme".into(), digest: Digest([1; 32]) },
            lookup: Digest([2; 32]),
            route: "contacts.create".into(),
            fingerprint: Fingerprint(Digest([fingerprint; 32])),
            owner: "node-1".into(),
            lease: LEASE,
            retention: DAY,
            on_unknown: OnUnknown::Reject,
            replicas: 0,
            on_store_error: OnLedgerError::Closed,
        }
    }

    fn answer(body: &'static str) -> Answer {
        let (status, body) = (StatusCode::CREATED, Bytes::from_static(body.as_bytes()));
        Answer::Retained(StoredResponse { status, headers: Vec::new(), body })
    }

    /// Carries a transition out.
    fn apply<T>(record: &mut Option<Record>, (told, change): (T, Change)) -> T {
        match change {
            Change::Nothing => {}
            Change::Put(new) => *record = Some(*new),
            Change::Delete => *record = None,
        }
        told
    }

    fn dispatched() -> Option<Record> {
        let mut record = None;
        let told = apply(&mut record, claim(None, &request(1), Fence(7), NOW));
        assert_eq!(
            told,
            Claimed::Held { fence: Fence(7), lease_until: NOW + LEASE, is_replicated: true }
        );
        record
    }

    fn told(record: Option<&Record>, now: i64) -> Claimed {
        claim(record, &request(1), Fence(99), now).0
    }

    #[test]
    fn a_second_claim_waits_at_most_five_seconds() {
        let record = dispatched();
        for (left, retry_after) in
            [(LEASE, 5), (5 * SECOND, 5), (4 * SECOND, 4), (3 * SECOND + 1, 4), (SECOND, 1), (1, 1)]
        {
            let now = NOW + LEASE - left;
            assert_eq!(told(record.as_ref(), now), Claimed::InProgress { retry_after }, "{left}");
        }
    }

    #[test]
    fn another_request_under_the_key_is_refused_whatever_became_of_the_first() {
        let done = complete(dispatched().as_ref(), Fence(7), answer("a"), NOW);
        let unknown = mark_unknown(dispatched().as_ref(), Fence(7), NOW);
        for (record, change) in [(dispatched(), None), (None, Some(done)), (None, Some(unknown))] {
            let mut record = record;
            if let Some(change) = change {
                let _ = apply(&mut record, change);
            }
            let other = claim(record.as_ref(), &request(2), Fence(99), NOW);
            assert_eq!(other, (Claimed::Reused, Change::Nothing));
        }
    }

    #[test]
    fn every_transition_is_in_the_table() {
        use Settled::{Already, Applied, Stale};
        let at = |record: Option<Record>, change: (Settled, Change)| {
            let mut record = record;
            let _ = apply(&mut record, change);
            record
        };
        let done = at(dispatched(), complete(dispatched().as_ref(), Fence(7), answer("a"), NOW));
        let unknown = at(dispatched(), mark_unknown(dispatched().as_ref(), Fence(7), NOW));
        let later = NOW + LEASE;
        // State, now, and what becomes of renew, complete, release, mark_unknown, clear by the holder.
        for (name, record, now, expected) in [
            ("absent", None, NOW, [Stale, Stale, Stale, Stale, Stale]),
            ("dispatched", dispatched(), NOW, [Applied, Applied, Applied, Applied, Stale]),
            ("lapsed", dispatched(), later, [Stale, Applied, Applied, Already, Applied]),
            ("unknown", unknown, NOW, [Stale, Applied, Applied, Already, Applied]),
            ("done", done, NOW, [Stale, Already, Stale, Stale, Stale]),
            ("expired", dispatched(), later + DAY, [Stale, Stale, Stale, Stale, Stale]),
        ] {
            let by = |fence| {
                let record = record.as_ref();
                [
                    renew(record, fence, LEASE, now).0,
                    complete(record, fence, answer("b"), now).0,
                    release(record, fence, now).0,
                    mark_unknown(record, fence, now).0,
                    clear(record, fence, now).0,
                ]
            };
            assert_eq!(by(Fence(7)), expected, "{name}");
            for stale in [Fence(6), Fence(8)] {
                assert_eq!(by(stale), [Stale; 5], "{name} {stale}");
            }
        }
    }

    #[test]
    fn a_lapsed_lease_is_unknown_until_somebody_knows() {
        let mut record = dispatched();
        assert_eq!(told(record.as_ref(), NOW + LEASE), Claimed::Unknown);
        let late = complete(record.as_ref(), Fence(7), answer("a"), NOW + 2 * LEASE);
        assert_eq!(apply(&mut record, late), Settled::Applied);
        assert!(matches!(told(record.as_ref(), NOW + 2 * LEASE), Claimed::Replay(_)));
    }

    #[test]
    fn an_unknown_outcome_is_redriven_only_where_the_route_says_so_and_for_the_same_request() {
        let redrive =
            |fingerprint| ClaimRequest { on_unknown: OnUnknown::Redrive, ..request(fingerprint) };
        let lapsed = NOW + LEASE;
        let mut lost = dispatched();
        let told = mark_unknown(lost.as_ref(), Fence(7), NOW);
        let _ = apply(&mut lost, told);
        for (record, now) in [(dispatched(), lapsed), (lost, NOW)] {
            let other = claim(record.as_ref(), &redrive(2), Fence(8), now);
            assert_eq!(other, (Claimed::Reused, Change::Nothing));
            assert_eq!(claim(record.as_ref(), &request(1), Fence(8), now).0, Claimed::Unknown);
            assert!(!is_free(record.as_ref(), &request(1), now));
            assert!(is_free(record.as_ref(), &redrive(1), now));
            let mut record = record;
            let told = claim(record.as_ref(), &redrive(1), Fence(8), now);
            let held = Claimed::Redriven {
                fence: Fence(8),
                lease_until: now + LEASE,
                is_replicated: true,
            };
            assert_eq!(apply(&mut record, told), held);
            // The first one's answer comes too late.
            assert_eq!(complete(record.as_ref(), Fence(7), answer("a"), now).0, Settled::Stale);
            let told = claim(record.as_ref(), &redrive(1), Fence(9), now).0;
            assert!(matches!(told, Claimed::InProgress { .. }), "{told:?}");
            // That the second one did nothing says nothing of the first.
            let released = release(record.as_ref(), Fence(8), now);
            assert_eq!(apply(&mut record, released), Settled::Applied);
            assert_eq!(claim(record.as_ref(), &request(1), Fence(9), now).0, Claimed::Unknown);
            assert_eq!(claim(record.as_ref(), &request(2), Fence(9), now).0, Claimed::Reused);
            let again = claim(record.as_ref(), &redrive(1), Fence(9), now);
            assert!(matches!(apply(&mut record, again), Claimed::Redriven { .. }));
            let done = complete(record.as_ref(), Fence(9), answer("b"), now);
            assert_eq!(apply(&mut record, done), Settled::Applied);
            let told = claim(record.as_ref(), &redrive(1), Fence(10), now).0;
            assert!(matches!(told, Claimed::Replay(_)), "{told:?}");
        }
    }

    #[test]
    fn a_renewed_lease_goes_on_and_is_never_shortened() {
        let mut record = dispatched();
        let renewed = renew(record.as_ref(), Fence(7), LEASE, NOW + LEASE / 3);
        assert_eq!(apply(&mut record, renewed), Settled::Applied);
        let end = NOW + LEASE / 3 + LEASE;
        let shorter = renew(record.as_ref(), Fence(7), 1, NOW + LEASE / 3);
        assert_eq!(apply(&mut record, shorter), Settled::Applied);
        assert!(matches!(told(record.as_ref(), end - 1), Claimed::InProgress { .. }));
        assert_eq!(told(record.as_ref(), end), Claimed::Unknown);
    }

    #[test]
    fn an_outcome_is_kept_for_its_retention() {
        let kept = |change: (Settled, Change), until: i64, by: &str| {
            let mut record = dispatched();
            assert_eq!(apply(&mut record, change), Settled::Applied);
            assert!(!matches!(told(record.as_ref(), until - 1), Claimed::Held { .. }), "{by}");
            assert!(matches!(told(record.as_ref(), until), Claimed::Held { .. }), "{by}");
        };
        let record = dispatched();
        let then = NOW + SECOND;
        kept(complete(record.as_ref(), Fence(7), answer("a"), then), then + DAY, "complete");
        kept(mark_unknown(record.as_ref(), Fence(7), then), then + DAY, "mark_unknown");
        kept(renew(record.as_ref(), Fence(7), LEASE, then), then + LEASE + DAY, "renew");
        assert_eq!(told(record.as_ref(), NOW + LEASE + DAY - 1), Claimed::Unknown);
        assert!(matches!(told(record.as_ref(), NOW + LEASE + DAY), Claimed::Held { .. }));
    }
}
