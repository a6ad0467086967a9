//! What every store does, as claims: each takes a fresh store, whichever kind it is. [`store_suite!`] makes a test of each.

use super::samples::{
    answer, at, done, entry, id, publish, published, record, revocation, staged, token, write,
};
use crate::Store;
use crate::control::{AuditQuery, Effect, Write, WriteError};
use crate::records::RecordQuery;
use model::id::NodeName;
use model::node::{NodeReport, Rejected};
use model::port::StoreError;
use model::revocation::{REVOCATIONS_MAX, Revoked};
use model::role::Role;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes a test of each claim. The expression is a future of a fresh store, and of what must live as long as it.
macro_rules! store_suite {
    ($fresh:expr) => {
        $crate::tests::behaviour::store_suite!(@claims $fresh;
            revisions_are_numbered_from_one_and_keep_their_texts,
            a_change_of_what_is_no_longer_newest_is_stale,
            a_staged_revision_is_its_nodes_until_it_is_released,
            only_the_newest_staged_revision_is_released,
            a_nodes_name_is_matched_whole,
            every_write_has_its_audit_entry_or_is_not_done,
            audit_is_found_by_what_it_says,
            a_kept_answer_is_done_once_and_expires,
            tokens_live_until_they_are_revoked,
            the_last_token_stays,
            the_first_token_is_made_once,
            a_revocation_replaces_an_older_one_of_the_same,
            revocations_are_bounded,
            nodes_say_the_newest_of_themselves,
            the_first_value_under_a_name_is_kept,
            the_feed_grows_with_what_nodes_must_notice,
            a_write_between_looking_and_waiting_ends_the_wait,
            text_that_a_database_can_not_keep_is_kept_readable,
            records_are_found_by_what_they_say,
            a_batch_of_records_is_written_once,
            records_go_by_age_and_by_tenant,
            what_expired_is_purged,
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn of_many_who_publish_each_is_acknowledged_once() {
            let (store, _keep) = $fresh.await;
            $crate::tests::behaviour::many_publish(store).await;
        }
    };
    (@claims $fresh:expr; $($claim:ident,)*) => { $(
        #[tokio::test]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::tests::behaviour::$claim(&store).await;
        }
    )* };
}
pub(super) use store_suite;

pub(super) async fn revisions_are_numbered_from_one_and_keep_their_texts(store: &Store) {
    assert!(store.newest().await.unwrap().is_none());
    assert!(store.newest_for(&"a".into()).await.unwrap().is_none());
    // The third is the first again, byte for byte: a rollback.
    for (base, text) in [(0, "one: ä\n"), (1, "two"), (2, "one: ä\n")] {
        assert_eq!(published(store, text, base).await, base + 1);
    }
    let newest = store.newest().await.unwrap().unwrap();
    assert_eq!((newest.info.number, &*newest.text, newest.info.size), (3, "one: ä\n", 8));
    assert_eq!((newest.info.at, newest.info.nodes), (at(0), None));
    assert_eq!((&*newest.info.author, &*newest.info.action), ("ann", "document.put"));
    let first = store.revision(1).await.unwrap().unwrap();
    assert_eq!(first.info.digest, newest.info.digest);
    assert!(first.info.digest.starts_with("sha256:") && first.info.digest.len() == 71);
    assert!(store.revision(4).await.unwrap().is_none());
    assert!(store.revision(u64::MAX).await.unwrap().is_none());
    for (before, limit, numbers) in
        [(None, 2, vec![3, 2]), (Some(2), 9, vec![1]), (Some(u64::MAX), 9, vec![3, 2, 1])]
    {
        let listed = store.revisions(before, limit).await.unwrap();
        assert_eq!(listed.iter().map(|info| info.number).collect::<Vec<_>>(), numbers);
    }
}

pub(super) async fn a_change_of_what_is_no_longer_newest_is_stale(store: &Store) {
    let told = store.write(publish("x", 1)).await;
    assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
    published(store, "one", 0).await;
    for base in [0, 2, u64::MAX] {
        let told = store.write(publish("x", base)).await;
        assert!(matches!(told, Err(WriteError::Stale)), "{base}: {told:?}");
    }
    assert_eq!(store.newest().await.unwrap().unwrap().info.number, 1);
}

pub(super) async fn a_staged_revision_is_its_nodes_until_it_is_released(store: &Store) {
    let number_for = async |node: &str| {
        store.newest_for(&node.into()).await.unwrap().map(|found| found.info.number)
    };
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["a", "b"])).await);
    assert_eq!(number_for("a").await, Some(2));
    assert_eq!(number_for("c").await, Some(1));
    assert_eq!(store.newest().await.unwrap().unwrap().info.number, 2);
    let told = store.write(publish("three", 2)).await;
    let Err(WriteError::Staged { number: 2, nodes }) = told else { panic!("{told:?}") };
    assert_eq!(nodes, ["a", "b"].map(NodeName::from));
    assert_eq!(done(store.write(write(Effect::Release(2))).await).revision, Some(2));
    assert_eq!(number_for("c").await, Some(2));
    assert_eq!(store.revision(2).await.unwrap().unwrap().info.nodes, None);
    // A rollback takes the place of one that is not everybody's, which then is nobody's newest any more.
    done(store.write(staged("three", 2, &["a"])).await);
    let rollback =
        Effect::Publish { text: "one".into(), base: 3, nodes: None, replaces_staged: true };
    assert_eq!(done(store.write(write(rollback)).await).revision, Some(4));
    assert_eq!((number_for("a").await, number_for("c").await), (Some(4), Some(4)));
}

pub(super) async fn only_the_newest_staged_revision_is_released(store: &Store) {
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["a"])).await);
    let replaces =
        Effect::Publish { text: "three".into(), base: 2, nodes: None, replaces_staged: true };
    done(store.write(write(replaces)).await);
    for (number, why) in
        [(1, "everybody's"), (2, "not the newest"), (3, "everybody's"), (4, "absent")]
    {
        let told = store.write(write(Effect::Release(number))).await;
        assert!(matches!(told, Err(WriteError::NotFound)), "{number} is {why}: {told:?}");
    }
}

pub(super) async fn a_nodes_name_is_matched_whole(store: &Store) {
    published(store, "one", 0).await;
    done(store.write(staged("two", 1, &["node_1", "B"])).await);
    for (node, number) in [
        ("node_1", 2),
        ("B", 2),
        ("node_", 1),
        ("ode_1", 1),
        ("node_10", 1),
        ("nodeX1", 1),
        ("b", 1),
        ("", 1),
        ("%", 1),
        ("node_1\",\"B", 1),
    ] {
        let found = store.newest_for(&node.into()).await.unwrap().unwrap();
        assert_eq!(found.info.number, number, "{node}");
    }
}

pub(super) async fn every_write_has_its_audit_entry_or_is_not_done(store: &Store) {
    let all = AuditQuery { limit: 100, ..AuditQuery::default() };
    let published = publish("one", 0);
    let mut told = published.audit.clone();
    done(store.write(published).await);
    told.revision = Some(1);
    assert_eq!(store.audit(&all).await.unwrap(), [told.clone()], "the revision is filled in");
    // Refused, or impossible: an entry's id can't be written twice.
    let mut twice = publish("two", 1);
    twice.audit.id = told.id.clone();
    let (first, hash) = token(1, Role::Viewer, None);
    let mut hashed = write(Effect::CreateToken(first, hash));
    hashed.audit.id = told.id.clone();
    for (why, impossible) in [
        ("stale", publish("two", 0)),
        ("twice", twice),
        ("hashed", hashed),
        ("absent", write(Effect::Release(9))),
    ] {
        let kept = Write { answer: Some(answer(1, 60)), ..impossible };
        store.write(kept).await.unwrap_err();
        assert_eq!(store.audit(&all).await.unwrap().len(), 1, "{why}");
        assert_eq!(store.newest().await.unwrap().unwrap().info.number, 1, "{why}");
        assert!(store.answer(&[1; 32], at(0)).await.unwrap().is_none(), "{why}");
        assert!(store.token_of(&hash).await.unwrap().is_none(), "{why}");
        assert_eq!(store.feed().await.unwrap(), 1, "{why}");
    }
    // A note is nothing but its entry; its revision is whose it says.
    let mut note = write(Effect::Note);
    note.audit.revision = Some(7);
    done(store.write(note.clone()).await);
    assert_eq!(store.audit(&all).await.unwrap(), [note.audit, told]);
}

pub(super) async fn audit_is_found_by_what_it_says(store: &Store) {
    let long = format!("/v1/plans/{}", "ä".repeat(2_000));
    let rows = [
        ("ann", "plans.put", "/v1/plans/gold", Some("acme"), 0),
        ("ann", "plans.put", "/v1/plans", None, 1),
        ("bob", "plans.put", "/v1/plans_old", None, 2),
        ("bob", "tokens.create", "/v1/tokens", Some("acme"), 3),
        ("ann", "plans.delete", long.as_str(), Some("globex"), 4),
    ];
    let mut ids = Vec::new();
    for (actor, action, resource, tenant, seconds) in rows {
        let mut note = write(Effect::Note);
        note.audit = entry(action, resource);
        note.audit.actor.name = actor.to_owned();
        note.audit.tenant = tenant.map(Into::into);
        note.audit.at = at(seconds);
        ids.push(note.audit.id.clone());
        done(store.write(note).await);
    }
    let any = || AuditQuery { limit: 100, ..AuditQuery::default() };
    let resource = |path: &str| AuditQuery { resource: Some(path.to_owned()), ..any() };
    for (why, query, found) in [
        ("all", any(), vec![4, 3, 2, 1, 0]),
        ("limit", AuditQuery { limit: 2, ..any() }, vec![4, 3]),
        ("before", AuditQuery { before: Some(ids[2].clone()), ..any() }, vec![1, 0]),
        ("tenant", AuditQuery { tenant: Some("acme".into()), ..any() }, vec![3, 0]),
        ("actor", AuditQuery { actor: Some("bob".to_owned()), ..any() }, vec![3, 2]),
        ("action", AuditQuery { action: Some("plans.put".to_owned()), ..any() }, vec![2, 1, 0]),
        ("beneath", resource("/v1/plans"), vec![4, 1, 0]),
        ("with a slash", resource("/v1/plans/"), vec![4, 1, 0]),
        ("one", resource("/v1/plans/gold"), vec![0]),
        ("none", resource("/v1/plan"), vec![]),
        ("long", resource(&long), vec![4]),
        ("since", AuditQuery { since: Some(at(3)), ..any() }, vec![4, 3]),
        ("until", AuditQuery { until: Some(at(3)), ..any() }, vec![2, 1, 0]),
        (
            "several",
            AuditQuery {
                actor: Some("ann".to_owned()),
                since: Some(at(1)),
                tenant: Some("globex".into()),
                before: Some("zzz".to_owned()),
                ..any()
            },
            vec![4],
        ),
    ] {
        let entries = store.audit(&query).await.unwrap();
        let places: Vec<_> = entries
            .iter()
            .map(|entry| ids.iter().position(|id| *id == entry.id).unwrap())
            .collect();
        assert_eq!(places, found, "{why}");
    }
    let whole = store.audit(&resource(&long)).await.unwrap();
    assert_eq!(whole[0].resource, long, "only what is searched is cut");
}

pub(super) async fn a_kept_answer_is_done_once_and_expires(store: &Store) {
    let with = |digest, until, seconds: i64| {
        let mut note = write(Effect::Note);
        note.audit.at = at(seconds);
        Write { answer: Some(answer(digest, until)), ..note }
    };
    done(store.write(with(1, 60, 0)).await);
    assert_eq!(store.answer(&[1; 32], at(59)).await.unwrap(), Some(answer(1, 60)));
    assert_eq!(store.answer(&[1; 32], at(60)).await.unwrap(), None);
    assert_eq!(store.answer(&[2; 32], at(0)).await.unwrap(), None);
    let told = store.write(with(1, 90, 59)).await;
    assert!(matches!(told, Err(WriteError::Repeat)), "{told:?}");
    done(store.write(with(1, 90, 60)).await);
    assert_eq!(store.answer(&[1; 32], at(60)).await.unwrap(), Some(answer(1, 90)));
    let entries = store.audit(&AuditQuery { limit: 100, ..AuditQuery::default() }).await.unwrap();
    assert_eq!(entries.len(), 2, "the repeat left none");
    // Of two at once, one is done.
    let (one, other) = tokio::join!(store.write(with(5, 60, 0)), store.write(with(5, 60, 0)));
    let repeats = [one, other].into_iter().filter(|told| matches!(told, Err(WriteError::Repeat)));
    assert_eq!(repeats.count(), 1);
}

pub(super) async fn tokens_live_until_they_are_revoked(store: &Store) {
    let create = async |number, role, tenant, expires_at| {
        let (mut token, hash) = token(number, role, tenant);
        token.expires_at = expires_at;
        done(store.write(write(Effect::CreateToken(token.clone(), hash))).await);
        token
    };
    let admin = create(1, Role::Admin, None, None).await;
    let bound = create(2, Role::Viewer, Some("acme"), Some(at(60))).await;
    let other = create(3, Role::Publisher, Some("globex"), None).await;
    let list = async |tenant: Option<&str>, before: Option<&model::id::TokenId>| {
        store.tokens(tenant.map(Into::into).as_ref(), before, 10).await.unwrap()
    };
    assert_eq!(list(None, None).await, [other.clone(), bound.clone(), admin.clone()]);
    assert_eq!(list(None, Some(&other.id)).await, [bound.clone(), admin.clone()]);
    assert_eq!(list(Some("acme"), None).await, std::slice::from_ref(&bound));
    assert_eq!(store.token_of(&[2; 32]).await.unwrap(), Some(bound.clone()));
    assert_eq!(store.token_of(&[9; 32]).await.unwrap(), None);
    assert_eq!(store.token(&bound.id).await.unwrap(), Some(bound.clone()));
    let revoke = || write(Effect::RevokeToken(bound.id.clone(), at(5)));
    done(store.write(revoke()).await);
    let revoked = store.token_of(&[2; 32]).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(5)));
    assert!(!revoked.is_live(at(5)));
    assert_eq!(store.token(&bound.id).await.unwrap(), None);
    assert_eq!(list(None, None).await, [other, admin]);
    for absent in [revoke(), write(Effect::RevokeToken("nobody".into(), at(5)))] {
        let told = store.write(absent).await;
        assert!(matches!(told, Err(WriteError::NotFound)), "{told:?}");
    }
}

pub(super) async fn the_last_token_stays(store: &Store) {
    for (number, role, tenant, expires_at) in [
        (1, Role::Admin, None, None),
        (2, Role::Admin, None, None),
        (3, Role::Admin, None, Some(at(5))),
        (4, Role::Admin, Some("acme"), None),
        (5, Role::Operator, None, None),
    ] {
        let (mut token, hash) = token(number, role, tenant);
        token.expires_at = expires_at;
        done(store.write(write(Effect::CreateToken(token, hash))).await);
    }
    let revoke = |number| write(Effect::RevokeToken(id(number).as_str().into(), at(10)));
    // Two at once: each would leave the other's.
    let (one, other) = tokio::join!(store.write(revoke(1)), store.write(revoke(2)));
    let last = [one, other].into_iter().filter(|told| matches!(told, Err(WriteError::LastToken)));
    assert_eq!(last.count(), 1);
    let live = store.tokens(None, None, 10).await.unwrap();
    assert!(live.iter().any(|token| token.tenant.is_none() && token.expires_at.is_none()));
    for number in [3, 4, 5] {
        done(store.write(revoke(number)).await);
    }
}

pub(super) async fn the_first_token_is_made_once(store: &Store) {
    // Neither of these is a live admin of no tenant.
    for (number, role, tenant) in [(1, Role::Operator, None), (2, Role::Admin, Some("acme"))] {
        let (token, hash) = token(number, role, tenant);
        done(store.write(write(Effect::CreateToken(token, hash))).await);
    }
    let first = async |number| {
        let (token, hash) = token(number, Role::Admin, None);
        store.first_token(token, hash, entry("tokens.create", "/v1/tokens")).await.unwrap()
    };
    let (one, other) = tokio::join!(first(3), first(4));
    assert!(one != other, "{one} {other}");
    assert!(!first(5).await);
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    assert_eq!(store.audit(&all).await.unwrap().len(), 3, "with an audit entry, once");
}

pub(super) async fn a_revocation_replaces_an_older_one_of_the_same(store: &Store) {
    let mut forever = revocation(2, "b", 1);
    forever.until = None;
    forever.what = Revoked::Subject { issuer: "idp".into(), subject: "ä".repeat(4_000) };
    for made in [revocation(1, "a", 0), forever.clone(), revocation(3, "a", 30)] {
        done(store.write(write(Effect::Revoke(made))).await);
    }
    let in_force = async |seconds| store.revocations(at(seconds)).await.unwrap();
    assert_eq!(in_force(0).await, [forever.clone(), revocation(3, "a", 30)]);
    assert_eq!(in_force(89).await.len(), 2);
    assert_eq!(in_force(90).await, [forever]);
}

pub(super) async fn revocations_are_bounded(store: &Store) {
    // As many as there may be, but one.
    let fill = "WITH RECURSIVE counted(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < $1) \
        INSERT INTO revocations (digest, id, at, until, what) \
        SELECT CAST('x' || n AS BLOB), 'x' || n, 0, NULL, '{}' FROM counted";
    let max = i64::try_from(REVOCATIONS_MAX).unwrap();
    let filled = store.db.write(0, move |connection| {
        Box::pin(async move {
            let fill = if crate::db::is_postgres(connection) {
                fill.replace("CAST('x' || n AS BLOB)", "convert_to('x' || n, 'UTF8')")
            } else {
                fill.to_owned()
            };
            sqlx::query(sqlx::AssertSqlSafe(fill)).bind(max).execute(connection).await.map(drop)
        })
    });
    filled.await.unwrap();
    done(store.write(write(Effect::Revoke(revocation(1, "a", 0)))).await);
    done(store.write(write(Effect::Revoke(revocation(2, "a", 1)))).await);
    let told = store.write(write(Effect::Revoke(revocation(3, "b", 1)))).await;
    assert!(matches!(told, Err(WriteError::TooMany(_))), "{told:?}");
    // One that is no longer in force leaves its place.
    done(store.write(write(Effect::Revoke(revocation(4, "b", 61)))).await);
}

pub(super) async fn nodes_say_the_newest_of_themselves(store: &Store) {
    let report = |name: &str, seconds, revision| NodeReport {
        name: name.into(),
        roles: vec!["gateway".to_owned()],
        build: "0.1.0".to_owned(),
        revision,
        rejected: (revision == 2).then(|| Rejected { revision: 3, errors: Vec::new() }),
        started_at: at(0),
        seen_at: at(seconds),
    };
    for (name, seconds, revision) in [("b", 1, 1), ("a", 2, 1), ("b", 5, 2), ("c", 0, 1)] {
        store.report_node(&report(name, seconds, revision)).await.unwrap();
    }
    assert_eq!(store.nodes(at(1)).await.unwrap(), [report("a", 2, 1), report("b", 5, 2)]);
    assert_eq!(store.nodes(at(0)).await.unwrap().len(), 3);
}

pub(super) async fn the_first_value_under_a_name_is_kept(store: &Store) {
    let (one, other) = tokio::join!(store.kept("salt", vec![1]), store.kept("salt", vec![2]));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(store.kept("other", vec![]).await.unwrap(), Vec::<u8>::new());
    assert_eq!(store.kept("other", vec![3]).await.unwrap(), Vec::<u8>::new());
}

pub(super) async fn the_feed_grows_with_what_nodes_must_notice(store: &Store) {
    let (token, hash) = token(1, Role::Viewer, None);
    let erase = Effect::EraseRecords("acme".into(), at(0));
    for (write, version) in [
        (publish("one", 0), 1),
        (staged("two", 1, &["a"]), 2),
        (write(Effect::Release(2)), 3),
        (write(Effect::Revoke(revocation(1, "a", 0))), 4),
        (write(Effect::CreateToken(token.clone(), hash)), 4),
        (write(Effect::RevokeToken(token.id, at(0))), 4),
        (write(erase), 4),
        (write(Effect::Note), 4),
    ] {
        let said = format!("{:?}", write.effect);
        done(store.write(write).await);
        assert_eq!(store.feed().await.unwrap(), version, "{said}");
    }
}

pub(super) async fn a_write_between_looking_and_waiting_ends_the_wait(store: &Store) {
    const LONG: Duration = Duration::from_secs(20);
    const BRIEF: Duration = Duration::from_millis(1);
    let (follower, other) = (store.clone(), store.clone());
    follower.feed().await.unwrap();
    other.feed().await.unwrap();
    published(store, "one", 0).await;
    let begun = Instant::now();
    // Each follower is told, whoever looked first.
    follower.changed(LONG).await;
    other.feed().await.unwrap();
    assert_eq!(other.feed().await.unwrap(), 1);
    follower.feed().await.unwrap();
    // And while it waits.
    let follows = async {
        // A hint means no more than to look.
        while follower.feed().await.unwrap() < 2 {
            follower.changed(LONG).await;
        }
    };
    tokio::join!(follows, published(store, "two", 1));
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    // What did not happen is not waited for longer than was asked.
    follower.changed(BRIEF).await;
    follower.changed(BRIEF).await;
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

pub(super) async fn text_that_a_database_can_not_keep_is_kept_readable(store: &Store) {
    // A NUL, which PostgreSQL has not, wherever a client can bring one.
    let mut note = write(Effect::Note);
    note.audit.resource = "/v1/plans/\0".to_owned();
    note.audit.actor.name = "a\0".to_owned();
    done(store.write(note.clone()).await);
    let resource = Some("/v1/plans/\0".to_owned());
    let before = Some("\u{ffff}\0".to_owned());
    let query = AuditQuery { resource, before, limit: 1, ..AuditQuery::default() };
    assert_eq!(store.audit(&query).await.unwrap(), [note.audit]);
    let (mut named, hash) = token(1, Role::Viewer, None);
    named.name = "n\0".to_owned();
    done(store.write(write(Effect::CreateToken(named, hash))).await);
    assert_eq!(store.token_of(&hash).await.unwrap().unwrap().name, "n\u{fffd}");
    assert_eq!(store.token(&"\0".into()).await.unwrap(), None);
    assert!(store.newest_for(&"\0".into()).await.unwrap().is_none());
    let query = RecordQuery { exchange: Some("\0".to_owned()), limit: 1, ..RecordQuery::default() };
    assert_eq!(store.records(&query).await.unwrap(), []);
    let mut odd = record(1, None, "r", 0);
    odd.path = "/\0".to_owned();
    odd.request_id = "\0".to_owned();
    store.write_records(vec![odd.clone()]).await.unwrap();
    assert_eq!(store.records(&query).await.unwrap(), [odd]);
    // A document with one is refused as a whole, if at all.
    match store.write(publish("one: \0", 0)).await {
        Ok(_) => assert_eq!(&*store.newest().await.unwrap().unwrap().text, "one: \0"),
        Err(_) => assert!(store.newest().await.unwrap().is_none()),
    }
}

pub(super) async fn records_are_found_by_what_they_say(store: &Store) {
    let records: Vec<_> = [
        (1, Some("acme"), "contacts.list", 0),
        (2, Some("acme"), "contacts.create", 1),
        (3, Some("globex"), "contacts.list", 2),
        (4, None, "contacts.list", 3),
    ]
    .into_iter()
    .map(|(number, tenant, route, seconds)| record(number, tenant, route, seconds))
    .collect();
    store.write_records(records.clone()).await.unwrap();
    let any = || RecordQuery { limit: 100, ..RecordQuery::default() };
    let exchange = |id: &str| RecordQuery { exchange: Some(id.to_owned()), ..any() };
    for (why, query, found) in [
        ("all", any(), vec![4, 3, 2, 1]),
        ("limit", RecordQuery { limit: 1, ..any() }, vec![4]),
        ("before", RecordQuery { before: Some(id(3)), ..any() }, vec![2, 1]),
        ("request id", exchange("request-2"), vec![2]),
        ("trace id", exchange(&format!("{:032x}", 3)), vec![3]),
        ("neither", exchange("request"), vec![]),
        ("tenant", RecordQuery { tenant: Some("acme".into()), ..any() }, vec![2, 1]),
        ("consumer", RecordQuery { consumer: Some("globex-mobile".into()), ..any() }, vec![3]),
        ("route", RecordQuery { route: Some("contacts.list".into()), ..any() }, vec![4, 3, 1]),
        ("error", RecordQuery { error: Some("RATE_LIMITED".to_owned()), ..any() }, vec![3, 1]),
        ("since", RecordQuery { since: Some(at(2)), ..any() }, vec![4, 3]),
        ("until", RecordQuery { until: Some(at(2)), ..any() }, vec![2, 1]),
        (
            "another tenant's",
            RecordQuery { tenant: Some("globex".into()), ..exchange("request-2") },
            vec![],
        ),
    ] {
        let found: Vec<_> =
            found.into_iter().map(|number: usize| records[number - 1].clone()).collect();
        assert_eq!(store.records(&query).await.unwrap(), found, "{why}");
    }
}

pub(super) async fn a_batch_of_records_is_written_once(store: &Store) {
    let batch: Vec<_> = (0..1_234).map(|number| record(number, Some("acme"), "r", 0)).collect();
    store.write_records(batch.clone()).await.unwrap();
    // Tried again, after an answer that never came: what is there stays as it is.
    let mut again = batch.clone();
    again[0].path = "/other".to_owned();
    again.push(record(5_000, Some("acme"), "r", 0));
    store.write_records(again).await.unwrap();
    store.write_records(Vec::new()).await.unwrap();
    let all = RecordQuery { limit: 2_000, ..RecordQuery::default() };
    let found = store.records(&all).await.unwrap();
    assert_eq!(found.len(), 1_235);
    assert_eq!(found.last(), batch.first());
}

pub(super) async fn records_go_by_age_and_by_tenant(store: &Store) {
    let mut batch = Vec::new();
    for number in 0..1_300 {
        let tenant = if number % 2 == 0 { "acme" } else { "globex" };
        batch.push(record(number, Some(tenant), "r", i64::try_from(number).unwrap()));
    }
    store.write_records(batch).await.unwrap();
    assert_eq!(store.purge_records(at(0)).await.unwrap(), 0);
    assert_eq!(store.purge_records(at(1_100)).await.unwrap(), 1_100);
    let erase = || write(Effect::EraseRecords("acme".into(), at(1_200)));
    assert_eq!(done(store.write(erase()).await).rows, 51, "until then, that second included");
    assert_eq!(done(store.write(erase()).await).rows, 0);
    let left = RecordQuery { limit: 1_000, ..RecordQuery::default() };
    assert_eq!(store.records(&left).await.unwrap().len(), 149);
    let acme = RecordQuery { tenant: Some("acme".into()), ..left };
    assert_eq!(store.records(&acme).await.unwrap().len(), 49);
    // A repeat deletes nothing more.
    let with = |until| Write {
        answer: Some(answer(1, 60)),
        ..write(Effect::EraseRecords("acme".into(), until))
    };
    assert_eq!(done(store.write(with(at(1_202))).await).rows, 1);
    let told = store.write(with(at(2_000))).await;
    assert!(matches!(told, Err(WriteError::Repeat)), "{told:?}");
    assert_eq!(store.records(&acme).await.unwrap().len(), 48);
}

pub(super) async fn what_expired_is_purged(store: &Store) {
    const WEEK: i64 = 7 * 24 * 3_600;
    done(store.write(Write { answer: Some(answer(1, 60)), ..write(Effect::Note) }).await);
    done(store.write(write(Effect::Revoke(revocation(1, "a", 0)))).await);
    let node = NodeReport {
        name: "a".into(),
        roles: Vec::new(),
        build: String::new(),
        revision: 0,
        rejected: None,
        started_at: at(0),
        seen_at: at(0),
    };
    store.report_node(&node).await.unwrap();
    let feed = store.feed().await.unwrap();
    for (seconds, rows) in [(59, 0), (60, 2), (WEEK - 1, 0), (WEEK, 1)] {
        let purged = store.purge(at(seconds).as_microsecond()).await.unwrap();
        assert_eq!(purged, rows, "after {seconds} s");
    }
    assert_eq!(store.feed().await.unwrap(), feed, "nobody has to look");
    assert_eq!(store.nodes(at(0)).await.unwrap(), []);
}

/// 16 tasks publish from what they think is the newest: no number is missing, and each is acknowledged to one of them.
pub(super) async fn many_publish(store: Store) {
    const TASKS: usize = 16;
    const EACH: usize = 12;
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut mine = Vec::new();
            while mine.len() < EACH {
                let newest = store.newest().await.unwrap();
                let base = newest.map_or(0, |newest| newest.info.number);
                let text = format!("{task} {}", mine.len());
                match store.write(publish(&text, base)).await {
                    Ok(written) => mine.push((written.revision.unwrap(), text)),
                    Err(WriteError::Stale) => {}
                    Err(WriteError::Store(StoreError::Unavailable(error))) => panic!("{error}"),
                    Err(error) => panic!("{error:?}"),
                }
            }
            mine
        });
    }
    let acknowledged: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let numbers: BTreeSet<_> = acknowledged.iter().map(|(number, _)| *number).collect();
    let all = (TASKS * EACH) as u64;
    assert_eq!(numbers, (1..=all).collect());
    for (number, text) in acknowledged {
        assert_eq!(*store.revision(number).await.unwrap().unwrap().text, *text);
    }
    assert_eq!(store.feed().await.unwrap(), all);
}
