//! Versions of a pack on their way into service and out of it: compared, promoted, taken back, swapped under load.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Member, Setup};
use crate::harness::document::{self, ACME, ACME_BATCH, Edit as _, GLOBEX};
use crate::harness::node::Setup as FileSetup;
use crate::harness::pack::{self, Made, patched};
use crate::harness::postgres::Database;
use crate::harness::size::long;
use crate::harness::{Random, Reply, Upstream, eventually, hoped, sized};
use model::Identity;
use model::id::AttachmentId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const OLD: &str = "gate@1.0.0";
const NEW: &str = "gate@1.1.0";

/// A version of the pack that behaves as the settings' `ways` say under this mark.
fn version(version: &str, mark: u8) -> Vec<u8> {
    let module = patched(demo::MISBEHAVE, "tollgate-mark: 0", &format!("tollgate-mark: {mark}"));
    Made::named("gate", version, &module).file()
}

/// What the old version does, and what the new one does.
fn ways(old: Value, new: Value) -> Value {
    json!({ "how": "marked", "ways": [old, new] })
}

fn sets(value: &str) -> Value {
    json!({ "how": "set", "name": "x-way", "value": value, "times": 1 })
}

fn denies() -> Value {
    json!({ "how": "deny", "status": 403, "reason": "new_rule", "details": [] })
}

fn attachment(pack: &str, settings: Value) -> Value {
    json!({
        "id": "gate", "pack": pack, "phases": ["request"], "mode": "enforce", "on_failure": "closed",
        "settings": settings,
    })
}

/// The same with the new version as its candidate, over the shortest window.
fn rolling_out(settings: Value, more: Value) -> Value {
    let mut attachment = attachment(OLD, settings);
    let mut rollout =
        json!({ "candidate": NEW, "mode": "observe", "window": "10s", "min_samples": 20 });
    rollout.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    attachment["rollout"] = rollout;
    attachment
}

fn document(upstream: &Upstream) -> Value {
    document::standard(upstream.address).with("pack_keys", pack::key())
}

/// A node of its own that has these versions, each with its mark.
async fn node(
    upstream: &Upstream,
    setup: impl Fn(Setup) -> Setup,
    versions: &[(&str, u8)],
) -> Member {
    let mut node = setup(Setup::named("alone", &["gateway", "admin"])).start();
    node.answers().await;
    node.api.publish_first(&document(upstream)).await;
    node.is_ready().await;
    ship(&node.api, versions).await;
    node
}

async fn ship(api: &Api, versions: &[(&str, u8)]) {
    for (name, mark) in versions {
        api.post("/v1/packs").body(version(name, *mark)).send().await.is(201);
    }
}

async fn attach(api: &Api, attachment: &Value) {
    api.create("/v1/attachments/gate", attachment).send().await.is(201);
}

/// Waits until the attachment is as hoped, while the same is asked again and again.
async fn becomes(api: &Api, mut ask: impl AsyncFnMut(), is: impl Fn(&Value) -> bool) -> Value {
    eventually("the attachment has changed", async || {
        ask().await;
        let (attachment, _) = api.read("/v1/attachments/gate").await;
        if is(&attachment) { Ok(attachment) } else { Err(attachment) }
    })
    .await
}

fn runs_alone(attachment: &Value, pack: &str) -> bool {
    attachment["pack"] == pack && attachment.get("rollout").is_none()
}

/// Waits until the newest rollout has ended so: that is written after the revision that ends it.
async fn ended(api: &Api, state: &str) -> Value {
    eventually("the rollout has ended", async || {
        let newest = api.items("/v1/packs/gate/rollouts").await[0].clone();
        if newest["state"] == state { Ok(newest) } else { Err(newest) }
    })
    .await
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Asserts that the newest revision was made by the system, and that the audit has it.
async fn was_done_by_the_system(api: &Api, action: &str) {
    let newest = api.items("/v1/revisions").await[0].clone();
    assert_eq!((&newest["author"], &newest["action"]), (&json!("system"), &json!(action)));
    let audit = api.audit().await;
    let entry = audit.iter().find(|entry| entry["action"] == action).unwrap();
    assert_eq!(entry["actor"]["name"], "system");
    assert_eq!(entry["resource"], "/v1/packs/gate/versions/1.1.0");
    assert_eq!(entry["revision"], newest["revision"]);
    assert!(!entry["difference"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_denies_what_the_running_version_allows_takes_itself_back() {
    let upstream = Upstream::start().await;
    let node = node(&upstream, |setup| setup, &[("1.0.0", 0), ("1.1.0", 1)]).await;
    let limits = json!({ "rollback_on": { "difference_rate": 0.1 } });
    attach(&node.api, &rolling_out(ways(sets("old"), denies()), limits)).await;
    let asked = AtomicU64::new(0);
    let ask = async || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let call = node.get("/v1/contacts").key(ACME);
        // The running version's decisions act, whatever the candidate says.
        call.header("x-request-id", format!("observed-{number}")).send().await.is(200);
    };
    becomes(&node.api, ask, |attachment| runs_alone(attachment, OLD)).await;
    was_done_by_the_system(&node.api, "packs.quarantine").await;

    let rollout = ended(&node.api, "rolled_back").await;
    assert_eq!(rollout["candidate"], "1.1.0");
    let took = time(&rollout["ended_at"]).duration_since(time(&rollout["started_at"]));
    assert!(took.as_secs() < 10, "within its window, not after {took}");
    let quarantined = node.api.read("/v1/packs/gate/versions/1.1.0").await.0["quarantined"].clone();
    assert_eq!(quarantined["reason"], rollout["reason"]);

    let compared = rollout["samples"]["compared"].as_u64().unwrap();
    assert!(compared >= 20, "{rollout}");
    let list = "/v1/packs/gate/differences?attachment=gate&limit=100";
    let differences = eventually("the differences are kept", async || {
        let found = node.api.items(list).await;
        if found.len() as u64 >= compared { Ok(found) } else { Err(found.len()) }
    })
    .await;
    let asked = asked.load(Ordering::Relaxed);
    for difference in &differences {
        let id = difference["request_id"].as_str().unwrap();
        let number: u64 = id.strip_prefix("observed-").unwrap().parse().unwrap();
        assert!(number < asked);
        assert_eq!(difference["running_decision"], "edit set x-way");
        assert_eq!(difference["candidate_decision"], "deny 403 new_rule");
        assert_eq!(
            (&difference["acted"], &difference["tenant"]),
            (&json!("running"), &json!("acme"))
        );
    }
    // Nobody brings it back by mistake.
    let again = rolling_out(ways(sets("old"), denies()), json!({}));
    let answer = node.api.replace("/v1/attachments/gate", &again).await;
    answer.refuses(422, "CONFIG_INVALID");
    assert!(upstream.arrivals().iter().all(|arrival| arrival.header("x-way") == "old"));
    let metrics = node.metrics().await;
    assert!(metrics.sum("tollgate_pack_differences_total", &[("pack", "gate")]) >= 20.0);
    assert!(metrics.sum("tollgate_pack_quarantines_total", &[("pack", "gate")]) > 0.9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_decides_for_the_same_consumers_each_time_and_a_good_one_is_promoted() {
    let upstream = Upstream::start().await;
    let node = node(&upstream, |setup| setup, &[("1.0.0", 0), ("1.1.0", 1)]).await;
    let canary = json!({ "mode": "canary", "percent": 40, "by": "consumer", "on_pass": "promote" });
    let attachment = rolling_out(ways(sets("old"), sets("new")), canary);
    let consumers = [
        ("acme", "acme-mobile", ACME),
        ("acme", "acme-batch", ACME_BATCH),
        ("globex", "globex-web", GLOBEX),
    ];
    // As the hash says, on any node: percents are chosen so that it says both.
    let takes = |percent: f64, tenant: &str, consumer: &str| {
        let mut rollout = attachment["rollout"].clone();
        rollout["percent"] = json!(percent);
        let rollout = serde_json::from_value(rollout).unwrap();
        let caller = Identity {
            tenant: tenant.into(),
            consumer: consumer.into(),
            subject: String::new(),
            credential: String::new(),
            scopes: Vec::new(),
            claims: Arc::new(json!({})),
        };
        model::rollout::takes(&rollout, &AttachmentId::from("gate"), &caller, "")
    };
    let share = |percent| consumers.map(|(tenant, consumer, _)| takes(percent, tenant, consumer));
    let percent = (1..100).map(f64::from).find(|percent| share(*percent) != [false; 3]).unwrap();
    let expected = share(percent);
    assert_ne!(expected, [true; 3]);
    let mut attachment = attachment.clone();
    attachment["rollout"]["percent"] = json!(percent);
    attach(&node.api, &attachment).await;

    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let ask = async || {
        for (_, consumer, key) in consumers {
            node.get("/v1/contacts").key(key).send().await.is(200);
            let way = upstream.arrivals().last().unwrap().header("x-way").to_owned();
            seen.entry(consumer).or_default().push(way);
        }
    };
    becomes(&node.api, ask, |attachment| runs_alone(attachment, NEW)).await;
    for ((_, consumer, _), takes) in consumers.into_iter().zip(expected) {
        let ways = &seen[consumer];
        // The last ones may have been decided after the promotion.
        let canary = if takes { "new" } else { "old" };
        let promoted = ways.iter().position(|way| way != canary).unwrap_or(ways.len());
        assert!(promoted >= 20, "{consumer}: {ways:?}");
        assert!(ways[promoted..].iter().all(|way| way == "new"), "{consumer}: {ways:?}");
    }
    was_done_by_the_system(&node.api, "packs.promote").await;
    let rollout = ended(&node.api, "promoted").await;
    let took = time(&rollout["ended_at"]).duration_since(time(&rollout["started_at"]));
    assert!(took.as_secs() >= 10, "not before its window ended: {took}");
    for (_, _, key) in consumers {
        node.get("/v1/contacts").key(key).send().await.is(200);
        assert_eq!(upstream.arrivals().last().unwrap().header("x-way"), "new");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_postgresql_judge_what_both_saw() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let names: [(&str, &[&str]); 2] = [("a", &["gateway", "admin"]), ("b", &["gateway"])];
    let cluster = Cluster::start(&database.url(), &names, &document(&upstream)).await;
    let api = cluster.api();
    ship(&api, &[("1.0.0", 0), ("1.1.0", 1)]).await;
    // Neither sees enough alone, in whatever window.
    let limits =
        json!({ "window": "1h", "min_samples": 40, "rollback_on": { "difference_rate": 0.1 } });
    attach(&api, &rolling_out(ways(sets("old"), denies()), limits)).await;
    let newest = api.items("/v1/revisions").await[0]["revision"].as_u64().unwrap();
    for member in &cluster.members {
        member.follows(newest).await;
        for _ in 0..25 {
            member.get("/v1/contacts").key(ACME).send().await.is(200);
        }
    }
    becomes(&api, async || {}, |attachment| runs_alone(attachment, OLD)).await;
    was_done_by_the_system(&api, "packs.quarantine").await;
    let rollouts = api.items("/v1/packs/gate/rollouts").await;
    assert_eq!(rollouts.len(), 1, "both opened the same one: {rollouts:#?}");
    assert_eq!(ended(&api, "rolled_back").await["samples"]["compared"], 50);
    for member in &cluster.members {
        member.follows(newest + 1).await;
    }
    let by_the_system = api.audit().await;
    let by_the_system = by_the_system.iter().filter(|entry| entry["action"] == "packs.quarantine");
    assert_eq!(by_the_system.count(), 1, "one of them was first, and the other found it done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_bring_back_the_version_before() {
    let upstream = Upstream::start().await;
    let node = node(&upstream, |setup| setup, &[("1.0.0", 0), ("1.1.0", 1)]).await;
    let panics = json!({ "how": "panic", "message": "a bug" });
    attach(&node.api, &attachment(OLD, ways(sets("old"), panics))).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    node.api.merge("/v1/attachments/gate", &json!({ "pack": NEW })).await.is(200);
    let mut failed = 0;
    let ask = async || {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        if answer.status != 200 {
            answer.refuses(503, "POLICY_FAILED");
            failed += 1;
        }
    };
    becomes(&node.api, ask, |attachment| runs_alone(attachment, OLD)).await;
    assert!(failed >= 5, "{failed}");
    was_done_by_the_system(&node.api, "packs.quarantine").await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!(upstream.arrivals().last().unwrap().header("x-way"), "old");
    // Not one call too many: from the fifth fault on it is not asked any more.
    let metrics = node.metrics().await;
    let faults =
        metrics.sum("tollgate_pack_failures_total", &[("pack", "gate"), ("reason", "trap")]);
    assert!((4.5..5.5).contains(&faults), "{faults}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_without_a_version_before_halt_the_attachment() {
    let upstream = Upstream::start().await;
    let node = node(&upstream, |setup| setup, &[("1.1.0", 1)]).await;
    let panics = json!({ "how": "panic", "message": "a bug" });
    attach(&node.api, &attachment(NEW, ways(sets("old"), panics))).await;
    let ask = async || {
        node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    };
    let halted = becomes(&node.api, ask, |attachment| attachment["halted"] == true).await;
    assert_eq!(halted["pack"], NEW);
    was_done_by_the_system(&node.api, "packs.quarantine").await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    assert!(upstream.arrivals().is_empty());
    let open = json!({ "on_failure": "open" });
    node.api.merge("/v1/attachments/gate", &open).await.is(200);
    node.get("/v1/contacts").key(ACME).send().await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_in_a_file_is_not_touched_and_the_candidate_stopped_on_this_node() {
    let upstream = Upstream::start().await;
    let limits = json!({ "mode": "canary", "rollback_on": { "difference_rate": 0.1 } });
    let document = document(&upstream)
        .with("packs", json!({ "id": "gate", "version": "1.0.0" }))
        .with("packs", json!({ "id": "gate", "version": "1.1.0" }))
        .with("attachments", rolling_out(ways(sets("old"), denies()), limits));
    let setup = FileSetup::of(&document);
    for (name, mark) in [("1.0.0", 0), ("1.1.0", 1)] {
        setup.lay("gate", name, &version(name, mark));
    }
    let node = setup.start().await;
    let mut refused = 0;
    eventually("the candidate is stopped", async || {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        if answer.status == 200 {
            return Ok(());
        }
        assert_eq!(answer.refuses(403, "POLICY_DENIED")["reason"], "new_rule");
        refused += 1;
        Err(refused)
    })
    .await;
    assert!(refused >= 20, "{refused}");
    let ready = node.status.get("/readyz").send().await.is(200).json();
    assert_eq!(ready["stopped"][0]["pack"], NEW, "{ready}");
    assert!(ready["stopped"][0]["reason"].as_str().unwrap().contains("differ"), "{ready}");
    assert_eq!(node.revision().await, 1);
    for _ in 0..20 {
        node.get("/v1/contacts").key(ACME).send().await.is(200);
    }
    assert!((node.metrics().await.sum("tollgate_packs_stopped", &[]) - 1.0).abs() < 0.1);
    node.has_logged(&["stopped on this node only", NEW, "file"]).await;
    let said = node.log().matches("stopped on this node only").count();
    assert_eq!(said, 1, "it is said once");
    // Once the operator has taken it out of the file, nothing is left to say.
    let mut taken_out = document.clone();
    taken_out["attachments"][0].as_object_mut().unwrap().remove("rollout");
    taken_out["packs"].as_array_mut().unwrap().remove(1);
    node.publish(&taken_out).await;
    let ready = node.status.get("/readyz").send().await.is(200).json();
    assert!(ready.get("stopped").is_none(), "{ready}");
}

/// How much more memory and how many more descriptors a process may have in the end.
const GROWTH_MAX: f64 = 1.02;
/// Memory is read over this part of the swaps, before a third of them and at the end: it wanders, as allocators keep and
/// give back.
const READ_OVER: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hot_swaps_under_load_fail_nothing_mix_nothing_and_leave_nothing() {
    // What the pack set in the request phase comes back beside what it sets in the response phase.
    let upstream = Upstream::scripted(|arrival| {
        Reply::of(200).header("x-mark-seen", arrival.header("x-mark")).body("{}")
    })
    .await;
    let keeping_little_back = |setup: Setup| {
        setup
            .environment("MIMALLOC_PURGE_DELAY", "0")
            .environment("MIMALLOC_ABANDONED_PAGE_PURGE", "1")
    };
    let versions: Vec<(String, u8)> = (0..4).map(|mark| (format!("1.{mark}.0"), mark)).collect();
    let shipped: Vec<(&str, u8)> =
        versions.iter().map(|(version, mark)| (version.as_str(), *mark)).collect();
    let mut node = node(&upstream, keeping_little_back, &shipped).await;
    let mut both = attachment(OLD, json!({ "how": "mark", "name": "x-mark" }));
    both["phases"] = json!(["request", "response"]);
    attach(&node.api, &both).await;

    let mut random = Random::of_this_run();
    let swaps = sized("swaps", 100, 1000);
    let stop = Arc::new(AtomicBool::new(false));
    let load = load(&node, &stop);
    let (mut early, mut late, mut mark) = (Vec::new(), Vec::new(), 0);
    let third = swaps / 3;
    let part = (swaps / READ_OVER).max(1);
    for swap in 0..swaps {
        // Any other one.
        mark = (mark + 1 + random.below(versions.len() - 1)) % versions.len();
        let pack = format!("gate@{}", versions[mark].0);
        node.api.merge("/v1/attachments/gate", &json!({ "pack": pack })).await.is(200);
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        assert_eq!(
            answer.is(200).header("x-mark"),
            mark.to_string(),
            "it is live when it is answered"
        );
        let process = node.process();
        let reading = (process.resident_kib(), process.descriptors());
        if (third - part..third).contains(&swap) {
            early.push(reading);
        }
        if swap >= swaps - part {
            late.push(reading);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = BTreeMap::<String, u64>::new();
    for one in load.join_all().await {
        for (mark, count) in one {
            *seen.entry(mark).or_default() += count;
        }
    }
    println!("exchanges by version: {seen:?}");
    assert_eq!(seen.len(), versions.len());
    nothing_stays(&early, &late);
    assert_eq!(node.metrics().await.revision("rejected"), 0);
    hoped(node.metrics().await.sum("tollgate_pack_failures_total", &[]) > 0.5, &false).unwrap();
}

/// Six clients that ask until they are stopped, and say how often each version answered.
fn load(node: &Member, stop: &Arc<AtomicBool>) -> JoinSet<BTreeMap<String, u64>> {
    let mut load = JoinSet::new();
    for _ in 0..6 {
        let (stop, client) = (stop.clone(), crate::harness::call::Client::to(node.gateway));
        load.spawn(async move {
            let mut seen = BTreeMap::<String, u64>::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("/v1/contacts").key(ACME).send().await;
                let (asked, answered) =
                    (answer.is(200).header("x-mark-seen"), answer.header("x-mark"));
                assert_eq!(asked, answered, "two versions in one exchange");
                *seen.entry(asked.to_owned()).or_default() += 1;
                // Load that leaves the processors some room.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
    }
    load
}

/// Resident KiB and descriptors of a process.
type Reading = (u64, u64);

fn nothing_stays(early: &[Reading], late: &[Reading]) {
    let most =
        |readings: &[Reading], of: fn(&Reading) -> u64| readings.iter().map(of).max().unwrap();
    let median = |readings: &[Reading], of: fn(&Reading) -> u64| {
        let mut sorted: Vec<u64> = readings.iter().map(of).collect();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    for (what, of, is_held) in [
        // Over a few swaps caches still fill.
        ("KiB", (|reading| reading.0) as fn(&Reading) -> u64, long()),
        ("descriptors", |reading| reading.1, true),
    ] {
        let (before, after) = (most(early, of), median(late, of));
        println!("up to {before} {what} after a third, {after} in the end");
        let [before, after] = [before, after].map(|count| f64::from(u32::try_from(count).unwrap()));
        assert!(!is_held || after <= before * GROWTH_MAX, "{what} grew from {before} to {after}");
    }
}
