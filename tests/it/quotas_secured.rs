//! Redis under TLS with a user of its own: what the documentation says it needs is enough, and no password is told.

use crate::harness::cluster::{Member, Setup};
use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::ports::{free, local};
use crate::harness::redis::{Redis, Watched};
use crate::harness::{Upstream, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PATH: &str = "/v1/contacts";
const PASSWORD: &str = "a-p4ssword@of:ours/";
const IN_URL: &str = "a-p4ssword%40of%3Aours%2F";
const GUIDE: &str = include_str!("../../docs/redis.md");

/// A certificate that vouches for itself, and its key: `tls.crt` and `tls.key` in a folder.
fn certificate() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=redis.example"]);
    openssl.args([
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=CA:FALSE",
    ]);
    openssl.args(["-keyout", "tls.key", "-out", "tls.crt"]).current_dir(folder.path());
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// A server that listens under TLS at this port, too.
fn secured(folder: &Path, port: u16) -> Redis {
    let file = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let port = port.to_string();
    let arguments = ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    Redis::with(&[&arguments[..], &["--tls-auth-clients", "no", "--save", ""]].concat())
}

/// The command that makes the user which the documentation shows.
fn documented_user() -> String {
    let line = GUIDE.lines().find(|line| line.starts_with("ACL SETUSER tollgate"));
    line.expect("docs/redis.md shows a user").replace("PASSWORD", PASSWORD)
}

fn document(upstream: &Upstream) -> Value {
    let limit = |id: &str, what: &str, much: Value| json!({ "id": id, what: much, "per": "tenant", "on_store_error": "closed" });
    let limits = json!([
        limit("rate", "rate", json!("100/s")),
        limit("daily", "quota", json!("1000/day")),
        limit("open", "concurrency", json!(5)),
    ]);
    let batches = json!([limit("rate", "rate", json!("1000/s"))]);
    document::standard(upstream.address).with_tenant("all", limits).with_tenant("batches", batches)
}

async fn started(url: &str, folder: &Path, document: &Value) -> Member {
    let mut node = Setup::named("alone", &["gateway", "admin"])
        .with("redis", json!({ "quota": url, "deadline": "1s" }))
        .environment("SSL_CERT_FILE", folder.join("tls.crt").to_str().unwrap())
        .start();
    node.answers().await;
    node.api.publish_first(document).await;
    node.is_ready().await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_tls_the_documented_user_may_do_what_is_needed() {
    let (folder, port, upstream) = (certificate(), free(1), Upstream::start().await);
    let redis = secured(folder.path(), port);
    redis.ask(&documented_user().split(' ').collect::<Vec<_>>());
    redis.ask(&["ACL", "LOG", "RESET"]);
    let url = format!("rediss://tollgate:{IN_URL}@{}", local(port));
    let node = started(&url, folder.path(), &document(&upstream)).await;
    for tenant in ["all", "batches"] {
        eventually("Redis decides", async || {
            let answer = node.get(PATH).key(&key_of(tenant)).send().await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await;
        // Without its script it sends it again.
        redis.ask(&["SCRIPT", "FLUSH"]);
        node.get(PATH).key(&key_of(tenant)).send().await.is(200);
    }
    assert!(node.used(&key_of("all"), "daily").await >= 2);
    let reset = node.api.post("/v1/usage/all:reset").json(&json!({})).send().await;
    reset.is(200);
    assert_eq!(node.used(&key_of("all"), "daily").await, 0);
    let clients = redis.ask(&["CLIENT", "LIST"]);
    assert!(clients.lines().any(|client| client.contains("user=tollgate")), "{clients}");
    // What was denied would be here.
    assert_eq!(redis.ask(&["ACL", "LOG"]), "");
    assert!(!node.log().contains("p4ssword"), "the password is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_says_so_without_its_password() {
    let (folder, port, upstream) = (certificate(), free(1), Upstream::start().await);
    let redis = secured(folder.path(), port);
    let wrong_user = format!("rediss://tollgate:{IN_URL}@{}", local(port));
    // The authority of this folder does not vouch for the server.
    let (other, trusted) = (certificate(), folder.path());
    for (what, url, trusted) in [
        ("a user that is not there", &*wrong_user, trusted),
        ("an authority that is not trusted", &*wrong_user, other.path()),
        ("a server without TLS", &format!("rediss://x:{IN_URL}@{}", redis.address()), trusted),
    ] {
        let node = started(url, trusted, &document(&upstream)).await;
        let refused = node.get(PATH).key(&key_of("all")).send().await;
        refused.refuses(503, "DEPENDENCY_UNAVAILABLE");
        eventually(&format!("{what} is told of"), async || {
            let log = node.log();
            if log.contains("Redis can't be reached") { Ok(()) } else { Err(log) }
        })
        .await;
        println!("{what}:\n{}", node.log());
        assert!(!node.log().contains("p4ssword"), "the password is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_finds_its_master_by_sentinels_that_let_nobody_else_ask() {
    let (watched, upstream) = (Watched::start(), Upstream::start().await);
    let user = documented_user();
    for server in watched.servers() {
        server.ask(&user.split(' ').collect::<Vec<_>>());
    }
    let (_, rest) =
        GUIDE.split_once("`+sentinel").expect("docs/redis.md says what sentinels allow");
    let rights = format!("+sentinel{}", rest.split('`').next().unwrap());
    let password = format!(">{PASSWORD}");
    for sentinel in watched.sentinels() {
        let user = ["ACL", "SETUSER", "tollgate", "on", &password, "-@all", "+@connection"];
        sentinel.ask(&[&user[..], &rights.split(' ').collect::<Vec<_>>()].concat());
        // They speak to each other as they did.
        let names = ["masters", "master", "get-master-addr-by-name"];
        let denied = names.map(|name| format!("-sentinel|{name}"));
        let nobody = ["ACL", "SETUSER", "default", "-role"].into_iter();
        sentinel.ask(&nobody.chain(denied.iter().map(String::as_str)).collect::<Vec<_>>());
    }
    let url = watched.url().replace("://", &format!("://tollgate:{IN_URL}@"));
    let folder = tempfile::tempdir().unwrap();
    let node = started(&url, folder.path(), &document(&upstream)).await;
    eventually("Redis decides", async || {
        let answer = node.get(PATH).key(&key_of("all")).send().await;
        if answer.status == 200 { Ok(()) } else { Err((answer, node.log())) }
    })
    .await;
    let clients = watched.servers()[0].ask(&["CLIENT", "LIST"]);
    assert!(clients.lines().any(|client| client.contains("user=tollgate")), "{clients}");
    assert!(!node.log().contains("p4ssword"), "the password is in the log");
}
