//! A deployment that sends webhooks: an admin, any number of dispatchers, and the sink that they send to.

use super::call::Client;
use super::cluster::{Cluster, Setup};
use super::events::Producer;
use super::sink::{SECRET, SECRET_NAME, Sink};
use serde_json::{Value, json};

/// A name for the process that has the admin API.
pub(crate) const OPS: &str = "ops";

/// Processes on one database, and a sink.
pub(crate) struct Sending {
    pub(crate) cluster: Cluster,
    pub(crate) sink: Sink,
}

impl Sending {
    /// One process with the admin API, and a dispatcher of each of these names, on a database.
    pub(crate) async fn start(
        database: &str,
        dispatchers: &[&str],
        document: impl FnOnce(&Sink) -> Value,
    ) -> Self {
        let mut names: Vec<(&str, &[&str])> = vec![(OPS, &["admin"])];
        names.extend(dispatchers.iter().map(|name| (*name, ["dispatcher"].as_slice())));
        Self::of(database, &names, document).await
    }

    /// One process that is both, on SQLite.
    pub(crate) async fn alone(database: &str, document: impl FnOnce(&Sink) -> Value) -> Self {
        Self::of(database, &[(OPS, &["admin", "dispatcher"])], document).await
    }

    async fn of(
        database: &str,
        names: &[(&str, &[&str])],
        document: impl FnOnce(&Sink) -> Value,
    ) -> Self {
        let sink = Sink::start().await;
        let cluster = Cluster::start_with(database, names, &document(&sink), sends).await;
        Self { cluster, sink }
    }

    /// Sends events to this process: by its admin API where it has one, else by its dispatcher's door.
    pub(crate) fn producer(&self, name: &str) -> Producer {
        let to = match name {
            OPS => Client::to_url(self.cluster.api().url()),
            _ => self.cluster.member(name).dispatcher.clone(),
        };
        Producer { to, token: self.cluster.token.clone() }
    }
}

/// A process that may send to the sink, which is on this machine.
pub(crate) fn sends(setup: Setup) -> Setup {
    setup
        .with("webhooks", json!({ "allow_private": ["127.0.0.0/8"] }))
        .environment(SECRET_NAME, SECRET)
}
