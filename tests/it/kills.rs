//! Processes are killed at any moment while others write: what was acknowledged is there, and nothing is there by half.

use crate::harness::api::Api;
use crate::harness::call::Answer;
use crate::harness::cluster::{Cluster, Member, Setup};
use crate::harness::document::{self, Edit as _};
use crate::harness::postgres::Database;
use crate::harness::token::unique;
use crate::harness::{Random, Upstream, sha256, sized};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What one writer changes again and again.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// A plan that nobody else changes.
    Own(usize),
    /// A plan that several change.
    Shared,
    /// Two plans at once, by the whole document.
    Pair,
}

/// A change that was answered with success.
#[derive(Debug)]
struct Acknowledged {
    target: Target,
    /// What was written.
    number: u64,
    revision: u64,
    request: String,
}

/// What writers share.
#[derive(Clone)]
struct Writers {
    apis: Vec<Api>,
    stop: Arc<AtomicBool>,
    numbers: Arc<AtomicU64>,
    /// How often each outcome came, to be printed.
    outcomes: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// A plan whose quota is this number.
fn plan(id: &str, number: u64) -> Value {
    let limit = json!({ "id": "mark", "quota": format!("{number}/day"), "per": "tenant", "on_store_error": "open" });
    json!({ "id": id, "limits": [limit] })
}

fn own(writer: usize) -> String {
    format!("own-{writer}")
}

fn document(upstream: &Upstream) -> Value {
    let plans = ["own-0", "own-1", "shared", "left", "right"];
    let document = document::standard(upstream.address);
    plans.iter().fold(document, |document, id| document.with("plans", plan(id, 1)))
}

/// The number that a plan of a document has.
fn number_of(document: &Value, id: &str) -> u64 {
    let plans = document["plans"].as_array().unwrap();
    let plan = plans.iter().find(|plan| plan["id"] == id).unwrap();
    let quota = plan["limits"][0]["quota"].as_str().unwrap();
    quota.trim_end_matches("/day").parse().unwrap()
}

impl Writers {
    fn new(apis: Vec<Api>) -> Self {
        Self {
            apis,
            stop: Arc::default(),
            numbers: Arc::new(AtomicU64::new(1)),
            outcomes: Arc::default(),
        }
    }

    /// Starts one writer for each target.
    fn start(&self, targets: &[Target]) -> JoinSet<Vec<Acknowledged>> {
        let mut tasks = JoinSet::new();
        for (index, target) in targets.iter().enumerate() {
            tasks.spawn(self.clone().write(index, *target));
        }
        tasks
    }

    /// Writes until told to stop. Whatever is refused or gets no answer is left: nobody was promised anything.
    async fn write(self, index: usize, target: Target) -> Vec<Acknowledged> {
        let mut acknowledged = Vec::new();
        for turn in index.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let api = &self.apis[turn % self.apis.len()];
            let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let request = unique();
            let outcome = attempt(api, target, number, &request).await;
            let what = outcome.as_ref().map_or("no answer".to_owned(), |answer| {
                format!("{} {}", answer.status, answer.code())
            });
            *self.outcomes.lock().unwrap().entry(what).or_default() += 1;
            match outcome {
                Some(answer) if matches!(answer.status, 200 | 201) => {
                    let revision = answer.revision();
                    acknowledged.push(Acknowledged { target, number, revision, request });
                }
                Some(answer) => {
                    // Somebody else was first, or the store is busy with those who are.
                    assert!(matches!(answer.status, 412 | 503), "{answer:?}");
                }
                // Nobody listens there now. A pause, so that trying again leaves the others some processor.
                None => sleep(Duration::from_millis(20)).await,
            }
        }
        acknowledged
    }
}

/// One change; `None` where there was no answer.
async fn attempt(api: &Api, target: Target, number: u64, request: &str) -> Option<Answer> {
    let path = match target {
        Target::Own(writer) => format!("/v1/plans/{}", own(writer)),
        Target::Shared => "/v1/plans/shared".to_owned(),
        Target::Pair => "/v1/document".to_owned(),
    };
    let read = api.get(&path).try_send().await.ok()?;
    if read.status != 200 {
        return Some(read);
    }
    let wanted = match target {
        Target::Own(writer) => plan(&own(writer), number),
        Target::Shared => plan("shared", number),
        Target::Pair => read.json().changed(|document| {
            *document.entry("plans", "left") = plan("left", number);
            *document.entry("plans", "right") = plan("right", number);
        }),
    };
    let put = api.put(&path, &wanted, read.header("etag")).header("x-request-id", request);
    put.try_send().await.ok()
}

/// Kills one of these processes so often, at random, and starts it again at once.
async fn kill_some(members: &mut [Member], kills: usize) {
    let mut random = Random::of_this_run();
    let mut killed: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..kills {
        // The moment is what is random here.
        sleep(Duration::from_millis(150 + u64::try_from(random.below(450)).unwrap())).await;
        let index = random.below(members.len());
        let member = &mut members[index];
        member.kill();
        member.start_again();
        *killed.entry(member.name.clone()).or_default() += 1;
        // Sometimes the next one is killed while this one starts.
        if random.below(3) > 0 {
            member.is_ready().await;
        }
    }
    println!("killed: {killed:?}");
    for member in members {
        member.is_ready().await;
    }
}

/// Everything that was acknowledged is there, every revision is whole, and each has its one audit entry.
async fn nothing_is_lost_or_half(api: &Api, acknowledged: &[Acknowledged]) -> u64 {
    let items = api.items("/v1/revisions?limit=500").await;
    let numbers: Vec<u64> = items.iter().map(|item| item["revision"].as_u64().unwrap()).collect();
    let newest = numbers[0];
    assert_eq!(numbers, (1..=newest).rev().collect::<Vec<_>>(), "newest first, without a gap");

    let mut documents = BTreeMap::new();
    for item in &items {
        let number = item["revision"].as_u64().unwrap();
        let whole = api.get(&format!("/v1/revisions/{number}")).send().await.is(200).json();
        let text = whole["text"].as_str().unwrap();
        assert_eq!(whole["digest"], format!("sha256:{}", sha256(text)), "revision {number}");
        assert_eq!(whole["size"], text.len(), "revision {number}");
        assert_eq!(whole["document"], model::config::parse(text).unwrap(), "revision {number}");
        model::config::read(text).unwrap();
        let document = whole["document"].clone();
        let (left, right) = (number_of(&document, "left"), number_of(&document, "right"));
        assert_eq!(left, right, "revision {number} has half of a change");
        documents.insert(number, document);
    }

    let audit = api.items("/v1/audit?limit=500").await;
    let mut entries: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for entry in audit.iter().filter(|entry| entry["refused"].is_null()) {
        if let Some(revision) = entry["revision"].as_u64() {
            entries.entry(revision).or_default().push(entry);
        }
    }
    for number in 1..=newest {
        assert_eq!(entries[&number].len(), 1, "revision {number}: {:#?}", entries[&number]);
    }
    assert_eq!(entries.len(), documents.len(), "an entry for what is not there");

    for Acknowledged { target, number, revision, request } in acknowledged {
        let document = &documents[revision];
        let ids = match target {
            Target::Own(writer) => vec![own(*writer)],
            Target::Shared => vec!["shared".to_owned()],
            Target::Pair => vec!["left".to_owned(), "right".to_owned()],
        };
        for id in ids {
            assert_eq!(number_of(document, &id), *number, "{id} in revision {revision}");
            // And what came later was made from it.
            let last = number_of(&documents[&newest], &id);
            assert!(matches!(target, Target::Shared) || last >= *number, "{id}: {last} at last");
        }
        let entry = entries[revision][0];
        assert_eq!(entry["request_id"], **request, "revision {revision}");
        assert_eq!(
            (&entry["actor"]["name"], &entry["actor"]["source"]),
            (&json!("first"), &json!("127.0.0.1"))
        );
        assert_ne!(entry["difference"], json!([]), "{entry}");
    }
    newest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_process_is_killed_acknowledged_revisions_are_there_and_whole() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let names: [(&str, &[&str]); 4] =
        [("a", &["gateway"]), ("b", &["gateway"]), ("ops", &["admin"]), ("ops-2", &["admin"])];
    let mut cluster = Cluster::start(&database.url(), &names, &document(&upstream)).await;
    let kills = sized("kills", 8, 60);
    let apis = ["ops", "ops-2"].map(|name| cluster.member(name).api.with(&cluster.token));
    let writers = Writers::new(apis.to_vec());
    let targets = [Target::Own(0), Target::Own(1), Target::Shared, Target::Shared, Target::Pair];
    let tasks = writers.start(&targets);
    kill_some(&mut cluster.members, kills).await;
    writers.stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<Acknowledged> = tasks.join_all().await.into_iter().flatten().collect();
    println!("{:?}", writers.outcomes.lock().unwrap());
    assert!(acknowledged.len() >= kills, "hardly anything was written: {}", acknowledged.len());
    for api in &apis {
        let newest = nothing_is_lost_or_half(api, &acknowledged).await;
        for name in ["a", "b", "ops", "ops-2"] {
            cluster.member(name).follows(newest).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_machine_acknowledged_revisions_outlive_a_kill() {
    let upstream = Upstream::start().await;
    let mut node = Setup::named("alone", &["gateway", "admin"]).start();
    node.answers().await;
    node.api.publish_first(&document(&upstream)).await;
    let kills = sized("kills", 3, 20);
    let writers = Writers::new(vec![node.api.clone()]);
    let tasks = writers.start(&[Target::Own(0), Target::Shared, Target::Shared, Target::Pair]);
    kill_some(std::slice::from_mut(&mut node), kills).await;
    writers.stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<Acknowledged> = tasks.join_all().await.into_iter().flatten().collect();
    println!("{:?}", writers.outcomes.lock().unwrap());
    assert!(acknowledged.len() >= kills, "hardly anything was written: {}", acknowledged.len());
    let newest = nothing_is_lost_or_half(&node.api, &acknowledged).await;
    node.follows(newest).await;
}
