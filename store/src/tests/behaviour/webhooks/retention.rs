//! Retention: old days go, with all that is of them, and what went undelivered is told. What is gone is forgotten.

use super::*;
use crate::control::Effect;
use crate::tests::samples::{done, write};
use crate::webhooks::{Expired, Known};
use model::event::DELIVERIES_EXPIRED;
use model::webhook::{Disabled, Reason, Standing};
use serde_json::{Value, json};

const RETENTION: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Makes everything there is so many days older, as if it had been accepted then.
async fn age(store: &Store, days: i64) {
    let by = days * 24 * 3_600 * 1_000_000;
    for (table, column) in [
        ("webhook_events", "accepted_at"),
        ("webhook_deliveries", "accepted_at"),
        ("webhook_ids", "at"),
        ("webhook_attempts", "at"),
        ("webhook_numbers", "at"),
        ("webhook_aside", "at"),
    ] {
        execute(store, &format!("UPDATE {table} SET {column} = {column} - {by}")).await;
    }
}

pub(in crate::tests) async fn old_days_go_with_all_that_is_of_them(store: &Store) {
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 0);
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&["e1"])).await;
    let held = hold(store, "e1", 1).await;
    settle(store, &held, Next::Delivered).await;
    // Not fanned out yet: stays, however old.
    accept(store, "acme", &["d"]).await;
    age(store, 40).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 3);
    let kept: Vec<_> = store.events_after(0, 9).await.unwrap().into_iter().map(|e| e.id).collect();
    assert_eq!(kept, ["d"]);
    assert_eq!(store.delivery(1).await.unwrap(), None);
    sound(store).await;
    fan_out(store, &to(&["e1"])).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 1);
    for table in ["events", "ids", "deliveries", "attempts"] {
        assert_eq!(
            number(store, &format!("SELECT count(*) FROM webhook_{table}")).await,
            0,
            "{table}"
        );
    }
    // Numbers go on, and what was forgotten is no repeat.
    accept(store, "acme", &["a"]).await;
    assert_eq!(store.events_after(0, 9).await.unwrap()[0].number, 5);
    fan_out(store, &to(&["e1"])).await;
    assert_eq!(hold(store, "e1", 9).await[0].number, 5);
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 0, "it is young");
    assert_eq!(
        store.purge_webhooks(Duration::ZERO).await.unwrap().events,
        0,
        "its day is not over"
    );
    sound(store).await;
}

/// What the outbox says of deliveries that went, but for times.
async fn told(store: &Store) -> Vec<(String, String, Value)> {
    let events = store.outbox(0, 100).await.unwrap().into_iter().map(|outgoing| outgoing.event);
    let expired = events.filter(|event| event.r#type == DELIVERIES_EXPIRED);
    let told = expired.map(|mut event| {
        let data = event.data.as_object_mut().unwrap();
        let times = ["first_accepted_at", "last_accepted_at"]
            .map(|name| data.remove(name).unwrap().as_str().unwrap().parse::<Timestamp>().unwrap());
        assert!(times[0] <= times[1] && times[1] < event.at, "{times:?}");
        (event.tenant.unwrap().to_string(), event.subject, event.data)
    });
    told.collect()
}

fn counts(expired: &[Expired]) -> Vec<(&str, &str, [u64; 3])> {
    let counts = |expired: &'_ Expired| [expired.pending, expired.parked, expired.dead];
    let mut counts: Vec<_> = expired
        .iter()
        .map(|expired| (expired.tenant.as_str(), expired.endpoint.as_str(), counts(expired)))
        .collect();
    counts.sort_unstable();
    counts
}

pub(in crate::tests) async fn what_goes_undelivered_is_told_to_its_tenant_once(store: &Store) {
    accept(store, "acme", &["a", "b", "c", "d", "e"]).await;
    fan_out(store, &to(&["e1", "e2", "e3"])).await;
    accept(store, "globex", &["a"]).await;
    fan_out(store, &to(&["g1"])).await;
    // All of e3 was taken, or given up.
    settle(store, &hold(store, "e3", 4).await, Next::Delivered).await;
    let held = hold(store, "e3", 1).await;
    let dead = |reason| Next::Dead { reason, blocks: false };
    settle(store, &held, dead(Reason::Refused)).await;
    done(store.write(write(Effect::DiscardDelivery { number: held[0].number })).await);
    // Of e2: two parked, one dead, one held, one pending.
    settle(store, &hold(store, "e2", 2).await, Next::Parked(Reason::Removed)).await;
    settle(store, &hold(store, "e2", 1).await, dead(Reason::Exhausted)).await;
    hold(store, "e2", 1).await;
    age(store, 40).await;
    accept(store, "acme", &["young"]).await;
    fan_out(store, &to(&["e1"])).await;
    // Told with what takes the count away, or not yet.
    execute(store, "ALTER TABLE outbox RENAME TO away").await;
    store.purge_webhooks(RETENTION).await.unwrap_err();
    execute(store, "ALTER TABLE away RENAME TO outbox").await;
    assert_eq!(number(store, "SELECT count(*) FROM webhook_deliveries").await, 1);
    let purged = store.purge_webhooks(RETENTION).await.unwrap();
    let expired =
        [("acme", "e1", [5, 0, 0]), ("acme", "e2", [2, 2, 1]), ("globex", "g1", [1, 0, 0])];
    assert_eq!(counts(&purged.expired), expired);
    let mut events = told(store).await;
    events.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let expected = expired.map(|(tenant, endpoint, [pending, parked, dead])| {
        let data =
            json!({ "endpoint": endpoint, "pending": pending, "parked": parked, "dead": dead });
        (tenant.to_owned(), format!("/v1/endpoints/{endpoint}"), data)
    });
    assert_eq!(events, expected);
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().expired, []);
    assert_eq!(told(store).await.len(), 3);
    sound(store).await;
}

pub(in crate::tests) async fn a_delivery_without_its_event_is_told_and_held_by_nobody(
    store: &Store,
) {
    accept(store, "acme", &["a-1", "a-2"]).await;
    fan_out(store, &by_key("e1")).await;
    // As if it had been made while its event went.
    execute(store, "DELETE FROM webhook_events WHERE number = 1").await;
    assert_eq!(hold(store, "e1", 9).await, []);
    assert_eq!(number(store, "SELECT count(*) FROM webhook_deliveries").await, 1);
    assert_eq!(store.mend_order().await.unwrap(), 1);
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a-2"], "nothing waits behind it");
    let purged = store.purge_webhooks(RETENTION).await.unwrap();
    assert_eq!(counts(&purged.expired), [("acme", "e1", [1, 0, 0])]);
    sound(store).await;
}

pub(in crate::tests) async fn what_the_document_no_longer_names_is_forgotten_in_time(
    store: &Store,
) {
    const AFTER: Duration = Duration::from_secs(3_600);
    let standing = |id: &str, hours: i64, is_disabled: bool| {
        let at = now().checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap();
        let reason = Reason::Gone;
        Standing {
            endpoint: id.into(),
            tenant: "acme".into(),
            failing_since: None,
            open_until: None,
            opened: 0,
            disabled: is_disabled.then_some(Disabled { reason, since: at }),
            at,
        }
    };
    let told = |id: &str| model::event::Event {
        id: id.to_owned(),
        at: now(),
        r#type: model::event::ENDPOINT_DISABLED.to_owned(),
        tenant: Some("acme".into()),
        subject: String::new(),
        data: Value::Null,
    };
    for (id, hours) in [("known", 9), ("gone", 9), ("young", 0)] {
        store.disable_endpoint(standing(id, hours, true), told(id)).await.unwrap();
    }
    store.keep_standings(vec![standing("idle", 9, false)]).await.unwrap();
    for name in ["outbox", "poll/known", "poll/gone", "poll/young", "sink"] {
        store.hold_reader(name, "d1", Duration::ZERO).await.unwrap().unwrap();
        if name != "poll/young" {
            let sql = format!(
                "UPDATE webhook_readers SET hold_until = hold_until - 32400000000 WHERE name = '{name}'"
            );
            execute(store, &sql).await;
        }
    }
    accept(store, "acme", &["a"]).await;
    accept(store, "globex", &["a", "b"]).await;
    fan_out(store, &to(&["known"])).await;
    // Of globex nothing waits, in two parts; of initech something does.
    let held = hold(store, "known", 9).await;
    settle(store, &held, Next::Delivered).await;
    execute(store, "INSERT INTO webhook_waiting (tenant, part, waiting) VALUES ('globex', 70, -3), ('globex', 71, 3)").await;
    accept(store, "initech", &["a"]).await;
    let known = || Known { endpoints: vec!["known".into()], sources: vec!["known".into()] };
    assert!(store.forget_gone(known(), AFTER).await.unwrap() >= 6);
    let standings = store.standings().await.unwrap().into_iter();
    let standings: Vec<_> = standings.map(|standing| standing.endpoint.to_string()).collect();
    assert_eq!(standings, ["known", "young"]);
    for (name, kept) in [
        ("outbox", true),
        ("poll/known", true),
        ("poll/gone", false),
        ("poll/young", true),
        ("sink", true),
    ] {
        assert_eq!(store.reader_state(name).await.unwrap().is_some(), kept, "{name}");
    }
    let tenants = "SELECT count(*) FROM webhook_waiting WHERE tenant <> 'initech'";
    assert_eq!(number(store, tenants).await, 0, "nothing of them waits");
    sound(store).await;
    assert_eq!(store.forget_gone(known(), AFTER).await.unwrap(), 0);
    // What is counted after it is counted from nothing.
    accept(store, "globex", &["c"]).await;
    sound(store).await;
}

/// A document that named it until a moment ago, and names it soon again, changes nothing.
pub(in crate::tests) async fn how_an_endpoint_stood_is_kept_for_as_long_as_it_was_named(
    store: &Store,
) {
    const AFTER: Duration = Duration::from_secs(4 * 3_600);
    const AGED: &str = "UPDATE webhook_standings SET named_at = named_at - 32400000000";
    let at = now().checked_sub(jiff::SignedDuration::from_hours(900)).unwrap();
    let standing = |id: &str| {
        let (failing_since, open_until, opened, disabled) = (None, None, 0, None);
        let (endpoint, tenant) = (id.into(), "acme".into());
        Standing { endpoint, tenant, failing_since, open_until, opened, disabled, at }
    };
    store.keep_standings(vec![standing("named"), standing("gone")]).await.unwrap();
    let named = || Known { endpoints: vec!["named".into()], sources: vec![] };
    assert_eq!(store.forget_gone(named(), AFTER).await.unwrap(), 1);
    assert_eq!(store.forget_gone(Known::default(), AFTER).await.unwrap(), 0, "it was named");
    // However long it was named.
    execute(store, AGED).await;
    assert_eq!(store.forget_gone(named(), AFTER).await.unwrap(), 0);
    assert_eq!(store.forget_gone(Known::default(), AFTER).await.unwrap(), 0, "it was named");
    assert_eq!(store.standings().await.unwrap(), [standing("named")]);
    execute(store, AGED).await;
    assert_eq!(store.forget_gone(Known::default(), AFTER).await.unwrap(), 1);
    assert_eq!(store.standings().await.unwrap(), []);
}

/// Else who is sent such, and takes nothing, is told of them for ever.
pub(in crate::tests) async fn what_was_told_of_what_went_is_not_told_of_again(store: &Store) {
    let notice = || {
        let (r#type, source) = (DELIVERIES_EXPIRED.to_owned(), "/tollgate".to_owned());
        NewEvent { r#type, source, ..event("acme", "notice") }
    };
    // Somebody else's of that type is an event like others.
    let alike = NewEvent { source: "/crm".to_owned(), ..notice() };
    let alike = NewEvent { webhook_id: event("acme", "alike").webhook_id, ..alike };
    store.accept_events(vec![arriving(vec![notice(), alike])]).await.unwrap();
    accept(store, "acme", &["a"]).await;
    fan_out(store, &to(&["e1"])).await;
    age(store, 40).await;
    let purged = store.purge_webhooks(RETENTION).await.unwrap();
    assert_eq!(counts(&purged.expired), [("acme", "e1", [2, 0, 0])]);
    sound(store).await;
    store.accept_events(vec![arriving(vec![notice()])]).await.unwrap();
    fan_out(store, &to(&["e1"])).await;
    age(store, 40).await;
    let purged = store.purge_webhooks(RETENTION).await.unwrap();
    assert_eq!((purged.events, purged.expired), (1, vec![]));
    sound(store).await;
}

pub(in crate::tests) async fn nothing_is_purged_of_who_is_aside(store: &Store) {
    const WIDE: &[(&str, u32)] = &[("acme", 600)];
    const RETENTION: Duration = Duration::from_secs(30 * 24 * 3_600);
    accept(store, "acme", &["a", "b", "c"]).await;
    accept(store, "globex", &["a"]).await;
    store.fan_out(by_tenant(WIDE), None, 9).await.unwrap();
    age(store, 40).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 1, "b and c are not planned");
    while store.fan_out(by_tenant(WIDE), None, 9).await.unwrap().more {}
    let late = store.endpoint_events(&"acme".into(), &"acme-0".into(), 0, 9).await.unwrap();
    assert_eq!(late.len(), 2);
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap().events, 3);
    sound(store).await;
}
