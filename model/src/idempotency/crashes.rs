//! The machine under random histories: several holders, crashes at every step, and time.
//!
//! A holder here does what the gateway does, and may die before or after any write; a write whose holder died may or may
//! not have happened. On failure proptest prints the history and keeps its seed.

use super::record::{self, Change, Record, State};
use super::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Fingerprint, RecordKey, Settled, StoredResponse,
};
use crate::document::{OnLedgerError, OnUnknown};
use bytes::Bytes;
use http::StatusCode;
use proptest::prelude::*;

const LEASE: i64 = 10_000_000;
const RETENTION: i64 = 60_000_000;
const HOLDERS: usize = 3;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The holder does this; `Fate` says whether it lives to see the result.
    By(usize, Act, Fate),
    /// Time passes, in microseconds.
    Wait(i64),
    /// An operator frees a key of unknown outcome.
    Clear,
    /// The store forgets what expired.
    Purge,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Claims for one of two different requests, of a route with this rule.
    Claim(u8, OnUnknown),
    /// Sends the request to the upstream.
    Send,
    /// Could not connect.
    Unsent,
    Renew,
    /// The upstream answered.
    Answer(u16),
    /// The upstream broke off.
    Lose,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Lives,
    /// Dies before the write: nothing happens.
    DiesBefore,
    /// Dies after the write: nobody learns of it.
    DiesAfter,
    /// Lives, but the store's answer got lost: it may try again, or something else.
    Unheard,
}

/// What a holder knows.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Idle,
    Holds { fence: Fence, lease_until: i64, sent: bool, request: u8 },
}

/// The store, the holders, and what was seen so far.
struct World {
    now: i64,
    record: Option<Record>,
    fences: i64,
    holders: [Holder; HOLDERS],
    /// Until when no other dispatch is allowed: the retention of the last one, unless it was undone.
    taken_until: i64,
    /// Who may dispatch all the same: its route has it so, and nobody knew the outcome.
    redriven: Option<Fence>,
    /// The answer that every repeat must get, and until when.
    stored: Option<(Answer, i64)>,
    newest: Fence,
}

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            record: None,
            fences: 0,
            holders: [Holder::Idle; HOLDERS],
            taken_until: i64::MIN,
            redriven: None,
            stored: None,
            newest: Fence(0),
        }
    }

    /// Carries the change out. A record that is gone takes its answer along.
    fn apply<T>(&mut self, (told, change): (T, Change)) -> T {
        match change {
            Change::Nothing => {}
            Change::Put(record) => self.record = Some(*record),
            Change::Delete => self.record = None,
        }
        told
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait(micros) => self.now += micros,
            Step::Purge => {
                if Record::live(self.record.as_ref(), self.now).is_none() {
                    self.record = None;
                }
            }
            Step::Clear => {
                let Some(fence) = self.record.as_ref().map(|record| record.fence) else {
                    return Ok(());
                };
                let cleared = self.apply(record::clear(self.record.as_ref(), fence, self.now));
                if cleared == Settled::Applied {
                    self.taken_until = i64::MIN;
                }
            }
            Step::By(place, act, fate) => {
                let before = self.holders[place];
                if fate != Fate::DiesBefore {
                    self.act(place, act)?;
                }
                match fate {
                    Fate::Lives => {}
                    Fate::DiesBefore | Fate::DiesAfter => self.holders[place] = Holder::Idle,
                    // Everyone knows what they sent themselves, and whoever gave up sends nothing any more.
                    Fate::Unheard if matches!(act, Act::Send | Act::Unsent) => {}
                    Fate::Unheard => self.holders[place] = before,
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, place: usize, act: Act) -> Result<(), TestCaseError> {
        match (act, self.holders[place]) {
            (Act::Claim(request, on_unknown), Holder::Idle) => {
                self.claim(place, request, on_unknown)
            }
            (Act::Send, Holder::Holds { fence, lease_until, sent: false, request }) => {
                // The rule that the gateway keeps: nothing is sent after the lease.
                if self.now < lease_until {
                    let is_first = self.taken_until <= self.now;
                    let may =
                        is_first || self.redriven.take_if(|redriven| *redriven == fence).is_some();
                    prop_assert!(may, "a second dispatch under {fence:?}");
                    // The promise holds from the claim on, and the claim was at most a lease ago.
                    self.taken_until = lease_until - LEASE + RETENTION;
                    self.holders[place] = Holder::Holds { fence, lease_until, sent: true, request };
                }
                Ok(())
            }
            (Act::Unsent, Holder::Holds { fence, sent: false, .. }) => {
                let told = record::release(self.record.as_ref(), fence, self.now);
                let told = self.apply(told);
                self.settled(place, fence, told)
            }
            (Act::Renew, Holder::Holds { fence, sent, request, .. }) => {
                let told = record::renew(self.record.as_ref(), fence, LEASE, self.now);
                if self.apply(told) == Settled::Applied {
                    let lease_until = self.now + LEASE;
                    self.holders[place] = Holder::Holds { fence, lease_until, sent, request };
                }
                Ok(())
            }
            (Act::Answer(429), Holder::Holds { fence, sent: true, .. }) => {
                let in_doubt = self.record.as_ref().is_some_and(|record| record.in_doubt);
                let told = self.apply(record::release(self.record.as_ref(), fence, self.now));
                if told == Settled::Applied && !in_doubt {
                    self.taken_until = i64::MIN;
                }
                self.settled(place, fence, told)
            }
            (Act::Answer(status), Holder::Holds { fence, sent: true, .. }) => {
                let answer = answer(status, fence);
                let told = record::complete(self.record.as_ref(), fence, answer.clone(), self.now);
                let told = self.apply(told);
                if told == Settled::Applied {
                    let before = self.stored.replace((answer, self.now + RETENTION));
                    let before = before.filter(|(_, until)| self.now < *until);
                    prop_assert_eq!(before, None, "two answers");
                }
                self.settled(place, fence, told)
            }
            (Act::Lose, Holder::Holds { fence, sent: true, .. }) => {
                let told = self.apply(record::mark_unknown(self.record.as_ref(), fence, self.now));
                self.settled(place, fence, told)
            }
            (
                Act::Claim(..) | Act::Send | Act::Unsent | Act::Answer(_) | Act::Lose | Act::Renew,
                _,
            ) => Ok(()),
        }
    }

    fn claim(
        &mut self,
        place: usize,
        request: u8,
        on_unknown: OnUnknown,
    ) -> Result<(), TestCaseError> {
        self.fences += 1;
        let asked = ClaimRequest { on_unknown, ..claim_request(request) };
        let before = self.record.clone();
        let told = self.apply(record::claim(before.as_ref(), &asked, Fence(self.fences), self.now));
        let stored = self.stored.clone().filter(|(_, until)| self.now < *until);
        let is_replay = matches!(told, Claimed::Replay(_) | Claimed::Reused);
        prop_assert_eq!(is_replay || stored.is_none(), true, "an answer was forgotten: {:?}", told);
        let alike = before.as_ref().is_some_and(|record| record.fingerprint == asked.fingerprint);
        let was_unknown = before
            .as_ref()
            .is_some_and(|record| matches!(record.state_at(self.now), State::Unknown { .. }));
        if let Claimed::Redriven { fence, .. } = told {
            prop_assert!(alike && was_unknown && on_unknown == OnUnknown::Redrive);
            self.redriven = Some(fence);
        }
        match told {
            Claimed::Held { fence, lease_until, .. }
            | Claimed::Redriven { fence, lease_until, .. } => {
                prop_assert!(fence > self.newest, "{fence:?} after {:?}", self.newest);
                self.newest = fence;
                self.holders[place] = Holder::Holds { fence, lease_until, sent: false, request };
            }
            Claimed::Replay(response) => {
                prop_assert!(alike);
                let stored = stored.map(|(answer, _)| answer);
                prop_assert_eq!(Some(Answer::Retained(response)), stored);
            }
            Claimed::InProgress { retry_after } => {
                prop_assert!(alike);
                prop_assert!((1..=5).contains(&retry_after));
            }
            Claimed::Reused => prop_assert!(!alike && before.is_some()),
            Claimed::Unknown => {
                prop_assert!(alike && was_unknown && on_unknown == OnUnknown::Reject);
            }
            Claimed::Sealed(_) | Claimed::NotRetained { .. } => {
                prop_assert!(false, "every answer is small, and nobody seals");
            }
        }
        Ok(())
    }

    /// Only the newest fence settles anything; then its holder is done.
    fn settled(&mut self, place: usize, fence: Fence, told: Settled) -> Result<(), TestCaseError> {
        if told == Settled::Applied {
            prop_assert_eq!(fence, self.newest, "a stale holder settled");
        }
        self.holders[place] = Holder::Idle;
        Ok(())
    }
}

fn claim_request(request: u8) -> ClaimRequest {
    ClaimRequest {
        key: RecordKey { tenant: "acme".into(), digest: Digest([1; 32]) },
        lookup: Digest([2; 32]),
        route: "contacts.create".into(),
        fingerprint: Fingerprint(Digest([request; 32])),
        owner: "node-1".into(),
        lease: LEASE,
        retention: RETENTION,
        on_unknown: OnUnknown::Reject,
        replicas: 0,
        on_store_error: OnLedgerError::Closed,
    }
}

/// Each dispatch is answered differently, as an upstream would that does the work twice.
fn answer(status: u16, fence: Fence) -> Answer {
    let status = StatusCode::from_u16(status).expect("a status");
    Answer::Retained(StoredResponse {
        status,
        headers: Vec::new(),
        body: Bytes::from(fence.to_string()),
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let on_unknown = prop::sample::select(vec![OnUnknown::Reject, OnUnknown::Redrive]);
    let act = prop_oneof![
        4 => (0..2_u8, on_unknown).prop_map(|(request, rule)| Act::Claim(request, rule)),
        4 => Just(Act::Send),
        1 => Just(Act::Unsent),
        1 => Just(Act::Renew),
        3 => prop::sample::select(vec![201_u16, 404, 429, 500]).prop_map(Act::Answer),
        1 => Just(Act::Lose),
    ];
    let fate = prop_oneof![
        8 => Just(Fate::Lives),
        1 => Just(Fate::DiesBefore),
        1 => Just(Fate::DiesAfter),
        1 => Just(Fate::Unheard),
    ];
    let waits = vec![
        1_i64,
        1_000_000,
        3_000_000,
        LEASE - 1,
        LEASE,
        LEASE + 1,
        RETENTION,
        RETENTION + LEASE,
    ];
    let step = prop_oneof![
        12 => (0..HOLDERS, act, fate).prop_map(|(holder, act, fate)| Step::By(holder, act, fate)),
        3 => prop::sample::select(waits).prop_map(Step::Wait),
        1 => Just(Step::Clear),
        1 => Just(Step::Purge),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(4_000), ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_dispatch_one_answer_and_one_holder_whatever_crashes(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
    }
}
