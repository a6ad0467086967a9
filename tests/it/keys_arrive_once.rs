//! Neither copies at the same instant nor an upstream that is killed make a second arrival.

use crate::harness::document;
use crate::harness::document::ACME;
use crate::harness::journal::Journal;
use crate::harness::ports::{free, local};
use crate::harness::sharing::Sharing;
use crate::harness::stalling::{STAGE, STAGES, Stalling};
use crate::harness::{
    Answer, Latch, Node, Random, Reply, Upstream, eventually, pattern, sha256, sized,
};
use tokio::task::JoinSet;

const PATH: &str = "/v1/contacts";
const ADA: &str = r#"{"first_name":"Ada"}"#;
/// As `cargo test` names it.
const UPSTREAM_IS_KILLED: &str =
    "keys_arrive_once::whatever_an_upstream_was_doing_when_it_was_killed_nothing_arrives_again";

/// How many come at once.
const COPIES: usize = 100;

/// So many at once under one key, half of them at each gateway.
fn copies(sharing: &Sharing, key: &str) -> JoinSet<Answer> {
    let mut copies = JoinSet::new();
    for at in 0..COPIES {
        let gateway = sharing.gateways()[at % 2];
        let ask = gateway.post(PATH).key(ACME).idempotency_key(key).body(ADA).send();
        copies.spawn(ask);
    }
    copies
}

/// What the copies were told. Those that a store in a hurry refused were told nothing: on a machine that is as busy as one
/// that runs all tests, that may be some of them.
fn told(mut answers: Vec<Answer>) -> Vec<Answer> {
    answers.retain(|answer| answer.code() != "DEPENDENCY_UNAVAILABLE");
    assert!(answers.len() >= COPIES / 2, "only {} of {COPIES} were told anything", answers.len());
    answers
}

/// Exactly one was sent; the others have its answer, or know that it is on its way.
fn one_was_sent(answers: &[Answer]) {
    let (done, early): (Vec<&Answer>, Vec<&Answer>) =
        answers.iter().partition(|answer| answer.status == 201);
    println!("{} answered, {} told to wait", done.len(), early.len());
    let sent = done.iter().filter(|answer| !answer.is_replay()).count();
    assert_eq!(sent, 1);
    for answer in done {
        assert_eq!(sha256(&answer.body), sha256(pattern(100_000)));
    }
    for answer in early {
        answer.refuses(409, "IDEMPOTENCY_IN_PROGRESS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_copies_at_two_gateways_one_arrives() {
    let upstream = Upstream::start().await;
    let sharing = Sharing::on_redis(&document::standard(upstream.address)).await;
    let answer = || Reply::of(201).body(pattern(100_000));
    // Some come while it is on its way, others after it.
    upstream.does(move |_| answer());
    one_was_sent(&told(copies(&sharing, "at-once").join_all().await));
    upstream.only_arrival();
    // All come while it is on its way.
    let latch = Latch::closed();
    let held = latch.clone();
    upstream.does(move |_| answer().held_by(&held));
    let mut running = copies(&sharing, "held");
    let mut answers = Vec::new();
    while running.len() > 1 {
        answers.push(running.join_next().await.unwrap().unwrap());
    }
    latch.open();
    answers.extend(running.join_all().await);
    one_was_sent(&told(answers));
    assert_eq!(upstream.arrivals().len(), 2);
    for gateway in sharing.gateways() {
        for key in ["at-once", "held"] {
            let again = gateway.post(PATH).key(ACME).idempotency_key(key).body(ADA).send().await;
            assert!(again.is(201).is_replay());
            assert_eq!(sha256(&again.body), sha256(pattern(100_000)));
        }
    }
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_upstream_was_doing_when_it_was_killed_nothing_arrives_again() {
    Stalling::serve_if_told();
    let (folder, address) = (tempfile::tempdir().unwrap(), local(free(1)));
    let path = folder.path().join("arrivals");
    let journal = Journal::at(&path);
    let node = Node::start(&document::standard(address)).await;
    let body = pattern(300_000);
    let post = |key: &str, stage: &str| {
        let call = node.keyed(key).header("x-order", key).header(STAGE, stage);
        call.body(body.clone()).send()
    };
    let mut random = Random::of_this_run();
    let kills: usize = sized("kills", 50, 1_000);
    let mut upstream = Stalling::start(UPSTREAM_IS_KILLED, address, &path);
    for number in 0..kills {
        // Its connection is kept for what follows.
        eventually("the upstream serves", async || {
            let answer = node.get(PATH).key(ACME).send().await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await;
        if let Some(before) = number.checked_sub(1) {
            let answer = post(&format!("order-{before}"), "").await;
            answer.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
        }
        let (key, stage) = (format!("order-{number}"), STAGES[random.below(STAGES.len())]);
        let asked = tokio::spawn(post(&key, stage));
        let stopped = format!("{key} {stage}");
        eventually("it stops where it was told to", async || {
            let found = journal.lines().contains(&stopped);
            if found { Ok(()) } else { Err(&stopped) }
        })
        .await;
        drop(upstream);
        let details = asked.await.unwrap().refuses(502, "UPSTREAM_UNREACHABLE");
        assert_eq!(details["outcome"], "unknown", "{stopped}");
        upstream = Stalling::start(UPSTREAM_IS_KILLED, address, &path);
    }
    for number in 0..kills {
        let answer = post(&format!("order-{number}"), "").await;
        answer.refuses(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    }
    let lines = journal.lines();
    let arrived: Vec<&String> = lines.iter().filter(|line| line.ends_with(" arrived")).collect();
    let expected: Vec<String> = (0..kills).map(|at| format!("order-{at} arrived")).collect();
    assert!(arrived.into_iter().eq(&expected), "{lines:#?}");
}
