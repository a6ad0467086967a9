//! A tenant far above its quota is refused, and others don't notice: neither by refusals nor by time.

use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::offer::{Offer, Outcomes, Stream};
use crate::harness::redis::Redis;
use crate::harness::size::long;
use crate::harness::{Pair, Upstream, sized};
use serde_json::{Value, json};
use std::time::Duration;

/// What a tenant may do per second. The noisy one asks for so many times as much.
const RATE: u32 = 4;
const TIMES: u32 = 50;
const QUIET: u32 = 15;
/// How much longer others may wait for it, in the full size: the median of all pairs.
const RATIO: f64 = 1.2;

fn limits() -> Value {
    json!([
        { "id": "rate", "rate": format!("{RATE}/s"), "burst": 2 * RATE, "per": "tenant", "on_store_error": "closed" },
        { "id": "daily", "quota": "1000000/day", "per": "tenant", "on_store_error": "closed" },
    ])
}

/// Half of what each quiet tenant may do, and what the noisy one does where it is there.
async fn p99_of_quiet_ones(pair: &Pair, time: Duration, noise: Option<&str>) -> Duration {
    let keys: Vec<String> = (0..QUIET).map(|number| key_of(&format!("quiet-{number}"))).collect();
    let mut streams: Vec<Stream<'_>> =
        keys.iter().flat_map(|key| pair.asked(key, RATE / 4, 1)).collect();
    let noisy = noise.map(key_of);
    streams.extend(noisy.iter().flat_map(|key| pair.asked(key, RATE * TIMES / 2, 8)));
    let offer = Offer::start(&streams);
    offer.goes_on_for(time).await;
    let went = offer.now().as_secs_f64();
    let all = offer.stop().await;
    let (quiet, noisy) = all.split_at(keys.len() * 2);
    let quiet = Outcomes::of_all(quiet);
    quiet.each("nobody else is refused", |asked| asked.status == 200);
    if noise.is_some() {
        let noisy = Outcomes::of_all(noisy);
        noisy.hold("local");
        let times = f64::from(u32::try_from(noisy.count()).unwrap()) / f64::from(RATE) / went;
        let least = if long() { 30.0 } else { 10.0 };
        assert!(times >= least, "the test itself was too slow: {times:.0} times the rate");
        assert!(noisy.excess(2 * RATE, f64::from(RATE)) <= 0.0, "{:?}", noisy.summary());
    }
    quiet.quantile(0.99)
}

/// The middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_at_fifty_times_its_quota_harms_nobody_else() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let document = (0..QUIET)
        .fold(document::standard(upstream.address), |document, number| {
            document.with_tenant(&format!("quiet-{number}"), limits())
        })
        .with_tenant("noisy", limits());
    let pair = Pair::start(&redis.url(), &document).await;
    let time = Duration::from_secs(sized("seconds of each run", 2, 10));
    // Code and connections that the first requests need.
    p99_of_quiet_ones(&pair, time, Some("noisy")).await;
    let (mut ratios, mut same) = (Vec::new(), Vec::new());
    for _ in 0..sized("pairs", 1, 7) {
        let alone = p99_of_quiet_ones(&pair, time, None).await;
        let beside = p99_of_quiet_ones(&pair, time, Some("noisy")).await;
        let again = p99_of_quiet_ones(&pair, time, None).await;
        println!("p99: {alone:?} alone, {beside:?} beside the noisy one, {again:?} alone again");
        ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
        same.push(again.as_secs_f64() / alone.as_secs_f64());
    }
    let (ratio, same) = (median(&mut ratios), median(&mut same));
    println!("p99 beside the noisy one: × {ratio:.2} (median; with nothing different × {same:.2})");
    assert!(!long() || ratio <= RATIO, "× {ratio:.2}; with nothing different × {same:.2}");
}
