//! Versions that this node stopped by itself, everywhere or at one attachment.
//!
//! Invariant: a version is stopped once; whoever stopped it says so to those who publish.

use crate::report::RolloutMetrics;
use model::id::AttachmentId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Whether a version may decide on this node: at all, or at one attachment.
pub(super) struct Switch {
    /// `name@version`.
    version: Arc<str>,
    /// Where; everywhere when none.
    attachment: Option<AttachmentId>,
    is_off: AtomicBool,
    alarm: Arc<Alarm>,
}

/// Versions that were stopped on this node, and that no document in force has marked yet: at most one for
/// each version, and for each of an attachment's.
pub(super) struct Alarm {
    stopped: Mutex<Vec<Stopped>>,
    raised: Notify,
    metrics: RolloutMetrics,
}

/// A version that was stopped on this node; it stays stopped while this is held.
struct Stopped {
    switch: Arc<Switch>,
    reason: Arc<str>,
}

/// A version that this node stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoppedHere {
    /// `name@version`.
    pub version: Arc<str>,
    /// Where it is stopped; everywhere when none.
    pub attachment: Option<AttachmentId>,
    /// Why, for people.
    pub reason: Arc<str>,
}

impl Switch {
    pub(super) fn new(version: &str, attachment: Option<AttachmentId>, alarm: Arc<Alarm>) -> Self {
        Self { version: version.into(), attachment, is_off: AtomicBool::new(false), alarm }
    }

    /// What it is known by, here and in what a document lets decide.
    pub(super) fn key(version: &str, attachment: Option<&AttachmentId>) -> String {
        match attachment {
            Some(attachment) => format!("{attachment} {version}"),
            None => version.to_owned(),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Stops it on this node, and tells those who publish; nothing when it is stopped already.
    pub(super) fn stop(self: &Arc<Self>, reason: String) {
        if !self.is_off.swap(true, Ordering::AcqRel) {
            self.alarm.raise(self.clone(), reason);
        }
    }
}

impl Alarm {
    pub(super) fn new(metrics: RolloutMetrics) -> Self {
        Self { stopped: Mutex::default(), raised: Notify::new(), metrics }
    }

    fn raise(&self, switch: Arc<Switch>, reason: String) {
        let Switch { version, attachment, .. } = &*switch;
        self.metrics.quarantined(version.split_once('@').map_or("", |(pack, _)| pack));
        let attachment = attachment.as_ref().map_or("", |id| id.as_str());
        tracing::error!(
            version = &**version,
            attachment,
            reason,
            "a pack was stopped on this node"
        );
        let mut stopped = self.list();
        stopped.push(Stopped { switch, reason: reason.into() });
        self.metrics.stopped(stopped.len());
        self.raised.notify_one();
    }

    /// Waits until a version is stopped.
    pub(super) async fn raised(&self) {
        self.raised.notified().await;
    }

    /// Those that are stopped.
    pub(super) fn stopped(&self) -> Vec<StoppedHere> {
        let here = |stopped: &Stopped| StoppedHere {
            version: stopped.switch.version.clone(),
            attachment: stopped.switch.attachment.clone(),
            reason: stopped.reason.clone(),
        };
        self.list().iter().map(here).collect()
    }

    /// Lets go of those that may not decide anyway; says which, by their keys.
    pub(super) fn settle(&self, may_decide: impl Fn(&str) -> bool) -> Vec<String> {
        let mut stopped = self.list();
        let key =
            |Switch { version, attachment, .. }: &Switch| Switch::key(version, attachment.as_ref());
        let settled = stopped.extract_if(.., |stopped| !may_decide(&key(&stopped.switch)));
        let settled = settled.map(|stopped| key(&stopped.switch)).collect();
        self.metrics.stopped(stopped.len());
        settled
    }

    fn list(&self) -> MutexGuard<'_, Vec<Stopped>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
