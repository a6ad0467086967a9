//! What lanes grant, without a store and without waiting: time is a number.

use super::claims::{Claim, STRANGER_PAUSE};
use super::*;
use crate::client::Client;
use crate::secret::Secrets;
use bytes::Bytes;
use model::Clock;
use model::config;
use model::webhook::policy::Class;
use model::webhook::{Disabled, HeldDelivery, Next, Settlement, Take, WebhookId};
use std::time::Duration;
use store::seal::MasterKeys;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_800_000_000 * SECOND;

/// Lanes of a document with these endpoints of `acme`; their ids, and what else is to be said of them.
async fn lanes(endpoints: &[(&str, &str)]) -> Arc<Lanes> {
    let lanes = Lanes::new(START);
    lanes.follow(&book(endpoints).await, START);
    lanes
}

async fn book(endpoints: &[(&str, &str)]) -> Arc<Book> {
    let client = Client::new(Vec::new(), Clock::system(), "test").unwrap();
    let endpoint = |(id, more): &(&str, &str)| {
        let tenant = if id.starts_with('g') { "globex" } else { "acme" };
        let breaker =
            if more.contains("breaker") { "" } else { "breaker: { min_attempts: 100000 }," };
        format!(
            "  - {{ id: {id}, tenant: {tenant}, url: \"https://hooks.example\", events: [\"*\"], secret: {{ file: /none }}, {breaker} {more} }}\n"
        )
    };
    let endpoints: String = endpoints.iter().map(endpoint).collect();
    let text = format!(
        "format: 1\nplans: [{{ id: free, limits: [] }}]\ntenants: [{{ id: acme, plan: free, state: active }}, {{ id: globex, plan: free, state: active }}]\nendpoints:\n{endpoints}"
    );
    let config = Arc::new(config::read(&text).unwrap());
    Arc::new(Book::compile(1, config, &client, &Secrets::new(MasterKeys::default())))
}

fn owner(endpoint: &str) -> TenantId {
    TenantId::from(if endpoint.starts_with('g') { "globex" } else { "acme" })
}

fn due(lanes: &Lanes, endpoint: &str, at: i64, now: i64) {
    lanes.due([(owner(endpoint), EndpointId::from(endpoint), at)], now);
}

fn held(endpoint: &str, number: u64, attempt: u32) -> HeldDelivery {
    HeldDelivery {
        number,
        fence: 1,
        event: number,
        webhook_id: WebhookId::known("evt_1"),
        tenant: owner(endpoint),
        endpoint: EndpointId::from(endpoint),
        attempt,
        is_lost: false,
        due_at: timestamp(START),
        accepted_at: timestamp(START),
        content: Bytes::from_static(b"{}"),
    }
}

/// How much of each lane is granted now.
fn granted(claim: Option<&Claim>) -> Vec<(String, u32)> {
    let takes = claim.into_iter().flat_map(|claim| &claim.takes);
    takes.map(|take| (take.endpoint.to_string(), take.most)).collect()
}

/// Claims what is granted from a store that has more than enough; attempts under way, and what is given back.
fn take(lanes: &Arc<Lanes>, attempt: u32, now: i64) -> (Vec<Due>, Vec<Due>) {
    let Some(claim) = lanes.claim(now) else { return (Vec::new(), Vec::new()) };
    let of = |take: &Take| {
        (0..take.most).map(|n| held(take.endpoint.as_str(), n.into(), attempt)).collect::<Vec<_>>()
    };
    let got = claim.takes.iter().flat_map(of).collect();
    lanes.taken(claim, got, now).into_iter().partition(|due| matches!(due, Due::Send { .. }))
}

fn end(lanes: &Lanes, due: Due, class: Class, next: Next, now: i64) {
    let Due::Send { endpoint, started, place, .. } = due else { panic!("it was not sent") };
    let ending = Ending { class, next, asked: None, tells: Tells::Something, at: now };
    lanes.ended(&endpoint, started, &ending);
    drop(place);
}

fn later(now: i64) -> Next {
    Next::Due(timestamp(now + SECOND))
}

#[tokio::test]
async fn a_lane_gets_its_free_slots_and_the_next_one_when_one_ends() {
    let lanes = lanes(&[("a", "concurrency: 3")]).await;
    assert!(lanes.claim(START).is_none(), "nothing is due");
    due(&lanes, "a", START, START);
    let (mut sent, _) = take(&lanes, 1, START);
    assert_eq!(sent.len(), 3);
    assert!(lanes.claim(START).is_none());
    end(&lanes, sent.pop().unwrap(), Class::Delivered, Next::Delivered, START);
    assert_eq!(granted(lanes.claim(START).as_ref()), [("a".to_owned(), 1)]);
}

#[tokio::test]
async fn dispatchers_that_live_share_slots_and_each_has_one() {
    let lanes = lanes(&[("a", "concurrency: 5"), ("b", "concurrency: 1")]).await;
    lanes.live(2);
    due(&lanes, "a", START, START);
    due(&lanes, "b", START, START);
    let mut granted = granted(lanes.claim(START).as_ref());
    granted.sort();
    assert_eq!(granted, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
}

#[tokio::test]
async fn a_lane_that_had_less_than_asked_for_is_looked_at_when_something_is_due_again() {
    let lanes = lanes(&[("a", "concurrency: 8")]).await;
    due(&lanes, "a", START, START);
    due(&lanes, "a", START + 5 * SECOND, START);
    let claim = lanes.claim(START).unwrap();
    assert_eq!(claim.takes[0].low_water, Timestamp::MIN);
    drop(lanes.taken(claim, vec![held("a", 1, 1)], START));
    assert!(lanes.claim(START).is_none());
    let alarm = lanes.next_alarm().unwrap();
    assert!((START + 5 * SECOND..START + 6 * SECOND).contains(&alarm));
    assert!(lanes.claim(alarm - 1).is_none());
    let claim = lanes.claim(alarm).unwrap();
    assert!(
        claim.takes[0].low_water > timestamp(START - 10 * SECOND),
        "what is gone is not read again"
    );
    // The store finds something older than that: others gave it back.
    lanes.not_taken(claim, alarm);
    let lane = DueLane {
        tenant: owner("a"),
        endpoint: EndpointId::from("a"),
        due_at: timestamp(START - 60 * SECOND),
    };
    lanes.swept(vec![lane], alarm);
    assert_eq!(lanes.claim(alarm).unwrap().takes[0].low_water, timestamp(START - 60 * SECOND));
}

#[tokio::test]
async fn a_rate_grants_a_tenth_of_a_second_at_once_and_then_what_time_brings() {
    let lanes = lanes(&[("a", "concurrency: 100, rate: 50/s")]).await;
    due(&lanes, "a", START, START);
    assert_eq!(take(&lanes, 1, START).0.len(), 5);
    assert!(lanes.claim(START).is_none());
    let mut sent = 5;
    let mut now = START;
    while now < START + SECOND {
        now = lanes.next_alarm().unwrap();
        sent += take(&lanes, 1, now).0.len();
    }
    assert_eq!(sent, 55);
}

#[tokio::test]
async fn an_open_breaker_is_left_alone_and_then_gets_one() {
    let lanes =
        lanes(&[("a", "concurrency: 4, breaker: { min_attempts: 4, open_for: 30s }")]).await;
    due(&lanes, "a", START, START);
    for attempt in take(&lanes, 1, START).0 {
        end(&lanes, attempt, Class::Transient, later(START), START);
    }
    assert!(lanes.claim(START).is_none());
    assert_eq!(lanes.next_alarm(), Some(START + 30 * SECOND));
    let back = START + 30 * SECOND;
    let (mut probe, _) = take(&lanes, 2, back);
    assert_eq!(probe.len(), 1);
    assert!(lanes.claim(back).is_none(), "one at a time");
    end(&lanes, probe.pop().unwrap(), Class::Delivered, Next::Delivered, back);
    assert_eq!(take(&lanes, 2, back).0.len(), 4);
    let standings = lanes.changed_standings();
    assert_eq!((standings.len(), standings[0].opened, standings[0].failing_since), (1, 0, None));
    assert!(lanes.changed_standings().is_empty(), "told once");
    lanes.unkept(&standings);
    assert_eq!(lanes.changed_standings(), standings);
}

#[tokio::test]
async fn what_an_endpoint_asks_for_leaves_its_lane_alone() {
    let lanes = lanes(&[("a", "concurrency: 1")]).await;
    due(&lanes, "a", START, START);
    let (mut sent, _) = take(&lanes, 1, START);
    let Due::Send { started, place, endpoint, .. } = sent.pop().unwrap() else { panic!() };
    let asked = Some(Duration::from_secs(7_200));
    let ending = Ending {
        class: Class::Throttled,
        next: later(START),
        asked,
        tells: Tells::Something,
        at: START,
    };
    lanes.ended(&endpoint, started, &ending);
    drop(place);
    assert!(lanes.claim(START + 3_599 * SECOND).is_none());
    assert!(lanes.claim(START + 3_600 * SECOND).is_some(), "at most an hour");
}

#[tokio::test]
async fn retries_beyond_the_budget_are_given_back_untried() {
    let lanes = lanes(&[("a", "concurrency: 50, retry_budget: 0")]).await;
    due(&lanes, "a", START, START);
    // As many as it has slots: where it is well, none waits.
    let (sent, given_back) = take(&lanes, 2, START);
    assert_eq!((sent.len(), given_back.len()), (50, 0));
    for attempt in sent {
        end(&lanes, attempt, Class::Transient, later(START), START);
    }
    let (sent, given_back) = take(&lanes, 2, START);
    assert_eq!((sent.len(), given_back.len()), (0, 50));
    for due in given_back {
        let Due::GiveBack { settlement, why, .. } = due else { panic!() };
        assert_eq!((settlement.attempt, why), (None, Postponed::ByBudget));
        assert!(matches!(settlement.next, Next::Due(at) if at > timestamp(START)));
    }
    // Slots were not taken by what is given back.
    let claim = lanes.claim(START).unwrap();
    assert_eq!(granted(Some(&claim)), [("a".to_owned(), 50)]);
    // What was lost is no fault of the endpoint, and waits for nothing.
    let lost = (0..50).map(|n| HeldDelivery { is_lost: true, ..held("a", n, 2) }).collect();
    let due = lanes.taken(claim, lost, START);
    assert!(due.iter().all(|due| matches!(due, Due::Send { .. })));
}

#[tokio::test]
async fn a_tenant_with_a_thousand_hanging_slots_leaves_room_for_all_others() {
    let hanging: Vec<_> = (0..8).map(|n| format!("a{n}")).collect();
    let mut endpoints: Vec<_> =
        hanging.iter().map(|id| (id.as_str(), "concurrency: 1000")).collect();
    endpoints.extend([("a-other", "concurrency: 8"), ("g", "concurrency: 8")]);
    let lanes = lanes(&endpoints).await;
    for id in &hanging {
        due(&lanes, id, START, START);
    }
    let mut under_way = Vec::new();
    loop {
        let (sent, _) = take(&lanes, 1, START);
        if sent.is_empty() {
            break;
        }
        under_way.extend(sent);
        for id in &hanging {
            due(&lanes, id, START, START);
        }
    }
    assert!(under_way.len() <= IN_HAND_MAX as usize / 2 + 1, "{}", under_way.len());
    due(&lanes, "g", START, START);
    assert_eq!(take(&lanes, 1, START).0.len(), 8);
}

#[tokio::test]
async fn a_hanging_lane_leaves_room_for_its_tenants_others() {
    let lanes = lanes(&[("a", "concurrency: 1000"), ("b", "concurrency: 8")]).await;
    due(&lanes, "a", START, START);
    let mut under_way = 0;
    loop {
        match take(&lanes, 1, START).0 {
            sent if sent.is_empty() => break,
            sent => {
                under_way += sent.len();
                // Held for as long as this test runs.
                std::mem::forget(sent);
            }
        }
    }
    assert_eq!(under_way, 1_000);
    due(&lanes, "b", START, START);
    assert_eq!(take(&lanes, 1, START).0.len(), 8);
}

#[tokio::test]
async fn what_is_in_hand_is_bounded_whoever_wants_more() {
    let ids: Vec<_> =
        (0..9).map(|n| format!("{}{n}", if n % 2 == 0 { "a" } else { "g" })).collect();
    let endpoints: Vec<_> = ids.iter().map(|id| (id.as_str(), "concurrency: 1000")).collect();
    let lanes = lanes(&endpoints).await;
    let mut under_way = Vec::new();
    for _ in 0..100 {
        for id in &ids {
            due(&lanes, id, START, START);
        }
        under_way.extend(take(&lanes, 1, START).0);
    }
    assert!(lanes.counts().in_hand <= IN_HAND_MAX);
    assert_eq!(lanes.counts().in_hand as usize, under_way.len());
    drop(under_way);
    assert_eq!(lanes.counts().in_hand, 0, "a place is given up with what had it");
}

#[tokio::test]
async fn what_a_document_does_not_serve_is_parked_once_it_is_the_newest() {
    let lanes = lanes(&[("a", "state: disabled")]).await;
    let swept = |now| {
        let lane = |id: &str| DueLane {
            tenant: owner(id),
            endpoint: EndpointId::from(id),
            due_at: timestamp(START),
        };
        lanes.swept(vec![lane("a"), lane("removed")], now)
    };
    assert_eq!(swept(START), Unsure::None, "a newer one may be on its way");
    assert!(lanes.claim(START).is_none());
    let now = START + lane::REMOVED_PATIENCE;
    assert_eq!(swept(now), Unsure::Some);
    lanes.is_sure(2, now);
    assert!(lanes.claim(now).is_none(), "another revision is the newest");
    lanes.is_sure(1, now);
    let (sent, parked) = take(&lanes, 1, now);
    assert!(sent.is_empty());
    let mut reasons: Vec<_> = parked
        .iter()
        .map(|due| match due {
            Due::GiveBack {
                settlement: Settlement { attempt: None, next: Next::Parked(reason), .. },
                ..
            } => *reason,
            _ => panic!("it is not parked"),
        })
        .collect();
    reasons.dedup();
    assert!(
        reasons.contains(&Reason::Disabled) && reasons.contains(&Reason::Removed),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn what_the_store_says_of_an_endpoint_holds_unless_it_is_older() {
    let lanes = lanes(&[("a", "")]).await;
    let standing = |at: i64, disabled: Option<Reason>| Standing {
        endpoint: EndpointId::from("a"),
        tenant: owner("a"),
        failing_since: None,
        open_until: None,
        opened: 0,
        disabled: disabled.map(|reason| Disabled { reason, since: timestamp(at) }),
        at: timestamp(at),
    };
    let parked = || {
        due(&lanes, "a", START, START);
        lanes.is_sure(1, START + SECOND);
        take(&lanes, 1, START + SECOND)
    };
    lanes.adopt(&[standing(START, Some(Reason::Gone))], START);
    let (sent, given_back) = parked();
    assert!(sent.is_empty() && !given_back.is_empty());
    assert!(given_back.iter().all(|due| matches!(next(due), Next::Parked(Reason::Gone))));
    lanes.adopt(&[standing(START + 1, None)], START);
    let (sent, given_back) = parked();
    assert!(!sent.is_empty() && given_back.is_empty(), "enabled");
    for attempt in sent {
        end(&lanes, attempt, Class::Gone, Next::Parked(Reason::Gone), START + 2);
    }
    lanes.adopt(&[standing(START + 1, None)], START + 3);
    assert!(parked().0.is_empty(), "410, which the store was not told yet");
    let told = lanes.to_disable();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].disabled.as_ref().unwrap().reason, Reason::Gone);
    lanes.is_disabled(&EndpointId::from("a"));
    assert!(lanes.to_disable().is_empty());
}

fn next(due: &Due) -> Next {
    let Due::GiveBack { settlement, .. } = due else { panic!("it is sent") };
    assert_eq!(settlement.attempt, None);
    settlement.next
}

#[tokio::test]
async fn what_became_due_after_it_was_known_to_be_parked_is_not() {
    let lanes = lanes(&[("a", "state: disabled")]).await;
    due(&lanes, "a", START, START);
    let now = START + lane::REMOVED_PATIENCE;
    lanes.is_sure(1, now);
    let claim = lanes.claim(now).unwrap();
    // An operator enabled the endpoint meanwhile, which took this one up.
    let taken_up = HeldDelivery { due_at: timestamp(now + 1), ..held("a", 2, 1) };
    let due = lanes.taken(claim, vec![held("a", 1, 1), taken_up], now + SECOND);
    assert_eq!(
        due.iter().map(next).collect::<Vec<_>>(),
        [Next::Parked(Reason::Disabled), Next::Due(timestamp(now + 1))]
    );
    drop(due);
    assert!(lanes.claim(now + SECOND).is_none(), "until somebody makes sure again");
}

#[tokio::test]
async fn a_lane_that_is_gone_leaves_nothing_behind() {
    let lanes = lanes(&[("a", "concurrency: 1, breaker: { min_attempts: 1 }"), ("b", "")]).await;
    due(&lanes, "a", START, START);
    for attempt in take(&lanes, 1, START).0 {
        end(&lanes, attempt, Class::Transient, later(START), START);
    }
    assert!(lanes.next_alarm().is_some(), "its breaker is open");
    let claim = lanes.claim(START + 3_600 * SECOND).unwrap();
    drop(lanes.taken(claim, Vec::new(), START + 3_600 * SECOND));
    lanes.changed_standings();
    let mut other = Arc::into_inner(book(&[("b", "")]).await).unwrap();
    other.revision = 2;
    lanes.follow(&Arc::new(other), START);
    assert_eq!(lanes.next_alarm(), None);
    assert_eq!(lanes.counts().open, 0);
}

#[tokio::test]
async fn retries_that_waited_are_made_soon_where_the_endpoint_is_well_again() {
    let lanes = lanes(&[("a", "concurrency: 32, retry_budget: 0.1")]).await;
    // When each of them is due. The first ones fail, until the budget is spent.
    let mut dues: Vec<i64> = vec![START; 2_000];
    let (mut now, mut failures) = (START, 32);
    due(&lanes, "a", START, START);
    while !dues.is_empty() {
        assert!(now < START + 30 * SECOND, "{} wait still", dues.len());
        if let Some(claim) = lanes.claim(now) {
            dues.sort_unstable();
            let most = claim.takes[0].most as usize;
            let ready = dues.partition_point(|at| *at <= now).min(most);
            let taken = dues.drain(..ready).map(|at| (at, held("a", 1, 2)));
            let taken = taken.map(|(at, held)| HeldDelivery { due_at: timestamp(at), ..held });
            let taken = taken.collect();
            for attempt in lanes.taken(claim, taken, now) {
                let again = match attempt {
                    Due::GiveBack { settlement, .. } => match settlement.next {
                        Next::Due(at) => at.as_microsecond(),
                        other => panic!("{other:?}"),
                    },
                    sent @ Due::Send { .. } if failures > 0 => {
                        failures -= 1;
                        end(&lanes, sent, Class::Transient, later(now), now);
                        now + SECOND
                    }
                    sent @ Due::Send { .. } => {
                        end(&lanes, sent, Class::Delivered, Next::Delivered, now);
                        continue;
                    }
                };
                dues.push(again);
                due(&lanes, "a", again, now);
            }
        }
        now += 10_000;
        if let Some(first) = dues.iter().min() {
            // As a sweep does.
            due(&lanes, "a", *first, now);
        }
    }
}

#[tokio::test]
async fn a_tenants_large_events_leave_room_for_all_others() {
    let lanes =
        lanes(&[("a", "concurrency: 1000"), ("b", "concurrency: 1000"), ("g", "concurrency: 8")])
            .await;
    let content = Bytes::from(vec![b' '; 1 << 20]);
    let mut under_way = Vec::new();
    for _ in 0..50 {
        due(&lanes, "a", START, START);
        due(&lanes, "b", START, START);
        let Some(claim) = lanes.claim(START) else { break };
        let of = |take: &Take| vec![held(take.endpoint.as_str(), 1, 1); take.most as usize];
        let mut got: Vec<_> = claim.takes.iter().flat_map(of).collect();
        got.iter_mut().for_each(|held| held.content = content.clone());
        under_way.extend(lanes.taken(claim, got, START));
    }
    assert!((64..=130).contains(&under_way.len()), "{} are in hand", under_way.len());
    due(&lanes, "g", START, START);
    let (sent, _) = take(&lanes, 1, START);
    assert_eq!(sent.iter().filter(|due| matches!(due, Due::Send { endpoint, .. } if endpoint.tenant.as_str() == "globex")).count(), 8);
    drop((sent, under_way));
    assert_eq!(lanes.inner().in_hand, InHand::default());
}

#[tokio::test]
async fn what_is_another_tenants_is_neither_sent_nor_counted() {
    let lanes = lanes(&[("a", "concurrency: 4")]).await;
    // How the endpoint of this id stood when it was another tenant's.
    let standing = Standing {
        endpoint: EndpointId::from("a"),
        tenant: TenantId::from("globex"),
        failing_since: None,
        open_until: Some(timestamp(START + 60 * SECOND)),
        opened: 1,
        disabled: Some(Disabled { reason: Reason::Gone, since: timestamp(START) }),
        at: timestamp(START),
    };
    lanes.adopt(&[standing], START);
    // A hint of what it still has comes first.
    lanes.due([(TenantId::from("globex"), EndpointId::from("a"), START)], START);
    let claim = lanes.claim(START).unwrap();
    assert_eq!(claim.takes[0].most, 4);
    let stranger = HeldDelivery { tenant: TenantId::from("globex"), ..held("a", 1, 1) };
    let told = lanes.taken(claim, vec![stranger, held("a", 2, 1)], START);
    let [Due::GiveBack { why: Postponed::Stranger(1), settlement, .. }, Due::Send { held, .. }] =
        &told[..]
    else {
        panic!("it is sent")
    };
    assert_eq!((settlement.attempt.as_ref(), held.tenant.as_str()), (None, "acme"));
    assert_eq!(settlement.next, Next::Due(timestamp(START + STRANGER_PAUSE)));
    assert_eq!(lanes.changed_standings(), []);
    drop(told);
    assert_eq!(lanes.inner().in_hand, InHand::default());
}

#[tokio::test]
async fn nothing_is_parked_by_a_410_that_the_store_was_not_told() {
    let lanes = lanes(&[("a", "concurrency: 1")]).await;
    due(&lanes, "a", START, START);
    let attempt = take(&lanes, 1, START).0.pop().unwrap();
    end(&lanes, attempt, Class::Gone, later(START), START);
    let swept = || {
        let (tenant, endpoint) = (owner("a"), EndpointId::from("a"));
        lanes.swept(vec![DueLane { tenant, endpoint, due_at: timestamp(START) }], START)
    };
    assert_eq!(swept(), Unsure::None);
    lanes.is_sure(1, START);
    assert!(lanes.claim(START).is_none(), "neither sent nor parked");
    lanes.is_disabled(&EndpointId::from("a"));
    assert_eq!(swept(), Unsure::Some);
    lanes.is_sure(1, START + SECOND);
    let (sent, parked) = take(&lanes, 2, START + SECOND);
    assert!(sent.is_empty() && matches!(next(&parked[0]), Next::Parked(Reason::Gone)));
}
