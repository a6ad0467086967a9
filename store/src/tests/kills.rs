//! Processes that are killed while they write: what they were answered is there, and nothing is half there. Each test is
//! both processes; the parent starts the child as the same test with [`CHILD`] set.

use super::behaviour::{arriving, event as accepted};
use super::databases::{Database, sqlite_url};
use super::hold;
use super::samples::{at, entry, id};
use crate::Store;
use crate::control::{AuditQuery, Effect, Write, WriteError};
use model::event::Event;
use model::idempotency::suite::{LEASE, RETENTION, START, answer, request};
use model::idempotency::{Claimed, Ledger as _, Settled};
use model::suite::Dice;
use model::webhook::{Acceptance, NewEvent, WebhookId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Names the database to the child process.
const CHILD: &str = "TOLLGATE_TEST_CHILD_DATABASE";
/// Which of the kills it is: what a child writes is told apart by it.
const ROUND: &str = "TOLLGATE_TEST_CHILD_ROUND";
/// How many children are killed.
const KILLS: u64 = 4;
/// How many revisions a child is let publish before it may be killed, and how many more at most.
const AT_LEAST: u64 = 5;
const MORE: u64 = 40;

fn child(test: &str, url: &str, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, url)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn sqlite_keeps_every_acknowledged_revision() {
    let directory = TempDir::new().unwrap();
    revisions("tests::kills::sqlite_keeps_every_acknowledged_revision", || {
        sqlite_url(directory.path())
    })
    .await;
}

#[tokio::test]
async fn postgres_keeps_every_acknowledged_revision() {
    let database = if std::env::var(CHILD).is_ok() { None } else { Some(Database::create().await) };
    revisions("tests::kills::postgres_keeps_every_acknowledged_revision", || {
        database.as_ref().unwrap().url.clone()
    })
    .await;
}

async fn revisions(test: &str, url: impl FnOnce() -> String) {
    if let Ok(url) = std::env::var(CHILD) {
        publish_until_killed(&url).await;
    }
    let url = url();
    let seed = rand::random();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut acknowledged = BTreeMap::new();
    for round in 0..KILLS {
        let mut child = child(test, &url, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = |line: std::io::Result<String>| {
            // The harness writes on the same line before the first of ours; the last line may be torn.
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            if let [.., "published", number, text, "."] = words.as_slice() {
                acknowledged.insert(number.parse::<u64>().unwrap(), (*text).to_owned());
            }
        };
        for _ in 0..AT_LEAST + dice.below(MORE) {
            told(lines.next().expect("it goes on publishing"));
        }
        // Somewhere within a write.
        std::thread::sleep(Duration::from_micros(dice.below(3_000)));
        child.kill().unwrap();
        lines.for_each(told);
        child.wait().unwrap();
    }
    let store = Store::open(&url).await.unwrap();
    let all = store.revisions(None, 2_000).await.unwrap();
    let numbers: Vec<_> = all.iter().rev().map(|info| info.number).collect();
    assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>(), "without gaps");
    let query = AuditQuery { limit: 2_000, ..AuditQuery::default() };
    let entries = store.audit(&query).await.unwrap();
    let told: BTreeSet<_> = entries.iter().filter_map(|entry| entry.revision).collect();
    assert_eq!(
        told,
        numbers.iter().copied().collect(),
        "each has its entry, and no entry is alone"
    );
    assert_eq!(entries.len(), all.len());
    let events = store.outbox(0, 2_000).await.unwrap();
    assert_eq!(events.iter().map(|told| told.number).collect::<Vec<_>>(), numbers, "and its event");
    for told in events {
        let kept = store.revision(told.number).await.unwrap().unwrap();
        assert_eq!(told.event.subject, *kept.text, "{}", told.number);
    }
    assert_eq!(store.feed().await.unwrap(), all.len() as u64);
    assert!(acknowledged.len() as u64 >= KILLS * (AT_LEAST - 1), "{}", acknowledged.len());
    for (number, text) in acknowledged {
        let kept = store.revision(number).await.unwrap();
        assert_eq!(*kept.expect("it was acknowledged").text, *text, "{number}");
    }
}

/// What tells of a revision of this text.
fn event(id: &str, text: &str) -> Event {
    Event {
        id: id.to_owned(),
        at: at(0),
        r#type: "published".to_owned(),
        tenant: None,
        subject: text.to_owned(),
        data: Value::Null,
    }
}

/// Several tasks publish one after the other, and say what they were answered.
async fn publish_until_killed(url: &str) -> ! {
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = Store::open(url).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3_u64 {
        let store = store.clone();
        tasks.spawn(async move {
            for count in 0.. {
                let newest = store.newest().await.unwrap();
                let base = newest.map_or(0, |newest| newest.info.number);
                let text = format!("text-{round}-{task}-{count}");
                let mut audit = entry("document.put", "/v1/document");
                audit.id = id((round << 32) + (task << 24) + count);
                let effect = Effect::Publish {
                    text: text.as_str().into(),
                    base,
                    nodes: None,
                    replaces_staged: false,
                    events: vec![event(&audit.id, &text)],
                };
                match store.write(Write { effect, audit, answer: None }).await {
                    Ok(written) => println!("published {} {text} .", written.revision.unwrap()),
                    Err(WriteError::Stale) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tasks.join_all().await;
    std::process::abort()
}

#[tokio::test]
async fn sqlite_keeps_every_claim_that_was_answered() {
    let directory = TempDir::new().unwrap();
    claims("tests::kills::sqlite_keeps_every_claim_that_was_answered", || {
        sqlite_url(directory.path())
    })
    .await;
}

#[tokio::test]
async fn postgres_keeps_every_claim_that_was_answered() {
    let database = if std::env::var(CHILD).is_ok() { None } else { Some(Database::create().await) };
    claims("tests::kills::postgres_keeps_every_claim_that_was_answered", || {
        database.as_ref().unwrap().url.clone()
    })
    .await;
}

/// The child claims, completes, says what it was answered, and kills itself in the middle.
async fn claims(test: &str, url: impl FnOnce() -> String) {
    if let Ok(url) = std::env::var(CHILD) {
        claim_until_killed(&url).await;
    }
    let url = url();
    let output = child(test, &url, 0).wait_with_output().unwrap();
    assert!(!output.status.success(), "the child was to be killed");
    let said = String::from_utf8(output.stdout).unwrap();
    let store = Store::open(&url).await.unwrap();
    let ledger = store.timed_ledger();
    let (mut held, mut completed) = (0, 0);
    for line in said.lines() {
        // The harness writes on the same line before the first of ours.
        let words: Vec<_> = line.split(' ').collect();
        let [.., what, key, fence] = words.as_slice() else { continue };
        match *what {
            "held" => {
                held += 1;
                let asked = request(key, 1);
                let told = ledger.claim(&asked, START).await.unwrap();
                assert_eq!(told, Claimed::InProgress { retry_after: 5 }, "{key}");
                let told = ledger.claim(&asked, START + LEASE).await.unwrap();
                assert_eq!(told, Claimed::Unknown, "{key}");
                let told = ledger.claim(&asked, START + LEASE + RETENTION - 1).await.unwrap();
                assert_eq!(told, Claimed::Unknown, "{key}");
                let next = hold(&ledger, &asked, START + LEASE + RETENTION).await;
                assert!(next.0 > fence.parse().unwrap(), "{key}");
            }
            "done" => {
                completed += 1;
                let told = ledger.claim(&request(key, 1), START + LEASE).await.unwrap();
                assert!(matches!(told, Claimed::Replay(_)), "{key}: {told:?}");
            }
            _ => {}
        }
    }
    assert!(held >= 5 && completed >= 5, "{said}");
}

/// Claims and completes more and more keys at once, until the process dies of it.
async fn claim_until_killed(url: &str) -> ! {
    let ledger = Store::open(url).await.unwrap().timed_ledger();
    for id in 0..5 {
        let key = format!("early{id}");
        let fence = hold(&ledger, &request(&key, 1), START).await;
        println!("held {key} {fence}");
    }
    for id in 0..200 {
        let store = ledger.clone();
        tokio::spawn(async move {
            let key = format!("key{id}");
            let asked = request(&key, 1);
            let fence = hold(&store, &asked, START).await;
            let told = store.complete(&asked.key, fence, answer("a"), 0, START).await.unwrap();
            assert_eq!(told, Settled::Applied);
            println!("done {key} {fence}");
        });
        if id % 20 == 0 {
            // Some are answered, others on their way.
            hold(&ledger, &request(&format!("pace{id}"), 1), START).await;
        }
    }
    std::process::abort()
}

/// How many children are killed right after an acceptance, and in full.
const ACCEPTED: [u64; 2] = [12, 200];

#[tokio::test]
async fn sqlite_keeps_every_event_that_was_accepted() {
    let directory = TempDir::new().unwrap();
    events("tests::kills::sqlite_keeps_every_event_that_was_accepted", || {
        sqlite_url(directory.path())
    })
    .await;
}

#[tokio::test]
async fn postgres_keeps_every_event_that_was_accepted() {
    let database = if std::env::var(CHILD).is_ok() { None } else { Some(Database::create().await) };
    events("tests::kills::postgres_keeps_every_event_that_was_accepted", || {
        database.as_ref().unwrap().url.clone()
    })
    .await;
}

/// Each child accepts one batch after the other from several tasks, and is killed as soon as it has told of one.
async fn events(test: &str, url: impl FnOnce() -> String) {
    if let Ok(url) = std::env::var(CHILD) {
        accept_until_killed(&url).await;
    }
    let url = url();
    let [reduced, full] = ACCEPTED;
    let kills = if std::env::var("TOLLGATE_TEST_LONG").is_ok_and(|long| long == "1") {
        full
    } else {
        reduced
    };
    let mut dice = Dice::new(rand::random());
    println!("{kills} kills, {dice:?}");
    let mut told = 0;
    let mut known = BTreeSet::new();
    for round in 0..kills {
        let mut child = child(test, &url, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut accepted = Vec::new();
        let mut hear = |line: std::io::Result<String>| {
            let line = line.unwrap();
            // The harness writes on the same line before the first of ours; the last line may be torn.
            if let [.., "accepted", id, "."] = line.split(' ').collect::<Vec<_>>().as_slice() {
                accepted.push((*id).to_owned());
            }
        };
        for _ in 0..=dice.below(8) {
            hear(lines.next().expect("it goes on accepting"));
        }
        child.kill().unwrap();
        lines.for_each(hear);
        child.wait().unwrap();
        let store = Store::open(&url).await.unwrap();
        for id in &accepted {
            let kept = store.event(&accepted_id(id)).await.unwrap();
            let kept = kept.unwrap_or_else(|| panic!("round {round}: {id} was accepted"));
            assert_eq!(kept.content, accepted_event(id).content, "{id}");
            assert!(known.insert(kept.number), "{id} has another one's number");
        }
        told += accepted.len() as u64;
        store.close().await;
    }
    assert!(told >= kills / 2, "{told} were told of");
    // Numbers have no gaps, each request is there whole, and what is there is known to be a repeat.
    let store = Store::open(&url).await.unwrap();
    let (mut after, mut ids) = (0, BTreeSet::new());
    loop {
        let page = store.events_after(after, 2_000).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().zip(after + 1..).all(|(event, number)| event.number == number));
        after = last.number;
        ids.extend(page.into_iter().map(|event| event.id));
    }
    for id in &ids {
        let (request, half) = id.rsplit_once('-').unwrap();
        let other = format!("{request}-{}", if half == "0" { "1" } else { "0" });
        assert!(ids.contains(&other), "{id} is there without {other}");
    }
    let again = ids.iter().take(500).map(|id| accepted_event(id)).collect();
    let told = store.accept_events(vec![arriving(again)]).await.unwrap();
    assert!(told[0].iter().all(|told| *told == Acceptance::Repeat), "{told:?}");
}

fn accepted_event(id: &str) -> NewEvent {
    accepted("acme", id)
}

fn accepted_id(id: &str) -> WebhookId {
    accepted_event(id).webhook_id
}

/// Several tasks accept requests of two events, and say what they were answered.
async fn accept_until_killed(url: &str) -> ! {
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = Store::open(url).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for count in 0.. {
                let ids = [0, 1].map(|half| format!("{round}-{task}-{count}-{half}"));
                let events = ids.iter().map(|id| accepted_event(id)).collect();
                let told = store.accept_events(vec![arriving(events)]).await.unwrap();
                assert_eq!(told, [[Acceptance::Accepted; 2]]);
                for id in ids {
                    println!("accepted {id} .");
                }
            }
        });
    }
    tasks.join_all().await;
    std::process::abort()
}
