//! Limits on Redis admit exactly what they say, whoever asks where; all limits of a request are charged or none is, by one
//! command.

use crate::harness::call::{Answer, Client};
use crate::harness::document::{self, ACME, Edit as _, key_of};
use crate::harness::offer::{Offer, Outcomes};
use crate::harness::redis::{Monitor, Redis};
use crate::harness::{Pair, Reply, Upstream, sized};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PATH: &str = "/v1/contacts";
/// For how long a node remembers a refusal at most.
const REFUSAL_REMEMBERED: Duration = Duration::from_millis(100);

fn rate(id: &str, rate: &str, burst: u32) -> Value {
    json!({ "id": id, "rate": rate, "burst": burst, "per": "tenant", "exact": true, "on_store_error": "closed" })
}

fn quota(id: &str, quota: &str) -> Value {
    json!({ "id": id, "quota": quota, "per": "tenant", "exact": true, "on_store_error": "closed" })
}

/// So many requests of a tenant at one instant, in turns at both gateways.
async fn at_once(pair: &Pair, tenant: &str, count: usize) -> Vec<Answer> {
    let key = key_of(tenant);
    let mut requests = JoinSet::new();
    for turn in 0..count {
        requests.spawn(pair.members()[turn % 2].get(PATH).key(&key).send());
    }
    requests.join_all().await
}

fn admitted(answers: &[Answer]) -> u64 {
    answers.iter().filter(|answer| answer.status == 200).count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_units_sixteen_clients_at_two_gateways_get_exactly_a_hundred() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = document::standard(upstream.address)
        .with_tenant("hundred", json!([quota("all", "100/month")]));
    let pair = Pair::start(&redis.url(), &document).await;
    let rounds = sized("rounds", 2, 20);
    for round in 1..=rounds {
        let mut clients = JoinSet::new();
        for client in 0..16 {
            // Each with connections of its own.
            let at = Client::to(pair.members()[client % 2].gateway);
            clients.spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..12 {
                    answers.push(at.get(PATH).key(&key_of("hundred")).send().await);
                }
                answers
            });
        }
        let answers = clients.join_all().await.concat();
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!(answer.refuses(429, "QUOTA_EXCEEDED")["limit"], "all");
        }
        assert_eq!(admitted(&answers), 100, "round {round}");
        assert_eq!(upstream.arrivals().len(), round * 100);
        for member in pair.members() {
            assert_eq!(member.used(&key_of("hundred"), "all").await, 100);
        }
        let reset = pair.cluster.api().post("/v1/usage/hundred:reset").json(&json!({}));
        reset.send().await.is(200);
        pair.has_used("hundred", "all", 0).await;
        sleep(REFUSAL_REMEMBERED).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rate_refuses_does_not_count_for_the_day() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let limits = json!([rate("rate", "5/s", 5), quota("daily", "100/day")]);
    let document = document::standard(upstream.address)
        .with_tenant("instant", limits.clone())
        .with_tenant("spread", limits);
    let pair = Pair::start(&redis.url(), &document).await;

    let began = Instant::now();
    let answers = at_once(&pair, "instant", 50).await;
    let took = began.elapsed();
    let seen = admitted(&answers);
    // Five and no more, but for those that come back while the test is busy: one in 200 ms.
    let most = 5 + 5 * u64::try_from(took.as_millis()).unwrap() / 1_000;
    println!("50 at one instant, in {took:?}: {seen} admitted");
    assert!((5..=most).contains(&seen), "{seen} of at most {most}");
    pair.has_used("instant", "daily", seen).await;
    assert_eq!(upstream.arrivals().len() as u64, seen);

    let time = Duration::from_secs(sized("seconds", 3, 15));
    let key = key_of("spread");
    let offer = Offer::start(&pair.asked(&key, 10, 2));
    offer.goes_on_for(time).await;
    let all = Outcomes::of_all(&offer.stop().await);
    println!("{:?}", all.summary());
    all.each("200 or 429", |asked| matches!(asked.status, 200 | 429));
    assert!(all.excess(5, 5.0) <= 0.0, "{} too many in some interval", all.excess(5, 5.0));
    assert!(all.admitted() as u64 >= 5 * time.as_secs(), "{} admitted", all.admitted());
    pair.has_used("spread", "daily", all.admitted() as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_one_instant_a_slow_rate_admits_its_burst_and_the_day_shows_it() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let limits = json!([rate("rate", "5/h", 5), quota("daily", "100/day")]);
    let document = document::standard(upstream.address).with_tenant("instant", limits);
    let pair = Pair::start(&redis.url(), &document).await;
    assert_eq!(admitted(&at_once(&pair, "instant", 50).await), 5);
    pair.has_used("instant", "daily", 5).await;
    pair.has_used("instant", "rate", 5).await;
    assert_eq!(upstream.arrivals().len(), 5);
}

/// Commands that name what belongs to a tenant.
fn of_tenant(commands: &[String], tenant: &str) -> Vec<String> {
    let tag = format!("{{{tenant}}}");
    commands.iter().filter(|command| command.contains(&tag)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_command_and_its_end_none_but_where_something_is_given_back() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let slots =
        json!({ "id": "open", "concurrency": 9, "per": "tenant", "on_store_error": "closed" });
    let document = document::standard(upstream.address)
        .with_tenant("plain", json!([rate("rate", "1000/s", 1000), quota("daily", "100000/day")]))
        .with_tenant("slots", json!([rate("rate", "1000/s", 1000), slots]));
    let pair = Pair::start(&redis.url(), &document).await;
    let requests = 30;
    let asks = async |tenant: &str| {
        for turn in 0..requests {
            let answer = pair.members()[turn % 2].get(PATH).key(&key_of(tenant)).send().await;
            assert!(!answer.header("ratelimit").is_empty());
        }
    };
    // Both have their connections, and Redis has the script.
    asks("plain").await;
    asks("slots").await;
    pair.has_used("slots", "open", 0).await;

    let monitor = Monitor::of(&redis);
    asks("plain").await;
    let commands = of_tenant(&monitor.commands(&redis), "plain");
    let script = |command: &&String| command.to_ascii_uppercase().starts_with("\"EVALSHA\"");
    assert_eq!(commands.iter().filter(script).count(), requests, "{commands:#?}");
    assert_eq!(commands.len(), requests, "{commands:#?}");

    // A slot is given back by a second one.
    asks("slots").await;
    pair.has_used("slots", "open", 0).await;
    let commands = of_tenant(&monitor.commands(&redis), "slots");
    assert!((requests + 1..=requests * 3).contains(&commands.len()), "{commands:#?}");

    // So is what an upstream's failure is not charged.
    let before = pair.used("plain", "daily").await;
    upstream.does(|_| Reply::of(500));
    monitor.commands(&redis);
    asks("plain").await;
    pair.has_used("plain", "daily", before).await;
    assert_eq!(pair.used("plain", "daily").await, before);

    // Nothing stays for ever.
    let keys = redis.ask(&["--scan"]);
    assert!(keys.lines().any(|key| key.contains("{plain}")), "{keys}");
    for key in keys.lines() {
        let left: i64 = redis.ask(&["PTTL", key]).parse().unwrap();
        // -2: it went meanwhile.
        assert!(left > 0 || left == -2, "{key} has no time to live: {left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_outlives_gateways_and_an_edited_limit() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document =
        document::standard(upstream.address).limited(json!([quota("monthly", "50/month")]));
    let mut pair = Pair::start(&redis.url(), &document).await;
    for turn in 0..40 {
        pair.members()[turn % 2].get(PATH).key(ACME).send().await.is(200);
    }
    for name in ["a", "b"] {
        let member = pair.cluster.member_mut(name);
        member.kill();
        member.start_again();
        member.is_ready().await;
        assert_eq!(member.used(ACME, "monthly").await, 40);
    }
    let api = pair.cluster.api();
    for (amount, left) in [(45, 5_u64), (30, 0), (60, 15)] {
        let limits = json!([quota("monthly", &format!("{amount}/month"))]);
        let revision = api.merge("/v1/plans/limited", &json!({ "limits": limits })).await;
        let revision = revision.is(200).revision();
        pair.b().follows(revision).await;
        sleep(REFUSAL_REMEMBERED).await;
        let mut seen = Vec::new();
        for turn in 0..left + 3 {
            let at = &pair.members()[usize::try_from(turn % 2).unwrap()];
            seen.push(at.get(PATH).key(ACME).send().await);
        }
        assert_eq!(admitted(&seen), left, "of {amount}");
    }
}
