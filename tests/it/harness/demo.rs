//! `tollgate demo`: everything in one process, with the CRM.

use super::call::{Answer, Call, Client};
use super::eventually;
use super::ports::{free, local};
use super::process::{Process, tollgate};
use http::Method;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A demo that runs.
pub(crate) struct Demo {
    pub(crate) gateway: Client,
    pub(crate) admin: Client,
    pub(crate) crm: Client,
    pub(crate) environment: HashMap<String, String>,
    pub(crate) first_port: u16,
    settings: Vec<(String, String)>,
    process: Process,
    folder: TempDir,
}

impl Demo {
    /// Starts it on free ports and an empty folder, and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with these settings in its environment.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self::start_in(tempfile::tempdir().unwrap(), settings.iter().map(owned).collect()).await
    }

    /// Ends it, as operators do, and starts it on other ports and the same folder.
    pub(crate) async fn start_again_elsewhere(&mut self) {
        self.process.terminate();
        eventually("the demo has ended", async || {
            if self.process.ended().is_some() { Ok(()) } else { Err("it runs") }
        })
        .await;
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        *self = Self::start_in(folder, std::mem::take(&mut self.settings)).await;
    }

    async fn start_in(folder: TempDir, settings: Vec<(String, String)>) -> Self {
        let first_port = free(5);
        let data = folder.path().join("demo");
        let mut command = tollgate();
        command.arg("demo").arg("--data").arg(&data).args(["--port-base", &first_port.to_string()]);
        command.current_dir(folder.path());
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(command, &folder.path().join("log"));
        let admin = Client::to(local(first_port + 1));
        eventually("the demo is ready", async || {
            if let Some(ended) = process.ended() {
                panic!("the demo ended before it was ready: {ended}");
            }
            match admin.get("/readyz").try_send().await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let environment =
            read_environment(&std::fs::read_to_string(data.join("demo.env")).unwrap());
        let client = |name: &str| Client::to_url(&environment[name]);
        Self {
            gateway: client("GATEWAY_URL"),
            admin: client("ADMIN_URL"),
            crm: client("CRM_URL"),
            environment,
            first_port,
            settings,
            process,
            folder,
        }
    }

    /// A value of `demo.env`.
    pub(crate) fn value(&self, name: &str) -> &str {
        &self.environment[name]
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.gateway.get(path)
    }

    /// A POST of a contact by acme.
    pub(crate) fn creates(&self, idempotency_key: &str, contact: &Value) -> Call {
        self.gateway
            .post("/v1/contacts")
            .key(self.value("ACME_KEY"))
            .idempotency_key(idempotency_key)
            .json(contact)
    }

    /// A call of admin with its token.
    pub(crate) fn administers(&self, method: Method, path: &str) -> Call {
        self.admin.call(method, path).bearer(self.value("ADMIN_TOKEN"))
    }

    /// What reached the CRM, newest first.
    pub(crate) async fn arrivals(&self) -> Vec<Value> {
        let answer = self.crm.get("/api/arrivals?limit=1000").send().await;
        answer.is(200).json()["items"].as_array().unwrap().clone()
    }

    /// The document in force, and its tag.
    pub(crate) async fn document(&self) -> (Value, String) {
        let answer = self.administers(Method::GET, "/v1/document").send().await;
        (answer.is(200).json(), answer.header("etag").to_owned())
    }

    /// Replaces the document of this tag.
    pub(crate) async fn put(&self, document: &Value, tag: &str) -> Answer {
        self.administers(Method::PUT, "/v1/document")
            .header("if-match", tag)
            .json(document)
            .send()
            .await
    }

    /// The folder that it was started in; its data folder is `demo` in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("demo")
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Shell assignments: `export NAME=value`, quoted or not.
fn read_environment(text: &str) -> HashMap<String, String> {
    let assignments =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        let (name, value) = line.trim_start_matches("export ").split_once('=').unwrap();
        (name.to_owned(), value.trim_matches(['\'', '"']).to_owned())
    };
    assignments.map(read).collect()
}
