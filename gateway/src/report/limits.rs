//! Metrics of limits: what they decided, and how the counters behind them fare.

use super::{Made, Maker};
use model::quota::{LimitMode, OnStoreError, Reading};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};
use stages::quotas::{Count, Counts, Standing};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What there is to say of limits.
pub(super) struct LimitMetrics {
    decisions: IntCounterVec,
}

impl LimitMetrics {
    pub(super) fn new(made: &Maker) -> Made<Self> {
        let decisions = made.counters(
            "tollgate_limit_decisions_total",
            "Decisions of limits.",
            &["limit", "decision", "mode"],
        )?;
        Ok(Self { decisions })
    }

    /// The limits of one request were decided.
    pub(super) fn decided(&self, readings: &[Reading]) {
        let is_charged = readings.iter().all(|reading| !refuses(reading));
        for reading in readings {
            let labels =
                [reading.id.as_str(), decision(reading, is_charged), reading.mode.as_str()];
            self.decisions.with_label_values(&labels).inc();
        }
    }
}

/// Whether no limit of the request was charged because of this one.
fn refuses(reading: &Reading) -> bool {
    let is_enforced = reading.mode == LimitMode::Enforce;
    is_enforced && (reading.refusal.is_some() || reading.degraded == Some(OnStoreError::Closed))
}

/// `admitted`, `refused`; `uncharged` because another one refused; `would_refuse` if it did more than observe; and while
/// the shared counters can't answer `local` (charged to this node's share), `open` (not counted), `closed` (refused for
/// that).
fn decision(reading: &Reading, is_charged: bool) -> &'static str {
    match (reading.mode, reading.refusal, reading.degraded) {
        (LimitMode::Enforce, _, Some(OnStoreError::Closed)) => "closed",
        (LimitMode::Enforce, Some(_), _) => "refused",
        (LimitMode::Observe, Some(_), _) => "would_refuse",
        _ if !is_charged => "uncharged",
        (_, None, Some(how)) => how.as_str(),
        (_, None, None) => "admitted",
    }
}

/// Shows what shared counters did: they count by themselves, and are asked when somebody looks.
pub(super) struct SharedCounters {
    counts: Arc<Counts>,
    decisions: IntCounterVec,
    commands: IntCounterVec,
    batches: IntCounter,
    dropped: IntCounter,
    /// Of two who look at the same time, one after the other.
    look: Mutex<()>,
}

impl SharedCounters {
    pub(super) fn new(counts: Arc<Counts>) -> Made<Self> {
        let decisions = Opts::new(
            "tollgate_counter_decisions_total",
            "Requests' limits decided where counters are shared, by what.",
        );
        let commands = Opts::new(
            "tollgate_counter_commands_total",
            "Commands to the shared counters, by how they were answered.",
        );
        Ok(Self {
            counts,
            decisions: IntCounterVec::new(decisions, &["by"])?,
            commands: IntCounterVec::new(commands, &["result"])?,
            batches: IntCounter::new(
                "tollgate_counter_batches_total",
                "Batches of units taken in advance.",
            )?,
            dropped: IntCounter::new(
                "tollgate_counter_settlements_dropped_total",
                "Ended requests that were not settled: their slots expire, their quotas stay charged.",
            )?,
            look: Mutex::new(()),
        })
    }

    fn look(&self) {
        let _one = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let catch_up = |shown: &IntCounter, count: &Count| {
            shown.inc_by(count.get().saturating_sub(shown.get()));
        };
        let counts = &self.counts;
        for (by, count) in [
            ("store", &counts.decided_by_store),
            ("batch", &counts.decided_by_batch),
            ("refusal", &counts.decided_by_refusal),
            ("node", &counts.decided_alone),
        ] {
            catch_up(&self.decisions.with_label_values(&[by]), count);
        }
        for (result, count) in [
            ("answered", &counts.answered),
            ("timed_out", &counts.timed_out),
            ("failed", &counts.failed),
        ] {
            catch_up(&self.commands.with_label_values(&[result]), count);
        }
        catch_up(&self.batches, &counts.batches);
        catch_up(&self.dropped, &counts.dropped);
    }
}

impl Collector for SharedCounters {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.decisions.desc();
        all.extend(self.commands.desc());
        all.extend(self.batches.desc());
        all.extend(self.dropped.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        let mut all = self.decisions.collect();
        all.extend(self.commands.collect());
        all.extend(self.batches.collect());
        all.extend(self.dropped.collect());
        all
    }
}

/// Shows on the gauge whether the counters can't answer, until they are gone.
pub(super) async fn show(mut standing: watch::Receiver<Standing>, degraded: IntGauge) {
    loop {
        let now = *standing.borrow_and_update();
        degraded.set(i64::from(matches!(now, Standing::Degraded { .. })));
        if standing.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::quota::{Kind, Wait};

    fn reading(mode: LimitMode, refusal: Option<Wait>, degraded: Option<OnStoreError>) -> Reading {
        Reading {
            id: "x".into(),
            kind: Kind::Concurrency(1),
            limit: 1,
            used: 0,
            remaining: 1,
            reset_after: None,
            window: None,
            refusal,
            mode,
            degraded,
        }
    }

    #[test]
    fn every_decision_has_its_name() {
        use LimitMode::{Enforce, Observe};
        use OnStoreError::{Closed, Local, Open};
        let wait = Some(Wait::For(1));
        for (readings, names) in [
            (vec![(Enforce, None, None)], vec!["admitted"]),
            (vec![(Enforce, wait, None), (Enforce, None, None)], vec!["refused", "uncharged"]),
            (vec![(Observe, wait, None), (Enforce, None, None)], vec!["would_refuse", "admitted"]),
            (
                vec![(Observe, wait, None), (Observe, None, None), (Enforce, wait, None)],
                vec!["would_refuse", "uncharged", "refused"],
            ),
            (
                vec![(Enforce, None, Some(Local)), (Enforce, None, Some(Open))],
                vec!["local", "open"],
            ),
            (
                vec![(Enforce, wait, Some(Local)), (Enforce, None, Some(Open))],
                vec!["refused", "uncharged"],
            ),
            (
                vec![(Enforce, None, Some(Closed)), (Enforce, None, Some(Local))],
                vec!["closed", "uncharged"],
            ),
        ] {
            let readings: Vec<_> =
                readings.into_iter().map(|(mode, wait, how)| reading(mode, wait, how)).collect();
            let is_charged = readings.iter().all(|reading| !refuses(reading));
            let named: Vec<_> =
                readings.iter().map(|reading| decision(reading, is_charged)).collect();
            assert_eq!(named, names, "{readings:?}");
        }
    }
}
