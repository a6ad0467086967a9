//! Documents on the move: out of one deployment and into another, in part or whole, shown before it is done.

use crate::harness::api::Api;
use crate::harness::cluster::{Member, Setup};
use crate::harness::document::{self, ACME, ACME_SECOND, Edit as _, GLOBEX};
use crate::harness::postgres::Database;
use crate::harness::process::tollgate;
use crate::harness::{Upstream, hoped};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

async fn start(setup: Setup) -> Member {
    let mut node = setup.packs().start();
    node.answers().await;
    node
}

fn alone(name: &str) -> Setup {
    Setup::named(name, &["gateway", "admin"])
}

/// Runs a command against a node's API, with its token in a file.
async fn command(node: &Member, arguments: &[&str]) -> Output {
    let mut command = tollgate();
    command.args(arguments).args(["--admin-url", node.api.url(), "--token-file"]);
    command.arg(node.data().join("admin.token"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) -> String {
    let printed = stdout(output) + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{printed}");
    printed
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn revisions(api: &Api) -> usize {
    api.items("/v1/revisions").await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_moves_from_sqlite_to_postgresql_and_its_keys_still_work() {
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let old = start(alone("old")).await;
    let document = document::standard(upstream.address).attached(
        "mark",
        "header-hygiene",
        json!({ "set": { "x-mark": "1" } }),
    );
    old.api.publish_first(&document).await;
    let made = old.api.post("/v1/consumers/acme-mobile/credentials").json(&json!({})).send().await;
    let key = made.is(201).json()["key"].as_str().unwrap().to_owned();
    let (document, _) = old.api.read("/v1/document").await;

    let folder = tempfile::tempdir().unwrap();
    let exported = command(&old, &["export"]).await;
    ends_with(&exported, 0);
    let text = stdout(&exported);
    assert_eq!(model::config::parse(&text).unwrap(), document);
    let exported = file(folder.path(), "exported.yaml", &text);
    let mut new = start(alone("new").on(&database.url())).await;
    // Who is not asked must say so.
    ends_with(&command(&new, &["apply", &exported]).await, 2);
    let applied = command(&new, &["apply", &exported, "--yes"]).await;
    assert!(ends_with(&applied, 0).contains("revision 1"), "{applied:?}");
    new.is_ready().await;
    assert_eq!(new.api.read("/v1/document").await.0, document);
    for key in [ACME, ACME_SECOND, GLOBEX, &key] {
        new.get("/v1/contacts").key(key).send().await.is(200);
    }
    let again = command(&new, &["apply", &exported, "--yes"]).await;
    assert!(ends_with(&again, 0).contains("nothing to change"), "{again:?}");
    assert_eq!(revisions(&new.api).await, 1);
    // And what comes out there is the same again.
    let exported = command(&new, &["export"]).await;
    assert_eq!(stdout(&exported), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_revision_is_exported_as_it_was_written() {
    let upstream = Upstream::start().await;
    let node = start(alone("alone")).await;
    let text = format!(
        "# by hand\nformat: 1\nupstreams: [{{ id: crm, targets: [{{ address: \"{}\" }}] }}] # one\n",
        upstream.address
    );
    let folder = tempfile::tempdir().unwrap();
    let by_hand = file(folder.path(), "by-hand.yaml", &text);
    ends_with(&command(&node, &["apply", &by_hand, "--yes"]).await, 0);
    node.api.create("/v1/plans/gold", &json!({ "limits": [] })).send().await.is(201);
    let first = command(&node, &["export", "--revision", "1"]).await;
    ends_with(&first, 0);
    assert_eq!(stdout(&first), text);
    let newest = command(&node, &["export", "--json"]).await;
    let document: Value = serde_json::from_str(&stdout(&newest)).unwrap();
    assert_eq!(document["plans"][0]["id"], "gold");
    let printed = ends_with(&command(&node, &["export", "--revision", "9"]).await, 1);
    assert!(printed.contains("NOT_FOUND") || printed.contains("no revision 9"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_adds_and_changes_and_deletes_only_what_it_is_told_to() {
    let upstream = Upstream::start().await;
    let mut node = start(alone("alone")).await;
    let document = document::standard(upstream.address);
    node.api.publish_first(&document).await;
    node.is_ready().await;
    let folder = tempfile::tempdir().unwrap();
    let part = file(
        folder.path(),
        "part.yaml",
        "format: 1\nplans:\n  - { id: gold, limits: [] }\ntenants:\n  - { id: globex, plan: gold, state: active }\n",
    );
    let shown = ends_with(&command(&node, &["apply", &part, "--dry-run"]).await, 0);
    assert!(shown.contains("gold") && shown.contains("globex"), "{shown}");
    assert_eq!(revisions(&node.api).await, 1, "it was only shown");
    assert!(ends_with(&command(&node, &["apply", &part, "--yes"]).await, 0).contains("revision 2"));
    let (merged, _) = node.api.read("/v1/document").await;
    let expected = document
        .clone()
        .with("plans", json!({ "id": "gold", "limits": [] }))
        .changed(|document| document.entry("tenants", "globex")["plan"] = json!("gold"));
    assert_eq!(merged, expected);
    node.get("/v1/contacts").key(GLOBEX).send().await.is(200);

    // The whole of it, as it was: what was added goes.
    let whole = file(folder.path(), "whole.json", &document.to_string());
    let kept = ends_with(&command(&node, &["apply", &whole, "--yes"]).await, 0);
    assert!(!kept.contains("deleted"), "{kept}");
    assert_eq!(node.api.items("/v1/plans").await.len(), 2);
    let shown = ends_with(&command(&node, &["apply", &whole, "--prune", "--dry-run"]).await, 0);
    assert!(shown.contains("1 deleted"), "{shown}");
    assert_eq!(node.api.items("/v1/plans").await.len(), 2, "it was only shown");
    ends_with(&command(&node, &["apply", &whole, "--prune", "--yes"]).await, 0);
    assert_eq!(node.api.read("/v1/document").await.0, document);
    node.get("/v1/contacts").key(ACME).send().await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_file_has_the_same_errors_as_the_api_gives() {
    let upstream = Upstream::start().await;
    let node = start(alone("alone")).await;
    let document = document::standard(upstream.address);
    node.api.publish_first(&document).await;
    let invalid = document.attached("absent", "absent", json!({})).changed(|document| {
        document["colour"] = json!("red");
        document.entry("tenants", "acme")["plan"] = json!("platinum");
        document.entry("routes", "contacts.create")["cost"] = json!("much");
    });
    let (_, tag) = node.api.read("/v1/document").await;
    let pairs = |errors: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let errors = errors.as_array().unwrap().iter();
        errors.map(|error| (text(&error["pointer"]), text(&error["message"]))).collect()
    };
    // Compiling finds what is left once the rest is right.
    let compiled = invalid.clone().changed(|document| {
        document.as_object_mut().unwrap().shift_remove("colour");
        document.entry("tenants", "acme")["plan"] = json!("unlimited");
        document.entry("routes", "contacts.create")["cost"] = json!(1);
    });
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in [("invalid.json", invalid), ("compiled.json", compiled)] {
        let answer = node.api.put("/v1/document", &document, &tag).send().await;
        let expected = pairs(&answer.refuses(422, "CONFIG_INVALID")["errors"]);
        assert!(!expected.is_empty());
        let path = file(folder.path(), name, &document.to_string());
        let output = command(&node, &["apply", &path, "--yes", "--json"]).await;
        ends_with(&output, 1);
        let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(pairs(&told["errors"]), expected);
        let printed = ends_with(&command(&node, &["apply", &path, "--yes"]).await, 1);
        for (pointer, message) in &expected {
            assert!(printed.contains(pointer) && printed.contains(message), "{pointer}: {printed}");
        }
    }
    hoped(revisions(&node.api).await, &1).unwrap();
}
