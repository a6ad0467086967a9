//! Redis fails in every way it can while requests go on: each limit does what its operator chose, everybody is told, and all
//! is as before when it is back.

use crate::harness::cluster::Member;
use crate::harness::modes::{self, LOCAL, TENANTS};
use crate::harness::offer::Outcomes;
use crate::harness::pair::counters;
use crate::harness::redis::{Failing, Fault, Redis};
use crate::harness::size::long;
use crate::harness::{Pair, Upstream, sized};
use std::time::Duration;
use tokio::time::sleep;

/// How soon all must be as before once Redis is.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// What a request may take longer while Redis is known to be away, in the full size.
const ADDED_P99: Duration = Duration::from_millis(20);
/// What threads and descriptors may vary by.
const NOISE: u64 = 8;

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

/// Where Redis is: only what is late needs a way that can be.
fn url(failing: &Failing, fault: Fault) -> String {
    if fault == Fault::Slow { failing.url() } else { failing.redis.url() }
}

async fn each_mode_holds(fault: Fault) {
    let (mut failing, upstream) = (Failing::start().await, Upstream::start().await);
    let document = modes::document(&upstream);
    // Tests share their processors: only in the full size is it as short as it is by default.
    let deadline = sized("deadline", "100ms", "15ms");
    let mut pair = Pair::with_deadline(&url(&failing, fault), deadline, &document).await;
    let (calm, outage) = (sized("seconds before", 1, 10), sized("seconds without Redis", 2, 10));
    let offer = modes::offered(&pair);
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
        tenant.is_charged_once(&pair, &Outcomes::of_all(outcomes)).await;
    }
    for member in pair.members() {
        let changes = modes::changes(member);
        assert_eq!(changes.len(), 2, "{}: {changes:#?}", member.name);
    }
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
    let document = modes::document(&upstream);
    let pair = Pair::start(&redis.url(), &document).await;
    let offer = modes::offered(&pair);
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
        assert_eq!(modes::changes(member), Vec::<String>::new());
    }
}
