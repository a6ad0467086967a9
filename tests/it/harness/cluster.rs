//! Several processes of `tollgate serve` on one database, each with a data folder, ports and roles of its own.

use super::api::Api;
use super::call::{Call, Client};
use super::metrics::Metrics;
use super::pack::Made;
use super::ports::{free, local};
use super::process::{Process, tollgate};
use super::token::unique;
use super::{eventually, sha256};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A process in the making.
pub(crate) struct Setup {
    folder: TempDir,
    settings: Value,
    environment: BTreeMap<String, String>,
    first_port: u16,
}

/// A process that runs, or ran.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) gateway: SocketAddr,
    pub(crate) status: Client,
    pub(crate) dispatcher: Client,
    pub(crate) api: Api,
    client: Client,
    // Before the folder that its log is in.
    process: Process,
    setup: Setup,
}

impl Setup {
    /// A process of this name and these roles. Its database is its own, unless [`Setup::on`] says otherwise.
    pub(crate) fn named(name: &str, roles: &[&str]) -> Self {
        let (folder, first_port) = (tempfile::tempdir().unwrap(), free(4));
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("packs")).unwrap();
        let port = |offset| local(first_port + offset);
        let settings = json!({
            "node": name,
            "roles": roles,
            "listen": { "gateway": port(0), "admin": port(1), "status": port(2), "dispatcher": port(3) },
            "data": data,
        });
        Self { folder, settings, environment: BTreeMap::new(), first_port }
    }

    /// With this database.
    pub(crate) fn on(self, database: &str) -> Self {
        self.with("database", json!(database))
    }

    /// With this setting.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.settings[name] = value;
        self
    }

    /// With this in its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With this admin token in its data folder, as an operator lays it there.
    pub(crate) fn token(self, token: &str) -> Self {
        let mut options = std::fs::File::options();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(self.data().join("admin.token")).unwrap();
        writeln!(file, "{token}").unwrap();
        self
    }

    /// With every pack of the demo.
    pub(crate) fn packs(self) -> Self {
        for pack in demo::PACKS {
            let file = pack_file(&self.data(), pack.name, pack.version);
            std::fs::write(file, Made::of(pack).file()).unwrap();
        }
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn name(&self) -> &str {
        self.settings["node"].as_str().unwrap()
    }

    fn start_process(&self) -> Process {
        let config = self.folder.path().join("tollgate.yaml");
        // JSON is YAML.
        std::fs::write(&config, self.settings.to_string()).unwrap();
        let mut command = tollgate();
        command.args(["serve", "--config"]).arg(&config).current_dir(self.folder.path());
        command.envs(&self.environment);
        Process::start(command, &self.folder.path().join("log"))
    }

    /// Starts it, and does not wait.
    pub(crate) fn start(self) -> Member {
        let process = self.start_process();
        let gateway = local(self.first_port);
        let name = self.settings["node"].as_str().unwrap().to_owned();
        let admin = Client::to(local(self.first_port + 1));
        Member {
            api: Api::new(admin, String::new()),
            client: Client::to(gateway),
            status: Client::to(local(self.first_port + 2)),
            dispatcher: Client::to(local(self.first_port + 3)),
            name,
            gateway,
            process,
            setup: self,
        }
    }
}

impl Member {
    /// Waits until it answers at all: admin with its token, the gateway or not.
    pub(crate) async fn answers(&mut self) {
        self.status_is(|status| status == 200 || status == 503, "/healthz").await;
        if let Ok(token) = std::fs::read_to_string(self.setup.data().join("admin.token")) {
            self.api = self.api.with(token.trim());
        }
    }

    /// Waits until it is ready.
    pub(crate) async fn is_ready(&mut self) {
        self.answers().await;
        self.status_is(|status| status == 200, "/readyz").await;
    }

    async fn status_is(&mut self, wanted: impl Fn(u16) -> bool, path: &str) {
        let (process, status, name) = (&mut self.process, &self.status, &self.name);
        eventually(&format!("{path} of {name}"), async || {
            if let Some(ended) = process.ended() {
                panic!("{name} ended: {ended}");
            }
            match status.get(path).try_send().await {
                Ok(answer) if wanted(answer.status) => Ok(()),
                Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// A call of its gateway.
    pub(crate) fn get(&self, path: &str) -> Call {
        self.client.get(path)
    }

    /// A call of its gateway.
    pub(crate) fn post(&self, path: &str) -> Call {
        self.client.post(path)
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = self.status.get("/metrics").send().await;
        Metrics::parse(std::str::from_utf8(&answer.is(200).body).unwrap())
    }

    /// The number of the revision in force; none where it does not answer.
    pub(crate) async fn revision(&self) -> Option<u64> {
        let answer = self.status.get("/metrics").try_send().await.ok()?;
        Some(Metrics::parse(std::str::from_utf8(&answer.body).ok()?).revision("active"))
    }

    /// Waits until this revision is in force.
    pub(crate) async fn follows(&self, revision: u64) {
        eventually(&format!("revision {revision} is in force on {}", self.name), async || {
            super::hoped(self.revision().await, &Some(revision))
        })
        .await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it as operators do, and waits.
    pub(crate) async fn stop(&mut self) {
        self.process.terminate();
        let process = &mut self.process;
        eventually("it ends", async || process.ended().ok_or(())).await;
    }

    /// Starts it again on the same data and ports, and does not wait.
    pub(crate) fn start_again(&mut self) {
        self.process = self.setup.start_process();
    }

    /// The same with these settings and this environment instead.
    pub(crate) fn change(&mut self, change: impl FnOnce(Setup) -> Setup) {
        let empty = Setup::named("moved", &[]);
        self.setup = change(std::mem::replace(&mut self.setup, empty));
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.setup.data()
    }

    /// How much of a caller's limit is used, as `/.tollgate/usage` tells it.
    pub(crate) async fn used(&self, key: &str, limit: &str) -> u64 {
        let answer = self.get("/.tollgate/usage").key(key).send().await;
        let usage = answer.is(200).json();
        let limits = usage["limits"].as_array().unwrap();
        let found = limits.iter().find(|entry| entry["id"] == limit);
        found.unwrap_or_else(|| panic!("{limit} is not in {usage:#}"))["used"].as_u64().unwrap()
    }

    /// What `/v1/nodes` says of a node.
    pub(crate) async fn node(&self, name: &str) -> Value {
        let nodes = self.api.items("/v1/nodes").await;
        let found = nodes.iter().find(|node| node["name"] == name);
        found.cloned().unwrap_or_else(|| panic!("{name} is not in {nodes:#?}"))
    }
}

/// Processes on one database.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) token: String,
}

impl Cluster {
    /// Starts processes of these names and roles on a database, with a token that they share and every pack of the
    /// demo, publishes a document and waits until all are ready.
    pub(crate) async fn start(database: &str, names: &[(&str, &[&str])], document: &Value) -> Self {
        Self::start_with(database, names, document, |setup| setup).await
    }

    /// The same with a change to each.
    pub(crate) async fn start_with(
        database: &str,
        names: &[(&str, &[&str])],
        document: &Value,
        change: impl Fn(Setup) -> Setup,
    ) -> Self {
        let token = fresh_token();
        let start = |(name, roles): &(&str, &[&str])| {
            let setup = Setup::named(name, roles).on(database).packs();
            let setup = if roles.contains(&"admin") { setup.token(&token) } else { setup };
            change(setup).start()
        };
        let mut members: Vec<Member> = names.iter().map(start).collect();
        for member in &mut members {
            member.answers().await;
        }
        let mut cluster = Self { members, token };
        cluster.api().publish_first(document).await;
        for member in &mut cluster.members {
            member.is_ready().await;
        }
        cluster
    }

    /// The API of the first process that has one.
    pub(crate) fn api(&self) -> Api {
        let admin = self.members.iter().find(|member| {
            member.setup.settings["roles"].as_array().unwrap().contains(&json!("admin"))
        });
        admin.unwrap().api.with(&self.token)
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|member| member.name == name).unwrap()
    }

    pub(crate) fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|member| member.name == name).unwrap()
    }
}

/// Where the file of a pack is in a data folder.
pub(crate) fn pack_file(data: &Path, name: &str, version: &str) -> PathBuf {
    data.join("packs").join(format!("{name}-{version}.tgpack"))
}

/// A token as `tollgate` makes them.
pub(crate) fn fresh_token() -> String {
    format!("tga_{}", sha256(unique() + &random()))
}

/// Something that no other run has.
fn random() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{:016x}", RandomState::new().hash_one("random"))
}

/// How soon CONTRACT promises that a change is in force everywhere.
pub(crate) const PROPAGATION: Duration = Duration::from_secs(1);

/// Asks until `seen` says so; fails when whoever asks first later than CONTRACT promises is still told otherwise.
pub(crate) async fn within_a_second(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let began = tokio::time::Instant::now();
    loop {
        // From before it was asked: what was true then counts.
        let asked = began.elapsed();
        if seen().await {
            println!("{what}: seen after {:?}", began.elapsed());
            return;
        }
        assert!(asked < PROPAGATION, "{what}: not after {asked:?}");
        // A pause between two questions, so that asking doesn't starve what is asked.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
