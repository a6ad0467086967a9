//! Replays: a window's events once more, a page at a time.

use super::*;
use crate::control::{Effect, WriteError};
use crate::tests::samples::{done, id, published, write};
use crate::webhooks::{READER_BYTES_MAX, ReplayCount, ReplayStep};
use model::webhook::{Dedupe, Reason, Replay, ReplayRequest, ReplayState};

const DEAD: Next = Next::Dead { reason: Reason::Exhausted, blocks: false };

fn request(dedupe: Dedupe) -> ReplayRequest {
    ReplayRequest {
        tenant: "acme".into(),
        endpoint: None,
        since: Timestamp::UNIX_EPOCH,
        until: now(),
        types: vec![],
        dedupe,
        rate: 100,
    }
}

fn replay(number: u64, dedupe: Dedupe) -> Replay {
    Replay {
        id: id(number),
        request: request(dedupe),
        state: ReplayState::Running,
        created_at: now(),
        by: "ann".to_owned(),
        counted: 4,
        queued: 0,
        skipped: 0,
        cursor: 0,
        ended_at: None,
    }
}

/// Five events to an endpoint: delivered, dead, parked, pending, and one without a delivery; and another tenant's.
async fn mixed(store: &Store) {
    accept(store, "acme", &["a", "b", "c", "d"]).await;
    fan_out(store, &to(&["e1"])).await;
    accept(store, "acme", &["e"]).await;
    accept(store, "globex", &["a"]).await;
    fan_out(store, &to(&[])).await;
    let held = hold(store, "e1", 3).await;
    for (held, next) in held.iter().zip([Next::Delivered, DEAD, Next::Parked(Reason::Gone)]) {
        settle(store, std::slice::from_ref(held), next).await;
    }
}

/// Works at a replay until it is done; says the sums.
async fn work(store: &Store, endpoint: &'static [&'static str], page: u32) -> (u64, u64) {
    let (held, fence) = store.hold_replay("d1", SPAN).await.unwrap().unwrap();
    assert_eq!(store.hold_replay("d2", SPAN).await.unwrap(), None, "another one is at it");
    let mut sums = (0, 0);
    loop {
        let step =
            store.replay_step(&held.id, fence, to(endpoint), None, page, SPAN).await.unwrap();
        assert!(!step.stale);
        sums = (sums.0 + step.queued, sums.1 + step.skipped);
        let shown = store.replay(&held.id).await.unwrap().unwrap();
        assert_eq!((shown.queued, shown.skipped, shown.state), (sums.0, sums.1, step.state));
        if step.state == ReplayState::Done {
            assert!(shown.ended_at.is_some());
            return sums;
        }
    }
}

pub(in crate::tests) async fn a_replay_skips_what_was_delivered(store: &Store) {
    mixed(store).await;
    let count = store.replay_count(&request(Dedupe::SkipDelivered)).await.unwrap();
    assert_eq!(count, ReplayCount { events: 5, queue: 2, skip: 2 });
    done(
        store.write(write(Effect::CreateReplay(Box::new(replay(1, Dedupe::SkipDelivered))))).await,
    );
    // Two wait behind nothing: the dead one, the parked one; a missing one is planned.
    assert_eq!(work(store, &["e1"], 2).await, (3, 2));
    assert_eq!(ids(&hold(store, "e1", 9).await).len(), 4);
    let (delivery, _) = store.delivery(2).await.unwrap().unwrap();
    assert_eq!((delivery.replay, delivery.attempts), (Some(id(1)), 0));
    assert_eq!(store.hold_replay("d2", SPAN).await.unwrap(), None);
    sound(store).await;
}

pub(in crate::tests) async fn a_forced_replay_sends_what_was_delivered_once_more(store: &Store) {
    mixed(store).await;
    let count = store.replay_count(&request(Dedupe::Force)).await.unwrap();
    assert_eq!(count, ReplayCount { events: 5, queue: 3, skip: 1 });
    for (changed, expected) in [
        (ReplayRequest { endpoint: Some("e2".into()), ..request(Dedupe::Force) }, (5, 0, 0)),
        (ReplayRequest { types: vec!["contact.*".into()], ..request(Dedupe::Force) }, (5, 3, 1)),
        (ReplayRequest { types: vec!["other.*".into()], ..request(Dedupe::Force) }, (0, 0, 0)),
        (ReplayRequest { since: later(SPAN), ..request(Dedupe::Force) }, (0, 0, 0)),
        (ReplayRequest { tenant: "globex".into(), ..request(Dedupe::Force) }, (1, 0, 0)),
    ] {
        let count = store.replay_count(&changed).await.unwrap();
        assert_eq!((count.events, count.queue, count.skip), expected, "{changed:?}");
    }
    done(store.write(write(Effect::CreateReplay(Box::new(replay(1, Dedupe::Force))))).await);
    assert_eq!(work(store, &["e1"], 100).await, (4, 1));
    let held = hold(store, "e1", 9).await;
    assert_eq!(held.len(), 5);
    let again = held.iter().find(|held| held.number == 5).unwrap();
    assert_eq!(again.webhook_id, event("acme", "a").webhook_id, "under the same id");
    sound(store).await;
}

pub(in crate::tests) async fn a_page_is_queued_by_who_holds_the_replay(store: &Store) {
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&[])).await;
    done(
        store.write(write(Effect::CreateReplay(Box::new(replay(1, Dedupe::SkipDelivered))))).await,
    );
    done(
        store.write(write(Effect::CreateReplay(Box::new(replay(2, Dedupe::SkipDelivered))))).await,
    );
    let (first, fence) = store.hold_replay("d1", Duration::ZERO).await.unwrap().unwrap();
    let (second, _) = store.hold_replay("d1", SPAN).await.unwrap().unwrap();
    assert_ne!(first.id, second.id, "each in its turn");
    // Its hold is over: another one goes on.
    execute(store, "UPDATE webhook_replays SET hold_until = hold_until - 1").await;
    let (again, newer) = store.hold_replay("d2", SPAN).await.unwrap().unwrap();
    assert_eq!((&again.id, newer), (&first.id, fence + 1));
    let stale = ReplayStep { stale: true, ..ReplayStep::NONE };
    let step = store.replay_step(&first.id, fence, to(&["e1"]), None, 2, SPAN).await.unwrap();
    assert_eq!(step, stale);
    // Of two at once, one moves on, or one after the other: even then something is left.
    let (one, two) = tokio::join!(
        store.replay_step(&first.id, newer, to(&["e1"]), None, 1, SPAN),
        store.replay_step(&first.id, newer, to(&["e1"]), None, 1, SPAN),
    );
    let queued = one.unwrap().queued + two.unwrap().queued;
    let made = number(store, "SELECT count(*) FROM webhook_deliveries").await;
    assert_eq!(i64::try_from(queued).unwrap(), made);
    // It is ended, and stays so.
    done(store.write(write(Effect::CancelReplay(first.id.clone(), now()))).await);
    let step = store.replay_step(&first.id, newer, to(&["e1"]), None, 2, SPAN).await.unwrap();
    assert!(step.stale && step.state != ReplayState::Running, "{step:?}");
    for (id, expected) in [(first.id.as_str(), "changed"), ("unknown", "no such")] {
        let told =
            store.write(write(Effect::CancelReplay(id.to_owned(), now()))).await.unwrap_err();
        assert!(told.to_string().contains(expected), "{told}");
        assert!(matches!(told, WriteError::Stale | WriteError::NotFound));
    }
    let listed = |found: Vec<Replay>| found.into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(listed(store.replays(None, None, 9).await.unwrap()), [id(2), id(1)]);
    assert_eq!(
        listed(store.replays(Some(&"acme".into()), Some(&id(2)), 9).await.unwrap()),
        [id(1)]
    );
    assert_eq!(listed(store.replays(Some(&"globex".into()), None, 9).await.unwrap()), [""; 0]);
    assert_eq!(store.replay("unknown").await.unwrap(), None);
    sound(store).await;
}

pub(in crate::tests) async fn a_reader_that_was_taken_over_keeps_nothing(store: &Store) {
    let first = store.hold_reader("outbox", "d1", SPAN).await.unwrap().unwrap();
    assert_eq!(first.state, "");
    assert_eq!(store.hold_reader("outbox", "d2", SPAN).await.unwrap(), None);
    assert!(store.hold_reader("other", "d2", SPAN).await.unwrap().is_some());
    assert!(store.keep_reader("outbox", first.fence, SPAN, Some("one".to_owned())).await.unwrap());
    assert!(store.keep_reader("outbox", first.fence, SPAN, None).await.unwrap());
    // Given back, and taken by another one.
    assert!(store.keep_reader("outbox", first.fence, Duration::ZERO, None).await.unwrap());
    let second = store.hold_reader("outbox", "d2", SPAN).await.unwrap().unwrap();
    assert_eq!((second.state.as_str(), second.fence > first.fence), ("one", true));
    assert!(
        !store.keep_reader("outbox", first.fence, SPAN, Some("late".to_owned())).await.unwrap()
    );
    assert_eq!(store.reader_state("outbox").await.unwrap().as_deref(), Some("one"));
    assert_eq!(store.reader_state("unknown").await.unwrap(), None);
    let large = "x".repeat(READER_BYTES_MAX + 1);
    store.keep_reader("outbox", second.fence, SPAN, Some(large)).await.unwrap_err();
    // Who held it already goes on under a new fence.
    let third = store.hold_reader("outbox", "d2", SPAN).await.unwrap().unwrap();
    assert!(third.fence > second.fence);
}

pub(in crate::tests) async fn what_somebody_leaves_is_held_by_others_at_once(store: &Store) {
    accept(store, "acme", &["a"]).await;
    let (replay, _) = begun(store, replay(1, Dedupe::Force)).await;
    for (name, holder) in [("outbox", "d1"), ("poll/crm", "d1"), ("poll/erp", "d2")] {
        store.hold_reader(name, holder, SPAN).await.unwrap().unwrap();
    }
    store.leave("d1").await.unwrap();
    for (name, is_free) in [("outbox", true), ("poll/crm", true), ("poll/erp", false)] {
        let held = store.hold_reader(name, "d3", SPAN).await.unwrap();
        assert_eq!(held.is_some(), is_free, "{name}");
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (again, _) = store.hold_replay("d3", SPAN).await.unwrap().unwrap();
    assert_eq!(again.id, replay);
    store.leave("d1").await.unwrap();
    assert_eq!(store.hold_replay("d1", SPAN).await.unwrap(), None, "it is another one's by now");
}

pub(in crate::tests) async fn a_replay_rests_for_as_long_as_what_it_queued_takes_at_its_rate(
    store: &Store,
) {
    accept(store, "acme", &["a", "b"]).await;
    fan_out(store, &to(&[])).await;
    let slow = replay(1, Dedupe::Force);
    let slow = Replay { request: ReplayRequest { rate: 1, ..slow.request }, ..slow };
    let (id, fence) = begun(store, slow).await;
    let left = async || {
        number(store, "SELECT hold_until FROM webhook_replays").await - now().as_microsecond()
    };
    let queued = |queued| ReplayStep { queued, ..ReplayStep::NONE };
    // As long as it is held: whoever holds it waits.
    let step = store.replay_step(&id, fence, to_many(40), None, 1, SPAN).await.unwrap();
    assert_eq!(step, queued(40));
    // For longer, nobody holds it, and whoever ends does not shorten that.
    let step = store.replay_step(&id, fence, to_many(300), None, 1, SPAN).await.unwrap();
    assert_eq!(step, ReplayStep { waits: true, ..queued(300) });
    store.leave("d1").await.unwrap();
    assert!((290_000_000..=300_000_000).contains(&left().await), "{} µs", left().await);
    assert_eq!(store.hold_replay("d2", SPAN).await.unwrap(), None);
    execute(store, "UPDATE webhook_replays SET hold_until = hold_until - 301000000").await;
    let (_, fence) = store.hold_replay("d2", SPAN).await.unwrap().unwrap();
    let step = store.replay_step(&id, fence, to_many(1), None, 1, SPAN).await.unwrap();
    assert_eq!(step, ReplayStep { state: ReplayState::Done, ..ReplayStep::NONE });
}

/// Creates a replay, and holds it.
async fn begun(store: &Store, replay: Replay) -> (String, u64) {
    done(store.write(write(Effect::CreateReplay(Box::new(replay)))).await);
    let (held, fence) = store.hold_replay("d1", SPAN).await.unwrap().unwrap();
    (held.id, fence)
}

pub(in crate::tests) async fn a_replay_goes_no_further_than_fan_out(store: &Store) {
    accept(store, "acme", &["a", "b"]).await;
    assert_eq!(store.fan_out(to(&["e1"]), None, 1).await.unwrap().events, 1);
    let count = store.replay_count(&request(Dedupe::SkipDelivered)).await.unwrap();
    assert_eq!(count, ReplayCount { events: 1, queue: 0, skip: 1 });
    let (id, fence) = begun(store, replay(1, Dedupe::SkipDelivered)).await;
    let step = async |fence| store.replay_step(&id, fence, to(&["e1"]), None, 9, SPAN).await;
    let skipped = ReplayStep { skipped: 1, ..ReplayStep::NONE };
    assert_eq!(step(fence).await.unwrap(), skipped);
    assert_eq!(step(fence).await.unwrap(), ReplayStep { waits: true, ..ReplayStep::NONE });
    assert_eq!(store.hold_replay("d2", SPAN).await.unwrap(), None, "not at once");
    // A second later, with what came meanwhile fanned out.
    execute(store, "UPDATE webhook_replays SET hold_until = hold_until - 1000000").await;
    fan_out(store, &to(&["e1"])).await;
    let (_, fence) = store.hold_replay("d2", SPAN).await.unwrap().unwrap();
    assert_eq!(step(fence).await.unwrap(), ReplayStep { state: ReplayState::Done, ..skipped });
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a", "b"], "each once");
    sound(store).await;
}

pub(in crate::tests) async fn a_replay_lasts_until_its_window_ends(store: &Store) {
    let request = ReplayRequest { until: later(SPAN), ..request(Dedupe::SkipDelivered) };
    let (id, fence) = begun(store, Replay { request, ..replay(1, Dedupe::SkipDelivered) }).await;
    let step = async |fence| store.replay_step(&id, fence, to(&["e1"]), None, 9, SPAN).await;
    for (count, event) in ["a", "b"].iter().enumerate() {
        let fence = fence + count as u64;
        assert_eq!(step(fence).await.unwrap(), ReplayStep { waits: true, ..ReplayStep::NONE });
        accept(store, "acme", &[event]).await;
        fan_out(store, &to(&[])).await;
        execute(store, "UPDATE webhook_replays SET hold_until = 0").await;
        store.hold_replay("d1", SPAN).await.unwrap().unwrap();
        let queued = ReplayStep { queued: 1, ..ReplayStep::NONE };
        assert_eq!(step(fence + 1).await.unwrap(), queued);
    }
    // Fan-out is behind its end: nothing of it is to come any more.
    let end = later(SPAN * 2).as_microsecond();
    execute(store, &format!("UPDATE webhook_numbers SET at = {end} WHERE name = 'fan_out'")).await;
    assert_eq!(step(fence + 2).await.unwrap().state, ReplayState::Done);
    assert_eq!(ids(&hold(store, "e1", 9).await), ["a", "b"]);
    sound(store).await;
}

pub(in crate::tests) async fn a_page_has_a_bounded_number_of_deliveries(store: &Store) {
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&[])).await;
    let (id, fence) = begun(store, replay(1, Dedupe::SkipDelivered)).await;
    for (queued, state) in [(1_800, ReplayState::Running), (900, ReplayState::Done)] {
        let step = store.replay_step(&id, fence, to_many(900), None, 100, SPAN).await.unwrap();
        assert_eq!((step.queued, step.state), (queued, state));
    }
    sound(store).await;
}

pub(in crate::tests) async fn a_page_of_an_older_document_is_not_queued(store: &Store) {
    accept(store, "acme", &["a"]).await;
    fan_out(store, &to(&[])).await;
    published(store, "one", 0).await;
    let (id, fence) = begun(store, replay(1, Dedupe::SkipDelivered)).await;
    for (revision, expected) in [
        (Some(0), ReplayStep { outdated: true, ..ReplayStep::NONE }),
        (Some(1), ReplayStep { queued: 1, state: ReplayState::Done, ..ReplayStep::NONE }),
    ] {
        let step = store.replay_step(&id, fence, to(&["e1"]), revision, 9, SPAN).await.unwrap();
        assert_eq!(step, expected, "{revision:?}");
    }
    sound(store).await;
}

/// Events of a tenant that is aside are planned behind the cursor.
pub(in crate::tests) async fn a_replay_goes_no_further_than_its_tenants_own_place(store: &Store) {
    const WIDE: &[(&str, u32)] = &[("acme", 600)];
    accept(store, "acme", &["a", "b", "c"]).await;
    accept(store, "globex", &["a"]).await;
    let fanned_out = store.fan_out(by_tenant(WIDE), None, 9).await.unwrap();
    assert_eq!(fanned_out.events, 2, "one of each");
    let count = store.replay_count(&request(Dedupe::SkipDelivered)).await.unwrap();
    assert_eq!(count, ReplayCount { events: 1, queue: 0, skip: 600 });
    let (id, fence) = begun(store, replay(1, Dedupe::SkipDelivered)).await;
    let step = async |fence| store.replay_step(&id, fence, by_tenant(WIDE), None, 9, SPAN).await;
    assert_eq!(step(fence).await.unwrap().skipped, 600);
    assert!(step(fence).await.unwrap().waits, "for what is planned in its tenant's turns");
    while store.fan_out(by_tenant(WIDE), None, 9).await.unwrap().more {}
    execute(store, "UPDATE webhook_replays SET hold_until = hold_until - 1000000").await;
    let (_, fence) = store.hold_replay("d2", SPAN).await.unwrap().unwrap();
    let told = step(fence).await.unwrap();
    assert_eq!((told.queued, told.skipped, told.state), (0, 1_200, ReplayState::Done));
    assert_eq!(number(store, "SELECT count(*) FROM webhook_deliveries").await, 3 * 600 + 1);
    sound(store).await;
}
