//! The webhook sidecar: every event arrives, or is known not to have.
//!
//! Events are a log in the store, deliveries are rows in it. A dispatcher is a set of tasks that meet in these rows, as any
//! number of dispatchers do: [`fan_out`] makes deliveries of events, [`claim`] holds what is due and sends it, [`settle`]
//! writes what became of it, [`presence`] shows that it lives and gives back what the silent held, [`sweep`] finds what
//! hints missed, [`health`] keeps how endpoints stand. Invariant: what is in memory alone is a hint, a limit or a copy.

mod authorization;
mod bookmark;
mod claim;
mod client;
mod compile;
mod deliver;
mod fan_out;
mod guard;
mod health;
mod http;
mod inbound;
mod lanes;
mod metrics;
mod outbox;
mod poll;
mod presence;
mod replay;
mod secret;
mod settle;
mod stall;
mod sweep;
mod tasks;
#[cfg(test)]
mod tests;
mod time;

use client::Client;
use compile::{Book, Books};
use fan_out::Behind;
use ingest::Ingest;
use ipnet::IpNet;
use lanes::Lanes;
use metrics::Metrics;
use model::Clock;
use model::id::NodeName;
use model::port::StoreError;
use model::revision::Revisions;
use presence::Presence;
use secret::Secrets;
use settle::Settler;
use stall::Stall;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use tasks::Tasks;
use time::StoreTime;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// How long what is left may take to be settled after the attempts have ended.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// What a dispatcher runs on.
pub struct Settings {
    /// Where everything is.
    pub store: Store,
    /// Whoever holds the document.
    pub revisions: Arc<dyn Revisions>,
    /// What opens sealed secrets.
    pub keys: MasterKeys,
    /// The time.
    pub clock: Clock,
    /// This process.
    pub node: NodeName,
    /// The door for events, which admin shares.
    pub ingest: Ingest,
    /// Private addresses that may be connected to all the same.
    pub allow_private: Vec<IpNet>,
    /// What receivers are told: `Tollgate/VERSION`.
    pub version: &'static str,
}

/// Why a dispatcher does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to send with.
    #[error("nothing can be sent: {0}")]
    Client(String),
    /// A metric can't be made.
    #[error("its metrics can't be made: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A dispatcher of this process.
pub struct Dispatcher {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) node: NodeName,
    /// Who holds what this process holds: its name, and that of this start, so that a process that comes back does not keep
    /// alive what its predecessor held.
    pub(crate) holder: String,
    pub(crate) revisions: Arc<dyn Revisions>,
    pub(crate) ingest: Ingest,
    pub(crate) client: Arc<Client>,
    pub(crate) secrets: Secrets,
    time: StoreTime,
    books: Books,
    lanes: Arc<Lanes>,
    settler: Settler,
    presence: Presence,
    metrics: Metrics,
    behind: Behind,
    tasks: Tasks,
    stall: Stall,
    /// Something may be due that no hint told of.
    sweep: Notify,
    /// Until when attempts may end, once it stops.
    stop: watch::Sender<Option<Instant>>,
    ended: watch::Sender<bool>,
    is_away: AtomicBool,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet: see [`run`](Self::run).
    pub fn new(settings: Settings) -> Result<Arc<Self>, StartError> {
        let Settings { store, revisions, keys, clock, node, ingest, allow_private, version } =
            settings;
        let client = Client::new(allow_private, clock.clone(), version);
        let client = Arc::new(client.map_err(|error| StartError::Client(error.to_string()))?);
        let secrets = Secrets::new(keys);
        let time = StoreTime::new(clock.clone());
        let lanes = Lanes::new(time.micros());
        Ok(Arc::new(Self {
            holder: format!("{node}/{}", Uuid::now_v7()),
            books: Books::new(revisions.clone(), store.clone(), client.clone(), secrets.clone()),
            settler: Settler::new(),
            presence: Presence::default(),
            metrics: Metrics::new()?,
            behind: Behind::default(),
            tasks: Tasks::default(),
            stall: Stall::default(),
            sweep: Notify::new(),
            stop: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            is_away: AtomicBool::new(false),
            store,
            clock,
            node,
            revisions,
            ingest,
            client,
            secrets,
            time,
            lanes,
        }))
    }

    /// Who holds what this process holds: unique of this start.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// What its port answers: where events come in.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        http::router(self)
    }

    /// Works until it is [closed](Self::close). What is in hand then may end first.
    pub async fn run(self: Arc<Self>) {
        if !self.settler.starts() {
            return tracing::error!("this dispatcher runs already");
        }
        let mut settling = JoinSet::new();
        settling.spawn(tasks::keep(self.clone(), "settle", settle::run));
        let mut beside = JoinSet::new();
        beside.spawn(tasks::keep(self.clone(), "presence", presence::run));
        beside.spawn(tasks::keep(self.clone(), "compile", compile::run));
        beside.spawn(tasks::keep(self.clone(), "fan_out", fan_out::run));
        beside.spawn(tasks::keep(self.clone(), "sweep", sweep::run));
        beside.spawn(tasks::keep(self.clone(), "health", health::run));
        beside.spawn(tasks::keep(self.clone(), "outbox", outbox::run));
        beside.spawn(tasks::keep(self.clone(), "poll", poll::run));
        beside.spawn(tasks::keep(self.clone(), "metrics", metrics::run));
        beside.spawn(tasks::keep(self.clone(), "replay", replay::run));
        tasks::keep(self.clone(), "claim", claim::run).await;
        self.settler.finish();
        if tokio::time::timeout(SETTLE_PATIENCE, settling.join_next()).await.is_err() {
            tracing::warn!("not all attempts were settled: others take them for lost");
        }
        health::keep(&self).await;
        beside.shutdown().await;
        // What was read is read on elsewhere at once; else when the holds are over.
        let leave = tokio::time::timeout(SETTLE_PATIENCE, self.store.leave(&self.holder));
        if !matches!(leave.await, Ok(Ok(()))) {
            tracing::debug!("others wait until what this dispatcher read is not held any more");
        }
        self.ended.send_replace(true);
    }

    /// Claims nothing more, lets attempts end within this time, and settles them. Those that have not ended count as lost.
    pub async fn close(&self, within: Duration) {
        let attempts = Instant::now() + within.saturating_sub(SETTLE_PATIENCE);
        self.stop.send_replace(Some(attempts));
        let mut ended = self.ended.subscribe();
        if tokio::time::timeout(within, ended.wait_for(|ended| *ended)).await.is_err() {
            tracing::warn!("the dispatcher did not end in time");
        }
    }

    /// Whether events are delivered, or why not.
    pub fn is_ready(&self) -> Result<(), String> {
        let Some(book) = self.books.current() else {
            return Err("no document is in force, so that nobody knows where events go".to_owned());
        };
        if let Some(revision) = self.behind.lasts(book.revision, Instant::now()) {
            return Err(format!(
                "revision {revision} is still in force here, though a newer one is everybody's: no event is fanned out from here"
            ));
        }
        let failing = self.tasks.failing();
        if !failing.is_empty() {
            return Err(format!(
                "tasks of webhooks failed, the log says why: {}",
                failing.join(", ")
            ));
        }
        if let Some(lasts) = self.stall.lasts(Instant::now()) {
            return Err(format!("fan-out stands still, for {} s now", lasts.as_secs()));
        }
        match self.presence.is_heard() {
            true => Ok(()),
            false => {
                Err("the store does not hear this dispatcher: nothing is delivered".to_owned())
            }
        }
    }

    /// Every metric of webhooks, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.metrics.text(self.lanes.counts())
    }

    /// The book in force.
    pub(crate) fn book(&self) -> Option<Arc<Book>> {
        self.books.current()
    }

    /// The book of the revision that is in force now.
    pub(crate) async fn fresh_book(&self) -> Option<Arc<Book>> {
        self.books.fresh().await
    }

    /// Says where an event goes, by the document in force; none where there is no document. With the revision that it is of,
    /// where documents are kept in the store.
    pub(crate) fn plan(&self) -> Option<(store::webhooks::Plan, Option<u64>)> {
        let book = self.book()?;
        let revision = (!self.revisions.is_read_only()).then_some(book.revision);
        Some((Arc::new(move |event| book.plan(event)), revision))
    }

    /// The number of the newest revision that is everybody's, wherever it is in force.
    pub(crate) async fn newest(&self) -> Result<Option<u64>, StoreError> {
        match self.revisions.newest().await? {
            Some(newest) if newest.nodes.is_some() => self.store.everybodys().await,
            newest => Ok(newest.map(|newest| newest.number)),
        }
    }

    /// Waits until it is to stop.
    pub(crate) async fn stopped(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        // Whoever asks has what could end the channel.
        let told = stop.wait_for(Option::is_some).await;
        told.ok().and_then(|deadline| *deadline).unwrap_or_else(Instant::now)
    }

    /// Waits for so long, at most until it is to stop.
    pub(crate) async fn pause(&self, pause: Duration) {
        tokio::time::timeout(pause, self.stopped()).await.ok();
    }

    /// Whether it is to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// The store could not be asked. Told once.
    fn away(&self, error: &StoreError) {
        self.metrics.store_degraded.set(1);
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the store can't answer: webhooks wait");
        }
    }

    /// The store answers.
    fn back(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the store answers again: webhooks go on");
            self.sweep.notify_one();
        }
        self.metrics.store_degraded.set(0);
    }
}
