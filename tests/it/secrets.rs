//! Secrets are shown once, by the answer that makes them, and are nowhere else: marked ones are looked for everywhere.

use crate::harness::cluster::{Member, Setup};
use crate::harness::document::{self, Edit as _};
use crate::harness::process::tollgate;
use crate::harness::token::{Key, claims, issuer, unique};
use crate::harness::{Upstream, eventually, sha256};
use http::Method;
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A secret that nothing else looks like, long enough for HS256.
fn canary(name: &str) -> String {
    format!("canary-{name}-{}", &sha256(unique())[..40])
}

fn master_key(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(sha256(unique() + name).as_bytes()).unwrap();
    path
}

fn with_keys(setup: Setup, keys: &[&Path]) -> Setup {
    let files: Vec<Value> = keys.iter().map(|file| json!({ "file": file })).collect();
    setup.with("master_keys", json!(files))
}

async fn start(setup: Setup, document: &Value) -> Member {
    let mut node = setup.start();
    node.answers().await;
    node.api.publish_first(document).await;
    node.is_ready().await;
    node
}

/// The issuer of acme with a secret of HS256.
fn with_secret(secret: Value) -> Value {
    issuer(&["HS256"], ("secret", secret))
}

/// The standard document, of which every exchange is recorded.
fn recorded(upstream: &Upstream) -> Value {
    document::standard(upstream.address).changed(|document| {
        for route in ["contacts.list", "contacts.create", "contacts.read", "contacts.change"] {
            document.entry("routes", route)["record"] = json!("required");
        }
    })
}

/// Every file under a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            // Sockets and what is gone meanwhile aside, all of it.
            false => found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes))),
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_the_answer_that_makes_them_and_nowhere_else() {
    let (keys, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    let master = master_key(keys.path(), "master");
    let setup = Setup::named("alone", &["gateway", "admin"]).environment("TOLLGATE_LOG", "trace");
    let mut node = start(with_keys(setup, &[&master]), &recorded(&upstream)).await;
    let api = node.api.clone();
    let mut secrets: Vec<(&str, String)> = vec![("the first token", api.token().to_owned())];
    secrets.push(("the master key", std::fs::read_to_string(&master).unwrap()));

    // Sealed, changed, and shown as sealed.
    let (sealed, second) = (canary("sealed"), canary("changed"));
    let made = api.create("/v1/issuers/acme-idp", &with_secret(json!({ "value": sealed })));
    let made = made.send().await.is(201).json();
    let at_rest = made["resource"]["secret"]["sealed"].as_str().unwrap().to_owned();
    assert!(at_rest.starts_with("tg1."), "{at_rest}");
    let merged = json!({ "secret": { "value": second } });
    // Merging leaves what it does not name: the old seal is taken away by name.
    let merged = api.merge("/v1/issuers/acme-idp", &merged).await;
    assert_ne!(merged.is(200).json()["resource"]["secret"]["sealed"], json!(at_rest));
    let answers = vec![made.to_string(), String::from_utf8_lossy(&merged.body).into_owned()];
    secrets.extend([("a sealed secret", sealed.clone()), ("a changed one", second.clone())]);

    // Made, used, refused, revoked.
    let list = "/v1/consumers/acme-mobile/credentials";
    let first =
        api.post(list).idempotency_key("first").json(&json!({ "id": "fresh" })).send().await;
    let first = first.is(201).json()["key"].as_str().unwrap().to_owned();
    let rotated = api.post(&format!("{list}/fresh:rotate")).json(&json!({})).send().await;
    let rotated = rotated.is(201).json()["key"].as_str().unwrap().to_owned();
    let (token, _) = api.new_token(&json!({ "name": "viewer", "role": "viewer" })).await;
    api.with(&token).get("/v1/plans").send().await.is(200);
    api.with(&token)
        .post("/v1/tokens")
        .json(&json!({ "name": "x", "role": "admin" }))
        .send()
        .await
        .is(403);
    let jwt = Key::hs256(second.as_bytes()).signs(&claims());
    let signature = jwt.rsplit('.').next().unwrap().to_owned();
    node.get("/v1/contacts?access_token=canary-in-a-query").bearer(&jwt).send().await.is(200);
    let forged = Key::hs256(sealed.as_bytes()).signs(&claims());
    node.get("/v1/contacts").bearer(&forged).send().await.refuses(401, "CREDENTIAL_INVALID");
    for key in [&first, &rotated] {
        node.post("/v1/contacts")
            .key(key)
            .idempotency_key(&unique())
            .body("canary-in-a-body")
            .send()
            .await
            .is(201);
    }
    secrets.extend([
        ("a key", first.clone()),
        ("a rotated key", rotated),
        ("a token", token),
        ("a JWT's signature", signature),
        ("a forged JWT's signature", forged.rsplit('.').next().unwrap().to_owned()),
        ("a query", "canary-in-a-query".to_owned()),
        ("a body", "canary-in-a-body".to_owned()),
    ]);

    // Secrets where none belongs: every refusal tells the place and never the value.
    let misplaced = canary("misplaced");
    let (document, tag) = api.read("/v1/document").await;
    let in_document = |secret: Value| {
        let changed =
            document.clone().changed(|document| document["issuers"][0]["secret"] = secret);
        api.put("/v1/document", &changed, &tag)
    };
    let credential = json!({ "consumers": [{ "id": "acme-mobile",
        "credentials": [{ "id": "k9", "api_key": { "hash": misplaced, "prefix": misplaced } }] }] });
    let refused = vec![
        api.create("/v1/issuers/other", &with_secret(json!(misplaced))),
        api.create("/v1/issuers/other", &with_secret(json!({ "plain": misplaced }))),
        api.create("/v1/issuers/other", &with_secret(json!({ "env": misplaced }))),
        api.create("/v1/issuers/other", &with_secret(json!({ "sealed": misplaced }))),
        api.create(
            "/v1/issuers/other",
            &with_secret(json!({ "sealed": format!("tg1.x.{misplaced}") })),
        ),
        api.create("/v1/issuers/other?dry_run=true", &with_secret(json!({ "value": [misplaced] }))),
        in_document(json!(misplaced)),
        in_document(json!({ "value": misplaced })),
        in_document(json!({ "env": misplaced })),
        api.patch("/v1/tenants/acme", &credential, "*"),
        api.call(Method::PUT, "/v1/document")
            .header("if-match", &*tag)
            .body(format!("secret: [{misplaced}")),
        api.post("/v1/tokens").json(&json!({ "name": "x", "role": misplaced })),
    ];
    for call in refused {
        let answer = call.send().await;
        let shown = String::from_utf8_lossy(&answer.body).into_owned();
        let dry = answer.status == 200 && answer.json()["valid"] == false;
        assert!(dry || (400..500).contains(&answer.status), "{answer:?}");
        assert!(!shown.contains(&misplaced), "{}: {shown}", answer.what);
    }
    secrets.push(("a misplaced secret", misplaced));

    // Everything that anybody can read afterwards.
    eventually("everything is recorded", async || {
        let count = api.items("/v1/exchanges").await.len();
        if count >= 4 { Ok(()) } else { Err(count) }
    })
    .await;
    let mut readable = Vec::new();
    let newest = api.items("/v1/revisions").await.len();
    let mut paths: Vec<String> =
        ["document", "issuers", "tenants", "audit", "exchanges", "tokens", "nodes", "revocations"]
            .iter()
            .map(|list| format!("/v1/{list}"))
            .collect();
    paths.extend([
        list.to_owned(),
        format!("{list}/fresh"),
        "/metrics".to_owned(),
        "/readyz".to_owned(),
    ]);
    for number in 1..=newest {
        paths.push(format!("/v1/revisions/{number}"));
        paths.push(format!("/v1/revisions/{number}/diff?to=1"));
    }
    for path in paths {
        readable.push((path.clone(), api.get(&path).send().await.is(200).body.to_vec()));
    }
    readable.extend(
        answers.into_iter().map(|text| ("an answer to a change".to_owned(), text.into_bytes())),
    );
    node.stop().await;
    readable.push(("the log".to_owned(), node.log().into_bytes()));
    for (path, bytes) in files(&node.data()) {
        if path.file_name().is_some_and(|name| name != "admin.token") {
            readable.push((path.display().to_string(), bytes));
        }
    }
    for (place, bytes) in &readable {
        for (what, secret) in &secrets {
            assert!(!holds(bytes, secret), "{what} is in {place}");
        }
    }
    // The search finds what is there.
    assert!(readable.iter().any(|(place, bytes)| place == "the log" && holds(bytes, "acme-mobile")));
    assert!(
        readable
            .iter()
            .any(|(place, bytes)| place.ends_with("tollgate.db") && holds(bytes, "tg1."))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_secret_works_and_survives_the_change_of_its_master_key() {
    let (keys, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    let (old, new) = (master_key(keys.path(), "old"), master_key(keys.path(), "new"));
    let setup = with_keys(Setup::named("alone", &["gateway", "admin"]), &[&old]);
    let mut node = start(setup, &document::standard(upstream.address)).await;
    let secret = canary("sealed");
    let idp = with_secret(json!({ "value": secret }));
    node.api.create("/v1/issuers/acme-idp", &idp).send().await.is(201);
    let key = Key::hs256(secret.as_bytes());
    let status = async |node: &Member| {
        node.get("/v1/contacts").bearer(&key.signs(&claims())).send().await.status
    };
    assert_eq!(status(&node).await, 200);
    let sealed = async |node: &Member| {
        let (idp, _) = node.api.read("/v1/issuers/acme-idp").await;
        idp["secret"]["sealed"].as_str().unwrap().to_owned()
    };
    let under_old = sealed(&node).await;

    // Without the key that sealed it, the node can't take the document, and says which key it wants.
    restart(&mut node, &[&new]).await;
    node.status.get("/readyz").send().await.is(503);
    let wanted = under_old.split('.').nth(1).unwrap();
    assert!(node.log().contains(wanted), "which key is missing");

    restart(&mut node, &[&new, &old]).await;
    node.is_ready().await;
    assert_eq!(status(&node).await, 200);
    assert_eq!(sealed(&node).await, under_old, "nothing is sealed again by itself");
    let rekey = rekey(&node).await;
    assert!(rekey.0 && rekey.1.starts_with("1 "), "{rekey:?}");
    let under_new = sealed(&node).await;
    assert_ne!(under_new, under_old);
    assert_eq!(status(&node).await, 200);
    let (ended, again) = self::rekey(&node).await;
    assert!(ended && again.contains("already"), "{again}");
    assert_eq!(sealed(&node).await, under_new);

    restart(&mut node, &[&new]).await;
    node.is_ready().await;
    assert_eq!(status(&node).await, 200);
    let entry = &node.api.audit().await[0];
    assert_eq!(
        (&entry["action"], &entry["refused"]),
        (&json!("secrets.rekey"), &Value::Null),
        "{entry}"
    );
}

async fn restart(node: &mut Member, keys: &[&Path]) {
    node.stop().await;
    node.change(|setup| with_keys(setup, keys));
    node.start_again();
    node.answers().await;
}

/// Runs `tollgate rekey`. Whether it succeeded, and what it printed.
async fn rekey(node: &Member) -> (bool, String) {
    let mut command = tollgate();
    command
        .args(["rekey", "--admin-url", node.api.url(), "--token-file"])
        .arg(node.data().join("admin.token"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), printed.into_owned())
}
