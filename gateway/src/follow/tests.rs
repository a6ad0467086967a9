use super::*;
use crate::gateway::Settings;
use crate::tests::pack::{lay, quiet};
use crate::tests::{
    change, document, entry, eventually, gateway, gateway_with, settings, store, with_pack,
};
use model::config::ConfigError;
use model::id::NodeName;
use model::revision::{Change, PublishError, Revisions as _, Staged};
use model::revocation::{Revocation, Revoked};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use store::control::{Effect, Write};
use store::seal::MasterKeys;
use tempfile::TempDir;

/// A node that follows a store, with a data folder of its own.
struct Node {
    gateway: Arc<Gateway>,
    follower: Arc<Follower>,
    folder: TempDir,
}

impl Node {
    fn new(store: &Store, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(store, name, folder.path());
        Self { follower: follower(&gateway, folder.path()), gateway, folder }
    }

    /// One that follows.
    async fn running(store: &Store, name: &str) -> Self {
        let node = Self::new(store, name);
        node.follower.start().await;
        tokio::spawn(node.follower.clone().run());
        node
    }

    async fn publish(&self, text: String, base: u64) -> Result<u64, PublishError> {
        self.follower.publish(change(text, base)).await.map(|published| published.number)
    }

    async fn has_in_force(&self, number: u64) {
        eventually("the revision is in force", async || self.gateway.revision() == number).await;
    }

    async fn has_rejected(&self, number: u64) -> Vec<ConfigError> {
        let rejected = || self.gateway.standing().borrow().rejected.clone();
        eventually("the revision is rejected", async || {
            rejected().is_some_and(|rejected| rejected.revision == number)
        })
        .await;
        rejected().unwrap().errors
    }

    fn heed(&self) -> Arc<Heed> {
        Heed::new(self.gateway.clone(), self.folder.path().join("revoked.json"))
    }

    fn last_good(&self) -> PathBuf {
        self.folder.path().join("last-good.json")
    }

    fn add_pack(&self) {
        lay(self.folder.path(), &quiet("1.0.0", &[]));
    }
}

fn follower(gateway: &Arc<Gateway>, folder: &Path) -> Arc<Follower> {
    Follower::new(gateway.clone(), folder.join("last-good.json"))
}

/// Writes a revision as an admin elsewhere does, which this node has no say in.
async fn written(store: &Store, text: &str, base: u64) -> u64 {
    let effect = Effect::Publish {
        text: text.into(),
        base,
        nodes: None,
        replaces_staged: false,
        events: Vec::new(),
    };
    let write = Write { effect, audit: entry("document.put"), answer: None };
    store.write(write).await.unwrap().revision.unwrap()
}

fn metric(gateway: &Gateway, line: &str) -> bool {
    gateway.metrics.text().lines().any(|found| found == line)
}

#[tokio::test]
async fn what_is_published_is_in_force_here_at_once_and_elsewhere_soon() {
    let (store, _keep) = store().await;
    let (a, b) = (Node::running(&store, "a").await, Node::running(&store, "b").await);
    assert!(a.follower.in_force().is_none() && a.gateway.is_ready().is_err());
    for number in 1..=5 {
        let text = document(u32::try_from(number).unwrap());
        assert_eq!(a.publish(text.clone(), number - 1).await.unwrap(), number);
        assert_eq!(a.gateway.revision(), number);
        assert_eq!(a.gateway.live.pin().unwrap().revision, number);
        assert_eq!(*a.follower.in_force().unwrap().text, *text);
        b.has_in_force(number).await;
    }
    assert!(b.gateway.is_ready().is_ok());
    assert!(metric(&b.gateway, r#"tollgate_config_revision{state="active"} 5"#));
    assert!(metric(&b.gateway, r#"tollgate_config_revision{state="rejected"} 0"#));
}

#[tokio::test]
async fn an_invalid_or_stale_change_is_no_revision() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    node.publish(document(1), 0).await.unwrap();
    let broken = document(2).replace("plan: gold", "plan: silver").replace("100/day", "many");
    match node.publish(broken, 1).await {
        Err(PublishError::Invalid(errors)) => {
            let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
            assert_eq!(pointers, ["/plans/0/limits/0/quota", "/tenants/0/plan"]);
        }
        other => panic!("{other:?}"),
    }
    // Its shape is sound, but no gateway could compile it.
    let missing = node.publish(with_pack(2), 1).await;
    assert!(
        matches!(&missing, Err(PublishError::Invalid(errors)) if errors[0].pointer == "/packs/0")
    );
    assert!(matches!(node.publish(document(2), 0).await, Err(PublishError::Stale)));
    assert_eq!(store.newest().await.unwrap().unwrap().info.number, 1);
    assert_eq!(node.gateway.standing().borrow().rejected, None);
}

#[tokio::test]
async fn of_two_changes_from_the_same_revision_one_is_published() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    for base in 0..5 {
        let mark = u32::try_from(base).unwrap() * 2;
        let (one, other) = tokio::join!(
            node.publish(document(mark), base),
            node.publish(document(mark + 1), base)
        );
        let stale = |refused| matches!(refused, Err(PublishError::Stale));
        assert!(one.is_ok() != other.is_ok() && (stale(one) || stale(other)));
        assert_eq!(node.gateway.revision(), base + 1);
    }
}

#[tokio::test]
async fn a_staged_revision_goes_to_its_nodes_and_then_to_all() {
    let (store, _keep) = store().await;
    let (a, b) = (Node::running(&store, "a").await, Node::running(&store, "b").await);
    a.publish(document(1), 0).await.unwrap();
    let nodes = Some(vec![NodeName::from("b")]);
    let staged = Change { nodes: nodes.clone(), ..change(document(2), 1) };
    assert_eq!(a.follower.publish(staged).await.unwrap().nodes, nodes);
    b.has_in_force(2).await;
    assert_eq!(a.gateway.revision(), 1);
    let newest = a.follower.newest().await.unwrap().unwrap();
    assert_eq!((newest.number, &newest.nodes), (2, &nodes));
    match a.publish(document(3), 2).await {
        Err(PublishError::Staged { number: 2, nodes: on }) => assert_eq!(Some(on), nodes),
        other => panic!("{other:?}"),
    }
    let released = a.follower.release(2, entry("revisions.release"), None).await.unwrap();
    assert_eq!((released.number, released.nodes), (2, None));
    assert_eq!(a.gateway.revision(), 2);
    eventually("its node knows", async || b.follower.in_force().unwrap().nodes.is_none()).await;
    assert_eq!(a.follower.newest().await.unwrap().unwrap().nodes, None);
    let again = a.follower.release(2, entry("revisions.release"), None).await;
    assert!(matches!(again, Err(PublishError::NotFound)), "{again:?}");

    let staged = Change { nodes, ..change(document(3), 2) };
    a.follower.publish(staged).await.unwrap();
    let rollback = Change { staged: Staged::Replace, ..change(document(2), 3) };
    assert_eq!(a.follower.publish(rollback).await.unwrap().number, 4);
    assert_eq!(a.gateway.revision(), 4);
    b.has_in_force(4).await;
}

#[tokio::test]
async fn what_cannot_be_put_in_force_is_shown_and_the_old_one_stays() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    node.publish(document(1), 0).await.unwrap();
    for (text, pointer) in [
        (with_pack(2), "/packs/0"),
        // Of a later release, perhaps.
        (document(3).replace("format: 1", "format: 2"), "/format"),
        ("{".to_owned(), ""),
    ] {
        let base = store.newest().await.unwrap().unwrap().info.number;
        let number = written(&store, &text, base).await;
        let errors = node.has_rejected(number).await;
        assert_eq!(errors[0].pointer, pointer);
        assert_eq!(node.gateway.revision(), 1);
        assert_eq!(node.follower.in_force().unwrap().number, 1);
        let line = format!(r#"tollgate_config_revision{{state="rejected"}} {number}"#);
        assert!(metric(&node.gateway, &line));
    }
    // It is shown for what it is, and can be replaced.
    let newest = node.follower.newest().await.unwrap().unwrap();
    assert_eq!((newest.number, &*newest.text), (4, "{"));
    assert_eq!(node.publish(document(4), 4).await.unwrap(), 5);
    assert_eq!(node.gateway.revision(), 5);
    assert_eq!(node.gateway.standing().borrow().rejected, None);
}

#[tokio::test]
async fn a_pack_that_comes_later_brings_its_revision_into_force() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    node.publish(document(1), 0).await.unwrap();
    let number = written(&store, &with_pack(2), 1).await;
    node.has_rejected(number).await;
    node.add_pack();
    node.has_in_force(number).await;
    eventually("nothing is rejected", async || node.gateway.standing().borrow().rejected.is_none())
        .await;
    // The file is replaced after the revision is in force.
    eventually("the last good revision is kept", async || {
        let kept = std::fs::read_to_string(node.last_good()).unwrap();
        kept.contains("quiet")
    })
    .await;
    // Replaced by something that is no pack, and put back.
    let before = node.gateway.live.pin().unwrap();
    let file = node.folder.path().join("packs/quiet-1.0.0.tgpack");
    crate::watch::replace(&file, b"no pack", crate::watch::Readers::Everybody).unwrap();
    let errors = node.has_rejected(number).await;
    assert_eq!(errors[0].pointer, "/packs/0");
    assert!(Arc::ptr_eq(&before, &node.gateway.live.pin().unwrap()));
    // Looking at the store doesn't hide it.
    node.follower.look(&store, None).await.unwrap();
    assert!(node.gateway.standing().borrow().rejected.is_some());
    node.add_pack();
    eventually("the pack is in force again", async || {
        !Arc::ptr_eq(&before, &node.gateway.live.pin().unwrap())
    })
    .await;
    assert_eq!(node.gateway.revision(), number);
}

#[tokio::test]
async fn packs_of_the_revision_in_force_are_followed_while_another_one_is_no_document() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    node.add_pack();
    node.publish(with_pack(1), 0).await.unwrap();
    let number = written(&store, "{", 1).await;
    node.has_rejected(number).await;
    let before = node.gateway.live.pin().unwrap();
    // The same pack with a vector beside it: another file.
    let vector = serde_json::json!({ "expect": { "decision": "continue" } });
    lay(node.folder.path(), &quiet("1.0.0", &[("any", vector)]));
    eventually("the other file is in force", async || {
        !Arc::ptr_eq(&before, &node.gateway.live.pin().unwrap())
    })
    .await;
    let standing = node.gateway.standing().borrow().clone();
    assert_eq!(standing.revision, 1);
    assert_eq!(standing.rejected.unwrap().revision, number);
}

#[tokio::test]
async fn numbers_never_go_backwards_while_many_publish() {
    let (store, _keep) = store().await;
    let (a, b) = (Node::running(&store, "a").await, Node::running(&store, "b").await);
    let watching = [&a, &b].map(|node| {
        let gateway = node.gateway.clone();
        tokio::spawn(async move {
            let (mut standing, mut last) = (gateway.standing(), 0);
            while last < 30 {
                standing.changed().await.unwrap();
                let revision = standing.borrow_and_update().revision;
                assert!(revision >= last, "from {last} back to {revision}");
                last = revision;
            }
        })
    });
    for base in 0..30 {
        let node = if base % 2 == 0 { &a } else { &b };
        let mark = u32::try_from(base).unwrap();
        assert_eq!(node.publish(document(mark), base).await.unwrap(), base + 1);
        assert_eq!(node.gateway.revision(), base + 1);
    }
    for watch in watching {
        tokio::time::timeout(crate::tests::SOON, watch).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_store_that_went_back_is_followed() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    written(&store, &document(1), 0).await;
    // What another history of the store had given.
    let ahead = Candidate::new(7, document(7).into());
    let judged = node.follower.publisher.judge(ahead.text.clone()).await;
    node.follower.publisher.turn().await.take(ahead, judged).unwrap();
    assert_eq!(node.gateway.revision(), 7);
    node.follower.look(&store, None).await.unwrap();
    assert_eq!(node.gateway.revision(), 1);
    assert_eq!(*node.follower.in_force().unwrap().text, *document(1));
    // From there on it counts as the store does.
    assert_eq!(node.publish(document(2), 1).await.unwrap(), 2);
    assert_eq!(node.gateway.revision(), 2);
}

#[tokio::test]
async fn the_newest_revision_is_fetched_once_however_often_it_is_asked_for() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    assert!(node.follower.newest().await.unwrap().is_none());
    let number = written(&store, &document(1), 0).await;
    let first = node.follower.newest().await.unwrap().unwrap();
    let second = node.follower.newest().await.unwrap().unwrap();
    assert_eq!((first.number, second.number), (number, number));
    assert!(Arc::ptr_eq(&first.text, &second.text));
    node.publish(document(2), 1).await.unwrap();
    let third = node.follower.newest().await.unwrap().unwrap();
    assert_eq!(third.number, 2);
    assert!(Arc::ptr_eq(&third.text, &node.follower.in_force().unwrap().text));
    assert_ne!(first.etag, third.etag);
}

#[tokio::test]
async fn a_node_starts_with_the_last_good_revision_while_the_store_is_away() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    for base in 0..3 {
        node.publish(document(u32::try_from(base).unwrap()), base).await.unwrap();
    }
    let mode = std::fs::metadata(node.last_good()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.close().await;

    // The one that runs goes on.
    let refused = node.publish(document(9), 3).await;
    assert!(matches!(refused, Err(PublishError::Store(_))), "{refused:?}");
    assert!(matches!(node.follower.newest().await, Err(StoreError::Unavailable(_))));
    assert_eq!(node.follower.in_force().unwrap().number, 3);
    eventually("the metric says so", async || {
        metric(&node.gateway, r#"tollgate_store_degraded{store="revisions"} 1"#)
    })
    .await;

    let fresh = gateway(&store, "a", node.folder.path());
    let follower = follower(&fresh, node.folder.path());
    follower.start().await;
    assert!(fresh.is_ready().is_ok());
    let in_force = follower.in_force().unwrap();
    assert_eq!((in_force.number, &*in_force.text), (3, &*document(2)));
    assert_eq!(in_force.etag, node.follower.in_force().unwrap().etag);
}

#[tokio::test]
async fn a_node_that_moves_to_an_empty_store_serves_on_until_something_is_published_there() {
    let (old, _keep) = store().await;
    let node = Node::running(&old, "a").await;
    for base in 0..3 {
        node.publish(document(u32::try_from(base).unwrap()), base).await.unwrap();
    }
    let (new, _keep) = store().await;
    let moved = gateway(&new, "a", node.folder.path());
    let follower = follower(&moved, node.folder.path());
    follower.start().await;
    assert_eq!(follower.in_force().unwrap().number, 3);
    assert!(follower.newest().await.unwrap().is_none());
    written(&new, &document(7), 0).await;
    let running = tokio::spawn(follower.clone().run());
    eventually("the new store's revision is in force", async || moved.revision() == 1).await;
    assert_eq!(&*follower.in_force().unwrap().text, &*document(7));
    running.abort();
}

#[tokio::test]
async fn a_last_good_revision_that_is_torn_or_altered_is_refused() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    node.publish(document(1), 0).await.unwrap();
    let whole = std::fs::read_to_string(node.last_good()).unwrap();
    store.close().await;
    for (case, text) in [
        ("whole", whole.clone()),
        ("empty", String::new()),
        ("cut off", whole[..whole.len() - 1].to_owned()),
        ("half", whole[..whole.len() / 2].to_owned()),
        ("its text altered", whole.replace("100/day", "900/day")),
        ("its number altered", whole.replace(r#""number":1"#, r#""number":9"#)),
        ("of a later release", whole.replacen('{', r#"{"later":1,"#, 1)),
        ("no longer valid", with_text(&document(1).replace("plan: gold", "plan: silver"))),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("last-good.json"), text).unwrap();
        let fresh = gateway(&store, "a", folder.path());
        let follower = follower(&fresh, folder.path());
        follower.start().await;
        assert_eq!(follower.in_force().is_some(), case == "whole", "{case}");
        assert_eq!(fresh.is_ready().is_ok(), case == "whole", "{case}");
    }
    let fresh = Node::new(&store, "a");
    fresh.follower.start().await;
    assert!(fresh.follower.in_force().is_none(), "there is no file");
}

/// A last good revision of this text, with its digest.
fn with_text(text: &str) -> String {
    let digest = crate::publish::digest(&format!("1\n{text}"));
    serde_json::json!({ "number": 1, "digest": digest, "text": text }).to_string()
}

#[tokio::test]
async fn a_node_that_cannot_compile_the_newest_starts_with_the_last_good_one() {
    let (store, _keep) = store().await;
    let node = Node::new(&store, "a");
    node.follower.start().await;
    node.publish(document(1), 0).await.unwrap();
    let number = written(&store, &with_pack(2), 1).await;

    let fresh = gateway(&store, "a", node.folder.path());
    let again = follower(&fresh, node.folder.path());
    again.start().await;
    assert_eq!(fresh.revision(), 1);
    let rejected = fresh.standing().borrow().rejected.clone().unwrap();
    assert_eq!((rejected.revision, rejected.errors[0].pointer.as_str()), (number, "/packs/0"));
    let mine = std::fs::read_to_string(node.last_good()).unwrap();
    assert!(mine.contains(r#""number":1"#), "{mine}");
    // With the pack there, it is put in force.
    tokio::spawn(again.clone().run());
    node.add_pack();
    eventually("the newest is in force", async || fresh.revision() == number).await;
}

#[tokio::test]
async fn a_rejected_revision_is_tried_again_after_a_while() {
    let (store, _keep) = store().await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(&store, "a", folder.path());
    let publisher = Publisher::retrying(gateway.clone(), Duration::from_millis(50));
    let file = LastGood::new(folder.path().join("last-good.json"));
    let follower = Arc::new(Follower::with(gateway.clone(), publisher, file));
    follower.start().await;
    tokio::spawn(follower.clone().run());
    follower.publish(change(document(1), 0)).await.unwrap();
    let keys = folder.path().join("keys.json");
    let text = format!(
        r#"{}
issuers:
  - {{ id: idp, issuer: "https://idp.example", audiences: [crm], algorithms: [EdDSA], tenant: acme, jwks: {{ file: "{}" }} }}
"#,
        document(2),
        keys.display()
    );
    let number = written(&store, &text, 1).await;
    eventually("it is rejected", async || {
        let standing = gateway.standing().borrow().clone();
        standing.rejected.is_some_and(|rejected| {
            rejected.revision == number && rejected.errors[0].pointer == "/issuers/0/jwks/file"
        })
    })
    .await;
    // RFC 8037 §A.2.
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}"#;
    std::fs::write(&keys, format!(r#"{{"keys":[{key}]}}"#)).unwrap();
    eventually("it is in force", async || gateway.revision() == number).await;
}

#[tokio::test]
async fn revocations_are_known_everywhere_soon_and_stay_while_the_store_is_away() {
    let (store, _keep) = store().await;
    let nodes = [Node::running(&store, "a").await, Node::running(&store, "b").await];
    nodes[0].publish(document(1), 0).await.unwrap();
    nodes[1].has_in_force(1).await;
    for node in &nodes {
        tokio::spawn(node.heed().run(vec!["gateway".to_owned()]));
    }
    let what = Revoked::Credential {
        tenant: "acme".into(),
        consumer: "a".into(),
        credential: "k1".into(),
    };
    let at = nodes[0].gateway.clock.now();
    let revocation = Revocation { id: "r1".to_owned(), at, until: None, what };
    let effect = Effect::Revoke(revocation);
    let write = Write { effect, audit: entry("revocations.create"), answer: None };
    assert!(nodes.iter().all(|node| node.gateway.memory.revocations.is_empty()));
    store.write(write).await.unwrap();
    for node in &nodes {
        eventually("the revocation is known", async || !node.gateway.memory.revocations.is_empty())
            .await;
    }
    store.close().await;
    tokio::time::sleep(2 * LOOK_PAUSE).await; // Some looks that fail.
    assert!(nodes.iter().all(|node| !node.gateway.memory.revocations.is_empty()));
}

#[tokio::test]
async fn what_was_revoked_stays_so_over_a_start_without_the_store() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    let file = node.folder.path().join("revoked.json");
    let what = Revoked::Issuer { issuer: "idp".into() };
    let at = node.gateway.clock.now();
    let revoke = Effect::Revoke(Revocation { id: "r1".to_owned(), at, until: None, what });
    let write = Write { effect: revoke, audit: entry("revocations"), answer: None };
    store.write(write).await.unwrap();
    node.heed().start().await;
    assert!(!node.gateway.memory.revocations.is_empty());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.close().await;
    let kept = std::fs::read_to_string(&file).unwrap();
    for (text, is_known) in [(kept.clone(), true), (kept.replace("idp", "odp"), false)] {
        std::fs::write(&file, text).unwrap();
        let again = gateway(&store, "a", node.folder.path());
        Heed::new(again.clone(), file.clone()).start().await;
        assert_eq!(!again.memory.revocations.is_empty(), is_known);
    }
    // A node that never knew any starts all the same.
    let fresh = Node::new(&store, "b");
    fresh.heed().start().await;
    assert!(fresh.gateway.memory.revocations.is_empty());
}

#[tokio::test]
async fn a_lifted_revocation_is_forgotten_everywhere_soon() {
    let (store, _keep) = store().await;
    let nodes = [Node::running(&store, "a").await, Node::running(&store, "b").await];
    for node in &nodes {
        tokio::spawn(node.heed().run(vec!["gateway".to_owned()]));
    }
    let at = nodes[0].gateway.clock.now();
    let what = Revoked::Issuer { issuer: "idp".into() };
    let revoke = Effect::Revoke(Revocation { id: "r1".to_owned(), at, until: None, what });
    for (effect, is_empty) in [(revoke, false), (Effect::Lift("r1".to_owned()), true)] {
        let write = Write { effect, audit: entry("revocations"), answer: None };
        store.write(write).await.unwrap();
        for node in &nodes {
            eventually("it is heeded", async || {
                node.gateway.memory.revocations.is_empty() == is_empty
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_node_reports_what_is_in_force_and_what_it_rejects() {
    let (store, _keep) = store().await;
    let node = Node::running(&store, "a").await;
    tokio::spawn(node.heed().run(vec!["gateway".to_owned()]));
    let began = node.gateway.started_at;
    let reported = async || store.nodes(began).await.unwrap().pop();
    eventually("it reports itself", async || reported().await.is_some()).await;
    node.publish(document(1), 0).await.unwrap();
    let number = written(&store, &with_pack(2), 1).await;
    eventually("it reports the rejection", async || {
        reported().await.is_some_and(|report| report.rejected.is_some())
    })
    .await;
    let report = reported().await.unwrap();
    assert_eq!((report.name.as_str(), report.revision, &*report.build), ("a", 1, "test"));
    assert_eq!(report.roles, ["gateway"]);
    let rejected = report.rejected.unwrap();
    assert_eq!((rejected.revision, rejected.errors[0].pointer.as_str()), (number, "/packs/0"));
    assert_eq!(report.started_at, began);
}

#[tokio::test]
async fn a_sealed_secret_is_opened_by_its_key_alone_and_never_shown() {
    let (store, _keep) = store().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = |name: &str, digit: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, digit.repeat(64)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        MasterKeys::read(&[file]).unwrap()
    };
    let (ours, theirs) = (keys("ours", "1"), keys("theirs", "2"));
    let secret = "a secret of more than thirty-two bytes";
    let document = |secret: &str| {
        format!(
            "{}issuers:\n  - {{ id: idp, issuer: x, audiences: [crm], algorithms: [HS256], tenant: acme, secret: {{ {secret} }} }}\n",
            document(1)
        )
    };
    let sealed = document(&format!("sealed: {}", ours.seal(secret.as_bytes()).unwrap()));
    for (case, keys, text, pointer) in [
        ("ours", ours.clone(), sealed.clone(), None),
        ("theirs", theirs, sealed.clone(), Some("/issuers/0/secret/sealed")),
        ("none", MasterKeys::default(), sealed, Some("/issuers/0/secret/sealed")),
        ("file", ours.clone(), document("file: hunter2"), Some("/issuers/0/secret/file")),
        ("env", ours, document("env: TOLLGATE_SECRET_HUNTER2"), Some("/issuers/0/secret/env")),
    ] {
        let gateway = gateway_with(&store, "a", folder.path(), keys);
        let follower = follower(&gateway, folder.path());
        let errors = follower.check(text).await.err().unwrap_or_default();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, Vec::from_iter(pointer), "{case}: {errors:?}");
        let shown = format!("{errors:?}").to_lowercase();
        assert!(!shown.contains("hunter2") && !shown.contains("thirty-two"), "{shown}");
    }
}

/// Its deliveries would go before they are dead letters. One that is in force already serves on.
#[tokio::test]
async fn a_schedule_that_outlasts_the_events_is_not_published() {
    let (store, _keep) = store().await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{}endpoints:\n  - {{ id: e, tenant: acme, url: \"https://hooks.example/\", events: [\"*\"], secret: {{ file: f }}, schedule: [100h] }}\n",
        document(1)
    );
    written(&store, &text, 0).await;
    for (kept, expected) in [("120h", &[][..]), ("119h", &["/endpoints/0/schedule"])] {
        let kept = kept.parse().unwrap();
        let settings = settings(&store, "a", folder.path());
        let gateway = Gateway::new(Settings { events_kept: kept, ..settings }).unwrap();
        let follower = follower(&gateway, folder.path());
        let errors = follower.check(text.clone()).await.err().unwrap_or_default();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{kept}: {errors:?}");
        follower.start().await;
        assert_eq!(follower.in_force().unwrap().number, 1, "{kept}");
    }
}
