//! What every ledger does, as claims: each takes a fresh store. [`ledger_suite!`](crate::ledger_suite) makes a test of
//! each. [`agrees_with_the_machine`] compares long random histories with [`record`].

use super::record::{self, Change, Record};
use super::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Fingerprint, Key, LOCATION_MAX, Ledger, Outline,
    Owner, RECORD_BYTES, Scope, SealedResponse, Settled, State, StoredResponse, TenantRoom,
};
use crate::document::{OnLedgerError, OnUnknown};
use crate::port::StoreError;
use crate::suite::Dice;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use std::collections::HashMap;

/// When the claims begin: 2027-01-15T08:00Z, in microseconds since the epoch.
pub const START: i64 = 1_800_000_000_000_000;
/// How long the suite's leases last, in microseconds.
pub const LEASE: i64 = 40 * SECOND;
/// How long the suite's outcomes are kept, in microseconds.
pub const RETENTION: i64 = 86_400 * SECOND;
/// How much the suite's stores keep of one tenant.
pub const ROOM: TenantRoom = TenantRoom { answers: 256 << 10, all: 320 << 10 };
const SECOND: i64 = 1_000_000;

/// Makes a test of each claim. The expression is a future of a fresh store, whose bound is [`ROOM`], and of what must live as long as it; tests
/// run on tokio. `in turn, of …`: the claims one after another, within a test.
#[macro_export]
macro_rules! ledger_suite {
    (in turn, of $fresh:expr) => {
        $crate::ledger_suite!(@all in_turn $fresh);
    };
    (@all $how:ident $fresh:expr) => {
        $crate::ledger_suite!(@$how $fresh;
            the_first_claim_holds_and_the_second_waits,
            a_repeat_is_answered_byte_for_byte,
            another_request_under_the_key_is_refused,
            a_released_key_is_free,
            a_stale_holder_settles_nothing,
            a_lapsed_lease_is_unknown_until_somebody_knows,
            a_renewed_lease_goes_on,
            what_was_lost_is_unknown_until_an_operator_clears_it,
            an_unknown_outcome_is_redriven_where_the_route_says_so,
            a_sealed_answer_comes_back_as_it_was_kept,
            the_first_answer_stays,
            a_large_answer_leaves_its_status_and_location,
            an_outcome_is_kept_for_its_retention,
            keys_of_different_scopes_do_not_meet,
            beyond_its_bytes_a_tenants_answers_are_not_retained,
            what_has_no_room_leaves_its_location_while_there_is_room_for_that,
            beyond_its_records_a_tenant_claims_nothing_new,
            operators_find_a_tenants_records,
            agrees_with_the_machine,
        );
    };
    ($fresh:expr) => {
        $crate::ledger_suite!(@all claims $fresh);

        #[::tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn of_a_hundred_at_once_one_holds() {
            let (store, _keep) = $fresh.await;
            let store = ::std::sync::Arc::new(store);
            let mut tasks = ::tokio::task::JoinSet::new();
            for _ in 0..100 {
                let store = ::std::sync::Arc::clone(&store);
                tasks.spawn(async move { $crate::idempotency::suite::one_of_many(&*store).await });
            }
            let held = tasks.join_all().await.into_iter().filter(|held| *held).count();
            assert_eq!(held, 1);
        }
    };
    (@in_turn $fresh:expr; $($claim:ident,)*) => { $(
        println!(stringify!($claim));
        let (store, _keep) = $fresh.await;
        $crate::idempotency::suite::$claim(&store).await;
    )* };
    (@claims $fresh:expr; $($claim:ident,)*) => { $(
        #[::tokio::test]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::idempotency::suite::$claim(&store).await;
        }
    )* };
}

/// A claim of tenant `acme` for this key and request.
pub fn request(key: &str, fingerprint: u8) -> ClaimRequest {
    scoped("acme", "mobile", "contacts.create", key, fingerprint)
}

/// A claim of any scope.
pub fn scoped(
    tenant: &str,
    subject: &str,
    route: &str,
    key: &str,
    fingerprint: u8,
) -> ClaimRequest {
    let (tenant, route, key) = (tenant.into(), route.into(), parse(key));
    let scope = Scope { tenant: &tenant, subject, route: &route, key: &key };
    ClaimRequest {
        key: scope.record_key(),
        lookup: Digest::of_lookup(&tenant, &key),
        fingerprint: Fingerprint(Digest([fingerprint; 32])),
        owner: Owner::from("node-1"),
        lease: LEASE,
        retention: RETENTION,
        on_unknown: OnUnknown::Reject,
        replicas: 0,
        on_store_error: OnLedgerError::Closed,
        route,
    }
}

/// An answer with this body, some headers in order, and one that is not text.
pub fn answer(body: &str) -> Answer {
    let headers =
        [("content-type", "application/json"), ("link", "<b>"), ("x-a", ""), ("link", "<a>")];
    let mut headers: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let bytes = HeaderValue::from_bytes(b"\xfe\xff").expect("a value of opaque bytes");
    headers.push((HeaderName::from_static("x-bytes"), bytes));
    let body = Bytes::copy_from_slice(body.as_bytes());
    Answer::Retained(StoredResponse { status: StatusCode::CREATED, headers, body })
}

/// 409 while the first is on its way.
pub async fn the_first_claim_holds_and_the_second_waits(store: &impl Ledger) {
    let fence = hold(store, &request("k", 1), START).await;
    assert!(fence.0 > 0);
    for (now, retry_after) in [(START, 5), (START + LEASE - 2 * SECOND, 2), (START + LEASE - 1, 1)]
    {
        assert_eq!(claim(store, &request("k", 1), now).await, Claimed::InProgress { retry_after });
    }
}

/// Status, headers in order, bytes that are no text, and the body.
pub async fn a_repeat_is_answered_byte_for_byte(store: &impl Ledger) {
    for (key, body) in [("k", "{\"id\":7}"), ("empty", "")] {
        let asked = request(key, 1);
        let fence = hold(store, &asked, START).await;
        let told = done(store.complete(&asked.key, fence, answer(body), 0, START).await);
        assert_eq!(told, Settled::Applied);
        for now in [START, START + LEASE, START + RETENTION - 1] {
            let Claimed::Replay(response) = claim(store, &asked, now).await else {
                unreachable!("no replay at {now}")
            };
            assert_eq!(Answer::Retained(response), answer(body));
        }
    }
}

/// 422, whatever became of the first.
pub async fn another_request_under_the_key_is_refused(store: &impl Ledger) {
    for key in ["held", "done", "lost"] {
        let asked = request(key, 1);
        let fence = hold(store, &asked, START).await;
        match key {
            "done" => drop(done(store.complete(&asked.key, fence, answer("a"), 0, START).await)),
            "lost" => drop(done(store.mark_unknown(&asked.key, fence, START).await)),
            _ => {}
        }
        assert_eq!(claim(store, &request(key, 2), START).await, Claimed::Reused, "{key}");
    }
}

/// A request that provably was not sent leaves no trace, and the next holder has a larger fence.
pub async fn a_released_key_is_free(store: &impl Ledger) {
    let mut fences = Vec::new();
    for fingerprint in [1, 2, 1] {
        let asked = request("k", fingerprint);
        let fence = hold(store, &asked, START).await;
        assert_eq!(done(store.release(&asked.key, fence, START).await), Settled::Applied);
        assert_eq!(done(store.release(&asked.key, fence, START).await), Settled::Stale);
        fences.push(fence);
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

/// Whatever a holder tries whose key has gone to another.
pub async fn a_stale_holder_settles_nothing(store: &impl Ledger) {
    let asked = request("k", 1);
    let stale = hold(store, &asked, START).await;
    assert_eq!(done(store.release(&asked.key, stale, START).await), Settled::Applied);
    let fence = hold(store, &asked, START).await;
    assert!(fence > stale);
    for told in [
        store.complete(&asked.key, stale, answer("stale"), 0, START).await,
        store.renew(&asked.key, stale, LEASE, START).await,
        store.mark_unknown(&asked.key, stale, START).await,
        store.release(&asked.key, stale, START).await,
        store.clear(&asked.key, stale, START).await,
        store.complete(&request("other", 1).key, fence, answer("other"), 0, START).await,
    ] {
        assert_eq!(done(told), Settled::Stale);
    }
    assert_eq!(
        done(store.complete(&asked.key, fence, answer("a"), 0, START).await),
        Settled::Applied
    );
    let Claimed::Replay(response) = claim(store, &asked, START).await else {
        unreachable!("no replay")
    };
    assert_eq!(Answer::Retained(response), answer("a"));
}

/// The holder died, or was only slow.
pub async fn a_lapsed_lease_is_unknown_until_somebody_knows(store: &impl Ledger) {
    let asked = request("k", 1);
    let fence = hold(store, &asked, START).await;
    let end = START + LEASE;
    assert!(matches!(claim(store, &asked, end - 1).await, Claimed::InProgress { .. }));
    assert_eq!(claim(store, &asked, end).await, Claimed::Unknown);
    assert_eq!(done(store.renew(&asked.key, fence, LEASE, end).await), Settled::Stale);
    assert_eq!(
        done(store.complete(&asked.key, fence, answer("a"), 0, end).await),
        Settled::Applied
    );
    assert!(matches!(claim(store, &asked, end).await, Claimed::Replay(_)));
}

/// A slow upstream.
pub async fn a_renewed_lease_goes_on(store: &impl Ledger) {
    let asked = request("k", 1);
    let fence = hold(store, &asked, START).await;
    let mut now = START;
    for _ in 0..5 {
        now += LEASE / 3;
        assert_eq!(done(store.renew(&asked.key, fence, LEASE, now).await), Settled::Applied);
    }
    let end = now + LEASE;
    assert!(matches!(claim(store, &asked, end - 1).await, Claimed::InProgress { .. }));
    assert_eq!(claim(store, &asked, end).await, Claimed::Unknown);
}

/// 409 until it is cleared; a key in use or answered can't be cleared.
pub async fn what_was_lost_is_unknown_until_an_operator_clears_it(store: &impl Ledger) {
    let asked = request("k", 1);
    let fence = hold(store, &asked, START).await;
    assert_eq!(done(store.clear(&asked.key, fence, START).await), Settled::Stale);
    assert_eq!(done(store.mark_unknown(&asked.key, fence, START).await), Settled::Applied);
    assert_eq!(done(store.mark_unknown(&asked.key, fence, START).await), Settled::Already);
    assert_eq!(claim(store, &asked, START + RETENTION - 1).await, Claimed::Unknown);
    assert_eq!(done(store.clear(&asked.key, fence, START).await), Settled::Applied);
    let next = hold(store, &asked, START).await;
    assert_eq!(
        done(store.complete(&asked.key, fence, answer("late"), 0, START).await),
        Settled::Stale
    );
    assert_eq!(
        done(store.complete(&asked.key, next, answer("a"), 0, START).await),
        Settled::Applied
    );
    assert_eq!(done(store.clear(&asked.key, next, START).await), Settled::Stale);
}

/// The same request once more, under a larger fence; and it stays in doubt what the first one did.
pub async fn an_unknown_outcome_is_redriven_where_the_route_says_so(store: &impl Ledger) {
    for (key, now) in [("lapsed", START + LEASE), ("lost", START)] {
        let asked = request(key, 1);
        let redrive = ClaimRequest { on_unknown: OnUnknown::Redrive, ..asked.clone() };
        let first = hold(store, &asked, START).await;
        if key == "lost" {
            assert_eq!(done(store.mark_unknown(&asked.key, first, now).await), Settled::Applied);
        }
        let other = ClaimRequest { on_unknown: OnUnknown::Redrive, ..request(key, 2) };
        assert_eq!(claim(store, &other, now).await, Claimed::Reused);
        assert_eq!(claim(store, &asked, now).await, Claimed::Unknown);
        let second = redriven(store, &redrive, now).await;
        assert!(second > first);
        assert!(matches!(claim(store, &redrive, now).await, Claimed::InProgress { .. }));
        let late = store.complete(&asked.key, first, answer("late"), 0, now).await;
        assert_eq!(done(late), Settled::Stale);
        // That the second did nothing says nothing of the first.
        assert_eq!(done(store.release(&asked.key, second, now).await), Settled::Applied);
        assert_eq!(claim(store, &asked, now).await, Claimed::Unknown);
        assert_eq!(claim(store, &other, now).await, Claimed::Reused);
        let third = redriven(store, &redrive, now).await;
        assert!(third > second);
        let told = store.complete(&asked.key, third, answer("a"), 0, now).await;
        assert_eq!(done(told), Settled::Applied);
        assert!(matches!(claim(store, &redrive, now).await, Claimed::Replay(_)));
    }
}

async fn redriven(store: &impl Ledger, request: &ClaimRequest, now: i64) -> Fence {
    match claim(store, request, now).await {
        Claimed::Redriven { fence, lease_until, is_replicated: true } => {
            assert_eq!(lease_until, now + request.lease);
            fence
        }
        other => unreachable!("not redriven: {other:?}"),
    }
}

/// A store neither seals nor opens.
pub async fn a_sealed_answer_comes_back_as_it_was_kept(store: &impl Ledger) {
    let status = StatusCode::ACCEPTED;
    let (all, place) = (Bytes::from_static(b"\x00\xffsealed"), Bytes::from_static(b"\xffplace"));
    for (key, bytes, location) in [
        ("all", Some(all.clone()), Some(place.clone())),
        ("placeless", Some(all), None),
        ("place", None, Some(place)),
    ] {
        let asked = request(key, 1);
        let fence = hold(store, &asked, START).await;
        let sealed = SealedResponse { status, bytes, location };
        let kept = Answer::Sealed(sealed.clone());
        let told = store.complete(&asked.key, fence, kept.clone(), 0, START).await;
        assert_eq!(done(told), Settled::Applied);
        assert_eq!(claim(store, &asked, START).await, Claimed::Sealed(sealed));
        assert_eq!(stored(store, &asked, fence, START).await, Some(kept.clone()));
        let found = find(store, "acme", key, START).await.pop().expect("a record");
        let State::Done { stored_at, answer } = found.state else { unreachable!("{found:?}") };
        assert_eq!((stored_at, answer.status), (START, status));
        assert_eq!(answer.is_retained, kept.outline().is_retained, "{key}");
        assert!(answer.size >= kept.size() / 2, "{answer:?}");
    }
}

/// A completion that is repeated, because its first answer was lost on the way.
pub async fn the_first_answer_stays(store: &impl Ledger) {
    let asked = request("k", 1);
    let fence = hold(store, &asked, START).await;
    assert_eq!(
        done(store.complete(&asked.key, fence, answer("a"), 0, START).await),
        Settled::Applied
    );
    assert_eq!(
        done(store.complete(&asked.key, fence, answer("b"), 0, START).await),
        Settled::Already
    );
    assert_eq!(done(store.release(&asked.key, fence, START).await), Settled::Stale);
    assert_eq!(done(store.mark_unknown(&asked.key, fence, START).await), Settled::Stale);
    let Claimed::Replay(response) = claim(store, &asked, START).await else {
        unreachable!("no replay")
    };
    assert_eq!(Answer::Retained(response), answer("a"));
}

/// 409 with what is left of the answer.
pub async fn a_large_answer_leaves_its_status_and_location(store: &impl Ledger) {
    let place = HeaderValue::from_static("/v1/contacts/7");
    for (key, location) in [("with", Some(place)), ("without", None)] {
        let asked = request(key, 1);
        let fence = hold(store, &asked, START).await;
        let status = StatusCode::CREATED;
        let answer = Answer::NotRetained { status, location: location.clone() };
        assert_eq!(
            done(store.complete(&asked.key, fence, answer, 0, START).await),
            Settled::Applied
        );
        let told = claim(store, &asked, START).await;
        assert_eq!(told, Claimed::NotRetained { status, location });
    }
}

/// From the answer on, to the microsecond.
pub async fn an_outcome_is_kept_for_its_retention(store: &impl Ledger) {
    let asked = request("k", 1);
    let first = hold(store, &asked, START).await;
    let then = START + SECOND;
    assert_eq!(
        done(store.complete(&asked.key, first, answer("a"), 0, then).await),
        Settled::Applied
    );
    assert!(matches!(claim(store, &asked, then + RETENTION - 1).await, Claimed::Replay(_)));
    let late = store.complete(&asked.key, first, answer("b"), 0, then + RETENTION).await;
    assert_eq!(done(late), Settled::Stale);
    assert!(hold(store, &request("k", 2), then + RETENTION).await > first);
}

/// The same key of another tenant, subject or route.
pub async fn keys_of_different_scopes_do_not_meet(store: &impl Ledger) {
    for asked in [
        scoped("acme", "mobile", "contacts.create", "k", 1),
        scoped("globex", "mobile", "contacts.create", "k", 1),
        scoped("acme", "web", "contacts.create", "k", 1),
        scoped("acme", "mobile", "contacts.update", "k", 1),
        scoped("acme", "mobile", "contacts.create", "l", 1),
    ] {
        hold(store, &asked, START).await;
    }
}

/// As many as fit, then none as large; what is kept stays, and others have a bound of their own.
pub async fn beyond_its_bytes_a_tenants_answers_are_not_retained(store: &impl Ledger) {
    let body = "x".repeat(ROOM.answers / 4 - 1_000);
    let kept = async |asked: &ClaimRequest, body: &str| {
        let fence = hold(store, asked, START).await;
        let told = store.complete(&asked.key, fence, answer(body), 0, START).await;
        assert_eq!(done(told), Settled::Applied);
        match claim(store, asked, START).await {
            Claimed::Replay(response) => {
                assert_eq!(Answer::Retained(response), answer(body));
                true
            }
            Claimed::NotRetained { status, .. } => {
                assert_eq!(status, StatusCode::CREATED);
                false
            }
            other => unreachable!("{other:?}"),
        }
    };
    for key in 0..6 {
        assert_eq!(kept(&request(&format!("k{key}"), 1), &body).await, key < 4, "{key}");
    }
    assert!(kept(&request("small", 1), "a").await);
    assert!(kept(&scoped("globex", "mobile", "contacts.create", "k", 1), &body).await);
    let first = claim(store, &request("k0", 1), START).await;
    assert!(matches!(first, Claimed::Replay(_)), "{first:?}");
}

/// Of answers in clear, and of sealed ones.
pub async fn what_has_no_room_leaves_its_location_while_there_is_room_for_that(
    store: &impl Ledger,
) {
    let status = StatusCode::CREATED;
    let place = HeaderValue::from_static("/v1/contacts/7");
    let left = async |key: String, answer: Answer| {
        let asked = request(&key, 1);
        let fence = hold(store, &asked, START).await;
        let told = store.complete(&asked.key, fence, answer, 0, START).await;
        assert_eq!(done(told), Settled::Applied);
        stored(store, &asked, fence, START).await.expect("an answer")
    };
    let too_large = Bytes::from(vec![b'x'; ROOM.answers]);
    let sealed = SealedResponse {
        status,
        bytes: Some(too_large.clone()),
        location: Some(Bytes::from_static(b"place")),
    };
    let expected = Answer::Sealed(SealedResponse { bytes: None, ..sealed.clone() });
    assert_eq!(left("sealed".to_owned(), Answer::Sealed(sealed)).await, expected);
    let clear = StoredResponse {
        status,
        headers: vec![(http::header::LOCATION, place.clone())],
        body: too_large,
    };
    let expected = Answer::NotRetained { status, location: Some(place) };
    assert_eq!(left("clear".to_owned(), Answer::Retained(clear)).await, expected);
    // Each takes room, and the last ones find none.
    let long = HeaderValue::from_bytes(&[b'/'; LOCATION_MAX]).expect("a header's value");
    let (mut kept, all) = (0, ROOM.answers / LOCATION_MAX + 1);
    for number in 0..all {
        let large = Answer::NotRetained { status, location: Some(long.clone()) };
        let told = left(format!("l{number}"), large).await;
        let Answer::NotRetained { location, .. } = told else { unreachable!("{told:?}") };
        kept += usize::from(location.is_some());
    }
    assert_eq!(kept, all - 2);
}

/// Each takes room beside its answer, of which a released one leaves nothing; others have a bound of their own.
pub async fn beyond_its_records_a_tenant_claims_nothing_new(store: &impl Ledger) {
    let body = "x".repeat(10 * RECORD_BYTES - 1_000);
    let of = |number: usize| request(&format!("k{number}"), 1);
    let first = hold(store, &of(0), START).await;
    let told = store.complete(&of(0).key, first, answer(&body), 0, START).await;
    assert_eq!(done(told), Settled::Applied);
    let (mut held, mut fence) = (1, first);
    let full = loop {
        match store.claim(&of(held), START).await {
            Ok(Claimed::Held { fence: newest, .. }) => (held, fence) = (held + 1, newest),
            told => break told,
        }
        assert!(held <= ROOM.all / RECORD_BYTES, "no bound");
    };
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(held, ROOM.all / RECORD_BYTES - 10, "the answer takes some of it");
    assert!(matches!(claim(store, &of(0), START).await, Claimed::Replay(_)));
    assert!(matches!(claim(store, &of(1), START).await, Claimed::InProgress { .. }));
    hold(store, &scoped("globex", "mobile", "contacts.create", "k", 1), START).await;
    // Renewals and redrives take no more room.
    let lapsed = of(held - 1);
    assert_eq!(done(store.renew(&lapsed.key, fence, 2 * LEASE, START).await), Settled::Applied);
    let redrive = ClaimRequest { on_unknown: OnUnknown::Redrive, ..of(1) };
    redriven(store, &redrive, START + LEASE).await;
    // And one that is gone leaves room for one.
    assert_eq!(done(store.release(&lapsed.key, fence, START).await), Settled::Applied);
    let fence = hold(store, &of(held), START).await;
    let full = store.claim(&lapsed, START).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(done(store.mark_unknown(&of(held).key, fence, START).await), Settled::Applied);
    assert_eq!(done(store.clear(&of(held).key, fence, START).await), Settled::Applied);
    hold(store, &lapsed, START).await;
}

/// `GET /v1/idempotency/{tenant}/{key}`.
pub async fn operators_find_a_tenants_records(store: &impl Ledger) {
    let requests = [
        scoped("acme", "mobile", "contacts.create", "k", 1),
        scoped("acme", "web", "contacts.update", "k", 1),
        scoped("acme", "mobile", "contacts.create", "l", 1),
        scoped("globex", "mobile", "contacts.create", "k", 1),
    ];
    let mut fences = Vec::new();
    for (asked, now) in requests.iter().zip(START..) {
        fences.push(hold(store, asked, now).await);
    }
    let [first, second, ..] = &requests;
    let mut found = find(store, "acme", "k", START + 10).await;
    let keys: Vec<_> = found.iter().map(|record| &record.key).collect();
    assert_eq!(keys, [&second.key, &first.key], "newest first");
    let record = found.pop().expect("two records");
    assert_eq!(Some(&record.fence), fences.first());
    assert_eq!((record.owner, record.route), (first.owner.clone(), first.route.clone()));
    assert_eq!((record.claimed_at, record.retention), (START, RETENTION));
    assert_eq!(record.state, State::Dispatched { lease_until: START + LEASE });
    let told = store.complete(&first.key, record.fence, answer("a"), 0, START).await;
    assert_eq!(done(told), Settled::Applied);
    assert_eq!(stored(store, first, record.fence, START).await, Some(answer("a")));
    assert_eq!(stored(store, first, Fence(record.fence.0 - 1), START).await, None, "another's");
    assert_eq!(stored(store, first, record.fence, START + RETENTION).await, None, "expired");
    assert_eq!(stored(store, second, record.fence, START).await, None, "not answered");
    assert!(find(store, "acme", "m", START).await.is_empty());
    assert!(find(store, "acme", "k", START + LEASE + RETENTION + 10).await.is_empty());
}

/// How many histories are compared, and how long each is.
const HISTORIES: u64 = 40;
const STEPS: u64 = 80;

/// Long random histories of holders that come, go, and come late; every answer is that of [`record`].
pub async fn agrees_with_the_machine(store: &impl Ledger) {
    let mut newest = Fence(0);
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let mut records: HashMap<&str, Record> = HashMap::new();
        let mut now = START;
        let tenant = format!("history-{seed}");
        for step in 0..STEPS {
            now += dice.pick(&[0, 1, SECOND, LEASE / 2, LEASE, RETENTION / 3]);
            let key = dice.pick(&["k", "l"]);
            let fingerprint = dice.pick(&[1, 1, 1, 2]);
            let asked = ClaimRequest {
                on_unknown: dice.pick(&[OnUnknown::Reject, OnUnknown::Redrive]),
                ..scoped(&tenant, "mobile", "contacts.create", key, fingerprint)
            };
            let place = format!("seed {seed}, step {step}, {key}");
            let current = records.get(key);
            let change = if dice.below(3) == 0 {
                let told = claim(store, &asked, now).await;
                let next = match told {
                    Claimed::Held { fence, .. } | Claimed::Redriven { fence, .. } => fence,
                    _ => Fence(newest.0 + 1),
                };
                let (expected, change) = record::claim(current, &asked, next, now);
                assert_eq!(told, expected, "{place}");
                if let Claimed::Held { fence, .. } | Claimed::Redriven { fence, .. } = told {
                    assert!(fence > newest, "{place}");
                    newest = fence;
                }
                change
            } else {
                let held = current.map_or(newest, |record| record.fence);
                let fence = dice.pick(&[held, held, held, Fence(held.0 - 1), newest]);
                let deed = dice.below(6);
                let (told, expected) =
                    settle_both(store, current, &asked, fence, deed, &place, now).await;
                assert_eq!(told.expect("the store answers"), expected.0, "{place}, deed {deed}");
                expected.1
            };
            match change {
                Change::Nothing => {}
                Change::Put(record) => drop(records.insert(key, *record)),
                Change::Delete => drop(records.remove(key)),
            }
        }
    }
}

/// What the store and the machine say to one of the settling calls.
async fn settle_both(
    store: &impl Ledger,
    current: Option<&Record>,
    asked: &ClaimRequest,
    fence: Fence,
    deed: u64,
    body: &str,
    now: i64,
) -> (Result<Settled, StoreError>, (Settled, Change)) {
    let key = &asked.key;
    match deed {
        0 => (store.renew(key, fence, LEASE, now).await, record::renew(current, fence, LEASE, now)),
        1 => (store.release(key, fence, now).await, record::release(current, fence, now)),
        2 => (store.mark_unknown(key, fence, now).await, record::mark_unknown(current, fence, now)),
        3 => (store.clear(key, fence, now).await, record::clear(current, fence, now)),
        _ => (
            store.complete(key, fence, answer(body), 0, now).await,
            record::complete(current, fence, answer(body), now),
        ),
    }
}

/// One of many claims at the same moment; whether it holds.
pub async fn one_of_many(store: &impl Ledger) -> bool {
    match claim(store, &request("k", 1), START).await {
        Claimed::Held { .. } => true,
        Claimed::InProgress { .. } => false,
        other => unreachable!("{other:?}"),
    }
}

fn parse(key: &str) -> Key {
    Key::parse(key.as_bytes()).expect("a key of the suite")
}

async fn claim(store: &impl Ledger, request: &ClaimRequest, now: i64) -> Claimed {
    store.claim(request, now).await.expect("the store answers")
}

async fn hold(store: &impl Ledger, request: &ClaimRequest, now: i64) -> Fence {
    match claim(store, request, now).await {
        Claimed::Held { fence, lease_until, is_replicated: true } => {
            assert_eq!(lease_until, now + request.lease);
            fence
        }
        other => unreachable!("not held: {other:?}"),
    }
}

async fn find(store: &impl Ledger, tenant: &str, key: &str, now: i64) -> Vec<Record<Outline>> {
    let found = store.find(&tenant.into(), &parse(key), now).await.expect("the store answers");
    assert_eq!(found.now, now, "the clock is the caller's");
    found.records
}

async fn stored(
    store: &impl Ledger,
    request: &ClaimRequest,
    fence: Fence,
    now: i64,
) -> Option<Answer> {
    store.answer(&request.key, fence, now).await.expect("the store answers")
}

fn done(told: Result<Settled, StoreError>) -> Settled {
    told.expect("the store answers")
}
