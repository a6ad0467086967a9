//! Packs and what they read, from the node that they were sent to to every other one; and without the store.

use crate::harness::Upstream;
use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Member, within_a_second};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::pack::{self, Made, patched};
use crate::harness::postgres::{Database, Server};
use serde_json::{Value, json};

const NAMES: [(&str, &[&str]); 3] = [("a", &["gateway"]), ("b", &["gateway"]), ("ops", &["admin"])];

/// A version that denies for the first of its settings' reasons, or for the second.
fn version(version: &str, mark: u8) -> Vec<u8> {
    let module = patched(demo::MISBEHAVE, "tollgate-mark: 0", &format!("tollgate-mark: {mark}"));
    Made::named("gate", version, &module).file()
}

fn attachment(version: &str) -> Value {
    let denies = |reason| json!({ "how": "deny", "status": 403, "reason": reason, "details": [] });
    json!({
        "id": "gate", "pack": format!("gate@{version}"), "phases": ["request"], "mode": "enforce",
        "on_failure": "closed",
        "settings": { "how": "marked", "ways": [denies("first"), denies("second")] },
    })
}

async fn push(api: &Api, file: Vec<u8>) -> u16 {
    api.post("/v1/packs").body(file).send().await.status
}

/// Why a GET is denied on a gateway; empty where it is not.
async fn denied(member: &Member) -> String {
    let answer = member.get("/v1/contacts").key(ACME).send().await;
    if answer.status == 200 {
        return String::new();
    }
    answer.refuses(403, "POLICY_DENIED")["reason"].as_str().unwrap().to_owned()
}

/// Names of the pack files that a node keeps a copy of.
fn copies(member: &Member) -> Vec<String> {
    let files = std::fs::read_dir(member.data().join("packs/cache")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("gate-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_pushed_to_one_node_decides_on_every_node() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let document = document::standard(upstream.address).with("pack_keys", pack::key());
    let cluster = Cluster::start(&database.url(), &NAMES, &document).await;
    let api = cluster.api();
    assert_eq!(push(&api, version("1.0.0", 0)).await, 201);
    assert_eq!(push(&api, version("1.0.0", 0)).await, 200, "the same again");
    assert_eq!(
        push(&api, version("1.0.0", 1)).await,
        409,
        "what a version stands for never changes"
    );
    for member in &cluster.members {
        assert!(!member.data().join("packs/gate-1.0.0.tgpack").exists(), "nobody laid it there");
    }
    let attached = api.create("/v1/attachments/gate", &attachment("1.0.0")).send().await;
    let revision = attached.is(201).revision();
    for name in ["a", "b"] {
        let member = cluster.member(name);
        member.follows(revision).await;
        assert_eq!(denied(member).await, "first", "{name}");
        assert_eq!(copies(member).len(), 1, "{name}");
    }
    assert_eq!(push(&api, version("1.1.0", 1)).await, 201);
    let moved = api.replace("/v1/attachments/gate", &attachment("1.1.0")).await.is(200).revision();
    for name in ["a", "b"] {
        let member = cluster.member(name);
        member.follows(moved).await;
        assert_eq!(denied(member).await, "second", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pack_reads_is_the_same_on_every_node_within_a_second() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let document = document::standard(upstream.address).with("pack_keys", pack::key());
    let cluster = Cluster::start(&database.url(), &NAMES, &document).await;
    let api = cluster.api();
    assert_eq!(push(&api, version("1.0.0", 0)).await, 201);
    let mut asks = attachment("1.0.0");
    asks["settings"] = json!({ "how": "ask", "keys": ["colour"] });
    let attached = api.create("/v1/attachments/gate", &asks).send().await;
    let revision = attached.is(201).revision();
    let path = "/v1/packs/gate/data/colour";
    let put =
        |value: &'static str| api.call(http::Method::PUT, path).header("if-match", "*").body(value);
    let first = api.call(http::Method::PUT, path).header("if-none-match", "*").body("red");
    for (call, expected) in [
        (None, json!([null])),
        (Some(first), json!([b"red"])),
        (Some(put("blue")), json!([b"blue"])),
        (Some(api.delete(path, "*")), json!([null])),
    ] {
        if let Some(call) = call {
            let status = call.send().await.status;
            assert!((200..300).contains(&status), "{status}");
        }
        for name in ["a", "b"] {
            let member = cluster.member(name);
            member.follows(revision).await;
            within_a_second(&format!("{expected} on {name}"), async || {
                let answer = member.get("/v1/contacts").key(ACME).send().await;
                answer.refuses(403, "POLICY_DENIED")["keys"] == expected
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_without_the_store_has_the_packs_that_it_had() {
    let (mut server, upstream) = (Server::start(), Upstream::start().await);
    let document = document::standard(upstream.address).with("pack_keys", pack::key());
    let mut cluster = Cluster::start(&server.url(), &NAMES, &document).await;
    let api = cluster.api();
    assert_eq!(push(&api, version("1.0.0", 0)).await, 201);
    let attached = api.create("/v1/attachments/gate", &attachment("1.0.0")).send().await;
    let revision = attached.is(201).revision();
    cluster.member("a").follows(revision).await;
    cluster.member("b").follows(revision).await;
    server.stop();
    for (name, with_cache) in [("a", true), ("b", false)] {
        let member = cluster.member_mut(name);
        member.stop().await;
        // What was compiled before is only a saving.
        if !with_cache {
            std::fs::remove_dir_all(member.data().join("aot")).unwrap();
        }
        member.start_again();
        member.is_ready().await;
        assert_eq!(denied(member).await, "first", "{name}");
    }
    // One changed byte of its copy: it does not serve without the pack, and does not run what is there.
    let member = cluster.member_mut("a");
    member.stop().await;
    let copy = member.data().join("packs/cache").join(&copies(member)[0]);
    let mut bytes = std::fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    member.start_again();
    member.answers().await;
    member.status.get("/readyz").send().await.is(503);
    server.start_again();
    member.is_ready().await;
    assert_eq!(denied(member).await, "first", "it got it from the store again");
}
