//! Several processes on one PostgreSQL: a change is in force on all of them within a second, and each says how it stands.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Member, Setup, pack_file, within_a_second};
use crate::harness::document::{self, ACME, ACME_SECOND, Edit as _};
use crate::harness::node::replace;
use crate::harness::postgres::Database;
use crate::harness::{Upstream, eventually, hoped, sha256};
use http::Method;
use serde_json::{Value, json};

const NAMES: [(&str, &[&str]); 3] = [("a", &["gateway"]), ("b", &["gateway"]), ("ops", &["admin"])];

/// The standard document with a quota.
fn with_quota(upstream: &Upstream, quota: &str) -> Value {
    document::standard(upstream.address).limited(daily(quota))
}

fn daily(quota: &str) -> Value {
    json!([{ "id": "daily", "quota": quota, "per": "tenant", "on_store_error": "local" }])
}

/// What a GET by this key comes to on a gateway: its code, or its status.
async fn asked(member: &Member, key: &str) -> String {
    let answer = member.get("/v1/contacts").key(key).send().await;
    if answer.status == 200 { "200".to_owned() } else { answer.code() }
}

/// Waits on both gateways at once until a key comes to this; within a second, else it fails.
async fn soon_on_both(cluster: &Cluster, what: &str, key: &str, expected: &str) {
    let on = |name: &'static str| {
        let member = cluster.member(name);
        let what = format!("{what} on {name}");
        async move {
            within_a_second(&what, async || asked(member, key).await == expected).await;
        }
    };
    tokio::join!(on("a"), on("b"));
}

/// Waits until a node stands so.
async fn stands(member: &Member, name: &str, revision: u64, state: &str) -> Value {
    eventually(&format!("{name} stands {state} at {revision}"), async || {
        let node = member.node(name).await;
        let stands = (node["revision"].clone(), node["state"].clone());
        hoped(stands, &(json!(revision), json!(state))).map(|()| node)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_changed_by_put_is_enforced_by_every_gateway_within_a_second() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let cluster = Cluster::start(&database.url(), &NAMES, &with_quota(&upstream, "3/day")).await;
    let api = cluster.api();
    // In this issue each gateway counts for itself.
    for name in ["a", "b"] {
        for _ in 0..3 {
            assert_eq!(asked(cluster.member(name), ACME).await, "200");
        }
        assert_eq!(asked(cluster.member(name), ACME).await, "QUOTA_EXCEEDED");
    }
    let plan = |quota| json!({ "id": "limited", "limits": daily(quota) });
    let raised = api.replace("/v1/plans/limited", &plan("100000/day")).await;
    soon_on_both(&cluster, "raised by PUT", ACME, "200").await;
    assert_eq!(raised.is(200).revision(), 2);
    api.merge("/v1/plans/limited", &json!({ "limits": daily("2/day") })).await.is(200);
    soon_on_both(&cluster, "lowered by PATCH", ACME, "QUOTA_EXCEEDED").await;

    for (name, roles) in NAMES {
        let node = stands(cluster.member("ops"), name, 3, "in_force").await;
        assert_eq!((&node["lag"], &node["roles"]), (&json!(0), &json!(roles)), "{node}");
        assert!(node["build"].as_str().is_some_and(|build| !build.is_empty()), "{node}");
    }
    assert_eq!(api.get("/v1/nodes").send().await.is(200).json()["newest"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_for_some_nodes_is_in_force_there_only_until_it_is_released() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let cluster = Cluster::start(&database.url(), &NAMES, &with_quota(&upstream, "9/day")).await;
    let (api, ops) = (cluster.api(), cluster.member("ops"));
    let change = async |path: &str, zone: &str| {
        let (_, tag) = api.read("/v1/tenants/acme").await;
        api.patch(path, &json!({ "timezone": zone }), &tag).send().await
    };
    let staged = change("/v1/tenants/acme?nodes=a", "Asia/Tokyo").await;
    assert_eq!((&staged.is(200).json()["nodes"], staged.revision()), (&json!(["a"]), 2));
    cluster.member("a").follows(2).await;
    for (name, revision) in [("a", 2), ("b", 1), ("ops", 1)] {
        stands(ops, name, revision, "in_force").await;
    }
    assert_eq!(cluster.member("b").get("/v1/contacts").key(ACME).send().await.revision(), 1);

    // Nobody else changes anything meanwhile.
    let (document, tag) = api.read("/v1/document").await;
    assert_eq!(document["tenants"][0]["timezone"], "Asia/Tokyo", "what changes are made from");
    let other = document.changed(|document| document["tenants"][1]["timezone"] = json!("UTC"));
    let refused = [
        api.put("/v1/document", &other, &tag).send().await,
        change("/v1/tenants/acme", "Europe/Paris").await,
        change("/v1/tenants/acme?nodes=b", "Europe/Paris").await,
        api.post("/v1/consumers/acme-mobile/credentials").json(&json!({})).send().await,
    ];
    for answer in refused {
        let details = answer.refuses(409, "CONFLICT");
        assert_eq!((&details["revision"], &details["nodes"]), (&json!(2), &json!(["a"])));
    }
    api.post("/v1/revisions/1:release").send().await.refuses(409, "CONFLICT");

    api.post("/v1/revisions/2:release").send().await.is(200);
    within_a_second("released", async || cluster.member("b").revision().await == Some(2)).await;
    assert_eq!(cluster.member("ops").revision().await, Some(2));
    assert_eq!(change("/v1/tenants/acme", "Europe/Paris").await.is(200).revision(), 3);

    // One that was tried on some nodes can be taken back instead.
    change("/v1/tenants/acme?nodes=b,ops", "Asia/Seoul").await.is(200);
    for (name, revision) in [("a", 3), ("b", 4), ("ops", 4)] {
        stands(ops, name, revision, "in_force").await;
    }
    let back = api.post("/v1/revisions/3:rollback").send().await;
    assert_eq!(back.is(200).revision(), 5);
    for name in ["a", "b", "ops"] {
        cluster.member(name).follows(5).await;
        stands(ops, name, 5, "in_force").await;
    }
    assert_eq!(api.read("/v1/tenants/acme").await.0["timezone"], "Europe/Paris");
    // A node that nobody knows is a slip of the pen.
    change("/v1/tenants/acme?nodes=c", "Asia/Seoul").await.refuses(400, "VALIDATION_FAILED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lacks_a_pack_keeps_its_revision_and_says_so() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let document = document::standard(upstream.address);
    let cluster = Cluster::start(&database.url(), &NAMES, &document).await;
    let (api, b) = (cluster.api(), cluster.member("b"));
    let file = pack_file(&b.data(), "header-hygiene", "1.0.0");
    let pack = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let marked = document.attached("mark", "header-hygiene", json!({ "set": { "x-mark": "1" } }));
    assert_eq!(api.publish(&marked).await, 2);
    cluster.member("a").follows(2).await;
    let node = stands(cluster.member("ops"), "b", 1, "rejected").await;
    assert_eq!((&node["lag"], &node["rejected"]["revision"]), (&json!(1), &json!(2)), "{node}");
    assert_eq!(node["rejected"]["errors"][0]["pointer"], "/packs/0", "{node}");
    // It serves on, and whoever probes it can see why it is behind.
    let served = b.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(served.is(200).revision(), 1);
    let ready = b.status.get("/readyz").send().await.is(200).json();
    assert_eq!(ready["rejected"], json!({ "revision": 2, "errors": 1 }), "{ready}");
    assert_eq!(b.metrics().await.revision("rejected"), 2);
    assert!(b.log().contains("/packs/0"), "the log says why");

    // A later one that it can't take either changes nothing; laying the file mends it.
    let (_, tag) = api.read("/v1/tenants/acme").await;
    let patch = json!({ "timezone": "UTC" });
    api.patch("/v1/tenants/acme", &patch, &tag).send().await.is(200);
    let node = eventually("it refused the newer one, too", async || {
        let node = cluster.member("ops").node("b").await;
        hoped(node["rejected"]["revision"].clone(), &json!(3)).map(|()| node)
    })
    .await;
    assert_eq!((&node["revision"], &node["lag"]), (&json!(1), &json!(2)), "{node}");
    replace(&file, &pack);
    b.follows(3).await;
    let node = stands(cluster.member("ops"), "b", 3, "in_force").await;
    assert_eq!(node.get("rejected"), None, "{node}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_and_go_everywhere_within_a_second() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let document = document::standard(upstream.address);
    let mut cluster = Cluster::start(&database.url(), &NAMES, &document).await;
    let api = cluster.api();
    let list = "/v1/consumers/acme-mobile/credentials";
    let key = |answer: &Value| answer["key"].as_str().unwrap().to_owned();

    let made = api.post(list).json(&json!({ "id": "fresh" })).send().await.is(201).json();
    let first = key(&made);
    soon_on_both(&cluster, "made", &first, "200").await;
    let rotated = api.post(&format!("{list}/fresh:rotate")).json(&json!({ "id": "next" }));
    let second = key(&rotated.send().await.is(201).json());
    soon_on_both(&cluster, "rotated", &second, "200").await;
    soon_on_both(&cluster, "rotated, in its grace", &first, "200").await;

    // Without a revision of the document.
    let revoked = json!({ "kind": "credential", "tenant": "acme", "consumer": "acme-mobile", "credential": "next" });
    let before = api.items("/v1/revisions").await.len();
    api.post("/v1/revocations").json(&revoked).send().await.is(201);
    soon_on_both(&cluster, "revoked", &second, "CREDENTIAL_INVALID").await;
    assert_eq!(api.items("/v1/revisions").await.len(), before);
    soon_on_both(&cluster, "others stay", ACME_SECOND, "200").await;

    let (_, tag) = api.read(&format!("{list}/fresh")).await;
    api.delete(&format!("{list}/fresh"), &tag).send().await.is(200);
    soon_on_both(&cluster, "deleted", &first, "CREDENTIAL_INVALID").await;

    // A gateway that starts later knows it from its first request on.
    let b = cluster.member_mut("b");
    b.kill();
    b.start_again();
    b.is_ready().await;
    assert_eq!(asked(b, &second).await, "CREDENTIAL_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_start_at_once_on_an_empty_database() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let names = ["a", "b", "c", "d"];
    let start =
        |name: &&str| Setup::named(name, &["gateway", "admin"]).on(&database.url()).packs().start();
    let mut members: Vec<Member> = names.iter().map(start).collect();
    for member in &mut members {
        member.answers().await;
    }
    // One of their tokens became the first; the others were never anybody's.
    let kept = |member: &&Member| member.data().join("admin.token").exists();
    let with_token: Vec<&Member> = members.iter().filter(kept).collect();
    assert_eq!(with_token.len(), 1, "{:?}", with_token.len());
    let token = with_token[0].api.token().to_owned();
    let apis: Vec<Api> = members.iter().map(|member| member.api.with(&token)).collect();
    let live = apis[0].items("/v1/tokens").await;
    assert_eq!(live.len(), 1, "{live:#?}");

    // Each publishes the first document at once: one wins.
    let document = document::standard(upstream.address);
    let calls = apis.iter().map(|api| {
        let call = api.call(Method::PUT, "/v1/document");
        tokio::spawn(call.header("if-none-match", "*").json(&document).send())
    });
    let mut won = 0;
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.unwrap();
        match answer.status {
            200 => won += 1,
            _ => drop(answer.refuses(412, "PRECONDITION_FAILED")),
        }
    }
    assert_eq!(won, 1);
    for member in &mut members {
        member.follows(1).await;
        member.is_ready().await;
        assert_eq!(asked(member, ACME).await, "200");
    }
    let schema = database.sql("select version, count(*) from _sqlx_migrations group by version");
    assert!(schema.lines().all(|line| line.ends_with("|1")), "{schema}");
}

/// What a newer release would have added to the schema.
const NEWER_SCHEMA: &str = "
    insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'a newer release', true, '\\x00', 1);
    alter table revisions add column colour text;
    alter table documents add column colour text;
    alter table audit add column colour text;
    alter table tokens add column colour text;
    alter table nodes add column colour text;
    alter table records add column colour text;
    create table colours (id bigint primary key);
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_serve_together_through_an_upgrade() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let document = with_quota(&upstream, "1000/day");
    let mut cluster = Cluster::start(&database.url(), &NAMES, &document).await;
    database.sql(NEWER_SCHEMA);
    // Those that run go on, and one that starts now starts.
    let api = cluster.api();
    let patch = json!({ "timezone": "UTC" });
    assert_eq!(api.merge("/v1/tenants/acme", &patch).await.is(200).revision(), 2);
    for name in ["a", "b", "ops"] {
        let member = cluster.member_mut(name);
        member.stop().await;
        member.start_again();
    }
    for name in ["a", "b", "ops"] {
        cluster.member_mut(name).is_ready().await;
        cluster.member(name).follows(2).await;
    }
    let patch = json!({ "timezone": "Asia/Tokyo" });
    assert_eq!(api.merge("/v1/tenants/acme", &patch).await.is(200).revision(), 3);

    for name in ["a", "b", "ops"] {
        cluster.member(name).follows(3).await;
    }

    // The newer release publishes a document with a field that this one does not know.
    let (newest, _) = api.read("/v1/document").await;
    let newer = newest.changed(|document| document["colours"] = json!([{ "id": "red" }]));
    publish_by_sql(&database, 4, &newer.to_string());
    for name in ["a", "b"] {
        let node = stands(cluster.member("ops"), name, 3, "rejected").await;
        assert_eq!(node["rejected"]["revision"], 4, "{node}");
        assert_eq!(node["rejected"]["errors"][0]["pointer"], "/colours", "{node}");
        let served = cluster.member(name).get("/v1/contacts").key(ACME).send().await;
        assert_eq!(served.is(200).revision(), 3);
    }
    // One that starts now takes its last good revision.
    let a = cluster.member_mut("a");
    a.stop().await;
    a.start_again();
    a.is_ready().await;
    assert_eq!(a.get("/v1/contacts").key(ACME).send().await.is(200).revision(), 3);
    // What only looks at revisions still can, and the way back is open.
    let items = api.items("/v1/revisions").await;
    assert_eq!(items[0]["revision"], 4);
    assert_eq!(api.post("/v1/revisions/3:rollback").send().await.is(200).revision(), 5);
    for name in ["a", "b", "ops"] {
        cluster.member(name).follows(5).await;
    }
}

/// A revision as another release writes it.
fn publish_by_sql(database: &Database, number: u64, text: &str) {
    let digest = format!("sha256:{}", sha256(text));
    let size = text.len();
    database.sql(&format!(
        "begin;
         update feed set version = version + 1;
         insert into documents (digest, text) values ('{digest}', $text${text}$text$);
         insert into revisions (number, at, digest, size, author, action)
             values ({number}, (extract(epoch from now()) * 1000000)::bigint, '{digest}', {size}, 'newer', 'document.put');
         commit;"
    ));
}
