//! Claims of which nobody heard. Whoever asked sends nothing: what they may hold is freed behind them.
//!
//! Invariants: a claim is withdrawn by its nonce, once or many times, before or after it ran; whoever holds the key by
//! another claim is not touched. How many are withdrawn at a time, and for how long that is tried, is bounded; what is
//! given up is unknown when its lease ends, as if the holder had died.

use super::fill_clock;
use super::record::{Names, Nonce, withdrawal};
use crate::again::{Again, Place};
use crate::redis::ClockOf;
use crate::redis::link::Link;
use crate::redis::script::Script;
use model::idempotency::RecordKey;
use model::port::StoreError;
use redis::Cmd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

/// How many claims are withdrawn at a time.
const WITHDRAWALS_MAX: usize = 4_096;
/// How long that is tried: longer than a failover takes.
const TRIED_FOR: Duration = Duration::from_secs(300);
/// How long a connection and an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How late a withdrawn claim may still arrive. No command outlives its connection for so long.
const LATE_MAX: Duration = Duration::from_secs(600);

/// Withdraws claims.
#[derive(Debug)]
pub(super) struct Withdrawals {
    withdraw: Arc<Withdraw>,
    again: Again,
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
            again: Again::new(WITHDRAWALS_MAX, TRIED_FOR, runtime),
        }
    }

    /// Withdraws this claim of that time, in the background.
    pub(super) fn begin(&self, key: RecordKey, nonce: Nonce, now: i64) {
        let withdraw = Arc::clone(&self.withdraw);
        let began = self.again.begin(async move |place: Place| {
            if let Err(error) = place.until_done(|| withdraw.once(&key, nonce, now)).await {
                tracing::warn!(%error, "an idempotency key could not be freed: it counts as unknown when its lease ends");
            }
        });
        if !began {
            tracing::warn!(
                "more idempotency keys than can be freed were claimed without an answer: one counts as unknown when its lease ends"
            );
        }
    }
}

impl Withdraw {
    async fn once(&self, key: &RecordKey, nonce: Nonce, now: i64) -> Result<(), StoreError> {
        let until = Instant::now() + ANSWER_MAX;
        let away = || StoreError::Unavailable("there is no connection to Redis".to_owned());
        timeout_at(until, self.link.connected()).await.map_err(|_| away())?;
        let (Names { record, records, .. }, withdrawal) =
            (Names::of(key), withdrawal(&key.tenant, nonce));
        let fill = |command: &mut Cmd| {
            command.arg(3).arg(&record).arg(&withdrawal).arg(&records);
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
