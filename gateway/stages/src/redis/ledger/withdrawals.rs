//! Claims of which nobody heard. Whoever asked sends nothing: what they may hold is freed behind them.
//!
//! Invariants: a claim is withdrawn by its nonce, once or many times, before or after it ran; whoever holds the key by
//! another claim is not touched. How many are withdrawn at a time, and for how long that is tried, is bounded; what is
//! given up is unknown when its lease ends, as if the holder had died.

use super::fill_clock;
use super::record::{Names, Nonce, withdrawal};
use crate::redis::ClockOf;
use crate::redis::link::Link;
use crate::redis::script::Script;
use model::idempotency::RecordKey;
use model::port::StoreError;
use redis::Cmd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

/// How many claims are withdrawn at a time.
const WITHDRAWALS_MAX: usize = 4_096;
/// How long that is tried: longer than a failover takes.
const TRIED_FOR: Duration = Duration::from_secs(300);
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long to wait before trying again: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How late a withdrawn claim may still arrive. No command outlives its connection for so long.
const LATE_MAX: Duration = Duration::from_secs(600);

/// Withdraws claims.
#[derive(Debug)]
pub(super) struct Withdrawals {
    withdraw: Arc<Withdraw>,
    places: Arc<Semaphore>,
    runtime: Handle,
}

#[derive(Debug)]
struct Withdraw {
    link: Link,
    clock: ClockOf,
    script: Script,
}

impl Withdrawals {
    pub(super) fn new(link: Link, clock: ClockOf, script: Script, runtime: &Handle) -> Self {
        Self {
            withdraw: Arc::new(Withdraw { link, clock, script }),
            places: Arc::new(Semaphore::new(WITHDRAWALS_MAX)),
            runtime: runtime.clone(),
        }
    }

    /// Withdraws this claim of that time, in the background.
    pub(super) fn begin(&self, key: RecordKey, nonce: Nonce, now: i64) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(
                "more idempotency keys than can be freed were claimed without an answer: one counts as unknown when its lease ends"
            );
            return;
        };
        let withdraw = Arc::clone(&self.withdraw);
        self.runtime.spawn(async move {
            let _place = place;
            if let Err(error) = withdraw.until_done(&key, nonce, now).await {
                tracing::warn!(%error, "an idempotency key could not be freed: it counts as unknown when its lease ends");
            }
        });
    }
}

impl Withdraw {
    async fn until_done(&self, key: &RecordKey, nonce: Nonce, now: i64) -> Result<(), StoreError> {
        let give_up = Instant::now() + TRIED_FOR;
        let mut wait = WAIT_MIN;
        loop {
            let away = || StoreError::Unavailable("there is no connection to Redis".to_owned());
            timeout_at(give_up, self.link.connected()).await.map_err(|_| away())?;
            match self.once(key, nonce, now).await {
                Ok(()) => return Ok(()),
                Err(error) if give_up <= Instant::now() => return Err(error),
                Err(_) => sleep(wait).await,
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    async fn once(&self, key: &RecordKey, nonce: Nonce, now: i64) -> Result<(), StoreError> {
        let until = Instant::now() + ANSWER_MAX;
        let (record, withdrawal) = (Names::of(key).record, withdrawal(&key.tenant, nonce));
        let fill = |command: &mut Cmd| {
            command.arg(2).arg(&record).arg(&withdrawal);
            fill_clock(command, self.clock, now);
            command.arg(nonce.to_string()).arg(LATE_MAX.as_secs() * 1_000);
        };
        self.script.run(&self.link, until, &record, fill).await.map(drop)
    }
}

/// A claim that is on its way. Dropped before it is answered, because nobody waits any more, it is withdrawn.
pub(super) struct Asking<'a> {
    pub(super) withdrawals: &'a Withdrawals,
    /// The record, the claim, and when it was made, until it is answered.
    pub(super) claim: Option<(&'a RecordKey, Nonce, i64)>,
}

impl Asking<'_> {
    /// It was heard, or can't have run.
    pub(super) fn answered(mut self) {
        self.claim = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some((key, nonce, now)) = self.claim.take() {
            self.withdrawals.begin(key.clone(), nonce, now);
        }
    }
}
