//! Uploading packs: what is kept and named, what is refused and how that is told.

use super::api::{Api, Setup, Told, pointers, standard};
use model::id::PackKeyId;
use model::role::Role;
use pack_host::{MAX_FILE_BYTES, Manifest, NamedVector, Package, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

const LIST: &str = "/v1/packs";
const ONE: &str = "/v1/packs/fresh/versions/1.0.0";
const KIND: &str = "application/vnd.oci.image.layout.v1.tar";

/// Keys of the document, and one that is not.
static PLATFORM: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static ACME: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static STRANGER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

/// A module that continues with every request; `imports` stand beside its own.
fn module(imports: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "tollgate:policy/exchange@1.0.0" "[resource-drop]request" (func $drop (param i32)))
            {imports}
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "configure") (param i32 i32) (result i32) (i32.const 1024))
            (func (export "on-request") (param i32) (result i32) (call $drop (local.get 0)) (i32.const 1024)))"#
    );
    wat::parse_str(text).unwrap()
}

fn vector(expect: &Value) -> Vec<NamedVector> {
    let text = json!({ "expect": expect }).to_string();
    vec![NamedVector::parse("anything", text.as_bytes()).unwrap()]
}

fn package(version: &str, expect: &Value) -> Package {
    let manifest: Manifest = serde_json::from_value(json!({
        "name": "fresh", "version": version, "abi": "tollgate:policy@1", "phases": ["request"],
    }))
    .unwrap();
    Package::build(manifest, module(""), None, vector(expect)).unwrap()
}

fn signed(mut package: Package, id: &str, key: &SigningKey) -> Vec<u8> {
    package.sign(&PackKeyId::from(id), key);
    package.write()
}

/// A pack that is right.
fn good(version: &str) -> Vec<u8> {
    signed(package(version, &json!({ "decision": "continue" })), "platform", &PLATFORM)
}

/// With keys: `platform` may ship for all, `acme` for acme.
fn document() -> Value {
    let key = |id: &str, key: &SigningKey, tenant: &str| json!({ "id": id, "public_key": key.public().to_string(), "tenants": [tenant] });
    let mut document = standard();
    document["pack_keys"] = json!([key("platform", &PLATFORM, "*"), key("acme", &ACME, "acme")]);
    document
}

async fn api() -> Api {
    with(false).await
}

async fn with(read_only: bool) -> Api {
    let document = Some(document());
    Api::with(Setup { document, read_only, keys: vec!['1'], ..Setup::default() }).await
}

async fn push(api: &Api, target: &str, file: &[u8]) -> Told {
    api.ask("POST", target).header("content-type", KIND).body(file.to_vec()).send().await
}

#[tokio::test]
async fn a_pack_is_tried_kept_and_named() {
    let api = api().await;
    let file = good("1.0.0");
    let told = push(&api, LIST, &file).await.is(201);
    let body = told.json();
    let digest = Package::read(&file).unwrap().digest().to_owned();
    for (field, expected) in [
        ("id", json!("fresh")),
        ("version", json!("1.0.0")),
        ("digest", json!(digest)),
        ("key", json!("platform")),
        ("size", json!(file.len())),
        ("named", json!(true)),
        ("revision", json!(2)),
    ] {
        assert_eq!(body[field], expected, "{field}");
    }
    assert_eq!(body["trial"]["vectors"][0]["name"], "anything");
    assert_eq!(body["trial"]["reusable"], true);
    assert_eq!((told.header("location"), told.revision()), (ONE, 2));
    let (entry, tag) = api.read(ONE).await;
    assert_eq!(told.header("etag"), tag);
    let mut named = entry.clone();
    let shown = named.as_object_mut().unwrap().remove("file").unwrap();
    assert_eq!(named, json!({ "id": "fresh", "version": "1.0.0", "digest": digest }));
    assert_eq!(api.document().await["packs"][1], named);
    let image = body["trial"]["image"].clone();
    let expected = json!({ "digest": digest, "size": file.len(), "key": "platform", "uploaded_at": api.clock.now(),
        "by": "admin-of-all", "reusable": true, "image": image, "vectors": 1 });
    assert_eq!(shown, expected);
    let listed = api.ask("GET", LIST).send().await.is(200).json();
    assert_eq!(listed["items"][0], entry);
    assert_eq!(listed["items"][1].get("file"), None, "nobody uploaded that one");
    let kept = api.store.pack_file(&"fresh".into(), "1.0.0").await.unwrap().unwrap();
    assert_eq!(kept.bytes, file);
}

#[tokio::test]
async fn the_audit_has_digest_key_and_size_of_a_file() {
    let api = api().await;
    let file = good("1.0.0");
    push(&api, LIST, &file).await.is(201);
    let entries = api.audit().await;
    let [named, kept] = &entries[..] else { panic!("{entries:?}") };
    let digest = Package::read(&file).unwrap().digest().to_owned();
    assert_eq!((kept.action.as_str(), kept.resource.as_str()), ("packs.create", ONE));
    let facts = json!({ "digest": digest, "key": "platform", "size": file.len(), "resigns": null });
    assert_eq!(kept.difference, facts);
    assert_eq!((named.action.as_str(), named.revision), ("packs.create", Some(2)));
    let entry = json!({ "id": "fresh", "version": "1.0.0", "digest": digest });
    let added = json!([{ "op": "add", "path": "/packs/1", "value": entry }]);
    assert_eq!(named.difference, added);
}

#[tokio::test]
async fn the_same_again_changes_nothing_and_another_one_is_a_conflict() {
    let api = api().await;
    push(&api, LIST, &good("1.0.0")).await.is(201);
    let audited = api.audit().await.len();
    let again = push(&api, LIST, &good("1.0.0")).await.is(200);
    assert_eq!((again.json()["named"].clone(), again.revision()), (json!(true), 2));
    assert_eq!((api.revision().await, api.audit().await.len()), (2, audited));
    let other = json!({ "decision": "continue" });
    let mut other = package("1.0.0", &other).manifest().clone();
    other.limits.fuel = Some(5_000);
    let other = Package::build(other, module(""), None, Vec::new()).unwrap();
    let told = push(&api, LIST, &signed(other, "platform", &PLATFORM)).await;
    assert!(told.text.contains("another `version`"), "{}", told.text);
    told.refuses(409, "CONFLICT");
    assert_eq!(api.revision().await, 2);
    push(&api, LIST, &good("1.0.1")).await.is(201);
    // Out of the document, the file is still there: what it stands for stays.
    api.ask("DELETE", ONE).header("if-match", "*").send().await.is(200);
    push(&api, LIST, &good("1.0.0")).await.is(201);
    assert_eq!(api.revision().await, 5);
}

#[tokio::test]
async fn a_document_that_names_another_content_keeps_it() {
    let api = api().await;
    let entry = json!({ "digest": format!("sha256:{}", "0".repeat(64)) });
    let put = api.ask("PUT", ONE).header("if-none-match", "*");
    put.json(&entry).send().await.is(201);
    let details = push(&api, LIST, &good("1.0.0")).await.refuses(409, "CONFLICT");
    assert_eq!(details["digest"], entry["digest"]);
    // One that names none takes the one that is uploaded, and stays as it is.
    let put = api.ask("PUT", ONE).header("if-match", "*");
    put.json(&json!({ "quarantined": { "at": "2026-11-21T12:00:00Z", "reason": "x" } }))
        .send()
        .await
        .is(200);
    let told = push(&api, LIST, &good("1.0.0")).await.is(201);
    assert_eq!((api.revision().await, told.revision()), (3, 3));
    assert_eq!(api.document().await["packs"][1].get("digest"), None);
}

#[tokio::test]
async fn an_entry_is_put_back_as_it_is_shown() {
    let api = api().await;
    push(&api, LIST, &good("1.0.0")).await.is(201);
    let (mut entry, tag) = api.read(ONE).await;
    let put = api.ask("PUT", ONE).header("if-match", &tag).json(&entry).send().await.is(200);
    assert_eq!(put.json()["difference"], json!([]));
    entry["file"] = json!({ "size": 0 });
    let patch = api.ask("PATCH", ONE).header("if-match", &tag).json(&entry).send().await.is(200);
    assert_eq!(patch.json()["difference"], json!([]));
    assert_eq!(api.read(ONE).await.1, tag);
}

/// A pack file in which one blob is another, and everything that names it by its digest follows.
fn forged(package: &Package, old: &[u8], new: &[u8]) -> Vec<u8> {
    let file = package.write();
    let mut archive = tar::Archive::new(&*file);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().to_vec()).unwrap();
        let mut bytes = Vec::new();
        std::io::copy(&mut entry, &mut bytes).unwrap();
        (path, bytes)
    });
    let mut files: Vec<_> = entries.collect();
    swap(&mut files, old, new);
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, &*bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn swap(files: &mut Vec<(String, Vec<u8>)>, old: &[u8], new: &[u8]) {
    let (from, to) = (digest(old), digest(new));
    for (path, bytes) in files.iter_mut().filter(|(_, bytes)| bytes == old) {
        *path = path.replace(&from, &to);
        *bytes = new.to_vec();
    }
    let sized = |digest: &str, bytes: &[u8]| format!("{digest}\",\"size\":{}", bytes.len());
    for (path, bytes) in files.clone() {
        let Ok(text) = String::from_utf8(bytes.clone()) else { continue };
        let followed = text.replace(&sized(&from, old), &sized(&to, new)).replace(&from, &to);
        if followed != text && path == "index.json" {
            files.iter_mut().find(|(at, _)| *at == path).unwrap().1 = followed.into();
        } else if followed != text {
            swap(files, &bytes, followed.as_bytes());
        }
    }
}

/// A signed pack whose module is another one than it was built with.
fn with_module(imports: &str) -> Vec<u8> {
    let package = package("1.0.0", &json!({ "decision": "continue" }));
    let forged = forged(&package, package.module(), &module(imports));
    signed(Package::read(&forged).unwrap(), "platform", &PLATFORM)
}

#[tokio::test]
async fn what_is_wrong_with_a_pack_is_told_with_how_to_mend_it() {
    let right = || package("1.0.0", &json!({ "decision": "continue" }));
    let mut tampered = good("1.0.0");
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    let manifest = serde_json::to_string(right().manifest()).unwrap();
    let old_abi = manifest.replace("tollgate:policy@1", "tollgate:policy@0");
    let denying = package("1.0.0", &json!({ "decision": "deny", "status": 403, "reason": "no" }));
    for (what, file, pointer, mend) in [
        ("nothing", Vec::new(), "", "tollgate pack build"),
        ("another file", b"PK\x03\x04".to_vec(), "", "tollgate pack build"),
        ("a bare module", module(""), "", "tollgate pack build"),
        ("unsigned", right().write(), "", "tollgate pack sign"),
        ("unknown key", signed(right(), "stranger", &STRANGER), "", "pack_keys"),
        (
            "another's key under a known id",
            signed(right(), "platform", &STRANGER),
            "",
            "sign it again",
        ),
        ("tampered", tampered, "", ""),
        (
            "wrong ABI",
            forged(&right(), manifest.as_bytes(), old_abi.as_bytes()),
            "/manifest/abi",
            "build the pack against `tollgate:policy@1`",
        ),
        (
            "unknown import",
            with_module(r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#),
            "",
            "without WASI",
        ),
        (
            "missing capability",
            with_module(r#"(import "tollgate:policy/random@1.0.0" "next" (func (result i64)))"#),
            "/manifest/capabilities",
            r#"add "random" to `capabilities`"#,
        ),
        (
            "failing vector",
            signed(denying, "platform", &PLATFORM),
            "/vectors/anything",
            "mend the policy",
        ),
    ] {
        let api = api().await;
        let told = push(&api, LIST, &file).await;
        let details = told.refuses(422, "CONFIG_INVALID");
        assert_eq!(pointers(&details), [(pointer, pointer)], "{what}: {details}");
        let message = details["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(mend), "{what}: {message}");
        assert!(message.len() > 40, "{what}: {message}");
        let dry = push(&api, "/v1/packs?dry_run=true", &file).await.is(200).json();
        assert_eq!((&dry["valid"], &dry["errors"]), (&json!(false), &details["errors"]), "{what}");
        assert_eq!((api.revision().await, api.audit().await.len()), (1, 0), "{what}");
        assert!(api.store.pack_file(&"fresh".into(), "1.0.0").await.unwrap().is_none(), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_pack_file_at_all_is_not_read() {
    let api = api().await;
    let ask = api.ask("POST", LIST).json(&json!({ "id": "fresh" }));
    ask.send().await.refuses(400, "VALIDATION_FAILED");
    let details =
        push(&api, LIST, &vec![0; MAX_FILE_BYTES + 1]).await.refuses(413, "BODY_TOO_LARGE");
    assert_eq!(details["limit"], MAX_FILE_BYTES);
    push(&api, "/v1/packs?nodes=a", &good("1.0.0")).await.refuses(400, "VALIDATION_FAILED");
    // Without a type it is taken for what it should be.
    api.ask("POST", LIST).body(good("1.0.0")).send().await.is(201);
}

#[tokio::test]
async fn a_trial_alone_changes_nothing() {
    let api = api().await;
    let told = push(&api, "/v1/packs?dry_run=true", &good("1.0.0")).await.is(200).json();
    assert_eq!((&told["valid"], &told["errors"]), (&json!(true), &json!([])));
    assert_eq!(told["difference"][0]["path"], "/packs/1");
    assert_eq!((api.revision().await, api.audit().await.len()), (1, 0));
    assert!(api.store.pack_file(&"fresh".into(), "1.0.0").await.unwrap().is_none());
}

#[tokio::test]
async fn a_pack_that_is_signed_anew_keeps_who_it_may_ship_for() {
    let api = api().await;
    let of = |version: &str, id: &str, key: &SigningKey| {
        signed(package(version, &json!({ "decision": "continue" })), id, key)
    };
    let by = |id: &str, key: &SigningKey| of("1.0.0", id, key);
    push(&api, LIST, &by("acme", &ACME)).await.is(201);
    // What the platform's key may ship for covers what acme's may.
    let told = push(&api, LIST, &by("platform", &PLATFORM)).await.is(200);
    assert_eq!((&told.json()["key"], told.revision()), (&json!("platform"), 2));
    assert_eq!(api.read(ONE).await.0["file"]["key"], "platform");
    let entry = api.audit().await.remove(0);
    assert_eq!(
        (&entry.difference["key"], &entry.difference["resigns"]),
        (&json!("platform"), &json!("acme"))
    );
    let told = push(&api, LIST, &by("acme", &ACME)).await;
    assert!(told.text.contains("`acme` may not"), "{}", told.text);
    told.refuses(409, "CONFLICT");
    // Neither does it take the name for another version, whose data it would read.
    push(&api, LIST, &of("1.0.1", "acme", &ACME)).await.refuses(409, "CONFLICT");
    push(&api, LIST, &of("1.0.1", "platform", &PLATFORM)).await.is(201);
    // A key that is no longer taken holds nobody.
    api.ask("DELETE", "/v1/pack_keys/platform").header("if-match", "*").send().await.is(200);
    push(&api, LIST, &by("acme", &ACME)).await.is(200);
    assert_eq!(api.read(ONE).await.0["file"]["key"], "acme");
    push(&api, LIST, &of("1.0.2", "acme", &ACME)).await.is(201);
}

#[tokio::test]
async fn beside_a_document_in_a_file_a_pack_is_kept_and_not_named() {
    let api = with(true).await;
    let told = push(&api, LIST, &good("1.0.0")).await.is(201);
    assert_eq!((&told.json()["named"], told.json().get("revision")), (&json!(false), None));
    assert_eq!(api.revision().await, 1);
    assert!(api.store.pack_file(&"fresh".into(), "1.0.0").await.unwrap().is_some());
    push(&api, LIST, &good("1.0.0")).await.is(200);
    let told = push(&api, "/v1/packs?dry_run=true", &good("1.0.1")).await.is(200).json();
    assert_eq!((&told["valid"], &told["difference"]), (&json!(true), &json!([])));
    assert!(api.store.pack_file(&"fresh".into(), "1.0.1").await.unwrap().is_none());
    let once = || api.ask("POST", LIST).header("idempotency-key", "once").body(good("1.0.2"));
    let first = once().send().await.is(201);
    let again = once().send().await.is(201);
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&first.text, "true"));
}

#[tokio::test]
async fn a_repeat_gets_the_answer_that_the_first_got() {
    let api = api().await;
    let ask =
        |key: &str, file: Vec<u8>| api.ask("POST", LIST).header("idempotency-key", key).body(file);
    let first = ask("once", good("1.0.0")).send().await.is(201);
    let again = ask("once", good("1.0.0")).send().await.is(201);
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&first.text, "true"));
    let other = ask("once", good("1.0.1")).send().await;
    other.refuses(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn another_process_may_publish_meanwhile() {
    let api = api().await;
    let mut other = api.document().await;
    other["plans"][1]["limits"] = json!([]);
    api.revisions.meanwhile.lock().unwrap().push(other);
    let told = push(&api, LIST, &good("1.0.0")).await.is(201);
    assert_eq!(told.revision(), 3);
    let document = api.document().await;
    assert_eq!(document["plans"][1]["limits"], json!([]));
    assert_eq!(document["packs"][1]["id"], "fresh");
    // The key that signed it may have gone meanwhile.
    let mut other = document;
    other["pack_keys"] = json!([]);
    api.revisions.meanwhile.lock().unwrap().push(other);
    push(&api, LIST, &good("1.0.1")).await.refuses(422, "CONFIG_INVALID");
}

#[tokio::test]
async fn packs_are_pushed_by_publishers_of_no_tenant() {
    let api = api().await;
    for (number, (role, tenant, status)) in [
        (Role::Viewer, None, 403),
        (Role::Operator, None, 403),
        (Role::Producer, None, 403),
        (Role::Publisher, Some("acme"), 403),
        (Role::Admin, Some("acme"), 403),
        (Role::Publisher, None, 201),
        (Role::Admin, None, 201),
    ]
    .into_iter()
    .enumerate()
    {
        let token = api.token(role, tenant).await;
        let ask = api.ask("POST", LIST).bearer(&token).body(good(&format!("1.0.{number}")));
        ask.send().await.is(status);
    }
}

#[tokio::test]
async fn keys_are_changed_by_administrators_of_no_tenant() {
    let api = api().await;
    let key = json!({ "public_key": STRANGER.public().to_string(), "tenants": ["acme"] });
    for (role, tenant, reads, status) in [
        (Role::Viewer, None, 200, 403),
        (Role::Operator, None, 200, 403),
        (Role::Publisher, None, 200, 403),
        (Role::Admin, Some("acme"), 403, 403),
        (Role::Admin, None, 200, 201),
    ] {
        let token = api.token(role, tenant).await;
        api.ask("GET", "/v1/pack_keys/platform").bearer(&token).send().await.is(reads);
        let ask = api.ask("PUT", "/v1/pack_keys/new").bearer(&token).header("if-none-match", "*");
        ask.json(&key).send().await.is(status);
    }
    let bad = json!({ "public_key": "ed25519:AAAA", "tenants": ["nobody"] });
    let ask = api.ask("PUT", "/v1/pack_keys/new").header("if-match", "*");
    let details = ask.json(&bad).send().await.refuses(422, "CONFIG_INVALID");
    let told: Vec<_> =
        pointers(&details).into_iter().map(|(pointer, _)| pointer.to_owned()).collect();
    assert_eq!(told, ["/public_key", "/tenants/0"]);
}
