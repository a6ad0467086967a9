//! What nodes share: the feed, revocations, their reports, and what was made once.

use super::packs::{datum, pushed};
use crate::Store;
use crate::control::{Effect, Over, WriteError};
use crate::tests::samples::{at, done, publish, published, revocation, staged, token, write};
use model::node::{NodeReport, Rejected};
use model::revocation::{REVOCATIONS_MAX, Revocation, Revoked};
use model::role::Role;
use std::time::{Duration, Instant};

pub(in crate::tests) async fn a_revocation_replaces_an_older_one_of_the_same(store: &Store) {
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

pub(in crate::tests) async fn a_lifted_revocation_is_gone_and_the_others_stay(store: &Store) {
    let (lifted, other) = (revocation(1, "a", 0), revocation(2, "b", 0));
    for made in [&lifted, &other] {
        done(store.write(write(Effect::Revoke(made.clone()))).await);
    }
    let found = async |made: &Revocation, seconds| {
        let by_id = store.revocation(&made.id, at(seconds)).await.unwrap();
        assert_eq!(store.revocation_of(&made.what, at(seconds)).await.unwrap(), by_id);
        by_id
    };
    assert_eq!(found(&lifted, 0).await, Some(lifted.clone()));
    assert_eq!(found(&lifted, 60).await, None, "no longer in force");
    let lift = || write(Effect::Lift(lifted.id.clone()));
    done(store.write(lift()).await);
    assert_eq!(found(&lifted, 0).await, None);
    assert_eq!(store.revocations(at(0)).await.unwrap(), [other]);
    let told = store.write(lift()).await;
    assert!(matches!(told, Err(WriteError::NotFound)), "{told:?}");
    // It may be made again.
    done(store.write(write(Effect::Revoke(lifted.clone()))).await);
    assert_eq!(found(&lifted, 0).await, Some(lifted));
}

pub(in crate::tests) async fn revocations_are_bounded(store: &Store) {
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

pub(in crate::tests) async fn nodes_say_the_newest_of_themselves(store: &Store) {
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

pub(in crate::tests) async fn the_first_value_under_a_name_is_kept(store: &Store) {
    let (one, other) = tokio::join!(store.kept("salt", vec![1]), store.kept("salt", vec![2]));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(store.kept("other", vec![]).await.unwrap(), Vec::<u8>::new());
    assert_eq!(store.kept("other", vec![3]).await.unwrap(), Vec::<u8>::new());
}

pub(in crate::tests) async fn the_feed_grows_with_what_nodes_must_notice(store: &Store) {
    let (token, hash) = token(1, Role::Viewer, None);
    let erase = Effect::EraseRecords("acme".into(), at(0));
    for (write, version) in [
        (publish("one", 0), 1),
        (staged("two", 1, &["a"]), 2),
        (write(Effect::Release(2)), 3),
        (write(Effect::Revoke(revocation(1, "a", 0))), 4),
        (write(Effect::Lift(revocation(1, "a", 0).id)), 5),
        (write(Effect::CreateToken(token.clone(), hash)), 5),
        (write(Effect::RevokeToken(token.id, at(0))), 5),
        (write(erase), 5),
        (write(Effect::Note), 5),
        (pushed("1.0.0"), 6),
        (write(Effect::PutPackData(Box::new(datum("k", "v")), Over::Anything)), 7),
        (
            write(Effect::DeletePackData {
                pack: "p".into(),
                key: "k".to_owned(),
                over: Over::Anything,
            }),
            8,
        ),
    ] {
        let said = format!("{:?}", write.effect);
        done(store.write(write).await);
        assert_eq!(store.feed().await.unwrap(), version, "{said}");
    }
}

pub(in crate::tests) async fn a_write_between_looking_and_waiting_ends_the_wait(store: &Store) {
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
