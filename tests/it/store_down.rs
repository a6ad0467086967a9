//! PostgreSQL goes away: traffic does not notice, admin says so at once, and everything is as before when it comes back.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Member, Setup};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::load::Load;
use crate::harness::postgres::Server;
use crate::harness::{Upstream, eventually, hoped, sized};
use http::Method;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How soon admin must say that the store is away.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// How soon admin must be back once the store is.
const BACK_WITHIN: Duration = Duration::from_secs(5);

const NAMES: [(&str, &[&str]); 3] =
    [("a", &["gateway"]), ("late", &["gateway"]), ("ops", &["admin"])];

/// Asks admin for what needs the store, and asserts that it says at once that the store is away.
async fn says_that_the_store_is_away(api: &Api) {
    let plan = json!({ "id": "unlimited", "limits": [] });
    let calls = [
        api.get("/v1/plans"),
        api.get("/v1/revisions"),
        api.put("/v1/plans/unlimited", &plan, "*"),
        api.post("/v1/tokens").json(&json!({ "name": "nobody", "role": "viewer" })),
        api.call(Method::PUT, "/v1/document").header("if-match", "*").json(&json!({ "format": 1 })),
    ];
    for call in calls {
        let began = Instant::now();
        let answer = call.send().await;
        let took = began.elapsed();
        answer.is_unavailable_at_admin();
        assert!(took < REFUSED_WITHIN, "{} took {took:?}", answer.what);
    }
}

/// Waits until admin answers and changes again; fails when that takes too long.
async fn is_back(api: &Api, began: Instant) -> u64 {
    loop {
        let asked = began.elapsed();
        let answer = api.get("/v1/tenants/acme").send().await;
        if answer.status == 200 {
            println!("admin is back after {:?}", began.elapsed());
            break;
        }
        assert!(asked < BACK_WITHIN, "not back after {asked:?}: {answer:?}");
        // A pause between two questions, so that asking doesn't starve what is asked.
        sleep(Duration::from_millis(20)).await;
    }
    let zone = json!({ "timezone": format!("Etc/GMT-{}", 1 + began.elapsed().as_millis() % 9) });
    api.merge("/v1/tenants/acme", &zone).await.is(200).revision()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_is_stopped_no_request_fails_and_admin_is_back_within_5_seconds() {
    let (mut server, upstream) = (Server::start(), Upstream::start().await);
    let document = document::standard(upstream.address);
    let mut cluster = Cluster::start(&server.url(), &NAMES, &document).await;
    let api = cluster.api();
    let patch = json!({ "timezone": "Asia/Tokyo" });
    assert_eq!(api.merge("/v1/tenants/acme", &patch).await.is(200).revision(), 2);
    cluster.member("a").follows(2).await;
    cluster.member("late").follows(2).await;
    cluster.member_mut("late").stop().await;

    let load = Load::start(cluster.member("a").gateway, "/v1/contacts", ACME, 4);
    let outage = Duration::from_secs(sized("seconds without PostgreSQL", 6, 60));
    server.stop();
    let began = Instant::now();
    // A gateway that starts now serves what it had.
    let late = cluster.member_mut("late");
    late.start_again();
    late.is_ready().await;
    assert_eq!(late.get("/v1/contacts").key(ACME).send().await.is(200).revision(), 2);
    while began.elapsed() < outage {
        says_that_the_store_is_away(&api).await;
        let sent = load.sent();
        // Time for the load, and for what might give up after a while.
        sleep(Duration::from_millis(500)).await;
        assert!(load.sent() > sent, "the load stands still");
    }
    let a = cluster.member("a");
    let degraded = async |labels| a.metrics().await.sum("tollgate_store_degraded", labels);
    let revisions = [("store", "revisions")];
    assert_eq!(degraded(&revisions).await.to_string(), "1");
    a.status.get("/readyz").send().await.is(200);
    let ops = cluster.member("ops");
    ops.status.get("/readyz").send().await.is(503);

    server.start_again();
    let revision = is_back(&api, Instant::now()).await;
    assert_eq!(revision, 3);
    for name in ["a", "late", "ops"] {
        cluster.member(name).follows(3).await;
    }
    eventually("it is not degraded any more", async || {
        hoped(degraded(&revisions).await.to_string(), &"0".to_owned())
    })
    .await;
    cluster.member_mut("ops").is_ready().await;
    let seen = load.stop().await;
    assert_eq!(seen.revisions, Some((2, 3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_hangs_no_request_fails_and_admin_answers_all_the_same() {
    let (server, upstream) = (Server::start(), Upstream::start().await);
    let document = document::standard(upstream.address);
    let names: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["admin"])];
    let cluster = Cluster::start(&server.url(), &names, &document).await;
    let api = cluster.api();
    let load = Load::start(cluster.member("a").gateway, "/v1/contacts", ACME, 4);
    let outage = Duration::from_secs(sized("seconds without an answer", 4, 40));
    server.freeze();
    let began = Instant::now();
    while began.elapsed() < outage {
        says_that_the_store_is_away(&api).await;
    }
    let sent = load.sent();
    server.thaw();
    let revision = is_back(&api, Instant::now()).await;
    cluster.member("a").follows(revision).await;
    assert!(load.sent() > sent, "the load stood still");
    load.stop().await;
}

/// What may become of the file in which a node keeps its last good revision.
type Damage = (&'static str, fn(&mut Vec<u8>));

const DAMAGES: [Damage; 4] = [
    ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
    ("empty", Vec::clear),
    ("a byte of its text", |bytes| swap(bytes, b"contacts:read", b"contacts:reed")),
    ("its number", |bytes| swap(bytes, b"\"number\":1", b"\"number\":9")),
];

fn swap(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|window| window == old);
    let at = at.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(bytes)));
    bytes[at..at + old.len()].copy_from_slice(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_last_good_revision_is_refused() {
    let (mut server, upstream) = (Server::start(), Upstream::start().await);
    let document = document::standard(upstream.address);
    let names: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["admin"])];
    let mut cluster = Cluster::start(&server.url(), &names, &document).await;
    server.stop();
    let a = cluster.member_mut("a");
    let file = a.data().join("last-good.json");
    let whole = std::fs::read(&file).unwrap();
    for (what, damage) in DAMAGES {
        let mut torn = whole.clone();
        damage(&mut torn);
        restarted_with(a, &file, &torn).await;
        let ready = a.status.get("/readyz").send().await;
        assert_eq!((ready.status, ready.json()["revision"].clone()), (503, json!(0)), "{what}");
        let refused = a.get("/v1/contacts").key(ACME).send().await;
        assert_eq!(refused.status, 503, "{what}");
        assert!(a.log().contains("the last good revision is refused"), "{what}");
    }
    restarted_with(a, &file, &whole).await;
    a.is_ready().await;
    assert_eq!(a.get("/v1/contacts").key(ACME).send().await.is(200).revision(), 1);
    // A torn one is nothing but that: with the store, all is well again.
    restarted_with(a, &file, b"{").await;
    server.start_again();
    a.is_ready().await;
    a.follows(1).await;
    // Written once it is in force.
    eventually("it is kept again", async || hoped(std::fs::read(&file).unwrap(), &whole)).await;
}

async fn restarted_with(member: &mut Member, file: &Path, bytes: &[u8]) {
    member.kill();
    std::fs::write(file, bytes).unwrap();
    member.start_again();
    member.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_records_required_routes_refuse_and_sampled_ones_go_on() {
    // The least that settings take, and what the writer holds beside it.
    const BUFFER: usize = 1024;
    const BATCH: usize = 500;
    let (mut server, upstream) = (Server::start(), Upstream::start().await);
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.list")["record"] = json!("required");
        document.entry("routes", "contacts.read")["record"] = json!("sampled(1)");
    });
    let mut node = Setup::named("alone", &["gateway", "admin"])
        .on(&server.url())
        .with("records", json!({ "buffer": BUFFER }))
        .start();
    node.answers().await;
    node.api.publish_first(&document).await;
    node.is_ready().await;
    let list = |id: &str| node.get("/v1/contacts").key(ACME).header("x-request-id", id).send();
    list("while-it-runs").await.is(200);

    server.stop();
    let mut admitted = Vec::new();
    let refused = loop {
        let id = format!("required-{}", admitted.len());
        let answer = list(&id).await;
        if answer.status != 200 {
            break answer;
        }
        admitted.push(id);
        assert!(admitted.len() <= BUFFER + BATCH, "{} are admitted", admitted.len());
    };
    refused.refuses(503, "DEPENDENCY_UNAVAILABLE");
    println!("{} required ones were admitted", admitted.len());
    let arrived = upstream.arrivals().len();
    assert_eq!(arrived, 1 + admitted.len(), "what is refused is not forwarded");
    let dropped = async || node.metrics().await.sum("tollgate_records_dropped_total", &[]);
    assert_eq!(dropped().await.to_string(), "0");
    for number in 0..20 {
        node.get(&format!("/v1/contacts/{number}")).key(ACME).send().await.is(200);
    }
    // Counted when the exchange has ended, which is after its answer.
    eventually("each is counted", async || hoped(dropped().await.to_string(), &"20".to_owned()))
        .await;

    server.start_again();
    eventually("there is room again", async || {
        let answer = list("when-it-is-back").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.code()) }
    })
    .await;
    // What was admitted has its record.
    for id in
        ["while-it-runs", "when-it-is-back"].into_iter().chain(admitted.iter().map(String::as_str))
    {
        eventually(&format!("the record of {id}"), async || {
            let answer = node.api.get(&format!("/v1/exchanges/{id}")).send().await;
            if answer.status == 200 { Ok(()) } else { Err(answer.code()) }
        })
        .await;
    }
}
