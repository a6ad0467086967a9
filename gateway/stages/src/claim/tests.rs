use super::*;
use crate::ledger::{Capacity, MemoryLedger};
use http::{HeaderMap, Method, StatusCode};
use model::document::{IdempotencyMode, OnUnknown};
use model::id::TenantId;
use model::idempotency::suite::answer;
use model::idempotency::{Ending, Found};
use model::units;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// No lease ends while a test waits for something else.
const LONG: Duration = Duration::from_secs(600);
/// A lease that ends while a test waits for it, and is not lost while the machine is busy for a moment.
const SHORT: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);
const DECLINED: [u16; 1] = [429];

fn rules(wait: Duration, on_store_error: OnLedgerError, on_unknown: OnUnknown) -> Idempotency {
    Idempotency {
        mode: IdempotencyMode::Required,
        retention: units::Duration(Duration::from_secs(3_600)),
        wait: units::Duration(wait),
        release_on: DECLINED.to_vec(),
        on_unknown,
        replicas: 0,
        on_store_error,
    }
}

/// What the ledger does from now on.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Works,
    HasTooFewReplicas,
    Refuses,
    Hangs,
}

/// A ledger in process that can be made to fail, and whoever asks it for requests that may be on their way so long.
struct Rig {
    hold: Duration,
    ledger: MemoryLedger,
    clock: Clock,
    waiters: Waiters,
    mood: Mutex<Mood>,
    claims: AtomicUsize,
    renewals: AtomicUsize,
    given_back: AtomicUsize,
}

impl Rig {
    fn new(hold: Duration) -> Arc<Self> {
        Arc::new(Self {
            hold,
            ledger: MemoryLedger::new(Capacity::default()),
            clock: Clock::system(),
            waiters: Waiters::default(),
            mood: Mutex::new(Mood::Works),
            claims: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            given_back: AtomicUsize::new(0),
        })
    }

    /// Returns when somebody has claimed so often.
    async fn has_seen(&self, claims: usize) {
        while self.claims.load(Ordering::Relaxed) < claims {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn answers(&self) -> Result<(), StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Works | Mood::HasTooFewReplicas => Ok(()),
            Mood::Refuses => Err(StoreError::Unavailable("gone".to_owned())),
            Mood::Hangs => std::future::pending().await,
        }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn ask(&self, rules: &Idempotency, body: &[u8]) -> Result<Judged, Reject> {
        let identity = Identity {
            tenant: "acme".into(),
            consumer: "mobile".into(),
            subject: "mobile".to_owned(),
            credential: "k1".to_owned(),
            scopes: Vec::new(),
            claims: Arc::default(),
        };
        let head = Head {
            method: Method::POST,
            path: "/v1/contacts".to_owned(),
            query: None,
            authority: "api.example".to_owned(),
            headers: HeaderMap::new(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let ask = Ask {
            key: Key::parse(b"k").unwrap(),
            identity: &identity,
            route: &"contacts.create".into(),
            version: &"v1".into(),
            head: &head,
            body,
            rules,
            hold: self.hold,
        };
        let owner = Owner::from("node-1");
        let gives_back = || {
            self.given_back.fetch_add(1, Ordering::Relaxed);
        };
        let salt = Salt([7; 32]);
        claim(self, &salt, &owner, &ask, &self.waiters, &self.clock, gives_back).await
    }

    async fn claimed(&self, rules: &Idempotency) -> Claim {
        match self.ask(rules, b"a").await.unwrap() {
            Judged::Claim(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    async fn settles(&self, claim: &Claim, ending: Ending) -> Settled {
        let (disposition, answer) = (claim.disposition(ending, &DECLINED), Some(answer("made")));
        let holder = claim.holder().unwrap();
        holder.settle(self, disposition, answer, self.clock.micros()).await.unwrap()
    }
}

impl Ledger for Rig {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        self.claims.fetch_add(1, Ordering::Relaxed);
        self.answers().await?;
        let mut told = self.ledger.claim(request, now).await?;
        if let Claimed::Held { is_replicated, .. } | Claimed::Redriven { is_replicated, .. } =
            &mut told
        {
            *is_replicated = *self.mood.lock().unwrap() != Mood::HasTooFewReplicas;
        }
        Ok(told)
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.answers().await?;
        self.ledger.renew(key, fence, lease, now).await
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        replicas: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.ledger.complete(key, fence, answer, replicas, now).await
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.ledger.release(key, fence, now).await
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.ledger.mark_unknown(key, fence, now).await
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        self.ledger.clear(key, fence, now).await
    }

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        self.ledger.find(tenant, key, now).await
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        self.ledger.answer(key, fence, now).await
    }
}

fn refused(told: Result<Judged, Reject>) -> (ErrorCode, Option<u64>) {
    let reject = told.expect_err("a refusal");
    (reject.code, reject.retry_after)
}

#[tokio::test]
async fn a_repeat_waits_for_the_first_ones_answer_and_no_longer_than_its_route_says() {
    let rig = Rig::new(LONG);
    let wait = |span| rules(span, OnLedgerError::Closed, OnUnknown::Reject);
    let first = rig.claimed(&wait(SECOND)).await;
    // Nothing comes of it in time.
    let began = Instant::now();
    let told = rig.ask(&wait(SECOND), b"a").await;
    assert_eq!(refused(told), (ErrorCode::IdempotencyInProgress, Some(5)));
    assert!(began.elapsed() >= SECOND);
    let looks = rig.claims.load(Ordering::Relaxed) - 1;
    assert!((2..20).contains(&looks), "it looks again, but not all the time: {looks}");
    // Who may not wait, and who is another request, is told at once.
    rig.claims.store(0, Ordering::Relaxed);
    assert_eq!(
        refused(rig.ask(&wait(Duration::ZERO), b"a").await).0,
        ErrorCode::IdempotencyInProgress
    );
    assert_eq!(refused(rig.ask(&wait(LONG), b"b").await).0, ErrorCode::IdempotencyKeyReused);
    assert_eq!(rig.claims.load(Ordering::Relaxed), 2);
    // Only who waits gives back what it needs to be sent.
    assert_eq!(rig.given_back.load(Ordering::Relaxed), 1);
    let (waiter, again) = (rig.clone(), wait(LONG));
    let waiter = tokio::spawn(async move { waiter.ask(&again, b"a").await });
    rig.has_seen(4).await;
    assert_eq!(rig.settles(&first, Ending::Answered(StatusCode::CREATED)).await, Settled::Applied);
    let told = waiter.await.unwrap().unwrap();
    assert!(matches!(told, Judged::Awaited(_)), "{told:?}");
    let told = rig.ask(&wait(LONG), b"a").await.unwrap();
    assert!(matches!(told, Judged::Replay(_)), "{told:?}");
}

#[tokio::test]
async fn who_waits_is_sent_where_the_first_one_did_nothing() {
    let rules = rules(LONG, OnLedgerError::Closed, OnUnknown::Reject);
    for ending in [Ending::Unsent, Ending::Answered(StatusCode::TOO_MANY_REQUESTS)] {
        let rig = Rig::new(LONG);
        let first = rig.claimed(&rules).await;
        let (waiter, again) = (rig.clone(), rules.clone());
        let waiter = tokio::spawn(async move { waiter.claimed(&again).await });
        rig.has_seen(3).await;
        assert_eq!(rig.settles(&first, ending).await, Settled::Applied);
        let second = waiter.await.unwrap();
        let ((key, fence), (same, larger)) =
            (first.for_upstream().unwrap(), second.for_upstream().unwrap());
        assert_eq!(key, same);
        assert!(larger > fence);
    }
}

#[tokio::test]
async fn a_store_that_breaks_off_while_a_repeat_waits_lets_nobody_through() {
    let rig = Rig::new(LONG);
    let rules = rules(LONG, OnLedgerError::Bypass, OnUnknown::Reject);
    let _first = rig.claimed(&rules).await;
    let (waiter, again) = (rig.clone(), rules.clone());
    let waiter = tokio::spawn(async move { waiter.ask(&again, b"a").await });
    rig.has_seen(3).await;
    rig.is(Mood::Refuses);
    assert_eq!(refused(waiter.await.unwrap()), (ErrorCode::IdempotencyInProgress, Some(1)));
    // Who knows nothing of it goes on without protection, as the route says.
    assert!(rig.claimed(&rules).await.is_bypassed());
}

#[tokio::test]
async fn a_claim_that_too_few_replicas_have_is_held_and_says_that_nothing_is_enforced() {
    let rig = Rig::new(LONG);
    let rules = rules(Duration::ZERO, OnLedgerError::Bypass, OnUnknown::Reject);
    rig.is(Mood::HasTooFewReplicas);
    let claim = rig.claimed(&rules).await;
    assert!(claim.is_bypassed());
    assert_eq!(claim.outcome(), Some("bypassed"));
    assert!(claim.for_upstream().is_some());
    assert_eq!(rig.settles(&claim, Ending::Answered(StatusCode::CREATED)).await, Settled::Applied);
    assert!(matches!(rig.ask(&rules, b"a").await, Ok(Judged::Replay(_))));
    // Where they have it there is nothing to say.
    let rig = Rig::new(LONG);
    assert!(!rig.claimed(&rules).await.is_bypassed());
}

#[tokio::test]
async fn only_so_many_wait_and_only_so_many_of_a_tenant() {
    let rig = Rig::new(LONG);
    let rules = rules(Duration::from_millis(100), OnLedgerError::Closed, OnUnknown::Reject);
    let _first = rig.claimed(&rules).await;
    let takes = |tenant: &str, most: usize| -> Vec<_> {
        (0..most).filter_map(|_| rig.waiters.wait(&tenant.into(), SECOND)).collect()
    };
    let everybody = || -> Vec<_> {
        (0..WAITERS_MAX).flat_map(|tenant| takes(&format!("t{tenant}"), 1)).collect()
    };
    let of_one = || takes("acme", WAITERS_MAX);
    for fill in [&of_one as &dyn Fn() -> Vec<_>, &everybody] {
        let full = fill();
        rig.claims.store(0, Ordering::Relaxed);
        assert_eq!(refused(rig.ask(&rules, b"a").await).0, ErrorCode::IdempotencyInProgress);
        assert_eq!(rig.claims.load(Ordering::Relaxed), 1, "it is told at once");
        drop(full);
        assert_eq!(refused(rig.ask(&rules, b"a").await).0, ErrorCode::IdempotencyInProgress);
        assert!(rig.claims.load(Ordering::Relaxed) > 2, "there is room again");
    }
    // A tenant that has all of its places leaves the others theirs.
    let acme = takes("acme", WAITERS_MAX);
    assert_eq!(acme.len(), WAITERS_PER_TENANT_MAX);
    assert_eq!(takes("globex", WAITERS_MAX).len(), WAITERS_PER_TENANT_MAX);
    drop(acme);
    assert_eq!(takes("acme", WAITERS_MAX).len(), WAITERS_PER_TENANT_MAX);
}

#[tokio::test]
async fn a_clock_that_is_set_back_prolongs_no_lease() {
    const BRIEF: Duration = Duration::from_millis(50);
    let rig = Rig::new(BRIEF);
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Reject);
    let held = rig.claimed(&rules).await;
    let an_hour_ago = rig.clock.micros() - 3_600_000_000;
    assert!(!held.may_send(an_hour_ago + 2 * 3_600_000_000), "nor one that is set forward");
    sleep(BRIEF).await;
    assert!(!held.may_send(an_hour_ago));
}

#[tokio::test]
async fn that_the_first_one_is_at_work_is_no_outcome_of_one_that_was_redriven() {
    let conflict = Ending::Answered(StatusCode::CONFLICT);
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Redrive);
    let rig = Rig::new(LONG);
    let first = rig.claimed(&rules).await;
    assert_eq!(rig.settles(&first, Ending::Lost).await, Settled::Applied);
    for ending in [conflict, Ending::Answered(StatusCode::TOO_MANY_REQUESTS), conflict] {
        let again = rig.claimed(&rules).await;
        assert_eq!(again.outcome(), Some("redriven"));
        assert_eq!(rig.settles(&again, ending).await, Settled::Applied);
    }
    let again = rig.claimed(&rules).await;
    let made = Ending::Answered(StatusCode::CREATED);
    assert_eq!(rig.settles(&again, made).await, Settled::Applied);
    assert!(matches!(rig.ask(&rules, b"a").await, Ok(Judged::Replay(_))));
    // Of the first one it is the outcome.
    let rig = Rig::new(LONG);
    let first = rig.claimed(&rules).await;
    assert_eq!(rig.settles(&first, conflict).await, Settled::Applied);
    assert!(matches!(rig.ask(&rules, b"a").await, Ok(Judged::Replay(_))));
}

#[tokio::test]
async fn a_lease_is_short_and_renewed_while_the_upstream_works() {
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Reject);
    let (long, rig) = (Rig::new(LONG), Rig::new(SHORT));
    let held = long.claimed(&rules).await;
    assert!(!held.may_send(long.clock.micros() + micros(LEASE)));
    let held = rig.claimed(&rules).await;
    timeout(2 * SHORT, held.keep(&*rig, &rig.clock)).await.unwrap_err();
    assert!(held.may_send(rig.clock.micros()));
    assert_eq!(refused(rig.ask(&rules, b"a").await).0, ErrorCode::IdempotencyInProgress);
    // Nobody renews it any more, and it ends.
    sleep(SHORT).await;
    assert!(!held.may_send(rig.clock.micros()));
    assert_eq!(refused(rig.ask(&rules, b"a").await).0, ErrorCode::IdempotencyOutcomeUnknown);
}

#[tokio::test]
async fn a_lease_for_which_the_store_took_its_time_is_renewed_at_once() {
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Reject);
    let rig = Rig::new(SHORT);
    let held = rig.claimed(&rules).await;
    // Longer than one renewal is from the next: the answer took so long.
    sleep(SHORT / RENEWALS).await;
    timeout(SHORT / 10, held.keep(&*rig, &rig.clock)).await.unwrap_err();
    assert_eq!(rig.renewals.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_outcome_that_waits_to_be_told_holds_its_key_until_it_is() {
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Redrive);
    let rig = Rig::new(SHORT);
    let held = rig.claimed(&rules).await;
    let (holder, began) = (held.holder().unwrap(), Instant::now());
    while began.elapsed() < SHORT * 3 / 2 {
        holder.renew(&*rig, &rig.clock).await;
        sleep(Duration::from_millis(20)).await;
    }
    let renewals = rig.renewals.load(Ordering::Relaxed);
    assert!((1..=6).contains(&renewals), "when it is time to, and not before: {renewals}");
    assert_eq!(refused(rig.ask(&rules, b"a").await).0, ErrorCode::IdempotencyInProgress);
    assert_eq!(rig.settles(&held, Ending::Answered(StatusCode::CREATED)).await, Settled::Applied);
    assert!(matches!(rig.ask(&rules, b"a").await, Ok(Judged::Replay(_))));
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_and_a_lost_lease_is_not() {
    let rig = Rig::new(SHORT);
    let rules = rules(Duration::ZERO, OnLedgerError::Closed, OnUnknown::Redrive);
    let held = Arc::new(rig.claimed(&rules).await);
    let (keeper, kept) = (rig.clone(), held.clone());
    let keeper = tokio::spawn(async move { kept.keep(&*keeper, &keeper.clock).await });
    for mood in [Mood::Refuses, Mood::Hangs] {
        rig.is(mood);
        // A little longer than one renewal is from the next, so that one fails; and then longer than the lease.
        sleep(SHORT * 7 / 20).await;
        rig.is(Mood::Works);
        sleep(SHORT).await;
        assert!(held.may_send(rig.clock.micros()));
    }
    rig.is(Mood::Refuses);
    sleep(SHORT).await;
    assert!(!held.may_send(rig.clock.micros()));
    // Somebody else is let through; the first one's outcome comes too late.
    rig.is(Mood::Works);
    let second = rig.claimed(&rules).await;
    assert_eq!(second.outcome(), Some("redriven"));
    rig.renewals.store(0, Ordering::Relaxed);
    sleep(SHORT / 2).await;
    assert!(rig.renewals.load(Ordering::Relaxed) <= 1, "a lost lease is given up");
    assert_eq!(rig.settles(&held, Ending::Answered(StatusCode::CREATED)).await, Settled::Stale);
    keeper.abort();
}
