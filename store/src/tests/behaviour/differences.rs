//! Differences: found by pack and attachment, bounded for each rollout, gone with the records of the same exchanges.

use crate::Store;
use crate::control::Effect;
use crate::differences::{DIFFERENCES_MAX, DifferenceQuery};
use crate::tests::samples::{at, done, id, record, write};
use model::rollout::Difference;

fn difference(number: u64, attachment: &str, pack: &str, tenant: &str) -> Difference {
    Difference {
        id: id(number),
        at: at(i64::try_from(number).unwrap()),
        attachment: attachment.into(),
        pack: pack.into(),
        running: "1.0.0".to_owned(),
        candidate: "1.1.0".to_owned(),
        request_id: format!("request-{number}"),
        trace_id: format!("{number:032x}"),
        tenant: tenant.into(),
        consumer: "app".into(),
        route: "r".into(),
        phase: "request".to_owned(),
        running_decision: "continue".to_owned(),
        candidate_decision: "deny 403 late".to_owned(),
        why: "decision: continue and deny".to_owned(),
        acted: "running".to_owned(),
    }
}

fn of(rollout: &str, difference: Difference) -> (String, Difference) {
    (rollout.to_owned(), difference)
}

async fn numbers(store: &Store, query: DifferenceQuery) -> Vec<Difference> {
    store.differences(&query).await.unwrap()
}

fn any() -> DifferenceQuery {
    DifferenceQuery { limit: 2_000, ..DifferenceQuery::default() }
}

pub(in crate::tests) async fn differences_are_found_by_what_they_say(store: &Store) {
    let made = [
        difference(1, "a", "p", "acme"),
        difference(2, "b", "p", "acme"),
        difference(3, "c", "q", "globex"),
    ];
    let batch: Vec<_> = made.iter().map(|made| of("r1", made.clone())).collect();
    store.write_differences(batch.clone()).await.unwrap();
    // Tried again, after an answer that never came.
    store.write_differences(batch).await.unwrap();
    store.write_differences(Vec::new()).await.unwrap();
    let on = |attachments: &[&str]| Some(attachments.iter().map(|id| (*id).into()).collect());
    for (query, expected) in [
        (any(), &[3, 2, 1][..]),
        (DifferenceQuery { limit: 1, ..any() }, &[3]),
        (DifferenceQuery { before: Some(id(3)), ..any() }, &[2, 1]),
        (DifferenceQuery { pack: Some("p".into()), ..any() }, &[2, 1]),
        (DifferenceQuery { pack: Some("p".into()), attachments: on(&["b", "c"]), ..any() }, &[2]),
        (DifferenceQuery { attachments: on(&["c", "a"]), ..any() }, &[3, 1]),
        (DifferenceQuery { attachments: on(&[]), ..any() }, &[]),
        (DifferenceQuery { pack: Some("P".into()), ..any() }, &[]),
    ] {
        let said = format!("{query:?}");
        let expected: Vec<_> =
            expected.iter().map(|number: &usize| made[number - 1].clone()).collect();
        assert_eq!(numbers(store, query).await, expected, "{said}");
    }
}

pub(in crate::tests) async fn the_newest_differences_of_a_rollout_are_kept(store: &Store) {
    let max = u64::from(DIFFERENCES_MAX);
    let batch = (0..max + 700).map(|number| of("long", difference(number, "a", "p", "acme")));
    store.write_differences(vec![of("other", difference(99_999, "b", "q", "acme"))]).await.unwrap();
    store.write_differences(batch.collect()).await.unwrap();
    let count = async |pack: &str| {
        let sql = "SELECT count(*) FROM differences WHERE pack = $1";
        let pack = pack.to_owned();
        let read = store.db.read(move |connection| {
            Box::pin(async move {
                sqlx::query_scalar::<_, i64>(sql).bind(pack).fetch_one(connection).await
            })
        });
        u64::try_from(read.await.unwrap()).unwrap()
    };
    assert_eq!((count("p").await, count("q").await), (max, 1));
    // The oldest went.
    let oldest = DifferenceQuery { pack: Some("p".into()), before: Some(id(705)), ..any() };
    let left: Vec<_> = numbers(store, oldest).await.into_iter().map(|found| found.id).collect();
    assert_eq!(left, [704, 703, 702, 701, 700].map(id));
}

pub(in crate::tests) async fn differences_go_with_the_records_of_their_exchanges(store: &Store) {
    let tenant = |number: u64| if number.is_multiple_of(2) { "acme" } else { "globex" };
    let batch = (0..1_300).map(|n| of("r1", difference(n, "a", "p", tenant(n))));
    store.write_differences(batch.collect()).await.unwrap();
    store.write_records(vec![record(1, Some("acme"), "r", 0)]).await.unwrap();
    assert_eq!(store.purge_records(at(1_100)).await.unwrap(), 1_101);
    assert_eq!(numbers(store, any()).await.len(), 200);
    store.write_records(vec![record(2, Some("acme"), "r", 1_150)]).await.unwrap();
    let erase = write(Effect::EraseRecords("acme".into(), at(1_200)));
    assert_eq!(done(store.write(erase).await).rows, 52, "until then, that second included");
    assert_eq!(numbers(store, any()).await.len(), 149);
}
