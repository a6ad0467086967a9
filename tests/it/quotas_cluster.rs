//! Redis as a cluster and under sentinels: masters die, replicas take over, slots move, and requests go on as each limit's
//! operator chose; everybody is counted by Redis again when it is over.

use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::offer::{Asked, Offer, Outcomes, Stream};
use crate::harness::redis::{Shards, Watched};
use crate::harness::{Arrival, Pair, Upstream, eventually, sized};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

const PATH: &str = "/v1/contacts";
const MODES: [&str; 3] = ["local", "open", "closed"];
const DEADLINE: &str = "100ms";
/// Slots between a tenant and the next shard: whoever watches over ranges of slots watches over one shard's there.
const APART: u16 = 1_024;

/// A tenant, and where its counters are.
#[derive(Clone, Debug)]
struct Tenant {
    id: String,
    mode: &'static str,
    slot: u16,
    master: usize,
}

/// One tenant of each mode in each shard.
fn tenants_of(shards: &Shards) -> Vec<Tenant> {
    let mut found: Vec<Tenant> = Vec::new();
    for mode in MODES {
        for number in 0.. {
            if found.iter().filter(|tenant| tenant.mode == mode).count() == shards.masters().len() {
                break;
            }
            let id = format!("{mode}-{number}");
            let slot = shards.slot_of(&id);
            let master = shards.master_of(slot);
            let edges = [slot.saturating_sub(APART), (slot + APART).min(16_383)];
            let inside = edges.iter().all(|edge| shards.master_of(*edge) == master);
            let known = |tenant: &Tenant| tenant.mode == mode && tenant.master == master;
            if inside && !found.iter().any(known) {
                found.push(Tenant { id, mode, slot, master });
            }
        }
    }
    println!("{found:?}");
    found
}

/// Much more than is asked, as long as Redis decides and when each gateway has its half.
fn limits(mode: &str) -> Value {
    json!([
        { "id": "rate", "rate": "100/s", "burst": 100, "per": "tenant", "on_store_error": mode },
        { "id": "daily", "quota": "1000000/day", "per": "tenant", "exact": true, "on_store_error": mode },
    ])
}

fn document(upstream: &Upstream, tenants: &[(&str, &str)]) -> Value {
    tenants.iter().fold(document::standard(upstream.address), |document, (id, mode)| {
        document.with_tenant(id, limits(mode))
    })
}

/// Requests of all tenants at both gateways; two streams for each tenant.
fn offered(pair: &Pair, keys: &[String]) -> Offer {
    let streams: Vec<Stream<'_>> = keys.iter().flat_map(|key| pair.asked(key, 4, 1)).collect();
    Offer::start(&streams)
}

/// Waits until Redis decides about every tenant at both gateways.
async fn all_is_normal(pair: &Pair, keys: &[String]) {
    for (member, key) in
        pair.members().iter().flat_map(|member| keys.iter().map(move |key| (member, key)))
    {
        eventually("Redis decides", async || {
            let answer = member.get(PATH).key(key).send().await;
            let limits = answer.header("ratelimit");
            let decided = answer.status == 200 && !limits.contains("degraded");
            if decided { Ok(()) } else { Err((answer.status, limits.to_owned())) }
        })
        .await;
    }
    pair.are_degraded(false).await;
}

/// Neither gateway said a word of what a client of a cluster must never do, or of a mistake of its own.
fn logs_are_clean(pair: &Pair) {
    for member in pair.members() {
        let log = member.log();
        for word in ["CROSSSLOT", "WRONGTYPE", "NOSCRIPT", "INTERNAL", "panicked"] {
            let line = log.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "{}", member.name);
        }
    }
}

/// What each tenant was told.
fn judged(tenants: &[Tenant], all: &[Outcomes], mut judge: impl FnMut(&Tenant, &Outcomes)) {
    for (tenant, outcomes) in tenants.iter().zip(all.chunks(2)) {
        let outcomes = Outcomes::of_all(outcomes);
        println!("{} (shard of {}): {:?}", tenant.id, tenant.master, outcomes.summary());
        outcomes.hold(tenant.mode);
        judge(tenant, &outcomes);
    }
}

/// What becomes of a master.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Dies,
    Hangs,
}

async fn a_shard_fails_over(fault: Fault) {
    let (mut shards, upstream) = (Shards::start(), Upstream::start().await);
    let tenants = tenants_of(&shards);
    let named: Vec<(&str, &str)> =
        tenants.iter().map(|tenant| (&*tenant.id, tenant.mode)).collect();
    let pair = Pair::with_deadline(&shards.url(), DEADLINE, &document(&upstream, &named)).await;
    let keys: Vec<String> = tenants.iter().map(|tenant| key_of(&tenant.id)).collect();
    all_is_normal(&pair, &keys).await;
    for round in 0..sized("failovers", 1, 3) {
        let lost = shards.masters()[round % 3];
        let tenants: Vec<Tenant> = tenants
            .iter()
            .map(|tenant| Tenant { master: shards.master_of(tenant.slot), ..tenant.clone() })
            .collect();
        let offer = offered(&pair, &keys);
        offer.goes_on_for(Duration::from_secs(1)).await;
        let failed = offer.now();
        match fault {
            Fault::Dies => shards.kill(lost),
            Fault::Hangs => shards.freeze(lost),
        }
        shards.have_settled();
        let settled = offer.now();
        all_is_normal(&pair, &keys).await;
        let normal = offer.now();
        println!(
            "failed at {failed:?}, the replica took over by {settled:?}, all is normal at {normal:?}"
        );
        offer.goes_on_for(Duration::from_secs(1)).await;
        let all = offer.stop().await;
        judged(&tenants, &all, |tenant, outcomes| {
            outcomes.within(Duration::ZERO, failed).are_normal();
            outcomes.within(normal, Duration::MAX).are_normal();
            let meanwhile = outcomes.within(failed, normal);
            if tenant.master == lost {
                // Not a test of nothing: this shard was away.
                let away = |asked: &Asked| {
                    asked.status == 503 || asked.degraded("local") || asked.degraded("open")
                };
                assert!(meanwhile.0.iter().any(away), "{:?}", meanwhile.summary());
            } else {
                meanwhile.are_normal();
            }
        });
        match fault {
            Fault::Dies => shards.start_again(lost),
            Fault::Hangs => shards.thaw(lost),
        }
        all_is_normal(&pair, &keys).await;
    }
    logs_are_clean(&pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_dies_harms_nobody_else_and_its_tenants_as_they_chose() {
    a_shard_fails_over(Fault::Dies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_hangs_harms_nobody_else_and_its_tenants_as_they_chose() {
    a_shard_fails_over(Fault::Hangs).await;
}

/// A tenant whose slot is one of these.
fn tenant_within(shards: &Shards, slots: std::ops::Range<u16>) -> String {
    let mut ids = (0..).map(|number| format!("near-{number}"));
    ids.find(|id| slots.contains(&shards.slot_of(id))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_edge_of_a_lost_shard_a_share_is_given_out_once() {
    const AMOUNT: u32 = 20;
    let (mut shards, upstream) = (Shards::start(), Upstream::start().await);
    let edge = shards.edges()[0];
    // One that is lost, and one that is not; whoever watches over ranges of slots takes them for one.
    let lost = tenant_within(&shards, edge - APART / 2..edge);
    let well = tenant_within(&shards, edge..edge + APART / 2);
    let limits = json!([{ "id": "daily", "quota": format!("{AMOUNT}/day"), "per": "tenant", "on_store_error": "local" }]);
    let document = document(&upstream, &[(&well, "local")]).with_tenant(&lost, limits);
    let pair = Pair::with_deadline(&shards.url(), DEADLINE, &document).await;
    let keys = [&lost, &well].map(|tenant: &String| key_of(tenant));
    all_is_normal(&pair, &keys).await;
    let master = shards.master_of(edge - 1);
    let offer = offered(&pair, &keys);
    let failed = offer.now();
    shards.kill(master);
    shards.have_settled();
    let settled = offer.now();
    let all = offer.stop().await;
    let outcomes = Outcomes::of_all(&all[0..2]);
    let away = outcomes.within(failed, settled);
    println!("{lost}: {:?} while its shard was away", away.summary());
    outcomes.hold("local");
    Outcomes::of_all(&all[2..4]).hold("local");
    assert!(away.count() >= 25, "hardly anything was asked: {}", away.count());
    assert!(away.admitted() <= usize::try_from(AMOUNT).unwrap(), "{:?}", away.summary());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_load_and_each_mode_holds() {
    let (shards, upstream) = (Shards::start(), Upstream::start().await);
    let tenants = tenants_of(&shards);
    let named: Vec<(&str, &str)> =
        tenants.iter().map(|tenant| (&*tenant.id, tenant.mode)).collect();
    let pair = Pair::with_deadline(&shards.url(), DEADLINE, &document(&upstream, &named)).await;
    let keys: Vec<String> = tenants.iter().map(|tenant| key_of(&tenant.id)).collect();
    all_is_normal(&pair, &keys).await;
    let before: Vec<u64> = used(&pair, &tenants).await;
    let offer = offered(&pair, &keys);
    let masters = shards.masters();
    for tenant in tenants.iter().step_by(sized("tenants for each whose slot moves", 3, 1)) {
        let place = masters.iter().position(|master| *master == tenant.master).unwrap();
        let to = masters[(place + 1) % masters.len()];
        shards.begins_to_move(tenant.slot, to);
        // Requests meet a slot whose keys are neither all here nor all there.
        sleep(Duration::from_millis(400)).await;
        shards.moves(tenant.slot, to);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        shards.reshard(masters[from], masters[to], sized("slots moved at once", 30, 1_000));
    }
    let moved = offer.now();
    all_is_normal(&pair, &keys).await;
    let normal = offer.now();
    println!("moved by {moved:?}, all is normal at {normal:?}");
    offer.goes_on_for(Duration::from_secs(1)).await;
    let all = offer.stop().await;
    judged(&tenants, &all, |_, outcomes| {
        outcomes.within(normal, Duration::MAX).are_normal();
    });
    // Counters moved with their slots, and none was charged twice on the way.
    let after = used(&pair, &tenants).await;
    let arrivals = upstream.arrivals();
    for ((tenant, before), after) in tenants.iter().zip(before).zip(after) {
        let of_tenant = |arrival: &&Arrival| arrival.header("x-tenant-id") == tenant.id;
        let admitted = arrivals.iter().filter(of_tenant).count() as u64;
        println!("{}: {before} used before, {after} after, {admitted} admitted", tenant.id);
        assert!(after > before && after <= admitted, "{}", tenant.id);
    }
    logs_are_clean(&pair);
}

async fn used(pair: &Pair, tenants: &[Tenant]) -> Vec<u64> {
    let mut all = Vec::new();
    for tenant in tenants {
        all.push(pair.used(&tenant.id, "daily").await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_choose_another_master_and_it_is_found() {
    let (mut watched, upstream) = (Watched::start(), Upstream::start().await);
    let named = MODES.map(|mode| (mode, mode));
    let pair = Pair::with_deadline(&watched.url(), DEADLINE, &document(&upstream, &named)).await;
    let keys = MODES.map(key_of);
    all_is_normal(&pair, &keys).await;
    let offer = offered(&pair, &keys);
    offer.goes_on_for(Duration::from_secs(1)).await;
    let failed = offer.now();
    watched.kill_master();
    watched.has_failed_over();
    let chosen = offer.now();
    all_is_normal(&pair, &keys).await;
    let normal = offer.now();
    println!("failed at {failed:?}, another one chosen at {chosen:?}, all is normal at {normal:?}");
    // It comes back as a replica: nobody follows it.
    watched.start_old_master_again();
    offer.goes_on_for(Duration::from_secs(sized("seconds after", 2, 20))).await;
    for (mode, outcomes) in MODES.iter().zip(offer.stop().await.chunks(2)) {
        let outcomes = Outcomes::of_all(outcomes);
        println!("{mode}: {:?}", outcomes.summary());
        outcomes.hold(mode);
        outcomes.within(Duration::ZERO, failed).are_normal();
        outcomes.within(normal, Duration::MAX).are_normal();
        // A replica may not have heard of the last ones.
        let (used, admitted) = (pair.used(mode, "daily").await, outcomes.admitted() as u64);
        println!("{mode}: {admitted} admitted under load, {used} used");
        assert!(used > 0, "the replica knew of what was used");
    }
    logs_are_clean(&pair);
}
