//! What a call is given beside the exchange: how much it may use, and what its capabilities reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use model::document::PackCaps;

use crate::counters::Counters;

/// What one call is given.
#[derive(Clone, Copy, Debug)]
pub struct Grants<'a> {
    /// What it may use at most, whatever the attachment says.
    pub caps: Caps,
    /// The operators' data for the pack: one state of it for all phases of an exchange.
    pub data: &'a Arc<PackData>,
    /// The counters of the pack for the caller's tenant.
    pub counters: Counting<'a>,
    /// How much the attachment may log.
    pub log: &'a Arc<LogGate>,
}

/// The most that one call may use for a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Fuel.
    pub fuel: u64,
    /// Wall time.
    pub deadline: Duration,
    /// Linear memory in bytes.
    pub memory: usize,
    /// Bytes handed to the host.
    pub output: usize,
    /// Calls of the host.
    pub host_calls: u32,
}

impl Default for Caps {
    /// No cap but those of [`crate::Limits`].
    fn default() -> Self {
        Self {
            fuel: u64::MAX,
            deadline: Duration::MAX,
            memory: usize::MAX,
            output: usize::MAX,
            host_calls: u32::MAX,
        }
    }
}

impl From<&PackCaps> for Caps {
    fn from(caps: &PackCaps) -> Self {
        Self {
            fuel: caps.fuel,
            deadline: caps.deadline.0,
            memory: caps.memory.bytes(),
            output: caps.output.bytes(),
            host_calls: caps.host_calls,
        }
    }
}

/// How a call counts.
#[derive(Clone, Copy, Debug)]
pub enum Counting<'a> {
    /// What it adds stays.
    Acting(&'a Arc<Counters>),
    /// It is told what would be, and changes nothing.
    Observing(&'a Arc<Counters>),
}

/// One state of the read-only data that operators keep for a pack.
#[derive(Debug, Default)]
pub struct PackData {
    values: std::collections::HashMap<String, Bytes>,
}

impl PackData {
    /// The value of this key.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.values.get(key)
    }
}

impl FromIterator<(String, Bytes)> for PackData {
    fn from_iter<T: IntoIterator<Item = (String, Bytes)>>(values: T) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

/// Lines that an attachment may log at one time.
const LOG_BURST: i64 = 100;
/// How long it takes until it may log one more, in microseconds: 20 lines a second.
const LOG_INTERVAL: i64 = 50_000;

/// How much one attachment may log, all its calls together: 20 lines a second, 100 at one time. Others are counted and left
/// out.
#[derive(Debug, Default)]
pub struct LogGate {
    /// When everything that was let through will have been paid for: microseconds since the epoch.
    paid: AtomicI64,
    left_out: AtomicU64,
    dropped: AtomicU64,
}

impl LogGate {
    /// Lines that were left out since it exists.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether a line may pass now; if so, how many were left out before it.
    pub(crate) fn pass(&self, now: Timestamp) -> Option<u64> {
        let now = now.as_microsecond();
        let passed = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
            // A clock that was set back must not silence the pack.
            let paid = if paid > now.saturating_add(LOG_BURST * LOG_INTERVAL) { now } else { paid };
            let paid = paid.max(now).saturating_add(LOG_INTERVAL);
            (paid <= now.saturating_add(LOG_BURST * LOG_INTERVAL)).then_some(paid)
        });
        if passed.is_ok() {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        None
    }
}
