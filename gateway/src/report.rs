//! The one reporter: [`Facts`] → metrics, a log line and a decision record, once, at an exchange's end. Nothing else
//! counts, logs or records requests.

mod limits;
mod line;
mod packs;
mod protection;
mod rollouts;
mod upstreams;

pub use packs::{Part, Series};
pub use protection::ProtectionMetrics;
pub use rollouts::RolloutMetrics;
pub use upstreams::BackoffGauge;

use crate::facts::{Facts, KEY_OUTCOMES, SETTLED, Stage};
use crate::gateway::Gateway;
use crate::record::Due;
use limits::{LimitMetrics, SharedCounters};
use model::id::{PackId, RouteId, TenantId, UpstreamId};
use model::webhook::DeliveryState;
use packs::PackMetrics;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use stages::quotas::Quotas;
use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use upstreams::OutboundMetrics;

/// Tenants that have time series of their own; the rest is summed under [`OTHER`].
pub const TENANT_SERIES_MAX: usize = 200;
/// The label of what is summed.
const OTHER: &str = "other";
/// Seconds; from a tenth of a millisecond to ten seconds.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];
/// Seconds; from a microsecond to a tenth of a second.
const FINE_SECONDS: &[f64] = &[
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_5,
    0.001,
    0.01,
    0.1,
];

/// Reports an exchange that ended, and moves what its record needs out of the facts. Whoever sees it counted finds it over
/// and its record on the way.
pub fn report(gateway: &Gateway, facts: &mut Facts, due: Due) {
    let took = facts.elapsed();
    let ended = gateway.metrics.observe(facts, took);
    line::log(facts, took);
    gateway.recorder.take(due, facts, took);
    gateway.metrics.in_flight.dec();
    ended.inc();
}

/// Every metric of the gateway, in a registry of its own.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: Histogram,
    stages: [Histogram; Stage::ALL.len()],
    upstream: HistogramVec,
    outbound: OutboundMetrics,
    in_flight: IntGauge,
    limits: LimitMetrics,
    costs_unread: IntCounterVec,
    idempotency: IntCounterVec,
    settled: IntCounterVec,
    packs: PackMetrics,
    rollouts: RolloutMetrics,
    protection: ProtectionMetrics,
    expired: IntCounterVec,
    config_revision: IntGaugeVec,
    degraded: [IntGauge; Store::ALL.len()],
    records: RecordMetrics,
    tenants: RwLock<HashSet<String>>,
}

/// What there is to say of decision records as a whole.
#[derive(Clone)]
pub struct RecordMetrics {
    dropped: IntCounter,
    buffered: IntGauge,
    degraded: IntGauge,
}

impl RecordMetrics {
    /// There was no room for a record.
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// So many came to those that wait to be written.
    pub fn came(&self, records: usize) {
        self.buffered.add(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// So many wait no more.
    pub fn went(&self, records: usize) {
        self.buffered.sub(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// How many wait to be written.
    pub fn waiting(&self) -> usize {
        usize::try_from(self.buffered.get()).unwrap_or_default()
    }

    /// Shows whether the store takes records.
    pub fn degraded(&self, degraded: bool) {
        self.degraded.set(i64::from(degraded));
    }
}

/// Makes metrics and registers them.
struct Maker(Registry);

type Made<T> = Result<T, prometheus::Error>;

impl Maker {
    fn registered<T: Collector + Clone + 'static>(&self, metric: T) -> Made<T> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// Counters by outcome, each there from the start.
    fn closed(&self, name: &str, help: &str, outcomes: &[&str]) -> Made<IntCounterVec> {
        let counters = self.counters(name, help, &["outcome"])?;
        for outcome in outcomes {
            counters.with_label_values(&[outcome]).reset();
        }
        Ok(counters)
    }

    fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.registered(IntCounter::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntGaugeVec> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.registered(IntGauge::new(name, help)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Made<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.registered(HistogramVec::new(options, labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<Histogram> {
        self.registered(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }
}

/// Where a revision stands, as `tollgate_config_revision{state}` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionState {
    /// In force.
    Active,
    /// The last one that was refused; 0 after a good one.
    Rejected,
}

/// A store that requests need, as `tollgate_store_degraded{store}` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Counters of limits.
    Counters,
    /// Idempotency records.
    Idempotency,
    /// Decision records.
    Records,
    /// Revisions, which this node follows.
    Revisions,
}

impl Store {
    const ALL: [Self; 4] = [Self::Counters, Self::Idempotency, Self::Records, Self::Revisions];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Counters => "counters",
            Self::Idempotency => "idempotency",
            Self::Records => "records",
            Self::Revisions => "revisions",
        }
    }
}

impl Metrics {
    /// Registers every metric. Names are unique, so this can't fail but by a programming error.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let made = Maker(Registry::new());
        let build = made.gauges("tollgate_build_info", "The build; always 1.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let stage = made.histograms(
            "tollgate_stage_duration_seconds",
            "Time in each stage.",
            FINE_SECONDS,
            &["stage"],
        )?;
        let labels = ["route", "tenant", "version", "status_class", "error"];
        let whole = "Time of whole exchanges.";
        let answer = "From the first byte sent to the head of the answer.";
        let revision = "The revision in force, and the last that was refused.";
        let degraded =
            made.gauges("tollgate_store_degraded", "1 while a store can't answer.", &["store"])?;
        Ok(Self {
            requests: made.counters("tollgate_requests_total", "Exchanges that ended.", &labels)?,
            duration: made.histogram("tollgate_request_duration_seconds", whole, SECONDS)?,
            stages: Stage::ALL.map(|name| stage.with_label_values(&[name.as_str()])),
            upstream: made.histograms(
                "tollgate_upstream_duration_seconds",
                answer,
                SECONDS,
                &["upstream"],
            )?,
            outbound: OutboundMetrics::new(&made)?,
            limits: LimitMetrics::new(&made)?,
            costs_unread: made.counters(
                "tollgate_costs_unread_total",
                "Answers whose header of the cost was no cost.",
                &["route"],
            )?,
            idempotency: made.closed(
                "tollgate_idempotency_total",
                "Keyed requests, by how their key was treated.",
                &KEY_OUTCOMES,
            )?,
            settled: made.closed(
                "tollgate_idempotency_settled_total",
                "Keys that were dispatched, by what became of them.",
                &SETTLED,
            )?,
            packs: PackMetrics::new(&made)?,
            rollouts: RolloutMetrics::new(&made)?,
            protection: ProtectionMetrics::new(&made)?,
            expired: made.counters(
                "tollgate_webhook_expired_total",
                "Deliveries that went by age and were neither delivered nor given up, by what state they were in.",
                &["tenant", "state"],
            )?,
            in_flight: made.gauge("tollgate_in_flight", "Exchanges in progress.")?,
            config_revision: made.gauges("tollgate_config_revision", revision, &["state"])?,
            degraded: Store::ALL.map(|store| degraded.with_label_values(&[store.as_str()])),
            records: RecordMetrics {
                dropped: made.counter(
                    "tollgate_records_dropped_total",
                    "Decision records for which there was no room.",
                )?,
                buffered: made.gauge(
                    "tollgate_records_buffered",
                    "Decision records that wait to be written.",
                )?,
                degraded: degraded.with_label_values(&[Store::Records.as_str()]),
            },
            tenants: RwLock::new(HashSet::new()),
            registry: made.0,
        })
    }

    /// The metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut buffer = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut buffer) {
            Ok(()) => String::from_utf8_lossy(&buffer).into_owned(),
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                String::new()
            }
        }
    }

    /// An exchange began.
    pub fn began(&self) {
        self.in_flight.inc();
    }

    /// Exchanges in progress.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Shows where a revision stands.
    pub fn revision(&self, state: RevisionState, number: u64) {
        let label = match state {
            RevisionState::Active => "active",
            RevisionState::Rejected => "rejected",
        };
        self.config_revision
            .with_label_values(&[label])
            .set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Shows whether a store answered.
    pub fn degraded(&self, store: Store, degraded: bool) {
        if let Some(gauge) = self.degraded.get(store as usize) {
            gauge.set(i64::from(degraded));
        }
    }

    /// An answer's header of the cost was no cost.
    pub fn cost_unread(&self, route: &RouteId) {
        self.costs_unread.with_label_values(&[route.as_str()]).inc();
    }

    /// What became of a key, where the store said so after its exchange: one of [`SETTLED`].
    pub fn settled(&self, outcome: &'static str) {
        self.settled.with_label_values(&[outcome]).inc();
    }

    /// Shows where the counters of limits stand, and what they did where they are shared. Called once.
    pub fn counters(&self, quotas: &Quotas, runtime: &Handle) -> Result<(), prometheus::Error> {
        if let Some(counts) = quotas.counts() {
            self.registry.register(Box::new(SharedCounters::new(counts)?))?;
        }
        if let Some(degraded) = self.degraded.get(Store::Counters as usize) {
            runtime.spawn(limits::show(quotas.standing(), degraded.clone()));
        }
        Ok(())
    }

    /// Deliveries of webhooks went by age that were neither delivered nor given up.
    pub fn expired(&self, tenant: &TenantId, state: DeliveryState, deliveries: u64) {
        let labels = [self.tenant_label(tenant.as_str()), state.as_str()];
        self.expired.with_label_values(&labels).inc_by(deliveries);
    }

    /// What there is to say of decision records as a whole.
    pub fn records(&self) -> &RecordMetrics {
        &self.records
    }

    /// The counters of a version of a pack in this part.
    pub fn pack(&self, pack: &PackId, version: &Arc<str>, part: Part) -> Arc<Series> {
        self.packs.series(pack, version, part)
    }

    /// The metrics of adaptive protection.
    pub fn protection(&self) -> &ProtectionMetrics {
        &self.protection
    }

    /// How many backoffs of this upstream last.
    pub fn backoffs(&self, upstream: &UpstreamId) -> BackoffGauge {
        self.outbound.gauge(upstream)
    }

    /// The metrics of rollouts.
    pub fn rollouts(&self) -> &RolloutMetrics {
        &self.rollouts
    }

    /// Observes an exchange that ended; gives the counter that it belongs to.
    fn observe(&self, facts: &Facts, took: Duration) -> IntCounter {
        self.duration.observe(took.as_secs_f64());
        for ended in &facts.stages {
            if let Some(histogram) = self.stages.get(ended.stage as usize) {
                histogram.observe(ended.took.as_secs_f64());
            }
        }
        let class = match facts.status.unwrap_or(0) / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "none",
        };
        if let Some(upstream) = &facts.upstream {
            self.upstream
                .with_label_values(&[upstream.id.as_str()])
                .observe(upstream.took.as_secs_f64());
        }
        if let Some((upstream, by)) = &facts.limited {
            self.outbound.limited(upstream, *by);
        }
        if let Some(outcome) = facts.key_outcome() {
            self.idempotency.with_label_values(&[outcome]).inc();
        }
        if let Some(settled) = facts.settled {
            self.settled(settled);
        }
        self.limits.decided(&facts.readings);
        facts.packs.iter().for_each(|pack| self.packs.observe(pack));
        let tenant = facts.tenant.as_ref().map_or("", |tenant| tenant.as_str());
        self.requests.with_label_values(&[
            facts.route.as_ref().map_or("", |route| route.as_str()),
            self.tenant_label(tenant),
            facts.version.as_ref().map_or("", |version| version.as_str()),
            class,
            facts.error.map_or("", |code| code.as_str()),
        ])
    }

    /// The tenant's own label while there is room for it.
    fn tenant_label<'a>(&self, tenant: &'a str) -> &'a str {
        if tenant.is_empty() || self.tenants.read().is_ok_and(|known| known.contains(tenant)) {
            return tenant;
        }
        match self.tenants.write() {
            Ok(mut known) if known.len() < TENANT_SERIES_MAX => {
                known.insert(tenant.to_owned());
                tenant
            }
            _ => OTHER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_by_age_is_counted_by_tenant_as_long_as_there_is_room() {
        let metrics = Metrics::new("test").unwrap();
        for tenant in 0..TENANT_SERIES_MAX + 2 {
            let tenant = TenantId::from(format!("t{tenant}").as_str());
            metrics.expired(&tenant, DeliveryState::Parked, 2);
            metrics.expired(&tenant, DeliveryState::Dead, 1);
        }
        let text = metrics.text();
        for (tenant, state, count) in
            [("t0", "parked", 2), ("t0", "dead", 1), ("other", "parked", 4), ("other", "dead", 2)]
        {
            let line = format!(
                r#"tollgate_webhook_expired_total{{state="{state}",tenant="{tenant}"}} {count}"#
            );
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
