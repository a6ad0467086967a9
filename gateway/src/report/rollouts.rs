//! What is counted of rollouts, quarantines and packs' own counters: what no single exchange tells.

use super::{Made, Maker, OTHER};
use model::id::PackId;
use model::rollout::RolloutState;
use pack_host::Counters;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Series of packs' own counters; the rest is summed under [`OTHER`].
const COUNTER_SERIES_MAX: usize = 1_000;

/// The metrics of rollouts. Clones count together.
#[derive(Clone)]
pub struct RolloutMetrics {
    differences: IntCounterVec,
    dropped: IntCounter,
    open: IntGauge,
    ended: IntCounterVec,
    quarantines: IntCounterVec,
    stopped: IntGauge,
    counters: IntCounterVec,
    counted: Arc<Mutex<HashMap<(PackId, String), u64>>>,
}

impl RolloutMetrics {
    pub(super) fn new(made: &Maker) -> Made<Self> {
        Ok(Self {
            differences: made.counters(
                "tollgate_pack_differences_total",
                "Exchanges on which two versions of a pack decided differently.",
                &["pack"],
            )?,
            dropped: made.counter(
                "tollgate_pack_differences_dropped_total",
                "Differences that were counted and not kept.",
            )?,
            open: made.gauge("tollgate_pack_rollouts_open", "Rollouts in progress.")?,
            ended: made.counters(
                "tollgate_pack_rollouts_ended_total",
                "Rollouts that this node brought to an end by itself.",
                &["outcome"],
            )?,
            quarantines: made.counters(
                "tollgate_pack_quarantines_total",
                "Versions of a pack that this node stopped.",
                &["pack"],
            )?,
            stopped: made.gauge(
                "tollgate_packs_stopped",
                "Versions that this node stopped and that the revision in force still lets decide.",
            )?,
            counters: made.counters(
                "tollgate_pack_counter_total",
                "What packs count, all tenants together.",
                &["pack", "name"],
            )?,
            counted: Arc::default(),
        })
    }

    /// Two versions of this pack decided differently.
    pub fn differed(&self, pack: &str) {
        self.differences.with_label_values(&[pack]).inc();
    }

    /// A difference was not kept.
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// So many rollouts are in progress.
    pub fn open(&self, rollouts: usize) {
        self.open.set(i64::try_from(rollouts).unwrap_or(i64::MAX));
    }

    /// This node ended a rollout.
    pub fn ended(&self, state: RolloutState) {
        self.ended.with_label_values(&[state.as_str()]).inc();
    }

    /// This node stopped a version of this pack.
    pub fn quarantined(&self, pack: &str) {
        self.quarantines.with_label_values(&[pack]).inc();
    }

    /// So many versions are stopped here and not in the document.
    pub fn stopped(&self, versions: usize) {
        self.stopped.set(i64::try_from(versions).unwrap_or(i64::MAX));
    }

    /// What packs count by now. A tenant that is gone takes nothing back.
    pub fn counted(&self, sets: &[(PackId, Arc<Counters>)]) {
        let mut sums: BTreeMap<(&PackId, &str), u64> = BTreeMap::new();
        for (pack, counters) in sets {
            for (name, value) in counters.iter() {
                let sum = sums.entry((pack, name)).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others: BTreeMap<&PackId, u64> = BTreeMap::new();
        for ((pack, name), sum) in sums {
            let key = (pack.clone(), name.to_owned());
            let has_room = counted.len() < COUNTER_SERIES_MAX || counted.contains_key(&key);
            if has_room && name != OTHER {
                self.raise(&mut counted, key, sum);
            } else {
                let other = others.entry(pack).or_default();
                *other = other.saturating_add(sum);
            }
        }
        for (pack, sum) in others {
            // One more for each pack, whatever the bound.
            self.raise(&mut counted, (pack.clone(), OTHER.to_owned()), sum);
        }
    }

    fn raise(&self, counted: &mut HashMap<(PackId, String), u64>, key: (PackId, String), sum: u64) {
        let counter = self.counters.with_label_values(&[key.0.as_str(), key.1.as_str()]);
        let before = counted.insert(key, sum).unwrap_or_default();
        counter.inc_by(sum.saturating_sub(before));
    }
}
