//! `tollgate pack`, where things go wrong. That it goes well is what `guide` shows.

use crate::harness::Demo;
use crate::harness::pack::Made;
use crate::harness::process::tollgate;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

#[track_caller]
fn ends_with(output: &Output, code: i32) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{printed}");
    printed
}

fn pack(folder: &Path, arguments: &[&str]) -> Output {
    tollgate().arg("pack").args(arguments).current_dir(folder).output().unwrap()
}

/// A pack that denies everything, in a file.
fn denying(folder: &Path, version: &str, vector: &Value) -> String {
    let made = Made::named("misbehave", version, demo::MISBEHAVE).vector("denies", vector);
    let file = format!("misbehave-{version}.tgpack");
    fs::write(folder.join(&file), made.file()).unwrap();
    file
}

fn vector(reason: &str) -> Value {
    json!({
        "settings": { "how": "deny", "status": 418, "reason": "teapot", "details": [] },
        "expect": { "decision": "deny", "status": 418, "reason": reason },
    })
}

#[test]
fn a_key_is_its_owners_and_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let made = pack(folder.path(), &["keygen", "platform", "--tenant", "acme"]);
    ends_with(&made, 0);
    let file = folder.path().join("platform.key");
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let printed = String::from_utf8(made.stdout).unwrap();
    assert!(!printed.contains(key.lines().nth(1).unwrap()), "a private key is never printed");
    // What is printed is a document's part.
    let document = model::config::parse(&printed).unwrap();
    assert_eq!(document["pack_keys"][0]["tenants"], json!(["acme"]));
    let public: pack_host::PublicKey =
        document["pack_keys"][0]["public_key"].as_str().unwrap().parse().unwrap();
    assert_eq!(public, pack_host::SigningKey::from_pem(&key).unwrap().public());
    let again = ends_with(&pack(folder.path(), &["keygen", "platform", "--tenant", "*"]), 1);
    assert!(again.contains("is there already"), "{again}");
    assert_eq!(fs::read_to_string(&file).unwrap(), key);
}

#[test]
fn a_new_pack_never_writes_over_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    for lang in ["rust", "c"] {
        let name = format!("in-{lang}");
        ends_with(&pack(folder.path(), &["new", &name, "--lang", lang]), 0);
        let at = folder.path().join(&name);
        for file in ["pack.yaml", ".gitignore", ".tollgate-sdk/wit/policy.wit"] {
            assert!(at.join(file).is_file(), "{lang}: {file}");
        }
        let described = fs::read_to_string(at.join("pack.yaml")).unwrap();
        assert!(described.contains(&format!("name: {name}")), "{described}");
        let again = ends_with(&pack(folder.path(), &["new", &name, "--lang", lang]), 1);
        assert!(again.contains("not empty"), "{again}");
    }
    let elsewhere = pack(folder.path(), &["new", "page-limit", "--dir", "packs/limit"]);
    ends_with(&elsewhere, 0);
    assert!(folder.path().join("packs/limit/Cargo.toml").is_file());
}

#[test]
fn what_is_wrong_with_a_folder_is_said_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    ends_with(&pack(folder.path(), &["new", "in-c", "--lang", "c"]), 0);
    let at = folder.path().join("in-c");
    let described = fs::read_to_string(at.join("pack.yaml")).unwrap();
    let phases = "phases: [request]";
    for (text, named) in [
        (described.replace("body: []", "boddy: []"), "boddy"),
        (described.replace("version: 0.1.0", "version: newest"), "version"),
        (described.replace(phases, "phases: [request, response]"), "on-response"),
        (described.replace(phases, "phases: [sometimes]"), "sometimes"),
        (described.replace("capabilities: []", "capabilities: [network]"), "network"),
    ] {
        fs::write(at.join("pack.yaml"), text).unwrap();
        let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
        assert!(said.contains(named), "{named}: {said}");
    }
    fs::write(at.join("pack.yaml"), &described).unwrap();
    let log = "#include \"tollgate_pack.h\"\nTG_CONFIGURE(settings) { (void)settings; return tg_ok(); }\n\
               TG_ON_REQUEST(request) { (void)request; tg_log(TG_INFO, TG(\"seen\")); return tg_continue(); }\n";
    fs::write(at.join("src/pack.c"), log).unwrap();
    let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
    assert!(said.contains("`log`") && said.contains("capabilities"), "{said}");
    fs::write(at.join("vectors/odd.json"), "{").unwrap();
    let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
    assert!(said.contains("odd.json"), "{said}");
    fs::write(at.join("settings.schema.json"), "{").unwrap();
    let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
    assert!(said.contains("settings.schema.json"), "{said}");
    fs::write(at.join("src/pack.c"), "int x = ;").unwrap();
    let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
    assert!(said.contains("pack.c") && said.contains("did not compile"), "{said}");
    fs::remove_file(at.join("src/pack.c")).unwrap();
    let said = ends_with(&pack(folder.path(), &["build", "in-c"]), 1);
    assert!(said.contains("nothing to compile"), "{said}");
    let said = ends_with(&pack(folder.path(), &["test", "nowhere"]), 1);
    assert!(said.contains("pack.yaml") && said.contains("pack new"), "{said}");
}

#[test]
fn a_vector_that_comes_out_otherwise_is_shown_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = denying(folder.path(), "1.0.0", &vector("coffee"));
    let printed = ends_with(&pack(folder.path(), &["test", &file]), 1);
    for told in ["FAILED", "denies", "teapot", "coffee", "0 of 1 vectors"] {
        assert!(printed.contains(told), "{told}: {printed}");
    }
    let output = pack(folder.path(), &["test", &file, "--json"]);
    ends_with(&output, 1);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["pack"], &told["passed"]), (&json!("misbehave@1.0.0"), &json!(false)));
    let tried = &told["trial"]["vectors"][0];
    assert!(tried["difference"].as_str().unwrap().contains("coffee"), "{told}");
    assert!(tried["fresh"]["fuel"].as_u64().unwrap() > 0, "{told}");
    let file = denying(folder.path(), "1.0.1", &vector("teapot"));
    ends_with(&pack(folder.path(), &["test", &file]), 0);
}

#[test]
fn a_file_that_was_changed_is_neither_signed_nor_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = denying(folder.path(), "1.0.0", &vector("teapot"));
    ends_with(&pack(folder.path(), &["keygen", "other", "--tenant", "*"]), 0);
    let told = pack(folder.path(), &["inspect", &file, "--json"]);
    ends_with(&told, 0);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["name"], &told["signed_by"]), (&json!("misbehave"), &json!(demo::PACK_KEY)));
    assert_eq!(told["image"], json!(true));
    // Another signature, and the same digest.
    let signed = ends_with(&pack(folder.path(), &["sign", &file, "--key", "other.key"]), 0);
    assert!(signed.contains(told["digest"].as_str().unwrap()), "{signed}");
    let printed = ends_with(&pack(folder.path(), &["inspect", &file]), 0);
    assert!(printed.lines().any(|line| line.starts_with("signed_by") && line.ends_with("other")));

    let at = folder.path().join(&file);
    let mut bytes = fs::read(&at).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&at, &bytes).unwrap();
    for command in
        [&["inspect", &*file][..], &["sign", &file, "--key", "other.key"], &["test", &file]]
    {
        let said = ends_with(&pack(folder.path(), command), 1);
        assert!(said.contains(&file) && said.contains("changed"), "{said}");
    }
    assert_eq!(fs::read(&at).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_api_are_printed_with_what_to_do() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_owned();
    let (url, token) = (demo.value("ADMIN_URL").to_owned(), demo.value("ADMIN_TOKEN").to_owned());
    let ask = move |arguments: &[&str]| {
        let mut command = tollgate();
        command.arg("pack").args(arguments).current_dir(&at);
        command.env("TOLLGATE_ADMIN_URL", &url).env("TOLLGATE_ADMIN_TOKEN", &token);
        command.output().unwrap()
    };
    let work = tokio::task::spawn_blocking(move || {
        let file = denying(folder.path(), "1.0.0", &vector("teapot"));
        let unknown = Made::named("misbehave", "2.0.0", demo::MISBEHAVE);
        let key = pack_host::SigningKey::generate().unwrap();
        fs::write(folder.path().join("unknown.tgpack"), unknown.signed_by("nobody", &key)).unwrap();
        let said = ends_with(&ask(&["push", "unknown.tgpack"]), 1);
        assert!(said.contains("nobody") && said.contains("pack_keys"), "{said}");
        let tried = ends_with(&ask(&["push", &file, "--dry-run"]), 0);
        assert!(tried.contains("would be taken"), "{tried}");
        assert!(!ends_with(&ask(&["list"]), 0).contains("misbehave"));
        ends_with(&ask(&["push", &file]), 0);
        let again = ends_with(&ask(&["push", &file]), 0);
        assert!(again.contains("already"), "{again}");
        let failing = denying(folder.path(), "1.0.1", &vector("coffee"));
        let said = ends_with(&ask(&["push", &failing]), 1);
        assert!(said.contains("denies") && said.contains("coffee"), "{said}");
        // Under a version that stands for something else already.
        let other = Made::named("misbehave", "1.0.0", demo::MISBEHAVE).file();
        fs::write(folder.path().join("other.tgpack"), other).unwrap();
        let said = ends_with(&ask(&["push", "other.tgpack"]), 1);
        assert!(said.contains("CONFLICT"), "{said}");

        let new = ["attach", "misbehave@1.0.0", "--id", "trouble"];
        let said = ends_with(&ask(&new), 2);
        assert!(said.contains("--phase, --mode, --on-failure"), "{said}");
        let said = ends_with(&ask(&[&new[..], &["--observe"]].concat()), 1);
        assert!(said.contains("there is no attachment `trouble`"), "{said}");
        let how =
            ["--tenant", "acme", "--phase", "request", "--mode", "observe", "--on-failure", "open"];
        let settings = ["--settings", r#"{"how":"nothing-known"}"#];
        let said = ends_with(&ask(&[&new[..], &how, &settings].concat()), 1);
        assert!(said.contains("/settings") && said.contains("nothing-known"), "{said}");
        let settings = ["--settings", "@settings.json"];
        let deny = r#"{"how":"deny","status":418,"reason":"teapot","details":[]}"#;
        fs::write(folder.path().join("settings.json"), deny).unwrap();
        let said = ends_with(&ask(&[&new[..], &how, &settings, &["--dry-run"]].concat()), 0);
        assert!(said.contains("/attachments/") && said.contains("this was a try"), "{said}");
        ends_with(&ask(&[&new[..], &how, &settings].concat()), 0);
        let shown = ends_with(&ask(&["status", "misbehave"]), 0);
        assert!(
            shown.contains("trouble: misbehave@1.0.0, request of tenant acme; observe"),
            "{shown}"
        );
        let said = ends_with(&ask(&["promote", "misbehave@1.0.0"]), 1);
        assert!(!said.is_empty());
        let said = ends_with(&ask(&["status", "nobody-knows-it"]), 1);
        assert!(said.contains("there is no pack"), "{said}");
        let output = ask(&["diff", "misbehave", "--json"]);
        ends_with(&output, 0);
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!([]));
        let output = ask(&["inspect", "misbehave@1.0.0", "--json"]);
        ends_with(&output, 0);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["file"]["key"], json!(demo::PACK_KEY));
        let out = ends_with(&ask(&["quarantine", "misbehave@1.0.0", "--reason", "of no use"]), 0);
        assert!(out.contains("trouble is halted"), "{out}");
        let said = ends_with(&ask(&new), 1);
        assert!(said.contains("is quarantined"), "{said}");
    });
    work.await.unwrap();
}
