//! What the command says, and how it ends: 0, 1 when what was asked for was refused, 2 when it was asked wrongly.

use crate::harness::call::contact_of;
use crate::harness::document;
use crate::harness::process::{run, tollgate};
use crate::harness::{Demo, Upstream, eventually, sha256};
use http::Method;
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

/// Compares with a file of `fixtures/golden`; `UPDATE_GOLDEN=1` rewrites it.
#[track_caller]
fn golden(name: &str, found: &str) {
    let file = fixtures().join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, found).unwrap();
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", file.display()));
    let difference =
        expected.lines().zip(found.lines()).position(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "{name} differs from line {} on. If that is meant, UPDATE_GOLDEN=1 rewrites it, and CHANGELOG.md says so.",
        difference.map_or(expected.lines().count().min(found.lines().count()), |line| line) + 1
    );
}

fn check(text: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("document.yaml");
    std::fs::write(&file, text).unwrap();
    tollgate().arg("check").arg(&file).args(arguments).output().unwrap()
}

const WRONG: &str = r#"
format: 1
colour: red
upstreams:
  - { id: crm, targets: [{ address: nowhere }], timeouts: { connect: 0s } }
services:
  - id: contacts
    select: [path, default]
    versions: [{ name: v1, upstream: cmr, state: deprecated }]
routes:
  - id: contacts.create
    service: contacts
    match: { path: contacts, methods: [POST, FETCH] }
    authenticate: { any_of: [password] }
    idempotency: { mode: required, retention: 1s, on_store_error: closed }
    body: { limit: 1TiB }
plans:
  - { id: gold, limits: [{ id: burst, rate: 5/s, quota: 1/day, per: tenant, on_store_error: local }] }
tenants:
  - id: acme
    plan: platinum
    state: active
    consumers: [{ id: "acme mobile", credentials: [{ id: k1, api_key: { hash: secret, prefix: tg } }] }]
"#;

/// What is wrong with it, in the order of pointers.
const POINTERS: &[&str] = &[
    "/colour",
    "/plans/0/limits/0",
    "/routes/0/authenticate/any_of/0",
    "/routes/0/match/methods/1",
    "/routes/0/match/path",
    "/services/0/select",
    "/services/0/versions/0",
    "/services/0/versions/0/upstream",
    "/tenants/0/consumers/0/credentials/0/api_key/hash",
    "/tenants/0/consumers/0/credentials/0/api_key/prefix",
    "/tenants/0/consumers/0/id",
    "/tenants/0/plan",
    "/upstreams/0/targets/0/address",
];

#[test]
fn check_prints_every_error_with_its_pointer_and_ends_with_1() {
    let output = check(WRONG, &[]);
    ends_with(&output, 1);
    let printed = stdout(&output);
    let pointers: Vec<&str> =
        printed.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(pointers, POINTERS, "{printed}");
    assert!(
        printed
            .lines()
            .all(|line| line.split_once(": ").is_some_and(|(_, message)| !message.is_empty()))
    );
    assert!(!printed.contains("secret"), "what should have been a hash may be a key: {printed}");

    let output = check(WRONG, &["--json"]);
    ends_with(&output, 1);
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(told["valid"], false);
    let pointers: Vec<_> =
        told["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, POINTERS);
}

#[test]
fn check_takes_yaml_and_json_from_files_and_standard_input() {
    let demo = fixtures().join("demo/document.yaml");
    let output = tollgate().arg("check").arg(&demo).output().unwrap();
    ends_with(&output, 0);
    assert!(stdout(&output).contains("valid"));
    let document = document::standard(Upstream::address_of_none());
    ends_with(&check(&document.to_string(), &[]), 0);
    let told: Value =
        serde_json::from_str(&stdout(&check(&document.to_string(), &["--json"]))).unwrap();
    assert_eq!(told, json!({ "valid": true, "errors": [] }));

    let mut child = tollgate()
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(WRONG.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    ends_with(&output, 1);
    assert_eq!(stdout(&output).lines().count(), POINTERS.len());
}

#[test]
fn check_of_what_is_no_document_is_one_error() {
    for text in ["", "- a\n", "42\n", "format: [", "{\"format\": 1}}", "a: &a [*a]\n", "\u{0}"] {
        let output = check(text, &["--json"]);
        ends_with(&output, 1);
        let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert!(!told["errors"].as_array().unwrap().is_empty(), "{text:?}");
    }
    let output = run(&["check", "no-such-file.yaml"]);
    ends_with(&output, 1);
    assert!(stderr(&output).contains("no-such-file.yaml"));
}

#[test]
fn an_unknown_format_is_refused() {
    let output = check("format: 2\n", &[]);
    ends_with(&output, 1);
    assert!(stdout(&output).starts_with("/format: "), "{}", stdout(&output));
}

#[test]
fn asking_wrongly_ends_with_2() {
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["check"],
        &["check", "a", "b"],
        &["check", "--frobnicate", "a"],
        &["schema"],
        &["schema", "everything"],
        &["scenario"],
        &["token"],
        &["token", "mint", "--ttl", "soon"],
        &["serve", "--roles", "king"],
        &["demo", "--port-base", "99999"],
        &["demo", "--port-base", "0"],
        &["apply"],
        &["apply", "a", "--revision", "1"],
        &["export", "a"],
        &["export", "--revision", "newest"],
        &["rekey", "now"],
        &["ready", "--url"],
        &["pack"],
        &["pack", "new"],
        &["pack", "new", "Page_Limit"],
        &["pack", "new", "page-limit", "--lang", "cobol"],
        &["pack", "inspect", "no-such-file"],
        &["pack", "keygen", "platform"],
        &["pack", "keygen", "two words", "--tenant", "*"],
        &["pack", "sign", "a.tgpack"],
        &["pack", "push"],
        &["pack", "attach", "page-limit", "--id", "pages"],
        &["pack", "attach", "page-limit@1.0.0"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "two words"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "pages", "--mode", "perhaps"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "pages", "--observe", "--canary", "5"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "pages", "--canary", "5", "--route", "r"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "pages", "--fault-rate", "0.1"],
        &["pack", "promote", "page-limit"],
        &["pack", "quarantine", "page-limit@1.0.0"],
        &["pack", "status", "two words"],
        &["pack", "list"],
        // Nobody can be asked, nothing says which API or with what, and the token would go over the wire in plain.
        &["apply", "-"],
        &["apply", "-", "--yes", "--token-file", "/dev/null"],
        &["apply", "-", "--yes", "--admin-url", "http://127.0.0.1:1"],
        &["apply", "-", "--yes", "--admin-url", "127.0.0.1:1", "--token-file", "/dev/null"],
        &["export", "--admin-url", "http://admin.example", "--token-file", "/dev/null"],
        &["rekey", "--admin-url", "http://admin.example", "--token-file", "/dev/null"],
        &["check", "-", "--admin-url", "http://admin.example", "--token-file", "/dev/null"],
    ];
    for arguments in cases {
        let output = run(arguments);
        ends_with(&output, 2);
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
        assert!(stdout(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands: &[&[&str]] = &[
        &["demo"],
        &["serve"],
        &["check"],
        &["schema"],
        &["scenario"],
        &["token", "mint"],
        &["token", "admin"],
        &["pack", "new"],
        &["pack", "build"],
        &["pack", "test"],
        &["pack", "inspect"],
        &["pack", "keygen"],
        &["pack", "sign"],
        &["pack", "push"],
        &["pack", "list"],
        &["pack", "attach"],
        &["pack", "status"],
        &["pack", "promote"],
        &["pack", "rollback"],
        &["pack", "quarantine"],
        &["pack", "diff"],
        &["apply"],
        &["export"],
        &["rekey"],
        &["migrate"],
        &["ready"],
    ];
    for command in commands {
        let output = run(&[command, &["--help"][..]].concat());
        ends_with(&output, 0);
        let example = format!("Example: tollgate {}", command.join(" "));
        assert!(stdout(&output).contains(&example), "{}", stdout(&output));
    }
    ends_with(&run(&["--version"]), 0);
    let help = stdout(&run(&["--help"]));
    for command in commands {
        assert!(help.contains(command[0]), "{help}");
    }
}

#[test]
fn the_settings_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.yaml");
    for (text, named) in [
        ("rolls: [gateway]\n", "rolls"),
        ("roles: [king]\n", "king"),
        ("roles: []\n", "roles"),
        ("listen: { gateway: here }\n", "tollgate.yaml"),
        ("node: two words\n", "two words"),
        ("database: mysql://db/t\n", "sqlite://"),
        ("master_keys: [{ file: no-such.key }]\n", "no-such.key"),
        ("master_keys: [{ key: abc }]\n", "key"),
        ("records: { retention: 1s }\n", "records.retention"),
        ("records: { buffer: 0 }\n", "records.buffer"),
        ("redis: http://r\n", "redis://"),
        ("redis: { quota: redis://r, deadline: 1h }\n", "redis.deadline"),
        ("redis: { deadline: 15ms }\n", "redis.quota"),
        ("redis: { idempotency: redis://r, deadline: 15ms }\n", "redis.quota"),
        ("redis: { quota: redis://r, idempotence: redis://r }\n", "unknown field `idempotence`"),
        ("redis: { quota: redis://r }\nidempotency: redis\n", "redis.idempotency"),
        ("idempotency: redis\n", "redis.idempotency"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = tollgate()
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .current_dir(&folder)
            .output()
            .unwrap();
        ends_with(&output, 1);
        assert!(stderr(&output).contains(named), "{text}: {}", stderr(&output));
    }
    let output = run(&["serve", "--config", "no-such-file.yaml"]);
    ends_with(&output, 1);
    assert!(stderr(&output).contains("no-such-file.yaml"));
}

#[test]
fn settings_are_judged_and_shown_without_starting_anything() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("master.key");
    std::fs::write(&key, "ab".repeat(32)).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let file = folder.path().join("tollgate.yaml");
    let text = "roles: [admin]\nnode: a-1\nrecords: { retention: 24h }\n\
                database: postgres://tollgate:s3cret@db/t\n\
                redis: { quota: \"redis://tollgate:s3cret@r:6379\", deadline: 20ms }\n";
    std::fs::write(&file, text).unwrap();
    let mut serve = tollgate();
    serve.args(["serve", "--check", "--config"]).arg(&file).current_dir(&folder);
    serve.env("TOLLGATE_MASTER_KEYS", &key).env("TOLLGATE_DATA", folder.path().join("data"));
    let output = serve.output().unwrap();
    ends_with(&output, 0);
    let shown = model::config::parse(&stdout(&output)).unwrap();
    assert_eq!((&shown["roles"], &shown["node"]), (&json!(["admin"]), &json!("a-1")));
    assert_eq!(shown["database"], "postgres://tollgate:***@db/t");
    let redis = json!({ "quota": "redis://r:6379", "deadline": "20ms" });
    assert_eq!(shown["redis"], redis);
    assert_eq!(shown["master_keys"], json!([{ "file": key.to_str().unwrap() }]));
    assert_eq!(shown["records"]["retention"], "24h");
    assert!(!folder.path().join("data").exists());
    // What it shows is what it reads.
    std::fs::write(&file, stdout(&output).replace("***", "s3cret")).unwrap();
    let mut again = tollgate();
    again.args(["serve", "--check", "--config"]).arg(&file).current_dir(&folder);
    assert_eq!(stdout(&again.output().unwrap()), stdout(&output));

    for (variable, value, named) in [
        ("TOLLGATE_NODE", "-", "node"),
        ("TOLLGATE_DATABASE", "postgres:s3cret", "TOLLGATE_DATABASE"),
        ("TOLLGATE_REDIS", "memcached://:s3cret@r", "TOLLGATE_REDIS"),
        ("TOLLGATE_REDIS_QUOTA", "redis:s3cret", "TOLLGATE_REDIS_QUOTA"),
        ("TOLLGATE_REDIS_DEADLINE", "soon", "TOLLGATE_REDIS_DEADLINE"),
        ("TOLLGATE_REDIS_IDEMPOTENCY", "redis:s3cret", "TOLLGATE_REDIS_IDEMPOTENCY"),
        ("TOLLGATE_IDEMPOTENCY", "redis", "redis.idempotency"),
        ("TOLLGATE_MASTER_KEYS", "no-such.key", "no-such.key"),
        ("TOLLGATE_RECORDS_RETENTION", "soon", "TOLLGATE_RECORDS_RETENTION"),
        ("TOLLGATE_RECORDS_BUFFER", "many", "TOLLGATE_RECORDS_BUFFER"),
        ("TOLLGATE_DOCUMENT_FILE", "no-such.yaml", "no-such.yaml"),
        ("TOLLGATE_DOCUMENTS_FILE", "x", "TOLLGATE_DOCUMENTS_FILE"),
    ] {
        let mut serve = tollgate();
        serve.args(["serve", "--check"]).current_dir(&folder).env(variable, value);
        let output = serve.output().unwrap();
        ends_with(&output, 1);
        assert!(stderr(&output).contains(named), "{variable}: {}", stderr(&output));
        assert!(!stderr(&output).contains("s3cret"), "{}", stderr(&output));
    }
}

#[test]
fn of_two_places_on_redis_the_more_particular_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.yaml");
    std::fs::write(&file, "redis: { quota: redis://file, deadline: 20ms }\n").unwrap();
    let all = ("TOLLGATE_REDIS", "redis://all");
    let quota = ("TOLLGATE_REDIS_QUOTA", "redis://quota");
    let keys = ("TOLLGATE_REDIS_IDEMPOTENCY", "redis://keys");
    for (environment, host, keys) in [
        (vec![], "file", None),
        (vec![all], "all", Some("redis://all")),
        (vec![quota, all], "quota", Some("redis://all")),
        (vec![all, quota, keys], "quota", Some("redis://keys")),
        (vec![keys, all], "all", Some("redis://keys")),
    ] {
        let mut serve = tollgate();
        serve.args(["serve", "--check", "--config"]).arg(&file).current_dir(&folder);
        let output = serve.envs(environment.clone()).output().unwrap();
        ends_with(&output, 0);
        let shown = model::config::parse(&stdout(&output)).unwrap();
        let mut expected = json!({ "quota": format!("redis://{host}"), "deadline": "20ms" });
        if let Some(keys) = keys {
            expected["idempotency"] = keys.into();
        }
        assert_eq!(shown["redis"], expected, "{environment:?}");
    }
}

#[test]
fn an_api_that_does_not_answer_is_said_and_ends_with_1() {
    let nobody = format!("http://{}", Upstream::address_of_none());
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("document.yaml");
    std::fs::write(&document, "format: 1\n").unwrap();
    let document = document.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["apply", document, "--yes"],
        &["apply", document, "--dry-run"],
        &["export"],
        &["rekey"],
        &["pack", "list"],
        &["pack", "status"],
        &["pack", "diff", "page-limit"],
        &["pack", "promote", "page-limit@1.0.0"],
        &["pack", "attach", "page-limit@1.0.0", "--id", "pages"],
        &["pack", "inspect", "page-limit@1.0.0"],
        &["webhooks", "endpoints"],
        &["webhooks", "deliveries", "--state", "dead"],
        &["webhooks", "show", "dlv_1"],
        &["webhooks", "retry", "dlv_1"],
        &["webhooks", "discard", "dlv_1"],
        &["webhooks", "ping", "acme-hook"],
        &["webhooks", "replay", "--tenant", "acme", "--since", "2026-11-21T09:00:00Z", "--yes"],
        &["check", document, "--admin-url", &nobody],
    ];
    for command in commands {
        let mut tollgate = tollgate();
        tollgate.args(*command).env("TOLLGATE_ADMIN_URL", &nobody);
        let output = tollgate.env("TOLLGATE_ADMIN_TOKEN", "tga_secret").output().unwrap();
        ends_with(&output, 1);
        assert!(stderr(&output).contains("does not answer"), "{command:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("tga_secret"));
    }
    let output = run(&["ready", "--url", &nobody]);
    ends_with(&output, 1);
    // What is no document needs no API to be refused.
    std::fs::write(folder.path().join("document.yaml"), "format: [").unwrap();
    let output = tollgate().args(["apply", document, "--yes", "--json"]).output().unwrap();
    ends_with(&output, 1);
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(told["valid"], false);
}

#[test]
fn the_schema_of_documents_is_what_it_was() {
    let output = run(&["schema", "document"]);
    ends_with(&output, 0);
    let schema: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["format"]));
    golden("schema-document.json", &stdout(&output));
}

#[test]
fn the_table_of_errors_is_what_it_was() {
    let output = run(&["schema", "errors"]);
    ends_with(&output, 0);
    let table: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(table.as_array().unwrap().len(), model::ErrorCode::ALL.len());
    golden("schema-errors.json", &stdout(&output));
}

#[test]
fn the_description_of_the_admin_api_is_what_it_was() {
    let output = run(&["schema", "openapi"]);
    ends_with(&output, 0);
    let described: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(described["openapi"], "3.1.0");
    golden("openapi.json", &stdout(&output));
}

fn scenarios() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures().join("scenarios")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn scenarios_go_as_they_expect_each_time() {
    let play = || {
        let output = tollgate().arg("scenario").arg("--json").args(scenarios()).output().unwrap();
        ends_with(&output, 0);
        stdout(&output)
    };
    let played = play();
    assert_eq!(play(), played, "the same input, the same output");
    for line in played.lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        assert!(
            step["status"].is_u64() && step["trace_id"].as_str().unwrap().len() == 32,
            "{line}"
        );
    }
    for promised in ["SCOPE_DENIED", "Idempotency-Replayed", "\"status\":201"] {
        assert!(played.to_lowercase().contains(&promised.to_lowercase()), "{promised}: {played}");
    }
}

/// A gateway that runs keeps its own time: scenarios that move the clock are not for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios_that_leave_the_clock_alone_go_the_same_way_against_a_running_gateway() {
    let demo = Demo::start().await;
    let mut files = scenarios();
    files.retain(|file| !std::fs::read_to_string(file).unwrap().contains("advance:"));
    assert!(files.len() >= 2, "{files:?}");
    let mut command = tollgate();
    command.args(["scenario", "--against", demo.value("GATEWAY_URL")]).args(files);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    ends_with(&output, 0);
    let mut dead = tollgate();
    let nobody = format!("http://{}", Upstream::address_of_none());
    dead.args(["scenario", "--against", &nobody]).arg(&scenarios()[0]);
    let output = tokio::task::spawn_blocking(move || dead.output().unwrap()).await.unwrap();
    ends_with(&output, 1);
}

#[test]
fn a_scenario_that_goes_otherwise_ends_with_1_and_says_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = scenarios().remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let scenarios = fixtures().join("scenarios");
    let document = text.lines().find(|line| line.starts_with("document:")).unwrap();
    let relative = document.trim_start_matches("document:").trim();
    let absolute = scenarios.join(relative).canonicalize().unwrap();
    let moved = text.replace(document, &format!("document: {}", absolute.display()));
    let copy = folder.path().join("copy.yaml");
    std::fs::write(&copy, &moved).unwrap();
    ends_with(&tollgate().arg("scenario").arg(&copy).output().unwrap(), 0);

    let status = moved.find("status: 2").unwrap();
    let mut changed = moved.clone();
    changed.replace_range(status..status + "status: 2".len(), "status: 5");
    std::fs::write(&copy, changed).unwrap();
    let output = tollgate().arg("scenario").arg(&copy).output().unwrap();
    ends_with(&output, 1);
    assert!(stderr(&output).contains("expected"), "{}", stderr(&output));

    std::fs::write(&copy, "name: x\nsurprise: 1\n").unwrap();
    ends_with(&tollgate().arg("scenario").arg(&copy).output().unwrap(), 1);
    ends_with(&run(&["scenario", "no-such-file.yaml"]), 1);
}

#[test]
fn changing_a_limit_in_the_document_changes_a_scenarios_output() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixtures().join("demo/document.yaml")).unwrap();
    std::fs::write(folder.path().join("document.yaml"), text.replace("burst: 1000", "burst: 1"))
        .unwrap();
    let script = |times: u32| {
        format!(
            "name: a limit\ndocument: document.yaml\nclock: 2026-11-21T00:00:00Z\nsteps:\n  - name: reads\n    times: {times}\n    \
             request: {{ method: GET, path: /v2/contacts, trace_id: 0af7651916cd43dd8448eb211c80319c, key_of: acme-mobile }}\n    \
             expect: {{ status: 200, trace_id: 0af7651916cd43dd8448eb211c80319c, result: {{ items: [], next_cursor: null }} }}\n"
        )
    };
    let file = folder.path().join("limit.yaml");
    std::fs::write(&file, script(1)).unwrap();
    ends_with(&tollgate().arg("scenario").arg(&file).output().unwrap(), 0);
    std::fs::write(&file, script(2)).unwrap();
    let output = tollgate().arg("scenario").arg(&file).output().unwrap();
    ends_with(&output, 1);
    assert!(stdout(&output).contains("RATE_LIMITED"), "{}", stdout(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minted_tokens_are_taken_and_say_what_was_asked_for() {
    let demo = Demo::start().await;
    let mint = |arguments: &[&str]| {
        let output = run(&[&["token", "mint"], arguments].concat());
        ends_with(&output, 0);
        stdout(&output).trim().to_owned()
    };
    for (arguments, status, code) in [
        (&[][..], 200, ""),
        (&["--tenant", "globex"], 200, ""),
        (&["--scope", "contacts:write"], 403, "SCOPE_DENIED"),
        (&["--audience", "others"], 401, "CREDENTIAL_INVALID"),
        (&["--consumer", "nobody"], 401, "CREDENTIAL_INVALID"),
    ] {
        let answer = demo.get("/v2/contacts").bearer(&mint(arguments)).send().await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{arguments:?}");
    }
    let short = mint(&["--ttl", "0s"]);
    // The issuer's leeway is 30 s.
    demo.get("/v2/contacts").bearer(&short).send().await.is(200);
    ends_with(&run(&["token", "mint", "--tenant", "nobody"]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_demo_prints_works_as_printed() {
    let demo = Demo::start().await;
    let printed = eventually("the demo has told what to try", async || {
        let log = demo.log();
        if log.contains("Ctrl-C ends") { Ok(log) } else { Err(log) }
    })
    .await;
    for name in [
        "GATEWAY_URL",
        "ADMIN_URL",
        "DISPATCHER_URL",
        "CRM_URL",
        "STATUS_URL",
        "ACME_KEY",
        "GLOBEX_KEY",
        "ADMIN_TOKEN",
    ] {
        assert!(printed.contains(demo.value(name)), "{name} is not printed");
    }
    let commands: Vec<String> = printed
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("curl "))
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 5, "{commands:#?}");
    for command in commands {
        let output = tokio::task::spawn_blocking({
            let command = command.clone();
            move || Command::new("sh").arg("-c").arg(command).output().unwrap()
        })
        .await
        .unwrap();
        ends_with(&output, 0);
        let printed = stdout(&output);
        let body = printed.rsplit("\r\n\r\n").next().unwrap();
        let body: Value = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("{command}: {error}: {printed}"));
        if command.contains("curl -i") {
            let status = printed.split(' ').nth(1).unwrap();
            let denied = command.contains(demo.value("GLOBEX_KEY")) && command.contains("-d ");
            let expected = if denied {
                "403"
            } else if command.contains("-d ") {
                "201"
            } else {
                "200"
            };
            assert_eq!(status, expected, "{command}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_every_admin_token_and_has_the_database_makes_another() {
    let demo = Demo::start().await;
    let data = demo.data();
    let output = run(&["token", "admin", "--name", "new-one", "--data", data.to_str().unwrap()]);
    ends_with(&output, 0);
    let token = stdout(&output).trim().to_owned();
    let answer = demo.admin.get("/v1/tokens").bearer(&token).send().await;
    let names: Vec<Value> = answer.is(200).json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].clone())
        .collect();
    assert_eq!(names, ["new-one", "first"]);
    // It is in the audit, and nowhere in the log.
    let audit = demo.administers(Method::GET, "/v1/audit?limit=1").send().await.is(200).json();
    let newest = &audit["items"][0];
    assert_eq!(
        (&newest["action"], &newest["actor"]["name"]),
        (&json!("tokens.create"), &json!("system"))
    );
    assert!(!demo.log().contains(&token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_says_which_parts_are_ready_and_ends_accordingly() {
    let demo = Demo::start().await;
    let status = demo.value("STATUS_URL").to_owned();
    let output = run(&["ready", "--url", &status]);
    ends_with(&output, 0);
    for part in ["gateway: ready", "admin: ready", "dispatcher: ready", "store: ready"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    let output = run(&["ready", "--json", "--url", &status]);
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&told["ready"], &told["revision"]), (&json!(true), &json!(1)));
    let mut by_environment = tollgate();
    let address = status.trim_start_matches("http://127.0.0.1");
    by_environment.arg("ready").env("TOLLGATE_LISTEN_STATUS", format!("0.0.0.0{address}"));
    ends_with(&by_environment.output().unwrap(), 0);
}

#[tokio::test]
async fn the_demos_environment_names_everything() {
    let demo = Demo::start().await;
    let port = |name: &str| demo.value(name).rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let base = demo.first_port;
    let ports = ["GATEWAY_URL", "ADMIN_URL", "CRM_URL", "STATUS_URL"].map(port);
    assert_eq!(ports, [base, base + 1, base + 3, base + 4]);
    assert_eq!(demo.value("TOLLGATE_ADMIN_URL"), demo.value("ADMIN_URL"));
    assert_eq!(demo.value("TOLLGATE_ADMIN_TOKEN"), demo.value("ADMIN_TOKEN"));
    // Ready means that all of it answers, with both versions by path for both tenants.
    for key in ["ACME_KEY", "GLOBEX_KEY"] {
        for path in ["/v1/contacts", "/v2/contacts"] {
            demo.get(path).key(demo.value(key)).send().await.is(200);
        }
    }
    let created = demo
        .creates("demo-1", &json!({ "first_name": "Ada", "last_name": "Lovelace" }))
        .send()
        .await;
    let place = created.is(201).header("location").to_owned();
    let repeat = demo
        .creates("demo-1", &json!({ "first_name": "Ada", "last_name": "Lovelace" }))
        .send()
        .await;
    assert!(repeat.is(201).is_replay());
    assert_eq!(repeat.body, created.body);
    let arrivals = demo.arrivals().await;
    assert_eq!(arrivals.len(), 1);
    assert_eq!(
        (&arrivals[0]["tenant"], &arrivals[0]["path"]),
        (&json!("acme"), &json!("/v1/contacts"))
    );
    let id = place.rsplit('/').next().unwrap();
    let v2 = demo.get(&format!("/v2/contacts/{id}")).key(demo.value("ACME_KEY")).send().await;
    assert_eq!(v2.is(200).json()["name"], json!({ "given": "Ada", "family": "Lovelace" }));
    demo.get(&format!("/v2/contacts/{id}")).key(demo.value("GLOBEX_KEY")).send().await.is(404);
}

#[tokio::test]
async fn a_mebibyte_contact_arrives_at_the_crm_as_it_was_sent() {
    let demo = Demo::start().await;
    let body = contact_of(1 << 20, 7);
    let hash = sha256(&body);
    let call = || {
        let call =
            demo.gateway.post("/v1/contacts").key(demo.value("ACME_KEY")).idempotency_key("large");
        call.header("content-type", "application/json").body(body.clone())
    };
    let created = call().send().await;
    let arrivals = demo.arrivals().await;
    assert_eq!(created.status, 201);
    assert_eq!(
        (&arrivals[0]["body_sha256"], &arrivals[0]["body_length"]),
        (&json!(hash), &json!(1 << 20))
    );
    // The CRM answers with the contact, which is larger than what is kept: the repeat learns where it is.
    let repeat = call().send().await;
    if repeat.status == 409 {
        let details = repeat.refuses(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
        assert_eq!(details["location"], created.header("location"));
    } else {
        assert!(repeat.is(201).is_replay());
        assert_eq!(repeat.body, created.body);
    }
    assert_eq!(demo.arrivals().await.len(), 1);
}
