//! How a process sends webhooks: what does not belong to any one endpoint of the document.

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use model::units::Duration;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time;

/// How long events may be kept after they were accepted.
const RETENTION: RangeInclusive<Duration> = hours(24)..=hours(87_600);

/// The settings of webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Webhooks {
    /// Private networks that endpoints may be in, plain `http` included. None, unless somebody says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow_private: Vec<IpNet>,
    /// How long events, their deliveries and attempts are kept.
    pub(crate) retention: Duration,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { allow_private: Vec::new(), retention: hours(30 * 24) }
    }
}

impl Webhooks {
    /// What no single value shows.
    pub(super) fn judge(&self) -> anyhow::Result<()> {
        if !RETENTION.contains(&self.retention) {
            bail!("`webhooks.retention` is not between 24h and 87600h");
        }
        Ok(())
    }
}

/// Networks as the environment writes them: separated by commas.
pub(super) fn networks(text: &str) -> anyhow::Result<Vec<IpNet>> {
    let listed = text.split(',').map(str::trim).filter(|network| !network.is_empty());
    listed
        .map(|network| {
            let parsed = network.parse();
            parsed.with_context(|| format!("`{network}` is not a network like `127.0.0.0/8`"))
        })
        .collect()
}

const fn hours(n: u64) -> Duration {
    Duration(time::Duration::from_secs(n * 3_600))
}
