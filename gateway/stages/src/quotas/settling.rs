//! Permits on their way to be settled. Whoever ends an exchange lays one here and goes on.
//!
//! Invariants: at most [`WAITING_MAX`] wait, and none for longer than its permit lasts; what the store did not confirm is
//! sent again, which is safe because it settles each permit once.

use super::standing::Counts;
use super::store::Store;
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{Demand, PermitRecord, Settlement, Taken};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How many wait in a lane; beyond it slots expire by themselves, and quotas keep their charge.
pub(super) const WAITING_MAX: usize = 4_096;
/// How many are sent together.
const TOGETHER: usize = 128;
/// After which time the store is asked again for what it did not confirm.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A permit that ends.
#[derive(Debug)]
pub(super) struct Ending {
    /// Which.
    pub(super) permit: Ended,
    /// How.
    pub(super) settlement: Settlement,
    /// After which time nothing is left to settle, in microseconds since the epoch.
    pub(super) until: i64,
}

/// What is known of a permit that ends.
#[derive(Debug)]
pub(super) enum Ended {
    /// The store gave it.
    Given(PermitRecord),
    /// The store was asked for it and did not answer in time.
    Unknown(Box<Demand>),
}

impl Ended {
    /// Whose counters they are.
    fn tenant(&self) -> &TenantId {
        match self {
            Self::Given(record) => &record.tenant,
            Self::Unknown(demand) => &demand.tenant,
        }
    }
}

/// Whether settling a permit so changes anything.
pub(super) fn matters(permit: &PermitRecord, settlement: Settlement) -> bool {
    permit.charges.iter().any(|charge| match (charge.taken, settlement) {
        (Taken::Slot, _)
        | (Taken::Quota { .. }, Settlement::Refund | Settlement::Cost(_))
        | (Taken::Rate { .. }, Settlement::Cost(_)) => true,
        (Taken::Quota { .. }, Settlement::Commit)
        | (Taken::Rate { .. }, Settlement::Commit | Settlement::Refund) => false,
    })
}

/// The permits of one lane that wait.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Waiting {
    endings: VecDeque<Ending>,
    /// Being sent.
    sent: usize,
}

impl Queue {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self { waiting: Mutex::default(), came: Notify::new(), counts }
    }

    /// Takes one in, if there is room. Never waits.
    pub(super) fn push(&self, ending: Ending) {
        {
            let mut waiting = self.lock();
            if waiting.endings.len() + waiting.sent >= WAITING_MAX {
                self.counts.dropped.add();
                return;
            }
            waiting.endings.push_back(ending);
        }
        self.came.notify_one();
    }

    /// When there may be something to settle.
    pub(super) async fn filled(&self) {
        self.came.notified().await;
    }

    /// Somebody should look.
    pub(super) fn wake(&self) {
        self.came.notify_one();
    }

    /// Whether nothing waits, and nothing is being sent.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.endings.is_empty() && waiting.sent == 0
    }

    /// Sends the next ones to the store, of tenants whose counters are there.
    pub(super) async fn settle(
        &self,
        store: &impl Store,
        is_there: impl Fn(&TenantId) -> bool,
        now: i64,
    ) -> Progress {
        let next = self.next(is_there, now);
        if next.is_empty() {
            return Progress::Idle;
        }
        let left = self.send(store, next, now).await;
        let progress = if left.is_empty() { Progress::Settled } else { Progress::Unconfirmed };
        let mut waiting = self.lock();
        waiting.sent = 0;
        left.into_iter().rev().for_each(|ending| waiting.endings.push_front(ending));
        progress
    }

    fn next(&self, is_there: impl Fn(&TenantId) -> bool, now: i64) -> Vec<Ending> {
        let mut waiting = self.lock();
        let mut next = Vec::new();
        let mut later = VecDeque::new();
        while next.len() < TOGETHER
            && let Some(ending) = waiting.endings.pop_front()
        {
            if ending.until <= now {
                self.counts.dropped.add();
            } else if is_there(ending.permit.tenant()) {
                next.push(ending);
            } else {
                later.push_back(ending);
            }
        }
        later.append(&mut waiting.endings);
        waiting.endings = later;
        waiting.sent = next.len();
        next
    }

    /// Sends these; gives back what the store did not confirm.
    async fn send(&self, store: &impl Store, endings: Vec<Ending>, now: i64) -> Vec<Ending> {
        let (mut given, mut untils, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for Ending { permit, settlement, until } in endings {
            match permit {
                Ended::Given(record) => {
                    given.push((record, settlement));
                    untils.push(until);
                }
                Ended::Unknown(demand) => unknown.push((demand, settlement, until)),
            }
        }
        let mut left = Vec::new();
        if !given.is_empty() {
            let mut results = store.settle_all(&given, now).await.into_iter();
            for ((record, settlement), until) in given.into_iter().zip(untils) {
                if !self.is_over(results.next()) {
                    left.push(Ending { permit: Ended::Given(record), settlement, until });
                }
            }
        }
        for (demand, settlement, until) in unknown {
            // Once the store fails, the rest waits with it.
            let is_over = left.is_empty()
                && self.is_over(Some(store.settle_unknown(&demand, settlement, now).await));
            if !is_over {
                left.push(Ending { permit: Ended::Unknown(demand), settlement, until });
            }
        }
        left
    }

    /// Whether there is nothing more to do. What can't be read can't be settled, however often it is tried.
    fn is_over(&self, result: Option<Result<(), StoreError>>) -> bool {
        match result {
            Some(Ok(())) => true,
            Some(Err(StoreError::Unreadable(_))) => {
                self.counts.dropped.add();
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of the next ones. A queue is worked off by one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There were none.
    Idle,
    /// They are settled.
    Settled,
    /// Not all are; those wait again.
    Unconfirmed,
}
