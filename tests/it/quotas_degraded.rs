//! Redis fails in every way it can while requests go on: each limit does what its operator chose, everybody is told, and all
//! is as before when it is back.

use crate::harness::cluster::Member;
use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::offer::{Offer, Outcomes, Stream};
use crate::harness::pair::counters;
use crate::harness::redis::{Redis, Wire};
use crate::harness::size::long;
use crate::harness::{Latch, Pair, Reply, Upstream, eventually, sized};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const PATH: &str = "/v1/contacts";
/// How soon all must be as before once Redis is.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// What a request may take longer while Redis is known to be away, in the full size.
const ADDED_P99: Duration = Duration::from_millis(20);
/// What threads and descriptors may vary by.
const NOISE: u64 = 8;

/// What happens to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    Slow,
    OutOfMemory,
    ReadOnly,
}

/// A tenant for each mode: what it may do per second, what both gateways are asked, each.
#[derive(Clone, Copy, Debug)]
struct Tenant {
    mode: &'static str,
    rate: u32,
    asked: u32,
}

/// Twice as much as it may.
const LOCAL: Tenant = Tenant { mode: "local", rate: 40, asked: 40 };
/// Twice as much as it may.
const OPEN: Tenant = Tenant { mode: "open", rate: 20, asked: 20 };
/// Much less than it may.
const CLOSED: Tenant = Tenant { mode: "closed", rate: 1_000, asked: 10 };
const TENANTS: [Tenant; 3] = [LOCAL, OPEN, CLOSED];

impl Tenant {
    fn limits(self) -> Value {
        let Self { mode, rate, .. } = self;
        json!([
            { "id": "rate", "rate": format!("{rate}/s"), "burst": rate, "per": "tenant", "on_store_error": mode },
            // Without batches, what Redis counts is what was admitted.
            { "id": "daily", "quota": "1000000/day", "per": "tenant", "exact": true, "on_store_error": mode },
        ])
    }
}

/// A Redis that can fail, and the way to it.
struct Failing {
    redis: Redis,
    wire: Wire,
}

impl Failing {
    async fn start() -> Self {
        let redis = Redis::start();
        let wire = Wire::to(redis.address()).await;
        Self { redis, wire }
    }

    /// Where it is; only what is late needs a way that can be.
    fn url(&self, fault: Fault) -> String {
        match fault {
            Fault::Slow => format!("redis://{}", self.wire.address),
            _ => self.redis.url(),
        }
    }

    fn fails(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => self.redis.kill(),
            Fault::Frozen => self.redis.freeze(),
            Fault::Slow => self.wire.delays(Duration::from_millis(200)),
            Fault::OutOfMemory => self.redis.fill(),
            Fault::ReadOnly => self.redis.becomes_replica(),
        }
    }

    /// All is well again when this returns.
    fn recovers(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => self.redis.start_again(),
            Fault::Frozen => self.redis.thaw(),
            Fault::Slow => self.wire.delays(Duration::ZERO),
            Fault::OutOfMemory => self.redis.has_room(),
            Fault::ReadOnly => self.redis.becomes_master(),
        }
        self.redis.ask(&["PING"]);
    }
}

/// Requests of every tenant at both gateways; a stream for each tenant and gateway, tenant by tenant.
fn offered(pair: &Pair, keys: &[String]) -> Offer {
    let streams: Vec<Stream<'_>> = TENANTS
        .iter()
        .zip(keys)
        .flat_map(|(tenant, key)| pair.asked(key, tenant.asked, 4))
        .collect();
    Offer::start(&streams)
}

/// Threads and descriptors of each gateway.
fn held(pair: &mut Pair) -> Vec<(u64, u64)> {
    let count = |member: &mut Member| {
        let process = member.process();
        (process.threads(), process.descriptors())
    };
    pair.cluster.members.iter_mut().map(count).collect()
}

#[track_caller]
fn has_not_grown(what: &str, before: &[(u64, u64)], after: &[(u64, u64)]) {
    println!("threads and descriptors {what}: {before:?}, then {after:?}");
    for ((threads, descriptors), (more_threads, more)) in before.iter().zip(after) {
        assert!(*more_threads <= threads + NOISE, "threads {what}: {before:?}, then {after:?}");
        assert!(*more <= descriptors + NOISE, "descriptors {what}: {before:?}, then {after:?}");
    }
}

/// When what happened, since the offers began.
#[derive(Debug)]
struct Times {
    failed: Duration,
    noticed: Duration,
    /// The last moment before it recovered.
    until: Duration,
    back: Duration,
}

async fn each_mode_holds(fault: Fault) {
    let (mut failing, upstream) = (Failing::start().await, Upstream::start().await);
    let document = TENANTS.iter().fold(document::standard(upstream.address), |document, tenant| {
        document.with_tenant(tenant.mode, tenant.limits())
    });
    // Tests share their processors: only in the full size is it as short as it is by default.
    let deadline = sized("deadline", "100ms", "15ms");
    let mut pair = Pair::with_deadline(&failing.url(fault), deadline, &document).await;
    let (calm, outage) = (sized("seconds before", 1, 10), sized("seconds without Redis", 2, 10));
    let keys = TENANTS.map(|tenant| key_of(tenant.mode));
    let offer = offered(&pair, &keys);
    offer.goes_on_for(Duration::from_secs(calm)).await;
    assert_eq!(pair.degraded().await, [false; 2]);
    let before = held(&mut pair);

    let failed = offer.now();
    failing.fails(fault);
    pair.are_degraded(true).await;
    let noticed = offer.now();
    println!("{fault:?}: noticed after {:?}", noticed - failed);
    let first = held(&mut pair);
    offer.goes_on_for(Duration::from_secs(outage)).await;
    assert_eq!(pair.degraded().await, [true; 2]);
    for member in pair.members() {
        is_told(member).await;
    }
    let last = held(&mut pair);
    let until = offer.now();
    failing.recovers(fault);
    let took = pair.are_degraded(false).await;
    let back = offer.now();
    println!("{fault:?}: back after {took:?}");
    assert!(took <= BACK_WITHIN, "{fault:?}: back after {took:?}");
    offer.goes_on_for(BACK_WITHIN).await;
    let after = held(&mut pair);
    let all = offer.stop().await;

    let times = Times { failed, noticed, until, back };
    println!("{fault:?}: {times:?}");
    has_not_grown("before and while it is away", &before, &last);
    has_not_grown("as long as it is away", &first, &last);
    has_not_grown("before and after", &before, &after);
    local_holds(&all[0..2], &times);
    open_holds(&all[2..4], &times);
    closed_holds(&all[4..6], &times);
    costs_no_time(fault, &Outcomes::of_all(&all[2..4]), &times);
    for (tenant, outcomes) in TENANTS.iter().zip(all.chunks(2)) {
        nothing_is_charged_twice(&pair, *tenant, &Outcomes::of_all(outcomes)).await;
    }
    for member in pair.members() {
        let changes = changes(member);
        assert_eq!(changes.len(), 2, "{}: {changes:#?}", member.name);
    }
}

/// Lines of a log that say that counters are away, or back.
fn changes(member: &Member) -> Vec<String> {
    let log = member.log();
    let says = |line: &&str| line.contains("the shared counters");
    log.lines().filter(says).map(str::to_owned).collect()
}

/// What operators see while it lasts.
async fn is_told(member: &Member) {
    let told = counters(member).await;
    assert_eq!(told["state"], "degraded", "{told}");
    assert_eq!(told["nodes"], 2, "{told}");
    // A gateway without its counters serves on: each limit says how.
    member.status.get("/readyz").send().await.is(200);
}

/// Each gateway admits half of the rate, and half of its burst where that was left.
fn local_holds(gateways: &[Outcomes], times: &Times) {
    for outcomes in gateways {
        println!("local: {:?}", outcomes.summary());
        outcomes.hold("local");
        let away = outcomes.within(times.noticed, times.until);
        away.each("decided locally", |asked| asked.degraded("local"));
        let (burst, rate) = (LOCAL.rate / 2, f64::from(LOCAL.rate) / 2.0);
        let excess = away.excess(burst, rate);
        assert!(excess <= 0.0, "{excess} more than its share in some interval");
        let time = (times.until - times.noticed).as_secs_f64();
        let admitted = f64::from(u32::try_from(away.admitted()).unwrap());
        println!("local: {admitted} admitted of a share of {:.0}", rate * time);
        assert!(admitted >= 0.8 * rate * time, "{admitted} of {}", rate * time);
        is_normal(outcomes, times);
    }
}

/// Everything passes.
fn open_holds(gateways: &[Outcomes], times: &Times) {
    for outcomes in gateways {
        println!("open: {:?}", outcomes.summary());
        outcomes.hold("open");
        let away = outcomes.within(times.noticed, times.until);
        away.each("passes, and says so", |asked| asked.status == 200 && asked.degraded("open"));
        is_normal(outcomes, times);
    }
}

/// Nothing passes.
fn closed_holds(gateways: &[Outcomes], times: &Times) {
    for outcomes in gateways {
        println!("closed: {:?}", outcomes.summary());
        outcomes.hold("closed");
        let away = outcomes.within(times.noticed, times.until);
        away.each("is refused", |asked| asked.status == 503);
        is_normal(outcomes, times);
    }
}

/// Before it failed, and once it is back, Redis decides.
fn is_normal(outcomes: &Outcomes, times: &Times) {
    outcomes.within(Duration::ZERO, times.failed).are_normal();
    outcomes.within(times.back, Duration::MAX).are_normal();
}

/// Nobody waits for what is known to be away.
fn costs_no_time(fault: Fault, open: &Outcomes, times: &Times) {
    let admitted = |outcomes: Outcomes| {
        Outcomes(outcomes.0.into_iter().filter(|asked| asked.status == 200).collect())
    };
    let calm = admitted(open.within(Duration::ZERO, times.failed)).quantile(0.99);
    let away = admitted(open.within(times.noticed, times.until)).quantile(0.99);
    let added = away.saturating_sub(calm);
    println!("{fault:?}: p99 {calm:?} before, {away:?} while it is away; {added:?} added");
    assert!(!long() || added <= ADDED_P99, "{added:?} added");
}

/// What was admitted by Redis is charged to it, and at most what was admitted at all.
async fn nothing_is_charged_twice(pair: &Pair, tenant: Tenant, outcomes: &Outcomes) {
    let admitted = outcomes.admitted() as u64;
    let alone = |how: &str| {
        outcomes.0.iter().filter(|asked| asked.admitted() && asked.degraded(how)).count() as u64
    };
    let least = admitted - alone("local") - alone("open");
    let what = format!("{} is charged what was admitted", tenant.mode);
    let used = eventually(&what, async || {
        let used = pair.used(tenant.mode, "daily").await;
        if (least..=admitted).contains(&used) { Ok(used) } else { Err((least, used, admitted)) }
    })
    .await;
    println!("{}: {admitted} admitted, {least} of them by Redis; {used} charged", tenant.mode);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_while_redis_is_killed() {
    each_mode_holds(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_while_redis_hangs() {
    each_mode_holds(Fault::Frozen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_while_redis_takes_200_ms_longer() {
    each_mode_holds(Fault::Slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_while_redis_has_no_memory_left() {
    each_mode_holds(Fault::OutOfMemory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_while_redis_takes_no_writes() {
    each_mode_holds(Fault::ReadOnly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_forgot_its_scripts() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = TENANTS.iter().fold(document::standard(upstream.address), |document, tenant| {
        document.with_tenant(tenant.mode, tenant.limits())
    });
    let pair = Pair::start(&redis.url(), &document).await;
    let keys = TENANTS.map(|tenant| key_of(tenant.mode));
    let offer = offered(&pair, &keys);
    for _ in 0..sized("flushes", 10, 100) {
        redis.ask(&["SCRIPT", "FLUSH"]);
        // Time for requests between two of them.
        sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(pair.degraded().await, [false; 2]);
    for (tenant, outcomes) in TENANTS.iter().zip(offer.stop().await.chunks(2)) {
        let outcomes = Outcomes::of_all(outcomes);
        println!("{}: {:?}", tenant.mode, outcomes.summary());
        outcomes.each("decided by Redis", |asked| {
            matches!(asked.status, 200 | 429) && !asked.limits.contains("tollgate-degraded")
        });
        let excess = outcomes.excess(tenant.rate, f64::from(tenant.rate));
        assert!(excess <= 0.0, "{excess} too many in some interval");
        pair.has_used(tenant.mode, "daily", outcomes.admitted() as u64).await;
    }
    for member in pair.members() {
        assert_eq!(changes(member), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_divided_while_redis_is_away_and_none_is_lost() {
    let mut redis = Redis::start();
    let latch = Latch::closed();
    let held = latch.clone();
    let upstream = Upstream::scripted(move |_| Reply::of(200).held_by(&held)).await;
    let slots =
        json!([{ "id": "open", "concurrency": 4, "per": "tenant", "on_store_error": "local" }]);
    let document = document::standard(upstream.address).with_tenant("slots", slots);
    let pair = Pair::with_deadline(&redis.url(), "100ms", &document).await;
    let key = key_of("slots");
    let ask = |at: usize| pair.members()[at].get(PATH).key(&key).send();
    let mut holding = JoinSet::new();
    // Two are held in Redis.
    holding.spawn(ask(0));
    holding.spawn(ask(1));
    upstream.has_seen(2).await;
    redis.kill();
    pair.are_degraded(true).await;
    // Each has two of the four, less its share of those two.
    let mut refused = Vec::new();
    for at in [0, 1, 0, 1, 0, 1] {
        let seen = upstream.arrivals().len();
        let mut one = JoinSet::new();
        one.spawn(ask(at));
        tokio::select! {
            Some(answer) = one.join_next() => refused.push(answer.unwrap()),
            _ = upstream.has_seen(seen + 1) => {
                holding.spawn(async move { one.join_next().await.unwrap().unwrap() });
            }
        }
    }
    let admitted = holding.len() - 2;
    println!("{admitted} more are held while it is away");
    assert!((2..=4).contains(&admitted), "{admitted} more than two");
    for answer in &refused {
        assert_eq!(answer.refuses(429, "CONCURRENCY_LIMITED")["limit"], "open");
        assert!(answer.header("ratelimit").contains(";tollgate-degraded=local"), "{answer:?}");
    }
    redis.start_again();
    pair.are_degraded(false).await;
    // Those that Redis knew of hold theirs.
    assert_eq!(pair.used("slots", "open").await, 2);
    latch.open();
    for answer in holding.join_all().await {
        answer.is(200);
    }
    // Each was given back where it was taken.
    pair.has_used("slots", "open", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_redis_and_finds_it_when_it_comes() {
    let (mut redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = TENANTS.iter().fold(document::standard(upstream.address), |document, tenant| {
        document.with_tenant(tenant.mode, tenant.limits())
    });
    let mut pair = Pair::with_deadline(&redis.url(), "100ms", &document).await;
    redis.kill();
    let b = pair.cluster.member_mut("b");
    b.kill();
    b.start_again();
    b.is_ready().await;
    let asks = async |mode: &str| pair.b().get(PATH).key(&key_of(mode)).send().await;
    // Nobody told it of others: it is alone with the limit.
    let local = asks("local").await;
    assert!(local.is(200).header("ratelimit").contains(";tollgate-degraded=local"), "{local:?}");
    let open = asks("open").await;
    assert!(open.is(200).header("ratelimit").contains(";tollgate-degraded=open"), "{open:?}");
    let refused = asks("closed").await;
    let details = refused.refuses(503, "DEPENDENCY_UNAVAILABLE");
    assert!(details["limit"] == "rate" || details["limit"] == "daily", "{details}");
    assert!(!refused.lines("retry-after").is_empty());

    redis.start_again();
    pair.are_degraded(false).await;
    for tenant in TENANTS {
        let answer = asks(tenant.mode).await;
        let limits = answer.is(200).header("ratelimit");
        assert!(!limits.is_empty() && !limits.contains("degraded"), "{limits}");
    }
}
