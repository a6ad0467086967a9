use super::*;
use crate::tests::store;
use model::quota::{Calendar, Counted, Limit, LimitMode, OnStoreError, Per, PermitId};
use store::control::Outgoing;

/// 2026-11-21T00:00:00Z, in microseconds.
const MIDNIGHT: i64 = 1_795_219_200_000_000;
const DAY: i64 = 24 * 3_600 * 1_000_000;
const SOON: Duration = Duration::from_secs(10);

fn demand(kind: Kind, part: Part) -> Demand {
    let limit = Limit {
        id: "daily".into(),
        kind,
        per: Per::Tenant,
        exact: false,
        mode: LimitMode::Enforce,
        on_store_error: OnStoreError::Local,
    };
    let key = CounterKey { limit: limit.id.clone(), part };
    Demand {
        permit: PermitId(0),
        tenant: "acme".into(),
        calendar: Calendar::UTC,
        cost: 1,
        costs_later: false,
        permit_ttl: 0,
        limits: vec![Counted { key, limit: Arc::new(limit) }],
    }
}

fn daily(part: Part) -> Demand {
    demand(Kind::Quota("100/day".parse().unwrap()), part)
}

/// So much is used of the day's 100, on this day.
fn reading(used: u64, day: i64) -> Reading {
    let start = MIDNIGHT + day * DAY;
    Reading {
        id: "daily".into(),
        kind: Kind::Quota("100/day".parse().unwrap()),
        limit: 100,
        used,
        remaining: 100_u64.saturating_sub(used),
        reset_after: Some(DAY / 2),
        window: Some(Window { start, end: start + DAY }),
        refusal: None,
        mode: LimitMode::Enforce,
        degraded: None,
    }
}

fn note(thresholds: &Thresholds, demand: &Demand, reading: Reading) {
    thresholds.note(demand, &[reading], &"gold".into(), time(MIDNIGHT + DAY / 2));
}

/// All that was told so far, each as `percent used`.
async fn told(thresholds: &Thresholds, store: &Store) -> Vec<String> {
    assert_eq!(thresholds.flush(SOON).await, 0);
    let line =
        |told: Outgoing| format!("{} {}", told.event.data["percent"], told.event.data["used"]);
    store.outbox(0, 100).await.unwrap().into_iter().map(line).collect()
}

fn start(store: &Store) -> Thresholds {
    Thresholds::start(store.clone(), &tokio::runtime::Handle::current())
}

#[tokio::test]
async fn each_threshold_is_told_once_by_whoever_reads_it_first() {
    let (store, _keep) = store().await;
    let (node, other) = (start(&store), start(&store));
    for (used, expected) in [
        (0, &[][..]),
        (79, &[]),
        (80, &["80 80"]),
        (81, &["80 80"]),
        (94, &["80 80"]),
        (97, &["80 80", "95 97"]),
        // What was given back, or a limit that was raised, takes nothing back.
        (10, &["80 80", "95 97"]),
        (80, &["80 80", "95 97"]),
        (130, &["80 80", "95 97", "100 130"]),
    ] {
        for node in [&node, &other, &node] {
            note(node, &daily(Part::Tenant), reading(used, 0));
            assert_eq!(told(node, &store).await, expected, "{used}");
        }
    }
    // Nor does the next start.
    let again = start(&store);
    note(&again, &daily(Part::Tenant), reading(130, 0));
    assert_eq!(told(&again, &store).await.len(), 3);
}

#[tokio::test]
async fn a_first_reading_above_all_of_them_tells_each_in_order() {
    let (store, _keep) = store().await;
    let node = start(&store);
    note(&node, &daily(Part::Tenant), reading(100, 0));
    assert_eq!(told(&node, &store).await, ["80 100", "95 100", "100 100"]);
}

#[tokio::test]
async fn every_window_and_every_counter_is_told_of_by_itself() {
    let (store, _keep) = store().await;
    let node = start(&store);
    for day in [0, 1] {
        for part in [
            Part::Tenant,
            Part::Consumer("mobile".into()),
            Part::Consumer("web".into()),
            Part::Credential("web".into(), "k1".into()),
        ] {
            note(&node, &daily(part), reading(85, day));
        }
    }
    assert_eq!(told(&node, &store).await.len(), 8);
    let events = store.outbox(0, 100).await.unwrap();
    let event = &events[3].event;
    assert_eq!(event.r#type, "tollgate.quota.reached");
    assert_eq!(event.tenant, Some("acme".into()));
    assert_eq!(event.subject, "/v1/tenants/acme");
    let expected = json!({
        "limit": "daily", "plan": "gold", "mode": "enforce", "percent": 80, "used": 85, "amount": 100,
        "period": "day", "window": { "start": "2026-11-21T00:00:00Z", "end": "2026-11-22T00:00:00Z" },
        "consumer": "web", "credential": "k1",
    });
    assert_eq!(event.data, expected);
    assert_eq!(events[1].event.data["consumer"], "mobile");
    assert_eq!(events[0].event.data.get("consumer"), None);
}

#[tokio::test]
async fn what_is_no_use_of_the_quota_is_not_told() {
    let (store, _keep) = store().await;
    let node = start(&store);
    let tenant = || daily(Part::Tenant);
    let rate = Kind::Rate { rate: "1/s".parse().unwrap(), burst: 100 };
    for (demand, reading) in [
        (daily(Part::Ip([192, 0, 2, 7].into())), reading(100, 0)),
        (tenant(), Reading { degraded: Some(OnStoreError::Local), ..reading(100, 0) }),
        (tenant(), Reading { degraded: Some(OnStoreError::Open), ..reading(100, 0) }),
        (demand(rate, Part::Tenant), Reading { kind: rate, window: None, ..reading(100, 0) }),
        (
            demand(Kind::Concurrency(100), Part::Tenant),
            Reading { kind: Kind::Concurrency(100), window: None, ..reading(100, 0) },
        ),
    ] {
        note(&node, &demand, reading);
    }
    assert!(told(&node, &store).await.is_empty());
    assert_eq!(node.noted.len(), 0);
    // One that only observes is told of, and says so.
    note(&node, &tenant(), Reading { mode: LimitMode::Observe, ..reading(100, 0) });
    assert_eq!(told(&node, &store).await.len(), 3);
    assert_eq!(store.outbox(0, 1).await.unwrap()[0].event.data["mode"], "observe");
}

#[tokio::test]
async fn what_could_not_be_told_is_told_by_the_next_reading() {
    let (away, _folder) = store().await;
    away.close().await;
    let (store, _keep) = store().await;
    let (noted, waiting) = (Arc::<Noted>::default(), Arc::<Waiting>::default());
    let node = |store: &Store, tries| {
        let (queue, handed_over) = mpsc::channel(QUEUE);
        let (noted, waiting) = (noted.clone(), waiting.clone());
        let (of_teller, told) = (noted.clone(), waiting.clone());
        let store = store.clone();
        tokio::spawn(Teller { store, handed_over, tries, noted: of_teller, waiting: told }.run());
        Thresholds { noted, queue, waiting }
    };
    let without = node(&away, 2);
    note(&without, &daily(Part::Tenant), reading(85, 0));
    assert_eq!(without.flush(SOON).await, 0, "it is given up after two tries");
    let with = node(&store, 2);
    note(&with, &daily(Part::Tenant), reading(86, 0));
    assert_eq!(told(&with, &store).await, ["80 86"]);
}

#[tokio::test]
async fn what_finds_no_room_is_handed_over_by_the_next_reading() {
    let (queue, mut handed_over) = mpsc::channel(1);
    let node = Thresholds { noted: Arc::default(), queue, waiting: Arc::default() };
    let (one, other) = (daily(Part::Tenant), daily(Part::Consumer("web".into())));
    note(&node, &one, reading(85, 0));
    note(&node, &other, reading(85, 0));
    assert_eq!(node.waiting.count(), 1);
    assert_eq!(handed_over.recv().await.unwrap().counter.1.part, Part::Tenant);
    note(&node, &one, reading(86, 0));
    note(&node, &other, reading(86, 0));
    assert_eq!(handed_over.recv().await.unwrap().counter.1.part, Part::Consumer("web".into()));
    assert!(handed_over.try_recv().is_err());
}

#[test]
fn what_is_noted_is_bounded() {
    let noted = Noted::default();
    let reached = |number: usize, day| {
        let reading = reading(85, day);
        let key = CounterKey {
            limit: "daily".into(),
            part: Part::Consumer(number.to_string().as_str().into()),
        };
        Reached {
            at: time(MIDNIGHT + day * DAY + DAY / 2),
            counter: ("acme".into(), key),
            plan: "gold".into(),
            quota: "100/day".parse().unwrap(),
            mode: LimitMode::Enforce,
            used: 85,
            window: reading.window.unwrap(),
            percent: (0, 80),
        }
    };
    // One tenant is in one shard.
    let most = NOTED_MAX / SHARDS;
    for number in 0..most {
        assert!(noted.note(&reached(number, i64::from(number >= 10))));
    }
    let count = || noted.len();
    assert_eq!(count(), most);
    // What is of yesterday goes first.
    assert!(noted.note(&reached(most, 1)));
    assert_eq!(count(), most - 9);
    for number in 0..10 {
        assert!(noted.note(&reached(number, 1)));
    }
    assert_eq!(count(), 1, "then all of it");
}
