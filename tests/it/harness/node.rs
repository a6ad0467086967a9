//! `tollgate serve` with a document of the test's own and an upstream of the test's own.

use super::call::{Answer, Call, Client};
use super::document::ACME;
use super::metrics::Metrics;
use super::pack::Made;
use super::ports::{free, local};
use super::process::{Process, tollgate};
use super::{eventually, hoped};
use http::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A node in the making.
pub(crate) struct Setup {
    folder: TempDir,
    environment: Vec<(String, String)>,
    first_port: u16,
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) gateway: SocketAddr,
    pub(crate) admin: Client,
    pub(crate) status: Client,
    client: Client,
    // Before the folder that its log is in.
    process: Process,
    setup: Setup,
}

impl Setup {
    /// A node with this document.
    pub(crate) fn of(document: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = Self { folder, environment: Vec::new(), first_port: free(3) };
        std::fs::create_dir_all(setup.data().join("packs")).unwrap();
        replace(&setup.document(), document.to_string().as_bytes());
        setup
    }

    /// With this pack file, as version 1.0.0.
    pub(crate) fn pack(self, name: &str, file: &[u8]) -> Self {
        replace(&self.pack_file(name), file);
        self
    }

    /// Lays the pack file of this version.
    pub(crate) fn lay(&self, name: &str, version: &str, file: &[u8]) {
        replace(&self.data().join("packs").join(format!("{name}-{version}.tgpack")), file);
    }

    /// With every pack of the demo, and the one that misbehaves.
    pub(crate) fn packs(self) -> Self {
        let setup = demo::PACKS
            .iter()
            .fold(self, |setup, pack| setup.pack(pack.name, &Made::of(pack).file()));
        let misbehaves = Made::named("misbehave", "1.0.0", demo::MISBEHAVE);
        setup.pack("misbehave", &misbehaves.file())
    }

    /// With this in its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the gateway will listen.
    pub(crate) fn gateway_address(&self) -> SocketAddr {
        local(self.first_port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn document(&self) -> PathBuf {
        self.folder.path().join("document.json")
    }

    fn pack_file(&self, name: &str) -> PathBuf {
        self.data().join("packs").join(format!("{name}-1.0.0.tgpack"))
    }

    fn start_process(&self) -> Process {
        let port = |offset| local(self.first_port + offset);
        let settings = json!({
            "roles": ["gateway", "admin"],
            "listen": { "gateway": port(0), "admin": port(1), "status": port(2) },
            "data": self.data(),
            "document": { "file": self.document() },
        });
        let config = self.folder.path().join("tollgate.yaml");
        // JSON is YAML.
        std::fs::write(&config, settings.to_string()).unwrap();
        let mut command = tollgate();
        command.args(["serve", "--config"]).arg(&config).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::start(command, &self.folder.path().join("log"))
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(self) -> Node {
        let mut node = self.start_unready();
        node.is_ready().await;
        node
    }

    /// Starts it, and does not wait.
    pub(crate) fn start_unready(self) -> Node {
        let process = self.start_process();
        let gateway = local(self.first_port);
        Node {
            gateway,
            client: Client::to(gateway),
            admin: Client::to(local(self.first_port + 1)),
            status: Client::to(local(self.first_port + 2)),
            process,
            setup: self,
        }
    }
}

impl Node {
    /// A node with this document that is ready.
    pub(crate) async fn start(document: &Value) -> Self {
        Setup::of(document).start().await
    }

    /// Waits until it is ready.
    pub(crate) async fn is_ready(&mut self) {
        let process = &mut self.process;
        let status = &self.status;
        eventually("ready", async || {
            if let Some(ended) = process.ended() {
                panic!("it ended before it was ready: {ended}");
            }
            match status.get("/readyz").try_send().await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        self.client.call(method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.client.get(path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.client.post(path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.client.put(path)
    }

    /// A POST of acme under an idempotency key.
    pub(crate) fn keyed(&self, key: &str) -> Call {
        self.post("/v1/contacts").key(ACME).idempotency_key(key)
    }

    /// A client with connections of its own.
    pub(crate) fn new_client(&self) -> Client {
        Client::to(self.gateway)
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = self.status.get("/metrics").send().await;
        Metrics::parse(std::str::from_utf8(&answer.is(200).body).unwrap())
    }

    /// The number of the revision in force.
    pub(crate) async fn revision(&self) -> u64 {
        self.metrics().await.revision("active")
    }

    /// Waits until so many exchanges have ended, over all; fails where there are more.
    pub(crate) async fn has_reported(&self, count: u64) -> Metrics {
        eventually("every exchange is reported once", async || {
            let metrics = self.metrics().await;
            assert!(
                metrics.requests() <= count,
                "{} exchanges instead of {count}",
                metrics.requests()
            );
            hoped(metrics.requests(), &count).map(|()| metrics)
        })
        .await
    }

    /// Replaces the file of the document.
    pub(crate) fn write(&self, document: &Value) {
        replace(&self.setup.document(), document.to_string().as_bytes());
    }

    /// Replaces the file of the document by a text.
    pub(crate) fn write_text(&self, text: &str) {
        replace(&self.setup.document(), text.as_bytes());
    }

    /// Replaces the file of the document, and waits until it is in force. Returns its number.
    pub(crate) async fn publish(&self, document: &Value) -> u64 {
        let before = self.revision().await;
        self.write(document);
        self.is_beyond(before).await
    }

    /// Replaces the file of a pack, and waits until it is in force.
    pub(crate) async fn publish_pack(&self, name: &str, file: &[u8]) -> u64 {
        let before = self.revision().await;
        replace(&self.setup.pack_file(name), file);
        self.is_beyond(before).await
    }

    /// Replaces the file of a pack, and does not wait.
    pub(crate) fn lay_pack(&self, name: &str, bytes: &[u8]) {
        replace(&self.setup.pack_file(name), bytes);
    }

    async fn is_beyond(&self, before: u64) -> u64 {
        eventually("a new revision is in force", async || {
            let metrics = self.metrics().await;
            let (active, rejected) = (metrics.revision("active"), metrics.revision("rejected"));
            if active > before { Ok(active) } else { Err((active, rejected)) }
        })
        .await
    }

    /// The limits of a caller, as `/.tollgate/usage` tells them.
    pub(crate) async fn usage(&self, key: &str) -> Value {
        let answer = self.get("/.tollgate/usage").key(key).send().await;
        answer.is(200).json()["limits"].clone()
    }

    /// Waits until a caller's limit is used so far. Outcomes are settled after their answers.
    pub(crate) async fn has_used(&self, key: &str, limit: &str, used: u64) {
        eventually(&format!("{used} of {limit} used"), async || {
            let limits = self.usage(key).await;
            let found =
                limits.as_array().unwrap().iter().find(|entry| entry["id"] == limit).unwrap();
            hoped(found["used"].as_u64().unwrap(), &used)
        })
        .await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data and ports.
    pub(crate) async fn start_again(&mut self) {
        self.process = self.setup.start_process();
        self.is_ready().await;
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until its log has a line with all of these.
    pub(crate) async fn has_logged(&self, parts: &[&str]) {
        eventually(&format!("a line of the log with {parts:?}"), async || {
            let log = self.log();
            let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err("none") }
        })
        .await;
    }

    /// Another route of the node still answers: nobody else was harmed.
    pub(crate) async fn still_serves(&self) -> Answer {
        let answer = self.get("/.tollgate/versions").send().await;
        answer.is(200).clone()
    }

    /// What the first start wrote for operators.
    pub(crate) fn admin_token(&self) -> String {
        let text = std::fs::read_to_string(self.setup.data().join("admin.token")).unwrap();
        text.trim().to_owned()
    }
}

/// Replaces a file whole, as editors and deployment tools do.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}
