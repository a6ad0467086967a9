//! Secrets are shown once, by the answer that makes them, and are nowhere else: marked ones are looked for everywhere.

use crate::harness::cluster::{Member, Setup};
use crate::harness::document::{self, Edit as _};
use crate::harness::process::tollgate;
use crate::harness::token::{Key, claims, issuer, unique};
use crate::harness::{Upstream, eventually, hoped, sha256};
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

const CREDENTIALS: &str = "/v1/consumers/acme-mobile/credentials";

/// A node, the secrets that were told to it or by it, and what anybody can read of it.
struct Hunt {
    node: Member,
    secrets: Vec<(&'static str, String)>,
    readable: Vec<(String, Vec<u8>)>,
}

impl Hunt {
    fn marks(&mut self, what: &'static str, secret: &str) {
        self.secrets.push((what, secret.to_owned()));
    }

    /// A secret that is sealed, and one that takes its place.
    async fn seals(&mut self) -> (Key, Key) {
        let (sealed, changed) = (canary("sealed"), canary("changed"));
        let issuer = with_secret(json!({ "value": sealed }));
        let made = self.node.api.create("/v1/issuers/acme-idp", &issuer).send().await;
        let at_rest = made.is(201).json()["resource"]["secret"]["sealed"].clone();
        assert!(at_rest.as_str().unwrap().starts_with("tg1."), "{at_rest}");
        let patch = json!({ "secret": { "value": changed } });
        let merged = self.node.api.merge("/v1/issuers/acme-idp", &patch).await;
        assert_ne!(merged.is(200).json()["resource"]["secret"]["sealed"], at_rest);
        self.marks("a sealed secret", &sealed);
        self.marks("a changed one", &changed);
        for answer in [made, merged] {
            self.readable.push((answer.what.clone(), answer.body.to_vec()));
        }
        (Key::hs256(sealed.as_bytes()), Key::hs256(changed.as_bytes()))
    }

    /// Keys and tokens that are made, used and refused, with what they are sent beside.
    async fn makes_and_uses(&mut self, forger: &Key, signer: &Key) {
        let (api, node) = (self.node.api.clone(), &self.node);
        let made = api.post(CREDENTIALS).idempotency_key("first").json(&json!({ "id": "fresh" }));
        let made = made.send().await.is(201).json()["key"].as_str().unwrap().to_owned();
        let rotated =
            api.post(&format!("{CREDENTIALS}/fresh:rotate")).json(&json!({})).send().await;
        let rotated = rotated.is(201).json()["key"].as_str().unwrap().to_owned();
        for key in [&made, &rotated] {
            let call = node.post("/v1/contacts").key(key).idempotency_key(&unique());
            call.body("canary-in-a-body").send().await.is(201);
        }
        let (token, _) = api.new_token(&json!({ "name": "viewer", "role": "viewer" })).await;
        api.with(&token).get("/v1/plans").send().await.is(200);
        let more = json!({ "name": "more", "role": "admin" });
        api.with(&token).post("/v1/tokens").json(&more).send().await.is(403);
        let (jwt, forged) = (signer.signs(&claims()), forger.signs(&claims()));
        let call = node.get("/v1/contacts?access_token=canary-in-a-query").bearer(&jwt);
        call.send().await.is(200);
        node.get("/v1/contacts").bearer(&forged).send().await.refuses(401, "CREDENTIAL_INVALID");
        self.marks("a key", &made);
        self.marks("a rotated key", &rotated);
        self.marks("a token", &token);
        self.marks("a signature", jwt.rsplit('.').next().unwrap());
        self.marks("a forged signature", forged.rsplit('.').next().unwrap());
        self.marks("a query", "canary-in-a-query");
        self.marks("a body", "canary-in-a-body");
    }

    /// Secrets where none belongs: every refusal tells the place and never the value.
    async fn misplaces(&mut self) {
        let (api, misplaced) = (self.node.api.clone(), canary("misplaced"));
        let (document, tag) = api.read("/v1/document").await;
        let in_document = |secret: Value| {
            let changed =
                document.clone().changed(|document| document["issuers"][0]["secret"] = secret);
            api.put("/v1/document", &changed, &tag)
        };
        let issuer = |secret| api.create("/v1/issuers/other", &with_secret(secret));
        let tried = with_secret(json!({ "value": [misplaced] }));
        let credential = json!({ "consumers": [{ "id": "acme-mobile",
            "credentials": [{ "id": "k9", "api_key": { "hash": misplaced, "prefix": misplaced } }] }] });
        let no_document = api.call(Method::PUT, "/v1/document").header("if-match", &*tag);
        for call in [
            issuer(json!(misplaced)),
            issuer(json!({ "plain": misplaced })),
            issuer(json!({ "env": misplaced })),
            issuer(json!({ "sealed": misplaced })),
            issuer(json!({ "sealed": format!("tg1.x.{misplaced}") })),
            api.create("/v1/issuers/other?dry_run=true", &tried),
            in_document(json!(misplaced)),
            in_document(json!({ "value": misplaced })),
            in_document(json!({ "env": misplaced })),
            api.patch("/v1/tenants/acme", &credential, "*"),
            no_document.body(format!("secret: [{misplaced}")),
            api.post("/v1/tokens").json(&json!({ "name": "x", "role": misplaced })),
        ] {
            let answer = call.send().await;
            let dry = answer.status == 200 && answer.json()["valid"] == false;
            assert!(dry || (400..500).contains(&answer.status), "{answer:?}");
            self.readable.push((format!("the refusal of {}", answer.what), answer.body.to_vec()));
        }
        self.marks("a misplaced secret", &misplaced);
    }

    /// Everything that anybody can read afterwards: the API, the log, the files.
    async fn reads_everything(&mut self) {
        let api = self.node.api.clone();
        let lists = [
            "document",
            "issuers",
            "tenants",
            "audit",
            "exchanges",
            "tokens",
            "nodes",
            "revocations",
        ];
        let mut paths: Vec<String> = lists.iter().map(|list| format!("/v1/{list}")).collect();
        paths.extend([CREDENTIALS.to_owned(), format!("{CREDENTIALS}/fresh")]);
        paths.extend(["/metrics".to_owned(), "/readyz".to_owned()]);
        for number in 1..=api.items("/v1/revisions").await.len() {
            paths.push(format!("/v1/revisions/{number}"));
            paths.push(format!("/v1/revisions/{number}/diff?to=1"));
        }
        for path in paths {
            let body = api.get(&path).send().await.is(200).body.to_vec();
            self.readable.push((path, body));
        }
        self.node.stop().await;
        self.readable.push(("the log".to_owned(), self.node.log().into_bytes()));
        for (path, bytes) in files(&self.node.data()) {
            // The one file that is there to tell one.
            if path.file_name().is_some_and(|name| name != "admin.token") {
                self.readable.push((path.display().to_string(), bytes));
            }
        }
    }

    fn finds_none(&self) {
        for (place, bytes) in &self.readable {
            for (what, secret) in &self.secrets {
                assert!(!holds(bytes, secret), "{what} is in {place}");
            }
        }
        // It finds what is there.
        for (place, text) in
            [("the log", "acme-mobile"), ("tollgate.db", "tg1."), ("/v1/audit", "127.0.0.1")]
        {
            let found =
                |(other, bytes): &(String, Vec<u8>)| other.ends_with(place) && holds(bytes, text);
            assert!(self.readable.iter().any(found), "{text} is not in {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_the_answer_that_makes_them_and_nowhere_else() {
    let (keys, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    let master = master_key(keys.path(), "master");
    let setup = Setup::named("alone", &["gateway", "admin"]).environment("TOLLGATE_LOG", "trace");
    let node = start(with_keys(setup, &[&master]), &recorded(&upstream)).await;
    let mut hunt = Hunt { node, secrets: Vec::new(), readable: Vec::new() };
    let token = hunt.node.api.token().to_owned();
    hunt.marks("the first token", &token);
    hunt.marks("the master key", &std::fs::read_to_string(&master).unwrap());
    let (forger, signer) = hunt.seals().await;
    hunt.makes_and_uses(&forger, &signer).await;
    hunt.misplaces().await;
    let api = hunt.node.api.clone();
    eventually("everything is recorded", async || {
        hoped(api.items("/v1/exchanges").await.len(), &4)
    })
    .await;
    hunt.reads_everything().await;
    hunt.finds_none();
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
