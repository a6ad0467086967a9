//! Which packs a document gets, from where, and what is said against its attachments.

use crate::gateway::{Compiled, Gateway};
use crate::packs::ATTACHMENTS_MAX;
use crate::snapshot::Snapshot;
use crate::tests::pack::{KEY_ID, key, lay, misbehave, misbehave_with, quiet};
use crate::tests::{entry, gateway, store};
use model::config::{self, ConfigError};
use pack_host::{Package, Prepared};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;
use store::control::{Effect, PackFile, PackInfo, Write};

fn document(pack: &Package, attachment: &Value) -> Value {
    let mut attached = json!({
        "id": "a", "pack": pack.label(), "phases": ["request"], "mode": "enforce", "on_failure": "closed",
    });
    for (field, value) in attachment.as_object().unwrap() {
        attached[field] = value.clone();
    }
    let tenant = |id: &str| json!({ "id": id, "plan": "p", "state": "active" });
    json!({
        "format": 1,
        "upstreams": [{ "id": "crm", "targets": [{ "address": "127.0.0.1:9" }] }],
        "services": [{ "id": "contacts", "select": ["path"],
                       "versions": [{ "name": "v1", "upstream": "crm", "state": "active" }] }],
        "routes": [{ "id": "list", "service": "contacts", "match": { "path": "/contacts", "methods": ["GET"] },
                     "authenticate": { "any_of": ["api_key"] } }],
        "plans": [{ "id": "p", "limits": [] }],
        "tenants": [tenant("acme"), tenant("globex")],
        "pack_keys": [key(&["*"])],
        "packs": [{ "id": pack.name(), "version": pack.version() }],
        "attachments": [attached],
    })
}

async fn compile(gateway: &Arc<Gateway>, document: &Value) -> Result<Compiled, Vec<ConfigError>> {
    let config = Arc::new(config::read(&document.to_string()).unwrap());
    let gateway = gateway.clone();
    tokio::task::spawn_blocking(move || gateway.compile(config)).await.unwrap()
}

/// The one error that compiling comes to.
async fn error(gateway: &Arc<Gateway>, document: &Value) -> (String, String) {
    let errors = compile(gateway, document).await.err().unwrap_or_default();
    let [ConfigError { pointer, message }] = errors.as_slice() else { panic!("{errors:?}") };
    (pointer.clone(), message.clone())
}

async fn in_force(gateway: &Arc<Gateway>, document: &Value) -> Arc<Snapshot> {
    let compiled = compile(gateway, document).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    gateway.put_in_force(compiled, 1);
    gateway.live.pin().unwrap()
}

async fn keep(store: &Store, package: &Package) {
    let bytes = package.write();
    let info = PackInfo {
        name: package.name().clone(),
        version: package.version().to_owned(),
        digest: package.digest().to_owned(),
        key: package.signed_by().unwrap().clone(),
        size: bytes.len() as u64,
        manifest: serde_json::to_value(package.manifest()).unwrap(),
        reusable: true,
        image: true,
        vectors: 0,
        uploaded_at: jiff::Timestamp::UNIX_EPOCH,
        by: "tests".to_owned(),
    };
    let trial = json!({ "reusable": true, "image": true, "vectors": [] });
    let file = Box::new(PackFile { info, trial, bytes: bytes.into() });
    let effect = Effect::KeepPack { file, resigns: None };
    store.write(Write { effect, audit: entry("packs.push"), answer: None }).await.unwrap();
}

fn copies(folder: &Path) -> Vec<PathBuf> {
    let cache = std::fs::read_dir(folder.join("packs/cache"));
    cache.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn what_a_pack_file_says_against_an_attachment_is_told_where_it_is_written() {
    let (store, folder) = store().await;
    let node = gateway(&store, "a", folder.path());
    let once = json!({
        "settings": { "how": "count" },
        "expect": { "decision": "edit", "headers": [{ "set": ["x-count", "1"] }] },
    });
    let forgetful = misbehave_with("1.0.0", &[("first", once.clone()), ("second", once)]);
    let quiet = quiet("1.0.0", &[]);
    lay(folder.path(), &forgetful);
    lay(folder.path(), &misbehave("1.1.0"));
    lay(folder.path(), &quiet);
    let says = |settings: Value| json!({ "settings": settings });
    let spins = json!({ "how": "reject", "message": "not these" });
    let cases = [
        (
            &quiet,
            json!({ "phases": ["request", "response"] }),
            "/attachments/0/phases/1",
            "only in: request",
        ),
        (
            &forgetful,
            json!({ "settings": { "how": "count" }, "reuse": 9 }),
            "/attachments/0/reuse",
            "as its vectors show",
        ),
        (&forgetful, says(spins), "/attachments/0/settings", "not these"),
        (
            &forgetful,
            says(json!({ "how": "no such way" })),
            "/attachments/0/settings",
            "no such way",
        ),
    ];
    for (pack, attachment, pointer, words) in cases {
        let (at, message) = error(&node, &document(pack, &attachment)).await;
        assert_eq!(at, pointer, "{message}");
        assert!(message.contains(words), "{message}");
    }
    // What concerns a candidate names it.
    let rollout = json!({ "candidate": "misbehave@1.1.0", "mode": "observe", "window": "1m", "min_samples": 1 });
    let both = json!({ "settings": { "how": "reject", "message": "no" }, "rollout": rollout });
    let mut both = document(&forgetful, &both);
    both["packs"].as_array_mut().unwrap().push(json!({ "id": "misbehave", "version": "1.1.0" }));
    let errors = compile(&node, &both).await.err().unwrap();
    let told: Vec<_> = errors.iter().map(|error| (&*error.pointer, &*error.message)).collect();
    let at = "/attachments/0/settings";
    assert_eq!(told, [(at, "no"), (at, "the candidate misbehave@1.1.0: no")]);
    // Halted, it needs no pack at all.
    let halted =
        json!({ "halted": true, "settings": { "how": "no such way" }, "phases": ["response"] });
    let mut halted = document(&quiet, &halted);
    halted["packs"][0]["version"] = json!("9.9.9");
    halted["attachments"][0]["pack"] = json!("quiet@9.9.9");
    assert!(compile(&node, &halted).await.is_ok());
}

#[tokio::test]
async fn a_key_ships_for_its_tenants_only() {
    let (store, folder) = store().await;
    let node = gateway(&store, "a", folder.path());
    let pack = quiet("1.0.0", &[]);
    lay(folder.path(), &pack);
    for (tenants, scope, refused) in [
        (["*"].as_slice(), json!({}), None),
        (&["*"], json!({ "tenant": "acme" }), None),
        (&["acme"], json!({ "tenant": "acme" }), None),
        (&["acme"], json!({ "tenant": "globex" }), Some("for tenant `globex`")),
        (&["acme", "globex"], json!({}), Some("for all tenants")),
    ] {
        let mut document = document(&pack, &json!({ "scope": scope }));
        document["pack_keys"] = json!([key(tenants)]);
        match refused {
            None => assert!(compile(&node, &document).await.is_ok(), "{tenants:?} {scope}"),
            Some(words) => {
                let (pointer, message) = error(&node, &document).await;
                assert_eq!(pointer, "/attachments/0/pack");
                assert!(message.contains(words) && message.contains(KEY_ID), "{message}");
            }
        }
    }
}

#[tokio::test]
async fn a_pack_that_can_not_be_had_is_told_at_its_entry() {
    let (store, folder) = store().await;
    let node = gateway(&store, "a", folder.path());
    let expects = json!({ "expect": { "decision": "deny", "reason": "never" } });
    let (missing, other) = (quiet("1.0.0", &[]), quiet("2.0.0", &[]));
    let (failing, strange) = (quiet("3.0.0", &[("denies", expects)]), quiet("4.0.0", &[]));
    let renamed = folder.path().join("packs/quiet-2.0.0.tgpack");
    crate::watch::replace(&renamed, &strange.write(), crate::watch::Readers::Everybody).unwrap();
    lay(folder.path(), &failing);
    lay(folder.path(), &strange);
    let plain = |pack: &Package| document(pack, &json!({}));
    let mut unknown = plain(&strange);
    unknown["pack_keys"][0]["id"] = json!("another");
    let mut forged = plain(&strange);
    let zeros = "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    forged["pack_keys"][0]["public_key"] = json!(zeros);
    let mut pinned = plain(&strange);
    pinned["packs"][0]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    for (document, pointer, words) in [
        (plain(&missing), "/packs/0", "`quiet-1.0.0.tgpack` can't be read"),
        (plain(&other), "/packs/0", "holds quiet@4.0.0 instead"),
        (plain(&failing), "/packs/0", "the vector `denies`"),
        (unknown, "/packs/0", "not in `pack_keys`"),
        (forged, "/packs/0", "does not fit"),
        (pinned, "/packs/0/digest", "has the digest sha256:"),
    ] {
        let (at, message) = error(&node, &document).await;
        assert_eq!(at, pointer, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_pack_of_the_store_is_copied_and_the_copy_serves_while_the_store_is_away() {
    let (store, folder) = store().await;
    let pack = quiet("1.0.0", &[]);
    keep(&store, &pack).await;
    let plain = document(&pack, &json!({}));
    let mut pinned = plain.clone();
    pinned["packs"][0]["digest"] = json!(pack.digest());
    let node = gateway(&store, "a", folder.path());
    assert!(compile(&node, &plain).await.is_ok());
    let [copy] = &*copies(folder.path()) else { panic!("{:?}", copies(folder.path())) };
    assert_eq!(std::fs::read(copy).unwrap(), pack.write());

    // A copy that was changed is fetched again.
    let mut bytes = pack.write();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(copy, &bytes).unwrap();
    let node = gateway(&store, "a", folder.path());
    assert!(compile(&node, &plain).await.is_ok());
    assert_eq!(std::fs::read(copy).unwrap(), pack.write());

    // What the store says of a pack goes before what somebody laid.
    let laid = quiet("1.0.0", &[("any", json!({ "expect": { "decision": "continue" } }))]);
    lay(folder.path(), &laid);
    let snapshot = in_force(&node, &plain).await;
    assert_eq!(snapshot.packs[0].pack.digest(), pack.digest());
    let mut other = plain.clone();
    other["packs"][0]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    let (pointer, message) = error(&node, &other).await;
    assert_eq!(pointer, "/packs/0/digest");
    assert!(message.contains(pack.digest()), "{message}");

    store.close().await;
    for document in [&plain, &pinned] {
        let node = gateway(&store, "a", folder.path());
        assert!(compile(&node, document).await.is_ok(), "from the copy: {document}");
    }
    std::fs::write(copy, &bytes).unwrap();
    std::fs::remove_file(folder.path().join("packs").join(laid.file_name())).unwrap();
    let node = gateway(&store, "a", folder.path());
    let (pointer, message) = error(&node, &plain).await;
    assert_eq!(pointer, "/packs/0");
    assert!(message.contains("the store can't be asked for it"), "{message}");
}

#[tokio::test]
async fn what_is_the_same_is_made_once() {
    let (store, folder) = store().await;
    let node = gateway(&store, "a", folder.path());
    let pack = quiet("1.0.0", &[]);
    lay(folder.path(), &pack);
    let plain = document(&pack, &json!({}));
    let prepared = |snapshot: &Snapshot| -> Arc<Prepared> {
        let loaded = &snapshot.packs[0];
        let known = loaded.prepared.lock().unwrap();
        known.values().find_map(std::sync::Weak::upgrade).unwrap()
    };
    let first = in_force(&node, &plain).await;
    // Whose it is and where it is attached makes no difference.
    let mut moved = plain.clone();
    moved["attachments"][0]["scope"] = json!({ "tenant": "acme" });
    moved["attachments"][0]["on_failure"] = json!("open");
    let second = in_force(&node, &moved).await;
    assert!(Arc::ptr_eq(&first.packs[0], &second.packs[0]));
    assert!(Arc::ptr_eq(&prepared(&first), &prepared(&second)));
    assert_eq!(first.packs[0].prepared.lock().unwrap().len(), 1);
    // Limits do.
    moved["attachments"][0]["limits"] = json!({ "fuel": 5_000_000 });
    let third = in_force(&node, &moved).await;
    assert_eq!(third.packs[0].prepared.lock().unwrap().len(), 2);
    // What nobody uses any more is gone.
    let weak = Arc::downgrade(&first.packs[0]);
    let empty = json!({ "format": 1 });
    in_force(&node, &empty).await;
    drop((first, second, third));
    assert_eq!(weak.strong_count(), 0);
}

#[tokio::test]
async fn so_many_attachments_decide_about_a_request_and_no_more() {
    let (store, folder) = store().await;
    let node = gateway(&store, "a", folder.path());
    let with = |count: usize, scope: &Value| {
        let pack = quiet("1.0.0", &[]);
        let mut document = document(&pack, &json!({ "halted": true }));
        let template = document["attachments"][0].clone();
        let attachments = (0..count).map(|number| {
            let mut one = template.clone();
            (one["id"], one["scope"]) = (json!(format!("a{number:03}")), scope.clone());
            one
        });
        document["attachments"] = attachments.collect();
        document
    };
    assert!(compile(&node, &with(ATTACHMENTS_MAX, &json!({}))).await.is_ok());
    for scope in [json!({}), json!({ "route": "list" }), json!({ "tenant": "acme" })] {
        let (pointer, message) = error(&node, &with(ATTACHMENTS_MAX + 1, &scope)).await;
        assert_eq!(pointer, format!("/attachments/{ATTACHMENTS_MAX}"));
        assert!(message.contains("route `list`"), "{message}");
    }
    // Each tenant has its own.
    let mut shared = with(ATTACHMENTS_MAX + 1, &json!({ "tenant": "acme" }));
    shared["attachments"][0]["scope"]["tenant"] = json!("globex");
    assert!(compile(&node, &shared).await.is_ok());
}
