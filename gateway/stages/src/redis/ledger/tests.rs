//! Idempotency records on a real Redis, whose URL `TOLLGATE_TEST_REDIS` names.

mod outages;
mod topologies;

use super::*;
use crate::redis::tests::{Database, PATIENT};
use model::idempotency::State;
use model::idempotency::suite::{RETENTION, ROOM, START, answer, request, scoped};

model::ledger_suite!(async {
    let database = Database::take();
    (ledger(&database, ClockOf::Caller, ROOM).await, database)
});

async fn ledger(database: &Database, clock: ClockOf, room: TenantRoom) -> RedisLedger {
    let link = Link::new(database.url(), PATIENT, &Handle::current());
    link.connected().await;
    RedisLedger::new(link, clock, room, &Handle::current())
}

async fn hold(store: &RedisLedger, request: &ClaimRequest, now: i64) -> Fence {
    match store.claim(request, now).await.unwrap() {
        Claimed::Held { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}

async fn complete(store: &RedisLedger, asked: &ClaimRequest, answer: Answer, now: i64) {
    let fence = hold(store, asked, now).await;
    let told = store.complete(&asked.key, fence, answer, 0, now).await.unwrap();
    assert_eq!(told, Settled::Applied);
}

/// Waits until the key is free, which is another task's to do; holds it then.
async fn hold_soon(store: &RedisLedger, request: &ClaimRequest, now: i64) -> Fence {
    let began = std::time::Instant::now();
    loop {
        match store.claim(request, now).await {
            Ok(Claimed::Held { fence, .. }) => return fence,
            told => assert!(began.elapsed() < PATIENT, "{told:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_claim_whose_caller_vanished_is_withdrawn() {
    let database = Database::take();
    let store = ledger(&database, ClockOf::Caller, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    // Polled once, it has sent its command; then nobody waits for the answer.
    for _ in 0..50 {
        let claim = store.claim(&asked, START);
        tokio::select! {
            biased;
            _ = claim => panic!("no answer comes so early"),
            () = std::future::ready(()) => {}
        }
        let fence = hold_soon(&store, &asked, START).await;
        let told = store.release(&asked.key, fence, START).await.unwrap();
        assert_eq!(told, Settled::Applied);
    }
}

/// Waits until the claim is told this.
async fn told_soon(store: &RedisLedger, request: &ClaimRequest, expected: Claimed, now: i64) {
    let began = std::time::Instant::now();
    loop {
        let told = store.claim(request, now).await.unwrap();
        if told == expected {
            return;
        }
        assert!(began.elapsed() < PATIENT, "{told:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_claim_that_comes_after_its_withdrawal_holds_nothing() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Caller, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    let fence = hold(&store, &asked, START).await;
    let nonce = Nonce::random();
    store.withdrawals.begin(asked.key.clone(), nonce, START);
    let began = std::time::Instant::now();
    while !database.keys().contains(&withdrawal(&asked.key.tenant, nonce)) {
        assert!(began.elapsed() < PATIENT);
        // Another task's to do.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Another's claim is not touched.
    let told = store.claim(&asked, START).await.unwrap();
    assert_eq!(told, Claimed::InProgress { retry_after: 5 });
    assert_eq!(store.release(&asked.key, fence, START).await.unwrap(), Settled::Applied);
    let late = store.ask(&asked, nonce, START).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    hold(&store, &asked, START).await;
}

#[tokio::test]
async fn a_redrive_that_is_withdrawn_leaves_the_outcome_unknown() {
    let database = Database::take();
    let store = ledger(&database, ClockOf::Caller, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    let fence = hold(&store, &asked, START).await;
    assert_eq!(store.mark_unknown(&asked.key, fence, START).await.unwrap(), Settled::Applied);
    let redrive = ClaimRequest { on_unknown: OnUnknown::Redrive, ..asked.clone() };
    let nonce = Nonce::random();
    let told = store.ask(&redrive, nonce, START).await.unwrap();
    assert!(matches!(told, Claimed::Redriven { .. }), "{told:?}");
    store.withdrawals.begin(asked.key.clone(), nonce, START);
    told_soon(&store, &asked, Claimed::Unknown, START).await;
    assert_eq!(store.claim(&request("k", 2), START).await.unwrap(), Claimed::Reused);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_taught_again() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    let mut flush = || database.ask::<()>(&["SCRIPT", "FLUSH"]);
    flush();
    let fence = hold(&store, &asked, 0).await;
    flush();
    let told = store.complete(&asked.key, fence, answer("a"), 0, 0).await.unwrap();
    assert_eq!(told, Settled::Applied);
    flush();
    assert!(matches!(store.claim(&asked, 0).await.unwrap(), Claimed::Replay(_)));
}

#[tokio::test]
async fn every_key_ends_and_lies_with_its_tenant() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await;
    let asked = ["held", "done", "lost"].map(|key| request(key, 1));
    let [held, done, lost] = &asked;
    let fence = hold(&store, held, 0).await;
    assert_eq!(store.renew(&held.key, fence, 1_000_000, 0).await.unwrap(), Settled::Applied);
    complete(&store, done, answer("a"), 0).await;
    let fence = hold(&store, lost, 0).await;
    assert_eq!(store.mark_unknown(&lost.key, fence, 0).await.unwrap(), Settled::Applied);
    let keys = database.keys();
    // Three records and what finds them, an answer, the fence, the bytes, how many records there are.
    assert_eq!(keys.len(), 3 + 3 + 1 + 1 + 1 + 1, "{keys:?}");
    for key in keys {
        assert!(key.contains("{acme}"), "{key}");
        let left: i64 = database.ask(&["PTTL", &key]);
        let most = 15 * 86_400_000;
        assert!(0 < left && left <= most, "{key}: {left} ms");
    }
}

#[tokio::test]
async fn what_finds_a_record_lives_as_long_as_the_record_though_its_upstream_takes_an_hour() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await;
    let (hour, minute) = (3_600_000_000, 60_000_000);
    let asked = ClaimRequest { retention: minute, ..request("k", 1) };
    let fence = hold(&store, &asked, 0).await;
    // As the last of its renewals.
    assert_eq!(store.renew(&asked.key, fence, hour, 0).await.unwrap(), Settled::Applied);
    let mut left = |key: &str| database.ask::<i64>(&["PTTL", key]);
    let names = (Names::of(&asked.key).record, index(&asked.key.tenant, asked.lookup));
    let (record, index) = (left(&names.0), left(&names.1));
    assert!(hour / 1_000 < record && record < index, "{record} ms, {index} ms");
}

#[tokio::test]
async fn as_many_records_are_counted_as_there_are() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Caller, TenantRoom::SHARED).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut dice = model::suite::Dice::new(seed);
    let mut now = START;
    for _ in 0..300 {
        // Over many parts of a retention, and before the first record expires.
        now += dice.pick(&[0, 1_000_000, RETENTION / 1_000]);
        let key = format!("k{}", dice.below(8));
        let asked = ClaimRequest { on_unknown: OnUnknown::Redrive, ..request(&key, 1) };
        let nonce = Nonce::random();
        let told = store.ask(&asked, nonce, now).await.unwrap();
        let (Claimed::Held { fence, .. } | Claimed::Redriven { fence, .. }) = told else {
            continue;
        };
        let key = &asked.key;
        let settled = match dice.below(6) {
            0 => store.release(key, fence, now).await,
            1 => store.renew(key, fence, 2 * RETENTION / 64, now).await,
            2 => store.mark_unknown(key, fence, now).await,
            3 => store.complete(key, fence, answer("a"), 0, now).await,
            4 => {
                assert_eq!(store.mark_unknown(key, fence, now).await.unwrap(), Settled::Applied);
                store.clear(key, fence, now).await
            }
            _ => Ok(Settled::Applied),
        };
        assert_eq!(settled.unwrap(), Settled::Applied);
    }
    let there = database.keys().iter().filter(|key| key.starts_with("ik:")).count();
    assert!(there > 0);
    let records = Names::of(&request("k", 1).key).records;
    let counted: Vec<usize> = database.ask(&["HVALS", &records]);
    assert_eq!(counted.iter().sum::<usize>(), there, "{counted:?}");
    assert!(counted.iter().all(|part| *part > 0), "{counted:?}");
}

#[tokio::test]
async fn a_fence_grows_also_when_redis_has_forgotten_it() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    let mut newest = Fence(0);
    for _ in 0..20 {
        let fence = hold(&store, &asked, 0).await;
        assert!(newest < fence, "{newest} {fence}");
        newest = fence;
        database.ask::<()>(&["FLUSHDB"]);
    }
}

#[tokio::test]
async fn a_tenants_answers_take_no_more_than_their_bytes() {
    let database = Database::take();
    let body = "x".repeat(1_000);
    let size = answer(&body).size();
    let room = TenantRoom { answers: 2 * size, ..TenantRoom::SHARED };
    let store = ledger(&database, ClockOf::Caller, room).await;
    let name = |number: u32| format!("k{number}");
    let retained = async |number, now| {
        let asked = request(&name(number), 1);
        complete(&store, &asked, answer(&body), now).await;
        match store.claim(&asked, now).await.unwrap() {
            Claimed::Replay(_) => true,
            Claimed::NotRetained { .. } => false,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([retained(1, START).await, retained(2, START).await], [true, true]);
    assert!(!retained(3, START).await);
    // Another tenant has bytes of its own.
    let other = scoped("globex", "mobile", "contacts.create", "k", 1);
    complete(&store, &other, answer(&body), START).await;
    assert!(matches!(store.claim(&other, START).await.unwrap(), Claimed::Replay(_)));
    // Bytes come back when the answers end, at most a 64th of their time late.
    assert!(!retained(4, START + RETENTION - 1).await);
    let late = START + RETENTION + RETENTION / 64 + 1;
    assert_eq!([retained(5, late).await, retained(6, late).await], [true, true]);
    assert!(!retained(7, late).await);
}

#[tokio::test]
async fn an_answer_that_is_gone_is_not_retained_and_not_garbage() {
    let mut database = Database::take();
    let store = ledger(&database, ClockOf::Caller, TenantRoom::SHARED).await;
    for (key, command) in [("gone", "DEL"), ("torn", "SET"), ("newer", "HSET")] {
        let asked = request(key, 1);
        complete(&store, &asked, answer("a"), START).await;
        let (answer, record) = (
            format!("ia:{{acme}}:{}", asked.key.digest),
            format!("ik:{{acme}}:{}", asked.key.digest),
        );
        match command {
            "DEL" => database.ask::<()>(&["DEL", &answer]),
            "SET" => database.ask::<()>(&["SET", &answer, "torn to pieces"]),
            _ => database.ask::<()>(&["HSET", &record, "v", "2"]),
        }
        let told = store.claim(&asked, START).await;
        match key {
            "gone" => assert!(matches!(told, Ok(Claimed::NotRetained { .. })), "{told:?}"),
            _ => assert!(matches!(told, Err(StoreError::Unreadable(_))), "{told:?}"),
        }
    }
}

#[tokio::test]
async fn the_largest_answer_comes_back_whole() {
    let database = Database::take();
    let store = ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await;
    let asked = request("k", 1);
    let large = answer(&"x".repeat(model::idempotency::RESPONSE_BODY_MAX));
    complete(&store, &asked, large.clone(), 0).await;
    let Claimed::Replay(response) = store.claim(&asked, 0).await.unwrap() else {
        panic!("no replay")
    };
    assert!(Answer::Retained(response) == large);
    let found = store.find(&asked.key.tenant, &Key::parse(b"k").unwrap(), 0).await.unwrap();
    let record = found.records.first().unwrap();
    let State::Done { answer: outline, .. } = record.state else { panic!("{record:?}") };
    assert_eq!(outline, large.outline());
    assert!(store.answer(&asked.key, record.fence, 0).await.unwrap() == Some(large));
}

#[tokio::test]
async fn sixteen_ledgers_give_a_key_to_one() {
    let database = Database::take();
    for round in 0..20 {
        let asked = request(&format!("k{round}"), 1);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (store, asked) =
                (ledger(&database, ClockOf::Redis, TenantRoom::SHARED).await, asked.clone());
            tasks.spawn(async move { store.claim(&asked, 0).await.unwrap() });
        }
        let told = tasks.join_all().await;
        let held = told.iter().filter(|told| matches!(told, Claimed::Held { .. })).count();
        assert_eq!(held, 1, "{told:?}");
    }
}
