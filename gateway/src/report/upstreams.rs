//! What is counted of upstreams: what they were not sent, and the backoffs that they asked for.

use super::{Made, Maker};
use crate::outbound::Limited;
use model::id::UpstreamId;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

/// The metrics of what upstreams may be sent.
pub(super) struct OutboundMetrics {
    limited: IntCounterVec,
    backoffs: IntGaugeVec,
}

/// How many backoffs of one upstream last.
pub struct BackoffGauge(IntGauge);

impl OutboundMetrics {
    pub(super) fn new(made: &Maker) -> Made<Self> {
        Ok(Self {
            limited: made.counters(
                "tollgate_upstream_limited_total",
                "Requests that an upstream was not sent, by what held them back: its rate or concurrency, a backoff that it \
                 asked for, or the store of counters.",
                &["upstream", "reason"],
            )?,
            backoffs: made.gauges(
                "tollgate_upstream_backoffs",
                "Backoffs in force that an upstream asked for: one for each tenant, or one for everybody.",
                &["upstream"],
            )?,
        })
    }

    pub(super) fn limited(&self, upstream: &UpstreamId, by: Limited) {
        self.limited.with_label_values(&[upstream.as_str(), by.as_str()]).inc();
    }

    pub(super) fn gauge(&self, upstream: &UpstreamId) -> BackoffGauge {
        BackoffGauge(self.backoffs.with_label_values(&[upstream.as_str()]))
    }
}

impl BackoffGauge {
    /// Shows that there are so many.
    pub fn show(&self, count: usize) {
        self.0.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
