//! What operators see of webhooks: `tollgate_webhook_…`. Labels are closed sets; no endpoint has a series of its own.

use crate::Dispatcher;
use crate::lanes::Counts;
use jiff::Timestamp;
use model::webhook::{Next, Outcome, Settlement};
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use store::webhooks::Backlog;
use tokio::time::Instant;

/// Between two looks at the backlog.
const PAUSE: Duration = Duration::from_secs(2);
/// Seconds; from a millisecond to a day.
const WAITS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0,
    86_400.0,
];
/// Seconds; from a millisecond to the longest timeout of an endpoint.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Every metric, in a registry of its own.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    duration: Histogram,
    settled: IntCounterVec,
    stale: IntCounter,
    in_hand: IntGauge,
    endpoints: IntGaugeVec,
    to_do: ToDo,
    /// From an event's acceptance to the first attempt of a delivery.
    pub(crate) first_attempt: Histogram,
    /// Events that were fanned out here.
    pub(crate) events: IntCounter,
    /// Retries that waited for a budget.
    pub(crate) postponed: IntCounter,
    /// Deliveries that silent dispatchers held.
    pub(crate) lost: IntCounter,
    /// Dispatchers that live.
    pub(crate) dispatchers: IntGauge,
    /// Whether the store can't answer.
    pub(crate) store_degraded: IntGauge,
}

/// How much there is to do in the store, for whichever dispatcher.
struct ToDo {
    queue_age: Gauge,
    waiting: IntGauge,
    dead_letters: IntGauge,
    fan_out_lag: Gauge,
    aside: IntGauge,
}

struct Maker(Registry);

type Made<T> = Result<T, prometheus::Error>;

impl Maker {
    fn registered<T: Collector + Clone + 'static>(&self, metric: T) -> Made<T> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// Counters by a label, each there from the start.
    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Made<IntCounterVec> {
        let counters = self.registered(IntCounterVec::new(Opts::new(name, help), &[label])?)?;
        for value in values {
            counters.with_label_values(&[*value]).reset();
        }
        Ok(counters)
    }

    fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.registered(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.registered(IntGauge::new(name, help)?)
    }

    /// Gauges by a label.
    fn gauges(&self, name: &str, help: &str, label: &str) -> Made<IntGaugeVec> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.registered(Histogram::with_opts(options)?)
    }
}

impl ToDo {
    fn new(made: &Maker) -> Made<Self> {
        Ok(Self {
            queue_age: made.registered(Gauge::new(
                "tollgate_webhook_queue_age_seconds",
                "How long ago the oldest of what waits became due: a delivery that nobody holds, or an event before fan-out.",
            )?)?,
            waiting: made.gauge("tollgate_webhook_waiting", "Events and deliveries not done yet.")?,
            dead_letters: made.gauge("tollgate_webhook_dead_letters", "Dead letters.")?,
            fan_out_lag: made.registered(Gauge::new(
                "tollgate_webhook_fan_out_lag_seconds",
                "How long ago the oldest event was accepted whose deliveries are not planned yet.",
            )?)?,
            aside: made.gauge(
                "tollgate_webhook_tenants_aside",
                "Tenants whose events are planned in turns of their own: they sent more than their share.",
            )?,
        })
    }

    fn show(&self, backlog: &Backlog, now: i64) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.waiting.set(number(backlog.waiting));
        self.dead_letters.set(number(backlog.dead));
        self.aside.set(number(backlog.aside));
        let next = backlog.next_event.map(|(_, at)| at);
        self.fan_out_lag.set(seconds_since(next, now));
        let oldest = backlog.oldest_due.into_iter().chain(next).min();
        self.queue_age.set(seconds_since(oldest, now));
    }
}

/// What a settled delivery is counted by.
const BECOMES: [&str; 4] = ["delivered", "due", "parked", "dead"];

impl Metrics {
    /// Registers every metric. Names are unique, so this can't fail but by a programming error.
    pub(crate) fn new() -> Made<Self> {
        let made = Maker(Registry::new());
        let outcomes = Outcome::ALL.map(Outcome::as_str);
        Ok(Self {
            attempts: made.counters(
                "tollgate_webhook_attempts_total",
                "Attempts of this process, by what they came to.",
                "outcome",
                &outcomes,
            )?,
            duration: made.histogram(
                "tollgate_webhook_attempt_duration_seconds",
                "How long attempts took.",
                SECONDS,
            )?,
            settled: made.counters(
                "tollgate_webhook_settled_total",
                "Deliveries that this process settled, by what became of them.",
                "state",
                &BECOMES,
            )?,
            stale: made.counter(
                "tollgate_webhook_stale_total",
                "Attempts that came to nothing: somebody else had taken the delivery over.",
            )?,
            in_hand: made
                .gauge("tollgate_webhook_in_hand", "Deliveries that this process holds.")?,
            endpoints: made.gauges(
                "tollgate_webhook_endpoints",
                "Endpoints that are left alone (`open`) or `disabled`.",
                "state",
            )?,
            to_do: ToDo::new(&made)?,
            first_attempt: made.histogram(
                "tollgate_webhook_first_attempt_seconds",
                "From the acceptance of an event to the first attempt of a delivery.",
                WAITS,
            )?,
            events: made.counter(
                "tollgate_webhook_fanned_out_total",
                "Events that this process fanned out.",
            )?,
            postponed: made.counter(
                "tollgate_webhook_retries_postponed_total",
                "Retries that waited for a retry budget.",
            )?,
            lost: made.counter(
                "tollgate_webhook_given_back_total",
                "Deliveries that silent dispatchers held and this process gave back.",
            )?,
            dispatchers: made.gauge("tollgate_webhook_dispatchers", "Dispatchers that live.")?,
            store_degraded: made.gauge(
                "tollgate_webhook_store_degraded",
                "Whether the store can't answer webhooks.",
            )?,
            registry: made.0,
        })
    }

    /// An attempt has ended.
    pub(crate) fn attempted(&self, outcome: Outcome, took: f64) {
        self.attempts.with_label_values(&[outcome.as_str()]).inc();
        self.duration.observe(took);
    }

    /// These were settled, but for the stale ones.
    pub(crate) fn settled<'a>(
        &self,
        settled: impl Iterator<Item = &'a Settlement>,
        stale: &HashSet<u64>,
    ) {
        for settlement in settled {
            if stale.contains(&settlement.number) {
                self.stale.inc();
                continue;
            }
            let [delivered, due, parked, dead] = BECOMES;
            let becomes = match settlement.next {
                Next::Delivered => delivered,
                Next::Due(_) => due,
                Next::Parked(_) => parked,
                Next::Dead { .. } => dead,
            };
            self.settled.with_label_values(&[becomes]).inc();
        }
    }

    /// All of it, in the text format of Prometheus.
    pub(crate) fn text(&self, counts: Counts) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.in_hand.set(counts.in_hand.into());
        self.endpoints.with_label_values(&["open"]).set(number(counts.open));
        self.endpoints.with_label_values(&["disabled"]).set(number(counts.disabled));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics can't be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Looks at the backlog until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    while !dispatcher.is_stopping() {
        match dispatcher.store.backlog().await {
            Ok(backlog) => {
                dispatcher.metrics.to_do.show(&backlog, dispatcher.time.micros());
                let next = backlog.next_event.map(|(number, _)| number);
                dispatcher.stall.saw(next, Instant::now());
            }
            Err(error) => {
                dispatcher.stall.saw(None, Instant::now());
                dispatcher.away(&error);
            }
        }
        dispatcher.pause(PAUSE).await;
    }
}

/// How many seconds ago that was; none where it is not over, or never was.
fn seconds_since(at: Option<Timestamp>, now: i64) -> f64 {
    let micros = at.map_or(0, |at| now.saturating_sub(at.as_microsecond()));
    Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
}
