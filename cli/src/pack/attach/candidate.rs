//! How a candidate comes into service, as flags say it.

use super::named;
use clap::Args;
use model::document::By;
use model::units::Duration;
use serde_json::{Map, Value, json};

/// How long a candidate is judged when nobody says.
const WINDOW: &str = "10m";
/// How many exchanges it must have decided when nobody says.
const MIN_SAMPLES: u64 = 200;

/// How a candidate comes into service.
#[derive(Args)]
#[command(next_help_heading = "A candidate")]
pub(super) struct Candidate {
    /// It decides beside the running version, on this share of the exchanges (all of them when no share is said), and does
    /// not act.
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100")]
    observe: Option<f64>,
    /// Its decisions act on this share of the exchanges.
    #[arg(long, value_name = "PERCENT", conflicts_with = "observe")]
    canary: Option<f64>,
    /// By what the share is taken: request, consumer, tenant.
    #[arg(long, default_value = "consumer", value_parser = named::<By>)]
    by: By,
    /// Over how long it is judged.
    #[arg(long, default_value = WINDOW)]
    window: Duration,
    /// How many exchanges it must have decided before it is judged.
    #[arg(long, default_value_t = MIN_SAMPLES)]
    min_samples: u64,
    /// Rolled back when more than this share of its calls fails (0 to 1).
    #[arg(long, value_name = "RATE")]
    fault_rate: Option<f64>,
    /// Rolled back when 1 % of its calls takes longer.
    #[arg(long, value_name = "DURATION")]
    p99: Option<Duration>,
    /// Rolled back when more than this share of its decisions differs from the running version's (0 to 1).
    #[arg(long, value_name = "RATE")]
    difference_rate: Option<f64>,
    /// Promotes it by itself when a window ends with nothing against it.
    #[arg(long)]
    promote: bool,
}

impl Candidate {
    pub(super) fn is_wanted(&self) -> bool {
        self.observe.is_some() || self.canary.is_some()
    }

    pub(super) fn is_judged(&self) -> bool {
        self.fault_rate.is_some()
            || self.p99.is_some()
            || self.difference_rate.is_some()
            || self.promote
    }

    pub(super) fn rollout(&self, candidate: &str) -> Option<Value> {
        let (mode, percent) = match (self.observe, self.canary) {
            (Some(percent), _) => ("observe", percent),
            (None, Some(percent)) => ("canary", percent),
            (None, None) => return None,
        };
        let mut rollout = json!({
            "candidate": candidate, "mode": mode, "percent": percent, "by": self.by,
            "window": self.window, "min_samples": self.min_samples,
        });
        let limits = json!({
            "fault_rate": self.fault_rate, "p99": self.p99, "difference_rate": self.difference_rate,
        });
        let limits: Map<String, Value> = limits
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, limit)| !limit.is_null())
            .map(|(name, limit)| (name.clone(), limit.clone()))
            .collect();
        if let Some(fields) = rollout.as_object_mut() {
            if !limits.is_empty() {
                fields.insert("rollback_on".to_owned(), limits.into());
            }
            if self.promote {
                fields.insert("on_pass".to_owned(), "promote".into());
            }
        }
        Some(rollout)
    }
}
