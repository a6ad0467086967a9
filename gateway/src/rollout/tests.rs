use super::judge::Judge;
use super::*;
use crate::gateway::Gateway;
use crate::tests::{eventually, settings, store};
use crate::trace::Trace;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use model::audit::Entry;
use model::config::{self, Config, ConfigError};
use model::document::PhaseName;
use model::event::{PACK_HALTED, PACK_PROMOTED, PACK_QUARANTINED, PACK_ROLLED_BACK};
use model::id::NodeName;
use model::port::StoreError;
use model::revision::{Change, KeptAnswer, PublishError, Published, Revisions, Staged};
use model::rollout::{Difference, Outcome, RolloutInfo, RolloutState};
use model::{Decision, Denial, FailureReason, Identity};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::control::{AuditQuery, Effect, Over, PackDatum, Write, WriteError};
use store::differences::DifferenceQuery;
use store::rollouts::RolloutQuery;
use tempfile::TempDir;

/// 2026-11-21T09:00:00Z.
const BEGAN: i64 = 1_795_251_600;

/// Revisions of a store, of which no gateway is asked: packs need not be there.
struct Shelf {
    store: Store,
    in_force: Mutex<Option<Published>>,
    is_away: AtomicBool,
    is_read_only: bool,
    /// Documents in which an attachment runs this are refused.
    refused: Option<&'static str>,
    /// Before the next write somebody else publishes.
    is_overtaken: AtomicBool,
}

impl Shelf {
    fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            in_force: Mutex::default(),
            is_away: AtomicBool::new(false),
            is_read_only: false,
            refused: None,
            is_overtaken: AtomicBool::new(false),
        }
    }

    fn away(&self) -> Result<(), StoreError> {
        match self.is_away.load(Ordering::Acquire) {
            true => Err(StoreError::Unavailable("it is away".to_owned())),
            false => Ok(()),
        }
    }

    async fn write(&self, change: Change) -> Result<Published, PublishError> {
        let Change { text, base, nodes, staged, audit, answer, events } = change;
        let effect = Effect::Publish {
            text: text.into(),
            base,
            nodes,
            replaces_staged: staged == Staged::Replace,
            events,
        };
        match self.store.write(Write { effect, audit, answer }).await {
            Ok(_) => Ok(self.newest().await?.unwrap()),
            Err(WriteError::Stale) => Err(PublishError::Stale),
            Err(WriteError::Staged { number, nodes }) => {
                Err(PublishError::Staged { number, nodes })
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[async_trait]
impl Revisions for Shelf {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        self.away()?;
        let newest = self.store.newest().await?;
        Ok(newest.map(|newest| Published {
            number: newest.info.number,
            text: newest.text,
            etag: newest.info.digest,
            nodes: newest.info.nodes,
        }))
    }

    fn in_force(&self) -> Option<Published> {
        self.in_force.lock().unwrap().clone()
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    async fn check(&self, _: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        unreachable!("nobody only checks here")
    }

    async fn publish(&self, change: Change) -> Result<Published, PublishError> {
        self.away()?;
        if self.is_overtaken.swap(false, Ordering::AcqRel) {
            let newest = self.newest().await?.unwrap();
            let mut document: Value = serde_json::from_str(&newest.text).unwrap();
            let plans = document["plans"].as_array_mut().unwrap();
            plans.push(json!({ "id": "silver", "limits": [] }));
            self.write(by_hand(&document, newest.number)).await?;
        }
        let document: Value = serde_json::from_str(&change.text).unwrap();
        let attachments = document["attachments"].as_array().unwrap();
        let is_refused = |entry: &Value| self.refused.is_some_and(|pack| entry["pack"] == pack);
        if let Some(index) = attachments.iter().position(is_refused) {
            let at = format!("/attachments/{index}/settings");
            return Err(PublishError::Invalid(vec![ConfigError::new(at, "not these")]));
        }
        self.write(change).await
    }

    async fn release(
        &self,
        _: u64,
        _: Entry,
        _: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        unreachable!("nobody releases here")
    }
}

fn by_hand(document: &Value, base: u64) -> Change {
    crate::tests::change(document.to_string(), base)
}

/// A node whose clock stands still until it is moved.
struct Node {
    gateway: Arc<Gateway>,
    shelf: Shelf,
    _folder: TempDir,
}

impl Node {
    fn new(store: &Store, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_second(BEGAN).unwrap());
        let settings = crate::Settings { clock, ..settings(store, name, folder.path()) };
        let gateway = Gateway::new(settings).unwrap();
        Self { gateway, shelf: Shelf::of(store), _folder: folder }
    }

    /// One on which this is the first revision.
    async fn with(store: &Store, name: &str, document: &Value) -> (Self, Seen) {
        let node = Self::new(store, name);
        let seen = node.publishes(document).await;
        (node, seen)
    }

    /// Publishes by hand, and puts it in force.
    async fn publishes(&self, document: &Value) -> Seen {
        let newest = self.shelf.newest().await.unwrap().map_or(0, |newest| newest.number);
        self.shelf.write(by_hand(document, newest)).await.unwrap();
        self.follows().await
    }

    /// Puts the newest revision in force, as far as rollouts go.
    async fn follows(&self) -> Seen {
        let newest = self.shelf.newest().await.unwrap().unwrap();
        let config = config::read(&newest.text).unwrap();
        let seen = self.sees(&config, newest.number);
        *self.shelf.in_force.lock().unwrap() = Some(newest);
        seen
    }

    fn sees(&self, config: &Config, revision: u64) -> Seen {
        let document = config.document();
        let packs = &self.gateway.packs;
        let watches = document.attachments.iter().filter_map(|entry| packs.watch(entry));
        let health = document.attachments.iter().map(|entry| packs.version(&entry.pack, entry));
        let seen = Seen { revision, watches: watches.collect(), health: health.collect() };
        packs.in_force(document);
        seen
    }

    fn judge(&self) -> Judge<'_> {
        Judge::new(&self.gateway, &self.shelf)
    }

    fn goes_on(&self, seconds: u64) {
        self.gateway.clock.advance(Duration::from_secs(seconds));
    }

    fn stopped(&self) -> Vec<String> {
        self.gateway.packs.stopped().iter().map(|stopped| stopped.version.to_string()).collect()
    }

    fn metric(&self, line: &str) -> bool {
        self.gateway.metrics.text().lines().any(|found| found == line)
    }
}

/// What a snapshot holds.
struct Seen {
    revision: u64,
    watches: Vec<Arc<Watch>>,
    health: Vec<Arc<VersionHealth>>,
}

impl Seen {
    async fn judged(&self, judge: &mut Judge<'_>) {
        judge.look_at(self.revision, &self.watches).await;
    }

    /// So many exchanges on which both say the same, and so many that the candidate denies.
    fn decides(&self, same: u32, denied: u32) {
        let identity = Identity {
            tenant: "acme".into(),
            consumer: "app".into(),
            subject: "app".to_owned(),
            credential: "k1".to_owned(),
            scopes: Vec::new(),
            claims: Arc::new(json!({})),
        };
        let watch = &self.watches[0];
        for index in 0..same + denied {
            let trace = Trace::of(&http::HeaderMap::new(), at(0));
            let candidate = if index < same { Decision::Continue } else { denies() };
            watch.called(Duration::from_micros(20), None);
            watch.compared(&Compared {
                at: at(0),
                trace: &trace,
                identity: &identity,
                route: &"list".into(),
                phase: PhaseName::Request,
                running: &Outcome::Decided(Decision::Continue),
                candidate: &Outcome::Decided(candidate),
                acted: Version::Running,
            });
        }
    }
}

fn fails(health: &VersionHealth, reason: FailureReason, now: i64) {
    health.failed(&"acme".into(), reason, now);
}

fn denies() -> Decision {
    Decision::Deny(Denial {
        status: http::StatusCode::FORBIDDEN,
        reason: "no".to_owned(),
        message: "No.".to_owned(),
        details: serde_json::Map::new(),
    })
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + seconds).unwrap()
}

/// A document in which `a` runs this version of the pack; all of these are there.
fn document(versions: &[&str], runs: &str) -> Value {
    let packs: Vec<_> =
        versions.iter().map(|version| json!({ "id": "p", "version": version })).collect();
    json!({
        "format": 1,
        "plans": [{ "id": "gold", "limits": [] }],
        "tenants": [{ "id": "acme", "plan": "gold", "state": "active" }],
        "packs": packs,
        "attachments": [{
            "id": "a", "pack": format!("p@{runs}"), "phases": ["request"], "mode": "enforce",
            "on_failure": "closed",
        }],
    })
}

/// The same with 1.1.0 as the candidate of 1.0.0.
fn rolling_out(more: Value) -> Value {
    let mut document = document(&["1.0.0", "1.1.0"], "1.0.0");
    let mut rollout = json!({
        "candidate": "p@1.1.0", "mode": "observe", "window": "10s", "min_samples": 10,
        "rollback_on": { "difference_rate": 0.1 },
    });
    rollout.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document["attachments"][0]["rollout"] = rollout;
    document
}

async fn newest(store: &Store) -> (u64, Value, String) {
    let newest = store.newest().await.unwrap().unwrap();
    (newest.info.number, serde_json::from_str(&newest.text).unwrap(), newest.info.author)
}

async fn rollouts(store: &Store) -> Vec<RolloutInfo> {
    store.rollouts(&RolloutQuery { limit: 10, ..RolloutQuery::default() }).await.unwrap()
}

/// The types of all events, in their order.
async fn events(store: &Store) -> Vec<String> {
    let events = store.outbox(0, 100).await.unwrap();
    events.into_iter().map(|outgoing| outgoing.event.r#type).collect()
}

/// Actions, resources and revisions of what the system did, newest first.
async fn audited(store: &Store) -> Vec<(String, String, u64)> {
    let query = AuditQuery { actor: Some("system".to_owned()), limit: 10, ..AuditQuery::default() };
    let entries = store.audit(&query).await.unwrap().into_iter();
    let entries = entries.filter(|entry| entry.action.starts_with("packs."));
    entries.map(|entry| (entry.action, entry.resource, entry.revision.unwrap())).collect()
}

#[tokio::test]
async fn a_candidate_that_denies_what_the_running_version_allows_is_taken_back() {
    let (store, _keep) = store().await;
    let (node, seen) = Node::with(&store, "a", &rolling_out(json!({}))).await;
    let mut judge = node.judge();
    seen.decides(9, 0);
    seen.judged(&mut judge).await;
    assert_eq!(newest(&store).await.0, 1, "too few to say anything");
    assert_eq!(rollouts(&store).await[0].state, RolloutState::Open);
    seen.decides(0, 2);
    node.goes_on(3);
    seen.judged(&mut judge).await;

    let (number, document, author) = newest(&store).await;
    assert_eq!((number, author.as_str()), (2, "system"));
    let attachment = &document["attachments"][0];
    assert_eq!((&attachment["pack"], attachment.get("rollout")), (&json!("p@1.0.0"), None));
    let reason = "2 of 11 decisions differ (0.1818), more than 0.1";
    assert_eq!(
        document["packs"][1]["quarantined"],
        json!({ "at": at(3).to_string(), "reason": reason })
    );
    let resource = "/v1/packs/p/versions/1.1.0".to_owned();
    assert_eq!(audited(&store).await, [("packs.quarantine".to_owned(), resource, 2)]);
    assert_eq!(events(&store).await, [PACK_ROLLED_BACK, PACK_QUARANTINED]);
    let ended = &rollouts(&store).await[0];
    assert_eq!((ended.state, ended.reason.as_deref()), (RolloutState::RolledBack, Some(reason)));
    assert_eq!((ended.samples.calls, ended.samples.differences), (11, 2));
    let difference = kept_differences(&store, 2).await.remove(0);
    assert_eq!(
        (&*difference.running_decision, &*difference.candidate_decision, &*difference.why),
        ("continue", "deny 403 no", "decision: continue and deny")
    );
    // Until that revision is in force, it is stopped here; afterwards it is the document's.
    assert_eq!(node.stopped(), ["p@1.1.0"]);
    node.follows().await;
    assert!(node.stopped().is_empty());
    seen.judged(&mut judge).await;
    assert_eq!(newest(&store).await.0, 2);
    assert!(node.metric(r#"tollgate_pack_quarantines_total{pack="p"} 1"#));
    assert!(node.metric(r#"tollgate_pack_differences_total{pack="p"} 2"#));
    assert!(node.metric(r#"tollgate_pack_rollouts_ended_total{outcome="rolled_back"} 1"#));
}

async fn kept_differences(store: &Store, count: usize) -> Vec<Difference> {
    let query = DifferenceQuery { limit: 100, ..DifferenceQuery::default() };
    eventually("the differences are kept", async || {
        store.differences(&query).await.unwrap().len() == count
    })
    .await;
    store.differences(&query).await.unwrap()
}

#[tokio::test]
async fn a_good_candidate_is_promoted_when_its_window_ended_and_all_nodes_have_told() {
    let (store, _keep) = store().await;
    let document = rolling_out(json!({ "on_pass": "promote" }));
    let (node, seen) = Node::with(&store, "a", &document).await;
    let mut judge = node.judge();
    for (pause, published) in [(0, 1), (9, 1), (1, 1), (2, 2)] {
        node.goes_on(pause);
        seen.judged(&mut judge).await;
        assert_eq!(newest(&store).await.0, published, "after {pause} s more");
        seen.decides(10, 0);
    }
    let (_, document, author) = newest(&store).await;
    let attachment = &document["attachments"][0];
    assert_eq!((&attachment["pack"], attachment.get("rollout")), (&json!("p@1.1.0"), None));
    assert_eq!(author, "system");
    assert_eq!(events(&store).await, [PACK_PROMOTED]);
    assert_eq!(audited(&store).await[0].0, "packs.promote");
    let ended = &rollouts(&store).await[0];
    assert_eq!(ended.state, RolloutState::Promoted);
    assert_eq!(ended.reason.as_deref(), Some("20 calls within 10s, 0 differences"));
    assert!(node.stopped().is_empty());
}

#[tokio::test]
async fn without_enough_samples_the_next_window_begins_and_without_a_wish_nobody_promotes() {
    for (more, calls) in [(json!({ "on_pass": "promote" }), 9), (json!({}), 100)] {
        let (store, _keep) = store().await;
        let (node, seen) = Node::with(&store, "a", &rolling_out(more)).await;
        let mut judge = node.judge();
        for _ in 0..30 {
            seen.decides(calls / 10, 0);
            node.goes_on(1);
            seen.judged(&mut judge).await;
        }
        assert_eq!(newest(&store).await.0, 1);
        assert_eq!(rollouts(&store).await[0].state, RolloutState::Open);
    }
}

#[tokio::test]
async fn nodes_judge_what_all_of_them_saw_and_one_of_them_acts() {
    let (store, _keep) = store().await;
    let (a, seen_by_a) = Node::with(&store, "a", &rolling_out(json!({}))).await;
    let b = Node::new(&store, "b");
    b.goes_on(4);
    let seen_by_b = b.follows().await;
    let (mut judge_a, mut judge_b) = (a.judge(), b.judge());
    seen_by_a.judged(&mut judge_a).await;
    seen_by_b.judged(&mut judge_b).await;
    let opened = rollouts(&store).await;
    assert_eq!((opened.len(), opened[0].started_at), (1, at(0)), "it is one rollout");
    seen_by_a.decides(5, 1);
    a.goes_on(4);
    seen_by_a.judged(&mut judge_a).await;
    seen_by_b.decides(4, 1);
    assert_eq!(newest(&store).await.0, 1);
    seen_by_b.judged(&mut judge_b).await;
    assert_eq!(newest(&store).await.0, 2, "together they are enough");
    assert_eq!((a.stopped().len(), b.stopped().len()), (0, 1));
    // The other one comes to the same verdict, and finds it done.
    seen_by_a.judged(&mut judge_a).await;
    assert_eq!(newest(&store).await.0, 2);
    assert_eq!(events(&store).await.len(), 2);
}

#[tokio::test]
async fn a_process_that_started_again_adds_to_what_it_saw_before() {
    let (store, _keep) = store().await;
    let document = rolling_out(json!({ "rollback_on": { "difference_rate": 0.5 } }));
    let (node, seen) = Node::with(&store, "a", &document).await;
    seen.decides(0, 9);
    seen.judged(&mut node.judge()).await;
    let again = Node::new(&store, "a");
    let seen = again.follows().await;
    seen.decides(0, 1);
    seen.judged(&mut again.judge()).await;
    assert_eq!(newest(&store).await.0, 2);
}

#[tokio::test]
async fn while_the_store_is_away_a_node_goes_by_what_it_saw_itself() {
    let (store, _keep) = store().await;
    let document = rolling_out(json!({ "on_pass": "promote" }));
    let (bad, seen_bad) = Node::with(&store, "a", &document).await;
    let good = Node::new(&store, "b");
    let seen_good = good.follows().await;
    let (mut judge_bad, mut judge_good) = (bad.judge(), good.judge());
    seen_bad.judged(&mut judge_bad).await;
    seen_good.judged(&mut judge_good).await;
    store.close().await;
    seen_bad.decides(5, 5);
    seen_bad.judged(&mut judge_bad).await;
    assert_eq!(bad.stopped(), ["p@1.1.0"]);
    // Nobody knows what the others saw: nothing is promoted.
    for _ in 0..15 {
        seen_good.decides(5, 0);
        good.goes_on(1);
        seen_good.judged(&mut judge_good).await;
    }
    assert!(good.stopped().is_empty());
    assert!(good.metric(r"tollgate_packs_stopped 0") && bad.metric(r"tollgate_packs_stopped 1"));
}

#[tokio::test]
async fn what_was_stopped_while_the_store_was_away_is_a_revision_when_it_is_back() {
    let (store, _keep) = store().await;
    let (node, seen) = Node::with(&store, "a", &rolling_out(json!({}))).await;
    let mut judge = node.judge();
    node.shelf.is_away.store(true, Ordering::Release);
    seen.decides(0, 10);
    seen.judged(&mut judge).await;
    assert_eq!((newest(&store).await.0, node.stopped().len()), (1, 1));
    // Asked again at once, it waits for its pause.
    node.shelf.is_away.store(false, Ordering::Release);
    seen.judged(&mut judge).await;
    assert_eq!(newest(&store).await.0, 1);
    eventually("the revision is made", async || {
        seen.judged(&mut judge).await;
        newest(&store).await.0 == 2
    })
    .await;
}

#[tokio::test]
async fn faults_take_the_running_version_out_and_the_one_before_comes_back() {
    let (store, _keep) = store().await;
    let versions = ["1.0.0", "1.1.0", "1.2.0"];
    let (node, _) = Node::with(&store, "a", &document(&versions, "1.0.0")).await;
    node.publishes(&document(&versions, "1.1.0")).await;
    let seen = node.publishes(&document(&versions, "1.2.0")).await;
    let mut judge = node.judge();
    let faults = |count: usize| {
        let now = node.gateway.clock.micros();
        (0..count).for_each(|_| fails(&seen.health[0], FailureReason::Memory, now));
    };
    faults(4);
    node.goes_on(31);
    faults(4);
    seen.judged(&mut judge).await;
    assert!(!seen.health[0].is_stopped() && newest(&store).await.0 == 3);
    faults(1);
    assert!(seen.health[0].is_stopped());
    // In the meantime somebody publishes something else.
    node.shelf.is_overtaken.store(true, Ordering::Release);
    seen.judged(&mut judge).await;
    let (number, document, author) = newest(&store).await;
    assert_eq!((number, author.as_str()), (5, "system"));
    assert_eq!(document["plans"][1]["id"], "silver");
    assert_eq!(document["attachments"][0]["pack"], "p@1.1.0");
    let reason = "5 faults within 30s on one node, the last one: memory";
    assert_eq!(document["packs"][2]["quarantined"]["reason"], reason);
    assert_eq!(events(&store).await, [PACK_ROLLED_BACK, PACK_QUARANTINED]);

    // Once an operator lifts it, it decides again.
    let seen = node.follows().await;
    assert!(node.stopped().is_empty());
    let mut lifted = document;
    lifted["packs"][2].as_object_mut().unwrap().remove("quarantined");
    lifted["attachments"][0]["pack"] = json!("p@1.2.0");
    drop(seen);
    assert!(!node.publishes(&lifted).await.health[0].is_stopped());
}

#[tokio::test]
async fn an_attachment_without_a_version_to_go_back_to_is_halted() {
    for (before, refused) in [(None, None), (Some("1.0.0"), Some("p@1.0.0"))] {
        let (store, _keep) = store().await;
        let mut node = Node::new(&store, "a");
        node.shelf.refused = refused;
        if let Some(before) = before {
            node.publishes(&document(&["1.0.0", "1.1.0"], before)).await;
        }
        let seen = node.publishes(&document(&["1.0.0", "1.1.0"], "1.1.0")).await;
        for _ in 0..5 {
            fails(&seen.health[0], FailureReason::Trap, node.gateway.clock.micros());
        }
        seen.judged(&mut node.judge()).await;
        let (_, document, _) = newest(&store).await;
        let attachment = &document["attachments"][0];
        assert_eq!((&attachment["pack"], &attachment["halted"]), (&json!("p@1.1.0"), &json!(true)));
        assert_eq!(events(&store).await, [PACK_QUARANTINED]);
        let action = Some("packs.quarantine".to_owned());
        let query = AuditQuery { action, limit: 1, ..AuditQuery::default() };
        let difference = store.audit(&query).await.unwrap().remove(0).difference;
        let paths: Vec<_> = difference.as_array().unwrap().iter().map(|op| &op["path"]).collect();
        assert_eq!(paths, ["/packs/1/quarantined", "/attachments/0/halted"]);
    }
}

#[tokio::test]
async fn a_candidates_faults_leave_the_running_version_alone() {
    let (store, _keep) = store().await;
    let (node, seen) = Node::with(&store, "a", &rolling_out(json!({}))).await;
    let candidate = &seen.watches[0].health;
    let caller = Identity {
        tenant: "acme".into(),
        consumer: "app".into(),
        subject: "app".to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Arc::new(json!({})),
    };
    assert!(seen.watches[0].takes(&caller, "r"));
    for _ in 0..5 {
        fails(candidate, FailureReason::Trap, node.gateway.clock.micros());
    }
    assert!(!seen.watches[0].takes(&caller, "r") && !seen.health[0].is_stopped());
    seen.judged(&mut node.judge()).await;
    let (number, document, _) = newest(&store).await;
    assert_eq!((number, &document["attachments"][0]["pack"]), (2, &json!("p@1.0.0")));
    assert!(document["packs"][0].get("quarantined").is_none());
    assert!(document["packs"][1].get("quarantined").is_some());
    assert_eq!(rollouts(&store).await[0].state, RolloutState::RolledBack);
}

#[tokio::test]
async fn a_candidate_that_runs_elsewhere_is_taken_back_where_it_is_a_candidate_and_nowhere_else() {
    let (store, _keep) = store().await;
    let mut document = rolling_out(json!({}));
    let elsewhere = json!({
        "id": "b", "pack": "p@1.1.0", "phases": ["request"], "mode": "enforce", "on_failure": "open",
    });
    document["attachments"].as_array_mut().unwrap().push(elsewhere.clone());
    let (node, seen) = Node::with(&store, "a", &document).await;
    let mut judge = node.judge();
    seen.decides(0, 10);
    seen.judged(&mut judge).await;
    let (number, document, _) = newest(&store).await;
    assert_eq!((number, document["attachments"][0].get("rollout")), (2, None));
    assert_eq!(document["attachments"][1], elsewhere);
    assert!(document["packs"][1].get("quarantined").is_none());
    assert_eq!(events(&store).await, [PACK_ROLLED_BACK]);
    assert_eq!(audited(&store).await[0].0, "packs.rollback");
    assert_eq!(rollouts(&store).await[0].state, RolloutState::RolledBack);
    assert!(seen.watches[0].health.is_stopped() && !seen.health[1].is_stopped());
    node.follows().await;
    assert!(node.stopped().is_empty());
}

#[tokio::test]
async fn at_one_tenants_attachment_a_version_is_taken_out_there_and_nowhere_else() {
    // As a candidate, by its decisions; as the running version, by its faults, with one before and without.
    for (candidate, before) in [(true, None), (false, Some("1.0.0")), (false, None)] {
        let (store, _keep) = store().await;
        let node = Node::new(&store, "a");
        let scoped = |mut document: Value| {
            document["attachments"][0]["scope"] = json!({ "tenant": "acme" });
            document
        };
        if let Some(before) = before {
            node.publishes(&scoped(document(&["1.0.0", "1.1.0"], before))).await;
        }
        let seen = match candidate {
            true => node.publishes(&scoped(rolling_out(json!({})))).await,
            false => node.publishes(&scoped(document(&["1.0.0", "1.1.0"], "1.1.0"))).await,
        };
        match candidate {
            true => seen.decides(0, 10),
            false => (0..5).for_each(|_| {
                fails(&seen.health[0], FailureReason::Trap, node.gateway.clock.micros());
            }),
        }
        seen.judged(&mut node.judge()).await;
        let (_, document, author) = newest(&store).await;
        let attachment = &document["attachments"][0];
        assert_eq!((author.as_str(), attachment.get("rollout")), ("system", None));
        assert!(document["packs"][1].get("quarantined").is_none(), "others may run it");
        let is_halted = !candidate && before.is_none();
        assert_eq!(attachment["halted"] == true, is_halted);
        assert_eq!(attachment["pack"], if is_halted { "p@1.1.0" } else { "p@1.0.0" });
        let told = if is_halted { PACK_HALTED } else { PACK_ROLLED_BACK };
        assert_eq!(events(&store).await, [told]);
        assert_eq!(audited(&store).await[0].0, "packs.rollback");
        assert_eq!(node.stopped(), ["p@1.1.0"]);
        node.follows().await;
        assert!(node.stopped().is_empty());
    }
}

#[tokio::test]
async fn what_was_seen_before_a_change_of_the_attachment_is_not_held_against_it() {
    let (store, _keep) = store().await;
    let (node, seen) = Node::with(&store, "a", &rolling_out(json!({}))).await;
    let mut judge = node.judge();
    seen.decides(0, 9);
    seen.judged(&mut judge).await;
    let mut mended = rolling_out(json!({}));
    mended["attachments"][0]["settings"] = json!({ "mended": true });
    let seen = node.publishes(&mended).await;
    seen.decides(11, 1);
    seen.judged(&mut judge).await;
    assert_eq!(newest(&store).await.0, 2);
    assert_eq!(rollouts(&store).await[0].state, RolloutState::Open);
    seen.decides(0, 9);
    seen.judged(&mut judge).await;
    assert_eq!(newest(&store).await.0, 3);
}

#[tokio::test]
async fn a_detached_packs_counters_make_room() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    let packs = &node.gateway.packs;
    let tenant = packs.tenant(&"acme".into(), &PackCaps::default());
    let kept = tenant.counters(&"p".into());
    tenant.counters(&"detached".into());
    assert_eq!(packs.counters.in_use().len(), 2);
    node.publishes(&document(&["1.0.0"], "1.0.0")).await;
    assert_eq!(packs.counters.in_use().len(), 1);
    assert!(Arc::ptr_eq(&kept, &tenant.counters(&"p".into())));
}

#[tokio::test]
async fn a_document_in_a_file_is_left_alone_and_the_version_stopped_here() {
    let (store, _keep) = store().await;
    let mut node = Node::new(&store, "a");
    node.shelf.is_read_only = true;
    let document = rolling_out(json!({}));
    let config = config::read(&document.to_string()).unwrap();
    let seen = node.sees(&config, 1);
    let mut judge = node.judge();
    seen.decides(0, 10);
    for _ in 0..3 {
        seen.judged(&mut judge).await;
    }
    assert_eq!(node.stopped(), ["p@1.1.0"]);
    assert!(node.metric("tollgate_packs_stopped 1"));
    assert!(store.newest().await.unwrap().is_none() && rollouts(&store).await.is_empty());
    assert_eq!(kept_differences(&store, 10).await[0].acted, "running");
    // Another change of the file does not let it decide again; marking it, or taking it out, does away with it.
    let again = node.sees(&config, 2);
    assert!(again.watches[0].health.is_stopped());
    let without = tests::document(&["1.0.0"], "1.0.0");
    node.sees(&config::read(&without.to_string()).unwrap(), 3);
    assert!(node.stopped().is_empty() && node.metric("tollgate_packs_stopped 0"));
}

#[tokio::test]
async fn while_the_newest_revision_is_on_some_nodes_only_nothing_is_published() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    let nodes = Some(vec![NodeName::from("a")]);
    let staged = Change { nodes, ..by_hand(&rolling_out(json!({})), 0) };
    node.shelf.write(staged).await.unwrap();
    let seen = node.follows().await;
    let mut judge = node.judge();
    seen.judged(&mut judge).await;
    assert!(rollouts(&store).await.is_empty(), "it is not everybody's rollout yet");
    seen.decides(0, 10);
    seen.judged(&mut judge).await;
    assert_eq!((newest(&store).await.0, node.stopped().len()), (1, 1));
}

#[tokio::test]
async fn data_is_followed_and_one_state_of_it_stays_whole() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    let put = async |pack: &str, value: &'static str| {
        let at = at(0);
        let datum = PackDatum {
            pack: pack.into(),
            key: "k".to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            at,
            by: "test".to_owned(),
        };
        let effect = Effect::PutPackData(Box::new(datum), Over::Anything);
        let audit = crate::tests::entry("packs.data.put");
        store.write(Write { effect, audit, answer: None }).await.unwrap();
    };
    put("p", "one").await;
    let source = node.gateway.packs.data(&"p".into());
    assert_eq!(source.now().get("k"), None);
    node.gateway.packs.read_missing_data(&store).await;
    let before = source.now();
    assert_eq!(before.get("k").unwrap(), "one");
    let gateway = node.gateway.clone();
    let following = tokio::spawn(async move { data::follow(&gateway).await });
    put("other", "two").await;
    put("p", "three").await;
    eventually("the new state is there", async || source.now().get("k").unwrap() == "three").await;
    assert_eq!(before.get("k").unwrap(), "one");
    assert!(Arc::ptr_eq(&source, &node.gateway.packs.data(&"p".into())));
    store.close().await;
    assert_eq!(source.now().get("k").unwrap(), "three", "the last state stays");
    let unread = node.gateway.packs.data(&"other".into());
    node.gateway.packs.read_missing_data(&store).await;
    assert_eq!(unread.now().get("k"), None);
    following.abort();
}
