//! Many revisions under load, and the way back: no request fails, nothing goes backwards, nothing grows.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Member, Setup};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::load::Load;
use crate::harness::postgres::Database;
use crate::harness::size::long;
use crate::harness::{Upstream, sized};
use serde_json::{Value, json};

/// How much more memory a process may have in the end than it ever had while it was read after a third.
const GROWTH_MAX: f64 = 1.05;
/// Memory is read over this part of the revisions, before a third of them and at the end. It wanders by a tenth, up and
/// down, as allocators keep and give back: the end, by its median, must lie where it wandered before.
const READ_OVER: u64 = 6;
/// How many tenants there are beside the usual ones: with them, keeping anything of a revision that is gone shows.
const TENANTS: usize = 50;

const NAMES: [(&str, &[&str]); 2] = [("a", &["gateway"]), ("ops", &["gateway", "admin"])];

/// The standard document with a limit and a pack on every route.
fn loaded(upstream: &Upstream) -> Value {
    let limit = json!({ "id": "daily", "quota": "100000000/day", "per": "tenant", "on_store_error": "local" });
    let settings = json!({ "set": { "x-mark": "0" } });
    let document = document::standard(upstream.address).limited(json!([limit])).attached(
        "mark",
        "header-hygiene",
        settings,
    );
    (0..TENANTS).fold(document, |document, number| document.with("tenants", tenant(number)))
}

fn tenant(number: usize) -> Value {
    let credential = |each: usize| {
        let key = format!("tg_t{number:05}_{each}_0123456789abcdef0123456789abcdef");
        document::credential(&format!("k{each}"), &key)
    };
    let credentials: Vec<Value> = (0..3).map(credential).collect();
    let app = json!({ "id": "app", "scopes": ["contacts:read"], "credentials": credentials });
    json!({ "id": format!("tenant-{number}"), "plan": "limited", "state": "active", "consumers": [app] })
}

/// The allocator gives pages back as soon as nothing is in them, so that what is resident is nearer to what is used.
fn keeping_little_back(setup: Setup) -> Setup {
    setup.environment("MIMALLOC_PURGE_DELAY", "0").environment("MIMALLOC_ABANDONED_PAGE_PURGE", "1")
}

/// Changes one thing, another one each time.
async fn change(api: &Api, number: u64) -> u64 {
    let (path, patch) = match number % 4 {
        0 => {
            let limit = json!({ "id": "daily", "quota": format!("{}/day", 100_000_001 + number), "per": "tenant", "on_store_error": "local" });
            ("/v1/plans/limited", json!({ "limits": [limit] }))
        }
        1 => (
            "/v1/tenants/globex",
            json!({ "timezone": format!("Etc/GMT-{}", 1 + number / 4 % 12) }),
        ),
        2 => {
            let scopes = json!(["contacts:read", format!("scope:{number}")]);
            ("/v1/tenants/globex/consumers/globex-web", json!({ "scopes": scopes }))
        }
        // Settings of a pack: it is prepared anew, and the one before is let go of.
        _ => (
            "/v1/attachments/mark",
            json!({ "settings": { "set": { "x-mark": number.to_string() } } }),
        ),
    };
    api.merge(path, &patch).await.is(200).revision()
}

/// Publishes so many revisions while the load goes on. Yields what each process had resident, in KiB, after a third and
/// in the end.
async fn publish_many(
    api: &Api,
    members: &mut [&mut Member],
    revisions: u64,
) -> Vec<(Vec<u64>, Vec<u64>)> {
    let mut memory = vec![(Vec::new(), Vec::new()); members.len()];
    for number in 0..revisions {
        // The first document is revision 1.
        assert_eq!(change(api, number).await, number + 2);
        for (member, (early, late)) in members.iter_mut().zip(&mut memory) {
            let (third, part) = (revisions / 3, revisions / READ_OVER);
            if (third - part..third).contains(&number) {
                early.push(member.process().resident_kib());
            }
            if number >= revisions - part {
                late.push(member.process().resident_kib());
            }
        }
    }
    memory
}

/// Asserts that memory stayed flat. Only over many revisions: over a few, caches still fill.
fn is_flat(name: &str, (early, mut late): (Vec<u64>, Vec<u64>)) {
    let kib = |reading: u64| f64::from(u32::try_from(reading).unwrap());
    late.sort_unstable();
    let (most, median) = (kib(early.into_iter().max().unwrap()), kib(late[late.len() / 2]));
    println!("{name}: up to {most} KiB after a third, {median} KiB in the end");
    assert!(!long() || median <= most * GROWTH_MAX, "{name} grew from {most} to {median} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_revisions_under_load_fail_no_request_and_never_go_backwards() {
    let upstream = Upstream::start().await;
    let setup = Setup::named("alone", &["gateway", "admin"]).packs();
    let mut node = keeping_little_back(setup).start();
    node.answers().await;
    node.api.publish_first(&loaded(&upstream)).await;
    node.is_ready().await;
    let revisions = sized("revisions", 100, 1000);
    let load = Load::start(node.gateway, "/v1/contacts", ACME, 6);
    let api = node.api.clone();
    let memory = publish_many(&api, &mut [&mut node], revisions).await;
    // It is in force here when it is answered.
    assert_eq!(node.revision().await, Some(revisions + 1));
    load.goes_round().await;
    let seen = load.stop().await;
    let (lowest, highest) = seen.revisions.unwrap();
    assert!(lowest <= 2 && highest > revisions / 2, "{seen:?}");
    assert_eq!(node.metrics().await.revision("rejected"), 0);
    for reading in memory {
        is_flat("alone", reading);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_a_follower_skips_or_takes_each_but_never_goes_back() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let mut cluster =
        Cluster::start_with(&database.url(), &NAMES, &loaded(&upstream), keeping_little_back).await;
    let revisions = sized("revisions", 40, 1000);
    let loads =
        ["a", "ops"].map(|name| Load::start(cluster.member(name).gateway, "/v1/contacts", ACME, 3));
    let api = cluster.api();
    let mut members: Vec<&mut Member> = cluster.members.iter_mut().collect();
    let memory = publish_many(&api, &mut members, revisions).await;
    for name in ["a", "ops"] {
        cluster.member(name).follows(revisions + 1).await;
    }
    for load in loads {
        load.goes_round().await;
        load.stop().await;
    }
    for ((name, _), reading) in NAMES.iter().zip(memory) {
        is_flat(name, reading);
    }
}

/// As somebody writes it by hand: with comments, anchors of thought and their own order.
fn by_hand(upstream: &Upstream) -> String {
    format!(
        "# The gateway of the tests.\nformat: 1\n\nupstreams:   # one is enough\n  - {{ id: crm, targets: [{{ address: \"{}\" }}] }}\n\
         services:\n  - id: contacts\n    select: [path, default]\n    versions: [{{ name: v1, upstream: crm, state: active, default: true }}]\n\
         routes: []\n# nothing is limited\nplans: [{{ id: unlimited, limits: [] }}]\ntenants:\n  - {{ id: acme, plan: unlimited, state: active }}\n\n\n",
        upstream.address
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_restores_a_document_byte_for_byte_as_a_new_revision() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    for url in [None, Some(database.url())] {
        let setup = Setup::named("alone", &["gateway", "admin"]);
        let setup = url.iter().fold(setup, |setup, url| setup.on(url));
        let mut node = setup.start();
        node.answers().await;
        let api = node.api.clone();
        let text = by_hand(&upstream);
        let put = api.call(http::Method::PUT, "/v1/document").header("if-none-match", "*");
        let first = put.header("content-type", "application/yaml").body(text.clone()).send().await;
        assert_eq!(first.is(200).revision(), 1);
        let (document, tag) = api.read("/v1/document").await;
        assert_eq!(first.header("etag"), tag);
        // Another way of writing the same is another text.
        assert_eq!(
            api.merge("/v1/tenants/acme", &json!({ "state": "suspended" }))
                .await
                .is(200)
                .revision(),
            2
        );
        assert_eq!(
            api.merge("/v1/tenants/acme", &json!({ "state": "active" })).await.is(200).revision(),
            3
        );
        let (same, other_tag) = api.read("/v1/document").await;
        assert_eq!(same, document);
        assert_ne!(other_tag, tag);

        let back = api.post("/v1/revisions/1:rollback").send().await;
        assert_eq!(back.is(200).revision(), 4);
        let whole = api.get("/v1/revisions/4").send().await.is(200).json();
        assert_eq!(whole["text"], text);
        assert_eq!(api.read("/v1/document").await, (document, tag));
        assert_eq!(node.revision().await, Some(4));
        let entry = &api.audit().await[0];
        assert_eq!(
            (&entry["action"], &entry["revision"]),
            (&json!("revisions.rollback"), &json!(4))
        );
        // What compiling refuses is not brought back either; what is not there can't be.
        api.post("/v1/revisions/9:rollback").send().await.refuses(404, "NOT_FOUND");
        // Nothing to change is no revision.
        assert_eq!(api.post("/v1/revisions/1:rollback").send().await.is(200).revision(), 4);
        assert_eq!(api.items("/v1/revisions").await.len(), 4);
    }
}
