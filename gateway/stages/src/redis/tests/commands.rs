//! What is sent to Redis and what is kept there.

use super::*;
use model::Clock;
use model::port::StoreError;
use model::quota::suite::START;
use model::quota::{Settlement, Window};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

const SECOND: i64 = 1_000_000;

fn now() -> i64 {
    Clock::system().micros()
}

/// A limit of each kind.
fn each() -> [(&'static str, Kind); 3] {
    [("burst", rate("5/s", 5)), ("daily", quota("100/day")), ("open", Kind::Concurrency(100))]
}

/// Hears every command that the server carries out.
struct Monitor(BufReader<TcpStream>);

impl Monitor {
    fn start() -> Self {
        let address = server().replace("redis://", "");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "+OK");
        Self(lines)
    }

    /// The commands that clients sent about this tenant until they sent this word; not what scripts did.
    fn sent_until(&mut self, tenant: &str, word: &str) -> Vec<String> {
        let mut sent = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.contains(word) {
                return sent;
            }
            if line.contains(tenant) && !line.contains(" lua]") {
                sent.push(line);
            }
        }
    }
}

#[tokio::test]
async fn five_a_second_and_a_hundred_a_day() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    let limits = [("burst", rate("5/s", 5)), ("daily", quota("100/day"))];
    let tenant = "burst-and-day";
    let ask = |id| demand(tenant, id, 1, &limits);
    // The first tells Redis the script, so that the rest is what every day is like.
    store.reserve(&demand("another", 1, 1, &limits), START).await.unwrap();
    let mut monitor = Monitor::start();
    let mut admitted = 0;
    for id in 0..50 {
        admitted += i64::from(is_admitted(&store, &ask(id), START).await);
    }
    database.ask::<String>(&["ECHO", "asked-fifty-times"]);
    assert_eq!(admitted, 5);
    assert_eq!(monitor.sent_until(tenant, "asked-fifty-times").len(), 50, "one command for each");
    assert_eq!(used(&store, &ask(99), START).await, [5, 5]);
    // Spread over ten seconds, 40 a second.
    for step in 1..=400_i64 {
        let id = 100 + u128::from(step.unsigned_abs());
        admitted += i64::from(is_admitted(&store, &ask(id), START + step * 25_000).await);
    }
    assert_eq!(admitted, 5 + 5 * 10);
    assert_eq!(used(&store, &ask(999), START + 10 * SECOND).await[1], 55);
}

async fn is_admitted(store: &RedisCounters, demand: &Demand, now: i64) -> bool {
    matches!(store.reserve(demand, now).await.unwrap(), Verdict::Admitted { .. })
}

#[tokio::test]
async fn a_decision_that_waits_takes_little_memory() {
    let database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let ask = demand("acme", 1, 1, &each());
    let size = size_of_val(&store.reserve(&ask, 0));
    assert!(size <= 2_048, "{size} bytes");
}

#[tokio::test]
async fn redis_own_clock_decides() {
    let database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let limits =
        [("burst", rate("1/h", 2)), ("day", quota("9/day")), ("minute", quota("9/minute"))];
    // Callers whose clocks are wrong by days, also by turns.
    for (id, wrong) in [(1, -40), (2, 70)] {
        let asked = now() + wrong * 86_400 * SECOND;
        let verdict = store.reserve(&demand("acme", id, 1, &limits), asked).await.unwrap();
        let Verdict::Admitted { permit, readings } = verdict else { panic!("refused") };
        let day = Window::of(
            "9/day".parse::<model::quota::Quota>().unwrap().period(),
            &Calendar::UTC,
            now(),
        );
        assert_eq!(readings[1].window, Some(day));
        assert_eq!(readings[0].used, u64::try_from(id).unwrap());
        store.settle(&permit, Settlement::Refund, asked).await.unwrap();
    }
    let refused = store.reserve(&demand("acme", 3, 1, &limits), 0).await.unwrap();
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn every_key_has_a_time_to_live() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let ask = |id, cost| Demand { costs_later: true, ..demand("acme", id, cost, &each()) };
    let mut ends = Vec::new();
    for (id, settlement) in
        [(1, Some(Settlement::Cost(3))), (2, Some(Settlement::Refund)), (3, None)]
    {
        let permit = admit(&store, &ask(id, 1), now()).await;
        ends.extend(settlement.map(|settlement| (permit, settlement)));
    }
    assert!(store.settle_all(&ends, now()).await.iter().all(Result::is_ok));
    store.settle_unknown(&ask(4, 1), Settlement::Refund, now()).await.unwrap();
    store.reset(&demand("acme", 5, 0, &each()[1..2]), now()).await.unwrap();
    let keys = database.keys();
    let shown: Vec<_> = keys.iter().map(|key| key.split(':').next().unwrap()).collect();
    assert_eq!(shown, ["q", "q", "qp", "qp", "qs"], "{keys:?}");
    // The quota's lasts until midnight, the others as long as the permit at most.
    for key in keys {
        let left: i64 = database.ask(&["PTTL", &key]);
        let most = if key.contains("daily") { 25 * 3_600_000 } else { 40_000 };
        assert!(0 < left && left <= most, "{key}: {left} ms");
    }
}

#[tokio::test]
async fn a_permit_with_nothing_to_settle_is_not_kept() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let permit = admit(&store, &demand("acme", 1, 1, &each()[..1]), now()).await;
    assert_eq!(permit.charges.len(), 0);
    assert_eq!(database.keys(), ["q:{acme}:burst:t"]);
    // Settled, nothing of the permit is left.
    let permit = admit(&store, &demand("acme", 2, 1, &each()), now()).await;
    store.settle(&permit, Settlement::Commit, now()).await.unwrap();
    assert_eq!(database.keys(), ["q:{acme}:burst:t", "q:{acme}:daily:t"]);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_told_again() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let ask = |id| demand("acme", id, 1, &each());
    let flush = |database: &mut Database| database.ask::<()>(&["SCRIPT", "FLUSH"]);
    let mut permits = Vec::new();
    for id in 0..3 {
        flush(&mut database);
        permits.push(admit(&store, &ask(id), now()).await);
    }
    flush(&mut database);
    assert_eq!(used(&store, &ask(9), now()).await[1..], [3, 3]);
    flush(&mut database);
    let ends: Vec<_> = permits.into_iter().map(|permit| (permit, Settlement::Refund)).collect();
    assert!(store.settle_all(&ends, now()).await.iter().all(Result::is_ok));
    assert_eq!(used(&store, &ask(9), now()).await[1..], [0, 0]);
    admit(&store, &ask(10), now()).await;
    flush(&mut database);
    store.reset(&ask(9), now()).await.unwrap();
    assert_eq!(used(&store, &ask(9), now()).await, [0, 0, 1]);
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_the_permits_id() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    let ask = |id| demand("acme", id, 2, &each());
    // It ran.
    admit(&store, &ask(1), START).await;
    store.settle_unknown(&ask(1), Settlement::Refund, START).await.unwrap();
    assert_eq!(used(&store, &ask(9), START).await, [2, 0, 0]);
    // It did not, and runs too late.
    store.settle_unknown(&ask(2), Settlement::Refund, START).await.unwrap();
    for _ in 0..2 {
        let late = store.reserve(&ask(2), START).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
        store.settle_unknown(&ask(2), Settlement::Refund, START).await.unwrap();
    }
    assert_eq!(used(&store, &ask(9), START).await, [2, 0, 0]);
}

#[tokio::test]
async fn permits_are_settled_together_and_once() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    let mut ends = Vec::new();
    for id in 0..8 {
        for tenant in ["acme", "globex"] {
            let permit = admit(&store, &demand(tenant, id, 1, &each()[1..]), START).await;
            let settlement = if id < 5 { Settlement::Refund } else { Settlement::Cost(4) };
            ends.push((permit, settlement));
        }
    }
    for _ in 0..2 {
        assert!(store.settle_all(&ends, START).await.iter().all(Result::is_ok));
        for tenant in ["acme", "globex"] {
            let look = demand(tenant, 99, 1, &each()[1..]);
            assert_eq!(used(&store, &look, START).await, [12, 0]);
        }
    }
    assert!(store.settle_all(&[], START).await.is_empty());
}

#[tokio::test]
async fn a_batch_that_is_given_back_leaves_quotas_with_what_was_spent() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    let limits = [("burst", rate("50/s", 100)), ("daily", quota("1000/day"))];
    let batch = admit(&store, &demand("acme", 1, 20, &limits), START).await;
    for _ in 0..2 {
        store.settle(&batch, Settlement::Cost(7), START).await.unwrap();
        assert_eq!(used(&store, &demand("acme", 2, 1, &limits), START).await, [20, 7]);
    }
}

#[tokio::test]
async fn foreign_values_under_our_keys_are_refused_and_nothing_is_charged() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    for (key, value) in [
        ("q:{acme}:daily:t", ["RPUSH", "x"]),
        ("q:{acme}:daily:t", ["SET", "q 1 2 x"]),
        ("qs:{acme}:open:t", ["SET", "x"]),
    ] {
        database.ask::<()>(&["FLUSHDB"]);
        database.ask::<redis::Value>(&[value[0], key, value[1]]);
        let verdict = store.reserve(&demand("acme", 1, 1, &each()), START).await;
        let is_overwritten = value[0] == "SET" && key.starts_with("q:");
        assert_eq!(verdict.is_ok(), is_overwritten, "{key} {value:?}: {verdict:?}");
        if !is_overwritten {
            assert!(matches!(verdict, Err(StoreError::Unreadable(_))), "{verdict:?}");
            assert_eq!(database.keys(), [key]);
        }
    }
}

#[tokio::test]
async fn a_permit_reads_back_whatever_its_counters_are_called() {
    let database = Database::take();
    let store = database.counters(ClockOf::Caller).await;
    for (id, name) in ["m", "", "7 s;", ";", "q 1 2 3;x 4 s;y", "}:t", "a\nb", "ä:b", "{x}"]
        .into_iter()
        .enumerate()
    {
        let mut ask = Demand { costs_later: true, ..demand("acme", id as u128, 1, &each()) };
        let parts =
            [Part::Consumer(name.into()), Part::Credential(name.into(), name.into()), Part::Tenant];
        for (counted, part) in ask.limits.iter_mut().zip(parts) {
            counted.key.part = part;
        }
        let first = admit(&store, &ask, START).await;
        assert_eq!(first.charges.len(), 3);
        assert_eq!(admit(&store, &ask, START).await, first, "{name:?}");
        let other = demand("acme", id as u128, 1, &[]);
        assert_eq!(admit(&store, &other, START).await, first, "{name:?}");
        store.settle(&first, Settlement::Cost(3), START).await.unwrap();
        assert_eq!(used(&store, &ask, START).await, [3, 3, 0], "{name:?}");
    }
}

/// What docs/redis.md says a tenant takes; prints it.
#[tokio::test]
async fn what_a_tenant_takes_is_known() {
    let mut database = Database::take();
    let store = database.counters(ClockOf::Redis).await;
    let limits = [
        ("burst", rate("1000/s", 1000)),
        ("daily", quota("100000/day")),
        ("open", Kind::Concurrency(64)),
    ];
    for id in 0..64 {
        // As ids of permits are.
        let id = u128::MAX / 3 - id;
        admit(&store, &demand("a-tenant-of-some-name", id, 1, &limits), now()).await;
    }
    let keys = database.keys();
    for (prefix, count, most) in [("q:", 2, 160), ("qp:", 64, 256), ("qs:", 1, 64 * 128)] {
        let keys: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
        let size = |key: &&String| database.ask::<i64>(&["MEMORY", "USAGE", key]);
        let largest = keys.iter().map(size).max().unwrap();
        println!("{} keys under {prefix}, the largest of {largest} bytes", keys.len());
        assert_eq!(keys.len(), count, "{keys:?}");
        assert!(largest <= most, "{prefix}: {largest} bytes");
    }
}
