//! Audit entries and kept answers: with every write, or with none.

use crate::Store;
use crate::control::{AuditQuery, Effect, Write, WriteError};
use crate::records::RecordQuery;
use crate::tests::samples::{answer, at, done, entry, publish, record, token, write};
use model::role::Role;

pub(in crate::tests) async fn every_write_has_its_audit_entry_or_is_not_done(store: &Store) {
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

pub(in crate::tests) async fn audit_is_found_by_what_it_says(store: &Store) {
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

pub(in crate::tests) async fn a_kept_answer_is_done_once_and_expires(store: &Store) {
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

pub(in crate::tests) async fn text_that_a_database_can_not_keep_is_kept_readable(store: &Store) {
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
