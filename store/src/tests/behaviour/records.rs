//! Decision records, and what goes by itself.

use crate::Store;
use crate::control::{AuditQuery, Effect, Write, WriteError};
use crate::records::RecordQuery;
use crate::search::{SEARCH_WAIT_MAX, SEARCHES_MAX};
use crate::tests::samples::{answer, at, done, id, record, revocation, write};
use model::node::NodeReport;
use model::port::StoreError;

pub(in crate::tests) async fn records_are_found_by_what_they_say(store: &Store) {
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

pub(in crate::tests) async fn searches_wait_for_each_other_and_hold_up_nothing_else(store: &Store) {
    store.write_records(vec![record(1, Some("acme"), "r", 0)]).await.unwrap();
    let all = RecordQuery { limit: 1, ..RecordQuery::default() };
    let audit = AuditQuery { limit: 1, ..AuditQuery::default() };
    let mut places = Vec::new();
    for _ in 0..SEARCHES_MAX {
        places.push(store.search_place().await.unwrap());
    }
    let (records, entries) = tokio::join!(store.records(&all), store.audit(&audit));
    assert!(matches!(records, Err(StoreError::TimedOut(SEARCH_WAIT_MAX))), "{records:?}");
    assert!(matches!(entries, Err(StoreError::TimedOut(SEARCH_WAIT_MAX))), "{entries:?}");
    store.feed().await.unwrap();
    store.revocations(at(0)).await.unwrap();
    store.token_of(&[0; 32]).await.unwrap();
    let one = RecordQuery { exchange: Some("request-1".to_owned()), ..all.clone() };
    assert_eq!(store.records(&one).await.unwrap().len(), 1);
    drop(places);
    assert_eq!(store.records(&all).await.unwrap().len(), 1);
    store.audit(&audit).await.unwrap();
}

pub(in crate::tests) async fn a_batch_of_records_is_written_once(store: &Store) {
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

pub(in crate::tests) async fn records_go_by_age_and_by_tenant(store: &Store) {
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

pub(in crate::tests) async fn what_expired_is_purged(store: &Store) {
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
