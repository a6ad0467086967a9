//! Redis comes and goes, faster than anybody could look: nothing is charged twice, no slot is lost, and who starts without it
//! finds it.

use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::modes::{self, TENANTS};
use crate::harness::offer::Outcomes;
use crate::harness::redis::{Failing, Fault, Redis};
use crate::harness::{Latch, Pair, Random, Reply, Upstream, eventually, sized};
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const PATH: &str = "/v1/contacts";
/// How soon all must be as before once Redis is.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// At most so many milliseconds.
fn pause(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(u64::try_from(random.below(most)).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_holds_whatever_happens_in_whatever_order() {
    let (mut failing, upstream) = (Failing::start().await, Upstream::start().await);
    let document = modes::document(&upstream);
    let pair = Pair::with_deadline(&failing.url(), "100ms", &document).await;
    let offer = modes::offered(&pair);
    let mut random = Random::of_this_run();
    for number in 0..sized("faults", 6, 60) {
        let fault = Fault::ALL[random.below(Fault::ALL.len())];
        println!("{number}: {fault:?} at {:?}", offer.now());
        failing.fails(fault);
        sleep(pause(&mut random, 1_000)).await;
        failing.recovers(fault);
        sleep(pause(&mut random, 700)).await;
    }
    let took = pair.are_degraded(false).await;
    assert!(took <= BACK_WITHIN, "back after {took:?}");
    let back = offer.now();
    offer.goes_on_for(Duration::from_secs(1)).await;
    for (tenant, outcomes) in TENANTS.iter().zip(offer.stop().await.chunks(2)) {
        let outcomes = Outcomes::of_all(outcomes);
        println!("{}: {:?}", tenant.mode, outcomes.summary());
        outcomes.hold(tenant.mode);
        outcomes.within(back, Duration::MAX).are_normal();
        tenant.is_charged_once(&pair, &outcomes).await;
    }
    for member in pair.members() {
        // Away and back in turns, and back at last.
        let changes = modes::changes(member);
        println!("{}: {} lines about it", member.name, changes.len());
        let away: Vec<bool> = changes.iter().map(|line| line.contains("WARN")).collect();
        let in_turns = away.chunks(2).all(|pair| pair == [true, false]);
        assert!(in_turns, "{changes:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_charged_when_a_connection_was_lost_is_given_back() {
    let (failing, upstream) = (Failing::start().await, Upstream::start().await);
    let slots =
        json!([{ "id": "open", "concurrency": 5, "per": "tenant", "on_store_error": "closed" }]);
    let document = modes::document(&upstream).with_tenant("slots", slots);
    let pair = Pair::start(&failing.url(), &document).await;
    for tenant in TENANTS {
        for member in pair.members() {
            member.get(PATH).key(&key_of(tenant.mode)).send().await.is(200);
        }
        pair.has_used(tenant.mode, "daily", 2).await;
    }
    // Answers are on their way for so long that the connection can be lost before they are there.
    failing.wire.delays(Duration::from_millis(600));
    let before = failing.redis.scripts_run();
    let mut requests = JoinSet::new();
    for tenant in TENANTS.map(|tenant| tenant.mode).into_iter().chain(["slots"]) {
        for _ in 0..3 {
            requests.spawn(pair.a().get(PATH).key(&key_of(tenant)).send());
        }
    }
    eventually("Redis has charged them", async || {
        let run = failing.redis.scripts_run() - before;
        if run >= 12 { Ok(()) } else { Err(run) }
    })
    .await;
    failing.wire.cut();
    failing.wire.delays(Duration::ZERO);
    let answers = requests.join_all().await;
    let lost = answers.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(lost, 6, "{answers:#?}");
    pair.has_used("slots", "open", 0).await;
    // The others were admitted, whoever decided.
    for (mode, used) in [("closed", 2), ("local", 5), ("open", 5)] {
        pair.has_used(mode, "daily", used).await;
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
    // Each has two of the four, and begins with none: nobody knows when those in Redis end.
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
    assert_eq!(admitted, 4, "two at each");
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
    let document = modes::document(&upstream);
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
