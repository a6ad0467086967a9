//! Metrics of adaptive protection.

use super::{Made, Maker};
use model::quota::Turn;
use prometheus::{IntCounter, IntGauge};

/// What there is to say of tenants that are slowed.
#[derive(Clone)]
pub struct ProtectionMetrics {
    slowed: IntGauge,
    began: IntCounter,
    ended: IntCounter,
    refused: IntCounter,
}

impl ProtectionMetrics {
    pub(super) fn new(made: &Maker) -> Made<Self> {
        let turns = made.counters(
            "tollgate_adaptive_turns_total",
            "Tenants that began to be slowed, or no longer are.",
            &["turn"],
        )?;
        Ok(Self {
            slowed: made
                .gauge("tollgate_adaptive_slowed", "Tenants that this node slows just now.")?,
            began: turns.with_label_values(&["slowed"]),
            ended: turns.with_label_values(&["normal"]),
            refused: made.counter(
                "tollgate_adaptive_refused_total",
                "Requests of slowed tenants that were refused for that.",
            )?,
        })
    }

    /// A tenant is treated otherwise from now on.
    pub fn turned(&self, turn: Turn) {
        match turn {
            Turn::Slowed(_) => {
                self.slowed.inc();
                self.began.inc();
            }
            Turn::Normal(_) => {
                self.slowed.dec();
                self.ended.inc();
            }
        }
    }

    /// A request was refused.
    pub fn refused(&self) {
        self.refused.inc();
    }
}
