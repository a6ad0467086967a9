//! Two gateways share a limit: together they admit what it says, but for the batches that they may hold, and ask Redis
//! less often than they are asked.

use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::offer::{Offer, Outcomes, Stream};
use crate::harness::redis::Redis;
use crate::harness::{Pair, Upstream, sized};
use serde_json::{Value, json};
use std::time::Duration;

const NODES: f64 = 2.0;

/// A limit of so many per second, and twice that at one instant.
const RATE: u32 = 60;
const BURST: u32 = 120;
/// The largest batch of such a limit: 50 ms of the rate, and no more than a twentieth of the burst, shared by the nodes.
const BATCH: f64 = 3.0;

fn limits(rate: u32, burst: u32, exact: bool) -> Value {
    json!([
        { "id": "rate", "rate": format!("{rate}/s"), "burst": burst, "per": "tenant", "exact": exact, "on_store_error": "closed" },
        { "id": "daily", "quota": "1000000/day", "per": "tenant", "exact": exact, "on_store_error": "closed" },
    ])
}

/// So many requests per second of each of these tenants, half of them at each gateway.
fn offered(pair: &Pair, keys: &[String], per_second: u32) -> Offer {
    let streams: Vec<Stream<'_>> =
        keys.iter().flat_map(|key| pair.asked(key, per_second / 2, 4)).collect();
    Offer::start(&streams)
}

/// What became of each tenant's requests, at both gateways.
fn by_tenant(all: &[Outcomes]) -> Vec<Outcomes> {
    all.chunks(2).map(Outcomes::of_all).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_twice_as_much_is_offered_no_interval_has_more_and_hardly_anything_is_lost() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = document::standard(upstream.address)
        .with_tenant("batches", limits(RATE, BURST, false))
        .with_tenant("exact", limits(RATE, BURST, true));
    let pair = Pair::start(&redis.url(), &document).await;
    let time = Duration::from_secs(sized("seconds", 6, 60));
    let offer = offered(&pair, &["batches", "exact"].map(key_of), 2 * RATE);
    offer.goes_on_for(time).await;
    let went = offer.now();
    let all = by_tenant(&offer.stop().await);
    for (tenant, outcomes, allowed) in
        [("batches", &all[0], NODES * BATCH), ("exact", &all[1], 0.0)]
    {
        outcomes.each("200 or 429", |asked| matches!(asked.status, 200 | 429));
        let excess = outcomes.excess(BURST, f64::from(RATE));
        let admitted = u32::try_from(outcomes.admitted()).unwrap();
        let limit = f64::from(BURST) + f64::from(RATE) * went.as_secs_f64();
        let share = f64::from(admitted) / limit;
        println!(
            "{tenant}: {} offered in {went:?}, {admitted} admitted, {:.1} % of the limit, {excess:.1} beyond it",
            outcomes.count(),
            share * 100.0
        );
        assert!(excess <= allowed, "{tenant}: {excess} too many in some interval");
        let offered = u32::try_from(outcomes.count()).unwrap();
        assert!(f64::from(offered) > 1.1 * limit, "the test itself was too slow: {offered}");
        assert!(share >= 0.95, "{tenant}: {admitted} of {limit}");
        pair.has_used(tenant, "daily", u64::from(admitted)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn well_below_a_limit_redis_is_asked_less_often_than_the_gateways() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = document::standard(upstream.address)
        .with_tenant("batches", limits(1_000, 2_000, false))
        .with_tenant("exact", limits(1_000, 2_000, true));
    let pair = Pair::start(&redis.url(), &document).await;
    for (tenant, least, most) in [("batches", 0.0, 0.4), ("exact", 1.0, 1.1)] {
        let before = redis.scripts_run();
        let offer = offered(&pair, &[key_of(tenant)], 300);
        offer.goes_on_for(Duration::from_secs(sized("seconds", 3, 20))).await;
        let outcomes = Outcomes::of_all(&offer.stop().await);
        outcomes.each("200", |asked| asked.status == 200);
        let admitted = outcomes.count() as u64;
        // What a batch had left over is given back: nothing is charged that was not admitted.
        pair.has_used(tenant, "daily", admitted).await;
        let asked = redis.scripts_run() - before;
        println!("{tenant}: {admitted} requests, {asked} commands");
        let ratio =
            f64::from(u32::try_from(asked).unwrap()) / f64::from(u32::try_from(admitted).unwrap());
        assert!((least..=most).contains(&ratio), "{tenant}: {ratio} commands for each request");
    }
}
