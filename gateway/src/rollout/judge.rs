//! The one task that looks at rollouts and at versions that were stopped, each second, and acts.
//!
//! Invariant: nodes that see the same samples come to the same verdict, and whoever is first makes the revision. A verdict
//! against a version stops it on this node before anything is asked of the store. Nothing is promoted of what one node alone
//! saw while others may have seen more.

use super::data;
use super::switch::StoppedHere;
use super::system::{self, Left, Order, What};
use super::watch::Watch;
use super::window::Window;
use crate::gateway::Gateway;
use jiff::Timestamp;
use model::document::OnPass;
use model::port::StoreError;
use model::revision::Revisions;
use model::rollout::{RolloutState, Samples, Verdict, judge};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::rollouts::{OpenRollout, SampleReport};
use tokio::time::{Instant, MissedTickBehavior};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a revision could not be made: the first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Judges the rollouts of this gateway, takes out of service what was stopped, and keeps up with the data of packs, for as
/// long as the process runs.
pub async fn run(gateway: Arc<Gateway>, revisions: Arc<dyn Revisions>) {
    let judge = async {
        let mut judge = Judge::new(&gateway, &*revisions);
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = gateway.packs.alarm.raised() => {}
            }
            judge.look().await;
        }
    };
    tokio::join!(judge, data::follow(&gateway));
}

/// What the judge remembers from one look to the next.
pub(super) struct Judge<'a> {
    gateway: &'a Gateway,
    revisions: &'a dyn Revisions,
    /// This run of this node: what it saw counts beside what it saw before it was started again.
    process: String,
    /// The revision whose rollouts the store knows.
    synced: Option<u64>,
    /// What was reported last of each rollout's window.
    reported: HashMap<(String, u64), Samples>,
    is_away: bool,
    /// Versions whose revision could not be made, until it can.
    left: HashMap<StoppedHere, Again>,
}

/// When an order is tried again.
struct Again {
    at: Instant,
    pause: Duration,
    /// What was said of it last.
    said: String,
}

/// One window to be judged.
struct Case {
    watch: Arc<Watch>,
    window: Window,
    /// Whether it ended, and all nodes have told of it.
    is_settled: bool,
}

/// Who knows of a revision's rollouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// All nodes do, by the store.
    ToAll,
    /// This node alone.
    Here,
    /// That is not settled: the revision is coming into force, or going.
    NotYet,
}

/// Whose samples a verdict is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Those of all nodes.
    ByAll,
    /// This node's own.
    Here,
}

impl<'a> Judge<'a> {
    pub(super) fn new(gateway: &'a Gateway, revisions: &'a dyn Revisions) -> Self {
        Self {
            gateway,
            revisions,
            process: uuid::Uuid::now_v7().to_string(),
            synced: None,
            reported: HashMap::new(),
            is_away: false,
            left: HashMap::new(),
        }
    }

    /// One look at everything.
    async fn look(&mut self) {
        let packs = &self.gateway.packs;
        packs.metrics.counted(&packs.counters.in_use());
        if let Some(snapshot) = self.gateway.live.pin() {
            packs.metrics.open(snapshot.rollouts.len());
            let (revision, watches) = (snapshot.revision, snapshot.rollouts.clone());
            drop(snapshot);
            self.look_at(revision, &watches).await;
        }
    }

    /// One look at the rollouts of the revision in force.
    pub(super) async fn look_at(&mut self, revision: u64, watches: &[Arc<Watch>]) {
        let now = self.gateway.clock.now();
        let known = self.sync(revision, watches, now).await;
        let mut cases = cases(watches, now);
        let seen = match known {
            Ok(Known::ToAll) => self.share(&mut cases).await.map(|()| Seen::ByAll),
            Ok(Known::Here) => Ok(Seen::Here),
            // Another revision is on its way: what was seen of this one is looked at next time.
            Ok(Known::NotYet) => return self.take_out(watches).await,
            Err(error) => Err(error),
        };
        let seen = self.answered(seen);
        for case in &cases {
            self.judge(case, seen, now).await;
        }
        self.take_out(watches).await;
    }

    /// Sees to it that the store knows the rollouts of the revision in force, and this node their ids and beginnings. Whether
    /// it does: rollouts of a document in a file, or of a revision that is on some nodes only, are this node's own.
    async fn sync(
        &mut self,
        revision: u64,
        watches: &[Arc<Watch>],
        now: Timestamp,
    ) -> Result<Known, StoreError> {
        if self.revisions.is_read_only() {
            return Ok(Known::Here);
        }
        match self.revisions.in_force() {
            Some(known) if known.number == revision && known.nodes.is_none() => {}
            Some(known) if known.number == revision => return Ok(Known::Here),
            Some(_) | None => return Ok(Known::NotYet),
        }
        if self.synced == Some(revision) {
            return Ok(Known::ToAll);
        }
        let named = watches.iter().map(|watch| watch.as_open()).collect();
        let open = self.gateway.store.sync_rollouts(revision, named, now).await?;
        for watch in watches {
            if let Some(known) = open.iter().find(|known| watch.is_of(known)) {
                let seen = watch.seen();
                watch.progress().is_known_as(&known.id, known.started_at, &seen);
            }
        }
        self.synced = Some(revision);
        Ok(Known::ToAll)
    }

    /// Tells the other nodes what this one saw, and puts what all saw in its place.
    async fn share(&mut self, cases: &mut [Case]) -> Result<(), StoreError> {
        if cases.is_empty() {
            self.reported.clear();
            return Ok(());
        }
        let seen = |case: &Case| {
            ((case.window.rollout.clone(), case.window.number), case.window.samples.clone())
        };
        let present: HashMap<(String, u64), Samples> = cases.iter().map(seen).collect();
        let news = present.iter().filter(|(window, samples)| {
            **samples != self.reported.get(*window).cloned().unwrap_or_default()
        });
        let report = |((rollout, window), samples): (&(String, u64), &Samples)| SampleReport {
            rollout: rollout.clone(),
            process: self.process.clone(),
            window: *window,
            samples: samples.clone(),
        };
        let reports: Vec<_> = news.map(report).collect();
        let store = &self.gateway.store;
        if !reports.is_empty() {
            store.report_samples(reports).await?;
        }
        self.reported = present;
        let of = cases.iter().map(|case| (case.window.rollout.clone(), case.window.number));
        let merged = store.samples(of.collect()).await?;
        for (case, samples) in cases.iter_mut().zip(merged) {
            case.window.samples = samples;
        }
        Ok(())
    }

    /// Whose samples there are; says once that the store is away, and once that it is back.
    fn answered(&mut self, seen: Result<Seen, StoreError>) -> Seen {
        match seen {
            Ok(seen) => {
                self.is_away = false;
                seen
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(%error, "rollouts are judged by what this node sees alone");
                }
                Seen::Here
            }
        }
    }

    async fn judge(&self, case: &Case, seen: Seen, now: Timestamp) {
        let Case { watch, window, is_settled } = case;
        // What is stopped is on its way out.
        if watch.health.is_stopped() {
            return;
        }
        // Before all nodes have told of a window it can only speak against the candidate.
        let until = if *is_settled { now } else { window.began };
        match judge(&watch.rollout, window.began, until, &window.samples) {
            Verdict::RollBack(why) => return self.stop(watch, why),
            Verdict::Pass(OnPass::Promote) => match seen {
                Seen::ByAll if !self.promote(watch, window, now).await => return,
                Seen::ByAll => {}
                // The store is away: it is judged when it is back.
                Seen::Here if self.is_away => return,
                Seen::Here => tracing::warn!(
                    attachment = watch.attachment.as_str(),
                    candidate = watch.candidate_reference(),
                    "nothing speaks against the candidate, but it can't be promoted from here"
                ),
            },
            Verdict::Pass(OnPass::Wait) | Verdict::Wait => {}
        }
        if *is_settled {
            watch.progress().judged(window.number);
        }
    }

    /// Takes a candidate back. What was seen at one tenant's attachment says nothing about others, and where the version
    /// runs already, nobody is harmed by what was seen elsewhere.
    fn stop(&self, watch: &Watch, why: String) {
        if watch.tenant.is_some() || self.gateway.packs.runs(watch.candidate_reference()) {
            watch.health.stop_here(why);
        } else {
            watch.health.stop_everywhere(why);
        }
    }

    /// Makes a candidate the running version. Whether that is settled, one way or the other.
    async fn promote(&self, watch: &Watch, window: &Window, now: Timestamp) -> bool {
        let Samples { calls, differences, .. } = window.samples;
        let reason =
            format!("{calls} calls within {}, {differences} differences", watch.rollout.window);
        let order = Order {
            version: watch.candidate_reference().into(),
            reason: reason.as_str().into(),
            what: What::Promote(watch.attachment.clone()),
        };
        match system::carry_out(self.gateway, self.revisions, &order).await {
            Ok(Some(revision)) => {
                tracing::info!(version = &*order.version, revision, "a candidate was promoted");
                self.ended(watch, RolloutState::Promoted, &reason, now).await;
                true
            }
            // Another node was first, or somebody withdrew it.
            Ok(None) => true,
            Err(error @ (Left::Store(_) | Left::Busy)) => {
                tracing::warn!(version = &*order.version, %error, "a candidate is not promoted yet");
                false
            }
            Err(error) => {
                tracing::error!(version = &*order.version, %error, "a candidate can't be promoted");
                true
            }
        }
    }

    /// Takes versions that were stopped here out of the document, where that was not done yet.
    async fn take_out(&mut self, watches: &[Arc<Watch>]) {
        self.gateway.packs.settle();
        let stopped = self.gateway.packs.stopped();
        self.left.retain(|left, _| stopped.contains(left));
        for stopped in stopped {
            if self.left.get(&stopped).is_some_and(|again| again.at > Instant::now()) {
                continue;
            }
            let what = match &stopped.attachment {
                Some(attachment) => What::TakeOut(attachment.clone()),
                None => What::Quarantine,
            };
            let (version, reason) = (stopped.version.clone(), stopped.reason.clone());
            let order = Order { version, reason, what };
            match system::carry_out(self.gateway, self.revisions, &order).await {
                Ok(Some(revision)) => self.taken_out(&stopped, revision, watches).await,
                Ok(None) => self.gateway.packs.settle(),
                Err(error) => self.left_for_later(stopped, &error),
            }
        }
    }

    async fn taken_out(&self, stopped: &StoppedHere, revision: u64, watches: &[Arc<Watch>]) {
        let StoppedHere { version, attachment, reason } = stopped;
        let (version, reason) = (&**version, &**reason);
        tracing::error!(version, revision, reason, "a pack was taken out of service");
        let now = self.gateway.clock.now();
        let is_it = |watch: &&Arc<Watch>| {
            watch.candidate_reference() == version
                && attachment.as_ref().is_none_or(|here| *here == watch.attachment)
        };
        for watch in watches.iter().filter(is_it) {
            self.ended(watch, RolloutState::RolledBack, reason, now).await;
        }
    }

    fn left_for_later(&mut self, stopped: StoppedHere, error: &Left) {
        let said = error.to_string();
        let before = self.left.remove(&stopped);
        if before.as_ref().is_none_or(|before| before.said != said) {
            let (version, error) = (&*stopped.version, &*said);
            tracing::error!(version, error, "a pack is stopped on this node only");
        }
        let pause = before.map_or(PAUSE.0, |before| (before.pause * 2).min(PAUSE.1));
        let again = Again { at: Instant::now() + pause, pause, said };
        self.left.insert(stopped, again);
    }

    /// Tells how a rollout ended that this node ended. When the store does not take it, it is withdrawn there, as the
    /// document no longer has it.
    async fn ended(&self, watch: &Watch, state: RolloutState, reason: &str, now: Timestamp) {
        self.gateway.packs.metrics.ended(state);
        let id = watch.progress().rollout_id();
        if let Err(error) = self.gateway.store.end_rollout(&id, state, reason, now).await {
            tracing::warn!(%error, rollout = id, "how a rollout ended can't be kept");
        }
    }
}

/// The windows of all rollouts that count now.
fn cases(watches: &[Arc<Watch>], now: Timestamp) -> Vec<Case> {
    let of = |watch: &Arc<Watch>| {
        let (length, seen) = (watch.rollout.window.0, watch.seen());
        let mut progress = watch.progress();
        let windows = progress.windows(length, now, &seen);
        let case = |window: Window| Case {
            is_settled: progress.is_settled(window.number, length, now),
            watch: watch.clone(),
            window,
        };
        windows.into_iter().map(case).collect::<Vec<_>>()
    };
    watches.iter().flat_map(of).collect()
}

impl Watch {
    /// As the store opens it, where it is new.
    fn as_open(&self) -> OpenRollout {
        let progress = self.progress();
        OpenRollout {
            id: progress.rollout_id(),
            attachment: self.attachment.clone(),
            pack: self.pack.clone(),
            running: self.running.clone(),
            candidate: self.candidate.clone(),
            started_at: progress.started_at(),
        }
    }

    fn is_of(&self, open: &OpenRollout) -> bool {
        (&self.attachment, &self.pack, &self.running, &self.candidate)
            == (&open.attachment, &open.pack, &open.running, &open.candidate)
    }

    /// `name@version` of the candidate.
    fn candidate_reference(&self) -> &str {
        &self.rollout.candidate
    }
}
